"""Modules as they are printed: a tree of parts with their settings, shapes and how many numbers they hold.

`Module.__repr__`, `_repr_html_` (what a notebook shows) and `nn.inspection.summary` use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol


class PrintableModule(Protocol):
    """What printing needs of a Module, whose own file imports this one."""

    def _extra_repr(self) -> str:
        """Returns the settings, as they stand in the brackets."""

    def _contents(self) -> Iterable[tuple[str, Any]]:
        """Returns the Modules and Tensors in it, by name."""

    def num_parameters(self) -> int:
        """Returns how many numbers its parameters hold."""


class Branch(NamedTuple):
    """A node of a module's tree, in the words in which it is printed.

    Attributes:
        name: what it is called in the module above.
        label: what it is, with its settings; "" for a parameter.
        shape: of a parameter, or of the outputs of a module where that is known.
        numbers: how many there are in it.
        inside: what is in it.
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
    inside: list[Branch] = []
    for key, leaf in module._contents():
        if hasattr(leaf, "_contents"):
            leaf_path = f"{path}.{key}" if path else key
            inside.append(module_branch(leaf, outputs, key, leaf_path, seen))
        else:
            inside.append(_parameter_branch(key, leaf, is_tied=id(leaf) in seen))
            seen.add(id(leaf))
    settings = module._extra_repr()
    label = type(module).__name__ + (f"({settings})" if settings else "")
    return Branch(name, label, outputs.get(path, ""), f"{module.num_parameters():,}", _folded(inside))


def _parameter_branch(name: str, parameter: Any, is_tied: bool) -> Branch:
    text = f"{parameter.dtype.name} {parameter.shape}"
    if not parameter.requires_grad:
        text += ", frozen"
    if is_tied:
        text += ", tied"
    return Branch(name, "", text, f"{parameter.numel:,}", [])


def _folded(branches: list[Branch]) -> list[Branch]:
    """Returns one branch for each run of equal modules: `blocks.0 … blocks.11: 12 × Block`."""
    runs: list[list[Branch]] = []
    for branch in branches:
        is_module = bool(branch.label)
        if runs and is_module and _is_like(branch, runs[-1][0]):
            runs[-1].append(branch)
        else:
            runs.append([branch])
    return [run[0] if len(run) == 1 else _one_for_all(run) for run in runs]


def _is_like(branch: Branch, other: Branch) -> bool:
    """Whether two branches differ in their names only."""
    return branch._replace(name="") == other._replace(name="")


def _one_for_all(run: list[Branch]) -> Branch:
    first = run[0]
    return Branch(
        f"{first.name} … {run[-1].name}",
        f"{len(run)} × {first.label}",
        first.shape,
        f"{len(run)} × {first.numbers}",
        first.inside,
    )


def _title(branch: Branch) -> str:
    """Returns what a branch is called and is, whichever there is of the two."""
    return ": ".join(text for text in (branch.name, branch.label) if text)


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
    rows: list[tuple[str, str, str]] = []
    unit = ""
    if header:
        rows.append(header)
    else:
        unit = " parameters"  # is said once, in the first row
    rows.append((_title(root), root.shape, root.numbers))
    _add_rows(rows, root.inside, "")

    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for title, shape, numbers in rows:
        lines.append(f"{title:<{widths[0]}}  {shape:<{widths[1]}}  {numbers:>{widths[2]}}{unit}")
        unit = ""
    return "\n".join(lines)


def _add_rows(rows: list[tuple[str, str, str]], branches: list[Branch], indent: str) -> None:
    """Adds a row for each branch and for all that is in it, with lines that lead to them."""
    for number, branch in enumerate(branches, 1):
        is_last = number == len(branches)
        corner = "└── " if is_last else "├── "
        rows.append((indent + corner + _title(branch), branch.shape, branch.numbers))
        _add_rows(rows, branch.inside, indent + ("    " if is_last else "│   "))


def module_html(module: PrintableModule) -> str:
    """Returns the tree of a module as nested lists that fold."""
    from html import escape  # 1.5 ms to import, so only when a notebook asks

    root = module_branch(module, {})
    title = escape(f"{root.label}, {root.numbers} parameters")
    items = "".join(map(_html_item, root.inside))
    return f'<details open style="font-family:monospace"><summary>{title}</summary><ul>{items}</ul></details>'


def _html_item(branch: Branch) -> str:
    """Returns a branch as an item of a list, which folds where there is something in it."""
    from html import escape

    parts = (_title(branch), branch.shape, f"[{branch.numbers}]")
    text = escape("  ".join(part for part in parts if part))
    if not branch.inside:
        return f"<li>{text}</li>"
    items = "".join(map(_html_item, branch.inside))
    return f"<li><details><summary>{text}</summary><ul>{items}</ul></details></li>"
