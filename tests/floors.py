"""The floors of tinygpt_core, as the linter's layers in pyproject.toml list them: which rooms stand on each,
which modules are in a room, and what a room is for.

The README's table of floors (`python tests/test_house.py` prints it), `tests/test_house.py` and
`benchmarks/size.py` all take them from here.
"""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "tinygpt_core"

HEADER = "| floor | room | what it is for |\n|---|---|---|\n"


class Room(NamedTuple):
    """A module or a package that stands directly in tinygpt_core.

    Attributes:
        floor: counted from 1 at the bottom.
        name: as it is imported, without the package.
        path: its file, or its folder.
    """

    floor: int
    name: str
    path: Path

    @property
    def face(self) -> Path:
        """The file whose docstring says what the room is for."""
        return self.path / "__init__.py" if self.path.is_dir() else self.path

    def files(self) -> list[Path]:
        """Returns its Python files."""
        return sorted(self.path.rglob("*.py")) if self.path.is_dir() else [self.path]


@cache
def layers(pyproject: Path = ROOT / "pyproject.toml") -> list[list[str]]:
    """Returns the names on each floor, from the bottom up."""
    contracts = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    contract = next(contract for contract in contracts if contract["type"] == "layers")
    from_the_top = [re.split(r"\s*[:|]\s*", layer) for layer in contract["layers"]]
    return from_the_top[::-1]


@cache
def rooms(root: Path = ROOT) -> list[Room]:
    """Returns every room, from the bottom up. A room that is not built has the path of a file."""
    found = []
    for number, names in enumerate(layers(root / "pyproject.toml"), 1):
        for name in names:
            folder = root / PACKAGE / name
            path = folder if folder.is_dir() else folder.with_suffix(".py")
            found.append(Room(number, name, path))
    return found


def floor_of(module: str) -> int | None:
    """Returns the floor of a module by its full name; None for what stands on none, as the plug-in does. The
    package itself, whose `__init__` hands names on, stands on the top floor.
    """
    package, _, rest = module.partition(".")
    if package != PACKAGE:
        return None
    if not rest:
        return len(layers())
    return next((room.floor for room in rooms() if room.name == rest.partition(".")[0]), None)


def duty(face: Path) -> str:
    """Returns the first sentence of a module's docstring, without the floor and the name before it; and the
    second, where the first is only a name.
    """
    docstring = ast.get_docstring(ast.parse(face.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    text = re.sub(r"^Floor \d+: ", "", paragraph)
    text = re.sub(rf"^{face.stem}: ", "", text, flags=re.IGNORECASE)
    sentences = re.split(r"(?<=\.)\s", text)
    if len(sentences[0].split()) <= 3:
        sentences[:2] = [" ".join(sentences[:2])]
    duty = sentences[0].removesuffix(".")
    return duty[:1].upper() + duty[1:]


def _link(path: Path, root: Path) -> str:
    label = f"{path.name}/" if path.is_dir() else path.stem
    return f"[`{label}`]({path.relative_to(root).as_posix()})"


def _contents(folder: Path, root: Path) -> str:
    """The modules in a folder, and the folders with theirs in brackets."""
    links = []
    for path in sorted(folder.iterdir()):
        if (path / "__init__.py").is_file():
            links.append(f"{_link(path, root)} ({_contents(path, root)})")
        elif path.suffix == ".py" and path.name != "__init__.py":
            links.append(_link(path, root))
    return ", ".join(links)


def table(root: Path = ROOT) -> str:
    """Returns the README's table of floors, from the bottom up: a row for each room, with links to all that
    is in it.
    """
    rows = []
    for room in rooms(root):
        if room.path.exists():
            cell = _link(room.path, root)
            if room.path.is_dir():
                cell += f": {_contents(room.path, root)}"
            rows.append(f"| {room.floor} | {cell} | {duty(room.face)} |\n")
    return HEADER + "".join(rows)
