"""Laws of the engine: how gradients flow through graphs, whatever the operations in them."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import operations
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.operations import Operation
from tinygpt_core.random import Key
from tinygpt_core.tensor import Tensor, apply_op, no_grad

from . import minimal
from .strategies import arrays, basic_indices, broadcastable, make, read, shapes
from .tolerances import assert_close


def leaf(backend: type[Buffer], values: Any, dtype: str = "float64") -> Tensor:
    return Tensor(make(backend, np.asarray(values, dtype)), requires_grad=True)


def grad_of(tensor: Tensor) -> np.ndarray:
    assert tensor.grad is not None, "no gradient arrived"
    assert not tensor.grad.requires_grad and tensor.grad.dtype is tensor.dtype
    return read(tensor.grad.buffer)


# ---------------------------------------------------------------- graphs


@pytest.mark.parametrize("other", ["python", "minimal"])
def test_gradients_go_from_one_backend_to_another(backend: type[Buffer], other: str) -> None:
    """A graph may cross backends: each part's gradients are on its own, and each leaf's on the leaf's."""
    minimal.register()
    home = backend.backend
    for first, second in ((home, other), (other, home)):
        x = Tensor(Buffer([1.0, 2.0]).to(first), requires_grad=True)
        weights = Tensor(Buffer([3.0, -1.0]).to(second), requires_grad=True)
        there = (x * 2.0).to(second)
        back = (there * there * weights).to(first)
        (back + x).backward()
        assert there.requires_grad and there.backend == second and back.backend == first
        assert x.grad is not None and x.grad.backend == first and x.grad.to_python() == [25.0, -15.0]
        assert weights.grad is not None and weights.grad.backend == second
        assert weights.grad.to_python() == [4.0, 16.0]


def test_a_move_is_recorded_as_everything_is(backend: type[Buffer]) -> None:
    minimal.register()
    x = Tensor([1.0], requires_grad=True)
    other = "minimal" if backend.backend == "python" else "python"
    assert x.to(backend.backend) is x
    assert not x.to(other).is_leaf
    with no_grad():
        assert x.to(other).is_leaf and not x.to(other).requires_grad
    assert not x.detach().to(other).requires_grad


@given(data=st.data())
def test_broadcasting_is_summed_back(backend: type[Buffer], data: st.DataObject) -> None:
    """The gradient of a broadcast operand has its shape: every axis that was stretched or added is summed."""
    first, second = data.draw(broadcastable())
    a, b = (leaf(backend, data.draw(arrays("float64", shape, -2, 2))) for shape in (first, second))
    shape = np.broadcast_shapes(first, second)
    weights = data.draw(arrays("float64", shape, -2, 2))
    (a * b).backward(Tensor(make(backend, weights)))
    for x, other in ((a, b), (b, a)):
        product = weights * read(other.buffer)
        extra = len(shape) - x.ndim
        axes = tuple(i for i in range(len(shape)) if i < extra or x.shape[i - extra] == 1)
        assert_close(grad_of(x), product.sum(axes, keepdims=True).reshape(x.shape), "float64", 100.0)


@given(data=st.data())
def test_slices_accumulate(backend: type[Buffer], data: st.DataObject) -> None:
    """Overlapping slices of one tensor, leaf or not, each add their part, also where the whole is used beside
    them.
    """
    shape = data.draw(shapes(min_dims=1, max_dims=2, min_side=1))
    x = leaf(backend, data.draw(arrays("float64", shape, -2, 2)))
    middle = x * 1.0 if data.draw(st.booleans()) else x
    expected = np.zeros(shape)
    total: Any = None
    for position, index in enumerate(data.draw(st.lists(basic_indices(shape), min_size=1, max_size=4))):
        part = (middle[index] * float(position + 1)).sum()
        expected[index] += position + 1
        total = part if total is None else total + part
        if data.draw(st.booleans()):
            total = total + middle.sum()
            expected += 1
    total.backward()
    assert_close(grad_of(x), expected, "float64")


def test_diamonds(backend: type[Buffer]) -> None:
    """A tensor used along several paths gets the sum over all of them; each record is visited once."""
    calls = []

    class Counted(Operation):
        def forward(self, x: Buffer) -> Buffer:
            return x * 3.0

        def backward(self, grad: Buffer) -> Buffer:
            calls.append(1)
            return grad * 3.0

    x = leaf(backend, [2.0])
    y = apply_op(Counted, x)
    ((y * y) + y + y).backward()
    assert grad_of(x).tolist() == [3.0 * (2 * 6.0 + 2)] and len(calls) == 1
    x.zero_grad()
    z = x
    for _ in range(60):  # 2^60 paths
        z = z + z
    z.backward()
    assert grad_of(x).tolist() == [2.0**60]


def test_the_same_tensor_as_both_operands(backend: type[Buffer]) -> None:
    for function, slope in (
        (lambda x: x + x, 2.0),
        (lambda x: x - x, 0.0),
        (lambda x: x * x, 6.0),
        (lambda x: x / x, 0.0),
    ):
        x = leaf(backend, [3.0])
        function(x).backward()
        assert_close(grad_of(x), [slope], "float64")
    x = leaf(backend, [[1.0, 2.0], [3.0, 4.0]])
    (x @ x).backward()
    ones = np.ones((2, 2))
    assert_close(grad_of(x), ones @ read(x.buffer).T + read(x.buffer).T @ ones, "float64")
    x = leaf(backend, [1.0, 2.0])
    x.maximum(x).backward()
    assert grad_of(x).tolist() == [1.0, 1.0]
    x = leaf(backend, [1.0, 2.0])
    Tensor.concatenate([x, x], 0).backward(Tensor(make(backend, np.array([1.0, 2.0, 3.0, 4.0]))))
    assert grad_of(x).tolist() == [4.0, 6.0]


def test_gradients_do_not_share_storage(backend: type[Buffer]) -> None:
    """Changing one gradient in place changes no other, nor the incoming one."""
    a, b = leaf(backend, [1.0, 2.0]), leaf(backend, [3.0, 4.0])
    incoming = Tensor(make(backend, np.array([1.0, 1.0])))
    (a + b).backward(incoming)
    assert a.grad is not None and b.grad is not None
    a.grad.assign(9.0)
    assert b.grad.to_python() == [1.0, 1.0] and incoming.to_python() == [1.0, 1.0]
    x = leaf(backend, [[1.0, 2.0]])
    x.sum().backward()
    assert x.grad is not None
    x.grad[0, 0] = 5.0  # not a broadcast view
    assert x.grad.to_python() == [[5.0, 1.0]]
    y = leaf(backend, [1.0])
    y.backward(incoming[:1])
    assert y.grad is not None
    y.grad.assign(7.0)
    assert incoming.to_python() == [1.0, 1.0]


def test_unused_inputs_of_concatenate(backend: type[Buffer]) -> None:
    """Each input gets its own part, also where one before it needs no gradient."""
    a, b, c = Tensor(make(backend, np.zeros(2))), leaf(backend, [1.0, 2.0, 3.0]), leaf(backend, [4.0])
    Tensor.concatenate([a, b, c], 0).backward(Tensor(make(backend, np.arange(6.0))))
    assert a.grad is None and grad_of(b).tolist() == [2.0, 3.0, 4.0] and grad_of(c).tolist() == [5.0]


# ---------------------------------------------------------------- backward's arguments and lifetime


def test_passes_add_up_until_zero_grad(backend: type[Buffer]) -> None:
    x = leaf(backend, [1.0, 2.0])
    for times in (1, 2, 3):
        (x * 2.0).backward()
        assert grad_of(x).tolist() == [2.0 * times] * 2
    x.zero_grad()
    assert x.grad is None


def test_incoming_gradients(backend: type[Buffer]) -> None:
    x = leaf(backend, [1.0, 2.0])
    (x * 3.0).backward(Tensor(make(backend, np.array([1.0, -1.0]))))
    assert grad_of(x).tolist() == [3.0, -3.0]
    with pytest.raises(RuntimeError) as caught:
        (x * 3.0).backward(Tensor([1.0, 2.0, 3.0]))
    assert "(3,)" in str(caught.value) and "(2,)" in str(caught.value)
    with pytest.raises(RuntimeError, match="require"):
        Tensor([1.0]).backward()


def test_a_graph_is_freed_unless_retained(backend: type[Buffer]) -> None:
    x = leaf(backend, [2.0])
    y = (x * x).exp()
    y.backward(retain_graph=True)
    first = grad_of(x)
    y.backward()
    assert_close(grad_of(x), 2 * first, "float64")
    with pytest.raises(RuntimeError, match="retain_graph"):
        y.backward()


def test_retain_grad(backend: type[Buffer]) -> None:
    x = leaf(backend, [2.0])
    y = x * 3.0
    z = y * y
    y.retain_grad()
    z.backward()
    assert grad_of(y).tolist() == [12.0] and grad_of(x).tolist() == [36.0] and z.grad is None
    with pytest.raises(RuntimeError):
        Tensor([1.0]).retain_grad()


def test_no_grad(backend: type[Buffer]) -> None:
    x = leaf(backend, [2.0])
    with no_grad():
        assert not (x * x).requires_grad
        with no_grad():
            pass
        assert not (x * x).requires_grad
        x.assign([5.0])
        x += 1.0
    assert (x * x).requires_grad and x.is_leaf and x.to_python() == [6.0]

    @no_grad()
    def double(value: Tensor) -> Tensor:
        return value * 2.0

    assert not double(x).requires_grad
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert (x * x).requires_grad, "an exception left recording switched off"


def test_no_grad_is_for_its_thread_and_nests(backend: type[Buffer]) -> None:
    """A decorated function may call itself, and what one thread does not record, another one does."""

    @no_grad()
    def power(x: Tensor, n: int) -> Tensor:
        return x if n == 0 else power(x, n - 1) * x

    x = leaf(backend, [2.0])
    assert not power(x, 3).requires_grad and (x * x).requires_grad
    recorded = []

    def in_a_thread() -> None:
        y = Tensor(x.buffer, requires_grad=True)
        (y * y).backward()
        recorded.append(grad_of(y).tolist())
        with no_grad():
            recorded.append((y * y).requires_grad)

    with no_grad():
        thread = threading.Thread(target=in_a_thread)
        thread.start()
        thread.join()
        assert recorded == [[4.0], False] and not (x * x).requires_grad
    (x * x).backward()
    assert grad_of(x).tolist() == [4.0]


def test_detach_shares_storage_but_no_history(backend: type[Buffer]) -> None:
    x = leaf(backend, [2.0])
    y = x * 3.0
    cut = y.detach()
    assert cut.is_leaf and not cut.requires_grad and cut.to_python() == [6.0]
    (y + cut * 10.0).backward()
    assert grad_of(x).tolist() == [3.0]
    cut.assign(1.0)
    assert y.to_python() == [1.0]


# ---------------------------------------------------------------- in-place changes


def _attention(x: Tensor) -> Tensor:
    heads = x.reshape((1, 1, 2, 2))
    return apply_op(operations.Attention, heads, heads, heads)


NEEDS_ITS_INPUT = {
    "mul": lambda x: x * x,
    "div": lambda x: 1.0 / x,
    "pow": lambda x: x**3.0,
    "log": lambda x: x.log(),
    "sin": lambda x: x.sin(),
    "log_sigmoid": lambda x: x.log_sigmoid(),
    "maximum": lambda x: x.maximum(1.5),
    "max": lambda x: x.max(),
    "matmul": lambda x: x @ x,
    "gelu": lambda x: x.gelu(),
    "silu": lambda x: x.silu(),
    "linear": lambda x: apply_op(operations.Linear, x, x, None),
    "attention": _attention,
    "view": lambda x: x[0] * x[1],
}
NEEDS_ITS_OUTPUT = {
    "exp": lambda x: x.exp(),
    "tanh": lambda x: x.tanh(),
    "sqrt": lambda x: x.sqrt(),
    "sigmoid": lambda x: x.sigmoid(),
    "softmax": lambda x: x.softmax(),
}


def _backward_after(change: Any, y: Tensor, x: Tensor) -> None:
    change()
    with pytest.raises(RuntimeError, match="in place"):
        y.backward()
    assert x.grad is None


@pytest.mark.parametrize("name", NEEDS_ITS_INPUT)
def test_a_changed_operand_is_noticed(backend: type[Buffer], name: str) -> None:
    """What a pending backward needs was changed in place: a RuntimeError, not a wrong gradient. Through any
    view of it, too.
    """
    x = leaf(backend, [[1.0, 2.0], [3.0, 4.0]])
    middle = x * 1.0
    y = NEEDS_ITS_INPUT[name](middle)
    view = middle.detach()[0]
    _backward_after(lambda: view.assign(9.0), y, x)


@pytest.mark.parametrize("name", NEEDS_ITS_OUTPUT)
def test_a_changed_result_is_noticed(backend: type[Buffer], name: str) -> None:
    x = leaf(backend, [[1.0, 2.0], [3.0, 4.0]])
    y = NEEDS_ITS_OUTPUT[name](x)
    _backward_after(lambda: y.detach().assign(0.0), y, x)


def test_a_change_that_nobody_needs_is_fine(backend: type[Buffer]) -> None:
    x = leaf(backend, [1.0, 2.0])
    y = x + 1.0
    y.detach().assign(0.0)
    y.backward()
    assert grad_of(x).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("kind", ["float", "integer", "bool"])
def test_an_in_place_operation_keeps_the_dtype(backend: type[Buffer], kind: str) -> None:
    """It never rounds a float into an integer: where the result is of a higher kind, nothing changes and the
    error says so.
    """
    low, high = {"float": ("float32", "float64"), "integer": ("int32", "float64"), "bool": ("bool", "int32")}[
        kind
    ]
    x = Tensor(make(backend, np.array([1, 0], low)))
    other = Tensor(make(backend, np.array([2, 3], high)))
    if kind == "float":
        x += other
        assert x.dtype.name == low and x.to_python() == [3.0, 3.0]
        recorded = leaf(backend, [1.0, 2.0], low)
        y = recorded * 1.0
        y += other
        assert y.dtype.name == low and y.to_python() == [3.0, 5.0]
        y.backward()
        assert grad_of(recorded).tolist() == [1.0, 1.0]
        return
    with pytest.raises(ValueError, match=f"cannot turn {low} .* into {high}"):
        x += other
    with pytest.raises(ValueError, match=f"cannot turn {low} .* into float64"):
        x *= 1.5
    assert x.dtype.name == low and x.to_python() == [1, 0]


def test_leaves_refuse_recorded_changes(backend: type[Buffer]) -> None:
    x = leaf(backend, [1.0, 2.0])
    with pytest.raises(RuntimeError, match="no_grad"):
        x += 1.0
    with pytest.raises(RuntimeError, match="no_grad"):
        x[0] = 1.0
    assert x.to_python() == [1.0, 2.0]


def test_indices_that_change_are_noticed(backend: type[Buffer]) -> None:
    weights, indices = leaf(backend, [[1.0], [2.0]]), Tensor([0, 1])
    y = weights.take(indices)
    indices.buffer[0] = 1
    with pytest.raises(RuntimeError, match="in place"):
        y.backward()


# ---------------------------------------------------------------- size


def test_a_hundred_thousand_operations_in_a_row(backend: type[Buffer]) -> None:
    """No recursion, neither in backward nor when the graph dies, and what is kept grows with the chain and no
    faster.
    """
    x = leaf(backend, 0.5)
    y = x
    for _ in range(50_000):
        y = (-y).sum()
    y.backward()
    assert grad_of(x).tolist() == 1.0
    del y
    y = x
    for _ in range(50_000):
        y = -y
    del y  # a graph that no backward has freed


def test_memory_grows_with_the_chain_and_no_faster(backend: type[Buffer]) -> None:
    """Four times the operations keep four times the memory, forward and backward."""

    def peak(length: int) -> int:
        x = leaf(backend, [0.5])
        gc.collect()
        tracemalloc.start()
        try:
            y = x
            for _ in range(length):
                y = y * x
            y.backward()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(4000) < 4.6 * peak(1000)


def test_a_graph_dies_without_the_garbage_collector(backend: type[Buffer]) -> None:
    """Neither forward nor backward leaves reference cycles, so memory goes back when the last name does."""
    gc.collect()
    gc.disable()
    try:
        for run_backward in (False, True):
            x = leaf(backend, [[1.0, 2.0], [3.0, 4.0]])
            y = (x @ x).softmax()
            y.retain_grad()
            z = (y[0] * y[1]).tanh().sum() + apply_op(
                operations.Dropout, x, probability=0.5, key=Key(0, 0, 0)
            ).gelu().sum()
            watched = [weakref.ref(y), weakref.ref(z), weakref.ref(z.grad_fn), weakref.ref(y.buffer)]
            if run_backward:
                z.backward()
            del y, z
            assert [ref() for ref in watched] == [None] * len(watched)
    finally:
        gc.enable()


def test_backward_frees_as_it_goes(backend: type[Buffer]) -> None:
    """After backward the records hold nothing, although the result is still there."""
    x = leaf(backend, [1.0, 2.0])
    middle = x * 2.0
    buffer = weakref.ref(middle.buffer)
    y = middle * middle
    del middle
    assert buffer() is not None
    y.backward()
    assert buffer() is None


# ---------------------------------------------------------------- operations of users


def test_a_users_operation(backend: type[Buffer]) -> None:
    """Five lines make one: broadcasting is summed back, functions are called only where needed, None means no
    gradient.
    """
    called = []

    class Scaled(Operation):
        def forward(self, x: Buffer, factor: Buffer) -> Buffer:
            self.x, self.factor = x, factor
            return x * factor

        def backward(self, grad: Buffer) -> Any:
            return (
                lambda: called.append("x") or grad * self.factor,
                lambda: called.append("factor") or grad * self.x,
            )

    x, factor = leaf(backend, [[1.0, 2.0], [3.0, 4.0]]), Tensor(make(backend, np.array([10.0, 20.0])))
    apply_op(Scaled, x, factor).backward()
    assert called == ["x"] and grad_of(x).tolist() == [[10.0, 20.0]] * 2
    factor.requires_grad = True
    apply_op(Scaled, x, factor).backward()
    assert grad_of(factor).tolist() == [4.0, 6.0]

    class Wrong(Operation):
        def forward(self, x: Buffer) -> Buffer:
            return x * 1.0

        def backward(self, grad: Buffer) -> Any:
            return grad[0]

    with pytest.raises(RuntimeError) as caught:
        apply_op(Wrong, leaf(backend, [[1.0, 2.0]] * 3)).backward()
    assert "Wrong" in str(caught.value) and "(3, 2)" in str(caught.value) and "(2,)" in str(caught.value)
    with pytest.raises(TypeError, match="Scaled"):
        apply_op(Scaled, x, 3.0)  # type: ignore[arg-type]


def test_an_operation_that_lacks_a_half_names_itself(backend: type[Buffer]) -> None:
    """Without `forward` there is no result; without `backward` there is one, and no gradient."""

    class Neither(Operation):
        pass

    class Onward(Operation):
        def forward(self, x: Buffer) -> Buffer:
            return x * 2.0

    x = leaf(backend, [1.0, 2.0])
    with pytest.raises(NotImplementedError, match="Neither has no forward"):
        apply_op(Neither, x)
    y = apply_op(Onward, x)
    assert y.to_python() == [2.0, 4.0]
    with pytest.raises(NotImplementedError, match="Onward has no backward"):
        y.backward()


@given(data=st.data())
def test_a_float32_graph_has_float32_gradients(backend: type[Buffer], data: st.DataObject) -> None:
    x = leaf(backend, data.draw(arrays("float32", (2, 2), 0.5, 2)), "float32")
    for y in (
        x * 2.0,
        x.exp() + 1,
        (x @ x).softmax(),
        x.mean(),
        x.max(0),
        x**2,
        1 / x,
        x.take([0, 1, 1]),
        x[0],
        x.maximum(1.0),
    ):
        assert y.dtype is DType.float32
        y.backward()
        assert grad_of(x).dtype == np.float32


def test_a_gradient_that_will_not_come_is_said(backend: type[Buffer]) -> None:
    """As in PyTorch: `grad` of an intermediate, unless `retain_grad` was called; and that after backward."""
    x = leaf(backend, [1.0, 2.0])
    y = x * 2.0
    z = y * 3.0
    z.retain_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert x.grad is None and z.grad is None
        z.backward()
        assert grad_of(x).tolist() == [6.0, 6.0] and grad_of(z).tolist() == [1.0, 1.0]
    with pytest.warns(UserWarning, match=r"retain_grad\(\) on it before backward"):
        assert y.grad is None
    with pytest.warns(UserWarning, match=r"retain_grad\(\) after backward"):
        y.retain_grad()
