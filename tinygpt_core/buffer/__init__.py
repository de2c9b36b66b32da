"""Floor 3: the strided array. `base` is the contract, `python` the reference that fulfils it with the
standard library alone, `rows` the products that it is fast by, and `text` what an array prints.
"""

from .base import Buffer

__all__ = ["Buffer"]
