"""Floor 5: Tensor, the array that remembers how it was made.

A Tensor is a Buffer, whether gradients are wanted for it, and the record of the operation that made it. What
a record is and how `backward` walks over them is in `tape`; which operations there are, in `operations`.
"""

from __future__ import annotations

import copy
import re
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from . import graph_text, operations, shape_errors
from .backends import get as get_backend
from .buffer.base import Buffer
from .buffer.functions import eye, linspace
from .buffer.text import array_html, array_text
from .contexts import CountedBlock
from .dtype import DType, as_number
from .operations import Operation, SparseGradient
from .shape import ShapeError, exchanged, normalize_axes, numel, refuse_empty
from .tape import GradientFunction, is_recording, no_grad, walk_back
from .tensor_methods import Elementwise, Indexing, Layout, Ordering, Reductions

__all__ = ["GradientFunction", "Tensor", "apply_op", "is_allocating", "no_grad", "uninitialized"]

# Compiled where they are first used: importing the core is to cost little
SERIALIZED_DATA = r"[\[\]0-9eE+\-., TruFalsinf]+"
SERIALIZED = rf"Tensor\(data=(?P<data>{SERIALIZED_DATA}), requires_grad=(?P<grad>True|False)\)"


class uninitialized(CountedBlock):
    """`with uninitialized():` new Tensors take no memory, for a model to be loaded into.

    A Tensor of zeros, ones or random numbers is one number (of random ones: 0, and nothing is drawn) seen
    through its shape. It cannot be written to: give it another buffer. Also decorates functions. Holds for
    the calling thread only: a new thread allocates.
    """

    open_blocks = ContextVar("open uninitialized blocks", default=0)


def is_allocating() -> bool:
    """Returns whether new Tensors get memory of their own here and now: outside of every `uninitialized`."""
    return uninitialized.open_blocks.get() == 0


def apply_op(operation_class: type[Operation], *tensors: Tensor | None, **options: Any) -> Tensor:
    """Returns an operation's result for Tensors, recorded where an input requires gradients.

    Shapes and options are those of the operation's forward; None stands for an optional input that is
    missing.

    Raises:
        TypeError: an input that is no Tensor, or whatever the operation's forward raises.
    """
    buffers: list[Buffer | None] = []
    needs: list[bool] = []
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            buffers.append(tensor.buffer)
            needs.append(tensor._requires_grad)
        elif tensor is None:
            buffers.append(None)
            needs.append(False)
        else:
            raise TypeError(
                f"{operation_class.__name__} applies to Tensors, not to a {type(tensor).__name__}: "
                "wrap it in Tensor(…)"
            )
    operation = operation_class(needs)
    buffer = operation.forward(*buffers, **options)
    if not isinstance(buffer, Buffer):
        raise TypeError(
            f"{operation_class.__name__}.forward returned a {type(buffer).__name__}, not a Buffer"
        )
    result = _wrap(buffer)
    if True in needs and is_recording() and buffer.dtype.kind == "f":
        result._requires_grad = True
        result.grad_fn = GradientFunction(operation, tensors, buffer)
    return result


def _wrap(buffer: Buffer) -> Tensor:
    """Returns a Tensor around a Buffer, without the checks of the constructor."""
    tensor: Tensor = object.__new__(Tensor)
    tensor.buffer = buffer
    tensor._grad = None
    tensor.grad_fn = None
    tensor._requires_grad = False
    tensor.sparse_grad = False
    return tensor


def _restored(
    kind: type[Tensor],
    buffer: Buffer,
    requires_grad: bool,
    grad: Tensor | SparseGradient | None,
    sparse_grad: bool = False,
) -> Tensor:
    """Returns the leaf, in the Buffer's shape, that was pickled or copied."""
    tensor = object.__new__(kind)
    tensor.buffer = buffer
    tensor._grad = grad
    tensor.grad_fn = None
    tensor._requires_grad = requires_grad
    tensor.sparse_grad = sparse_grad
    return tensor


class Tensor(Elementwise, Reductions, Ordering, Layout, Indexing):
    """An array that can be differentiated.

    Args:
        data: nested lists or tuples, a scalar, a Buffer (shared, not copied), a Tensor, or an array of
            another library (see `Buffer`).
        dtype: its dtype; deduced from the data where missing.
        requires_grad: whether `backward` shall leave the gradient with respect to this Tensor in `grad`.

    Attributes:
        buffer: the Buffer with the elements.
        grad_fn: the record of the operation that made this Tensor; None for a leaf.
        sparse_grad: of a table of which few rows are looked up at a time, such as `Embedding(sparse=True)`
            has: its gradient is kept as these rows, and an optimizer leaves the others as they are.

    Raises:
        RuntimeError: gradients are required of a Tensor that is not floating point.
    """

    __array_ufunc__ = None  # ndarray + Tensor is a TypeError: NumPy would otherwise answer, without gradients
    __slots__ = ("__weakref__", "_grad", "_requires_grad", "buffer", "grad_fn", "sparse_grad")

    def __init__(self, data: Any, dtype: DType | None = None, requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            data = data.buffer
        if isinstance(data, Buffer):
            self.buffer: Buffer = data if dtype is None or dtype is data.dtype else data.cast(dtype)
        else:
            self.buffer = Buffer(data, dtype)
        self._grad: Tensor | SparseGradient | None = None
        self.grad_fn: GradientFunction | None = None
        self._requires_grad = False
        self.sparse_grad = False
        if requires_grad:
            self.requires_grad = True

    # ---------------------------------------------------------------- what it is

    @property
    def backend(self) -> str:
        """The name of the backend that holds the elements."""
        return self.buffer.backend

    @property
    def grad(self) -> Tensor | None:
        """The gradient, of this Tensor's shape, or None before any backward. Passes add up until `zero_grad`.

        Backward leaves it in leaves only, and where `retain_grad` asked for it before; else there is a
        warning. One that is kept as rows (`sparse_grad`) is shown whole.
        """
        if isinstance(self._grad, SparseGradient):
            kept = self._grad
            if kept.shown is None:
                whole = _wrap(kept.add_to(None))
                kept.shown = (whole, whole.buffer.version[0])
            return kept.shown[0]
        if self._grad is None and self.grad_fn is not None and self.grad_fn.output is None:
            warnings.warn(
                "the grad of a result that is no leaf stays None: call retain_grad() on it before "
                "backward(), or look at the grad of the leaf",
                stacklevel=2,
            )
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        self._grad = value

    @property
    def compact_grad(self) -> Buffer | SparseGradient | None:
        """The gradient as it is kept: the rows that have one (of shape (n, ...), for a `sparse_grad`), or a
        Buffer of this Tensor's shape; None where there is none.

        Both have `sum_of_squares()` and can be multiplied by a number.
        """
        kept = self._grad
        if kept is None:
            return None
        if isinstance(kept, SparseGradient):
            if kept.shown is None or kept.shown[0].buffer.version[0] == kept.shown[1]:
                return kept
            kept = kept.shown[0]  # somebody has changed in place what `grad` has shown
        return kept.buffer

    @compact_grad.setter
    def compact_grad(self, value: Buffer | SparseGradient | None) -> None:
        self._grad = _wrap(value) if isinstance(value, Buffer) else value

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
                f"only floating point Tensors can require gradients, not {self.dtype.name}: "
                "use float32 or float64"
            )
        if not value and self.grad_fn is not None:
            raise RuntimeError(
                "requires_grad can be switched off on leaves only: detach() gives a Tensor without history"
            )
        self._requires_grad = bool(value)

    def __deepcopy__(self, memo: Any) -> Tensor:
        if self.grad_fn is not None:
            raise RuntimeError(
                "only leaves can be deep-copied: the result of a recorded operation is part of its graph; "
                "detach() it"
            )
        result = _restored(type(self), self.buffer.copy(), self._requires_grad, None, self.sparse_grad)
        kept = self.compact_grad
        result.compact_grad = None if kept is None else kept.copy()
        if hasattr(self, "__dict__"):  # of a subclass
            result.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return result

    def __copy__(self) -> Tensor:
        result = _restored(type(self), self.buffer, self._requires_grad, self._grad, self.sparse_grad)
        result.grad_fn = self.grad_fn
        if hasattr(self, "__dict__"):
            result.__dict__.update(self.__dict__)
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns how pickle makes this Tensor again: elements, dtype, backend, `requires_grad` and `grad`.

        Raises:
            RuntimeError: this is the result of a recorded operation.
        """
        if self.grad_fn is not None:
            raise RuntimeError(
                "only leaves can be pickled: the result of a recorded operation is part of its graph, which "
                "stays in this process; detach() it"
            )
        state = getattr(self, "__dict__", None)  # of a subclass
        kept = self.compact_grad
        grad = kept if isinstance(kept, SparseGradient) else self.grad
        arguments: tuple[Any, ...] = (type(self), self.buffer, self._requires_grad, grad)
        if self.sparse_grad:
            arguments = (*arguments, True)
        return _restored, arguments, state or None

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
        return array_text(self.buffer, "Tensor(", *self._facts()) + ")"

    def _repr_html_(self) -> str:
        return array_html(self.buffer, "Tensor", *self._facts())

    def _facts(self) -> list[str]:
        """Returns what is printed behind the elements."""
        facts = [f"shape={self.shape}", f"dtype={self.dtype.name}"]
        if self.backend != "python":
            facts.append(f"backend={self.backend!r}")
        if self.grad_fn is not None:
            facts.append(f"grad_fn={self.grad_fn.name}")
        elif self.requires_grad:
            facts.append("requires_grad=True")
        return facts

    def to_python(self) -> Any:
        """Returns the elements as nested lists of Python numbers; a scalar for no axes."""
        return self.buffer.to_python()

    def item(self) -> Any:
        """Returns the only element as a Python number; raises ValueError where there is not exactly one."""
        return self.buffer.item()

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The elements where they lie, for `numpy.asarray`; read-only where gradients are required."""
        interface = self.buffer.__array_interface__
        if self.requires_grad:
            interface["data"] = interface["data"].toreadonly()
        return interface

    def __dlpack__(self, **options: Any) -> Any:
        """Returns the elements where they lie, for `torch.from_dlpack` and its like.

        Raises:
            BufferError: gradients are required, or the backend cannot.

        Source: the DLPack protocol, https://dmlc.github.io/dlpack/latest/
        """
        if self.requires_grad:
            raise BufferError(
                "a Tensor that requires gradients is not exported, since changes could not be seen: "
                "detach() it first"
            )
        return self.buffer.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        """Returns where the elements are, for `__dlpack__`."""
        return self.buffer.__dlpack_device__()

    def explain(self, out: str = "explain.html") -> int:
        """Writes one HTML page that shows how this Tensor was made, and its derivatives, step by step.

        Inside `with explain.Recorder():` it also shows modules, times and all values. No gradient changes and
        nothing is freed.

        Returns:
            The page's size in bytes.

        Raises:
            ValueError: no recorded operation made this Tensor, or the graph was freed by a backward().
        """
        from . import explain

        return explain.explain_tensor(self, out)

    def print_dag(self) -> None:
        """Prints the graph of operations that made this Tensor, indented, shared parts once."""
        for line in graph_text.dag_lines(self.grad_fn or self):
            print(line)

    def to_dot(self) -> str:
        """Returns that graph in Graphviz's language, for `dot -Tsvg`."""
        return graph_text.dot_text(self)

    # ---------------------------------------------------------------- making one

    @staticmethod
    def full(shape: Any, value: float, dtype: DType | None = None, requires_grad: bool = False) -> Tensor:
        """Returns a Tensor of `shape` that holds `value` everywhere."""
        if is_allocating():
            buffer = Buffer.full(shape, value, dtype)
        else:
            buffer = Buffer.full((), value, dtype).expand(shape)
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
        """Returns start, start + step, … along one axis, without stop; `arange(stop)` begins at 0."""
        return Tensor(Buffer.arange(start, stop, step, dtype))

    @staticmethod
    def linspace(start: float, stop: float, count: int, dtype: DType = DType.float32) -> Tensor:
        """Returns `count` numbers along one axis, equally far apart, from start to stop, both included.

        Raises:
            ValueError: a negative count.
            TypeError: a count that is no int, or a dtype that is none.
        """
        return Tensor(linspace(start, stop, count, dtype))

    @staticmethod
    def eye(rows: int, columns: int | None = None, dtype: DType = DType.float32) -> Tensor:
        """Returns the identity matrix (rows, columns), square where columns are missing.

        Raises:
            ValueError: a negative size.
            TypeError: a size that is no int, or a dtype that is none.
        """
        return Tensor(eye(rows, columns, dtype))

    @staticmethod
    def uniform(
        shape: Any,
        low: float = 0.0,
        high: float = 1.0,
        dtype: DType = DType.float32,
        requires_grad: bool = False,
        **options: Any,
    ) -> Tensor:
        """Returns random elements, uniform in [low, high), from the default generator, or `generator=…`."""
        if not is_allocating():
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
        """Returns random elements, normally distributed, from the default generator, or `generator=…`."""
        if not is_allocating():
            return Tensor.full(shape, 0, dtype, requires_grad)
        return Tensor(Buffer.normal(shape, mean, std, dtype, **options), requires_grad=requires_grad)

    @staticmethod
    def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
        """Returns the tensors joined along `axis`.

        Raises:
            ValueError: there are none, or their other axes do not agree.
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
            side if isinstance(side, Tensor) else Tensor(side) if like is None else like._side(side)
            for side in (first, second)
        ]
        return apply_op(operations.Where, condition, *sides)

    @staticmethod
    def einsum(subscripts: str, first: Tensor, *others: Tensor) -> Tensor:
        """Returns the sum of products over axes that NumPy's notation describes.

        `Tensor.einsum("bhid,bhjd->bhij", query, key)` gives the scores of attention.
        """
        return apply_op(operations.Einsum, first, *others, subscripts=subscripts)

    # ---------------------------------------------------------------- arithmetic

    def _scalar(self, value: Any) -> Tensor:
        """Returns a Python number as a Tensor on the same backend, in the dtype to which the two promote."""
        return _wrap(self.buffer.scalar(value))

    def _side(self, value: Any) -> Tensor:
        """Returns what `where` is given beside this Tensor: a number, or an error."""
        number = as_number(value)
        if number is None:
            raise TypeError(f"where chooses between Tensors or numbers, not a {type(value).__name__}")
        return self._scalar(number)

    def _apply(self, operation: type[Operation], other: Any, swap: bool = False) -> Tensor:
        if not isinstance(other, Tensor):
            if not isinstance(other, (bool, int, float)):
                other = as_number(other)
                if other is None:
                    return NotImplemented
            other = self._scalar(other)
        return apply_op(operation, other, self) if swap else apply_op(operation, self, other)

    def _operate(self, operation: type[Operation], *others: Any, **options: Any) -> Tensor:
        return apply_op(operation, self, *others, **options)

    def _without_record(self, buffer: Buffer) -> Tensor:
        return _wrap(buffer)

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
        """Returns the larger of two elements; where they are equal, each gets half the gradient.

        Raises:
            TypeError: the other is neither a Tensor nor a number.
        """
        return apply_op(operations.Maximum, self, self._beside(other, "maximum"))

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
        """Returns whether all elements satisfy |self - other| <= atol + rtol |other|, after broadcasting."""
        if not isinstance(other, Tensor):
            other = Tensor(other)
        a, b = self.buffer.cast(DType.float64), other.buffer.cast(DType.float64)
        distance = (a - b).maximum(b - a)
        allowed = b.maximum(-b) * rtol + atol
        return all(((distance <= allowed).maximum(a == b)).to_array())

    # ---------------------------------------------------------------- functions

    def exp(self) -> Tensor:
        """Returns e to the power x of each element."""
        return apply_op(operations.Exp, self)

    def log(self) -> Tensor:
        """Returns the natural logarithm of each element."""
        return apply_op(operations.Log, self)

    def sqrt(self) -> Tensor:
        """Returns the square root of each element."""
        return apply_op(operations.Sqrt, self)

    def tanh(self) -> Tensor:
        """Returns the hyperbolic tangent of each element."""
        return apply_op(operations.Tanh, self)

    def sigmoid(self) -> Tensor:
        """Returns the logistic function 1 / (1 + exp(-x)) of each element."""
        return apply_op(operations.Sigmoid, self)

    def log_sigmoid(self) -> Tensor:
        """Returns log(1 / (1 + exp(-x))) of each element, without the underflow of sigmoid().log()."""
        return apply_op(operations.LogSigmoid, self)

    def sin(self) -> Tensor:
        """Returns the sine of each element, in radians."""
        return apply_op(operations.Sin, self)

    def cos(self) -> Tensor:
        """Returns the cosine of each element, in radians."""
        return apply_op(operations.Cos, self)

    def relu(self) -> Tensor:
        """Returns max(x, 0) of each element."""
        return apply_op(operations.Relu, self)

    def gelu(self, approximate: str = "tanh") -> Tensor:
        """Returns x times the normal distribution function of x, for each element.

        Args:
            approximate: "tanh" for GPT-2's approximation, "none" for the exact function.

        Source: Hendrycks, Gimpel 2016, https://arxiv.org/abs/1606.08415.
        """
        return apply_op(operations.GELU, self, approximate=approximate)

    def silu(self) -> Tensor:
        """Returns x times the logistic function of x, for each element.

        Source: Elfwing et al. 2017, https://arxiv.org/abs/1702.03118.
        """
        return apply_op(operations.SiLU, self)

    def softmax(self, axis: int = -1) -> Tensor:
        """Returns exp(x), normalized to sum 1 along `axis`."""
        return apply_op(operations.Softmax, self, axis=axis)

    def log_softmax(self, axis: int = -1) -> Tensor:
        """Returns the logarithm of softmax along `axis`, without the underflow of softmax(x).log()."""
        return apply_op(operations.LogSoftmax, self, axis=axis)

    def _reduce(self, operation: type[Operation], axes: Any, keepdim: bool) -> Tensor:
        return apply_op(operation, self, axes=normalize_axes(axes, self.ndim))._without_axes(axes, keepdim)

    def sum(self, axes: Any = None, keepdim: bool = False) -> Tensor:
        """Returns the sum over `axes`: an int, a tuple, or None for all. `keepdim` leaves them with size 1.

        Raises:
            TypeError: an axis that is no int.
            ValueError: an axis that is not there, or one named twice.
        """
        return self._reduce(operations.Sum, axes, keepdim)

    def mean(self, axes: Any = None, keepdim: bool = False) -> Tensor:
        """Returns the mean over `axes`.

        Raises:
            TypeError: an axis that is no int.
            ValueError: an axis that is not there, named twice, or empty, and the result is not.
        """
        axes = normalize_axes(axes, self.ndim)
        refuse_empty("mean", self.shape, axes)
        count = numel([self.shape[axis] for axis in axes])
        return self.sum(axes, keepdim) / max(count, 1)  # a result without elements divides nothing

    def max(self, axes: Any = None, keepdim: bool = False) -> Tensor:
        """Returns the largest element over `axes`; equal ones share the gradient.

        Raises:
            TypeError: an axis that is no int.
            ValueError: an axis that is not there, or one named twice.
        """
        return self._reduce(operations.Max, axes, keepdim)

    def dot(self, other: Tensor) -> Tensor:
        """Returns the matrix product, as `@`: over the last axis of this and the last but one of the other.

        Of a vector it is the only one.

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
        """Returns the slices along `axis` that integer indices name; gradients of repeated indices add up."""
        indices = indices if isinstance(indices, Tensor) else _wrap(type(self.buffer)(indices))
        return apply_op(operations.Take, self, indices, axis=axis)

    # ---------------------------------------------------------------- layout

    def reshape(self, shape: Any = None, *, new_shape: Any = None) -> Tensor:
        """Returns the same elements under another shape; one axis may be -1."""
        shape = shape if new_shape is None else new_shape  # TinyGPT's name
        return apply_op(operations.Reshape, self, shape=shape)

    def expand(self, shape: Any = None, *, new_shape: Any = None) -> Tensor:
        """Returns a view broadcast to `shape`."""
        shape = shape if new_shape is None else new_shape  # TinyGPT's name
        return apply_op(operations.Expand, self, shape=shape)

    def permute(self, axes: Sequence[int]) -> Tensor:
        """Returns a view whose axis i is this Tensor's axis axes[i]."""
        return apply_op(operations.Permute, self, axes=axes)

    def transpose(self, axis1: int, axis2: int) -> Tensor:
        """Returns a view with two axes exchanged."""
        return self.permute(exchanged(axis1, axis2, self.ndim))

    def tril(self, diagonal: int = 0) -> Tensor:
        """Returns a copy with zeros above a diagonal of the last two axes."""
        return apply_op(operations.Tril, self, diagonal=diagonal)

    def cast(self, dtype: DType) -> Tensor:
        """Returns a copy of the same shape in another dtype; gradients are cast back."""
        return apply_op(operations.Cast, self, dtype=dtype)

    def to(self, backend: str) -> Tensor:
        """Returns the same elements on another backend, and itself if they are there already.

        The move is recorded: gradients go back to this Tensor, on its own backend. `Module.to` moves a
        model's parameters and leaves them leaves.
        """
        if type(self.buffer) is get_backend(backend):
            return self
        return apply_op(operations.To, self, backend=backend)

    # ---------------------------------------------------------------- in place

    def _check_changeable(self) -> None:
        """Raises RuntimeError where a change in place would make gradients wrong."""
        if is_recording() and self.requires_grad:
            kind = "a leaf that requires gradients" if self.is_leaf else "the result of a recorded operation"
            raise RuntimeError(
                f"{kind} cannot be changed in place while operations are recorded: "
                "do it inside `with no_grad():`"
            )

    def assign(self, value: Any) -> Tensor:
        """Writes `value` into this Tensor's storage, broadcast and cast, unrecorded, and returns this Tensor.

        Args:
            value: a Tensor, a number or nested lists.

        Raises:
            RuntimeError: this is the result of a recorded operation (unless inside `no_grad`).
        """
        if not self.is_leaf:
            self._check_changeable()
        self.buffer.assign(value.buffer if isinstance(value, Tensor) else value)
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        self._check_changeable()
        if isinstance(value, Tensor):
            if is_recording() and value.requires_grad:
                raise RuntimeError(
                    "assigning into a slice is not recorded: detach() the value, "
                    "or build the result with concatenate"
                )
            value = value.buffer
        self._assign_at(index, value)

    def _in_place(self, operation: type[Operation], other: Any) -> Tensor:
        """Computes `self op= other`, in place where nothing is recorded; else this becomes the result."""
        if self.is_leaf:
            self._check_changeable()
        result = self._apply(operation, other)
        if result is NotImplemented:
            return result
        if result.shape != self.shape:
            raise ShapeError(
                shape_errors.expand(f"in-place {operation.__name__.lower()}", result.shape, self.shape)
            )
        if result.dtype.kind != self.dtype.kind:
            raise ValueError(
                f"an in-place operation cannot turn {self.dtype} {self.shape} into "
                f"{result.dtype} {result.shape}"
            )
        if result.dtype is not self.dtype:
            result = result.cast(self.dtype)
        if result.grad_fn is None:
            self.buffer.assign(result.buffer)
        else:
            self.buffer = result.buffer
            self.grad_fn = result.grad_fn
            self._requires_grad = True
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
        self._grad = None

    def retain_grad(self) -> None:
        """Asks backward to leave the gradient in `grad` although this is no leaf.

        Raises:
            RuntimeError: no gradient is required.
        """
        if not self.requires_grad:
            raise RuntimeError("a Tensor that requires no gradients has none to retain")
        if self.grad_fn is not None:
            if self.grad_fn.operation is None:
                warnings.warn(
                    "retain_grad() after backward(): the graph is freed, and no gradient will come; call it "
                    "before",
                    stacklevel=2,
                )
            self.grad_fn.output = weakref.ref(self)

    def accumulate_gradient(self, gradient: Buffer | SparseGradient) -> None:
        """Adds a gradient of this Tensor's shape to `grad`; the first one is kept itself, not copied."""
        earlier = self.compact_grad
        if earlier is None:
            self.compact_grad = gradient
        elif isinstance(earlier, Buffer) and isinstance(gradient, Buffer):
            self._grad = _wrap(earlier + gradient)
        elif isinstance(earlier, Buffer):
            self._grad = _wrap(gradient.add_to(earlier.copy()))  # type: ignore[union-attr]
        elif isinstance(gradient, Buffer):
            self._grad = _wrap(earlier.add_to(gradient.copy()))
        else:
            self._grad = earlier.plus(gradient)

    def backward(self, incoming_gradient: Any = None, retain_graph: bool = False) -> None:
        """Adds dL/dx to `x.grad` for every leaf x that requires it.

        L is the sum of this Tensor times `incoming_gradient`.

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
            self.accumulate_gradient(gradient.copy() if incoming_gradient is not None else gradient)
            return
        for tensor, part in walk_back(self.grad_fn, gradient, retain_graph):
            tensor.accumulate_gradient(part)

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
        """Returns whether `text` has the form that `serialize_tensor` writes, which is never evaluated."""
        return isinstance(text, str) and re.fullmatch(SERIALIZED, text) is not None

    @staticmethod
    def deserialize_tensor(text: str) -> Tensor:
        """Returns the Tensor that a text of `serialize_tensor` describes.

        Its shape and dtype follow from the brackets and numbers.

        Raises:
            ValueError: the text has another form, or its data are ragged.
        """
        found = re.fullmatch(SERIALIZED, text) if isinstance(text, str) else None
        if found is None:
            raise ValueError(
                "expected Tensor(data=<numbers in brackets>, requires_grad=<True or False>), "
                f"not {str(text)[:60]!r}"
            )
        data = parse_value(found["data"])
        try:
            return Tensor(data, requires_grad=found["grad"] == "True")
        except (TypeError, ValueError, OverflowError, RuntimeError) as problem:
            raise ValueError(f"the data of a serialized tensor make none: {problem!s:.400}") from None


def parse_value(text: str) -> Any:
    """Returns what a text of numbers in brackets spells: a bool, an int or a float, or nested lists of them.

    Nothing is evaluated. It is how the data of `serialize_tensor` are read.

    Raises:
        ValueError: the text is something else.
    """
    import json

    words = {"True": "true", "False": "false", "inf": "Infinity", "nan": "NaN"}
    try:
        if not re.fullmatch(SERIALIZED_DATA, text):
            raise ValueError
        return json.loads(re.sub(r"[A-Za-z]{3,}", lambda word: words[word.group()], text))
    except (ValueError, KeyError, RecursionError):
        raise ValueError(
            f"the data of a serialized tensor are numbers in brackets, not {text[:60]!r}"
        ) from None
