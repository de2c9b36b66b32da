"""The CUDA C++ sources beside this module, and which instances of their kernels are used: what NVRTC
compiles, here or in a test.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "cu"

# The format of an array's elements -> their C++ type in the sources. bfloat16 has no dtype in NumPy: its
# arrays are of uint16.
TYPES = {"float32": "float", "float64": "double", "bfloat16": "bf16", "float16": "fp16"}
SIXTEEN_BIT = ("bfloat16", "float16")
SIXTEEN_BIT_TYPES = tuple(TYPES[fmt] for fmt in SIXTEEN_BIT)
_SINGLE = ("float", "bf16", "fp16")
_TO_LOW = ("float, bf16", "float, fp16")
_TO_FLOAT = ("bf16, float", "fp16, float")
_SUMS = ("float, bf16, float", "float, fp16, float", "bf16, bf16, bf16", "fp16, fp16, fp16")

INSTANCES: dict[str, dict[str, tuple[str, ...]]] = {
    "normalization.cu": {"normalize": _SINGLE, "normalize_gradient": _SINGLE, "column_sums": _SINGLE},
    "elementwise.cu": {
        "cast": (*_TO_LOW, *_TO_FLOAT),
        "add": _SUMS,
        "add_bias": _SINGLE,
        "gelu": _SINGLE,
        "gelu_gradient": _SINGLE,
        "silu": _SINGLE,
        "silu_gradient": _SINGLE,
        "dropout": _SINGLE,
        "rotate": _SINGLE,
    },
    "softmax.cu": {"softmax": _SINGLE, "softmax_gradient": _SINGLE},
    "cross_entropy.cu": {
        "cross_entropy": _SINGLE,
        "cross_entropy_gradient": _SINGLE,
        "cross_entropy_both": _SINGLE,
        "rescale_rows": _SINGLE,
    },
    "rows.cu": {
        "rank_ids": (),
        "scan_chunks": (),
        "scan_counts": (),
        "place_ids": (),
        "add_rows": tuple(TYPES.values()),  # float64, too: nothing composes a Buffer's `scatter_add`
        "join_rows": ("float", "double"),
    },
    "optimizer.cu": {"squares": (), "finish_norm": (), "adamw": SIXTEEN_BIT_TYPES},
}


# Elementwise kernels whose threads take eight neighbours at a time.
BY_EIGHT = frozenset(["cast", "add", "add_bias", "gelu", "gelu_gradient", "silu", "silu_gradient", "dropout"])


def names(file: str) -> list[str]:
    """Returns the C++ names of all instances in a source, such as "normalize<float, bf16>"."""
    return [
        f"{name}<{types}>" if types else name
        for name, all_types in INSTANCES[file].items()
        for types in all_types or ("",)
    ]


@cache
def text(file: str) -> str:
    """Returns a source with what it includes put in its place, so that a compiler needs no search path."""
    common = (FOLDER / "common.cuh").read_text(encoding="utf-8").replace("#pragma once\n", "")
    return (FOLDER / file).read_text(encoding="utf-8").replace('#include "common.cuh"\n', common)


@cache
def file_of(kernel: str) -> str:
    """Returns which source holds the kernel called so, without its types."""
    return next(file for file, kernels in INSTANCES.items() if kernel in kernels)
