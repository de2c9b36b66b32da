"""The house is as its plan says: one table of floors, no import that goes in a circle or climbs, lines that
can be read.

    python tests/test_house.py            # prints the table of floors
    python tests/test_house.py --write    # and puts it into the README
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import floors
import pytest
from import_graph import (
    Graph,
    Import,
    Module,
    absolute,
    cycles,
    graph,
    imports,
    imports_by_call,
    literal,
    modules_of,
)

ROOT = floors.ROOT
README = ROOT / "README.md"
PACKAGES = ("tinygpt_core", "tinygpt_accel")
MODULES: dict[str, Module] = {
    name: module for package in PACKAGES for name, module in modules_of(ROOT / package).items()
}
IMPORTS = imports(MODULES)

# The imports that may go in a circle or climb, each with its reason.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("tinygpt_core.tensor", "tinygpt_core.explain"): (
        "`Tensor.explain()` shows a tensor in the microscope, which is imported when it is called"
    ),
    ("tinygpt_core.buffer.base", "tinygpt_core.array_api"): (
        "`Buffer.__array_namespace__()` is the standard's way to ask an array for its functions, when called"
    ),
}
COUNTED = [found for found in IMPORTS if (found.importer, found.imported) not in EXCEPTIONS]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# ---------------------------------------------------------------- one table of floors

_TABLE = re.compile(re.escape(floors.HEADER) + r"(?:\|.*\|\n)*")


def test_the_readme_has_the_table_of_the_linters_layers() -> None:
    assert _TABLE.findall(text_of(README)) == [floors.table()], "run: python tests/test_house.py --write"


def test_every_module_is_in_the_table_once() -> None:
    """By an independent look at the folders. `__init__` is the folder's own link."""
    targets = Counter(
        (ROOT / target).resolve()
        for target in re.findall(r"\]\(([^)]+)\)", _TABLE.findall(text_of(README))[0])
    )
    package = ROOT / "tinygpt_core"
    files = {path for path in package.rglob("*.py") if path.name != "__init__.py"}
    folders = {path.parent for path in package.rglob("__init__.py")} - {package}
    assert set(targets) == files | folders
    assert [str(path) for path, times in targets.items() if times > 1] == []


def test_every_room_of_the_layers_is_built() -> None:
    assert [room.name for room in floors.rooms() if not room.path.exists()] == []


def test_a_room_says_what_it_is_for() -> None:
    for room in floors.rooms():
        if room.path.exists():
            assert len(floors.duty(room.face).split()) > 3, (
                f"{room.name} begins with no line on what it is for"
            )


def test_a_module_that_names_its_floor_stands_on_it() -> None:
    wrong = []
    for room in floors.rooms():
        for path in room.files():
            named = re.match(r'"""Floor (\d+)', text_of(path)) if path.exists() else None
            if named and int(named[1]) != room.floor:
                wrong.append(f"{path.relative_to(ROOT)} says {named[1]}, and stands on floor {room.floor}")
    assert wrong == []


def test_the_table_of_a_house_that_is_made_up(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[[tool.importlinter.contracts]]\ntype = "layers"\nlayers = ["roof", "wall : door"]\n'
    )
    house = tmp_path / "tinygpt_core"
    (house / "door" / "locks").mkdir(parents=True)
    (house / "roof.py").write_text('"""Floor 9: keeps out\nthe rain. Not snow.\n\nMore.\n"""\n')
    (house / "wall.py").write_text('"""Wall: what carries the roof"""\n')
    for folder in ("door", "door/locks"):
        (house / folder / "__init__.py").write_text('"""`key`. It opens."""\n')
    (house / "door" / "bell.py").touch()
    (house / "door" / "locks" / "bolt.py").touch()
    assert floors.table(tmp_path).removeprefix(floors.HEADER).splitlines() == [
        "| 1 | [`wall`](tinygpt_core/wall.py) | What carries the roof |",
        "| 1 | [`door/`](tinygpt_core/door): [`bell`](tinygpt_core/door/bell.py), "
        "[`locks/`](tinygpt_core/door/locks) ([`bolt`](tinygpt_core/door/locks/bolt.py)) | `key`. It opens |",
        "| 2 | [`roof`](tinygpt_core/roof.py) | Keeps out the rain |",
    ]


# ---------------------------------------------------------------- no circles


def _shown(found: list[list[str]]) -> str:
    """Cycles as text, short ones first; of many the first few, which the others often come from."""
    lines = [" -> ".join(cycle) for cycle in sorted(found, key=len)]
    more = [f"and {len(lines) - 5} more"] if len(lines) > 5 else []
    return "\n".join(["imports go in a circle:", *lines[:5], *more])


def _rooms(found: list[Import]) -> Graph:
    """Which room imports which: imports within a room, and the names a package hands on, left out."""
    between = []
    for importer, imported, line in found:
        first, second = (".".join(name.split(".")[:2]) for name in (importer, imported))
        if first != second and "." in first and "." in second:
            between.append(Import(first, second, line))
    return graph(between)


def test_no_import_goes_in_a_circle() -> None:
    """Of modules; imports for typing and in functions count."""
    found = cycles(graph(COUNTED))
    assert not found, _shown(found)


def test_no_rooms_import_each_other_in_a_circle() -> None:
    """Of whole rooms, so that each can be read when those it stands on have been."""
    found = cycles(_rooms(COUNTED))
    assert not found, _shown(found)


def test_no_import_climbs() -> None:
    climbing = []
    for importer, imported, line in COUNTED:
        floor, other = floors.floor_of(importer), floors.floor_of(imported)
        if floor and other and other > floor:
            climbing.append(f"{importer}, line {line}: floor {floor} imports {imported}, floor {other}")
    assert climbing == []


def test_every_import_of_ours_names_a_module() -> None:
    """No old name, which would be found at run time by way of `moved`."""
    assert [found for found in IMPORTS if found.imported not in MODULES] == []


def test_the_core_does_not_import_the_plugin() -> None:
    crossing = [
        found
        for found in IMPORTS
        if found.importer.startswith("tinygpt_core") and found.imported.startswith("tinygpt_accel")
    ]
    assert crossing == []


def test_exceptions_are_few_and_needed() -> None:
    assert len(EXCEPTIONS) <= 3
    assert set(EXCEPTIONS) <= {(found.importer, found.imported) for found in IMPORTS}, (
        "an exception is not needed"
    )
    for edge, reason in EXCEPTIONS.items():
        assert len(reason.split()) > 5, f"why may {edge} go in a circle?"
        others = [
            found for found in IMPORTS if (found.importer, found.imported) not in EXCEPTIONS.keys() - {edge}
        ]
        assert cycles(graph(others)), f"{edge} is in no circle"


def test_names_of_modules_that_are_not_known_are_imported_in_few_places() -> None:
    """What is imported by a name that is computed cannot be counted."""
    computed = {
        module.name
        for module in MODULES.values()
        for call in imports_by_call(module.parsed())
        if literal(call) is None
    }
    assert computed == {"tinygpt_core.moved"}, "only the old names of modules are computed"


CIRCLES: dict[str, tuple[dict[str, str], list[str]]] = {
    "none": ({"a": "from . import b\nfrom .b import x\nimport os", "b": "x = 1"}, []),
    "plain": ({"a": "from .b import x", "b": "import house.c", "c": "from . import a"}, ["a -> b -> c -> a"]),
    "typing only": (
        {
            "a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import X",
            "b": "from .a import y",
        },
        ["a -> b -> a"],
    ),
    "in a function": (
        {
            "a": "def f():\n    class C:\n        def g(self):\n            from .b import x",
            "b": "import house.a",
        },
        ["a -> b -> a"],
    ),
    "by importlib": (
        {
            "a": "import importlib\nimportlib.import_module('.b', __package__)",
            "b": "from importlib import import_module\nimport_module('house.a')",
        },
        ["a -> b -> a"],
    ),
    "by a package's face": (
        {"p.__init__": "from .q import x", "p.q": "from ..r import y", "r": "from .p import x"},
        ["p -> p.q -> r -> p"],
    ),
    "beside a package's face": (
        {"p.__init__": "from .q import x", "p.q": "from ..r import y", "r": "from .p.s import x", "p.s": ""},
        [],
    ),
    "itself": ({"a": "from . import a"}, ["a -> a"]),
    "two": (
        {"a": "from . import b", "b": "from . import a, c", "c": "from . import d", "d": "from .c import x"},
        ["a -> b -> a", "c -> d -> c"],
    ),
}


@pytest.mark.parametrize("name", CIRCLES)
def test_circles_that_are_made_up_are_found(name: str, tmp_path: Path) -> None:
    sources, expected = CIRCLES[name]
    house = tmp_path / "house"
    for module, source in {"__init__": "", **sources}.items():
        path = house / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    found = cycles(graph(imports(modules_of(house))))
    assert [" -> ".join(cycle).replace("house.", "") for cycle in found] == expected
    assert all(line in _shown(found).replace("house.", "") for line in expected)


def test_rooms_in_a_circle_are_found_where_modules_are_in_none() -> None:
    found = [
        Import("house.a.one", "house.b.one", 1),
        Import("house.b.two", "house.a.two", 1),
        Import("house.a.one", "house.a.two", 2),
        Import("house", "house.a", 1),
    ]
    assert cycles(graph(found)) == []
    assert cycles(_rooms(found)) == [["house.a", "house.b", "house.a"]]


# ---------------------------------------------------------------- lines one can read


class Line(NamedTuple):
    """Something to mend, and where."""

    path: Path
    number: int
    what: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}, line {self.number}: {self.what}"


def _listed(found: list[Line]) -> str:
    return "\n".join(["", *map(str, found)])


def everywhere(check: Callable[[ast.Module], Iterator[tuple[int, str]]]) -> list[Line]:
    """What a check finds in the sources of both packages."""
    return [
        Line(module.path, number, what)
        for module in MODULES.values()
        for number, what in check(module.parsed())
    ]


def _python_files() -> list[Path]:
    folders = (*PACKAGES, "tests", "benchmarks", "docs")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_no_line_is_longer_than_the_formatter_makes_it() -> None:
    """ruff says the same of E501, which is not ignored."""
    settings = tomllib.loads(text_of(ROOT / "pyproject.toml"))["tool"]["ruff"]
    assert settings["line-length"] == 110
    assert "E" in settings["lint"]["select"] and "E501" not in str(settings["lint"])
    found = [
        Line(path, number, f"{len(line)} columns")
        for path in _python_files()
        if path.name != "test_seed_documents.py"  # which holds TinyGPT's examples to the letter
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if len(line) > 110
    ]
    assert not found, _listed(found)


def test_the_formatter_is_rarely_switched_off() -> None:
    switch = re.compile(r"#\s*fmt:\s*(?:skip|off)|#\s*ruff:\s*noqa")
    found = [
        Line(path, number, line.strip())
        for path in _python_files()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if switch.search(line)
    ]
    assert len(found) <= 5, _listed(found)


def parallel_assignments(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Assignments of three or more values to as many names in one line, where one after the other would do.
    It would not where a value is made of a name that has been assigned by then, as in `a, b, c = b, c, a`;
    and parts of one thing, `c0, c1, c2`, belong together.
    """
    for node in ast.walk(tree):
        if not (
            isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) and len(node.value.elts) > 2
        ):
            continue
        for target in node.targets:
            if isinstance(target, (ast.Tuple, ast.List)) and not _belongs_together(target, node.value):
                yield node.lineno, ast.unparse(node)


def _belongs_together(targets: ast.Tuple | ast.List, values: ast.Tuple) -> bool:
    names = [ast.unparse(target) for target in targets.elts]
    if len({name.rstrip("0123456789") for name in names}) == 1:
        return True
    for position, value in enumerate(values.elts):
        mentioned = {ast.unparse(part) for part in ast.walk(value)}
        if mentioned & set(names[:position]):
            return True
    return False


def test_one_name_is_assigned_at_a_time() -> None:
    found = everywhere(parallel_assignments)
    assert not found, _listed(found)


BANNED = {"misfit", "held", "told", "watched", "following", "_meet", "bound"}


def banned_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Names that nobody would search for, where something has them: a function, a class, an argument, a
    variable, an attribute.
    """
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, ast.arg):
            names = [node.arg]
        elif isinstance(node, ast.Name):
            names = [node.id]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.keyword) and node.arg != "bound":  # as in TypeVar("B", bound=Buffer)
            names = [node.arg or ""]
        elif isinstance(node, ast.alias):
            names = [*node.name.split("."), node.asname or ""]
        for name in names:
            if name in BANNED:
                yield getattr(node, "lineno", 0), name


def test_names_are_the_fields_terms() -> None:
    found = everywhere(banned_names)
    found += [Line(module.path, 1, "its name") for module in MODULES.values() if module.path.stem in BANNED]
    assert not found, _listed(found)


def classes_made_by_type(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Calls of `type` with a name, bases and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "type" and len(node.args) == 3:
            yield node.lineno, ast.unparse(node)


# Files where `type()` makes classes, and why.
MADE_BY_TYPE: dict[str, str] = {
    "tinygpt_accel/cuda_backend/buffer.py": "one for each device: how many there are is known at run time",
    "tinygpt_core/instrumentation.py": "a class like that of one object, with a method that is observed",
}


def classes_made_on_the_way(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Classes inside functions and loops, of which there is one for each turn."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.For, ast.While)):
            for inner in ast.walk(node):
                if isinstance(inner, ast.ClassDef):
                    yield inner.lineno, f"class {inner.name}"


# Files with classes of kernels inside a function, and why.
WRAPPERS: dict[str, str] = {
    "tinygpt_accel/cuda_backend/kernels/common.py": (
        "for_float32 sends all but float32 to the core's kernel; the CUDA kernels themselves are written out"
    )
}


def test_no_kernel_or_operation_is_made_in_a_function_or_loop() -> None:
    found = [
        line
        for line in everywhere(classes_made_on_the_way)
        if line.path.stem == "operations" or "kernels" in line.path.parts
        if line.path.relative_to(ROOT).as_posix() not in WRAPPERS
    ]
    assert not found, _listed(found)


def test_no_class_is_made_by_a_call() -> None:
    found = [
        line
        for line in everywhere(classes_made_by_type)
        if line.path.relative_to(ROOT).as_posix() not in MADE_BY_TYPE
    ]
    assert not found, _listed(found)


def test_every_operation_and_kernel_is_written_out_as_a_class() -> None:
    """What `operations` and `kernels` offer by name is a `class` statement of that name in the file that it
    says it is from.
    """
    from tinygpt_core import kernels, operations

    missing = []
    for room, base in ((operations, operations.Operation), (kernels, kernels.Kernel)):
        for name, thing in vars(room).items():
            if isinstance(thing, type) and issubclass(thing, base):
                tree = MODULES[thing.__module__].parsed()
                if not any(
                    isinstance(node, ast.ClassDef) and node.name == thing.__name__ for node in tree.body
                ):
                    missing.append(f"{room.__name__}.{name}")
    assert missing == []


def _methods(tree: ast.Module, name: str) -> set[str]:
    kind = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    found = set()
    for node in kind.body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


PRIVATE = {
    name
    for name in _methods(MODULES["tinygpt_core.buffer.base"].parsed(), "Buffer")
    if name.startswith("_") and not name.startswith("__")
}


def private_calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Calls of methods that only a Buffer may call: hooks, and what is written for them. A class that has a
    method of such a name may call its own.
    """
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            is_its_own = name in own and ast.unparse(node.func.value) == "self"
            if name in PRIVATE and not is_its_own:
                yield node.lineno, f"{ast.unparse(node.func)}()"


def _is_a_buffers(tree: ast.Module) -> bool:
    """Whether a file defines a backend: a subclass of Buffer, which may call the hooks it overrides."""
    return any(
        ast.unparse(base).endswith("Buffer")
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    )


def test_only_buffers_call_what_is_private_to_them() -> None:
    found = [
        Line(module.path, number, what)
        for name, module in MODULES.items()
        if not name.startswith("tinygpt_core.buffer")
        if not _is_a_buffers(tree := module.parsed())
        for number, what in private_calls(tree)
    ]
    assert not found, _listed(found)


def private_imports(module: Module) -> Iterator[tuple[int, str]]:
    """Names with an underscore that are taken from another module: imported, or as its attribute."""
    tree = module.parsed()
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            origin = absolute("." * node.level + (node.module or ""), module.package)
            for alias in node.names:
                if re.match(r"_[^_]", alias.name) and origin.startswith(PACKAGES):
                    yield node.lineno, f"from {origin} import {alias.name}"
                if f"{origin}.{alias.name}" in MODULES:
                    modules.add(alias.asname or alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
            owner = ast.unparse(node.value)
            if owner in modules:
                yield node.lineno, f"{owner}.{node.attr}"


def test_no_private_name_is_taken_from_another_module() -> None:
    found = [
        Line(module.path, number, what)
        for module in MODULES.values()
        for number, what in private_imports(module)
    ]
    assert not found, _listed(found)


def _found(check: Callable[[ast.Module], Iterator[tuple[int, str]]], source: str) -> list[str]:
    return [what for _, what in check(ast.parse(source))]


def test_the_checks_find_what_they_look_for() -> None:
    assert _found(parallel_assignments, "a, b, c = 1, 2, 3") == ["a, b, c = (1, 2, 3)"]
    assert _found(parallel_assignments, "def f(self, a, b):\n  self.a, self.b, self.c = a, b, 0") != []
    fine = "a, b = 1, 2\na, b, c = f()\na, b, c = b, c, a\nx = 1, 2, 3\nlow, high, low = 0, 1, low + high"
    fine += "\nc0, c1, c2 = f(), 2, 3"
    assert _found(parallel_assignments, fine) == []
    source = (
        "def told(bound): held = a.watched\nfrom . import misfit as m\nimport a.following\nclass _meet: 1"
    )
    assert sorted(_found(banned_names, source)) == sorted(BANNED)
    assert _found(banned_names, "B = TypeVar('B', bound=int)\nuphold = household") == []
    assert _found(classes_made_by_type, "type('A', (B,), {})\ntype(x)\nmytype(1, 2, 3)") == [
        "type('A', (B,), {})"
    ]
    assert {"_add", "_matmul", "_full", "_take"} <= PRIVATE and "__add__" not in PRIVATE
    assert _found(private_calls, "x._matmul(y)\nx.matmul(y)\nx._other()\n_full()\nx._full") == ["x._matmul()"]
    of_its_own = (
        "class Sums:\n  def _add(self): ...\n  def f(self):\n    self._add()\n    self._mul()\n    x._add()"
    )
    assert sorted(_found(private_calls, of_its_own)) == ["self._mul()", "x._add()"]
    assert _is_a_buffers(ast.parse("class A(base.ArrayBuffer): ...")) and not _is_a_buffers(
        ast.parse("class A: ...")
    )


def test_private_imports_are_found(tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(
        "from ..shape import _numel, Shape\nfrom .. import random\nfrom os import _exit, path\n"
        "from tinygpt_core import backends as known, __version__\n"
        "random._philox\nrandom.__name__\nknown._loaded\nShape._x\npath._joinrealpath\n"
    )
    found = list(private_imports(Module("tinygpt_core.files.example", path)))
    assert found == [
        (1, "from tinygpt_core.shape import _numel"),
        (5, "random._philox"),
        (7, "known._loaded"),
    ]


if __name__ == "__main__":
    made = floors.table()
    print(made, end="")
    if "--write" in sys.argv[1:]:
        README.write_text(_TABLE.sub(lambda match: made, text_of(README)), encoding="utf-8")
