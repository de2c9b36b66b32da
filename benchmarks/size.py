"""Counts lines as the house is built: each floor of the core, the plug-in, the tests.

    python benchmarks/size.py

A line of code carries a token of code. A line of text carries none, but a docstring or a comment. Blank lines
count as neither. A statement counts once, over however many lines the formatter lays it. The floors are the
linter's layers in pyproject.toml, as in the README's table. There are no limits: growth is to be seen, and a
room is divided where a reader would divide it.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import floors  # noqa: E402

CORE = ROOT / "tinygpt_core"
PLUGIN = ROOT / "tinygpt_accel"
# The engine ends with the floor of Modules: what is above it is made of them.
ENGINE_ENDS_WITH = "module"
OTHER_LANGUAGES = {".cu", ".cuh", ".js", ".css", ".html"}
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


class Size(NamedTuple):
    """Lines of code, lines of docstrings and comments, and statements (of Python)."""

    code: int
    text: int
    statements: int


def of_python(source: str) -> Size:
    """Returns the size of a Python file's source."""
    code: set[int] = set()
    text: set[int] = set()
    statements = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text.add(token.start[0])
        elif token.type not in NO_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
        statements += token.type == tokenize.NEWLINE
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines = range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1)
            code.difference_update(lines)
            text.update(lines)
            statements -= 1
    blank = {number for number, line in enumerate(source.splitlines(), 1) if not line.strip()}
    return Size(len(code), len(text - code - blank), statements)


def of_another_language(source: str) -> Size:
    """Returns the size of a C++, JavaScript, CSS or HTML source, where comments begin their lines."""
    code = 0
    text = 0
    in_comment = False
    for line in filter(None, map(str.strip, source.splitlines())):
        in_comment = in_comment or line.startswith(("/*", "<!--"))
        if in_comment or line.startswith("//"):
            text += 1
        else:
            code += 1
        if line.endswith(("*/", "-->")):
            in_comment = False
    return Size(code, text, 0)


def size(files: Iterable[Path]) -> Size:
    """Returns the size of files together."""
    total = Size(0, 0, 0)
    for path in files:
        source = path.read_text(encoding="utf-8")
        one = of_python(source) if path.suffix == ".py" else of_another_language(source)
        total = Size(*map(sum, zip(total, one, strict=True)))
    return total


def _python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def _other_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in OTHER_LANGUAGES)


def core() -> list[tuple[str, list[Path]]]:
    """Returns the rows of the core: what is counted, and the files."""
    rooms = [room for room in floors.rooms() if room.path.exists()]
    rows = []
    for number in sorted({room.floor for room in rooms}):
        here = [room for room in rooms if room.floor == number]
        names = ", ".join(room.name for room in here)
        rows.append((f"{number} {names}", [path for room in here for path in room.files()]))
    return [*rows, ("the package's `__init__`", [CORE / "__init__.py"])]


def engine() -> list[Path]:
    """Returns the files of the floors up to that of Modules."""
    top = next(room.floor for room in floors.rooms() if room.name == ENGINE_ENDS_WITH)
    rooms = [room for room in floors.rooms() if room.floor <= top and room.path.exists()]
    return [path for room in rooms for path in room.files()]


def plugin() -> list[tuple[str, list[Path]]]:
    """Returns the rows of the plug-in: its folders, and what they share."""
    folders = sorted(path.parent for path in PLUGIN.glob("*/__init__.py"))
    rows = [(folder.name, _python_files(folder)) for folder in folders]
    return [("shared", sorted(PLUGIN.glob("*.py"))), *rows]


def tests() -> list[tuple[str, list[Path]]]:
    """Returns the rows of the tests: the specification, and the others."""
    specification = _python_files(ROOT / "tests" / "spec")
    others = [path for path in _python_files(ROOT / "tests") if path not in specification]
    return [("the specification", specification), ("other tests", others)]


def report() -> str:
    """Returns the table, in Markdown."""
    lines = ["| what | lines of code | of docstrings and comments | statements |", "|---|---|---|---|"]

    def add(what: str, files: Iterable[Path]) -> None:
        counted = size(files)
        statements = f"{counted.statements:,}" if counted.statements else ""
        lines.append(f"| {what} | {counted.code:,} | {counted.text:,} | {statements} |")

    for what, files in core():
        add(what, files)
    add("**the engine**, up to Modules", engine())
    add("**the core**", _python_files(CORE))
    add("the microscope's page, in HTML, CSS and JavaScript", _other_files(CORE))
    for what, files in plugin():
        add(f"plug-in: {what}", files)
    add("**the plug-in**", _python_files(PLUGIN))
    add("its kernels in CUDA C++", _other_files(PLUGIN))
    for what, files in tests():
        add(f"tests: {what}", files)
    add("**the tests**", _python_files(ROOT / "tests"))
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())
