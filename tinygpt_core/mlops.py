"""Compatibility: TinyGPT's name for the module of operations."""

from .operations import *  # noqa: F403
from .operations import Operation

__all__ = [
    name
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, Operation)
]
