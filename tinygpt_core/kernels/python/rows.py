"""Rows of Python floats: what the reference backend's kernels compute on."""

from __future__ import annotations

from collections.abc import Sequence

from ...buffer.python import Row, dot

Rows = Sequence[Row]


def _column_sums(rows: Rows, width: int) -> list[float]:
    return list(map(sum, zip(*rows, strict=True))) if rows else [0.0] * width


def _column_dots(a: Rows, b: Rows, width: int) -> list[float]:
    """The sum over rows of a times b, for each column."""
    return list(map(dot, zip(*a, strict=True), zip(*b, strict=True))) if a else [0.0] * width
