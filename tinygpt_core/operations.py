"""Floor 4: operations, each a function of Buffers with its derivative beside it.

An `Operation` computes its result in `forward` and keeps on itself what `backward` needs and no more.
`backward(grad)` takes the gradient g of the loss with respect to the result and returns one for each input,
in order. An entry may be a Buffer, None, or a function without arguments: the engine (module `tape`) calls
it only where that gradient is needed, sums the result back over broadcast axes, and accumulates it. So a
derivative here is the bare formula.

    class Square(Operation):                 # a user's own operation, whole
        def forward(self, x):
            self.x = x
            return x * x

        def backward(self, grad):
            return grad * self.x * 2.0

    y = apply_op(Square, x)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from .buffer.base import Buffer
from .dtype import DType
from .kernels import (
    activations,
    attention,
    convolution,
    cross_entropy,
    dense,
    dropout,
    einsum,
    ngrams,
    normalization,
    rotary,
    softmax,
)
from .kernels.base import Gradient, Kernel, lookup
from .shape import Shape, inverse_permutation, normalize_axes, normalize_axis, permutation


class Operation:
    """A differentiable function of Buffers.

    Args:
        needs_input_grad: for each input, whether its gradient is wanted. Returning functions from `backward`
            makes it unnecessary to look at this.

    Attributes:
        needs_unchanged: whether backward refuses to run after any input or the result was changed in place,
            whatever it keeps. Without it, only the Buffers count that stand in attributes of the operation,
            directly or in tuples, lists and dicts.
    """

    needs_unchanged: ClassVar[bool] = False

    def __init__(self, needs_input_grad: Sequence[bool] = ()) -> None:
        self.needs_input_grad = needs_input_grad

    def forward(self, *buffers: Any, **options: Any) -> Buffer:
        """Returns the result, of any shape, and keeps on itself what `backward` needs."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, grad: Any) -> Any:
        """Returns the gradient of the input, or a tuple of one for each input; its shape is the input's, or
        broadcasts from it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward")


class PartialGradient:
    """The gradient of a view: `values` at `index` of an otherwise zero Buffer of `shape`.

    The engine adds it in place to the gradient it belongs to. So a hundred slices of one tensor cost one
    buffer of zeros, not a hundred.
    """

    __slots__ = ("index", "shape", "values")

    def __init__(self, shape: Shape, index: Any, values: Buffer) -> None:
        self.shape = shape
        self.index = index
        self.values = values

    def add_to(self, total: Buffer | None) -> Buffer:
        """Returns `total`, of the shape of the whole (zeros where there is none), with the values added in
        place.
        """
        if total is None:
            total = type(self.values).zeros(self.shape, self.values.dtype)
            total[self.index].assign(self.values)
        else:
            total[self.index].add_in_place(self.values)
        return total


class SparseGradient(PartialGradient):
    """The gradient of a table of which few rows were looked up: `values[k]` in row `rows[k]`, else zeros.

    A vocabulary has thousands of rows and a batch looks up a hundred of them, so that what is kept, added up,
    clipped and given to an optimizer is these alone.

    Args:
        shape: of the table.
        rows: integers (n,), none of them twice.
        values: (n, ...), of which each is of a row's shape.

    Attributes:
        shown: where a Tensor has shown the whole gradient: that copy, and its version then.
    """

    __slots__ = ("rows", "shown")

    def __init__(self, shape: Shape, rows: Buffer, values: Buffer) -> None:
        super().__init__(shape, None, values)
        self.rows = rows
        self.shown: tuple[Any, int] | None = None

    def add_to(self, total: Buffer | None) -> Buffer:
        """Returns `total`, of the table's shape (zeros where there is none), with the rows added in place."""
        if total is None:
            total = type(self.values).zeros(self.shape, self.values.dtype)
        return total.scatter_add(self.rows, self.values)

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns how pickle makes this gradient again, without what was shown of it."""
        return type(self), (self.shape, self.rows, self.values)

    def copy(self) -> SparseGradient:
        """Returns the same gradient with rows and values of its own, of which nothing was shown yet."""
        return SparseGradient(self.shape, self.rows.copy(), self.values.copy())

    def plus(self, other: SparseGradient) -> SparseGradient:
        """Returns the sum with another gradient of the same table."""
        kind = type(self.values)
        rows = kind.concatenate([self.rows, other.rows], axis=0)
        values = kind.concatenate([self.values, other.values], axis=0)
        return SparseGradient(self.shape, *dense.sums_by_row(rows, values))

    def __mul__(self, factor: float) -> SparseGradient:
        """Returns the gradient with each element multiplied by a number."""
        return SparseGradient(self.shape, self.rows, self.values * factor)

    def sum_of_squares(self) -> float:
        """Returns the sum of the squares of all elements, added up in doubles."""
        return float(self.values.sum_of_squares())


# ---------------------------------------------------------------- two operands


class Add(Operation):
    """y = a + b, broadcast; dL/da = g, dL/db = g."""

    def forward(self, a: Buffer, b: Buffer) -> Buffer:
        return a + b

    def backward(self, grad: Buffer) -> Any:
        return grad, grad


class Sub(Operation):
    """y = a - b, broadcast; dL/da = g, dL/db = -g."""

    def forward(self, a: Buffer, b: Buffer) -> Buffer:
        return a - b

    def backward(self, grad: Buffer) -> Any:
        return grad, lambda: -grad


class Mul(Operation):
    """y = a b of each element, broadcast; dL/da = g b, dL/db = g a."""

    def forward(self, a: Buffer, b: Buffer) -> Buffer:
        self.a, self.b = a, b
        return a * b

    def backward(self, grad: Buffer) -> Any:
        return lambda: grad * self.b, lambda: grad * self.a


class Div(Operation):
    """y = a / b, broadcast; dL/da = g / b, dL/db = -g y / b."""

    def forward(self, a: Buffer, b: Buffer) -> Buffer:
        self.b = b
        self.y = a / b
        return self.y

    def backward(self, grad: Buffer) -> Any:
        return lambda: grad / self.b, lambda: -grad * self.y / self.b


class Pow(Operation):
    """y = a ^ b, broadcast; dL/da = g b a^(b - 1), which is 0 where b is 0.

    dL/db = g y ln a, which is 0 where a is 0 and b is not negative.
    """

    def forward(self, a: Buffer, b: Buffer) -> Buffer:
        self.a, self.b = a, b
        self.y = a**b
        return self.y

    def backward(self, grad: Buffer) -> Any:
        a, b = self.a, self.b

        def of_base() -> Buffer:
            return Buffer.where(b == 0, 0.0, grad * (b * a ** (b - 1.0)))

        def of_exponent() -> Buffer:
            vanishes = (a == 0) * (b >= 0)
            return Buffer.where(vanishes, 0.0, grad * (self.y * Buffer.where(vanishes, 1.0, a).log()))

        return of_base, of_exponent


class Maximum(Operation):
    """y = max(a, b) of each element, broadcast; g goes to the larger, and half of it to each of equals."""

    def forward(self, a: Buffer, b: Buffer) -> Buffer:
        self.a, self.b = a, b
        return a.maximum(b)

    def backward(self, grad: Buffer) -> Any:
        def share(one: Buffer, other: Buffer) -> Buffer:
            # A choice, not a product: an infinite gradient times 0 would be NaN
            return Buffer.where(one > other, grad, Buffer.where(one == other, grad * 0.5, 0.0))

        return lambda: share(self.a, self.b), lambda: share(self.b, self.a)


class Where(Operation):
    """y = a where the condition holds, else b, all three broadcast; g goes where y came from."""

    def forward(self, condition: Buffer, a: Buffer, b: Buffer) -> Buffer:
        self.condition = condition
        return Buffer.where(condition, a, b)

    def backward(self, grad: Buffer) -> Any:
        return (
            None,
            lambda: Buffer.where(self.condition, grad, 0.0),
            lambda: Buffer.where(self.condition, 0.0, grad),
        )


class MatMul(Operation):
    """y = a b over the last two axes; dL/da = g b^T, dL/db = a^T g."""

    def forward(self, a: Buffer, b: Buffer) -> Buffer:
        self.a, self.b = a, b
        return a.matmul(b)

    def backward(self, grad: Buffer) -> Any:
        return lambda: grad.matmul(self.b.transpose(-1, -2)), lambda: self.a.transpose(-1, -2).matmul(grad)


# ---------------------------------------------------------------- one operand


class Neg(Operation):
    """y = -x of each element; dL/dx = -g."""

    def forward(self, x: Buffer) -> Buffer:
        return -x

    def backward(self, grad: Buffer) -> Any:
        return -grad


class Exp(Operation):
    """y = e^x of each element; dL/dx = g y."""

    def forward(self, x: Buffer) -> Buffer:
        self.y = x.exp()
        return self.y

    def backward(self, grad: Buffer) -> Any:
        return grad * self.y


class Log(Operation):
    """y = ln x of each element; dL/dx = g / x."""

    def forward(self, x: Buffer) -> Buffer:
        self.x = x
        return x.log()

    def backward(self, grad: Buffer) -> Any:
        return grad / self.x


class Sqrt(Operation):
    """y = sqrt x of each element; dL/dx = g / (2 y)."""

    def forward(self, x: Buffer) -> Buffer:
        self.y = x.sqrt()
        return self.y

    def backward(self, grad: Buffer) -> Any:
        return grad / (self.y * 2.0)


class Tanh(Operation):
    """y = tanh x of each element; dL/dx = g (1 - y^2)."""

    def forward(self, x: Buffer) -> Buffer:
        self.y = x.tanh()
        return self.y

    def backward(self, grad: Buffer) -> Any:
        return grad * (1.0 - self.y * self.y)


class Sigmoid(Operation):
    """y = 1 / (1 + e^-x) of each element; dL/dx = g y (1 - y).

    1 - y is computed as 1 / (1 + e^x), which keeps its digits where y rounds to 1.
    """

    def forward(self, x: Buffer) -> Buffer:
        self.x = x
        self.y = activations.logistic(x)
        return self.y

    def backward(self, grad: Buffer) -> Any:
        return grad * self.y * activations.logistic(-self.x)


class LogSigmoid(Operation):
    """y = -log(1 + e^-x) of each element, the logarithm of the sigmoid; dL/dx = g / (1 + e^x).

    It is computed as min(x, 0) - log(1 + e^-|x|): nothing overflows, and nothing cancels.
    """

    def forward(self, x: Buffer) -> Buffer:
        self.x = x
        return -((-x).maximum(0.0) + activations.log_of_one_plus((-x.maximum(-x)).exp()))

    def backward(self, grad: Buffer) -> Any:
        return grad * activations.logistic(-self.x)


class Sin(Operation):
    """y = sin x of each element, in radians; dL/dx = g cos x."""

    def forward(self, x: Buffer) -> Buffer:
        self.x = x
        return x.sin()

    def backward(self, grad: Buffer) -> Any:
        return grad * self.x.cos()


class Cos(Operation):
    """y = cos x of each element, in radians; dL/dx = -g sin x."""

    def forward(self, x: Buffer) -> Buffer:
        self.x = x
        return x.cos()

    def backward(self, grad: Buffer) -> Any:
        return -grad * self.x.sin()


# ---------------------------------------------------------------- reductions


class Sum(Operation):
    """y = sum of x over `axes` (None: all), which stay with size 1; dL/dx = g, spread out again."""

    def forward(self, x: Buffer, axes: Any = None) -> Buffer:
        self.shape = x.shape
        return x.sum(axes)

    def backward(self, grad: Buffer) -> Any:
        return grad.expand(self.shape)


class Max(Operation):
    """y = max of x over `axes` (None: all), which stay with size 1; g goes to the largest.

    Where several are largest, each gets an equal part.

    Raises:
        TypeError: an axis that is no int.
        ValueError: an axis that x does not have, or one named twice.
    """

    def forward(self, x: Buffer, axes: Any = None) -> Buffer:
        self.x, self.axes = x, normalize_axes(axes, x.ndim)
        self.y = x.max(axes)
        return self.y

    def backward(self, grad: Buffer) -> Any:
        return shared_equally(self.x == self.y, grad, self.axes)


def shared_equally(chosen: Buffer, grad: Buffer, axes: Any) -> Buffer:
    """Returns g in equal parts where something was chosen over `axes`, of the shape of that, and 0 elsewhere.

    Raises:
        TypeError: an axis that is no int.
        ValueError: an axis that is not there, or one named twice.
    """
    # A choice, not a product: an infinite gradient times 0 would be NaN
    return Buffer.where(chosen, grad / chosen.sum(axes).cast(grad.dtype), 0.0)


# ---------------------------------------------------------------- layout


class Reshape(Operation):
    """y = x under another shape; dL/dx = g under the old one."""

    def forward(self, x: Buffer, shape: Any) -> Buffer:
        self.shape = x.shape
        return x.reshape(shape)

    def backward(self, grad: Buffer) -> Any:
        return grad.reshape(self.shape)


class Expand(Operation):
    """y = x broadcast to a shape; dL/dx = g (the engine sums it back)."""

    def forward(self, x: Buffer, shape: Any) -> Buffer:
        return x.expand(shape)

    def backward(self, grad: Buffer) -> Any:
        return grad


class Permute(Operation):
    """y = x with its axes in another order; dL/dx = g with them back."""

    def forward(self, x: Buffer, axes: Sequence[int]) -> Buffer:
        self.axes = permutation(axes, x.ndim)
        return x.permute(self.axes)

    def backward(self, grad: Buffer) -> Any:
        return grad.permute(inverse_permutation(self.axes))


class Slice(Operation):
    """y = x[index]: an int takes its axis away, a slice shortens it; dL/dx = g there and 0 elsewhere.

    Raises:
        TypeError: an entry that is neither an int, a slice nor `...`.
        IndexError: an int outside its axis, or more entries than axes.
        ValueError: a slice with step 0.
    """

    def forward(self, x: Buffer, index: Any) -> Buffer:
        self.shape, self.index = x.shape, index
        return x[index]

    def backward(self, grad: Buffer) -> Any:
        return lambda: PartialGradient(self.shape, self.index, grad)


class Concatenate(Operation):
    """y = the inputs joined along an axis; each gets its part of g."""

    def forward(self, *buffers: Buffer, axis: int = 0) -> Buffer:
        y = type(buffers[0]).concatenate(buffers, axis)
        axes_before = (slice(None),) * (axis % y.ndim)
        self.parts = []  # where each input lies in y
        start = 0
        for buffer in buffers:
            end = start + buffer.shape[axis]
            self.parts.append((*axes_before, slice(start, end)))
            start = end
        return y

    def backward(self, grad: Buffer) -> Any:
        return tuple(grad[part] for part in self.parts)


class Tril(Operation):
    """y = x with zeros above a diagonal of its last two axes; so has dL/dx."""

    def forward(self, x: Buffer, diagonal: int = 0) -> Buffer:
        self.diagonal = diagonal
        return x.tril(diagonal)

    def backward(self, grad: Buffer) -> Any:
        return grad.tril(self.diagonal)


class Cast(Operation):
    """y = x in another dtype, element by element; dL/dx = g in the old one."""

    def forward(self, x: Buffer, dtype: DType) -> Buffer:
        self.dtype = x.dtype
        return x.cast(dtype)

    def backward(self, grad: Buffer) -> Any:
        return grad.cast(self.dtype)


class To(Operation):
    """y = x on another backend, element by element; dL/dx = g on the backend of x."""

    def forward(self, x: Buffer, backend: str) -> Buffer:
        self.origin = type(x)
        return x.to(backend)

    def backward(self, grad: Buffer) -> Any:
        return lambda: self.origin.from_array(grad.to_array(), grad.shape, grad.dtype)


class Take(Operation):
    """y = the slices of x along `axis` that integer indices name; dL/dx adds g up at each index.

    The axes of the indices stand in y where `axis` stood in x.

    Raises:
        TypeError: indices or an axis that are no integers.
        IndexError: an index outside the axis.
        ValueError: an axis that x does not have.
    """

    def forward(self, x: Buffer, indices: Buffer, axis: int = 0) -> Buffer:
        self.axis = normalize_axis(axis, x.ndim)
        self.shape = x.shape
        self.indices = indices
        return x.take(indices, axis)

    def backward(self, grad: Buffer) -> Any:
        axis = self.axis
        end = axis + self.indices.ndim  # the axes of the indices stand at axis:end in y
        # Both with these axes in front, as scatter_add wants them
        order = (axis, *(other for other in range(len(self.shape)) if other != axis))
        total = type(grad).zeros(tuple(self.shape[i] for i in order), grad.dtype)
        front = grad.permute((*range(axis, end), *range(axis), *range(end, grad.ndim)))
        total.scatter_add(self.indices, front)
        return total.permute(inverse_permutation(order)), None


# ---------------------------------------------------------------- kernels


class KernelOperation(Operation):
    """An operation whose forward and backward are those of a kernel, in the version the backend of its first
    input has registered.

    y, saved = kernel.forward(inputs), and the gradients are kernel.backward(saved, g). Each class below gives
    its formula and derivative in short; the class of the same name in `kernels` has the computation, and says
    all about shapes, options and errors.

    What a kernel keeps is its own affair, and differs from backend to backend: an input, a copy of it, or the
    result. So that the same programs are right on all of them, none of its inputs and not its result may be
    changed in place before its backward.
    """

    needs_unchanged = True
    kernel: ClassVar[type[Kernel]]

    def forward(self, *buffers: Any, **options: Any) -> Buffer:
        first = buffers[0]
        for other in buffers[1:]:
            if other is not None and type(other) is not type(first):
                first.check_backend(other)
        self.implementation = lookup(self.kernel, type(first))
        result, self.saved = self.implementation.forward(*buffers, **options)
        return result

    def backward(self, grad: Buffer) -> tuple[Gradient, ...]:
        # Optional inputs may be missing
        return self.implementation.backward(self.saved, grad)[: len(self.needs_input_grad)]


class Linear(KernelOperation):
    """y = x W + b over the last axis; dL/dx = g W^T, dL/dW = x^T g, dL/db = sum of g.

    The textbook form is `dense.Linear`.
    """

    kernel = dense.Linear


class Embedding(KernelOperation):
    """y = W[indices], rows of a table; dL/dW[i] = sum of g where index i stood.

    With `sparse` the gradient is a `SparseGradient`, of the rows that were looked up.
    The textbook form is `dense.Embedding`.
    """

    kernel = dense.Embedding

    def forward(self, weights: Buffer, indices: Buffer, *, sparse: bool = False) -> Buffer:
        self.sparse = sparse
        return super().forward(weights, indices)

    def backward(self, grad: Buffer) -> tuple[Any, ...]:
        backward_by_rows = getattr(self.implementation, "backward_by_rows", None)
        if not self.sparse or backward_by_rows is None:
            return super().backward(grad)

        def of_weights() -> SparseGradient:
            _, shape, _ = self.saved
            return SparseGradient(shape, *backward_by_rows(self.saved, grad))

        return of_weights, None


class HashNgrams(KernelOperation):
    """rows[k, b, t] = the row of table k for the k + 2 ids of row b that end at t; no gradient flows.

    The textbook form is `ngrams.HashNgrams`.
    """

    kernel = ngrams.HashNgrams

    def backward(self, grad: Buffer) -> tuple[Gradient, ...]:
        return (None,)


class Softmax(KernelOperation):
    """y = exp(x - max x) / sum exp(x - max x) along an axis; dL/dx = y (g - sum(g y)).

    The textbook form is `softmax.Softmax`.
    """

    kernel = softmax.Softmax


class LogSoftmax(KernelOperation):
    """y = x - max x - log sum exp(x - max x) along an axis; dL/dx = g - exp(y) sum(g).

    The textbook form is `softmax.LogSoftmax`.
    """

    kernel = softmax.LogSoftmax


class CrossEntropy(KernelOperation):
    """loss = -log softmax(logits)[target] for each row; dL/dlogits = g (softmax(logits) - onehot(target)).

    The textbook form is `cross_entropy.CrossEntropy`.
    """

    kernel = cross_entropy.CrossEntropy


class LayerNorm(KernelOperation):
    """y = n w + b with n = (x - mean x) / sqrt(var x + eps), over the last axes.

    With h = g w and r = 1 / sqrt(var x + eps): dL/dx = r (h - mean h - n mean(h n)), dL/dw = sum g n,
    dL/db = sum g.

    The textbook form is `normalization.LayerNorm`.
    """

    kernel = normalization.LayerNorm


class RMSNorm(KernelOperation):
    """y = n w with n = x / sqrt(mean x^2 + eps), over the last axes.

    With h = g w and r = 1 / sqrt(mean x^2 + eps): dL/dx = r (h - n mean(h n)), dL/dw = sum g n.

    The textbook form is `normalization.RMSNorm`.
    """

    kernel = normalization.RMSNorm


class Relu(KernelOperation):
    """y = max(x, 0) of each element; dL/dx = g where x > 0, else 0.

    The textbook form is `activations.Relu`.
    """

    kernel = activations.Relu


class GELU(KernelOperation):
    """y = x Phi(x) of each element, with Phi the normal distribution; dL/dx = g (Phi(x) + x Phi'(x)).

    The textbook form is `activations.GELU`.
    """

    kernel = activations.GELU


class SiLU(KernelOperation):
    """y = x s of each element, with s = 1 / (1 + exp(-x)); dL/dx = g s (1 + x (1 - s)).

    The textbook form is `activations.SiLU`.
    """

    kernel = activations.SiLU


class Dropout(KernelOperation):
    """y = x m / (1 - p) of each element; dL/dx = g m / (1 - p), where m is 0 with probability p, else 1.

    The textbook form is `dropout.Dropout`.
    """

    kernel = dropout.Dropout


class Attention(KernelOperation):
    """y = P v with P = softmax(q k^T scale), for each head (B, H, T, D).

    With dP = g v^T and dS = P (dP - sum(dP P)): dL/dq = dS k scale, dL/dk = dS^T q scale, dL/dv = P^T g.

    The textbook form is `attention.Attention`.
    """

    kernel = attention.Attention


class WindowedAttention(KernelOperation):
    """y = P v with P = softmax(c tanh(q k^T scale / c)) over the last `window` keys, for each head.

    With dP = g v^T and dS = P (dP - sum(dP P)) (1 - tanh^2): dL/dq = dS k scale, dL/dk = dS^T q scale, dL/dv
    = P^T g.

    The textbook form is `attention.WindowedAttention`.
    """

    kernel = attention.WindowedAttention


class PackedAttention(KernelOperation):
    """y = softmax(q k^T / sqrt(D)) v, of q, k and v side by side in x (B, T, 3 H D).

    dL/dx = the gradients of q, k and v side by side; those are as in `Attention`.

    The textbook form is `attention.PackedAttention`.
    """

    kernel = attention.PackedAttention


class Rotary(KernelOperation):
    """y = x with each pair of elements rotated, the further the later it stands; dL/dx = g rotated back.

    The textbook form is `rotary.Rotary`.
    """

    kernel = rotary.Rotary


class Conv2d(KernelOperation):
    """y = sum of w x over each window of the images (B, C, H, W), plus b.

    dL/dw = sum of g x over all windows, dL/dx = sum of g w over the windows an element lies in, dL/db = sum
    of g.

    The textbook form is `convolution.Conv2d`.
    """

    kernel = convolution.Conv2d


class MaxPool2d(KernelOperation):
    """y = the largest x of each window, in each channel; g goes to where it stood, the first of equals.

    The textbook form is `convolution.MaxPool2d`.
    """

    kernel = convolution.MaxPool2d


class AvgPool2d(KernelOperation):
    """y = the mean of x over each window, in each channel; g goes to all of a window in equal parts.

    The textbook form is `convolution.AvgPool2d`.
    """

    kernel = convolution.AvgPool2d


class Einsum(KernelOperation):
    """y[output] = sum over all other indices of the product of the operands.

    dL/d(operand) = the contraction of g with the other operands that leaves that operand's indices.

    The textbook form is `einsum.Einsum`.
    """

    kernel = einsum.Einsum
