"""The reference backend's own kernels: the same formulas, fused over rows of Python floats.

A composed kernel rounds to the dtype and packs an array after every elementary step. These unpack their inputs once, do all their
arithmetic in doubles on lists, and pack once.
"""

from __future__ import annotations

from ..buffer.python import PythonBuffer

__all__ = ["PythonBuffer"]
