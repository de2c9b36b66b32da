"""Which elementwise chains serve a dtype: compiled loops for float32 where Numba is installed, else chains of
NumPy calls.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy

from . import chains

VARIABLE = "TINYGPT_COMPILED"


@cache
def compiled_loops() -> ModuleType | None:
    """Returns the module of compiled loops, or None without Numba, or where $TINYGPT_COMPILED is 0."""
    if os.environ.get(VARIABLE) == "0" or find_spec("numba") is None:
        return None
    try:
        from . import compiled
    except ImportError:  # a Numba that does not go with this NumPy says so with an ImportError
        return None
    return compiled


def loops_for(dtype: Any) -> Any:
    """Returns the module whose functions take arrays of `dtype`."""
    if dtype == numpy.float32 and (compiled := compiled_loops()) is not None:
        return compiled
    return chains
