"""The layer that drops activations at random while a model is trained."""

from __future__ import annotations

from .. import operations, random
from ..module import Module
from ..tensor import Tensor, apply_op


class Dropout(Module):
    """Dropout: in training `y = x m / (1 - probability)`, where m is 0 with that probability and else 1,
    drawn for each element.

    Outside training mode `y = x`. Which elements are dropped is drawn from `random.default_generator()`,
    so a restored generator state repeats them.

    Args:
        probability: of an element to be dropped, in [0, 1).

    Raises:
        ValueError: a probability outside [0, 1).

    Source: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"the dropout probability must lie in [0, 1), but got {probability}")
        self.probability = probability

    def __call__(self, x: Tensor) -> Tensor:
        if self.probability == 0.0 or not self.training:
            return x
        key = random.default_generator().reserve(x.numel)
        return apply_op(operations.Dropout, x, probability=self.probability, key=key)

    def _extra_repr(self) -> str:
        return f"probability={self.probability}"
