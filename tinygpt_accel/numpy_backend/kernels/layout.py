"""Arrays as the kernels take them: as a matrix, as dense rows, as one flat run; a view where the layout
allows, else a copy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy


def as_matrix(x: Any, width: int) -> Any:
    """Returns an array as a matrix with rows of `width` elements, which may lie apart."""
    return x.reshape(-1, width) if width else x.reshape(math.prod(x.shape[:-1]), 0)


def as_rows(x: Any, width: int) -> Any:
    """Returns an array as a matrix with rows of `width` elements that lie one after the other."""
    return as_matrix(numpy.ascontiguousarray(x), width)


def as_flat(x: Any) -> Any:
    """Returns all elements along one axis, one after the other."""
    return numpy.ascontiguousarray(x).reshape(-1)
