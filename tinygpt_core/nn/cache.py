"""The key/value cache: what attention keeps of the positions that a model has seen."""

from __future__ import annotations

from ..buffer.base import Buffer
from ..dtype import DType
from ..tensor import Tensor
from .arguments import check_size

FIRST_CAPACITY = 64  # positions for which there is room at once


class KeyValueCache:
    """Keys and values of the positions that a model has seen, so that generating runs only the new ones.

    Memory is taken as positions come: where they do not fit any more, room for twice as many is made, up to
    the context. What attention gets are the same numbers.

    Args:
        num_layers, batch_size, num_heads, context_length, head_dim: sizes of the buffers when they are full;
            the heads are those of keys and values.
        like: a Buffer of the wanted dtype and backend, such as that of a parameter.

    Attributes:
        length: how many positions every layer has stored.
        keys, values: for each layer a Buffer (batch_size, num_heads, room, head_dim); room is at most
            context_length.
        ids: int32 (batch_size, context_length), the tokens at the positions, for models that look at n-grams;
            None until `store_ids` is first called.

    Raises:
        TypeError: a batch_size that is no int.
        ValueError: a batch_size below 1.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_heads: int,
        context_length: int,
        head_dim: int,
        like: Buffer,
    ) -> None:
        room = min(context_length, FIRST_CAPACITY)
        shape = (check_size("batch_size", batch_size), num_heads, room, head_dim)
        self.batch_size = batch_size
        self.context_length = context_length
        self.length = 0
        self.keys = [type(like).zeros(shape, like.dtype) for _ in range(num_layers)]
        self.values = [type(like).zeros(shape, like.dtype) for _ in range(num_layers)]
        self.ids: Buffer | None = None

    def reset(self) -> None:
        """Forgets all positions; the storage is kept."""
        self.length = 0

    def rewind(self, length: int) -> None:
        """Forgets all positions but the first `length`, as if the others had never been there.

        Raises:
            ValueError: there are not so many.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"a cache of {self.length} positions cannot be taken back to {length}")
        self.length = length

    def store(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes the keys and values (B, H, T, D) of new positions of one layer, and returns those of all
        positions.

        `length` is left alone: the model advances it when all its layers have stored theirs.
        """
        end = self.length + key.shape[2]
        self.keys[layer] = self._with_room(self.keys[layer], end)
        self.values[layer] = self._with_room(self.values[layer], end)
        self.keys[layer][:, :, self.length : end, :] = key.buffer
        self.values[layer][:, :, self.length : end, :] = value.buffer
        return Tensor(self.keys[layer][:, :, :end, :]), Tensor(self.values[layer][:, :, :end, :])

    def _with_room(self, stored: Buffer, end: int) -> Buffer:
        """Returns a Buffer of one layer where `end` positions fit: itself, or a larger one with what it has
        of the first `length` positions.
        """
        batch_size, num_heads, room, head_dim = stored.shape
        if end <= room:
            return stored
        room = min(self.context_length, max(end, 2 * room))
        larger = type(stored).zeros((batch_size, num_heads, room, head_dim), stored.dtype)
        if self.length:
            larger[:, :, : self.length, :] = stored[:, :, : self.length, :]
        return larger

    def store_ids(self, token_ids: Tensor) -> None:
        """Writes the ids (B, T) of new positions; like `store`, it leaves `length` alone."""
        buffer = token_ids.buffer
        if self.ids is None:
            self.ids = type(buffer).zeros((self.batch_size, self.context_length), DType.int32)
        self.ids[:, self.length : self.length + token_ids.shape[1]] = buffer.as_dtype(DType.int32)

    def past_ids(self) -> Tensor | None:
        """Returns the ids (B, length) that were stored; None where there are none."""
        return None if self.ids is None or not self.length else Tensor(self.ids[:, : self.length])
