"""Floor 6: modules as they are printed: a tree of parts with settings, shapes and how many numbers they have.

`Module.__repr__`, `_repr_html_` (what a notebook shows) and `nn.inspection.summary` use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol


class PrintableModule(Protocol):
    """What printing needs of a Module, which stands above this file."""

    def _extra_repr(self) -> str:
        """Returns the settings, as they stand in the brackets."""

    def _contents(self) -> Iterable[tuple[str, Any]]:
        """Returns the Modules and Tensors in it, with their names."""

    def num_parameters(self) -> int:
        """Returns how many numbers its parameters have."""


class Branch(NamedTuple):
    """A node of a module's tree.

    Attributes:
        name: of the part, in the module above.
        label: its class and settings; "" for a parameter.
        shape: of its output or of the parameter, where it is known.
        numbers: how many its parameters have.
        inside: the parts of the part.
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
    """Returns the tree of a module: its parts with their settings, its parameters with their shapes.

    Neighbours that are equal are folded into one branch.

    Args:
        module: the root.
        outputs: the shapes of the outputs by dotted name of the module, where they are known.
        name, path: of the module, in the one above and from the root.
        seen: the parameters so far, since tied ones come again.
    """
    seen = set() if seen is None else seen
    inside: list[Branch] = []
    for key, part in module._contents():
        if hasattr(part, "_contents"):
            full_name = f"{path}.{key}" if path else key
            inside.append(module_branch(part, outputs, key, full_name, seen))
            continue
        shape = f"{part.dtype.name} {part.shape}"
        if not part.requires_grad:
            shape += ", frozen"
        if id(part) in seen:
            shape += ", tied"
        seen.add(id(part))
        inside.append(Branch(key, "", shape, f"{part.numel:,}", []))
    settings = module._extra_repr()
    label = type(module).__name__ + (f"({settings})" if settings else "")
    return Branch(name, label, outputs.get(path, ""), f"{module.num_parameters():,}", _folded(inside))


def _folded(branches: list[Branch]) -> list[Branch]:
    """Returns one branch for each run of equal ones: `blocks.0 … blocks.11: 12 × Block`."""
    runs: list[list[Branch]] = []
    for branch in branches:
        is_equal = bool(runs) and runs[-1][0]._replace(name="") == branch._replace(name="")
        if is_equal and branch.label:  # parameters are never folded
            runs[-1].append(branch)
        else:
            runs.append([branch])
    return [run[0] if len(run) == 1 else _one_for_all(run) for run in runs]


def _one_for_all(run: list[Branch]) -> Branch:
    """Returns one branch for several that are equal but for their names."""
    first = run[0]
    return Branch(
        name=f"{first.name} … {run[-1].name}",
        label=f"{len(run)} × {first.label}",
        shape=first.shape,
        numbers=f"{len(run)} × {first.numbers}",
        inside=first.inside,
    )


def _title(branch: Branch) -> str:
    """Returns what the line of a branch begins with."""
    return f"{branch.name}: {branch.label}" if branch.name and branch.label else branch.name or branch.label


def module_text(
    module: PrintableModule, outputs: dict[str, str] | None = None, header: tuple[str, str, str] | None = None
) -> str:
    """Returns the tree of a module, one line a part or parameter.

    The three columns are what it is, its shape, and how many numbers it has.

    Args:
        module: the root.
        outputs: as in `module_branch`.
        header: a line above the columns.
    """
    root = module_branch(module, outputs or {})
    rows = [header] if header else []
    rows.append((_title(root), root.shape, root.numbers if header else f"{root.numbers} parameters"))

    def add(branches: list[Branch], indent: str) -> None:
        for place, branch in enumerate(branches):
            is_last = place == len(branches) - 1
            title = indent + ("└── " if is_last else "├── ") + _title(branch)
            rows.append((title, branch.shape, branch.numbers))
            add(branch.inside, indent + ("    " if is_last else "│   "))

    add(root.inside, "")
    unit = " parameters"
    first = max(len(title) for title, _, _ in rows)
    second = max(len(shape) for _, shape, _ in rows)
    third = max(len(numbers.removesuffix(unit)) for _, _, numbers in rows)
    lines = []
    for title, shape, numbers in rows:
        line = f"{title:<{first}}  {shape:<{second}}  {numbers.removesuffix(unit):>{third}}"
        lines.append(line + unit if numbers.endswith(unit) else line)
    return "\n".join(lines)


def module_html(module: PrintableModule) -> str:
    """Returns the tree of a module as nested lists that fold."""
    from html import escape

    def items(branches: list[Branch]) -> str:
        return f"<ul>{''.join(map(item, branches))}</ul>"

    def item(branch: Branch) -> str:
        columns = (_title(branch), branch.shape, f"[{branch.numbers}]")
        text = escape("  ".join(column for column in columns if column))
        if not branch.inside:
            return f"<li>{text}</li>"
        return f"<li><details><summary>{text}</summary>{items(branch.inside)}</details></li>"

    root = module_branch(module, {})
    title = escape(f"{root.label}, {root.numbers} parameters")
    style = "font-family:monospace"
    return f'<details open style="{style}"><summary>{title}</summary>{items(root.inside)}</details>'
