"""The subcommand `tinygpt exercise`: an exercise of the book, from a skeleton to the law that it must keep.

The book's solutions, docs/exercises/*.py, are where everything comes from. What stands between the comment
"# 2.3 …" and the next one belongs to exercise 2.3: functions and classes are what the reader writes, and
test_2_3_… is the law. A comment "# Hint: …" is shown when the law does not hold. What a line "# Given"
stands above is handed to the reader as it is.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ..files.atomic import atomic_write
from .messages import FAILED, UsageError, command_name

DOCS = Path(__file__).resolve().parents[2] / "docs"  # of a clone
Definition = ast.FunctionDef | ast.ClassDef


class Exercise(NamedTuple):
    """One exercise, as the book has it.

    Attributes:
        number: such as "2.3".
        text: what the chapter asks, from its name in brackets on.
        path: the file with the solution.
    """

    number: str
    text: str
    path: Path

    @property
    def title(self) -> str:
        """Its name and marks: one star takes a few lines, two some thought, three an evening."""
        return self.text[1 : self.text.index(")")] if self.text.startswith("(") else self.text

    @property
    def file(self) -> str:
        """Where the reader writes."""
        return f"exercise_{self.number.replace('.', '_')}.py"


class Solution:
    """What a file of solutions has for one exercise.

    Args:
        exercise: whose file is read.

    Raises:
        RuntimeError: the file has no such exercise.
    """

    def __init__(self, exercise: Exercise) -> None:
        self.number = exercise.number
        self.source = exercise.path.read_text(encoding="utf-8")
        self.lines = self.source.splitlines()
        self.body = ast.parse(self.source).body
        starts = [i for i, line in enumerate(self.lines, 1) if re.match(r"# \d+\.\d+ ", line)]
        mine = [i for i in starts if self.lines[i - 1].startswith(f"# {self.number} ")]
        if not mine:
            raise RuntimeError(f"{exercise.path} has no solution of {self.number}")
        self.first = mine[0]
        self.last = min((i - 1 for i in starts if i > self.first), default=len(self.lines))
        inside = [node for node in self.body if self._is_mine(node)]
        definitions = [node for node in inside if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        laws = [node.name for node in definitions if node.name.startswith("test_")]
        self.law = laws[0]
        self.asked = [node for node in definitions if node.name not in laws and not self._is_given(node)]

    def _is_mine(self, node: ast.stmt) -> bool:
        return self.first <= node.lineno <= self.last

    def _is_given(self, node: ast.stmt) -> bool:
        return self.lines[_first_line(node) - 2].startswith("# Given")

    def text_of(self, node: ast.stmt) -> str:
        """The source of a statement, with its decorators."""
        return "\n".join(self.lines[_first_line(node) - 1 : node.end_lineno])

    def hint(self) -> str:
        """What helps on."""
        text = "\n".join(self.lines[self.first - 1 : self.last])
        found = re.search(r"^# Hint: (.*(?:\n# (?!\d).*)*)", text, re.MULTILINE)
        return " ".join(found[1].replace("\n# ", " ").split()) if found else "read the chapter once more"

    def whole(self) -> str:
        """The solution with its explanation, without the law."""
        law = next(node for node in self.body if isinstance(node, ast.FunctionDef) and node.name == self.law)
        kept = self.lines[self.first - 1 : _first_line(law) - 1] + self.lines[law.end_lineno : self.last]
        text = "\n".join(line for line in kept if not line.startswith("# Given")).strip() + "\n"
        return re.sub(r"^#\n# Hint: .*\n(?:# .*\n)*", "", text, flags=re.MULTILINE)

    def given(self) -> list[ast.stmt]:
        """What the skeleton hands over: whatever the solution needs that the reader is not asked for."""
        asked = {node.name for node in self.asked}
        known = {name: node for node in self.body for name in _names(node) if name not in asked}
        needed = {node for node in self.body if self._is_mine(node) and self._is_given(node)}
        todo: list[ast.AST] = [*self.asked, *needed]
        while todo:
            for part in ast.walk(todo.pop()):
                node = known.get(part.id) if isinstance(part, ast.Name) else None
                if node is not None and node not in needed:
                    needed.add(node)
                    todo.append(node)
        return [node for node in self.body if node in needed]


def _first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])


def _names(node: ast.stmt) -> Iterator[str]:
    """What a statement at top level defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        for alias in node.names:
            yield (alias.asname or alias.name).split(".")[0]
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))


def exercises(docs: Path | None = None) -> dict[str, Exercise]:
    """Returns the exercises of the book by number, in its order.

    Args:
        docs: the folder of the book; default: that beside this package, or where the package is installed
            without it, that of the clone in which the command runs.

    Raises:
        UsageError: the book is not there.
    """
    if docs is None:
        docs = DOCS if (DOCS / "exercises").is_dir() else Path("docs")
    found = {}
    for chapter in sorted(docs.glob("[0-9][0-9]-*.md")):
        path = docs / "exercises" / f"{chapter.stem[3:].replace('-', '_')}.py"
        text = chapter.read_text(encoding="utf-8")
        for number, asked in re.findall(r"^\*\*Exercise (\d+\.\d+) (.*?)(?=\n\n|\Z)", text, re.M | re.S):
            found[number] = Exercise(number, " ".join(asked.replace("**", "", 1).split()), path)
    if not found:
        raise UsageError(
            "the exercises are part of the book, which an installed package does not have: get a clone of "
            "the repository, and run this command in it"
        )
    return found


def skeleton(exercise: Exercise) -> str:
    """Returns the file in which the reader writes: what is asked, what is given, and what is missing."""
    solution = Solution(exercise)
    command = f"{command_name()} exercise {exercise.number}"
    text = textwrap.fill(exercise.text.replace('"""', "'''").replace("\\", "\\\\"), 100)
    parts = [
        f'"""Exercise {exercise.number} {text}\n\nWrite what raises NotImplementedError, then: {command}'
        f' --check\nFor help: {command} --hint, and at last {command} --solution\n"""'
    ]
    given = solution.given()
    imports = [node for node in given if isinstance(node, (ast.Import, ast.ImportFrom))]
    if imports:
        parts.append("\n".join(map(solution.text_of, imports)))
    parts += [solution.text_of(node) for node in given if node not in imports]
    parts += [_emptied(solution, node) for node in solution.asked]
    return "\n\n\n".join(parts) + "\n"


def _emptied(solution: Solution, node: Definition) -> str:
    """A definition with its bodies left out."""
    lines = []
    at = _first_line(node)
    functions = [each for each in ast.walk(node) if isinstance(each, ast.FunctionDef)]
    own = [node] if isinstance(node, ast.FunctionDef) else functions
    for each in own:
        first = each.body[0]
        documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        start = first.end_lineno if documented and first.end_lineno else first.lineno - 1
        lines += solution.lines[at - 1 : start]
        if start < each.lineno:  # the body stands beside the def
            lines[-1] = lines[-1][: first.col_offset].rstrip()
        lines.append(" " * (each.col_offset + 4) + "raise NotImplementedError")
        at = (each.end_lineno or start) + 1
    lines += solution.lines[at - 1 : node.end_lineno]
    return "\n".join(lines)


class _FreshLoader(SourceFileLoader):
    """Reads a file anew each time: a compiled copy serves any file of the same size and second of change, and
    two attempts at an exercise can agree in both.
    """

    def path_stats(self, path: Any) -> Any:
        raise OSError("nothing compiled is kept")


def _load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, loader=_FreshLoader(name, str(path)))
    assert spec is not None and spec.loader is not None  # as there is a loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(exercise: Exercise, path: Path) -> str:
    """Runs the law on what the reader wrote; returns what is wrong, or "".

    Raises:
        UsageError: there is no such file, it does not define what is asked, or it cannot be run.
        RuntimeError: the law needs what is not installed.
    """
    from unittest import SkipTest  # here, because only a check needs it

    if not path.is_file():
        raise UsageError(f"there is no {path}: `{command_name()} exercise {exercise.number}` writes it")
    solution = Solution(exercise)
    try:
        laws = _load(exercise.path, "tinygpt_exercise_laws")
    except ImportError as problem:
        raise RuntimeError(f"the exercises of this chapter need {problem.name}") from None
    try:
        written = _load(path, "tinygpt_exercise")
    except Exception as problem:
        raise UsageError(f"{path} cannot be run: {type(problem).__name__}: {problem}") from None
    for node in solution.asked:
        if not hasattr(written, node.name):
            raise UsageError(f"{path} defines no {node.name}")
        setattr(laws, node.name, getattr(written, node.name))
    try:
        getattr(laws, solution.law)()
    except NotImplementedError:
        return f"something in {path} still raises NotImplementedError"
    except SkipTest as reason:
        raise RuntimeError(str(reason)) from None
    except Exception as problem:
        return _said(problem, path, exercise.path)
    return ""


def _statement_at(source: str, line: int) -> ast.stmt:
    """The innermost statement that stands on a line."""
    around = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or line)
    ]
    return max(around, key=lambda node: node.lineno)


def _values(names: Iterable[str], known: Mapping[str, Any]) -> str:
    """Those values behind names that can be read at a glance: not a function, a table or some object."""
    texts = {name: repr(known[name]) for name in names if name in known and not callable(known[name])}
    return ", ".join(
        f"{name} = {text}"
        for name, text in texts.items()
        if len(text) <= 60 and not re.search("\n| at 0x", text)
    )


def _said(problem: Exception, path: Path, laws: Path) -> str:
    """Where a law does not hold: the last statement of it, and of the reader's own file, that was running,
    and the values that an assertion was about.
    """
    lines = []
    for file, what in ((laws, "the law asks"), (path, "running then")):
        steps = [
            step
            for step in traceback.walk_tb(problem.__traceback__)
            if Path(step[0].f_code.co_filename) == file
        ]
        if not steps:
            continue
        frame, line = steps[-1]
        source = file.read_text(encoding="utf-8")
        node = _statement_at(source, line)
        first, last = (line, line) if hasattr(node, "body") else (node.lineno, node.end_lineno)
        text = " ".join(part.strip() for part in source.splitlines()[first - 1 : last])
        lines.append(f"{what}: {file.name}, line {first}: {text}")
        if isinstance(node, ast.Assert):
            names = [each.id for each in ast.walk(node.test) if isinstance(each, ast.Name)]
            if values := _values(dict.fromkeys(names), frame.f_locals):
                lines.append(f"where {values}")
    said = (
        "" if type(problem) is AssertionError and not str(problem) else f"{type(problem).__name__}: {problem}"
    )
    return "\n".join([*lines, *([said] if said else [])])


def add_command(commands: Any) -> None:
    """Adds `exercise` to the subcommands of a parser."""
    parser = commands.add_parser(
        "exercise",
        help="do an exercise of the book",
        allow_abbrev=False,
        description="Do an exercise of the book: write a skeleton into the current folder, and check what "
        "you have made of it. Without a number: list them all. One star takes a few lines, two some thought, "
        "three an evening.",
    )
    parser.set_defaults(command=run_exercise)
    parser.add_argument("number", nargs="?", metavar="N.M", help="such as 2.3 (default: list all)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="run the law, a test, on what you wrote")
    what.add_argument("--hint", action="store_true", help="show what helps on")
    what.add_argument("--solution", action="store_true", help="show the book's solution")
    parser.add_argument(
        "--file", metavar="FILE", help="where you write (default: exercise_N_M.py in the current folder)"
    )


def run_exercise(arguments: argparse.Namespace) -> int:
    """Runs `tinygpt exercise`; returns the exit code: 0, or 1 where a law does not hold.

    Raises:
        UsageError: no such exercise or file, or a skeleton that would overwrite something.
        RuntimeError: the law needs a package that is not installed.
    """
    known = exercises()
    if arguments.number is None:
        for number, exercise in known.items():
            print(f"{number:>5}  {exercise.title}")
        print(f"\nBegin one with: {command_name()} exercise {next(iter(known))}")
        return 0
    if arguments.number not in known:
        raise UsageError(f"there is no exercise {arguments.number}; `{command_name()} exercise` lists them")
    exercise = known[arguments.number]
    path = Path(arguments.file or exercise.file)
    if arguments.solution:
        print(Solution(exercise).whole(), end="")
    elif arguments.hint:
        print(Solution(exercise).hint())
    elif arguments.check:
        if wrong := check(exercise, path.resolve()):
            print(f"{exercise.number} does not hold yet.\n{wrong}\nHint: {Solution(exercise).hint()}")
            return FAILED
        print(f"{exercise.number} holds: {exercise.title}")
    else:
        if os.path.lexists(path):
            raise UsageError(
                f"{path} is there already: add --check to check it, or --file to write elsewhere"
            )
        atomic_write(path, skeleton(exercise).encode())
        print(f"Wrote {path}. When you are done: {command_name()} exercise {exercise.number} --check")
    sys.stdout.flush()
    return 0
