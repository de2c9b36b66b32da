"""Compatibility: the small things that TinyGPT's documents import from `utils`, handed on from where they
live.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .dtype import DType
from .graph_text import dag_lines
from .tape import GradientFunction
from .tensor import Tensor, parse_value
from .tree import tree_flatten, tree_map, tree_unflatten

__all__ = ["DType", "argsort", "parse_value", "print_dag", "tree_flatten", "tree_map", "tree_unflatten"]


def argsort(values: Sequence[Any]) -> Any:
    """Returns the positions that would sort `values`, equal ones in order, as the same kind of sequence."""
    positions = sorted(range(len(values)), key=values.__getitem__)
    kind: Any = type(values)
    return kind(positions)


def print_dag(
    node: Tensor | GradientFunction, indent: str = "", last: bool = True, is_grad_fn: bool = False
) -> None:
    """Prints the graph of operations behind a node, each with its shape, shared parts once.

    Args:
        node: a Tensor, or its `grad_fn`.
        indent: what stands before each line.
        last, is_grad_fn: TinyGPT's function calls itself with them; here what node is says enough.
    """
    start = node if isinstance(node, GradientFunction) else node.grad_fn or node
    for line in dag_lines(start):
        print(f"{indent}{line}")
