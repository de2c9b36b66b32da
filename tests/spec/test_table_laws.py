"""The templates that turn a row of the table into laws about Buffers."""

from __future__ import annotations

import inspect
import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tinygpt_core import kernels, operations
from tinygpt_core.buffer import Buffer, functions
from tinygpt_core.tensor import Tensor

from .strategies import read
from .table import COVERED, OWN_LAWS, ROWS, Row, Wrong
from .templates import arrays_of, buffers_of, draw_dtypes, draw_operands, must_hooks, truth
from .tolerances import assert_close

ON_BUFFERS = [pytest.param(row, id=row.name) for row in ROWS if row.on_buffers]
# Rows in which two operands can have one shape and dtype.
SEVERAL = [param for param in ON_BUFFERS if param.values[0].mixed or param.id in ("scatter_add", "Attention")]
ERRORS = [
    pytest.param(wrong, id=f"{row.name}-{wrong.what.replace(' ', '_')}")
    for row in ROWS
    for wrong in row.errors
]


@pytest.mark.parametrize("row", ON_BUFFERS)
@given(data=st.data())
def test_values_dtype_and_shape(backend: type[Buffer], row: Row, data: st.DataObject) -> None:
    """On operands in any layout, the result has the reference's values, shape and dtype; the operands stay as
    they were.
    """
    case = data.draw(row.cases())
    dtypes = draw_dtypes(data.draw, backend, row, case)
    made = draw_operands(data.draw, backend, row, case, dtypes)
    versions = [operand and operand.buffer.version[0] for operand in made]
    result = row.on_buffers(*buffers_of(made), **case.options)  # type: ignore[misc]
    assert type(result) is backend
    assert result.dtype.name == row.result(*dtypes), f"{row.name} of {dtypes} has dtype {result.dtype.name}"
    expected, magnitude = truth(row, arrays_of(made), case.options)
    # Where one operand is float32 its product with others is rounded to the result's dtype only, so that
    # dtype sets the tolerance.
    assert_close(read(result), expected, result.dtype.name, magnitude, f"{row.name} {case.options}")
    for operand, version in zip(made, versions, strict=True):
        if operand is not None:
            assert np.array_equal(
                read(operand.buffer), operand.array, equal_nan=operand.array.dtype.kind == "f"
            ), "an operand changed"
            assert operand.buffer.version[0] == version, "an operand's version changed"


@pytest.mark.parametrize("row", ON_BUFFERS)
@given(data=st.data())
def test_views_and_copies_give_the_same(backend: type[Buffer], row: Row, data: st.DataObject) -> None:
    """A view and a contiguous copy of it give the same result, to rounding: sums may take another order."""
    case = data.draw(row.cases())
    dtypes = draw_dtypes(data.draw, backend, row, case)
    made = draw_operands(data.draw, backend, row, case, dtypes, special=False)
    views = buffers_of(made)
    copies = [None if buffer is None else buffer.copy() for buffer in views]
    first, second = row.on_buffers(*views, **case.options), row.on_buffers(*copies, **case.options)
    assert (first.shape, first.dtype) == (second.shape, second.dtype)
    _, magnitude = truth(row, arrays_of(made), case.options)
    assert_close(read(first), read(second), first.dtype.name, magnitude, row.name)


@pytest.mark.parametrize("row", SEVERAL)
@given(data=st.data())
def test_one_buffer_as_two_operands(backend: type[Buffer], row: Row, data: st.DataObject) -> None:
    """The same Buffer in several places gives what equal copies there give."""
    case = data.draw(row.cases())
    dtypes = draw_dtypes(data.draw, backend, row, case)
    made = draw_operands(data.draw, backend, row, case, dtypes, special=False)
    shared = buffers_of(made)
    free = [i for i, slot in enumerate(case.slots) if slot is not None and not slot.dtype]
    assume(len(free) > 1)
    for i in free[1:]:
        if shared[i].shape == shared[free[0]].shape:
            shared[i] = shared[free[0]]
    if row.name == "pow":
        assume(bool(np.all(read(shared[0]) >= 0)))
    if row.name in ("floor_divide", "remainder"):  # the dividend divides
        assume(bool(np.all(read(shared[0]) != 0)))
    copies = [None if buffer is None else buffer.copy() for buffer in shared]
    first, second = row.on_buffers(*shared, **case.options), row.on_buffers(*copies, **case.options)
    arrays = [None if buffer is None else read(buffer) for buffer in copies]
    _, magnitude = truth(row, arrays, case.options)
    assert_close(read(first), read(second), first.dtype.name, magnitude, row.name)


@pytest.mark.parametrize("wrong", ERRORS)
def test_errors_say_what_is_wrong(backend: type[Buffer], wrong: Wrong) -> None:
    """Bad input raises the right exception, whose message names what was wrong; a silent wrong answer fails
    this.
    """
    with pytest.raises(wrong.exception) as caught:
        wrong.call(backend)
    for name in wrong.names:
        assert name in str(caught.value), f"the message does not name {name}: {caught.value}"


# ---------------------------------------------------------------- nothing public is left out


def _own(kind: type) -> list[str]:
    return [
        name
        for name, value in vars(kind).items()
        if callable(value) or isinstance(value, (property, classmethod, staticmethod))
    ]


def test_every_public_method_of_buffer_has_a_row() -> None:
    protocol = {"__new__", "__slots__", "__module__", "__doc__", "__weakref__", "__annotations__"}
    public = {
        name
        for name in _own(Buffer)
        if not name.startswith("_") or (name.startswith("__") and name not in protocol)
    }
    assert public <= COVERED | {"__annotate__", "__annotate_func__"}, (
        f"without a row: {sorted(public - COVERED)}"
    )


def test_every_hook_has_a_row() -> None:
    hooks = {name[1:] for name in must_hooks()}
    assert len(hooks) >= 30, "the hooks were not found"
    assert hooks <= COVERED, f"without a row: {sorted(hooks - COVERED)}"


BY_SUBJECT = Tensor.__bases__


def _names_in_their_modules(kind: type) -> set[str]:
    """The names of what is of a kind in the modules of the methods by subject, and is made there."""
    return {
        name
        for subject in BY_SUBJECT
        for name, value in vars(sys.modules[subject.__module__]).items()
        if isinstance(value, type) and issubclass(value, kind) and value.__module__ == subject.__module__
    }


def test_every_method_by_subject_has_a_row() -> None:
    public = {f"Tensor.{name}" for kind in BY_SUBJECT for name in _own(kind) if not name.startswith("_")}
    assert len(public) > 40 and public <= COVERED, f"without a row: {sorted(public - COVERED)}"


def test_every_function_of_buffers_has_a_row() -> None:
    public = {name for name, value in vars(functions).items() if inspect.isfunction(value)}
    public = {
        n for n in public if not n.startswith("_") and getattr(functions, n).__module__ == functions.__name__
    }
    assert len(public) > 20 and public <= COVERED, f"without a row: {sorted(public - COVERED)}"


def test_every_operation_has_a_row() -> None:
    public = {
        name
        for name, value in vars(operations).items()
        if isinstance(value, type) and issubclass(value, operations.Operation)
    }
    public |= _names_in_their_modules(operations.Operation)
    public = {name for name in public - {"Operation", "KernelOperation"} if not name.startswith("_")}
    assert len(public) > 25 and public <= COVERED, f"without a row: {sorted(public - COVERED)}"


def test_every_kernel_has_a_row() -> None:
    public = {
        name
        for name, value in vars(kernels).items()
        if isinstance(value, type) and issubclass(value, kernels.Kernel)
    }
    assert len(public) > 12 and public - {"Kernel"} <= COVERED, (
        f"without a row: {sorted(public - {'Kernel'} - COVERED)}"
    )


def test_the_table_names_nothing_that_is_gone() -> None:
    """Every name that a row covers exists, so a renamed thing cannot keep its row while it has no law."""
    known = set(dir(Buffer)) | {name[1:] for name in dir(Buffer)} | set(vars(operations)) | set(vars(kernels))
    known |= _names_in_their_modules(operations.Operation) | set(vars(functions))
    known |= {f"Tensor.{name}" for name in dir(Tensor)}
    known |= {"data", "dtype", "shape", "stride", "offset", "version", "backend"}
    missing = {name for row in ROWS for name in row.covers} | set(OWN_LAWS)
    missing -= known | {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}
    assert not missing, f"rows for what does not exist: {sorted(missing)}"
