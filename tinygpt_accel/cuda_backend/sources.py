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
_ALL = tuple(TYPES.values())
_WIDE = ("float", "double")
# What comes in as float32 may go out in 16 bits, and the reverse.
_PAIRS = ("float, float", "double, double", "float, bf16", "float, fp16")
_TO_FLOAT = ("bf16, float", "fp16, float")
_SUMS = ("float, bf16, float", "float, fp16, float", "bf16, bf16, bf16", "fp16, fp16, fp16")

INSTANCES: dict[str, dict[str, tuple[str, ...]]] = {
    "normalization.cu": {
        "normalize": _PAIRS,
        "normalize_gradient": _PAIRS,
        "normalize_parameter_gradients": _PAIRS,
        "column_sums": _ALL,
    },
    "elementwise.cu": {
        "cast": (*_PAIRS[2:], *_TO_FLOAT),
        "add": _SUMS,
        "add_bias": _ALL,
        "bias_gelu": _ALL,
        "gelu_gradient": _ALL,
        "silu": _ALL,
        "silu_gradient": _ALL,
        "dropout": _ALL,
        "rotate": _ALL,
    },
    "softmax.cu": {
        "softmax": _ALL,
        "softmax_gradient": _ALL,
        "cross_entropy": _ALL,
        "cross_entropy_gradient": _ALL,
    },
    "rows.cu": {
        "rank_ids": (),
        "scan_chunks": (),
        "scan_counts": (),
        "place_ids": (),
        "add_rows": _ALL,
        "join_rows": _WIDE,
    },
    "optimizer.cu": {"squares": _WIDE, "finish_norm": (), "adamw": _WIDE},
}


# Elementwise kernels whose threads take eight neighbours at a time.
BY_EIGHT = frozenset(
    ["cast", "add", "add_bias", "bias_gelu", "gelu_gradient", "silu", "silu_gradient", "dropout"]
)


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
