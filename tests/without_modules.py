"""The command `tinygpt` on a Python like that of a browser: without the modules that Pyodide lacks, without
the sources of the standard library, and where no thread and no process can be started.

    python3 -S tests/without_modules.py train names --data words.txt --steps 20

Continuous integration runs it, and so does tests/test_without_modules.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import threading
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

# https://pyodide.org/en/stable/usage/wasm-constraints.html, and what is a package of its own there
LACKING = {
    "curses", "dbm", "ensurepip", "fcntl", "grp", "idlelib", "lib2to3", "lzma", "_lzma", "multiprocessing",
    "_multiprocessing", "pwd", "pydoc_data", "readline", "resource", "sqlite3", "ssl", "_ssl", "syslog",
    "termios", "test", "tkinter", "tty", "turtle", "turtledemo", "venv",
}  # fmt: skip


class Lacking(MetaPathFinder):
    """Finds nothing of what a browser's Python lacks."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Raises ImportError where the module is lacking."""
        if fullname.partition(".")[0] in LACKING:
            raise ModuleNotFoundError(f"No module named {fullname!r} in a browser", name=fullname)


def refuse_thread(*_: Any, **__: Any) -> Any:
    """Raises what Pyodide raises where a thread is started."""
    raise RuntimeError("can't start new thread")


def refuse_process(*_: Any, **__: Any) -> Any:
    """Raises what Pyodide raises where a process is started."""
    raise OSError("emscripten does not support processes.")


def make_like_a_browser() -> None:
    """Takes away, from this process, what a browser's Python lacks."""
    for name in [name for name in sys.modules if name.partition(".")[0] in LACKING]:
        del sys.modules[name]
    sys.meta_path.insert(0, Lacking())
    threading.Thread.start = refuse_thread  # type: ignore[method-assign]
    subprocess.Popen.__init__ = os.fork = refuse_process  # type: ignore[method-assign]
    found = sysconfig.get_path

    def without_sources(name: str, *arguments: Any, **options: Any) -> str:
        return "/lib/python3.zip" if name == "stdlib" else found(name, *arguments, **options)

    sysconfig.get_path = without_sources  # type: ignore[assignment]


if __name__ == "__main__":
    make_like_a_browser()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tinygpt_core.cli.main import main

    sys.exit(main())
