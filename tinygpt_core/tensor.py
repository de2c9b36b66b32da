"""Floor 5: Tensor, the array that remembers how it was made, and the engine that differentiates.

Every operation on Tensors that require gradients leaves a `GradientFunction` behind: the Operation with what
it kept, and where each input came from. `backward` walks these records from the result to the leaves, newest
first, and applies the chain rule at each:

    dL/dx = sum over the uses y of x of  dL/dy * dy/dx

Records are numbered as they are made and an operation's inputs always carry smaller numbers than its result,
so taking the largest number first visits every record after all that used it, exactly once, without
recursion.
"""

from __future__ import annotations

import heapq
import re
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ContextDecorator
from itertools import count
from types import TracebackType
from typing import Any

from . import graph_text, operations, shape_errors
from .buffer.base import Buffer
from .dtype import DType
from .kernels.base import sum_to
from .operations import Operation, PartialGradient
from .shape import Shape, ShapeError, exchanged, normalize_axes, normalize_axis

_numbers = count()
_recording, _allocating = [True], [True]


class no_grad(ContextDecorator):
    """`with no_grad():` operations leave no records, so their results require no gradients. Also decorates
    functions.
    """

    def __enter__(self) -> None:
        self._previous = _recording[0]
        _recording[0] = False

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _recording[0] = self._previous


class uninitialized(ContextDecorator):
    """`with uninitialized():` new Tensors of zeros, ones or random numbers take no memory and draw nothing,
    for a model to be loaded into.

    Each is one number seen through its shape (random ones: 0), which cannot be written to: give such a Tensor
    another buffer.
    """

    def __enter__(self) -> None:
        self._previous = _allocating[0]
        _allocating[0] = False

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _allocating[0] = self._previous


class GradientFunction:
    """The record of one operation: what to call on the way back, and where to send the gradients.

    Attributes:
        operation: the Operation, with what it kept for its backward; None once a backward pass has used and
            freed it.
        parents: for each input the leaf Tensor or the GradientFunction it came from, or None where no
            gradient is needed.
        number: records made later have larger numbers.
    """

    __slots__ = ("__weakref__", "inputs", "kept", "number", "operation", "output", "parents", "result")

    def __init__(self, operation: Operation, tensors: Sequence[Tensor | None], result: Buffer) -> None:
        self.operation: Operation | None = operation
        self.parents: tuple[Tensor | GradientFunction | None, ...] = tuple(
            None if tensor is None or not tensor.requires_grad else tensor.grad_fn or tensor
            for tensor in tensors
        )
        self.inputs = tuple(None if tensor is None else (tensor.shape, tensor.dtype) for tensor in tensors)
        self.result = (result.shape, result.dtype)
        self.number = next(_numbers)
        self.kept = [(name, buffer, buffer.version[0]) for name, buffer in _kept_buffers(operation)]
        self.output: weakref.ref[Tensor] | None = None  # set by retain_grad; weak, so that no cycle arises

    @property
    def name(self) -> str:
        """The operation's name."""
        return type(self.operation).__name__ if self.operation else "freed"

    def __repr__(self) -> str:
        return (
            f"<GradientFunction {self.name} of {len(self.inputs)} inputs, result of shape {self.result[0]}>"
        )

    def apply(self, grad: Buffer) -> Iterator[tuple[Tensor | GradientFunction, Buffer | PartialGradient]]:
        """Yields each parent that needs a gradient with that gradient, in the shape and dtype of the input.

        Raises:
            RuntimeError: the record was freed, something it kept has changed since, or a gradient does not
                fit its input.
        """
        operation = self.operation
        if operation is None:
            raise RuntimeError(
                "this graph was freed by an earlier backward(): call that one with retain_graph=True to go through it again"
            )
        for name, buffer, version in self.kept:
            if buffer.version[0] != version:
                raise RuntimeError(
                    f"{self.name} needs what it kept as {name!r} (shape {buffer.shape}) for its backward, but that was changed in place "
                    f"after the forward: use an operation that makes a new Tensor instead, or change it after backward()"
                )
        gradients = operation.backward(grad)
        if not isinstance(gradients, tuple):
            gradients = (gradients,)
        if len(gradients) != len(self.parents) and (
            len(gradients) > len(self.parents) or any(self.parents[len(gradients) :])
        ):
            raise RuntimeError(
                f"{self.name}.backward returned {len(gradients)} gradients for {len(self.parents)} inputs"
            )
        for position, (parent, gradient) in enumerate(zip(self.parents, gradients, strict=False)):
            if parent is None or gradient is None:
                continue
            if callable(gradient):
                gradient = gradient()
            if isinstance(gradient, PartialGradient):
                yield parent, gradient
                continue
            shape, dtype = self.inputs[position]  # type: ignore[misc]
            if not isinstance(gradient, Buffer):
                raise RuntimeError(
                    f"{self.name}.backward returned a {type(gradient).__name__} for input {position}, not a Buffer"
                )
            if gradient.shape != shape:
                gradient = self._sum_back(gradient, shape, position)
            yield parent, gradient if gradient.dtype is dtype else gradient.cast(dtype)

    def _sum_back(self, gradient: Buffer, shape: Shape, position: int) -> Buffer:
        """Undoes broadcasting, here and nowhere else."""
        extra = gradient.ndim - len(shape)
        if extra < 0 or any(
            size != 1 and size != g for size, g in zip(shape, gradient.shape[extra:], strict=True)
        ):
            raise RuntimeError(
                f"{self.name}.backward returned a gradient of shape {gradient.shape} for input {position} of shape {shape}"
            )
        return sum_to(gradient, shape)


def _kept_buffers(operation: Operation) -> Iterator[tuple[str, Buffer]]:
    """Every Buffer that an operation keeps on itself, directly or in a tuple: that is what its backward
    reads.
    """
    for name, value in vars(operation).items():
        for item in value if type(value) is tuple else (value,):
            if isinstance(item, Buffer):
                yield name, item


def apply_op(operation_class: type[Operation], *tensors: Tensor | None, **options: Any) -> Tensor:
    """Returns an operation's result for Tensors (or None for an optional input), recorded where an input
    requires gradients.

    Shapes and options are those of the operation's forward.

    Raises:
        TypeError: an input that is no Tensor, or whatever the operation's forward raises.
    """
    buffers: list[Buffer | None] = []
    needs: list[bool] = []
    for tensor in tensors:
        if tensor is None:
            buffers.append(None)
            needs.append(False)
        elif isinstance(tensor, Tensor):
            buffers.append(tensor.buffer)
            needs.append(tensor._requires_grad)
        else:
            raise TypeError(
                f"{operation_class.__name__} applies to Tensors, not to a {type(tensor).__name__}: wrap it in Tensor(…)"
            )
    operation = operation_class(needs)
    buffer = operation.forward(*buffers, **options)
    if not isinstance(buffer, Buffer):
        raise TypeError(
            f"{operation_class.__name__}.forward returned a {type(buffer).__name__}, not a Buffer"
        )
    result = _wrap(buffer)
    if _recording[0] and any(needs) and buffer.dtype.kind == "f":
        result._requires_grad = True
        result.grad_fn = GradientFunction(operation, tensors, buffer)
    return result


def _wrap(buffer: Buffer) -> Tensor:
    """A Tensor around a Buffer, without the checks of the constructor."""
    tensor: Tensor = object.__new__(Tensor)
    tensor.buffer, tensor.grad, tensor.grad_fn, tensor._requires_grad = buffer, None, None, False
    return tensor


class Tensor:
    """An array that can be differentiated.

    Args:
        data: nested lists or tuples, a scalar, a Buffer (shared, not copied), a Tensor, or an array of
            another library (see `Buffer`).
        dtype: its dtype; deduced from the data where missing.
        requires_grad: whether `backward` shall leave the gradient with respect to this Tensor in `grad`.

    Attributes:
        buffer: the Buffer with the elements.
        grad: the gradient, a Tensor, or None before any backward. Passes add up until `zero_grad`.
        grad_fn: the record of the operation that made this Tensor; None for a leaf.

    Raises:
        RuntimeError: gradients are required of a Tensor that is not floating point.
    """

    __array_ufunc__ = None  # ndarray + Tensor is a TypeError: NumPy would otherwise answer, without gradients
    __slots__ = ("__weakref__", "_requires_grad", "buffer", "grad", "grad_fn")

    def __init__(self, data: Any, dtype: DType | None = None, requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            data = data.buffer
        if isinstance(data, Buffer):
            self.buffer: Buffer = data if dtype is None or dtype is data.dtype else data.cast(dtype)
        else:
            self.buffer = Buffer(data, dtype)
        self.grad: Tensor | None = None
        self.grad_fn: GradientFunction | None = None
        self._requires_grad = False
        if requires_grad:
            self.requires_grad = True

    # ---------------------------------------------------------------- what it is

    @property
    def shape(self) -> Shape:
        """The size of each axis."""
        return self.buffer.shape

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.buffer.shape)

    @property
    def numel(self) -> int:
        """How many elements there are."""
        return self.buffer.numel

    @property
    def dtype(self) -> DType:
        """The type of the elements."""
        return self.buffer.dtype

    @property
    def backend(self) -> str:
        """The name of the backend that holds the elements."""
        return self.buffer.backend

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made this Tensor."""
        return self.grad_fn is None

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to or through this Tensor."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value and self.dtype.kind != "f":
            raise RuntimeError(
                f"only floating point Tensors can require gradients, not {self.dtype.name}: use float32 or float64"
            )
        if not value and self.grad_fn is not None:
            raise RuntimeError(
                "requires_grad can be switched off on leaves only: detach() gives a Tensor without history"
            )
        self._requires_grad = bool(value)

    def __deepcopy__(self, memo: Any) -> Tensor:
        if self.grad_fn is not None:
            raise RuntimeError(
                "only leaves can be deep-copied: the result of a recorded operation is part of its graph; detach() it"
            )
        copy = Tensor(self.buffer.copy(), requires_grad=self.requires_grad)
        copy.grad = None if self.grad is None else Tensor(self.grad.buffer.copy())
        return copy

    def __len__(self) -> int:
        return len(self.buffer)

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise TypeError("cannot iterate over a Tensor without axes")
        return (self[i] for i in range(self.shape[0]))

    def __float__(self) -> float:
        return float(self.buffer)

    def __int__(self) -> int:
        return int(self.buffer)

    def __bool__(self) -> bool:
        return bool(self.buffer)

    def __repr__(self) -> str:
        return graph_text.tensor_text(self)

    def _repr_html_(self) -> str:
        return graph_text.tensor_html(self)

    def to_python(self) -> Any:
        """Returns the elements as nested lists of Python numbers; a scalar for no axes."""
        return self.buffer.to_python()

    def item(self) -> Any:
        """Returns the only element as a Python number; raises ValueError where there is not exactly one."""
        return self.buffer.item()

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """What `numpy.asarray(tensor)` reads: the elements where they lie; read-only where gradients are
        required.
        """
        interface = self.buffer.__array_interface__
        if self.requires_grad:
            interface["data"] = interface["data"].toreadonly()
        return interface

    def __dlpack__(self, **options: Any) -> Any:
        """The elements for `torch.from_dlpack(tensor)` and its like; BufferError where gradients are required
        (detach() it first).

        Source: the DLPack protocol, https://dmlc.github.io/dlpack/latest/
        """
        if self.requires_grad:
            raise BufferError(
                "a Tensor that requires gradients is not exported, since changes could not be seen: detach() it first"
            )
        return self.buffer.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        """Where the elements are, for `__dlpack__`."""
        return self.buffer.__dlpack_device__()

    def explain(self, out: str = "explain.html") -> int:
        """Writes one HTML page that shows the graph that made this Tensor and its derivatives, step by step;
        returns its size in bytes.

        Inside `with explain.Recorder():` it also shows modules, times and all values. No gradient changes and
        nothing is freed.

        Raises:
            ValueError: no recorded operation made this Tensor, or the graph was freed by a backward().
        """
        from . import explain

        return explain.explain_tensor(self, out)

    def print_dag(self) -> None:
        """Prints the graph of operations that made this Tensor, indented, shared parts once."""
        for line in graph_text.dag_lines(self):
            print(line)

    def to_dot(self) -> str:
        """Returns that graph in Graphviz's language, for `dot -Tsvg`."""
        return graph_text.dot_text(self)

    # ---------------------------------------------------------------- making one

    @staticmethod
    def full(shape: Any, value: float, dtype: DType | None = None, requires_grad: bool = False) -> Tensor:
        """Returns a Tensor of `shape` that holds `value` everywhere."""
        buffer = (
            Buffer.full(shape, value, dtype)
            if _allocating[0]
            else Buffer.full((), value, dtype).expand(shape)
        )
        return Tensor(buffer, requires_grad=requires_grad)

    @staticmethod
    def zeros(shape: Any, dtype: DType = DType.float32, requires_grad: bool = False) -> Tensor:
        """Returns a Tensor of `shape` that holds zeros."""
        return Tensor.full(shape, 0, dtype, requires_grad)

    @staticmethod
    def ones(shape: Any, dtype: DType = DType.float32, requires_grad: bool = False) -> Tensor:
        """Returns a Tensor of `shape` that holds ones."""
        return Tensor.full(shape, 1, dtype, requires_grad)

    @staticmethod
    def arange(
        start: float, stop: float | None = None, step: float = 1, dtype: DType | None = None
    ) -> Tensor:
        """Returns, along one axis, start, start + step, … up to but without stop (from 0 up to `start` where
        it is the only bound).
        """
        return Tensor(Buffer.arange(start, stop, step, dtype))

    @staticmethod
    def uniform(
        shape: Any,
        low: float = 0.0,
        high: float = 1.0,
        dtype: DType = DType.float32,
        requires_grad: bool = False,
        **options: Any,
    ) -> Tensor:
        """Returns random elements, uniform in [low, high), from the `generator` in `options` or the
        process-wide one.
        """
        if not _allocating[0]:
            return Tensor.full(shape, 0, dtype, requires_grad)
        return Tensor(Buffer.uniform(shape, low, high, dtype, **options), requires_grad=requires_grad)

    @staticmethod
    def normal(
        shape: Any,
        mean: float = 0.0,
        std: float = 1.0,
        dtype: DType = DType.float32,
        requires_grad: bool = False,
        **options: Any,
    ) -> Tensor:
        """Returns random elements, normally distributed, from the `generator` in `options` or the
        process-wide one.
        """
        if not _allocating[0]:
            return Tensor.full(shape, 0, dtype, requires_grad)
        return Tensor(Buffer.normal(shape, mean, std, dtype, **options), requires_grad=requires_grad)

    @staticmethod
    def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
        """Returns the tensors joined along `axis`; raises ValueError where there are none or other axes do
        not agree.
        """
        tensors = tuple(tensors)
        if not tensors:
            raise ValueError("concatenate needs at least one Tensor")
        return apply_op(operations.Concatenate, *tensors, axis=axis)

    @staticmethod
    def where(condition: Tensor, first: Any, second: Any) -> Tensor:
        """Returns `first` where the (bool) condition holds and `second` elsewhere; all three broadcast."""
        like = next((value for value in (first, second) if isinstance(value, Tensor)), None)
        sides = [
            side if isinstance(side, Tensor) else Tensor(side) if like is None else like._scalar(side)
            for side in (first, second)
        ]
        return apply_op(operations.Where, condition, *sides)

    @staticmethod
    def einsum(subscripts: str, first: Tensor, *others: Tensor) -> Tensor:
        """Returns the sum of products over axes that NumPy's notation describes:
        `Tensor.einsum("bhid,bhjd->bhij", query, key)`.
        """
        return apply_op(operations.Einsum, first, *others, subscripts=subscripts)

    # ---------------------------------------------------------------- arithmetic

    def _scalar(self, value: Any) -> Tensor:
        """A Python number as a Tensor beside this one: on its backend, in the dtype in which the two meet."""
        return _wrap(self.buffer.scalar(value))

    def _apply(self, operation: type[Operation], other: Any, swap: bool = False) -> Tensor:
        if not isinstance(other, Tensor):
            if not isinstance(other, (bool, int, float)):
                return NotImplemented
            other = self._scalar(other)
        return apply_op(operation, other, self) if swap else apply_op(operation, self, other)

    def __add__(self, other: Any) -> Tensor:
        return self._apply(operations.Add, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Tensor:
        return self._apply(operations.Sub, other)

    def __rsub__(self, other: Any) -> Tensor:
        return self._apply(operations.Sub, other, swap=True)

    def __mul__(self, other: Any) -> Tensor:
        return self._apply(operations.Mul, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Tensor:
        return self._apply(operations.Div, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return self._apply(operations.Div, other, swap=True)

    def __pow__(self, other: Any) -> Tensor:
        return self._apply(operations.Pow, other)

    def __rpow__(self, other: Any) -> Tensor:
        return self._apply(operations.Pow, other, swap=True)

    def __neg__(self) -> Tensor:
        return apply_op(operations.Neg, self)

    def maximum(self, other: Any) -> Tensor:
        """The larger of two elements; where they are equal, each gets half the gradient."""
        return self._apply(operations.Maximum, other)

    def _compare(self, other: Any, symbol: str) -> Tensor:
        if isinstance(other, Tensor):
            other = other.buffer
        result = getattr(self.buffer, symbol)(other)
        return result if result is NotImplemented else _wrap(result)

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]
        return self._compare(other, "__eq__")

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        return self._compare(other, "__ne__")

    def __lt__(self, other: Any) -> Tensor:
        return self._compare(other, "__lt__")

    def __le__(self, other: Any) -> Tensor:
        return self._compare(other, "__le__")

    def __gt__(self, other: Any) -> Tensor:
        return self._compare(other, "__gt__")

    def __ge__(self, other: Any) -> Tensor:
        return self._compare(other, "__ge__")

    __hash__ = object.__hash__  # == compares elements, but a Tensor is still itself in a set

    def close_to(self, other: Any, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
        """Whether all elements satisfy |self - other| <= atol + rtol |other|, after broadcasting."""
        if not isinstance(other, Tensor):
            other = Tensor(other)
        a, b = self.buffer.cast(DType.float64), other.buffer.cast(DType.float64)
        distance = (a - b).maximum(b - a)
        bound = b.maximum(-b) * rtol + atol
        return all(((distance <= bound).maximum(a == b)).to_array())

    # ---------------------------------------------------------------- functions

    def exp(self) -> Tensor:
        """e to the power x, of each element."""
        return apply_op(operations.Exp, self)

    def log(self) -> Tensor:
        """The natural logarithm of each element."""
        return apply_op(operations.Log, self)

    def sqrt(self) -> Tensor:
        """The square root of each element."""
        return apply_op(operations.Sqrt, self)

    def tanh(self) -> Tensor:
        """The hyperbolic tangent of each element."""
        return apply_op(operations.Tanh, self)

    def sigmoid(self) -> Tensor:
        """The logistic function 1 / (1 + exp(-x)) of each element."""
        return apply_op(operations.Sigmoid, self)

    def sin(self) -> Tensor:
        """The sine of each element, in radians."""
        return apply_op(operations.Sin, self)

    def cos(self) -> Tensor:
        """The cosine of each element, in radians."""
        return apply_op(operations.Cos, self)

    def relu(self) -> Tensor:
        """max(x, 0) of each element."""
        return apply_op(operations.Relu, self)

    def gelu(self, approximate: str = "tanh") -> Tensor:
        """x times the normal distribution function of x, for each element; its tanh form (GPT-2's), or "none"
        for the exact one.

        Hendrycks, Gimpel 2016, https://arxiv.org/abs/1606.08415
        """
        return apply_op(operations.GELU, self, approximate=approximate)

    def silu(self) -> Tensor:
        """x times the logistic function of x, for each element. Elfwing et al. 2017,
        https://arxiv.org/abs/1702.03118
        """
        return apply_op(operations.SiLU, self)

    def softmax(self, axis: int = -1) -> Tensor:
        """exp(x) normalized to sum 1 along `axis`."""
        return apply_op(operations.Softmax, self, axis=axis)

    def log_softmax(self, axis: int = -1) -> Tensor:
        """The logarithm of softmax along `axis`, without the underflow of softmax(x).log()."""
        return apply_op(operations.LogSoftmax, self, axis=axis)

    def _reduce(self, operation: type[Operation], axes: Any, keepdim: bool) -> Tensor:
        axes = normalize_axes(axes, self.ndim)
        result = apply_op(operation, self, axes=axes)
        return (
            result
            if keepdim
            else result.reshape(tuple(size for axis, size in enumerate(self.shape) if axis not in axes))
        )

    def sum(self, axes: Any = None, keepdim: bool = False) -> Tensor:
        """The sum over `axes`: an int, a tuple, or None for all. `keepdim` leaves them with size 1.

        Raises:
            TypeError: an axis that is no int.
            ValueError: an axis that is not there, or one named twice.
        """
        return self._reduce(operations.Sum, axes, keepdim)

    def mean(self, axes: Any = None, keepdim: bool = False) -> Tensor:
        """The mean over `axes`; raises ValueError where they hold no elements."""
        total = self.sum(axes, keepdim)
        count = self.numel // max(total.numel, 1)
        if count == 0:
            raise ValueError(f"the mean over no elements has no value (axes {axes} of shape {self.shape})")
        return total / count

    def max(self, axes: Any = None, keepdim: bool = False) -> Tensor:
        """The largest element over `axes`; equal ones share the gradient.

        Raises:
            TypeError: an axis that is no int.
            ValueError: an axis that is not there, or one named twice.
        """
        return self._reduce(operations.Max, axes, keepdim)

    def argmax(self, axis: int | None = None, keepdim: bool = False) -> Tensor:
        """The int64 position of the largest element along `axis` (None: in the flattened Tensor), the first
        of equals.

        Raises:
            TypeError: the axis is no int.
            ValueError: the axis is not there, or empty.
        """
        if axis is None:
            return _wrap(
                self.buffer.reshape((self.numel,)).argmax(0).reshape((1,) * self.ndim if keepdim else ())
            )
        axis = normalize_axis(axis, self.ndim)
        found = self.buffer.argmax(axis)
        return _wrap(found if keepdim else found.reshape(self.shape[:axis] + self.shape[axis + 1 :]))

    def dot(self, other: Tensor) -> Tensor:
        """The matrix product over the last axis of this and the last but one of the other (the only one of a
        vector), as `@`.

        Raises:
            RuntimeError: sizes that differ or no axes.
            TypeError: the other is no Tensor.
        """
        if not isinstance(other, Tensor):
            raise TypeError(f"dot needs a Tensor, not a {type(other).__name__}")
        if not self.ndim or not other.ndim or self.shape[-1] != other.shape[-min(other.ndim, 2)]:
            raise ShapeError(shape_errors.matmul("matmul", self.shape, other.shape))
        a = self if self.ndim > 1 else self.reshape((1, *self.shape))
        b = other if other.ndim > 1 else other.reshape((*other.shape, 1))
        result = apply_op(operations.MatMul, a, b)
        shape = result.shape
        if other.ndim == 1:
            shape = shape[:-1]
        if self.ndim == 1:
            shape = shape[:-1] if other.ndim == 1 else (*shape[:-2], shape[-1])
        return result if shape == result.shape else result.reshape(shape)

    def __matmul__(self, other: Any) -> Tensor:
        return self.dot(other) if isinstance(other, Tensor) else NotImplemented

    def take(self, indices: Any, axis: int = 0) -> Tensor:
        """The slices along `axis` that integer indices name; gradients of repeated indices add up."""
        indices = indices if isinstance(indices, Tensor) else _wrap(type(self.buffer)(indices))
        return apply_op(operations.Take, self, indices, axis=axis)

    # ---------------------------------------------------------------- layout

    def reshape(self, shape: Any) -> Tensor:
        """The same elements under another shape; one axis may be -1."""
        return apply_op(operations.Reshape, self, shape=shape)

    def expand(self, shape: Any) -> Tensor:
        """A view broadcast to `shape`."""
        return apply_op(operations.Expand, self, shape=shape)

    def permute(self, axes: Sequence[int]) -> Tensor:
        """A view whose axis i is this Tensor's axis axes[i]."""
        return apply_op(operations.Permute, self, axes=axes)

    def transpose(self, axis1: int, axis2: int) -> Tensor:
        """A view with two axes exchanged."""
        return self.permute(exchanged(axis1, axis2, self.ndim))

    def tril(self, diagonal: int = 0) -> Tensor:
        """A copy with zeros above a diagonal of the last two axes."""
        return apply_op(operations.Tril, self, diagonal=diagonal)

    def __getitem__(self, index: Any) -> Tensor:
        """A view for ints, slices and `...`; for an integer Tensor, the rows it names (`take`)."""
        if isinstance(index, Tensor):
            return self.take(index)
        return apply_op(operations.Slice, self, index=index)

    def cast(self, dtype: DType) -> Tensor:
        """A copy of the same shape in another dtype; gradients are cast back."""
        return apply_op(operations.Cast, self, dtype=dtype)

    def to(self, backend: str) -> Tensor:
        """This Tensor's elements on another backend, as a leaf; itself if it is there already."""
        buffer = self.buffer.to(backend)
        return self if buffer is self.buffer else Tensor(buffer, requires_grad=self.requires_grad)

    # ---------------------------------------------------------------- in place

    def _may_change(self) -> None:
        if _recording[0] and self.requires_grad:
            kind = "a leaf that requires gradients" if self.is_leaf else "the result of a recorded operation"
            raise RuntimeError(
                f"{kind} cannot be changed in place while operations are recorded: do it inside `with no_grad():`"
            )

    def assign(self, value: Any) -> Tensor:
        """Writes `value` (a Tensor, a number or nested lists), broadcast and cast, into this Tensor's
        storage, unrecorded.

        Returns:
            This Tensor. Raises RuntimeError for the result of a recorded operation (unless inside `no_grad`).
        """
        if not self.is_leaf:
            self._may_change()
        self.buffer.assign(value.buffer if isinstance(value, Tensor) else value)
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        self._may_change()
        if isinstance(value, Tensor):
            if _recording[0] and value.requires_grad:
                raise RuntimeError(
                    "assigning into a slice is not recorded: detach() the value, or build the result with concatenate"
                )
            value = value.buffer
        self.buffer[index] = value

    def _in_place(self, operation: type[Operation], other: Any) -> Tensor:
        """`self op= other`: into the storage where nothing is recorded; else this Tensor becomes the result
        of the operation.
        """
        if self.is_leaf:
            self._may_change()
        result = self._apply(operation, other)
        if result is NotImplemented:
            return result
        if result.shape != self.shape:
            raise ShapeError(
                shape_errors.expand(f"in-place {operation.__name__.lower()}", result.shape, self.shape)
            )
        if result.dtype.kind != self.dtype.kind:
            raise ValueError(
                f"an in-place operation cannot turn {self.dtype} {self.shape} into {result.dtype} {result.shape}"
            )
        result = result if result.dtype is self.dtype else result.cast(self.dtype)
        if result.grad_fn is None:
            self.buffer.assign(result.buffer)
        else:
            self.buffer, self.grad_fn, self._requires_grad = result.buffer, result.grad_fn, True
        return self

    def __iadd__(self, other: Any) -> Tensor:
        return self._in_place(operations.Add, other)

    def __isub__(self, other: Any) -> Tensor:
        return self._in_place(operations.Sub, other)

    def __imul__(self, other: Any) -> Tensor:
        return self._in_place(operations.Mul, other)

    def __itruediv__(self, other: Any) -> Tensor:
        return self._in_place(operations.Div, other)

    def __ipow__(self, other: Any) -> Tensor:
        return self._in_place(operations.Pow, other)

    # ---------------------------------------------------------------- gradients

    def detach(self) -> Tensor:
        """Returns a leaf that shares this Tensor's elements and requires no gradients."""
        return _wrap(self.buffer)

    def zero_grad(self) -> None:
        """Forgets the gradient."""
        self.grad = None

    def retain_grad(self) -> None:
        """Asks backward to leave the gradient in `grad` although this is no leaf. Raises RuntimeError where
        none is required.
        """
        if not self.requires_grad:
            raise RuntimeError("a Tensor that requires no gradients has none to retain")
        if self.grad_fn is not None:
            self.grad_fn.output = weakref.ref(self)

    def _accumulate(self, gradient: Buffer) -> None:
        self.grad = _wrap(gradient if self.grad is None else self.grad.buffer + gradient)

    def backward(self, incoming_gradient: Any = None, retain_graph: bool = False) -> None:
        """Adds dL/dx to `x.grad` for every leaf x that requires it, where L is the sum of this Tensor times
        `incoming_gradient`.

        Args:
            incoming_gradient: a Tensor, Buffer or nested lists of this Tensor's shape; ones where missing.
            retain_graph: keep the records so that backward can run again; else they are freed as the walk
                goes.

        Raises:
            RuntimeError: no gradients are required, the graph was freed, something it needs was changed in
                place, or the incoming gradient has another shape.
        """
        if not self.requires_grad:
            raise RuntimeError(
                "backward() needs a Tensor that requires gradients: none of what made this one does"
            )
        gradient = self._incoming(incoming_gradient)
        if self.grad_fn is None:
            self._accumulate(gradient.copy() if incoming_gradient is not None else gradient)
            return
        pending: dict[GradientFunction, Buffer] = {self.grad_fn: gradient}
        # Whose pending gradient only this walk knows, so that slices may add to it in place
        owned: set[GradientFunction] = set()
        queue = [(-self.grad_fn.number, self.grad_fn)]
        while queue:
            _, record = heapq.heappop(queue)
            gradient = pending.pop(record)
            owned.discard(record)
            if record.output is not None and (tensor := record.output()) is not None:
                tensor._accumulate(gradient.copy())
            seen = {id(gradient.version)}  # storages that already are someone's gradient
            for parent, part in record.apply(gradient):
                if isinstance(parent, Tensor):
                    if isinstance(part, PartialGradient):
                        part = part.add_to(None)
                    shared = id(part.version) in seen
                    seen.add(id(part.version))
                    parent._accumulate(part.copy() if shared and parent.grad is None else part)
                    continue
                total = pending.get(parent)
                if total is None:
                    heapq.heappush(queue, (-parent.number, parent))
                if isinstance(part, PartialGradient):
                    if total is not None and parent not in owned:
                        total = total.copy()
                    pending[parent] = part.add_to(total)
                    owned.add(parent)
                else:
                    seen.add(id(part.version))
                    if total is not None:
                        part = total + part
                        owned.add(parent)
                    pending[parent] = part
            if not retain_graph:
                record.operation, record.parents, record.kept = None, (), []

    def _incoming(self, gradient: Any) -> Buffer:
        kind = type(self.buffer)
        if gradient is None:
            return kind.ones(self.shape, self.dtype)
        buffer: Buffer = gradient.buffer if isinstance(gradient, Tensor) else kind(gradient, self.dtype)
        if buffer.shape != self.shape:
            raise ShapeError(
                shape_errors.wrong_shape(
                    "backward", "incoming gradient", buffer.shape, expected=self.shape, of="Tensor"
                )
            )
        self.buffer.check_backend(buffer)
        return buffer.as_dtype(self.dtype)

    # ---------------------------------------------------------------- as text

    def serialize_tensor(self) -> str:
        """Returns `Tensor(data=…, requires_grad=…)`, the text form of TinyGPT's weight files."""
        return f"Tensor(data={self.to_python()!r}, requires_grad={self.requires_grad})"

    @staticmethod
    def validate_serialized_tensor(text: str) -> bool:
        """Whether `text` has the form that `serialize_tensor` writes: nothing but numbers in brackets.
        Nothing is evaluated.
        """
        return isinstance(text, str) and _SERIALIZED.fullmatch(text) is not None

    @staticmethod
    def deserialize_tensor(text: str) -> Tensor:
        """Returns the Tensor that a text of `serialize_tensor` describes; its shape and dtype follow from the
        brackets and numbers.

        Raises:
            ValueError: the text has another form, or its data are ragged.
        """
        found = _SERIALIZED.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ValueError(
                f"expected Tensor(data=<numbers in brackets>, requires_grad=<True or False>), not {str(text)[:60]!r}"
            )
        import json

        words = {"True": "true", "False": "false", "inf": "Infinity", "nan": "NaN"}
        try:
            data = json.loads(re.sub(r"[A-Za-z]{3,}", lambda word: words[word.group()], found["data"]))
        except (ValueError, KeyError, RecursionError):
            raise ValueError(
                f"the data of a serialized tensor are numbers in brackets, not {found['data'][:60]!r}"
            ) from None
        return Tensor(data, requires_grad=found["grad"] == "True")


_SERIALIZED = re.compile(
    r"Tensor\(data=(?P<data>[\[\]0-9eE+\-., TruFalsinf]+), requires_grad=(?P<grad>True|False)\)"
)
