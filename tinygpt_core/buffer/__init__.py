"""Floor 3: the strided array, the data structure under every Tensor.

`base` is the contract, and `python` the reference that fulfils it with the standard library alone, fast by
the products of `rows`. `text` says how an array is printed.
"""

from .base import Buffer

__all__ = ["Buffer"]
