"""How things look when they are printed: arrays as NumPy prints them, modules as a tree, graphs as lines or for Graphviz.

The texts are made here once; `__repr__`, `_repr_html_` (what a notebook shows), `print_dag`, `to_dot` and `inspection.summary` use them.
Nothing here knows a backend: elements are read through `to_python`, and of a large array only those that are shown.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .buffer.base import Buffer
    from .dtype import DType
    from .module import Module
    from .tensor import Tensor

WIDTH = 75  # characters in a line
ELIDE = 1000  # an array of more elements shows only
EDGE = 3  # so many at either end of each axis
FRACTION = 8  # the most digits behind the point
LARGE = {"float32": 1e6, "float64": 1e8}  # from here on, below 0.0001, or with a ratio above 1,000: powers of ten


# ---------------------------------------------------------------- arrays


def array_text(buffer: Buffer, prefix: str = "", *ends: str) -> str:
    """Returns the elements as nested brackets in aligned columns, as NumPy prints them.

    Args:
        buffer: what to print. Of more than `ELIDE` elements, the first and last three of each axis are shown.
        prefix: what stands before the first bracket; later lines are indented by as much.
        ends: what follows, separated by commas, on a new line where the last one has no room.
    """
    elide = buffer.numel > ELIDE
    data = _corners(buffer) if elide else buffer.to_python()
    words = iter(_words(list(_flat(data)), buffer.dtype, buffer.ndim))
    text = prefix + _brackets(data, words, buffer.shape, elide, " " * len(prefix), WIDTH - len(prefix))
    tail = ", ".join(ends)
    if not tail:
        return text
    fits = len(text) - text.rfind("\n") - 1 + 2 + len(tail) <= WIDTH
    return f"{text}, {tail}" if fits else f"{text},\n{' ' * len(prefix)}{tail}"


def _corners(buffer: Buffer) -> Any:
    """The elements that are shown of a large array, as nested lists."""
    if not buffer.ndim:
        return buffer.to_python()
    size = buffer.shape[0]
    places = range(size) if size <= 2 * EDGE else (*range(EDGE), *range(size - EDGE, size))
    if buffer.ndim == 1:
        return buffer.to_python() if size <= 2 * EDGE else buffer[:EDGE].to_python() + buffer[size - EDGE :].to_python()
    return [_corners(buffer[place]) for place in places]


def _flat(data: Any) -> Iterator[Any]:
    if isinstance(data, list):
        for part in data:
            yield from _flat(part)
    else:
        yield data


def _words(values: list[Any], dtype: DType, ndim: int) -> list[str]:
    """Each element as text, all of one width."""
    words = _float_words(values, dtype) if dtype.kind == "f" else list(map(str, values))
    width = max(map(len, words), default=0)
    return [word.rjust(width if dtype.kind != "b" or not ndim else 5) for word in words]


def _float_words(values: list[float], dtype: DType) -> list[str]:
    """Floats with their points aligned: the fewest digits that tell a number from its neighbours, and no more than eight decimals."""
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    least = array(dtype.typecode, [0.0001])[0]
    scientific = bool(sizes) and (max(sizes) >= LARGE[dtype.name] or min(sizes) < least or max(sizes) / min(sizes) > 1000)
    parts = [
        (_scientific if scientific else _positional)(value, _precision(value, dtype)) if math.isfinite(value) else None for value in values
    ]
    fraction = max((len(part[1]) for part in parts if part), default=0)
    power = max((len(part[2]) for part in parts if part), default=0)
    words = []
    for value, part in zip(values, parts, strict=True):
        if part is None:
            words.append(str(value))
        elif scientific:
            front, _, exponent = f"{value:#.{fraction}e}".partition("e")
            words.append(f"{front}e{exponent[0]}{exponent[1:].rjust(power - 1, '0')}")
        else:
            words.append(f"{part[0]}.{part[1].ljust(fraction)}")
    return words


def _precision(value: float, dtype: DType) -> int:
    """How many digits behind the first it takes to tell a number from the others of its dtype."""
    return next(digits for digits in range(17) if array(dtype.typecode, [float(f"{value:.{digits}e}")])[0] == value)


def _positional(value: float, precision: int) -> tuple[str, str, str]:
    """The digits before the point, those behind it, and no exponent."""
    exponent = int(f"{value:.{precision}e}".partition("e")[2])
    front, _, behind = f"{value:.{min(max(precision - exponent, 0), FRACTION)}f}".partition(".")
    return front, behind.rstrip("0"), ""


def _scientific(value: float, precision: int) -> tuple[str, str, str]:
    """The digit before the point, those behind it, and the exponent of ten."""
    mantissa, _, exponent = f"{value:.{min(precision, FRACTION)}e}".partition("e")
    front, _, behind = mantissa.partition(".")
    return front, behind.rstrip("0"), exponent


def _brackets(data: Any, words: Iterator[str], shape: tuple[int, ...], elide: bool, indent: str, width: int) -> str:
    """Nested brackets, one row a line; rows that are too long go on in the next line, blocks of rows are set apart by empty lines."""
    if not shape:
        return next(words)
    gap = EDGE if elide and shape[0] > 2 * EDGE else -1
    parts = [_brackets(part, words, shape[1:], elide, indent + " ", width - 2) for part in data]
    if gap >= 0:
        parts.insert(gap, "...")
    if len(shape) > 1:
        return "[" + (",\n" + "\n" * (len(shape) - 2) + indent + " ").join(parts) + "]"
    lines = [""]
    for place, part in enumerate(parts):
        if len(lines[-1]) + 1 + len(part) > width - 1 and lines[-1]:
            lines.append("")
        lines[-1] += part + (", " if place < len(parts) - 1 else "")
    return "[" + f"\n{indent} ".join([*(line.rstrip() for line in lines[:-1]), lines[-1]]) + "]"


def tensor_text(tensor: Tensor) -> str:
    """Returns `Tensor(elements, shape, dtype, backend, what gradients it has)`, the form in which a Tensor prints."""
    return "Tensor(" + array_text(tensor.buffer, "Tensor(", *_about(tensor))[len("Tensor(") :] + ")"


def _about(tensor: Tensor) -> list[str]:
    about = [f"shape={tensor.shape}", f"dtype={tensor.dtype.name}", f"backend={tensor.backend!r}"]
    if tensor.backend == "python":
        del about[-1]
    return about + ([f"grad_fn={tensor.grad_fn.name}"] if tensor.grad_fn else ["requires_grad=True"] if tensor.requires_grad else [])


def tensor_html(tensor: Tensor) -> str:
    """Returns a table with a row a line for a Tensor of one or two axes, and the printed form of any other."""
    from html import escape

    about = escape(", ".join(_about(tensor)))
    if tensor.ndim not in (1, 2) or not tensor.numel:
        return f"<pre>{escape(tensor_text(tensor))}</pre>"
    elide = tensor.numel > ELIDE
    data = _corners(tensor.buffer) if elide else tensor.to_python()
    words = iter(_words(list(_flat(data)), tensor.dtype, tensor.ndim))
    rows = [[next(words) for _ in row] for row in (data if tensor.ndim == 2 else [data])]
    if elide and tensor.shape[-1] > 2 * EDGE:
        rows = [[*row[:EDGE], "…", *row[EDGE:]] for row in rows]
    if elide and tensor.ndim == 2 and tensor.shape[0] > 2 * EDGE:
        rows.insert(EDGE, ["…"] * len(rows[0]))
    cells = "".join("<tr>" + "".join(f"<td>{escape(word.strip())}</td>" for word in row) + "</tr>" for row in rows)
    return f'<table style="font-family:monospace;text-align:right"><caption>Tensor, {about}</caption><tbody>{cells}</tbody></table>'


# ---------------------------------------------------------------- modules


class Branch(NamedTuple):
    """A node of a module's tree: what it is called and is, a shape, how many numbers it holds, and what is in it."""

    name: str
    label: str
    shape: str
    numbers: str
    inside: list[Branch]


def module_branch(module: Module, outputs: dict[str, str], name: str = "", path: str = "", seen: set[int] | None = None) -> Branch:
    """Returns the tree of a module: its parts with their settings, its parameters with their shapes, equal neighbours folded into one.

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
        run[0] if len(run) == 1 else Branch(
            f"{run[0].name} … {run[-1].name}", f"{len(run)} × {run[0].label}", run[0].shape, f"{len(run)} × {run[0].numbers}", run[0].inside
        ) for run in runs
    ]  # fmt: skip


def _title(branch: Branch) -> str:
    return f"{branch.name}: {branch.label}" if branch.name and branch.label else branch.name or branch.label


def module_text(module: Module, outputs: dict[str, str] | None = None, header: tuple[str, str, str] | None = None) -> str:
    """Returns the tree of a module, one line a part or parameter, in three columns: what it is, its shape, how many numbers it holds.

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
            rows.append((indent + ("└── " if last else "├── ") + _title(branch), branch.shape, branch.numbers))
            add(branch.inside, indent + ("    " if last else "│   "))

    add(root.inside, "")
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    third = max(len(row[2].removesuffix(" parameters")) for row in rows)
    lines = []
    for label, shape, count in rows:
        number, _, unit = count.partition(" parameters") if count.endswith(" parameters") else (count, "", None)
        lines.append(f"{label:<{first}}  {shape:<{second}}  {number:>{third}}" + ("" if unit is None else " parameters"))
    return "\n".join(lines)


def module_html(module: Module) -> str:
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


# ---------------------------------------------------------------- graphs of operations


def dag_lines(tensor: Tensor) -> Iterator[str]:
    """Yields the graph that made `tensor`: a line with its shape a node, its inputs indented below. What was shown before is only named."""
    seen: set[int] = set()
    stack: list[tuple[str, str, Any]] = [("", "", tensor.grad_fn or tensor)]
    while stack:
        lead, indent, node = stack.pop()
        if not hasattr(node, "parents"):
            yield f"{lead}leaf Tensor of shape {node.shape}, {node.dtype.name}"
            continue
        again = id(node) in seen
        yield f"{lead}{node.name} -> shape {node.result[0]} (#{node.number}{', shown above' if again else ''})"
        if again:
            continue
        seen.add(id(node))
        parents = [parent for parent in node.parents if parent is not None]
        for i in reversed(range(len(parents))):
            last = i == len(parents) - 1
            stack.append((indent + ("└── " if last else "├── "), indent + ("    " if last else "│   "), parents[i]))


def dot_text(tensor: Tensor) -> str:
    """Returns the graph that made `tensor` in Graphviz's language: `dot -Tsvg`.

    Operations are boxes, leaves ellipses, both with their shapes; what is not differentiated is dashed; edges point from inputs to results.

    Source: The DOT Language, graphviz.org/doc/info/lang.html.
    """
    lines = ["digraph {", "  rankdir=BT; node [fontname=monospace];"]
    names: dict[int, str] = {}
    stack: list[Any] = [tensor.grad_fn or tensor]
    names[id(stack[0])] = "n0"

    def node(name: str, look: str, *texts: str) -> None:
        lines.append(f"  {name} [{look}, label={_quoted(chr(10).join(texts))}];")

    while stack:
        current = stack.pop()
        name = names[id(current)]
        if not hasattr(current, "parents"):
            node(name, "shape=ellipse", "leaf" if current.requires_grad else "constant", f"{current.dtype.name} {current.shape}")
            continue
        node(name, "shape=box", current.name, f"{current.result[1].name} {current.result[0]}")
        for place, (parent, given) in enumerate(zip(current.parents, current.inputs, strict=False)):
            if parent is None and given is not None:
                constant = f"{name}_{place}"
                node(constant, "shape=ellipse, style=dashed", "constant", f"{given[1].name} {given[0]}")
                lines.append(f"  {constant} -> {name};")
            elif parent is not None:
                if id(parent) not in names:
                    names[id(parent)] = f"n{len(names)}"
                    stack.append(parent)
                lines.append(f"  {names[id(parent)]} -> {name};")
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    """A text as a quoted string of Graphviz, whatever it holds: a backslash stays a backslash, a line break breaks the line."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
