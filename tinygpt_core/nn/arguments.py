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
