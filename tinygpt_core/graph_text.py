"""Floor 5: the graph of operations that made a Tensor, as text: an indented tree, and Graphviz's language."""

from __future__ import annotations

from collections.abc import Iterator

from .tape import Differentiable, GradientFunction

Node = Differentiable | GradientFunction  # a leaf, or the record of an operation


def dag_lines(tensor: Differentiable) -> Iterator[str]:
    """Yields the graph that made `tensor`: a line with its shape a node, its inputs indented below. What was
    shown before is only named.
    """
    seen: set[int] = set()
    stack: list[tuple[str, str, Node]] = [("", "", tensor.grad_fn or tensor)]
    while stack:
        lead, indent, node = stack.pop()
        if not isinstance(node, GradientFunction):
            yield f"{lead}leaf Tensor of shape {node.shape}, {node.dtype.name}"
            continue
        again = id(node) in seen
        repeated = ", shown above" if again else ""
        yield f"{lead}{node.name} -> shape {node.result[0]} (#{node.number}{repeated})"
        if again:
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

    def node(name: str, look: str, *texts: str) -> None:
        lines.append(f"  {name} [{look}, label={_quoted(chr(10).join(texts))}];")

    while stack:
        current = stack.pop()
        name = names[id(current)]
        if not isinstance(current, GradientFunction):
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
