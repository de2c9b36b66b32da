"""What the methods here are written in terms of. `Tensor`, which inherits them, provides it."""

from __future__ import annotations

from typing import Any, Self

from ..buffer.base import Buffer
from ..dtype import DType, as_number
from ..operations import Operation
from ..shape import Shape


class TensorMethods:
    """The part of Tensor that methods by subject need: its Buffer, and how an operation is applied.

    Attributes:
        buffer: the Buffer with the elements.
    """

    __slots__ = ()

    buffer: Buffer

    @property
    def shape(self) -> Shape:
        """The size of each axis."""
        return self.buffer.shape

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.buffer.shape)

    @property
    def numel(self) -> int:
        """How many elements there are."""
        return self.buffer.numel

    @property
    def dtype(self) -> DType:
        """The type of the elements."""
        return self.buffer.dtype

    def _operate(self, operation: type[Operation], *others: Any, **options: Any) -> Self:
        """Returns the result of an operation of this Tensor and perhaps others, recorded (see `apply_op`)."""
        raise NotImplementedError

    def _apply(self, operation: type[Operation], other: Any, swap: bool = False) -> Any:
        """Returns the result of an operation of this Tensor and another or a number, recorded.

        With `swap` the other comes first. NotImplemented for what is neither Tensor nor number.
        """
        raise NotImplementedError

    def _without_record(self, buffer: Buffer) -> Self:
        """Returns a Tensor around a Buffer, with no gradient and no history."""
        raise NotImplementedError

    def _compare(self, other: Any, symbol: str) -> Any:
        """Returns what the Buffers' operator of that name says of this Tensor and another or a number, with
        no record; NotImplemented for what is neither.
        """
        if isinstance(other, TensorMethods):
            other = other.buffer
        result = getattr(self.buffer, symbol)(other)
        return result if result is NotImplemented else self._without_record(result)

    def _beside(self, value: Any, name: str) -> Self:
        """Returns an operand of the method `name`: a Tensor as it is, a number in the promoted dtype.

        Raises:
            TypeError: it is neither.
        """
        if isinstance(value, TensorMethods):
            return value  # type: ignore[return-value]
        number = as_number(value)
        if number is None:
            raise TypeError(
                f"{name} takes Tensors and numbers, not a {type(value).__name__}: wrap it in Tensor(…)"
            )
        return self._without_record(self.buffer.scalar(number))
