"""The NumPy backend: `plugin` (found without importing NumPy), `buffer`, the fused `kernels`, and what makes
them fast: `loops` (`chains` of NumPy calls, or `compiled` by Numba), `threads`, `memory`.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Returns `NumpyBuffer`, importing NumPy only when it is asked for; raises AttributeError for any other
    name.
    """
    if name != "NumpyBuffer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .buffer import NumpyBuffer

    return NumpyBuffer
