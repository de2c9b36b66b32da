"""Arrays of other libraries go in and come out without a copy, where layouts and dtypes allow it, and are
refused clearly where not.

The NumPy array of the same values and the same views is the independent definition; sharing is shown by
writing on either side.
"""

from __future__ import annotations

import ctypes
import gc
import math
import warnings
from array import array
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygpt_core import Tensor, backends, no_grad
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType

np = pytest.importorskip("numpy", reason="interoperation with NumPy is tested where NumPy is installed")
if reason := backends.why_not("numpy"):
    pytest.skip(
        f"sharing is tested on the numpy backend, which cannot be had: {reason}", allow_module_level=True
    )

from hypothesis.extra import numpy as hnp  # noqa: E402
from spec.strategies import DTYPES, arrays, layouts, make, shapes  # noqa: E402

BACKENDS = ("python", "numpy")
both = pytest.mark.parametrize("name", BACKENDS)
examples = settings(
    max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
dtype_names = st.sampled_from(DTYPES)


def other_value(dtype: str, old: Any) -> Any:
    """A value of the dtype that differs from `old`."""
    return not old if dtype == "bool" else 7 if old != 7 else 8


@st.composite
def foreign_arrays(draw: st.DrawFn) -> Any:
    """An ndarray of one of our dtypes in any layout: C and Fortran order, permuted, sliced with steps of
    either sign.
    """
    shape = draw(shapes(max_dims=3))
    layout = draw(layouts(shape, expand=False))
    return layout.view(draw(arrays(draw(dtype_names), layout.base)).copy(order=draw(st.sampled_from("CF"))))


# ---------------------------------------------------------------- out: numpy.asarray


@both
@examples
@given(data=st.data())
def test_asarray_is_the_same_elements_and_no_copy(name: str, data: st.DataObject) -> None:
    dtype, shape = data.draw(dtype_names), data.draw(shapes(max_dims=3))
    layout = data.draw(layouts(shape))
    values = data.draw(arrays(dtype, layout.base))
    base = make(backends.get(name), values)
    view = layout.view(base)
    seen = np.asarray(view)
    assert seen.dtype.name == dtype and seen.shape == view.shape
    assert np.array_equal(seen, layout.view(values))
    if not seen.size:
        return
    assert np.shares_memory(seen, np.asarray(base))
    broadcast = any(step == 0 and size > 1 for size, step in zip(view.shape, view.stride, strict=True))
    assert seen.flags.writeable == (not broadcast)
    # Written on our side, seen on theirs.
    base.assign(Buffer(other_value(dtype, seen.flat[0].item()), DType.from_name(dtype)).to(name))
    assert (np.array(view.to_python()) == seen).all() and seen.flat[0] == base.reshape(
        (base.numel,)
    ).to_python()[0]
    if not broadcast:  # and the other way
        position = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
        new = other_value(dtype, seen[position].item())
        seen[position] = new
        assert view[position].item() == new


@both
def test_tensors_hand_on_what_buffers_give(name: str) -> None:
    with backends.use(name):
        tensor = Tensor([[1.0, 2.0], [3.0, 4.0]])
        seen = np.asarray(tensor)
        seen[0, 1] = 9.0
        assert tensor.to_python() == [[1.0, 9.0], [3.0, 4.0]]
        assert np.asarray(tensor.transpose(0, 1)).tolist() == [[1.0, 3.0], [9.0, 4.0]]
        parameter = Tensor([1.0], requires_grad=True)
        assert not np.asarray(parameter).flags.writeable
        assert not np.asarray(parameter * 2).flags.writeable
        assert np.asarray(parameter.detach()).flags.writeable
        assert np.shares_memory(np.asarray(parameter), np.asarray(parameter.detach()))


@both
def test_an_array_outlives_the_tensor_and_its_rebinding(name: str) -> None:
    """`+=` on a Tensor that is recorded gives it another Buffer; an array of the old one keeps the old
    elements alive.
    """
    with backends.use(name):
        tensor = Tensor([1.0, 2.0, 3.0])
        seen = np.asarray(tensor)
        tensor += Tensor([1.0, 1.0, 1.0], requires_grad=True)
        assert tensor.grad_fn is not None
        del tensor
        gc.collect()
        for _ in range(50):
            Tensor([0.0] * 3)
        assert seen.tolist() == [1.0, 2.0, 3.0]


@both
def test_arithmetic_with_an_ndarray_is_refused(name: str) -> None:
    """NumPy must not take over and answer with an ndarray, which would drop the gradient without a word."""
    with backends.use(name):
        for ours in (Tensor([1.0, 2.0], requires_grad=True), Buffer([1.0, 2.0])):
            theirs = np.ones(2, "float32")
            for compute in (
                lambda a, b: a + b,
                lambda a, b: b + a,
                lambda a, b: a * b,
                lambda a, b: b * a,
                lambda a, b: b @ a,
                lambda a, b: np.exp(a),
            ):
                with pytest.raises(TypeError):
                    compute(ours, theirs)
            assert ours.maximum(1.5).to_python() == [1.5, 2.0]


@both
@examples
@given(data=st.data())
def test_memoryview_of_the_storage(name: str, data: st.DataObject) -> None:
    """`data`, `offset` and `stride` say where each element lies: the definition of a strided array."""
    dtype, shape = data.draw(dtype_names), data.draw(shapes(max_dims=3))
    layout = data.draw(layouts(shape))
    view = layout.view(make(backends.get(name), data.draw(arrays(dtype, layout.base))))
    flat = memoryview(view.data)
    assert flat.ndim == 1
    for index in np.ndindex(*shape):
        position = view.offset + sum(i * step for i, step in zip(index, view.stride, strict=True))
        assert flat[position] == view[index].item()


# ---------------------------------------------------------------- in: Tensor(ndarray)


@both
@examples
@given(theirs=foreign_arrays())
def test_an_ndarray_comes_in(name: str, theirs: Any) -> None:
    with backends.use(name):
        buffer = Buffer(theirs)
        assert (
            buffer.backend == name and buffer.dtype.name == theirs.dtype.name and buffer.shape == theirs.shape
        )
        assert buffer.to_python() == theirs.tolist()
        assert Tensor(theirs).to_python() == theirs.tolist()
        assert np.array_equal(np.asarray(buffer), theirs)
        assert np.asarray(buffer).strides == theirs.strides or name == "python" or not theirs.size
        if not theirs.size:
            return
        first = (0,) * theirs.ndim
        before = theirs[first].item()
        new = other_value(theirs.dtype.name, before)
        theirs[first] = new
        assert buffer[first].item() == (new if name == "numpy" else before)  # shared, or a copy
        buffer[first] = before
        assert theirs[first] == (before if name == "numpy" else new)


@examples
@given(theirs=foreign_arrays())
def test_what_came_in_goes_on_like_any_buffer(theirs: Any) -> None:
    """Views, reductions, `data`, `offset` and `to` of someone else's array, which may have gaps or run
    backwards.
    """
    with backends.use("numpy"):
        buffer = Buffer(theirs)
        assert buffer.to("python").to_python() == theirs.tolist()
        assert buffer.reshape((buffer.numel,)).to_python() == theirs.reshape(-1).tolist()
        turned = buffer.permute(tuple(reversed(range(buffer.ndim))))
        assert turned.to_python() == theirs.T.tolist()
        if theirs.size:
            assert memoryview(turned.data)[turned.offset] == theirs[(0,) * theirs.ndim]
            assert np.shares_memory(np.asarray(turned), theirs)
            assert buffer.max().item() == theirs.max()


@both
def test_a_dtype_converts(name: str) -> None:
    with backends.use(name):
        assert Tensor(np.array([1.5, 2.5]), DType.float32).dtype is DType.float32
        assert Buffer(np.array([0, 3]), DType.bool).to_python() == [False, True]
        tensor = Tensor(np.array([1.0, 2.0], "float32"), requires_grad=True)
        (tensor * tensor).sum().backward()
        assert tensor.grad is not None and tensor.grad.to_python() == [2.0, 4.0]


@both
def test_ndarrays_stand_wherever_nested_lists_may(name: str) -> None:
    with backends.use(name):
        tensor = Tensor.zeros((2, 3))
        tensor.assign(np.arange(3.0))
        assert tensor.to_python() == [[0.0, 1.0, 2.0]] * 2 and tensor.dtype is DType.float32
        tensor[:, 1] = np.array([7, 8])
        assert tensor.to_python() == [[0.0, 7.0, 2.0], [0.0, 8.0, 2.0]]
        assert tensor.take(np.array([1, 1])).to_python() == [[0.0, 8.0, 2.0]] * 2
        weight = Tensor(np.ones((2, 2), "float32"), requires_grad=True)
        (weight * 3).backward(np.array([[1.0, 0.0], [0.0, 2.0]]))
        assert weight.grad is not None and weight.grad.to_python() == [[3.0, 0.0], [0.0, 6.0]]


@both
def test_numpy_scalars_and_arrays_without_axes(name: str) -> None:
    with backends.use(name):
        for scalar in (
            np.float32(1.5),
            np.float64(1.5),
            np.int32(3),
            np.int64(3),
            np.bool_(True),
            np.array(2.5),
        ):
            buffer = Buffer(scalar)
            assert buffer.shape == () and buffer.item() == scalar.item()
        assert Buffer(np.int64(3)).dtype is DType.int64 and Buffer(np.float32(3)).dtype is DType.float32


@both
@pytest.mark.parametrize("typecode", "ilqfd")
def test_whatever_has_the_buffer_protocol(name: str, typecode: str) -> None:
    values = array(typecode, [1, 2, 3, 4])
    dtype = {"i": "int32", "q": "int64", "f": "float32", "d": "float64"}.get(
        typecode
    ) or f"int{8 * values.itemsize}"
    with backends.use(name):
        assert Buffer(values).dtype.name == dtype and Buffer(values).to_python() == [1, 2, 3, 4]
        assert Buffer(memoryview(values)[::-2]).to_python() == [4, 2]
        assert Buffer(memoryview(values).cast("B").cast(typecode, (2, 2))).to_python() == [[1, 2], [3, 4]]


def test_bools_are_zeros_and_ones_whatever_the_bytes() -> None:
    """A bool of another library may be any byte that is not 0; ours are 0 and 1."""
    strange = np.array([0, 1, 2, 255], "uint8").view("bool")
    buffer = backends.get("python")(strange)
    assert buffer.to_python() == [False, True, True, True] and list(buffer.to_array()) == [0, 1, 1, 1]


REFUSED = [
    "uint8",
    "int8",
    "int16",
    "uint32",
    "uint64",
    "float16",
    "complex64",
    ">f4",
    ">i8",
    "U3",
    "S2",
    "datetime64[s]",
    "object",
]


@both
@pytest.mark.parametrize("dtype", REFUSED)
def test_other_dtypes_are_refused_by_name(name: str, dtype: str) -> None:
    theirs = np.zeros(3, dtype)
    with backends.use(name):
        for make_one in (Buffer, Tensor):
            with pytest.raises(TypeError) as caught:
                make_one(theirs)
            assert "no dtype holds" in str(caught.value)
            if dtype not in ("datetime64[s]", "object"):  # which NumPy itself does not give as a buffer
                assert str(theirs.dtype) in str(caught.value) and "float32" in str(caught.value)


@both
@pytest.mark.parametrize(
    "thing",
    [None, "abc", {1, 2}, object(), b"abc", bytearray(b"abc"), (ctypes.c_uint8 * 3)()],
    ids=lambda thing: type(thing).__name__,
)
def test_what_is_no_array_of_numbers_is_refused(name: str, thing: Any) -> None:
    with backends.use(name), pytest.raises(TypeError, match="no dtype holds"):
        Buffer(thing)


def test_a_read_only_array_can_be_read_but_not_written() -> None:
    theirs = np.arange(4.0)
    theirs.flags.writeable = False
    with backends.use("numpy"):
        buffer = Buffer(theirs)
        assert (buffer + 1).to_python() == [1.0, 2.0, 3.0, 4.0]
        assert not np.asarray(buffer).flags.writeable
        for view in (buffer, buffer[1:]):
            with pytest.raises(ValueError, match="read-only"):
                view.assign(0.0)
        with pytest.raises(ValueError, match="read-only"):
            buffer.scatter_add(Buffer([0]), Buffer([1.0], DType.float64))
        copy = buffer.copy()
        copy.assign(0.0)
        assert copy.to_python() == [0.0] * 4 and theirs[1] == 1.0


def test_an_unaligned_array_is_copied() -> None:
    """Fields of records lie at odd addresses; strides are counted in elements, so such a thing cannot be
    shared.
    """
    records = np.zeros(3, dtype=[("flag", "u1"), ("x", "f4")])
    records["x"] = [1.0, 2.0, 3.0]
    with backends.use("numpy"):
        buffer = Buffer(records["x"])
        assert buffer.to_python() == [1.0, 2.0, 3.0] and buffer.stride == (1,)
        records["x"] = 0.0
        assert buffer.to_python() == [1.0, 2.0, 3.0]


def test_memory_mapped_files_are_shared(tmp_path: Any) -> None:
    np.arange(6, dtype="float32").tofile(tmp_path / "numbers")
    mapped = np.memmap(tmp_path / "numbers", "float32", "r+", shape=(2, 3))
    with backends.use("numpy"):
        tensor = Tensor(mapped)
        tensor[1, 2] = 50.0
        mapped.flush()
    assert np.fromfile(tmp_path / "numbers", "float32")[5] == 50.0


def test_a_shared_array_that_changes_is_not_counted_but_ours_is() -> None:
    """What the documentation says of version counters: our own writes are caught, those of another library
    cannot be.
    """
    with backends.use("numpy"):
        theirs = np.array([1.0, 2.0], "float32")
        x = Tensor(theirs)
        w = Tensor([3.0, 4.0], requires_grad=True)
        y = (w * x).sum()
        theirs[0] = 100.0  # unseen: the gradient is that of the new values
        y.backward()
        assert w.grad is not None and w.grad.to_python() == [100.0, 2.0]
        y = (w * x).sum()
        x.assign(0.0)
        with pytest.raises(RuntimeError, match="changed in place"):
            y.backward()


# ---------------------------------------------------------------- DLPack


@examples
@given(theirs=foreign_arrays())
def test_dlpack_between_numpy_and_us(theirs: Any) -> None:
    with backends.use("numpy"):
        tensor = Tensor(theirs)
        back = np.from_dlpack(tensor)
        assert back.dtype == theirs.dtype and np.array_equal(back, theirs)
        assert not theirs.size or np.shares_memory(back, theirs)
        assert tensor.__dlpack_device__() == theirs.__dlpack_device__()


class OnlyDLPack:
    """What a library without NumPy's protocols gives."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


def test_dlpack_comes_in_without_a_copy() -> None:
    with backends.use("numpy"):
        theirs = np.arange(6.0, dtype="float32").reshape(2, 3)
        tensor = Tensor(OnlyDLPack(theirs.T))
        assert tensor.shape == (3, 2) and np.shares_memory(np.asarray(tensor), theirs)
        theirs[1, 2] = 50.0
        assert tensor[2, 1].item() == 50.0
        with pytest.raises(TypeError, match="no dtype holds elements of uint8"):
            Tensor(OnlyDLPack(np.zeros(2, "uint8")))


def test_dlpack_refusals_are_clear() -> None:
    with pytest.raises(BufferError, match=r"python.*numpy"):
        np.from_dlpack(backends.get("python")([1.0]))
    with backends.use("numpy"), pytest.raises(BufferError, match="detach"):
        np.from_dlpack(Tensor([1.0], requires_grad=True))


def test_torch_shares_with_us_both_ways() -> None:
    torch = pytest.importorskip("torch", reason="sharing with PyTorch is tested where PyTorch is installed")
    with backends.use("numpy"):
        ours = Tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        theirs = torch.from_dlpack(ours.transpose(0, 1))
        assert theirs.shape == (3, 2) and theirs.dtype == torch.float32
        theirs[2, 0] = 30.0
        assert ours[0, 2].item() == 30.0
        theirs = torch.arange(6.0).reshape(2, 3)[:, ::2]
        ours = Tensor(theirs)
        assert ours.to_python() == [[0.0, 2.0], [3.0, 5.0]]
        with no_grad():
            ours[1, 1] = 50.0
        assert theirs[1, 1] == 50.0
        with pytest.raises(TypeError, match="detach"):
            Tensor(torch.zeros(2, requires_grad=True))
        for dtype in (torch.bfloat16, torch.float16, torch.uint8):
            with pytest.raises(TypeError):
                Tensor(torch.zeros(2, dtype=dtype))


@both
@examples
@given(values=hnp.arrays("float32", hnp.array_shapes(max_dims=2), elements=st.floats(width=32)))
def test_special_values_pass_bit_for_bit(name: str, values: Any) -> None:
    with backends.use(name):
        assert np.asarray(Buffer(values)).tobytes() == values.tobytes()
        assert all(
            math.isnan(a) == math.isnan(b)
            for a, b in zip(Buffer(values).to_array(), values.flat, strict=True)
        )


@both
def test_numpy_scalars_count_as_python_numbers(name: str) -> None:
    """On either side, in arithmetic, comparisons, `where` and assignment: what the Python number gives."""
    scalars = [np.float32(2), np.float64(2), np.float16(2), np.int64(2), np.int32(2), np.bool_(True)]
    calls = [
        lambda x, s: x + s,
        lambda x, s: s * x,
        lambda x, s: s - x,
        lambda x, s: x / s,
        lambda x, s: s**x,
        lambda x, s: x > s,
        lambda x, s: s == x,
        lambda x, s: x.maximum(s),
        lambda x, s: type(x).where(x == 2.0, s, x),
    ]
    with backends.use(name):
        for scalar in (*scalars, np.array(2.0), np.array(2)):
            for call in calls:
                for x in (Tensor([1.0, 2.0]), Buffer([1.0, 2.0])):
                    ours, expected = call(x, scalar), call(x, scalar.item())
                    assert ours.to_python() == expected.to_python() and ours.dtype is expected.dtype
        x = Tensor([1.0, 2.0], requires_grad=True)
        (np.float32(3) * x).backward()
        assert x.grad is not None and x.grad.to_python() == [3.0, 3.0]
        for wrong in (np.complex64(1), np.datetime64("2020-01-01"), np.array([1.0])):
            with pytest.raises(TypeError):
                x + wrong


@both
def test_a_number_that_is_too_large_is_an_infinity_without_a_warning(name: str) -> None:
    with backends.use(name), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (Tensor([1.0]) + 1e300).to_python() == [math.inf]
        assert (Tensor([1.0]) * -1e300).to_python() == [-math.inf]
        assert (Tensor([1.0]) + 3.4028235e38).to_python() == [3.4028234663852886e38]
