"""The kernels of a GPT's step on a CUDA device: products by cuBLAS, what lies between them by the sources in
`cuda/`.

Under autocast (`tinygpt_core.precision`) a product rounds its operands to 16 bits, adds up in float32 and
leaves 16 bits; the kernels around it read and write that form, see `cuda_buffer`. `saved` holds operands as
Buffers, so that the engine notices when they change.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from tinygpt_core.dtype import DType
from tinygpt_core.kernels import (
    GELU,
    AdamWStep,
    Attention,
    CrossEntropy,
    Dropout,
    Embedding,
    Gradient,
    Kernel,
    LayerNorm,
    Linear,
    PackedAttention,
    RMSNorm,
    Rotary,
    SiLU,
    Softmax,
    register,
)
from tinygpt_core.kernels.base import require_float
from tinygpt_core.kernels.normalization import _normalized
from tinygpt_core.kernels.precision import compute_dtype
from tinygpt_core.shape import Shape, ShapeError, normalize_axis

from . import attention as cuda_attention
from .buffer import ARRAY_DTYPE, CudaBuffer, kind_of, matrix_layout
from .sources import LOW

ROWS = 1 << 16  # the most blocks of a launch with a block for each row
ROW_CHUNK = 256  # rows whose sums are added up by one block
PARAMETER_CHUNK = 1 << 14  # elements of a parameter that one block updates
ALIGNED = 8  # 16-bit rows of a product begin at multiples of 16 bytes, or cuBLAS takes slower paths


def cuda(implementation: type[Kernel]) -> type[Kernel]:
    """Registers a kernel for CUDA devices, and returns it: a decorator."""
    register(implementation.__bases__[0], CudaBuffer, implementation)
    return implementation


def compute_kind(dtype: DType) -> str:
    """Returns the form in which products of a dtype are computed: what autocast says of float32, else the
    dtype itself.
    """
    return compute_dtype() if dtype is DType.float32 and compute_dtype() in LOW else dtype.name


def _matrix(held: Any, columns: int) -> Any:
    """Returns an array as a matrix with so many columns: a view where the layout allows."""
    return held.reshape(-1, columns) if columns else held.reshape(math.prod(held.shape[:-1]), 0)


def _row(kind: type[CudaBuffer], buffer: Any) -> Any:
    return None if buffer is None else kind.xp.ascontiguousarray(buffer.array).reshape(-1)


def column_sums(kind: type[CudaBuffer], x: Any) -> Any:
    """Returns the sums down the columns of a matrix whose rows are dense, in float32 (float64), in an order
    that is always the same.
    """
    rows, columns, stride = matrix_layout(x)
    wide = "float64" if kind_of(x) == "float64" else "float32"
    while True:
        chunks = max(-(-rows // ROW_CHUNK), 1)
        partial = kind.xp.empty((chunks, columns), wide)
        if columns:
            kind.launch(
                "column_sums",
                kind_of(x),
                (-(-columns // 32), chunks),
                x,
                partial,
                rows,
                columns,
                stride,
                ROW_CHUNK,
            )
        if chunks == 1:
            return partial.reshape(columns)
        x, rows, stride = partial, chunks, columns


def _dense_rows(kind: type[CudaBuffer], x: Any) -> Any:
    """Returns a matrix whose rows are dense, perhaps with gaps between them: itself or a copy."""
    along = x.shape[1] < 2 or x.strides[1] == x.itemsize
    return (
        x
        if along and (len(x) < 2 or x.strides[0] >= x.shape[1] * x.itemsize)
        else kind.xp.ascontiguousarray(x)
    )


@cuda
class CudaLinear(Linear):
    """Products by cuBLAS on matrices as they lie. The bias waits for the next kernel, which adds it on its
    own walk.
    """

    @staticmethod
    def forward(x: Any, weight: Any, bias: Any = None) -> tuple[Any, Any]:
        Linear.check(x, weight, bias)
        kind, form, fast = type(x), compute_kind(x.dtype), compute_dtype() == "tf32"
        inputs, outputs = weight.shape
        rows = math.prod(x.shape[:-1])
        gap = -outputs % ALIGNED if form in LOW else 0
        y = kind.xp.empty((rows, outputs + gap), ARRAY_DTYPE[form])[:, :outputs]
        kind.product(_matrix(x.in_kind(form), inputs), weight.in_kind(form), y, fast)
        row = _row(kind, bias)
        return kind.wrap_held(y.reshape(*x.shape[:-1], outputs), x.dtype, row if y.size else None), (
            x,
            weight,
            form,
            fast,
        )

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, weight, form, fast = saved
        kind, (inputs, outputs) = type(x), weight.shape
        g, w = _matrix(grad.in_kind(form), outputs), weight.in_kind(form)

        def of_input() -> Any:
            result = kind.xp.empty((len(g), inputs), ARRAY_DTYPE[form])
            kind.product(g, w.T, result, fast)
            return kind.wrap_held(result.reshape(x.shape), x.dtype)

        def of_weight() -> Any:
            rows = _matrix(x.in_kind(form), inputs)
            # A weight that lies transposed, as a tied head does, gets a gradient that does. Gradients of
            # parameters are never 16 bits.
            turned = w.flags.f_contiguous and not w.flags.c_contiguous
            result = kind.xp.empty((outputs, inputs) if turned else (inputs, outputs), weight.array.dtype)
            kind.product(*((g.T, rows) if turned else (rows.T, g)), result, fast)
            return kind.wrap(result.T if turned else result, x.dtype)

        return of_input, of_weight, lambda: kind.wrap(column_sums(kind, _dense_rows(kind, g)), x.dtype)


@cuda
class CudaGELU(GELU):
    """Keeps its input; takes over the bias that a product left."""

    @staticmethod
    def forward(x: Any, *, approximate: str = "tanh") -> tuple[Any, Any]:
        GELU.check(x, approximate)
        kind = type(x)
        held, bias = x.take_bias() if x._held.flags.c_contiguous else (x.held, None)
        flat = kind.xp.ascontiguousarray(held)
        y = kind.xp.empty(x.shape, flat.dtype)
        exact = int(approximate == "none")
        kind.walk(
            "bias_gelu",
            kind_of(flat),
            flat.size,
            flat,
            bias,
            y,
            flat.size,
            x.shape[-1] if x.ndim else 1,
            exact,
        )
        return kind.wrap(y, x.dtype), (x, exact)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        x, exact = saved
        return (_along(x, grad, "gelu_gradient", exact),)


@cuda
class CudaSiLU(SiLU):
    """Keeps its input."""

    @staticmethod
    def forward(x: Any) -> tuple[Any, Any]:
        require_float("silu", x=x)
        kind = type(x)
        flat = kind.xp.ascontiguousarray(x.held)
        y = kind.xp.empty(x.shape, flat.dtype)
        kind.walk("silu", kind_of(flat), flat.size, flat, y, flat.size)
        return kind.wrap(y, x.dtype), x

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return (_along(saved, grad, "silu_gradient"),)


def _along(x: Any, grad: Any, name: str, *more: int) -> Any:
    """Returns the result of an elementwise kernel of an input and a gradient, in the input's form."""
    kind = type(x)
    flat = kind.xp.ascontiguousarray(x.held)
    g = kind.xp.ascontiguousarray(grad.in_kind(kind_of(flat)))
    result = kind.xp.empty(x.shape, flat.dtype)
    kind.walk(name, kind_of(flat), flat.size, flat, g, result, flat.size, *more)
    return kind.wrap(result, grad.dtype)


def _row_threads(kind: type[CudaBuffer], columns: int) -> int:
    """Returns how many threads take a row of a norm: some eight elements each, so that many rows are under
    way at a time.
    """
    return min(kind.threads, -(-columns // 256) * 32)


def _normalize(x: Any, weight: Any, bias: Any, shape: Shape, eps: float, centre: int) -> tuple[Any, Any]:
    kind, form = type(x), compute_kind(x.dtype)
    columns = math.prod(shape)
    rows = _matrix(kind.xp.ascontiguousarray(x.array), columns)
    y = kind.xp.empty(rows.shape, ARRAY_DTYPE[form])
    means, scales = (kind.xp.zeros(len(rows), rows.dtype) for _ in range(2))
    if rows.size:
        kind.launch(
            "normalize",
            f"{kind_of(rows)},{form}",
            (min(len(rows), ROWS),),
            rows,
            _row(kind, weight),
            _row(kind, bias),
            y,
            means,
            scales,
            len(rows),
            columns,
            float(eps),
            centre,
            block=_row_threads(kind, columns),
        )
    return kind.wrap_held(y.reshape(x.shape), x.dtype), (x, weight, means, scales, shape, form, centre)


def _normalize_gradients(saved: Any, grad: Any) -> tuple[Gradient, ...]:
    x, weight, means, scales, shape, form, centre = saved
    kind, columns = type(x), math.prod(shape)
    xp = kind.xp
    rows, g = (_matrix(xp.ascontiguousarray(each), columns) for each in (x.array, grad.in_kind(form)))
    kinds, chunks = f"{kind_of(rows)},{form}", max(-(-len(rows) // ROW_CHUNK), 1)

    def of_input() -> Any:
        result = xp.empty(rows.shape, rows.dtype)
        if rows.size:
            kind.launch(
                "normalize_gradient",
                kinds,
                (min(len(rows), ROWS),),
                rows,
                _row(kind, weight),
                g,
                means,
                scales,
                result,
                len(rows),
                columns,
                centre,
                block=_row_threads(kind, columns),
            )
        return kind.wrap(result.reshape(x.shape), x.dtype)

    sums: list[Any] = []  # of both parameters, by whoever asks first

    def of_parameter(which: int) -> Any:
        if not sums:
            partial = xp.zeros((chunks, 2 * columns), rows.dtype)
            if rows.size:
                grid = (-(-columns // 32), chunks)
                kind.launch(
                    "normalize_parameter_gradients",
                    kinds,
                    grid,
                    rows,
                    g,
                    means,
                    scales,
                    partial,
                    len(rows),
                    columns,
                    ROW_CHUNK,
                )
            sums.append(column_sums(kind, partial).reshape(2, *shape))
        return kind.wrap(sums[0][which].copy(), x.dtype)

    return of_input, lambda: of_parameter(0), lambda: of_parameter(1)


@cuda
class CudaLayerNorm(LayerNorm):
    """Reads the residual stream in float32, writes what the next product reads."""

    @staticmethod
    def forward(
        x: Any, weight: Any = None, bias: Any = None, *, eps: float = 1e-5, num_axes: int = 1
    ) -> tuple[Any, Any]:
        return _normalize(x, weight, bias, _normalized(x, weight, bias, num_axes, "layer_norm"), eps, 1)

    backward = staticmethod(_normalize_gradients)


@cuda
class CudaRMSNorm(RMSNorm):
    """As layer norm."""

    @staticmethod
    def forward(x: Any, weight: Any = None, *, eps: float = 1e-5, num_axes: int = 1) -> tuple[Any, Any]:
        return _normalize(x, weight, None, _normalized(x, weight, None, num_axes, "rms_norm"), eps, 0)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return _normalize_gradients(saved, grad)[:2]


@cuda
class CudaSoftmax(Softmax):
    """Over rows, where the axis is the last."""

    @staticmethod
    def forward(x: Any, *, axis: int = -1) -> tuple[Any, Any]:
        if x.dtype.kind != "f" or not x.numel or not x.ndim or normalize_axis(axis, x.ndim) != x.ndim - 1:
            return Softmax.forward(x, axis=axis)
        rows = type(x).xp.ascontiguousarray(x.held)
        result = type(x).wrap(cuda_attention.softmax(type(x), rows), x.dtype)
        return result, (result, x.ndim - 1)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        y, axis = saved
        if axis != y.ndim - 1 or not y.numel:
            return Softmax.backward(saved, grad)
        kind, held = type(y), type(y).xp.ascontiguousarray(y.held)
        g = kind.xp.ascontiguousarray(grad.in_kind(kind_of(held)))
        return (kind.wrap(cuda_attention.softmax_gradient(kind, held, g), y.dtype),)


@cuda
class CudaCrossEntropy(CrossEntropy):
    """Reads the logits once; keeps them as they are, with a maximum and a sum for each row."""

    @staticmethod
    def forward(logits: Any, targets: Any, *, ignore_index: int | None = None) -> tuple[Any, Any]:
        require_float("cross_entropy", logits=logits)
        if logits.ndim == 0 or targets.shape != logits.shape[:-1] or targets.dtype.kind != "i":
            CrossEntropy.check(logits, targets, ignore_index)
            raise ShapeError(
                f"cross_entropy: logits of shape {logits.shape} do not go with targets of {targets.shape}"
            )
        kind, classes, count = type(logits), logits.shape[-1], targets.numel
        version, low, high = targets._bounds or (-1, 0, 0)
        if version != targets.version[0] or high >= classes or (low < 0 and (low, ignore_index) != (-1, -1)):
            CrossEntropy.check(logits, targets, ignore_index)
        if not count or not classes:
            return CrossEntropy.forward(logits, targets, ignore_index=ignore_index)
        x = _dense_rows(kind, _matrix(logits.held, classes))
        ids = kind.xp.ascontiguousarray(targets.array).reshape(-1).astype("int64", copy=False)
        wide = "float64" if kind_of(x) == "float64" else "float32"
        losses, maxima, sums = (kind.xp.empty(count, wide) for _ in range(3))
        stride = matrix_layout(x)[2]
        ignored = (int(ignore_index is not None), ignore_index or 0)
        kind.launch(
            "cross_entropy", kind_of(x), (count,), x, ids, losses, maxima, sums, classes, stride, *ignored
        )
        return kind.wrap(losses.reshape(targets.shape), logits.dtype), [
            logits,
            targets,
            x,
            ids,
            maxima,
            sums,
            ignored,
        ]

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if isinstance(saved, tuple):
            return CrossEntropy.backward(saved, grad)
        logits, _, x, ids, maxima, sums, ignored = saved
        kind, (rows, classes) = type(logits), x.shape
        stride = matrix_layout(x)[2]
        g = kind.xp.ascontiguousarray(grad.array).reshape(-1)
        result = kind.xp.empty((rows, stride), x.dtype)[:, :classes]
        kind.launch(
            "cross_entropy_gradient",
            kind_of(x),
            (rows,),
            x,
            ids,
            g,
            maxima,
            sums,
            result,
            classes,
            stride,
            *ignored,
        )
        return kind.wrap_held(result.reshape(logits.shape), logits.dtype), None


@cuda
class CudaEmbedding(Embedding):
    """The gradient adds up rows in an order that is always the same."""

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        indices, shape, dtype = saved
        kind = type(grad)

        def of_weight() -> Any:
            total = kind.xp.zeros(shape, kind.dtypes[dtype])
            kind.add_rows(total, indices, grad.held)
            return kind.wrap(total, dtype)

        return of_weight, None


@cuda
class CudaDropout(Dropout):
    """Draws the mask in the kernel, and once more in the backward, instead of keeping it."""

    @staticmethod
    def forward(x: Any, *, probability: float, key: Any) -> tuple[Any, Any]:
        require_float("dropout", x=x)
        if not 0.0 <= probability < 1.0:
            return Dropout.forward(x, probability=probability, key=key)  # which raises
        saved = probability, key, type(x).moved
        return _dropped(x, *saved), saved

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return (_dropped(grad, *saved),)


def _dropped(x: Any, probability: float, key: Any, moved: Any) -> Any:
    kind = type(x)
    flat = kind.xp.ascontiguousarray(x.held)
    y = kind.xp.empty(x.shape, flat.dtype)
    words = (_signed(key.seed), _signed(key.stream), _signed(key.block))
    kind.walk("dropout", kind_of(flat), flat.size, flat, y, flat.size, *words, moved, float(probability))
    return kind.wrap(y, x.dtype)


def _signed(word: int) -> int:
    """Returns the signed integer with the bits of a 64-bit word."""
    return (word & (1 << 64) - 1 ^ 1 << 63) - (1 << 63)


@lru_cache(maxsize=16)
def _angles(kind: Any, length: int, size: int, start: int, base: float, dtype: DType) -> tuple[Any, Any]:
    like = kind.zeros((1, 1, length, size), dtype)
    cosine, sine = Rotary.angles(like, start, base)
    return cosine, sine


forget_tables = _angles.cache_clear


@cuda
class CudaRotary(Rotary):
    """Reads heads where they lie in the packed product; the result lies as (B, T, H, D). The angles of a
    length are computed once.
    """

    @staticmethod
    def forward(x: Any, *, positions_start: int = 0, base: float = 10000.0) -> tuple[Any, Any]:
        if x.ndim != 4 or x.shape[3] % 2 or x.dtype.kind != "f":
            return Rotary.forward(x, positions_start=positions_start, base=base)  # which raises
        kind: Any = type(x)
        tables: Any = _angles(kind, x.shape[2], x.shape[3], positions_start, base, x.dtype)
        if kind.late_tables is not None:
            # A graph reads them where they lie, also when the cache has let them go
            kind.late_tables.append((tables, None))
        return _rotated(x, tables, 1.0), tables

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        return (_rotated(grad, saved, -1.0),)


def _rotated(x: Any, tables: Any, sign: float) -> Any:
    cosine, sine = (table.array for table in tables)
    kind, held = type(x), x.held
    if held.shape[3] > 1 and held.strides[3] != held.itemsize:
        held = kind.xp.ascontiguousarray(held)
    batch, heads, length, size = held.shape
    y = kind.xp.empty((batch, length, heads, size), held.dtype).transpose(0, 2, 1, 3)
    steps = [step // held.itemsize for array in (held, y) for step in array.strides[:3]]
    count = held.size // 2
    kind.walk(
        "rotate", kind_of(held), count, held, y, cosine, sine, count, heads, length, size // 2, *steps, sign
    )
    return kind.wrap(y, x.dtype)


@cuda
class CudaAttention(Attention):
    """Flash attention where cuDNN's front end is installed and the numbers have 16 bits, else batched
    products; see `cuda_attention`.
    """

    @staticmethod
    def forward(
        query: Any, key: Any, value: Any, *, causal: bool = True, scale: float | None = None
    ) -> tuple[Any, Any]:
        Attention.check(query, key, value, causal)
        if not query.numel or not key.numel:
            y, saved = Attention.forward(query, key, value, causal=causal, scale=scale)
            return y, [saved]
        kind, form = type(query), compute_kind(query.dtype)
        arrays = [buffer.in_kind(form) for buffer in (query, key, value)]
        scale = 1.0 / math.sqrt(query.shape[3]) if scale is None else scale
        y, kept = cuda_attention.attend(kind, form, arrays, causal, scale, compute_dtype() == "tf32")
        return kind.wrap_held(y, query.dtype), (query, key, value, form, kept)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if isinstance(saved, list):
            return Attention.backward(saved[0], grad)
        query, key, value, form, kept = saved
        kind, arrays = type(query), [buffer.in_kind(form) for buffer in (query, key, value)]
        gradients = [cuda_attention.like_heads(kind, x) for x in arrays]
        cuda_attention.attend_gradients(kind, arrays, grad.in_kind(form), kept, gradients)
        return tuple(kind.wrap_held(x, query.dtype) for x in gradients)


@cuda
class CudaPackedAttention(PackedAttention):
    """Reads the heads where they lie in the packed product, and writes their gradients where they lie in its
    gradient.
    """

    @staticmethod
    def forward(x: Any, *, num_heads: int) -> tuple[Any, Any]:
        PackedAttention.heads(x, num_heads)
        if not x.numel:
            y, saved = PackedAttention.forward(x, num_heads=num_heads)
            return y, [saved]
        kind, form = type(x), compute_kind(x.dtype)
        heads = _split(x.in_kind(form), num_heads)
        y, kept = cuda_attention.attend(
            kind, form, heads, True, 1.0 / math.sqrt(heads[0].shape[3]), compute_dtype() == "tf32"
        )
        result = y.transpose(0, 2, 1, 3).reshape(*x.shape[:2], x.shape[2] // 3)
        return kind.wrap_held(result, x.dtype), (x, form, num_heads, kept)

    @staticmethod
    def backward(saved: Any, grad: Any) -> tuple[Gradient, ...]:
        if isinstance(saved, list):
            return PackedAttention.backward(saved[0], grad)
        x, form, num_heads, kept = saved
        kind, held = type(x), x.in_kind(form)
        result = kind.xp.empty(x.shape, held.dtype)
        heads = _split(held, num_heads)
        batch, _, length, size = heads[0].shape
        g = grad.in_kind(form).reshape(batch, length, num_heads, size).transpose(0, 2, 1, 3)
        cuda_attention.attend_gradients(kind, heads, g, kept, _split(result, num_heads))
        return (kind.wrap_held(result, x.dtype),)


def _split(x: Any, num_heads: int) -> list[Any]:
    """Returns query, key and value (B, H, T, D) of a packed array: views of it, where it is dense."""
    parts = x.reshape(*x.shape[:2], 3, num_heads, x.shape[2] // (3 * num_heads))
    return [parts[:, :, i].transpose(0, 2, 1, 3) for i in range(3)]


# ---------------------------------------------------------------- the optimizer


def tensor_table(
    kind: type[CudaBuffer], columns: list[list[Any]], decays: list[float]
) -> tuple[Any, Any, int]:
    """Returns what `optimizer.cu` calls table and chunks, on the device, and how many chunks there are;
    columns are lists of arrays.
    """
    import numpy

    table, chunks = numpy.zeros((len(decays), 6), numpy.int64), []
    table[:, 5] = numpy.array(decays, numpy.float64).view(numpy.int64)
    for i, row in enumerate(zip(*columns, strict=True)):
        table[i, : len(row)] = [kind._address(array) for array in row]
        table[i, 4] = row[0].size
        chunks += [(i, start) for start in range(0, row[0].size, PARAMETER_CHUNK)]
    both = numpy.concatenate([table.reshape(-1), numpy.array(chunks, numpy.int64).reshape(-1)])
    if kind.late_tables is None:
        device = kind.xp.asarray(both)
    else:
        device = kind.xp.empty(both.shape, both.dtype)
        kind.late_tables.append((device, both))
    return device[: table.size], device[table.size :], len(chunks)


def _filled(kind: type[CudaBuffer], array: Any) -> Any:
    flags = array.flags
    return array if flags.c_contiguous or flags.f_contiguous else kind.xp.ascontiguousarray(array)


def gradient_norm(kind: type[CudaBuffer], grads: list[Any], limit: float, unscale: float = 1.0) -> Any:
    """Returns (norm, factor, finite) on the device, see `finish_norm` in optimizer.cu. Nothing comes to the
    host.
    """
    parts = []
    for wide in ("float32", "float64"):
        arrays = [_filled(kind, g) for g in grads if kind_of(g) == wide and g.size]
        if arrays:
            table, chunks, count = tensor_table(kind, [arrays, arrays], [0.0] * len(arrays))
            parts.append(kind.xp.empty(count, "float64"))
            kind.launch("squares", wide, (count,), table, chunks, PARAMETER_CHUNK, parts[-1])
    partial = kind.xp.concatenate(parts) if parts else kind.xp.zeros(1, "float64")
    result = kind.xp.empty(3, "float64")
    kind.launch("finish_norm", "", (1,), partial, partial.size, float(limit), float(unscale), result)
    return result


def adamw_numbers(learning_rate: float, betas: tuple[float, float], eps: float, step: int) -> list[float]:
    """Returns the five numbers of `adamw` in optimizer.cu."""
    root = math.sqrt(1.0 - betas[1] ** step)
    return [*betas, learning_rate * root / (1.0 - betas[0] ** step), eps * root, learning_rate]


def adamw(
    kind: type[CudaBuffer],
    buffers: list[list[Any]],
    decays: list[float],
    numbers: Any,
    clip: Any = None,
    skip: bool = False,
) -> None:
    """Updates parameters, given lists of parameters, gradients and both moments, by one launch for each float
    dtype.
    """
    for wide in ("float32", "float64"):
        rows = [
            (*row, decay)
            for *row, decay in zip(*buffers, decays, strict=True)
            if row[0].dtype.name == wide and row[0].numel
        ]
        if not rows:
            continue
        columns: list[list[Any]] = [[] for _ in range(4)]
        copies = []
        for *row, _ in rows:
            for i, buffer in enumerate(row):
                array = buffer.array
                # All four in one order of elements; a copy is written back below
                if not array.flags.c_contiguous:
                    array = kind.xp.ascontiguousarray(array)
                    copies += [(buffer, array)] if i != 1 else []
                columns[i].append(array)
        table, chunks, count = tensor_table(kind, columns, [row[4] for row in rows])
        kind.launch("adamw", wide, (count,), table, chunks, PARAMETER_CHUNK, numbers, clip, int(skip))
        for buffer, array in copies:
            buffer.array[...] = array
    for column in (buffers[0], buffers[2], buffers[3]):
        for buffer in column:
            buffer.version[0] += 1


@cuda
class CudaAdamWStep(AdamWStep):
    """All parameters in one launch."""

    @staticmethod
    def forward(
        parameters: Any,
        grads: Any,
        first: Any,
        second: Any,
        *,
        learning_rate: float,
        betas: Any,
        eps: float,
        weight_decays: Any,
        step: int,
    ) -> tuple[None, None]:
        if not parameters:
            return None, None
        for buffer in (*parameters, *first, *second):
            buffer._check_writable()
        kind = type(parameters[0])
        numbers = kind.xp.asarray(adamw_numbers(learning_rate, betas, eps, step), "float64")
        adamw(kind, [parameters, grads, first, second], weight_decays, numbers)
        return None, None
