"""The small things that TinyGPT's documents import from `utils`, handed on from where they live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .dtype import DType
from .tree import tree_flatten, tree_map, tree_unflatten

if TYPE_CHECKING:
    from .tensor import Tensor

__all__ = ["DType", "argsort", "print_dag", "tree_flatten", "tree_map", "tree_unflatten"]


def argsort(values: Sequence[Any]) -> Any:
    """Returns the positions that would sort `values`, equal ones in order, as the same kind of sequence."""
    return type(values)(sorted(range(len(values)), key=values.__getitem__))  # type: ignore[call-arg]


def print_dag(tensor: Tensor) -> None:
    """Prints the graph of operations that made `tensor`, each with its shape."""
    tensor.print_dag()
