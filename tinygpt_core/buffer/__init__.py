"""Floor 3: the strided array. `base` is the contract, `python` the reference that fulfils it with the
standard library alone.
"""

from .base import Buffer

__all__ = ["Buffer"]
