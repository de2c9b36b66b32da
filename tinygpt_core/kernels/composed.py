"""The textbook kernels, composed from a Buffer's own operations: read these to know what a kernel means.

Notation: x is the input, y the result, g the gradient of the loss with respect to y; sums run over the axis a formula names.
"""

from __future__ import annotations

import math
from typing import Any

from .. import random
from ..buffer.base import Buffer
from ..dtype import DType
from ..shape import Shape, ShapeError, normalize_axis
from .base import Gradient, Kernel

SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
GELU_CUBIC = 0.044715


def rows_of(x: Buffer) -> Buffer:
    """Returns x as a matrix: its last axis, and all others as one."""
    return x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))


def sum_to(grad: Buffer, shape: Shape) -> Buffer:
    """Returns `grad` summed over the axes along which `shape` was broadcast: the derivative of broadcasting is summing back."""
    if grad.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    stretched = tuple(i for i in range(grad.ndim) if i < extra or (shape[i - extra] == 1 and grad.shape[i] != 1))
    return grad.sum(stretched).reshape(shape)


def require_float(name: str, **operands: Buffer | None) -> None:
    """Raises TypeError unless all operands that are there have one float dtype."""
    dtypes = {what: x.dtype for what, x in operands.items() if x is not None}
    if len(set(dtypes.values())) > 1 or any(dtype.kind != "f" for dtype in dtypes.values()):
        found = ", ".join(f"{what} {dtype.name}" for what, dtype in dtypes.items())
        raise TypeError(f"{name} needs operands of one float dtype, not {found}")


class Linear(Kernel):
    """y = x W + b, for x of shape (…, in), W of (in, out), b of (out) or None.

    dL/dx = g W^T, dL/dW = x^T g, dL/db = sum of g over all but the last axis.

    Raises:
        TypeError: operands that are not of one float dtype.
        ShapeError: shapes that do not fit.
    """

    @staticmethod
    def check(x: Buffer, weight: Buffer, bias: Buffer | None) -> None:
        """Raises TypeError or ValueError unless shapes and dtypes fit."""
        require_float("linear", x=x, weight=weight, bias=bias)
        if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[0]:
            wanted = x.shape[-1] if x.ndim else "at least one axis"
            raise ShapeError(f"linear: an input of shape {x.shape} needs a weight of shape ({wanted}, out), not {weight.shape}")
        if bias is not None and bias.shape != weight.shape[1:]:
            raise ShapeError(f"linear: a weight of shape {weight.shape} needs a bias of shape {weight.shape[1:]}, not {bias.shape}")

    @staticmethod
    def forward(x: Buffer, weight: Buffer, bias: Buffer | None = None) -> tuple[Buffer, Any]:
        Linear.check(x, weight, bias)
        y = rows_of(x).matmul(weight)
        y = y if bias is None else y + bias
        return y.reshape((*x.shape[:-1], weight.shape[1])), (x, weight)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        x, weight = saved
        g = rows_of(grad)
        return (
            lambda: g.matmul(weight.transpose(0, 1)).reshape(x.shape),
            lambda: rows_of(x).transpose(0, 1).matmul(g),
            lambda: g.sum((0,)).reshape((g.shape[1],)),
        )


class Softmax(Kernel):
    """y = exp(x - max x) / sum exp(x - max x) along an axis; dL/dx = y (g - sum(g y)). A row of only -infinity gives NaN.

    Raises:
        TypeError: x is not floating, or the axis no int.
        ValueError: x does not have that axis.
    """

    @staticmethod
    def forward(x: Buffer, *, axis: int = -1) -> tuple[Buffer, Any]:
        require_float("softmax", x=x)
        axis = normalize_axis(axis, x.ndim)
        if not x.numel:
            return x.copy(), (x, axis)
        e = (x - x.max((axis,))).exp()
        y = e / e.sum((axis,))
        return y, (y, axis)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        y, axis = saved
        return (y * (grad - (grad * y).sum((axis,))),)


class LogSoftmax(Kernel):
    """y = x - max x - log sum exp(x - max x) along an axis; dL/dx = g - exp(y) sum(g).

    Raises:
        TypeError: x is not floating, or the axis no int.
        ValueError: x does not have that axis.
    """

    @staticmethod
    def forward(x: Buffer, *, axis: int = -1) -> tuple[Buffer, Any]:
        require_float("log_softmax", x=x)
        axis = normalize_axis(axis, x.ndim)
        if not x.numel:
            return x.copy(), (x, axis)
        shifted = x - x.max((axis,))
        y = shifted - shifted.exp().sum((axis,)).log()
        return y, (y, axis)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        y, axis = saved
        return (grad - y.exp() * grad.sum((axis,)),)


class CrossEntropy(Kernel):
    """loss = -log softmax(logits)[target] for each row: logits (…, V), integer targets (…), losses (…).

    dL/dlogits = g (softmax(logits) - onehot(target)), where nothing of the size of a one-hot matrix is kept. A row whose target is
    `ignore_index` has loss 0 and no gradient.

    Raises:
        TypeError: logits that are not floating, or targets that are no integers.
        ShapeError: shapes that do not fit.
        IndexError: a target outside [0, V) that is not `ignore_index`.
    """

    @staticmethod
    def check(logits: Buffer, targets: Buffer, ignore_index: int | None) -> Buffer:
        """Returns the targets with ignored ones replaced by 0; raises TypeError, ShapeError or IndexError as the class says."""
        require_float("cross_entropy", logits=logits)
        if logits.ndim == 0 or targets.shape != logits.shape[:-1]:
            raise ShapeError(f"cross_entropy: logits of shape {logits.shape} need targets of {logits.shape[:-1]}, not {targets.shape}")
        if targets.dtype.kind != "i":
            raise TypeError(f"cross_entropy: targets are integer class ids, not {targets.dtype.name}")
        if ignore_index is not None:
            targets = Buffer.where(targets == ignore_index, 0, targets)
        try:
            targets._check_indices(logits.shape[-1])
        except IndexError as problem:
            raise IndexError(f"cross_entropy: a target is no class id in [0, {logits.shape[-1]}): {problem}") from None
        return targets

    @staticmethod
    def forward(logits: Buffer, targets: Buffer, *, ignore_index: int | None = None) -> tuple[Buffer, Any]:
        ids = CrossEntropy.check(logits, targets, ignore_index)
        x = rows_of(logits)
        count, classes = x.shape
        log_probabilities, _ = LogSoftmax.forward(x, axis=1)
        kind = type(x)
        positions = kind.arange(0, count, dtype=DType.int64) * classes + ids.reshape((count,))
        losses = -log_probabilities.reshape((count * classes,)).take(positions)
        if ignore_index is None:
            keep = kind.full((count,), 1, x.dtype)
        else:
            keep = (targets != ignore_index).reshape((count,)).cast(x.dtype)
            losses = Buffer.where(keep != 0, losses, 0.0)
        return losses.reshape(targets.shape), (log_probabilities, positions, keep, logits.shape)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        log_probabilities, positions, keep, shape = saved
        count, classes = log_probabilities.shape
        g = grad.reshape((count,)) * keep
        result = (log_probabilities.exp() * g.reshape((count, 1))).reshape((count * classes,))
        result.scatter_add(positions, -g)
        return result.reshape(shape), None


def _normalized(x: Buffer, weight: Buffer | None, bias: Buffer | None, num_axes: int, name: str) -> Shape:
    """Returns the last `num_axes` axes of x; raises where the parameters do not have exactly that shape."""
    require_float(name, x=x, weight=weight, bias=bias)
    if not 1 <= num_axes <= x.ndim:
        raise ShapeError(f"{name}: cannot normalize over {num_axes} axes of an input of shape {x.shape}")
    shape = x.shape[x.ndim - num_axes :]
    for what, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.shape != shape:
            raise ShapeError(f"{name}: an input of shape {x.shape} needs a {what} of shape {shape}, not {parameter.shape}")
    return shape


class LayerNorm(Kernel):
    """y = n w + b with n = (x - mean x) / sqrt(var x + eps), over the last `num_axes` axes; w and b may be None.

    With h = g w and r = 1 / sqrt(var x + eps): dL/dx = r (h - mean h - n mean(h n)), dL/dw = sum g n, dL/db = sum g.
    Source: Ba, Kiros, Hinton, "Layer Normalization", 2016.

    Raises:
        TypeError: operands that are not of one float dtype.
        ShapeError: w or b does not have the shape of the last `num_axes` axes of x.
    """

    @staticmethod
    def forward(
        x: Buffer, weight: Buffer | None = None, bias: Buffer | None = None, *, eps: float = 1e-5, num_axes: int = 1
    ) -> tuple[Buffer, Any]:
        size = math.prod(_normalized(x, weight, bias, num_axes, "layer_norm"))
        axes = tuple(range(x.ndim - num_axes, x.ndim))
        centred = x - x.sum(axes) / size
        scale = 1.0 / ((centred * centred).sum(axes) / size + eps).sqrt()
        n = centred * scale
        y = n if weight is None else n * weight
        return (y if bias is None else y + bias), (n, scale, weight, axes)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        n, scale, weight, axes = saved
        size, shape = math.prod(n.shape[axes[0] :]), n.shape[axes[0] :]

        def of_input() -> Buffer:
            h = grad if weight is None else grad * weight
            return scale * (h - h.sum(axes) / size - n * ((h * n).sum(axes) / size))

        return of_input, lambda: sum_to(grad * n, shape), lambda: sum_to(grad, shape)


class RMSNorm(Kernel):
    """y = n w with n = x / sqrt(mean x^2 + eps), over the last `num_axes` axes; w may be None.

    With h = g w and r = 1 / sqrt(mean x^2 + eps): dL/dx = r (h - n mean(h n)), dL/dw = sum g n.
    Source: Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019.

    Raises:
        TypeError: operands that are not of one float dtype.
        ShapeError: w does not have the shape of the last `num_axes` axes of x.
    """

    @staticmethod
    def forward(x: Buffer, weight: Buffer | None = None, *, eps: float = 1e-5, num_axes: int = 1) -> tuple[Buffer, Any]:
        size = math.prod(_normalized(x, weight, None, num_axes, "rms_norm"))
        axes = tuple(range(x.ndim - num_axes, x.ndim))
        scale = 1.0 / ((x * x).sum(axes) / size + eps).sqrt()
        n = x * scale
        return (n if weight is None else n * weight), (n, scale, weight, axes)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        n, scale, weight, axes = saved
        size, shape = math.prod(n.shape[axes[0] :]), n.shape[axes[0] :]

        def of_input() -> Buffer:
            h = grad if weight is None else grad * weight
            return scale * (h - n * ((h * n).sum(axes) / size))

        return of_input, lambda: sum_to(grad * n, shape)


class Relu(Kernel):
    """y = max(x, 0) of each element; dL/dx = g where x > 0, else 0 (at 0 too)."""

    @staticmethod
    def forward(x: Buffer) -> tuple[Buffer, Any]:
        y = x.maximum(0.0)
        return y, (y,)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        return (Buffer.where(saved[0] > 0.0, grad, 0.0),)


class GELU(Kernel):
    """y = x Phi(x) of each element, with Phi the distribution function of the standard normal distribution.

    approximate="none": Phi(x) = (1 + erf(x / sqrt 2)) / 2 and dy/dx = Phi(x) + x phi(x).
    approximate="tanh" (GPT-2's): Phi(x) = (1 + t) / 2 with t = tanh(sqrt(2 / pi) (x + 0.044715 x^3)), and
    dy/dx = (1 + t) / 2 + x (1 - t^2) / 2 sqrt(2 / pi) (1 + 3 * 0.044715 x^2).
    Source: Hendrycks, Gimpel, "Gaussian Error Linear Units", 2016.

    Raises:
        TypeError: x is not floating.
        ValueError: another `approximate`.
    """

    @staticmethod
    def check(x: Buffer, approximate: str) -> None:
        """Raises TypeError or ValueError unless the elements of x are floats and the form is known."""
        require_float("gelu", x=x)
        if approximate not in ("tanh", "none"):
            raise ValueError(f"gelu: approximate is 'tanh' or 'none', not {approximate!r}")

    @staticmethod
    def forward(x: Buffer, *, approximate: str = "tanh") -> tuple[Buffer, Any]:
        GELU.check(x, approximate)
        cubic = (x + x * x * x * GELU_CUBIC) * SQRT_2_OVER_PI
        t = cubic.tanh() if approximate == "tanh" else (x * math.sqrt(0.5)).erf()
        return x * (t + 1.0) * 0.5, (x, t, approximate)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        x, t, approximate = saved
        if approximate == "tanh":
            slope = (1.0 - t * t) * (x * x * (3.0 * GELU_CUBIC) + 1.0) * (0.5 * SQRT_2_OVER_PI)
        else:
            slope = (x * x * -0.5).exp() * (1.0 / math.sqrt(2.0 * math.pi))
        return (grad * ((t + 1.0) * 0.5 + x * slope),)


class SiLU(Kernel):
    """y = x s of each element, with s = 1 / (1 + exp(-x)), also called swish; dy/dx = s (1 + x (1 - s)).

    Source: Elfwing, Uchibe, Doya, "Sigmoid-Weighted Linear Units", 2017.

    Raises:
        TypeError: x is not floating.
    """

    @staticmethod
    def forward(x: Buffer) -> tuple[Buffer, Any]:
        require_float("silu", x=x)
        s = (x * 0.5).tanh() * 0.5 + 0.5  # the logistic function without an overflow
        return x * s, (x, s)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        x, s = saved
        return (grad * s * (x * (1.0 - s) + 1.0),)


class Dropout(Kernel):
    """y = x m / (1 - p) of each element, where m is 0 with probability p and else 1; dL/dx = g m / (1 - p).

    m comes from the counter-based stream at `key`: the same mask on every backend. Element i is kept where its uniform number is >= p.
    Source: Srivastava et al., "Dropout", 2014.

    Raises:
        TypeError: x is not floating.
        ValueError: a probability outside [0, 1).
    """

    @staticmethod
    def forward(x: Buffer, *, probability: float, key: random.Key) -> tuple[Buffer, Any]:
        require_float("dropout", x=x)
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"dropout: a probability lies in [0, 1), unlike {probability}")
        uniform = type(x)._random_uniform(key, x.shape, DType.float32, 0.0, 1.0)
        mask = (uniform >= probability).cast(x.dtype) * (1.0 / (1.0 - probability))
        return x * mask, mask

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        return (grad * saved,)


class Attention(Kernel):
    """y = softmax(q k^T scale) v for each head: q (B, H, T, D), k and v (B, H, S, D), y (B, H, T, D).

    Causal: position i of the T queries, which are the last of the S positions, sees keys j <= i + S - T. The scale is 1 / sqrt(D)
    unless given. With P the probabilities and dP = g v^T: dv = P^T g, dS = P (dP - sum(dP P)), dq = dS k scale, dk = dS^T q scale.
    Source: Vaswani et al., "Attention Is All You Need", 2017, equation 1.

    Raises:
        TypeError: operands that are not of one float dtype.
        ShapeError: shapes that do not fit, or a causal T above S.
    """

    @staticmethod
    def check(query: Buffer, key: Buffer, value: Buffer, causal: bool) -> None:
        """Raises TypeError or ValueError unless shapes and dtypes fit."""
        require_float("attention", query=query, key=key, value=value)
        fits = query.ndim == key.ndim == 4 and key.shape == value.shape and query.shape[:2] == key.shape[:2]
        if not fits or query.shape[3] != key.shape[3]:
            raise ShapeError(
                f"attention needs a query (batch, heads, T, size) with keys and values (batch, heads, S, size), "
                f"not {query.shape}, {key.shape} and {value.shape}"
            )
        if causal and query.shape[2] > key.shape[2]:
            raise ShapeError(f"causal attention: {query.shape[2]} queries need at least as many keys, not {key.shape[2]}")

    @staticmethod
    def forward(query: Buffer, key: Buffer, value: Buffer, *, causal: bool = True, scale: float | None = None) -> tuple[Buffer, Any]:
        Attention.check(query, key, value, causal)
        scale = 1.0 / math.sqrt(query.shape[3]) if scale is None else scale
        scores = query.matmul(key.transpose(2, 3)) * scale
        if causal:
            length, total = scores.shape[2:]
            kind = type(query)
            last_seen = kind.arange(total - length, total, dtype=DType.int64).reshape((length, 1))
            scores = Buffer.where(kind.arange(0, total, dtype=DType.int64) > last_seen, -math.inf, scores)
        probabilities, _ = Softmax.forward(scores, axis=3)
        return probabilities.matmul(value), (query, key, value, probabilities, scale)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        query, key, value, probabilities, scale = saved
        of_probabilities = grad.matmul(value.transpose(2, 3))
        (of_scores,) = Softmax.backward((probabilities, 3), of_probabilities)
        of_scores = of_scores * scale
        return (
            lambda: of_scores.matmul(key),
            lambda: of_scores.transpose(2, 3).matmul(query),
            lambda: probabilities.transpose(2, 3).matmul(grad),
        )


class Rotary(Kernel):
    """Rotates each pair (x_i, x_{i + D/2}) of a head at position p by the angle p base^(-2 i / D): x of shape (B, H, T, D), D even.

    y_i = x_i cos - x_{i+D/2} sin, y_{i+D/2} = x_{i+D/2} cos + x_i sin; dL/dx = g rotated back by the same angles. The T positions start
    at `positions_start`. Source: Su et al., "RoFormer", 2021, with the halves of a head paired as in GPT-NeoX and Llama.

    Raises:
        TypeError: x is not floating.
        ShapeError: x is not (B, H, T, D) with an even D.
    """

    @staticmethod
    def angles(x: Buffer, positions_start: int, base: float) -> tuple[Buffer, Buffer]:
        """Returns cosines and sines of shape (T, D / 2); raises TypeError or ShapeError as the class says."""
        require_float("rotary", x=x)
        if x.ndim != 4 or x.shape[3] % 2:
            raise ShapeError(f"rotary needs an input (batch, heads, positions, an even size), not {x.shape}")
        half = x.shape[3] // 2
        frequencies = [base ** (-i / half) for i in range(half)]
        angles = [(positions_start + t) * f for t in range(x.shape[2]) for f in frequencies]
        kind, shape = type(x), (x.shape[2], half)
        return tuple(kind._from_array(x.dtype.pack(list(map(f, angles))), shape, x.dtype) for f in (math.cos, math.sin))  # type: ignore[return-value]

    @staticmethod
    def rotate(x: Buffer, cosine: Buffer, sine: Buffer) -> Buffer:
        """Returns x rotated by the angles of which cosine and sine are given."""
        half = x.shape[3] // 2
        a, b = x[..., :half], x[..., half:]
        return type(x).concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=3)

    @staticmethod
    def forward(x: Buffer, *, positions_start: int = 0, base: float = 10000.0) -> tuple[Buffer, Any]:
        cosine, sine = Rotary.angles(x, positions_start, base)
        return Rotary.rotate(x, cosine, sine), (cosine, sine)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        cosine, sine = saved
        return (Rotary.rotate(grad, cosine, -sine),)


class Embedding(Kernel):
    """y = W[indices]: W of shape (V, C), integer indices (…), y (…, C). dL/dW[i] is the sum of g over the places where index i stood.

    Raises:
        TypeError: a weight that is not floating, or indices that are no integers.
        ShapeError: the weight is no matrix.
        IndexError: an index outside [0, V).
    """

    @staticmethod
    def check(weight: Buffer, indices: Buffer) -> None:
        """Raises TypeError, ShapeError or IndexError unless the weight is a float matrix and every index an id of one of its rows."""
        require_float("embedding", weight=weight)
        if weight.ndim != 2:
            raise ShapeError(f"embedding: a weight has two axes (ids, size), not shape {weight.shape}")
        try:
            indices._check_indices(weight.shape[0])
        except IndexError as problem:
            raise IndexError(f"embedding: an id is not in [0, {weight.shape[0]}): {problem}") from None

    @staticmethod
    def forward(weight: Buffer, indices: Buffer) -> tuple[Buffer, Any]:
        Embedding.check(weight, indices)
        return weight.take(indices), (indices, weight.shape, weight.dtype)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        indices, shape, dtype = saved
        return lambda: type(grad)._full(shape, 0, dtype).scatter_add(indices, grad), None


class AdamWStep(Kernel):
    """One step of Adam with decoupled weight decay over lists of parameters p with gradients g and moments m and v of its shape, in place.

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, p = p - lr wd p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) at step t >= 1.
    Sources: Kingma, Ba, "Adam", 2015; Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 2019.
    """

    @staticmethod
    def forward(
        parameters: list[Buffer],
        grads: list[Buffer],
        first_moments: list[Buffer],
        second_moments: list[Buffer],
        *,
        learning_rate: float,
        betas: tuple[float, float],
        eps: float,
        weight_decays: list[float],
        step: int,
    ) -> tuple[None, None]:
        beta1, beta2 = betas
        rate, correction = learning_rate / (1.0 - beta1**step), 1.0 / math.sqrt(1.0 - beta2**step)
        for p, g, m, v, decay in zip(parameters, grads, first_moments, second_moments, weight_decays, strict=True):
            m.assign(m * beta1 + g * (1.0 - beta1))
            v.assign(v * beta2 + g * g * (1.0 - beta2))
            p.assign(p * (1.0 - learning_rate * decay) - m * rate / (v.sqrt() * correction + eps))
        return None, None


class SGDStep(Kernel):
    """One step of stochastic gradient descent over lists of parameters p with gradients g and velocities u of its shape, in place.

    d = g + wd p; with momentum u = d at the first step and then u = momentum u + (1 - dampening) d, and d becomes u, or
    d + momentum u with Nesterov's; p = p - lr d. Source: Sutskever et al., 2013, in the form PyTorch uses.
    """

    @staticmethod
    def forward(
        parameters: list[Buffer],
        grads: list[Buffer],
        velocities: list[Buffer] | None,
        *,
        learning_rate: float,
        momentum: float,
        dampening: float,
        nesterov: bool,
        weight_decays: list[float],
        step: int,
    ) -> tuple[None, None]:
        for i, (p, g, decay) in enumerate(zip(parameters, grads, weight_decays, strict=True)):
            d = g + p * decay if decay else g
            if velocities is not None:
                u = velocities[i]
                u.assign(d if step == 1 else u * momentum + d * (1.0 - dampening))
                d = d + u * momentum if nesterov else u
            p.assign(p - d * learning_rate)
        return None, None
