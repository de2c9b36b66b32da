"""Which module imports which, by the sources alone: every import counts, also those for typing only, those
inside functions, and `importlib.import_module` of a text that stands there.

Importing a name from a package counts as importing the package's `__init__`, unless the name is one of its
modules. That importing `a.b` runs `a/__init__` first does not count: Python does that for every import alike.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

Graph = dict[str, set[str]]


class Import(NamedTuple):
    """One import of a module by another, and the line where it stands."""

    importer: str
    imported: str
    line: int


class Module(NamedTuple):
    """A source file under its full name."""

    name: str
    path: Path

    @property
    def package(self) -> str:
        """The package that its relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    def parsed(self) -> ast.Module:
        """Returns its syntax tree."""
        return _parsed(self.path)


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def modules_of(folder: Path) -> dict[str, Module]:
    """Returns the modules of the package in `folder` by their full names, which begin with the folder's."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        found[name] = Module(name, path)
    return found


def absolute(name: str, package: str) -> str:
    """Returns the full name of what may begin with dots, as `importlib.import_module` reads it."""
    rest = name.lstrip(".")
    dots = len(name) - len(rest)
    if dots == 0:
        return rest
    parts = package.split(".")
    kept = parts[: len(parts) - dots + 1]
    return ".".join([*kept, rest] if rest else kept)


def imports_by_call(tree: ast.Module) -> Iterator[ast.Call]:
    """Yields the calls of `importlib.import_module` and `__import__`, under whatever name."""
    importers = {"import_module", "__import__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.alias) and node.name in importers and node.asname:
            importers.add(node.asname)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            function = ast.unparse(node.func).rpartition(".")[2]
            if function in importers:
                yield node


def literal(call: ast.Call) -> str | None:
    """Returns the text that is a call's first argument; None where it is computed."""
    name = call.args[0]
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else None


def names_imported(module: Module, known: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yields the full name of each module that a module imports, with its line. Of `from a import b`, that is
    a.b where `known` has it, else a.
    """
    tree = module.parsed()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            origin = absolute("." * node.level + (node.module or ""), module.package)
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield (inner if inner in known else origin), node.lineno
    for call in imports_by_call(tree):
        name = literal(call)
        if name is not None:
            yield absolute(name, module.package), call.lineno


def imports(modules: Mapping[str, Module]) -> list[Import]:
    """Returns every import among modules, and those of modules of the same packages that are not there."""
    packages = {name.partition(".")[0] for name in modules}
    return [
        Import(module.name, imported, line)
        for module in modules.values()
        for imported, line in names_imported(module, modules)
        if imported.partition(".")[0] in packages
    ]


def graph(found: Iterable[Import]) -> Graph:
    """Returns what each module imports."""
    edges: Graph = {}
    for importer, imported, _ in found:
        edges.setdefault(importer, set()).add(imported)
        edges.setdefault(imported, set())
    return edges


def shortest_cycle(edges: Graph, start: str) -> list[str] | None:
    """Returns the shortest way from a module back to itself, both ends included; None where there is none."""
    came_from: dict[str, str] = {}
    waiting = deque([start])
    while waiting:
        module = waiting.popleft()
        for imported in sorted(edges[module]):
            if imported == start:
                way = [start, module]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if imported not in came_from:
                came_from[imported] = module
                waiting.append(imported)
    return None


def cycles(edges: Graph) -> list[list[str]]:
    """Returns cycles so that every module that is in any is in one of these: for each such module the
    shortest, each cycle once and beginning with its first name in the alphabet.
    """
    found: dict[tuple[str, ...], None] = {}
    for module in sorted(edges):
        cycle = shortest_cycle(edges, module)
        if cycle is not None:
            ring = cycle[:-1]
            first = ring.index(min(ring))
            found[*ring[first:], *ring[:first], ring[first]] = None
    return [list(cycle) for cycle in found]
