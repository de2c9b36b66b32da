"""Floor 5: the graph of operations that made a Tensor, as text: an indented tree, and Graphviz's language."""

from __future__ import annotations

from collections.abc import Iterator

from .dtype import DType
from .shape import Shape
from .tape import Differentiable, GradientFunction

Node = Differentiable | GradientFunction  # a leaf, or the record of an operation


def dag_lines(node: Node) -> Iterator[str]:
    """Yields the graph of a node, a line with its shape for each, its inputs indented below.

    What was shown before is only named.
    """
    seen: set[int] = set()
    stack: list[tuple[str, str, Node]] = [("", "", node)]
    while stack:
        lead, indent, node = stack.pop()
        if not isinstance(node, GradientFunction):
            yield f"{lead}leaf Tensor of shape {node.shape}, {node.dtype.name}"
            continue
        is_repeated = id(node) in seen
        note = ", shown above" if is_repeated else ""
        yield f"{lead}{node.name} -> shape {node.result[0]} (#{node.number}{note})"
        if is_repeated:
            continue
        seen.add(id(node))
        parents = [parent for parent in node.parents if parent is not None]
        for place, parent in reversed(list(enumerate(parents))):
            is_last = place == len(parents) - 1
            branch = "└── " if is_last else "├── "
            below = "    " if is_last else "│   "
            stack.append((indent + branch, indent + below, parent))


def dot_text(tensor: Differentiable) -> str:
    """Returns the graph that made `tensor` in Graphviz's language: `dot -Tsvg`.

    Operations are boxes, leaves ellipses, both with their shapes; what is not differentiated is dashed; edges
    point from inputs to results.

    Source: The DOT Language, graphviz.org/doc/info/lang.html.
    """
    lines = ["digraph {", "  rankdir=BT; node [fontname=monospace];"]
    start = tensor.grad_fn or tensor
    names = {id(start): "n0"}
    stack: list[Node] = [start]

    def add_node(name: str, look: str, title: str, shape: Shape, dtype: DType) -> None:
        label = _quoted(f"{title}\n{dtype.name} {shape}")
        lines.append(f"  {name} [{look}, label={label}];")

    while stack:
        node = stack.pop()
        name = names[id(node)]
        if not isinstance(node, GradientFunction):
            title = "leaf" if node.requires_grad else "constant"
            add_node(name, "shape=ellipse", title, node.shape, node.dtype)
            continue
        add_node(name, "shape=box", node.name, *node.result)
        for place, (parent, about) in enumerate(zip(node.parents, node.inputs, strict=False)):
            if parent is None and about is not None:
                constant = f"{name}_{place}"
                add_node(constant, "shape=ellipse, style=dashed", "constant", *about)
                lines.append(f"  {constant} -> {name};")
            elif parent is not None:
                if id(parent) not in names:
                    names[id(parent)] = f"n{len(names)}"
                    stack.append(parent)
                lines.append(f"  {names[id(parent)]} -> {name};")
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    """Returns a text as a quoted string of Graphviz, where a backslash stays one and a line break is one."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
