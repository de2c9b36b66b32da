"""Einsum of attention-like products on NumPy: our kernel against the best of numpy.einsum(optimize=True) and
hand-written matmul.

    python benchmarks/einsum.py [--rounds 24]

The three take turns within each round, so that what else the machine does falls on all of them, and in
another order from round to round, because the memory that one gives back is the next one's; the ratio is that
of medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# All three end in the same BLAS; its threads only add noise to a comparison
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from tinygpt_core import Tensor, backends, einsum
from tinygpt_core.dtype import DType

LIMIT = 1.1
ORDERS = list(permutations(range(3)))
B, H, T, D = 8, 6, 256, 64
C = H * D

Array = Any


def values_and_projection(p: Array, v: Array, w: Array) -> Array:
    """Returns what the heads attended to, projected; keeps the intermediate until the end, as whoever wants a
    gradient has to.
    """
    attended = p @ v.swapaxes(1, 2)
    return (attended.swapaxes(1, 2).reshape(-1, C) @ w.reshape(C, C)).reshape(B, T, C)


CASES: list[tuple[str, str, tuple[tuple[int, ...], ...], Callable[..., Array]]] = [
    (
        "scores, heads first",
        "bhid,bhjd->bhij",
        ((B, H, T, D), (B, H, T, D)),
        lambda q, k: q @ k.swapaxes(2, 3),
    ),
    (
        "scores, heads inside",
        "bihd,bjhd->bhij",
        ((B, T, H, D), (B, T, H, D)),
        lambda q, k: q.transpose(0, 2, 1, 3) @ k.transpose(0, 2, 3, 1),
    ),
    ("values, heads first", "bhij,bhjd->bhid", ((B, H, T, T), (B, H, T, D)), lambda p, v: p @ v),
    (
        "values, heads inside",
        "bhij,bjhd->bihd",
        ((B, H, T, T), (B, T, H, D)),
        lambda p, v: (p @ v.swapaxes(1, 2)).swapaxes(1, 2),
    ),
    ("transposed scores", "bhij,bhid->bhjd", ((B, H, T, T), (B, H, T, D)), lambda p, g: p.swapaxes(2, 3) @ g),
    (
        "one key for all heads",
        "bhid,bjd->bhij",
        ((B, H, T, D), (B, T, D)),
        lambda q, k: (q.reshape(B, H * T, D) @ k.swapaxes(1, 2)).reshape(B, H, T, T),
    ),
    (
        "projection into heads",
        "btc,chd->bthd",
        ((B, T, C), (C, H, D)),
        lambda x, w: (x.reshape(-1, C) @ w.reshape(C, C)).reshape(B, T, H, D),
    ),
    (
        "projection out of heads",
        "bthd,hdc->btc",
        ((B, T, H, D), (H, D, C)),
        lambda y, w: (y.reshape(-1, C) @ w.reshape(C, C)).reshape(B, T, C),
    ),
    (
        "gradient of a projection",
        "btc,bthd->chd",
        ((B, T, C), (B, T, H, D)),
        lambda x, g: (x.reshape(-1, C).T @ g.reshape(-1, C)).reshape(C, H, D),
    ),
    (
        "heads last",
        "tdh,sdh->tsh",
        ((T, D, 2 * H), (T, D, 2 * H)),
        lambda q, k: (q.transpose(2, 0, 1) @ k.transpose(2, 1, 0)).transpose(1, 2, 0),
    ),
    (
        "scores of a small model",
        "bihd,bjhd->bhij",
        ((12, 64, 4, 32), (12, 64, 4, 32)),
        lambda q, k: q.transpose(0, 2, 1, 3) @ k.transpose(0, 2, 3, 1),
    ),
    ("three operands", "bhij,bjhd,hdc->bic", ((B, H, T, T), (B, T, H, D), (H, D, C)), values_and_projection),
]


def seconds(function: Callable[[], Any]) -> float:
    """Returns how long one call computes, in this thread, which is the only one: what else the machine does
    hardly counts.
    """
    start = time.thread_time()
    function()
    return time.thread_time() - start


def main() -> int:
    """Prints a Markdown table; returns 1 where a result differs or the worst ratio is over the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=24, help="times each of the three runs (default: 24)")
    rounds = parser.parse_args().rounds
    import numpy

    kind = backends.get("numpy")
    generator = numpy.random.default_rng(0)
    print(
        "| product | subscripts | einsum here | numpy.einsum | hand-written | ratio to the best "
        "|\n|---|---|---|---|---|---|"
    )
    worst = 0.0
    for name, subscripts, shapes, by_hand in CASES:
        arrays = [generator.standard_normal(shape, numpy.float32) for shape in shapes]
        tensors = [Tensor(kind.wrap(array, DType.float32)) for array in arrays]
        contestants: list[Callable[[], Any]] = [
            lambda s=subscripts, t=tensors: einsum(s, *t).buffer.array,
            lambda s=subscripts, a=arrays: numpy.einsum(s, *a, optimize=True),
            lambda f=by_hand, a=arrays: f(*a),
        ]
        results = [numpy.asarray(contestant()) for contestant in contestants]
        for other in results[1:]:
            if not numpy.allclose(results[0], other, rtol=1e-3, atol=1e-3):
                print(f"{subscripts}: the results differ", file=sys.stderr)
                return 1
        times: list[list[float]] = [[], [], []]
        for turn in range(rounds):
            for i in ORDERS[turn % len(ORDERS)]:
                times[i].append(seconds(contestants[i]))
        ours, einsums, hand = map(statistics.median, times)
        ratio = ours / min(einsums, hand)
        worst = max(worst, ratio)
        print(
            f"| {name} | `{subscripts}` | {ours * 1e3:.2f} ms | {einsums * 1e3:.2f} ms | "
            f"{hand * 1e3:.2f} ms | {ratio:.2f} |"
        )
    print(f"\nthe worst ratio is {worst:.2f} (limit {LIMIT})")
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
