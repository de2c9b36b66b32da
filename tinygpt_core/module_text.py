"""Modules as they are printed: a tree of parts with their settings, shapes and how many numbers they hold.

`Module.__repr__`, `_repr_html_` (what a notebook shows) and `nn.inspection.summary` use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol


class PrintableModule(Protocol):
    """What printing needs of a Module, which stands above this file."""

    def _extra_repr(self) -> str:
        """The settings, as they stand in the brackets."""

    def _contents(self) -> Iterable[tuple[str, Any]]:
        """The Modules and Tensors in it, by name."""

    def num_parameters(self) -> int:
        """Returns how many numbers its parameters hold."""


class Branch(NamedTuple):
    """A node of a module's tree: what it is called and is, a shape, how many numbers it holds, and what is in
    it.
    """

    name: str
    label: str
    shape: str
    numbers: str
    inside: list[Branch]


def module_branch(
    module: PrintableModule,
    outputs: dict[str, str],
    name: str = "",
    path: str = "",
    seen: set[int] | None = None,
) -> Branch:
    """Returns the tree of a module: its parts with their settings, its parameters with their shapes, equal
    neighbours folded into one.

    Args:
        module: the root.
        outputs: the shapes of the outputs by dotted name of the module, where they are known.
        name, path: of the module, in the one above and from the root.
        seen: the parameters met so far, since tied ones are met again.
    """
    seen = set() if seen is None else seen
    settings = module._extra_repr()
    inside: list[Branch] = []
    for key, leaf in module._contents():
        full = f"{path}.{key}" if path else key
        if hasattr(leaf, "_contents"):
            inside.append(module_branch(leaf, outputs, key, full, seen))
        else:
            notes = "" if leaf.requires_grad else ", frozen"
            notes += ", tied" if id(leaf) in seen else ""
            seen.add(id(leaf))
            inside.append(Branch(key, "", f"{leaf.dtype.name} {leaf.shape}{notes}", f"{leaf.numel:,}", []))
    label = type(module).__name__ + (f"({settings})" if settings else "")
    return Branch(name, label, outputs.get(path, ""), f"{module.num_parameters():,}", _folded(inside))


def _folded(branches: list[Branch]) -> list[Branch]:
    """One branch for each run of equal ones: `blocks.0 … blocks.11: 12 × Block`."""
    runs: list[list[Branch]] = []
    for branch in branches:
        if runs and branch.label and runs[-1][0][1:] == branch[1:]:
            runs[-1].append(branch)
        else:
            runs.append([branch])
    return [
        run[0]
        if len(run) == 1
        else Branch(
            f"{run[0].name} … {run[-1].name}",
            f"{len(run)} × {run[0].label}",
            run[0].shape,
            f"{len(run)} × {run[0].numbers}",
            run[0].inside,
        )
        for run in runs
    ]


def _title(branch: Branch) -> str:
    return f"{branch.name}: {branch.label}" if branch.name and branch.label else branch.name or branch.label


def module_text(
    module: PrintableModule, outputs: dict[str, str] | None = None, header: tuple[str, str, str] | None = None
) -> str:
    """Returns the tree of a module, one line a part or parameter, in three columns: what it is, its shape,
    how many numbers it holds.

    Args:
        module: the root; `outputs` as in `module_branch`.
        header: a line above the columns.
    """
    root = module_branch(module, outputs or {})
    rows = [header] if header else []
    rows.append((_title(root), root.shape, root.numbers if header else f"{root.numbers} parameters"))

    def add(branches: list[Branch], indent: str) -> None:
        for place, branch in enumerate(branches):
            last = place == len(branches) - 1
            rows.append(
                (indent + ("└── " if last else "├── ") + _title(branch), branch.shape, branch.numbers)
            )
            add(branch.inside, indent + ("    " if last else "│   "))

    add(root.inside, "")
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    third = max(len(row[2].removesuffix(" parameters")) for row in rows)
    lines = []
    for label, shape, count in rows:
        number, _, unit = (
            count.partition(" parameters") if count.endswith(" parameters") else (count, "", None)
        )
        lines.append(
            f"{label:<{first}}  {shape:<{second}}  {number:>{third}}"
            + ("" if unit is None else " parameters")
        )
    return "\n".join(lines)


def module_html(module: PrintableModule) -> str:
    """Returns the tree of a module as nested lists that fold."""

    from html import escape

    def item(branch: Branch) -> str:
        text = escape("  ".join(filter(None, (_title(branch), branch.shape, f"[{branch.numbers}]"))))
        if not branch.inside:
            return f"<li>{text}</li>"
        return f"<li><details><summary>{text}</summary><ul>{''.join(map(item, branch.inside))}</ul></details></li>"

    root = module_branch(module, {})
    title = escape(f"{root.label}, {root.numbers} parameters")
    inside = f"<ul>{''.join(map(item, root.inside))}</ul>"
    return f'<details open style="font-family:monospace"><summary>{title}</summary>{inside}</details>'
