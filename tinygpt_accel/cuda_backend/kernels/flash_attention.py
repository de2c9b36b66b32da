"""Flash attention by cuDNN, through `nvidia-cudnn-frontend`, on arrays where they lie: no scores, no copies.

One plan is built for each shape, layout and scale, and kept; where cuDNN builds none, `NoPlan` says why, and
`attention` goes on without it. The backward is the deterministic one, so that a resumed run repeats bit for
bit, unless $TINYGPT_CUDA_ATTENTION is "any-order".

Source: Dao et al., "FlashAttention", 2022.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Any

from ..buffer import CudaBuffer, format_of
from ..sources import SIXTEEN_BIT

Layout = tuple[tuple[int, ...], tuple[int, ...]]  # shape and strides in elements
ALIGNED = 16  # bytes: where rows begin

ORDER_VARIABLE = "TINYGPT_CUDA_ATTENTION"

refused: list[str] = []  # why plans could not be built, in this process


class NoPlan(Exception):
    """cuDNN cannot do this."""


@cache
def why_not() -> str:
    """Returns why cuDNN's flash attention cannot be used here, or ""."""
    if find_spec("cudnn") is None:
        return (
            'nvidia-cudnn-frontend is not installed: pip install . "./tinygpt_accel[cuda13]" '
            "in the project's folder"
        )
    try:
        import cudnn

        cudnn.backend_version()
    except Exception as problem:  # whatever a front end without its library raises
        return f"nvidia-cudnn-frontend cannot be used: {problem}"
    return ""


def is_deterministic() -> bool:
    """Whether the backward adds up in an order that is always the same, as the environment says.

    Raises:
        ValueError: it says something else than "in-order" or "any-order".
    """
    said = os.environ.get(ORDER_VARIABLE) or "in-order"
    if said not in ("in-order", "any-order"):
        raise ValueError(f"${ORDER_VARIABLE} is in-order (as by default) or any-order, not {said!r:.80}")
    return said == "in-order"


def can(kind: type[CudaBuffer], fmt: str, q: Any, k: Any, causal: bool) -> bool:
    """Whether it takes these arrays (B, H, T, D): 16 bits, a head size it knows, and, where causal, as many
    queries as keys.
    """
    size = q.shape[3]
    if fmt not in SIXTEEN_BIT or not kind.has_cudnn or size % 8 or size > 128:
        return False
    if causal and q.shape[2] != k.shape[2]:
        return False
    return not why_not() and all(_has_aligned_rows(kind, x) for x in (q, k))


def _has_aligned_rows(kind: type[CudaBuffer], x: Any) -> bool:
    """Whether the rows of heads are dense, and each begins at a multiple of 16 bytes."""
    steps = [step for step, count in zip(x.strides[:3], x.shape[:3], strict=True) if count > 1]
    is_aligned = not any(start % ALIGNED for start in (kind.address_of(x), *steps))
    return is_aligned and bool(x.strides[3] == x.itemsize)


def _with_aligned_rows(kind: type[CudaBuffer], x: Any) -> Any:
    """Returns an array whose rows are aligned: itself or a copy."""
    return x if _has_aligned_rows(kind, x) else kind.xp.ascontiguousarray(x)


def _layout(x: Any) -> Layout:
    """Returns the shape and strides of an array (B, H, T, D)."""
    return tuple(x.shape), tuple(step // x.itemsize for step in x.strides)


@cache
def _handle() -> Any:
    import cudnn

    return cudnn.create_handle()


class _Plan:
    """A graph of one operation, built, with its tensors in the order in which `run` takes their arrays.

    Args:
        inputs: the layout of each by its name, and whether it is float32.
    """

    def __init__(self, fmt: str, inputs: dict[str, tuple[Layout, bool]]) -> None:
        import cudnn

        low = cudnn.data_type.BFLOAT16 if fmt == "bfloat16" else cudnn.data_type.HALF
        wide = cudnn.data_type.FLOAT
        self.handle = _handle()
        self.graph = cudnn.pygraph(
            io_data_type=low, intermediate_data_type=wide, compute_data_type=wide, handle=self.handle
        )
        self.inputs = {
            name: self.graph.tensor(
                name=name, dim=list(shape), stride=list(strides), data_type=wide if is_wide else low
            )
            for name, ((shape, strides), is_wide) in inputs.items()
        }
        self.tensors = list(self.inputs.values())

    def finish(self, outputs: list[tuple[Any, Layout, bool]]) -> _Plan:
        """Marks the outputs, and builds."""
        import cudnn

        for tensor, (shape, strides), is_wide in outputs:
            tensor.set_output(True).set_dim(list(shape)).set_stride(list(strides))
            if is_wide:
                tensor.set_data_type(cudnn.data_type.FLOAT)
            self.tensors.append(tensor)
        self.graph.validate()
        self.graph.build_operation_graph()
        self.graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        self.graph.check_support()
        self.graph.build_plans()
        self.workspace_size = self.graph.get_workspace_size()
        return self

    def run(self, kind: type[CudaBuffer], arrays: list[Any]) -> None:
        """Runs on the current stream; the workspace comes from the pool."""
        import cudnn

        cudnn.set_stream(handle=self.handle, stream=kind.stream_address())
        workspace = kind.xp.empty(max(self.workspace_size, 1), "uint8")
        addresses = {
            tensor: kind.address_of(array) for tensor, array in zip(self.tensors, arrays, strict=True)
        }
        self.graph.execute(addresses, kind.address_of(workspace), handle=self.handle)


def _forward_plan(
    fmt: str, q: Layout, k: Layout, v: Layout, y: Layout, stats: Layout, causal: bool, scale: float
) -> _Plan:
    plan = _Plan(fmt, {"q": (q, False), "k": (k, False), "v": (v, False)})
    result, sums = plan.graph.sdpa(
        name="sdpa", **plan.inputs, generate_stats=True, attn_scale=scale, use_causal_mask=causal
    )
    return plan.finish([(result, y, False), (sums, stats, True)])


def _backward_plan(
    fmt: str,
    layouts: tuple[Layout, ...],
    results: tuple[Layout, ...],
    causal: bool,
    scale: float,
    deterministic: bool = True,
) -> _Plan:
    names = ("q", "k", "v", "o", "dO", "stats")
    inputs = {name: (layout, name == "stats") for name, layout in zip(names, layouts, strict=True)}
    plan = _Plan(fmt, inputs)
    gradients = plan.graph.sdpa_backward(
        name="sdpa_backward",
        **plan.inputs,
        attn_scale=scale,
        use_causal_mask=causal,
        use_deterministic_algorithm=deterministic,
    )
    return plan.finish([(tensor, layout, False) for tensor, layout in zip(gradients, results, strict=True)])


@cache
def _built(make: Any, *described: Any) -> _Plan | str:
    """Returns the plan that `make` builds, or why it does not: asked once, since building takes a second."""
    try:
        plan: _Plan = make(*described)
        return plan
    except Exception as problem:  # of what class depends on the front end's version
        refused.append(f"{make.__name__[1:]} {described}: {type(problem).__name__}: {str(problem)[:300]}")
        return refused[-1]


def _plan(make: Any, *described: Any) -> _Plan:
    """Returns the plan that `make` builds; raises NoPlan, with the reason, where it builds none."""
    built = _built(make, *described)
    if isinstance(built, str):
        raise NoPlan(built)
    return built


def forward(
    kind: type[CudaBuffer], q: Any, k: Any, v: Any, causal: bool, scale: float, fast: bool
) -> tuple[Any, Any]:
    """Returns y, which lies as (B, T, H, D), and the log-sum-exps (B, H, T, 1) for the backward; raises
    NoPlan where cuDNN builds none.
    """
    v = _with_aligned_rows(kind, v)
    batch, heads, length, size = q.shape
    y = kind.xp.empty((batch, length, heads, size), q.dtype).transpose(0, 2, 1, 3)
    stats = kind.xp.empty((batch, heads, length, 1), "float32")
    arrays = [q, k, v, y, stats]
    plan = _plan(_forward_plan, format_of(q), *map(_layout, arrays), causal, scale)
    plan.run(kind, arrays)
    return y, stats


def backward(
    kind: type[CudaBuffer],
    q: Any,
    k: Any,
    v: Any,
    y: Any,
    g: Any,
    causal: bool,
    scale: float,
    fast: bool,
    state: Any,
    out: Any,
) -> None:
    """Writes the gradients of q, k and v into the arrays `out`, whose heads are dense; raises NoPlan where
    cuDNN builds none.
    """
    v, g = (_with_aligned_rows(kind, x) for x in (v, g))
    arrays = [q, k, v, y, g, state]
    layouts, results = (tuple(map(_layout, group)) for group in (arrays, out))
    plan = _plan(_backward_plan, format_of(q), layouts, results, causal, scale, is_deterministic())
    plan.run(kind, [*arrays, *out])
