"""Checks of the arguments that layers are made with, each with one wording of its error."""

from __future__ import annotations


def check_size(name: str, value: int) -> int:
    """Returns a size that is an int of at least 1.

    Raises:
        TypeError: it is no int; the message names the argument.
        ValueError: it is below 1.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, but got {value!r:.80}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, but got {value!r:.80}")
    return value


def check_divisible(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Raises ValueError, naming both arguments, unless the divisor divides the value."""
    if value % divisor:
        raise ValueError(f"{name} ({value}) must be divisible by {divisor_name} ({divisor})")


def check_rotary(head_name: str, head_dim: int, rotary_dim: int | None) -> None:
    """Raises ValueError, naming what gives a head its size, unless pairs of its numbers can be turned: of the
    first `rotary_dim`, or of all where that is None.

    Raises:
        TypeError: rotary_dim is no int.
    """
    if rotary_dim is None:
        if head_dim % 2:
            raise ValueError(f"rotary positions need an even head size, but {head_name} is {head_dim}")
    elif check_size("rotary_dim", rotary_dim) % 2 or rotary_dim > head_dim:
        raise ValueError(f"rotary_dim must be even and at most the head size {head_dim}, but is {rotary_dim}")
