"""Compatibility: the small things that TinyGPT's documents import from `utils`, handed on from where they
live.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .dtype import DType
from .tensor import Tensor
from .tree import tree_flatten, tree_map, tree_unflatten

__all__ = ["DType", "argsort", "print_dag", "tree_flatten", "tree_map", "tree_unflatten"]


def argsort(values: Sequence[Any]) -> Any:
    """Returns the positions that would sort `values`, equal ones in order, as the same kind of sequence."""
    positions = sorted(range(len(values)), key=values.__getitem__)
    kind: Any = type(values)
    return kind(positions)


def print_dag(tensor: Tensor) -> None:
    """Prints the graph of operations that made `tensor`, each with its shape."""
    tensor.print_dag()
