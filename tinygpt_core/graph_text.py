"""Tensors, and the graphs that made them, as they are printed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .buffer.text import EDGE, ELIDE, _corners, _flat, _words, array_text

if TYPE_CHECKING:
    from .tensor import Tensor


def tensor_text(tensor: Tensor) -> str:
    """Returns `Tensor(elements, shape, dtype, backend, what gradients it has)`, the form in which a Tensor
    prints.
    """
    return "Tensor(" + array_text(tensor.buffer, "Tensor(", *_about(tensor))[len("Tensor(") :] + ")"


def _about(tensor: Tensor) -> list[str]:
    about = [f"shape={tensor.shape}", f"dtype={tensor.dtype.name}", f"backend={tensor.backend!r}"]
    if tensor.backend == "python":
        del about[-1]
    return about + (
        [f"grad_fn={tensor.grad_fn.name}"]
        if tensor.grad_fn
        else ["requires_grad=True"]
        if tensor.requires_grad
        else []
    )


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
    cells = "".join(
        "<tr>" + "".join(f"<td>{escape(word.strip())}</td>" for word in row) + "</tr>" for row in rows
    )
    return f'<table style="font-family:monospace;text-align:right"><caption>Tensor, {about}</caption><tbody>{cells}</tbody></table>'


def dag_lines(tensor: Tensor) -> Iterator[str]:
    """Yields the graph that made `tensor`: a line with its shape a node, its inputs indented below. What was
    shown before is only named.
    """
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
            stack.append(
                (indent + ("└── " if last else "├── "), indent + ("    " if last else "│   "), parents[i])
            )


def dot_text(tensor: Tensor) -> str:
    """Returns the graph that made `tensor` in Graphviz's language: `dot -Tsvg`.

    Operations are boxes, leaves ellipses, both with their shapes; what is not differentiated is dashed; edges
    point from inputs to results.

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
            node(
                name,
                "shape=ellipse",
                "leaf" if current.requires_grad else "constant",
                f"{current.dtype.name} {current.shape}",
            )
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
    """A text as a quoted string of Graphviz, whatever it holds: a backslash stays a backslash, a line break
    breaks the line.
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
