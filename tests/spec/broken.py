"""Backends with one defect each. A specification that does not catch them is not one
(`tests/test_spec_itself.py` tries them all).

Each is the minimal backend with one hook, method or kernel replaced by a version with a mistake that people
make. `caught_by` names the law (and row) that must fail, by an assertion; `crashes` says of the few whose
mistake is to raise what they raise, and why.
"""

from __future__ import annotations

import math
import random as unseeded
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

from tinygpt_core import backends, kernels
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.shape import broadcast_shapes, contiguous_strides

from .minimal import MinimalBuffer


class Law(NamedTuple):
    """A test function, in a module of this package, and the row it is to be given (or another argument), if
    it takes one.
    """

    module: str
    name: str
    row: str = ""


class Crash(NamedTuple):
    """What a backend raises where it should compute, and why that is its defect."""

    exception: type[Exception]
    why: str


class Broken(NamedTuple):
    """A backend with one defect, the laws that must fail on it, and what it raises if raising is the defect.

    A law fails by an assertion. A backend that raises anything else has stopped before a law could judge what
    it computes, which says nothing about the law: it has to declare that.
    """

    backend: type[MinimalBuffer]
    caught_by: tuple[Law, ...]
    crashes: Crash | None = None


BROKEN: dict[str, Broken] = {}


def broken(
    *caught_by: Law, crashes: Crash | None = None, **replaced_kernels: Any
) -> Callable[[type[MinimalBuffer]], type[MinimalBuffer]]:
    """Files a backend, whose docstring says what is wrong with it, under "broken-" and its name in words."""

    def file(kind: type[MinimalBuffer]) -> type[MinimalBuffer]:
        words = "".join("-" + c.lower() if c.isupper() else c for c in kind.__name__)
        kind.backend = "broken" + words
        BROKEN[kind.backend] = Broken(kind, caught_by, crashes)
        for name, replacement in replaced_kernels.items():
            kernels.register(getattr(kernels, name), kind, replacement)
        return kind

    return file


def register() -> None:
    """Makes all of them known by name."""

    def factory(kind: type[MinimalBuffer]) -> Callable[[str], type[Buffer]]:
        return lambda device: kind

    for name, entry in BROKEN.items():
        backends.register(name, factory(entry.backend), description=entry.backend.__doc__ or "")


def value(row: str) -> Law:
    return Law("test_table_laws", "test_values_dtype_and_shape", row)


def fused(row: str) -> Law:
    return Law("test_kernel_laws", "test_fused_equals_composed", row)


def buffer_law(name: str) -> Law:
    return Law("test_buffer_laws", name)


# ---------------------------------------------------------------- other libraries


@broken(buffer_law("test_numpy_sees_the_storage"))
class ArrayInterfaceWithoutOffset(MinimalBuffer):
    """numpy.asarray of a view begins where the storage does."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {**super().__array_interface__, "offset": 0}


@broken(buffer_law("test_numpy_sees_the_storage"))
class ArrayInterfaceOfACopy(MinimalBuffer):
    """numpy.asarray is given a copy of the storage, so neither side sees what the other writes."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        interface = super().__array_interface__
        return {**interface, "data": memoryview(bytearray(interface["data"].cast("B")))}


@broken(buffer_law("test_an_ndarray_comes_in"))
class ForeignInMemoryOrder(MinimalBuffer):
    """The elements of a transposed ndarray come in as they lie in memory, not in C order."""

    @classmethod
    def _from_foreign(cls, data: Any) -> Any:
        buffer = super()._from_foreign(data)
        if isinstance(buffer, Buffer):
            buffer.data = array(buffer.dtype.typecode, memoryview(data).tobytes("A"))
        return buffer


# ---------------------------------------------------------------- layout


@broken(buffer_law("test_views_share_storage"), buffer_law("test_is_a_view"))
class StaleView(MinimalBuffer):
    """A slice with a step is a copy, so writes through it are lost."""

    def _slice(self, index: Any) -> MinimalBuffer:
        view = super()._slice(index)
        return (
            view._copy()
            if any(isinstance(entry, slice) and entry.step not in (None, 1) for entry in index)
            else view
        )


@broken(buffer_law("test_reshape_is_a_view_where_numpy_has_one"), buffer_law("test_is_a_view"))
class ReshapeCopies(MinimalBuffer):
    """Every reshape moves data."""

    def _reshape(self, shape: Any) -> MinimalBuffer:
        return self._of(self._values(), shape, self.dtype)


@broken(value("reshape"), buffer_law("test_reshape_is_a_view_where_numpy_has_one"))
class ReshapeIgnoresStrides(MinimalBuffer):
    """A reshape takes for granted that elements lie in C order."""

    def _reshape(self, shape: Any) -> MinimalBuffer:
        view = self._view(shape, contiguous_strides(shape), self.offset)
        # Beyond the storage's end a C program reads something else; Python would raise, which is not the
        # defect that is meant.
        reaches_past_the_end = self.offset + self.numel > len(self.data)
        return super()._reshape(shape) if reaches_past_the_end else view


@broken(value("slice"), buffer_law("test_slices_are_pythons"))
class OffByOneStride(MinimalBuffer):
    """The stride of a slice with a step beyond 1 is one too small."""

    def _slice(self, index: Any) -> MinimalBuffer:
        view = super()._slice(index)
        slices = [entry for entry in index if isinstance(entry, slice)]
        stride = tuple(
            s - 1 if entry.step and entry.step > 1 else s
            for s, entry in zip(view.stride, slices, strict=True)
        )
        return view._view(view.shape, stride, view.offset)


@broken(value("permute"))
class PermuteInverted(MinimalBuffer):
    """A permutation is applied the wrong way round, which exchanging two axes does not show."""

    def _permute(self, axes: Any) -> MinimalBuffer:
        return super()._permute(tuple(sorted(range(len(axes)), key=axes.__getitem__)))


@broken(buffer_law("test_assignment_from_an_overlapping_view"))
class AssignInOrder(MinimalBuffer):
    """Assignment writes while it reads, so a value in the same storage is overwritten before it is read."""

    def _assign(self, other: Any) -> None:
        for position, source in zip(self._positions(), other._positions(), strict=True):
            self.data[position] = other.data[source]


@broken(buffer_law("test_broadcast_views_see_writes_and_refuse_them"))
class AssignToBroadcast(MinimalBuffer):
    """Broadcast views accept assignment, and every position changes at once."""

    def assign(self, other: Any) -> MinimalBuffer:
        other = other if isinstance(other, Buffer) else type(self)(other)
        self._assign(other.as_dtype(self.dtype)._expand(self.shape))
        self.version[0] += 1
        return self


@broken(
    buffer_law("test_assignment_is_numpys"),
    Law("test_autograd_laws", "test_a_changed_operand_is_noticed", "mul"),
)
class VersionStays(MinimalBuffer):
    """A write leaves the version as it was, so autograd cannot notice it."""

    def assign(self, other: Any) -> MinimalBuffer:
        super().assign(other)
        self.version[0] -= 1
        return self


@broken(buffer_law("test_add_in_place_is_a_sum_that_is_assigned"))
class AccumulateOverwrites(MinimalBuffer):
    """What is added in place takes the place of what was there."""

    def _accumulate(self, value: Any) -> None:
        self._assign(value)


@broken(buffer_law("test_memory_becomes_a_buffer"))
class MemoryBackwards(MinimalBuffer):
    """Elements in memory are read from the end."""

    @classmethod
    def _from_memory(cls, memory: memoryview, shape: Any, dtype: DType) -> MinimalBuffer:
        return cls._of(reversed(memory.cast(dtype.typecode).tolist()), shape, dtype)


@broken(buffer_law("test_copies_and_moves"))
class CopyShares(MinimalBuffer):
    """A copy of what is contiguous already is no copy."""

    def _copy(self) -> MinimalBuffer:
        return self if self.is_contiguous() else super()._copy()


@broken(value("concatenate"))
class ConcatenateAlongFirst(MinimalBuffer):
    """Joining appends storages, which is right along the first axis only."""

    @classmethod
    def _concatenate(cls, buffers: Any, axis: int, shape: Any, dtype: DType) -> MinimalBuffer:
        return cls._of([x for buffer in buffers for x in buffer._values()], shape, dtype)


# ---------------------------------------------------------------- dtypes


@broken(value("div"), Law("test_float32_stays", "test_float32_in_float32_out", "div"))
class Float64Leak(MinimalBuffer):
    """Division gives float64, whatever it was given."""

    def _div(self, other: Any) -> MinimalBuffer:
        return super()._div(other)._cast(DType.float64)


@broken(
    buffer_law("test_float32_results_are_rounded_to_float32"),
    Law("test_float32_stays", "test_float32_in_float32_out", "exp"),
)
class UnroundedFloat32(MinimalBuffer):
    """What is called float32 is kept in doubles."""

    @classmethod
    def _of(cls, values: Any, shape: Any, dtype: DType) -> MinimalBuffer:
        return cls._from_array(array("d" if dtype.is_floating else dtype.typecode, values), shape, dtype)


@broken(value("add"), value("mul"))
class WrongPromotion(MinimalBuffer):
    """int32 and float32 give float32, where large integers lose their last bits."""

    def __add__(self, other: Any) -> Any:
        return MinimalBuffer.__add__(*_narrowed(self, other))

    def __mul__(self, other: Any) -> Any:
        return MinimalBuffer.__mul__(*_narrowed(self, other))


def _narrowed(first: Any, second: Any) -> tuple[Any, Any]:
    """Two operands, in float32 where one is int32 and the other float32."""
    dtypes = {first.dtype, getattr(second, "dtype", None)}
    if dtypes == {DType.int32, DType.float32}:
        return first.cast(DType.float32), second.cast(DType.float32)
    return first, second


@broken(Law("test_buffer_laws", "test_scalars_are_weak", "mul"))
class StrongScalars(MinimalBuffer):
    """A Python float is float64 and widens what it is multiplied with."""

    def __mul__(self, other: Any) -> Any:
        return super().__mul__(type(self)(other, DType.float64) if isinstance(other, float) else other)

    __rmul__ = __mul__


@broken(buffer_law("test_int64_is_exact"))
class IntegersAsFloats(MinimalBuffer):
    """Integer sums pass through doubles."""

    def _add(self, other: Any) -> MinimalBuffer:
        return self._zip(other, lambda x, y: self.dtype.convert(float(x) + float(y)))


@broken(value("less"), value("equal"))
class ComparisonsInOperandDtype(MinimalBuffer):
    """A comparison gives ones and zeros in the dtype of what was compared."""

    def _less(self, other: Any) -> MinimalBuffer:
        return self._zip(other, lambda x, y: x < y)

    def _equal(self, other: Any) -> MinimalBuffer:
        return self._zip(other, lambda x, y: x == y)


# ---------------------------------------------------------------- values


@broken(value("maximum"), buffer_law("test_argmax_and_max_at_nan_and_infinities"))
class NanIsLost(MinimalBuffer):
    """max(x, y) as Python has it: a NaN counts only where it comes first."""

    def _maximum(self, other: Any) -> MinimalBuffer:
        return self._zip(other, max)


@broken(value("argmax"), buffer_law("test_argmax_takes_the_first_of_equals"))
class ArgmaxLastTie(MinimalBuffer):
    """Of equal elements the last is named."""

    def _argmax(self, axis: int) -> MinimalBuffer:
        return self._reduce((axis,), lambda row: max(range(len(row)), key=lambda i: (row[i], i)), DType.int64)


@broken(value("log"), crashes=Crash(ValueError, "math.log raises where IEEE 754 has an infinity or NaN"))
class LogRaises(MinimalBuffer):
    """log(0) is an error, as in `math`."""

    def _log(self) -> MinimalBuffer:
        import math

        return self._map(math.log)


@broken(value("sum"))
class SumForgetsAxes(MinimalBuffer):
    """A sum over several axes takes the first only."""

    def _sum(self, axes: Any) -> MinimalBuffer:
        return super()._sum(axes[:1])


@broken(value("sum"))
class EmptySumIsEmpty(MinimalBuffer):
    """The sum over an axis of size 0 has size 0 instead of being 0."""

    def _sum(self, axes: Any) -> MinimalBuffer:
        return self._copy() if any(self.shape[axis] == 0 for axis in axes) else super()._sum(axes)


@broken(value("matmul"), buffer_law("test_matmul_broadcasts_batches"))
class MatmulIgnoresBatches(MinimalBuffer):
    """Batches are paired by position, and the shorter one starts anew, which is not broadcasting."""

    def _matmul(self, other: Any, shape: Any) -> MinimalBuffer:
        n, m, k = shape[-2], shape[-1], self.shape[-1]
        rows = [self._rows(1)[i : i + n] for i in range(0, len(self._rows(1)), n)] if n and self.numel else []
        matrices = (
            [other._rows(1)[i : i + k] for i in range(0, len(other._rows(1)), k)] if k and other.numel else []
        )
        if not rows or not matrices:
            return super()._matmul(other, shape)
        count = 1
        for size in shape[:-2]:
            count *= size
        values = [
            sum(a * b[j] for a, b in zip(row, matrices[i % len(matrices)], strict=True))
            for i in range(count)
            for row in rows[i % len(rows)]
            for j in range(m)
        ]
        return self._of(values, shape, self.dtype)


@broken(value("scatter_add"), buffer_law("test_scatter_add_through_a_view"))
class ScatterDropsRepeats(MinimalBuffer):
    """Of repeated indices only the last counts: what `x[indices] += values` does in NumPy."""

    def _scatter_add(self, indices: Any, values: Any) -> None:
        rows = dict(zip(indices._values(), values._rows(self.ndim - 1), strict=True))
        if rows:
            ids = self._of(rows, (len(rows),), DType.int64)
            flat = self._of(
                [x for row in rows.values() for x in row], (len(rows), *self.shape[1:]), self.dtype
            )
            super()._scatter_add(ids, flat)


@broken(Law("test_table_laws", "test_errors_say_what_is_wrong", "take: a negative index"))
class NegativeIndices(MinimalBuffer):
    """take accepts negative indices, so a padding id of -1 reads the last row."""

    def _check_indices(self, size: int) -> None:
        from_front = self._of([i % size if size else i for i in self._values()], self.shape, self.dtype)
        super(NegativeIndices, from_front)._check_indices(size)


@broken(
    Law("test_random_laws", "test_uniform_bit_for_bit"),
    Law("test_random_laws", "test_seed_starts_the_default_generator_anew"),
)
class OwnRandomNumbers(MinimalBuffer):
    """Random numbers come from somewhere else."""

    @classmethod
    def _random_uniform(cls, key: Any, shape: Any, dtype: DType, low: float, high: float) -> MinimalBuffer:
        zeros = cls._full(shape, 0, dtype)
        return zeros._map(lambda _: unseeded.uniform(low, high))


@broken(value("floor_divide"))
class QuotientTowardsZero(MinimalBuffer):
    """Quotients are rounded towards 0, as C does, and not down."""

    def _divmod(self, other: Any) -> tuple[Any, Any]:
        quotient, remainder = super()._divmod(other)
        pairs = zip(quotient._values(), remainder._values(), strict=True)
        towards_zero = [q + 1 if q < 0 and r else q for q, r in pairs]
        return self._of(towards_zero, quotient.shape, self.dtype), remainder


@broken(value("remainder"))
class RemainderOfTheDividend(MinimalBuffer):
    """A remainder has the sign of what is divided, as C's has, and not of the divisor."""

    def _divmod(self, other: Any) -> tuple[Any, Any]:
        shape = broadcast_shapes(self.shape, other.shape)
        pairs = zip(self._expand(shape)._values(), other._expand(shape)._values(), strict=True)
        rest = [math.fmod(x, y) if y and math.isfinite(x) else math.nan for x, y in pairs]
        quotient, _ = super()._divmod(other)
        return quotient, self._of([self.dtype.convert(x) for x in rest], shape, self.dtype)


@broken(value("argsort"), value("sort"))
class NaNFirst(MinimalBuffer):
    """NaN counts as the smallest."""

    def _argsort(self, axis: int) -> Any:
        rows = self._rows_along(axis)
        order = [sorted(range(len(row)), key=lambda i, row=row: (row[i] == row[i], row[i])) for row in rows]
        return self._of_rows_along(axis, order, DType.int64)


@broken(value("argsort"))
class UnstableSort(MinimalBuffer):
    """Equal elements change places."""

    def _argsort(self, axis: int) -> Any:
        rows = self._rows_along(axis)
        order = [
            sorted(range(len(row)), key=lambda i, row=row: (row[i] != row[i], row[i], -i)) for row in rows
        ]
        return self._of_rows_along(axis, order, DType.int64)


@broken(value("cumsum"))
class CumsumWithoutItself(MinimalBuffer):
    """A running sum leaves out the element it stands at."""

    def _cumsum(self, axis: int) -> Any:
        return super()._cumsum(axis)._sub(self)


# ---------------------------------------------------------------- kernels


class WrongSoftmax(kernels.Softmax):
    """The backward forgets that the probabilities sum to one."""

    @staticmethod
    def backward(saved: Any, grad: Any) -> Any:
        return (saved[0] * grad,)


class WrongLinear(kernels.Linear):
    """The gradient of the bias is that of the first row."""

    @staticmethod
    def backward(saved: Any, grad: Any) -> Any:
        x, weights, _ = kernels.Linear.backward(saved, grad)
        return (
            x,
            weights,
            lambda: (
                grad.reshape((-1, grad.shape[-1]))[0]
                if grad.numel
                else grad.sum().reshape((1,)).expand(grad.shape[-1:])
            ),
        )


class WrongLayerNorm(kernels.LayerNorm):
    """eps is added to the deviation instead of the variance."""

    @staticmethod
    def forward(
        x: Any, weights: Any = None, bias: Any = None, *, eps: float = 1e-5, num_axes: int = 1
    ) -> Any:
        _, saved = kernels.LayerNorm.forward(x, weights, bias, eps=eps, num_axes=num_axes)
        result, _ = kernels.LayerNorm.forward(x, weights, bias, eps=eps * eps, num_axes=num_axes)
        return result, saved


class WrongAttention(kernels.Attention):
    """With more keys than queries, the causal mask starts at the first key instead of ending at the last."""

    @staticmethod
    def forward(query: Any, key: Any, value: Any, *, causal: bool = True, scale: float | None = None) -> Any:
        length = query.shape[2]
        if causal and key.shape[2] > length:
            key, value = key[:, :, :length], value[:, :, :length]
        return kernels.Attention.forward(query, key, value, causal=causal, scale=scale)


class WrongScale(kernels.Attention):
    """Scores are scaled by the size of all heads instead of one."""

    @staticmethod
    def forward(query: Any, key: Any, value: Any, *, causal: bool = True, scale: float | None = None) -> Any:
        scale = (query.shape[1] * query.shape[3]) ** -0.5 if scale is None else scale
        return kernels.Attention.forward(query, key, value, causal=causal, scale=scale)


class WrongCrossEntropy(kernels.CrossEntropy):
    """The backward does not weight each row by its incoming gradient."""

    @staticmethod
    def backward(saved: Any, grad: Any) -> Any:
        return kernels.CrossEntropy.backward(saved, grad * 0.0 + 1.0)


class WrongGELU(kernels.GELU):
    """The exact form is computed whatever is asked for: it differs by less than 1e-3, which a loose tolerance
    lets pass.
    """

    @staticmethod
    def forward(x: Any, *, approximate: str = "tanh") -> Any:
        return kernels.GELU.forward(x, approximate="none")


class WrongDropout(kernels.Dropout):
    """The backward lets the gradient of dropped elements through."""

    @staticmethod
    def backward(saved: Any, grad: Any) -> Any:
        return (grad,)


class WrongRotary(kernels.Rotary):
    """The gradient is rotated on instead of back."""

    @staticmethod
    def backward(saved: Any, grad: Any) -> Any:
        return (kernels.Rotary.rotate(grad, *saved),)


class WrongEmbedding(kernels.Embedding):
    """The gradient of a repeated index is that of its last place."""

    @staticmethod
    def backward(saved: Any, grad: Any) -> Any:
        indices, shape, dtype = saved
        total = type(grad).zeros(shape, dtype)
        rows = grad.reshape((indices.numel, shape[1]))
        for position, index in enumerate(indices.reshape((indices.numel,))):
            total[int(index)] = rows[position]
        return total, None


class WrongRelu(kernels.Relu):
    """At zero the slope is that of the right side."""

    @staticmethod
    def backward(saved: Any, grad: Any) -> Any:
        return (Buffer.where(saved[0] >= 0.0, grad, 0.0),)


class WrongMaxPool(kernels.MaxPool2d):
    """Each of several equal maxima gets the whole gradient."""

    @staticmethod
    def forward(x: Any, **options: Any) -> Any:
        result, saved = kernels.MaxPool2d.forward(x, **options)
        return result, (x, result, saved[1])

    @staticmethod
    def backward(saved: Any, grad: Any) -> Any:
        x, result, windows = saved
        padded = windows.pad(x, float("-inf"))
        return (
            windows.scatter(
                [grad * (padded[index] == result).cast(grad.dtype) for index in windows.offsets()]
            ),
        )


class WrongConvolution(kernels.Conv2d):
    """The gradient of the weight does not know of dilation."""

    @staticmethod
    def backward(saved: Any, grad: Any) -> Any:
        x, weights, windows, groups = saved
        return kernels.Conv2d.backward((x, weights, windows._replace(dilation=(1, 1)), groups), grad)


class WrongAdamW(kernels.AdamWStep):
    """The moments are not corrected for having started at zero."""

    @staticmethod
    def forward(*lists: Any, step: int, **options: Any) -> Any:
        return kernels.AdamWStep.forward(*lists, step=1000, **options)


@broken(fused("Softmax"), Softmax=WrongSoftmax)
class SoftmaxGradient(MinimalBuffer):
    __doc__ = WrongSoftmax.__doc__


@broken(fused("Linear"), Linear=WrongLinear)
class LinearBiasGradient(MinimalBuffer):
    __doc__ = WrongLinear.__doc__


@broken(fused("LayerNorm"), LayerNorm=WrongLayerNorm)
class LayerNormEps(MinimalBuffer):
    __doc__ = WrongLayerNorm.__doc__


@broken(
    fused("Attention"),
    Law("test_kernel_laws", "test_attention_of_a_suffix_is_the_suffix_of_attention"),
    Attention=WrongAttention,
)
class AttentionMask(MinimalBuffer):
    __doc__ = WrongAttention.__doc__


@broken(fused("Attention"), value("Attention"), Attention=WrongScale)
class AttentionScale(MinimalBuffer):
    __doc__ = WrongScale.__doc__


@broken(fused("CrossEntropy"), CrossEntropy=WrongCrossEntropy)
class CrossEntropyGradient(MinimalBuffer):
    __doc__ = WrongCrossEntropy.__doc__


@broken(fused("GELU"), value("GELU"), GELU=WrongGELU)
class GELUForm(MinimalBuffer):
    __doc__ = WrongGELU.__doc__


@broken(fused("Dropout"), Dropout=WrongDropout)
class DropoutGradient(MinimalBuffer):
    __doc__ = WrongDropout.__doc__


@broken(fused("Rotary"), Rotary=WrongRotary)
class RotaryGradient(MinimalBuffer):
    __doc__ = WrongRotary.__doc__


@broken(fused("Embedding"), Embedding=WrongEmbedding)
class EmbeddingGradient(MinimalBuffer):
    __doc__ = WrongEmbedding.__doc__


@broken(fused("Relu"), Law("test_operation_laws", "test_relu_at_zero_has_no_slope"), Relu=WrongRelu)
class ReluSlopeAtZero(MinimalBuffer):
    __doc__ = WrongRelu.__doc__


@broken(
    fused("MaxPool2d"),
    Law("test_kernel_laws", "test_max_pooling_gives_the_gradient_to_the_first_of_equals"),
    MaxPool2d=WrongMaxPool,
)
class MaxPoolTies(MinimalBuffer):
    __doc__ = WrongMaxPool.__doc__


@broken(fused("Conv2d"), Conv2d=WrongConvolution)
class ConvolutionDilation(MinimalBuffer):
    __doc__ = WrongConvolution.__doc__


@broken(Law("test_kernel_laws", "test_adamw_step"), AdamWStep=WrongAdamW)
class AdamWCorrection(MinimalBuffer):
    __doc__ = WrongAdamW.__doc__
