"""Small made-up data to classify, the same for a seed on every backend."""

from __future__ import annotations

import math

from ..buffer.base import Buffer
from ..dtype import DType
from ..random import Generator, normals
from ..tensor import Tensor


def two_moons(count: int, noise: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Makes two half circles that reach into each other, which no straight line separates.

    Class 0 lies on (cos a, sin a), class 1 on (1 - cos a, 1/2 - sin a), with angles a spaced evenly from 0 to
    π; normal noise is added.

    Args:
        count: how many points, half of them (rounded up) of class 0.
        noise: standard deviation of the noise in each coordinate.
        seed: of the noise.

    Returns:
        points, float32 of shape (count, 2), and classes, int32 of shape (count,), on the active backend; the
        classes take turns.

    Raises:
        ValueError: fewer than two points, or a negative noise.
    """
    if count < 2 or not 0.0 <= noise < math.inf:
        raise ValueError(
            f"two moons need at least 2 points and a noise of at least 0, but got {count} and {noise}"
        )
    offsets = normals(Generator(seed).reserve(2 * count), 2 * count)
    points = []
    classes = []
    for i in range(count):
        number = (count + 1 - i % 2) // 2  # points of this class
        angle = math.pi * (i // 2) / max(number - 1, 1)
        x = math.cos(angle)
        y = math.sin(angle)
        if i % 2 == 1:
            x = 1.0 - x
            y = 0.5 - y
        points.append([x + noise * offsets[2 * i], y + noise * offsets[2 * i + 1]])
        classes.append(i % 2)
    return Tensor(Buffer(points)), Tensor(Buffer(classes, DType.int32))
