"""Numbers of 16 bits as they lie in files, made float32, which holds every value of either kind."""

from __future__ import annotations

import struct
import sys
from array import array
from itertools import chain
from typing import Any

from .base import Kernel

PIECE = 1 << 16  # bytes whose numbers are Python objects at once


class WidenHalves(Kernel):
    """y = x of each element: 16-bit numbers, little-endian, become the bytes of float32 of this machine.
    Forward only.

    Args of `forward`: the bytes, and "F16" (IEEE 754's binary16) or "BF16" (the upper half of a float32).
    """

    @staticmethod
    def forward(raw: bytes, dtype_name: str) -> tuple[memoryview, Any]:
        if dtype_name == "F16":
            # A piece at a time, whose numbers, as Python objects, take little memory
            pieces = (raw[i : i + PIECE] for i in range(0, len(raw), PIECE))
            numbers = (struct.unpack(f"<{len(piece) // 2}e", piece) for piece in pieces)
            flat = array("f", chain.from_iterable(numbers))
        else:
            wide = bytearray(2 * len(raw))
            wide[2::4] = raw[0::2]
            wide[3::4] = raw[1::2]
            flat = array("f")
            flat.frombytes(wide)
            if sys.byteorder == "big":
                flat.byteswap()
        return memoryview(flat).cast("B"), None
