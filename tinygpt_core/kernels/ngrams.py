"""Hashes of n-grams: for each position of a text, rows of tables that its last tokens name.

    h_1 = mix(0, token_t),  h_2 = mix(h_1, token_(t-1)),  h_n = mix(h_(n-1), token_(t-n+1))
    mix(h, token) = y xor (y >> 15)   with y = (h xor (token + 1)) * 2654435769 mod 2^32
    row_n = floor(h_n * rows / 2^32)

A token before the beginning of the text counts as -1. 2654435769 is 2^32 divided by the golden ratio: Knuth's
multiplicative hashing. Two n-grams may get one row, and then share it; the more rows there are, the fewer do.

Sources: Knuth, "The Art of Computer Programming", volume 3, section 6.4; Lemire, "Fast Random Integer
Generation in an Interval", 2019 (the last line, which needs no division).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from .. import shape_errors
from ..buffer.base import Buffer
from ..dtype import DType
from ..shape_errors import ShapeError
from .base import Kernel

MULTIPLIER = 2654435769
MASK = 2**32 - 1
SHIFT = 15


class HashNgrams(Kernel):
    """rows[k, b, t] = the row, of `table_sizes[k]`, that table k has for the k + 2 tokens that end at t;
    dL/dids = 0, since integers have no gradient.

    ids: integers (B, T), 0 or more and below 2^31. Result: int32 (len(table_sizes), B, T).

    Raises:
        TypeError: ids that are no integers.
        ShapeError: ids that are no matrix.
    """

    @staticmethod
    def check(ids: Buffer) -> None:
        """Raises TypeError or ShapeError unless the ids are an integer matrix."""
        if ids.dtype.kind != "i":
            raise TypeError(f"hash_ngrams needs integer ids, not {ids.dtype.name}")
        if ids.ndim != 2:
            raise ShapeError(
                shape_errors.wrong_shape("hash_ngrams", "ids", ids.shape, expected=("batch", "positions"))
            )

    @staticmethod
    def forward(ids: Buffer, *, table_sizes: Sequence[int]) -> tuple[Buffer, None]:
        HashNgrams.check(ids)
        batch_size, length = ids.shape
        tokens = ids.to_array()
        found = [array("i") for _ in table_sizes]
        for start in range(0, batch_size * length, max(1, length)):
            row = tokens[start : start + length]
            hashes = [0] * length
            for back in range(len(table_sizes) + 1):
                # The token so many positions back, + 1; before the text 0
                added = [0] * min(back, length) + [token + 1 for token in row[: max(0, length - back)]]
                mixed = [((h ^ token) * MULTIPLIER) & MASK for h, token in zip(hashes, added, strict=True)]
                hashes = [y ^ (y >> SHIFT) for y in mixed]
                if back:
                    size = table_sizes[back - 1]
                    found[back - 1].extend([h * size >> 32 for h in hashes])
        flat = array("i")
        for rows in found:
            flat += rows
        return type(ids).from_array(flat, (len(table_sizes), batch_size, length), DType.int32), None
