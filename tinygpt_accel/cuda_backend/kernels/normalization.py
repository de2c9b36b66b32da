"""Layer norm and RMS norm on a CUDA device: a block of threads for each row."""

from __future__ import annotations

import math
from typing import Any

from tinygpt_core.kernels.base import Gradient
from tinygpt_core.kernels.normalization import LayerNorm, RMSNorm, normalized_shape
from tinygpt_core.shape import Shape

from ..buffer import ARRAY_DTYPE, CudaBuffer, Promised, WaitingSum, WaitingTerm, format_of
from ..sources import SIXTEEN_BIT
from .common import ROWS, Composed, as_matrix, as_row, column_sums, compute_format

BUSY = 512  # blocks that keep a large GPU busy


class CudaLayerNorm(LayerNorm):
    """Layer norm, y = n w + b with n = (x - mean x) / sqrt(var x + eps).

    Fast: it adds what goes into the residual stream on its way, reads that in float32 and writes what the
    next product reads; its backward is one launch. Source: Ba, Kiros, Hinton, "Layer Normalization", 2016.
    """

    @staticmethod
    def forward(
        x: Any, weights: Any = None, bias: Any = None, *, eps: float = 1e-5, num_axes: int = 1
    ) -> tuple[Any, Any]:
        shape = normalized_shape(x, weights, bias, num_axes, "layer_norm")
        if not _fits(x, shape):
            y, saved = LayerNorm.forward(x, weights, bias, eps=eps, num_axes=num_axes)
            return y, Composed(saved)
        return _normalize(x, weights, bias, shape, eps, centre=1)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return _normalize_gradients(saved, grad)


class CudaRMSNorm(RMSNorm):
    """RMS norm, y = n w with n = x / sqrt(mean x^2 + eps).

    Fast: as layer norm. Source: Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019.
    """

    @staticmethod
    def forward(x: Any, weights: Any = None, *, eps: float = 1e-5, num_axes: int = 1) -> tuple[Any, Any]:
        shape = normalized_shape(x, weights, None, num_axes, "rms_norm")
        if not _fits(x, shape):
            y, saved = RMSNorm.forward(x, weights, eps=eps, num_axes=num_axes)
            return y, Composed(saved)
        return _normalize(x, weights, None, shape, eps, centre=0)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        of_input, of_weights, _ = _normalize_gradients(saved, grad)
        return of_input, of_weights


def _fits(x: Any, shape: Shape) -> bool:
    """Whether a block has room for the sums of its backward."""
    return 8 * math.prod(shape) <= type(x).shared_memory


def _threads_per_row(kind: type[CudaBuffer], columns: int) -> int:
    """Returns how many threads take a row: some eight elements each, so that many rows are under way at a
    time.
    """
    return min(kind.threads, -(-columns // 256) * 32)


def _normalize(x: Any, weights: Any, bias: Any, shape: Shape, eps: float, centre: int) -> tuple[Any, Any]:
    """Returns both norms' result; keeps the mean and the scale of each row."""
    kind = type(x)
    xp = kind.xp
    fmt = compute_format(x.dtype)
    columns = math.prod(shape)
    branch = total = None
    addition = x.waiting_for(WaitingSum)
    if addition is not None and format_of(addition.b) == fmt and format_of(addition.a) == "float32":
        rows = as_matrix(addition.a, columns)
        branch = addition.b
        total = xp.empty(rows.shape, "float32")
        addition.finish(total.reshape(x.shape))
    else:
        rows = as_matrix(xp.ascontiguousarray(x.array), columns)
    y = xp.empty(rows.shape, ARRAY_DTYPE[fmt])
    means = xp.empty(len(rows), "float32")
    scales = xp.empty(len(rows), "float32")
    kind.launch(
        "normalize",
        fmt,
        (min(len(rows), ROWS),),
        rows,
        branch,
        as_row(kind, weights),
        as_row(kind, bias),
        total,
        y,
        means,
        scales,
        len(rows),
        columns,
        float(eps),
        centre,
        block=_threads_per_row(kind, columns),
    )
    result = kind.wrap(y.reshape(x.shape), x.dtype)
    return result, (x, weights, means, scales, shape, fmt, centre)


class WaitingNormGradient(WaitingTerm):
    """The gradient of a norm's input. The same launch adds the gradient that went past the norm, writes a
    copy in 16 bits for the next product, and gathers the sums for both parameters.
    """

    def __init__(self, kind: type[CudaBuffer], saved: Any, grad: Any) -> None:
        x, weights, self.means, self.scales, self.shape, self.fmt, self.centre = saved
        columns = math.prod(self.shape)
        self.rows = as_matrix(kind.xp.ascontiguousarray(x.array), columns)
        self.weights = as_row(kind, weights)
        self.grad = as_matrix(kind.xp.ascontiguousarray(grad.in_format(self.fmt)), columns)
        self.partial: Any = None  # the sums for the parameters, of each block
        self.sums: Any = None  # of all blocks
        super().__init__(kind, Promised.of(x.shape, "float32"))

    def launch(self) -> Any:
        return self._launch(None, None)

    def added_to(self, other: Any) -> tuple[Any, list[Any]]:
        xp = self.kind.xp
        low = xp.empty(self.out.shape, ARRAY_DTYPE[self.fmt]) if self.fmt in SIXTEEN_BIT else None
        result = self._launch(xp.ascontiguousarray(other.array), low)
        return result, [] if low is None else [low]

    def _launch(self, residual: Any, low: Any) -> Any:
        """Returns the gradient, plus `residual` (or None); written to `low` (or None), too."""
        result = self.kind.xp.empty(self.out.shape, "float32")
        count, columns = self.rows.shape
        rows_of_block = min(self.kind.norm_rows, max(count // BUSY, 1))
        blocks = -(-count // rows_of_block)
        partial = self.kind.xp.empty((blocks, 2 * columns), "float32")
        self.kind.launch(
            "normalize_gradient",
            self.fmt,
            (blocks,),
            self.rows,
            self.weights,
            self.grad,
            self.means,
            self.scales,
            residual,
            result,
            low,
            partial,
            count,
            columns,
            self.centre,
            block=_threads_per_row(self.kind, columns),
            shared=8 * columns,
        )
        self.partial = partial
        return result

    def of_parameter(self, which: int) -> Any:
        """Returns the gradient of the weights (0) or of the bias (1)."""
        if self.sums is None:
            if self.partial is None:
                self.run()
            self.sums = column_sums(self.kind, self.partial).reshape(2, *self.shape)
        return self.sums[which]


def _normalize_gradients(saved: Any, grad: Any) -> tuple[Gradient, Gradient, Gradient]:
    """Returns what gives dL/dx, dL/dw and dL/db, all of one launch."""
    kind = type(grad)
    started: list[WaitingNormGradient] = []

    def work() -> WaitingNormGradient:
        if not started:
            started.append(WaitingNormGradient(kind, saved, grad))
        return started[0]

    def of_input() -> Any:
        return kind.wrap_waiting(work())

    def of_parameter(which: int) -> Any:
        return kind.wrap(work().of_parameter(which), grad.dtype)

    return of_input, lambda: of_parameter(0), lambda: of_parameter(1)
