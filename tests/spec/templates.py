"""What the templates share: drawing the operands of a case, and what the reference says about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tinygpt_core.buffer import Buffer

from .strategies import FLOATS, Operand, distinct, operands, supported
from .table import Case, Row, Slot, floating


def draw_dtypes(draw: Callable[[Any], Any], backend: type[Buffer], row: Row, case: Case) -> list[str]:
    """Returns a dtype for each operand under test: the same for all, unless the row mixes them."""
    count = sum(slot is not None and not slot.dtype for slot in case.slots)
    choice = st.sampled_from(supported(backend, row.dtypes))
    if row.mixed and draw(st.booleans()):
        return [draw(choice) for _ in range(count)]
    return [draw(choice)] * count


def draw_operands(
    draw: Callable[[Any], Any],
    backend: type[Buffer],
    row: Row,
    case: Case,
    dtypes: list[str],
    special: bool | None = None,
) -> list[Operand | None]:
    """Returns an operand for each slot of the case (None for one that is left out), in any layout."""
    remaining = iter(dtypes)
    special = row.special if special is None else special
    result: list[Operand | None] = []
    for slot in case.slots:
        if slot is None:
            result.append(None)
        elif slot.dtype:
            result.append(draw(operands(backend, slot.shape, slot.dtype, slot.low, max(slot.low, slot.high))))
        else:
            result.append(draw(operands(backend, slot.shape, next(remaining), slot.low, slot.high, special)))
    return result


def truth(row: Row, arrays: list[Any], options: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns the reference's result, computed in float64, and the magnitude that scales its tolerance."""

    def widened(x: Any) -> Any:
        return (
            x.astype(np.float64)
            if x is not None and (x.dtype.name in FLOATS or row.result is floating)
            else x
        )

    wide = [widened(x) for x in arrays]
    with np.errstate(all="ignore"):
        expected = row.reference(*wide, **options)
        return expected, row.magnitude(*wide, **options) if row.magnitude else None


def arrays_of(made: list[Operand | None]) -> list[Any]:
    return [None if operand is None else operand.array for operand in made]


def buffers_of(made: list[Operand | None]) -> list[Any]:
    return [None if operand is None else operand.buffer for operand in made]


def draw_smooth(draw: Callable[[Any], Any], slot: Slot) -> np.ndarray:
    """Returns float64 values at which derivatives exist: distinct, and in the range that the slot calls
    smooth.
    """
    return draw(distinct(slot.shape, *slot.smooth))


def must_hooks() -> set[str]:
    """Returns the names of the hooks that Buffer itself leaves out: they raise NotImplementedError."""

    def raises(name: str, value: Any) -> bool:
        code = getattr(getattr(value, "__func__", value), "__code__", None)
        return (
            name.startswith("_")
            and not name.startswith("__")
            and code is not None
            and "NotImplementedError" in code.co_names
        )

    return {name for name, value in vars(Buffer).items() if raises(name, value)} - {"_missing"}
