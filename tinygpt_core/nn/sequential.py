"""Modules one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..module import Module
from ..tensor import Tensor


class Sequential(Module):
    """Layers, one after the other: `Sequential(f, g, h)(x) = h(g(f(x)))`.

    Args:
        layers: Modules, or any functions of a Tensor.

    Shape:
        What the first layer takes -> what the last one gives.
    """

    def __init__(self, *layers: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = list(layers)

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Callable[[Tensor], Tensor]]:
        return iter(self.layers)

    def __getitem__(self, place: int) -> Callable[[Tensor], Tensor]:
        return self.layers[place]
