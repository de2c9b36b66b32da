"""Elements in order: sort, argsort and the k largest. Each is made of positions, and of a gather by these."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, Self, TypeVar

from ..shape import check_int, normalize_axis
from .base import TensorMethods
from .indexing import Gather

T = TypeVar("T")


class Ordered(NamedTuple, Generic[T]):
    """What `sort` and `topk` return, of one shape.

    Attributes:
        values: the elements in order.
        indices: the int64 positions along the axis where they stood.
    """

    values: T
    indices: T


class Ordering(TensorMethods):
    """The methods of Tensor that put elements into order. NaN counts as the largest, as in PyTorch."""

    __slots__ = ()

    def argsort(self, axis: int = -1, descending: bool = False) -> Self:
        """Returns the int64 positions along `axis` that sort the elements; equal ones stay in their order.

        Raises:
            TypeError: the axis is no int.
            ValueError: the axis is not there.
        """
        return self._without_record(self.buffer.argsort(axis, descending))

    def sort(self, axis: int = -1, descending: bool = False) -> Ordered[Self]:
        """Returns the elements in order along `axis`, and where each stood: `values` and `indices`.

        Equal elements stay in the order in which they stand. Gradients go back to where the elements stood.

        Raises:
            TypeError: the axis is no int.
            ValueError: the axis is not there.
        """
        order = self.argsort(axis, descending)
        return Ordered(self._operate(Gather, order, axis=axis), order)

    def topk(self, k: int, axis: int = -1, largest: bool = True) -> Ordered[Self]:
        """Returns the k largest elements along `axis`, the largest first, and where they stood.

        The smallest with `largest=False`, the smallest first. Of equals those that stand first are taken.

        Raises:
            TypeError: the axis or k is no int.
            ValueError: the axis is not there, or it has not k elements.
        """
        axis = normalize_axis(axis, self.ndim)
        k = check_int("k", k)
        if not 0 <= k <= self.shape[axis]:
            raise ValueError(
                f"topk takes {k} of {self.shape[axis]} elements: k lies in [0, {self.shape[axis]}]"
            )
        first: tuple[Any, ...] = (*(slice(None),) * axis, slice(k))
        order = self._without_record(self.buffer.argsort(axis, largest)[first])
        return Ordered(self._operate(Gather, order, axis=axis), order)
