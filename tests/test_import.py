"""The core needs nothing: it imports under `python -S`, from the standard library alone, and every public
thing says what it is.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "tinygpt_core").rglob("*.py"))


def run(code: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_outside_the_standard_library_is_imported() -> None:
    modules = (
        "import tinygpt_core, tinygpt_core.cli, tinygpt_core.training, tinygpt_core.generation, "
        "tinygpt_core.mlops, tinygpt_core.utils, "
        "tinygpt_core.formats, tinygpt_core.cli_convert"
    )
    loaded = run(
        f"{modules}; import sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))", "-S"
    ).split()
    assert set(loaded) - set(sys.stdlib_module_names) <= {"tinygpt_core", "__main__"}


def test_listing_backends_imports_no_array_library() -> None:
    code = (
        "import tinygpt_core, sys; print([s.name for s in tinygpt_core.backends.available()], "
        "'numpy' in sys.modules)"
    )
    listed = run(code)
    assert "'python'" in listed and listed.strip().endswith("False")


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_public_things_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    missing = [] if ast.get_docstring(tree) or path.name == "__main__.py" else ["the module"]
    for node in tree.body:
        if (
            isinstance(node, (ast.FunctionDef, ast.ClassDef))
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ):
            missing.append(node.name)
    assert not missing, f"without a docstring: {', '.join(missing)}"


@pytest.mark.parametrize("version", [(3, 8, 10), (3, 10, 14)])
def test_an_older_python_is_told_which_it_needs(version: tuple[int, ...]) -> None:
    """In one line, before anything that it cannot read; after `python -m` it is the command's error."""
    source = (ROOT / "tinygpt_core" / "__init__.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=version[:2])
    code = f"import sys; sys.version_info = (*{version}, 'final', 0); sys.argv[:] = {{}}; import tinygpt_core"
    for argv, status in ((["script.py"], "ImportError: "), (["-m"], "tinygpt: error: ")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(argv)], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        last = done.stderr.strip().splitlines()[-1]
        found = ".".join(map(str, version))
        assert (
            done.returncode == 1
            and last == f"{status}tinygpt needs Python 3.11 or newer, but this is {found}"
        )
