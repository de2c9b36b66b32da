"""Every public name has a docstring: modules, classes, functions, methods and properties of both packages.

A method that a documented method of a base class describes, such as an Operation's `forward`, needs none of its own. The sources are
read, not imported, so what needs a GPU counts too.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path for package in ("tinygpt_core", "tinygpt_accel") for path in (ROOT / package).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
Definition = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def last_name(node: ast.expr) -> str:
    """`Kernel` of the bases `Kernel`, `base.Kernel` and `Kernel[T]`."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


CLASSES: dict[str, list[ast.ClassDef]] = {}
for tree in TREES.values():
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            CLASSES.setdefault(node.name, []).append(node)


def described(name: str, owner: ast.ClassDef, seen: frozenset[str] = frozenset()) -> bool:
    """Whether a class, or one that it inherits from, documents a method of this name."""
    if any(isinstance(node, Definition) and node.name == name and ast.get_docstring(node) for node in owner.body):
        return True
    bases = {last_name(base) for base in owner.bases} - seen
    return any(described(name, base, seen | bases) for found in bases for base in CLASSES.get(found, ()))


def undocumented(tree: ast.Module) -> list[str]:
    """The public names of a module without a docstring."""
    missing = [] if ast.get_docstring(tree) else ["the module"]

    def visit(body: list[ast.stmt], owner: ast.ClassDef | None, prefix: str) -> None:
        for node in body:
            if isinstance(node, Definition) and not node.name.startswith("_"):
                if not ast.get_docstring(node) and not (owner and described(node.name, owner)):  # a setter has its property's
                    missing.append(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    visit(node.body, node, f"{prefix}{node.name}.")

    visit(tree.body, None, "")
    return missing


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_name_has_a_docstring(path: Path) -> None:
    assert not undocumented(TREES[path])


def test_a_missing_docstring_is_noticed() -> None:
    methods = "    def forward(self): pass\n    def other(self): pass\n    def _private(self): pass\n"
    source = f'"""M."""\ndef f(): pass\nclass C(Kernel):\n    """C."""\n{methods}'
    assert undocumented(ast.parse(source)) == ["f", "C.other"]
    assert undocumented(ast.parse("x = 1")) == ["the module"]
