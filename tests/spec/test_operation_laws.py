"""The templates that turn a row of the table into laws about Tensors: an Operation's value and gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import backends, kernels, operations
from tinygpt_core.buffer import Buffer
from tinygpt_core.checks import check_gradients
from tinygpt_core.dtype import DType
from tinygpt_core.random import Generator
from tinygpt_core.tensor import Tensor, apply_op

from .strategies import arrays, layouts, make, operands, read
from .table import ROWS, Case, Row, Slot, elsewhere_of
from .templates import draw_smooth, truth
from .tolerances import STEP, assert_close, assert_gradient_close

ON_TENSORS = [pytest.param(row, id=row.name) for row in ROWS if row.on_tensors]
WITH_GRADIENT = [pytest.param(row, id=row.name) for row in ROWS if row.on_tensors and row.gradient]


def _smooth_operands(
    draw: Any, backend: type[Buffer], case: Case, dtype: str
) -> tuple[list[Any], list[Any], list[int]]:
    """Returns Buffers in any layout, their arrays, and the positions of those that are differentiated."""
    buffers: list[Any] = []
    references: list[Any] = []
    free = []
    for position, slot in enumerate(case.slots):
        if slot is None:
            buffers.append(None)
            references.append(None)
        elif slot.dtype:
            made = draw(operands(backend, slot.shape, slot.dtype, slot.low, max(slot.low, slot.high)))
            buffers.append(made.buffer)
            references.append(made.array)
        else:
            free.append(position)
            layout = draw(layouts(slot.shape, expand=False))
            values = draw_smooth(draw, slot).astype(dtype)
            view = layout.view(make(backend, np.full(layout.base, slot.smooth[1], dtype)))
            view.assign(make(backend, values))
            buffers.append(view)
            references.append(values)
    return buffers, references, free


@pytest.mark.parametrize("row", ON_TENSORS)
@given(data=st.data())
def test_values_of_tensors(backend: type[Buffer], row: Row, data: st.DataObject) -> None:
    """An operation on Tensors has the reference's values; it is recorded exactly where an input requires
    gradients.
    """
    case = data.draw(row.cases())
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    buffers, references, free = _smooth_operands(data.draw, backend, case, dtype)
    tensors = [None if buffer is None else Tensor(buffer) for buffer in buffers]
    result = row.on_tensors(*tensors, **case.options)  # type: ignore[misc]
    expected, magnitude = truth(row, references, case.options)
    assert result.dtype.name == dtype
    assert_close(read(result.buffer), expected, dtype, magnitude, row.name)
    assert not result.requires_grad and result.is_leaf
    if free:
        tensors[free[0]].requires_grad = True
        recorded = row.on_tensors(*tensors, **case.options)  # type: ignore[misc]
        assert recorded.requires_grad and not recorded.is_leaf


def numerical_gradients(
    row: Row, references: list[Any], free: list[int], options: Mapping[str, Any], weights: np.ndarray
) -> list[np.ndarray]:
    """Central differences of sum(weights * reference(…)): nothing of ours is called."""

    def value() -> float:
        return float(np.sum(weights * truth(row, references, options)[0]))

    gradients = []
    for position in free:
        x = references[position]
        gradient = np.zeros(x.shape)
        for where in np.ndindex(x.shape):
            before = x[where]
            x[where] = before + STEP
            above = value()
            x[where] = before - STEP
            below = value()
            x[where] = before
            gradient[where] = (above - below) / (2 * STEP)
        gradients.append(gradient)
    return gradients


@pytest.mark.parametrize("row", WITH_GRADIENT)
@given(data=st.data())
def test_gradients_against_central_differences_of_the_reference(
    backend: type[Buffer], row: Row, data: st.DataObject
) -> None:
    """The gradient of every input agrees, in float64, with central differences of the reference (which shares
    no code with ours).
    """
    case = data.draw(row.cases())
    buffers, references, free = _smooth_operands(data.draw, backend, case, "float64")
    tensors = [None if buffer is None else Tensor(buffer) for buffer in buffers]
    for position in free:
        tensors[position].requires_grad = True
    result = row.on_tensors(*tensors, **case.options)  # type: ignore[misc]
    weights = data.draw(arrays("float64", result.shape, -2, 2))
    result.backward(Tensor(make(backend, weights)))
    expected = numerical_gradients(row, references, free, case.options, weights)
    magnitude = float(np.max(np.abs(read(result.buffer)), initial=1.0))
    for position, gradient in zip(free, expected, strict=True):
        grad = tensors[position].grad
        assert grad is not None and grad.dtype is DType.float64
        assert_gradient_close(
            read(grad.buffer), gradient, f"{row.name} {case.options}, input {position}", magnitude
        )


@pytest.mark.parametrize("row", WITH_GRADIENT)
@given(data=st.data())
def test_only_wanted_gradients_arrive(backend: type[Buffer], row: Row, data: st.DataObject) -> None:
    """An input's gradient is the same whether or not others require one, has the input's shape and dtype, and
    the others stay without.
    """
    case = data.draw(row.cases())
    buffers, _, free = _smooth_operands(data.draw, backend, case, "float32")
    if not free:
        return
    wanted = data.draw(st.sampled_from(free))

    def gradients(required: list[int]) -> list[Any]:
        tensors = [None if buffer is None else Tensor(buffer) for buffer in buffers]
        for position in required:
            tensors[position].requires_grad = True
        row.on_tensors(*tensors, **case.options).backward()  # type: ignore[misc]
        return [None if tensor is None else tensor.grad for tensor in tensors]

    alone, together = gradients([wanted]), gradients(free)
    assert [i for i, grad in enumerate(alone) if grad is not None] == [wanted]
    assert (alone[wanted].shape, alone[wanted].dtype) == (buffers[wanted].shape, DType.float32)
    assert_close(read(alone[wanted].buffer), read(together[wanted].buffer), "float32", 1.0, row.name)


def _other_values(slot: Slot, values: np.ndarray) -> np.ndarray:
    """Returns values that an operand may have as well, all different from these where possible."""
    if values.dtype.name == "bool":
        return ~values
    if slot.dtype:  # integers: indices, which stay in their range
        low, high = math.ceil(slot.low), math.floor(max(slot.low, slot.high))
        return (values - low + 1) % (high - low + 1) + low
    return values * 0.5 + 0.25 * (slot.smooth[0] + slot.smooth[1])


def _verdicts_of_changes(kind: type[Buffer], row: Row, case: Case, given: list[Any]) -> list[str]:
    """Returns what backward says after a change of each operand and of the result: the name of the error,
    or "" where it gave exactly the gradients of the values before.
    """

    def gradients(changed: int | None) -> list[Any]:
        tensors = [None if item is None else Tensor(item[0].view(make(kind, item[1]))) for item in given]
        for tensor, slot in zip(tensors, case.slots, strict=True):
            if tensor is not None and slot is not None and not slot.dtype:
                tensor.requires_grad = True
        result = row.on_tensors(*tensors, **case.options)  # type: ignore[misc]
        if changed == len(tensors):
            result.detach().assign(result.detach() * 0.5 + 3.0)
        elif changed is not None:
            target = tensors[changed].detach()
            values = _other_values(case.slots[changed], read(target.buffer))  # type: ignore[arg-type]
            target.assign(Tensor(make(kind, values)))
        try:
            result.backward()
        except RuntimeError as problem:
            assert "changed in place" in str(problem)
            for position, tensor in enumerate(tensors):
                assert tensor is None or tensor.grad is None, (
                    f"{row.name}: backward refused, and still input {position} has the gradient {tensor.grad}"
                )
            raise
        return [None if t is None or t.grad is None else read(t.grad.buffer) for t in tensors]

    with backends.use(kind.backend):
        right = gradients(None)
        verdicts = []
        for position in range(len(given) + 1):
            if position < len(given) and given[position] is None:
                continue
            try:
                found = gradients(position)
            except (RuntimeError, ValueError) as problem:
                if isinstance(problem, ValueError):
                    assert position == len(given) and "broadcast view" in str(problem)
                verdicts.append(type(problem).__name__)
                continue
            for one, other in zip(found, right, strict=True):
                assert (one is None and other is None) or np.array_equal(one, other, equal_nan=True), (
                    f"{row.name} {dict(case.options)}: operand {position} was changed in place after the "
                    "forward, and the gradient is silently another one"
                )
            verdicts.append("")
        return verdicts


@pytest.mark.parametrize("row", WITH_GRADIENT)
@given(data=st.data())
def test_a_change_in_place_is_refused_or_harmless(
    backend: type[Buffer], row: Row, data: st.DataObject
) -> None:
    """After a change of any operand or of the result, backward raises or gives exactly the gradients of the
    values before; which of the two it does is the same on every backend.
    """
    case = data.draw(row.cases())
    given: list[Any] = []
    for slot in case.slots:
        if slot is None:
            given.append(None)
            continue
        layout = data.draw(layouts(slot.shape, expand=False))
        if slot.dtype:
            base = data.draw(arrays(slot.dtype, layout.base, slot.low, max(slot.low, slot.high)))
        else:
            base = np.full(layout.base, slot.smooth[1], "float64")
            layout.view(base)[...] = draw_smooth(data.draw, slot)
        given.append((layout, base))
    found = _verdicts_of_changes(backend, row, case, given)
    if backend.backend != "python":
        assert found == _verdicts_of_changes(backends.get("python"), row, case, given)


def test_kernels_of_two_backends_are_refused(backend: type[Buffer]) -> None:
    """Whichever operand is from elsewhere, and both are named."""
    here = Tensor([[1.0, 2.0], [3.0, 4.0]])
    elsewhere = elsewhere_of(here)
    with backends.use(elsewhere):
        there = Tensor([[1.0, 2.0], [3.0, 4.0]])
    for first, second in ((here, there), (there, here)):
        with pytest.raises(TypeError, match=backend.backend) as caught:
            apply_op(operations.Linear, first, second, None)
        assert elsewhere in str(caught.value)


@pytest.mark.parametrize("dtype", [DType.int32, DType.int64, DType.bool], ids=str)
def test_integers_refuse_gradients(backend: type[Buffer], dtype: DType) -> None:
    with pytest.raises(RuntimeError, match=dtype.name):
        Tensor([1, 0], dtype=dtype, requires_grad=True)
    tensor = Tensor([1, 0], dtype=dtype)
    with pytest.raises(RuntimeError, match=dtype.name):
        tensor.requires_grad = True


def test_a_float32_input_beside_integers_gets_a_float32_gradient(backend: type[Buffer]) -> None:
    """int32 and float32 meet in float64; the gradient goes back to what the input is."""
    x = Tensor([1.5, 2.0], requires_grad=True)
    y = x * Tensor([2, 3])
    assert y.dtype is DType.float64
    y.backward()
    assert x.grad is not None and x.grad.dtype is DType.float32 and x.grad.to_python() == [2.0, 3.0]


# ---------------------------------------------------------------- where derivatives do not exist, the laws
# that still hold


@given(data=st.data())
def test_tied_maximum_shares_the_gradient(backend: type[Buffer], data: st.DataObject) -> None:
    """Where both are equal each gets half, so that nothing vanishes and nothing is counted twice."""
    shape = data.draw(st.sampled_from([(), (3,), (2, 3), (0, 2)]))
    values = data.draw(arrays("float64", shape, -2, 2))
    other = np.where(data.draw(arrays("bool", shape)), values, values + 1.0)
    a, b = Tensor(make(backend, values), requires_grad=True), Tensor(make(backend, other), requires_grad=True)
    weights = data.draw(arrays("float64", shape, -3, 3))
    a.maximum(b).backward(Tensor(make(backend, weights)))
    share = np.where(values == other, 0.5, 0.0)
    assert a.grad is not None and b.grad is not None
    assert_close(read(a.grad.buffer), weights * share, "float64")
    assert_close(read(b.grad.buffer), weights * (1 - share), "float64")


@given(data=st.data())
def test_tied_max_shares_the_gradient(backend: type[Buffer], data: st.DataObject) -> None:
    """The gradient of a maximum over axes is split evenly among equals and adds up to the incoming one."""
    values = data.draw(arrays("float64", (3, 4), 0, 2).map(np.round))
    axes = data.draw(st.sampled_from([None, 0, 1, (0, 1), -1]))
    x = Tensor(make(backend, values), requires_grad=True)
    x.max(axes).backward()
    largest = (values == values.max(axes, keepdims=True)).astype(np.float64)
    assert x.grad is not None
    assert_close(read(x.grad.buffer), largest / largest.sum(axes, keepdims=True), "float64")


def test_relu_at_zero_has_no_slope(backend: type[Buffer]) -> None:
    x = Tensor([-1.0, 0.0, 2.0], requires_grad=True)
    x.relu().backward()
    assert x.grad is not None and x.grad.to_python() == [0.0, 0.0, 1.0]


def test_relu_of_a_negative_zero_is_zero(backend: type[Buffer]) -> None:
    """As `maximum(0)` gives it, without the sign."""
    for y in (Tensor([-0.0]).relu(), Tensor([-0.0]).maximum(0.0)):
        assert math.copysign(1.0, y.to_python()[0]) == 1.0


def test_powers_at_zero(backend: type[Buffer]) -> None:
    """d(x^0)/dx is 0 and d(x^2)/dx is 0 at x = 0, not NaN."""
    x = Tensor([0.0, 0.0, 0.0], requires_grad=True)
    (x ** Tensor([0.0, 2.0, 1.0])).backward()
    assert x.grad is not None and x.grad.to_python() == [0.0, 0.0, 1.0]


def test_log_softmax_does_not_underflow(backend: type[Buffer]) -> None:
    x = Tensor([[0.0, 1000.0], [-1000.0, 0.0]], requires_grad=True)
    y = x.log_softmax()
    assert y.to_python() == [[-1000.0, 0.0], [-1000.0, 0.0]]
    y.backward()
    assert x.grad is not None and np.isfinite(read(x.grad.buffer)).all()
    assert Tensor([[0.0, 1000.0]]).softmax().log().to_python() == [[-np.inf, 0.0]]


# ---------------------------------------------------------------- the checker itself


def test_check_gradients_accepts_right_ones(backend: type[Buffer]) -> None:
    a, b = Tensor.uniform((2, 3), generator=Generator(1)), Tensor.uniform((3, 2), generator=Generator(2))
    assert check_gradients(lambda x, y: (x @ y).tanh() * 2.0, a, b)


def test_check_gradients_rejects_a_slope_of_2_001(backend: type[Buffer]) -> None:
    from tinygpt_core.operations import Operation
    from tinygpt_core.tensor import apply_op

    class Double(Operation):
        def forward(self, x: Buffer) -> Buffer:
            return x * 2.0

        def backward(self, grad: Buffer) -> Buffer:
            return grad * 2.001

    with pytest.raises(AssertionError, match="input 0"):
        check_gradients(lambda x: apply_op(Double, x), Tensor([1.0, 2.0]))


def test_every_kernel_has_an_operation_that_says_where_it_is_computed() -> None:
    """Of its name, beside its formula; all but the steps of optimizers, which have no backward."""
    for name, kernel in vars(kernels).items():
        if isinstance(kernel, type) and "backward" in vars(kernel) and kernel is not kernels.Kernel:
            operation = getattr(operations, name)
            assert issubclass(operation, operations.KernelOperation) and operation.kernel is kernel
            room = kernel.__module__.rpartition(".")[2]
            assert f"The textbook form is `{room}.{name}`." in operation.__doc__
