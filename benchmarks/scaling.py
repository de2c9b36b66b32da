"""How the time of a training step grows with width, depth, length and batch, and how the arithmetic does.

    python benchmarks/scaling.py [--picture docs/pictures/scaling.svg]

Needs numpy, and matplotlib for the picture. One size is changed at a time, the others stay at the base: 4
layers, 128 wide, length 64, batch 12. Heads are 32 wide. The arithmetic counts the floating-point operations
of the matrix products (a product of n x k and k x m is 2 n k m), forward and backward, which is three times
forward: per token and layer 24 width² for the four linear maps and 4 length width for attention over the
whole square, and 2 width vocabulary for the head.

A slope p says that time grows as size**p: the least-squares line through the points on log axes. Where the
measured slope is below the arithmetic's, a fixed cost a step (Python, small products) is being spread over
more work; a slope above it would mean that something grows faster than the work, which is what this script
looks for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pairing  # beside this file; puts the repository on sys.path
from training_sides import SIZES, VOCABULARY, TinyGPT, describe

from tinygpt_core.training import TrainingConfig

HEAD = 32
BASE = SIZES["nanogpt-cpu"]
SWEEPS: dict[str, tuple[str, Sequence[int]]] = {
    "width": ("embedding_dim", (64, 128, 256, 512)),
    "depth": ("num_layers", (1, 2, 4, 8, 16)),
    "length": ("context_length", (32, 64, 128, 256, 512)),
    "batch": ("batch_size", (3, 6, 12, 24, 48)),
}
MARGIN = 0.15  # by which a measured slope may exceed the arithmetic's


def operations(config: TrainingConfig) -> float:
    """Returns the floating-point operations of a step's matrix products."""
    width, tokens = config.embedding_dim, config.batch_size * config.context_length
    layer = 24 * width**2 + 4 * config.context_length * width
    return 3.0 * tokens * (config.num_layers * layer + 2 * width * VOCABULARY)


def with_size(field: str, value: int) -> TrainingConfig:
    """Returns the base with one size changed."""
    config = replace(BASE, **{field: value})
    return replace(config, num_heads=max(1, config.embedding_dim // HEAD))


def measure(backend: str, sizes: Sequence[TrainingConfig], steps: int, turns: int) -> list[float]:
    """Returns the median seconds of a step for each size; the sizes take turns in one process, since one
    library is at work.
    """
    sides = {str(number): pairing.Local(TinyGPT, config, backend) for number, config in enumerate(sizes)}
    results = pairing.alternate(sides, turns, steps, pause=0.0)
    return [pairing.quartiles(step.seconds for turn in results[name] for step in turn)[1] for name in sides]


def draw(sweeps: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws a panel a sweep."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(sweeps), figsize=(3.1 * len(sweeps), 3.2), sharey=True, squeeze=False
    )
    for panel, (name, sweep) in zip(panels[0], sweeps.items(), strict=True):
        milliseconds = [1e3 * value for value in sweep["seconds"]]
        # The arithmetic's line goes through the largest size, where fixed costs weigh least.
        arithmetic = [milliseconds[-1] * value / sweep["operations"][-1] for value in sweep["operations"]]
        panel.loglog(
            sweep["sizes"], milliseconds, "o-", color="#1f5fa8", label=f"measured, slope {sweep['slope']:.2f}"
        )
        panel.loglog(
            sweep["sizes"],
            arithmetic,
            "--",
            color="#777777",
            label=f"arithmetic, slope {sweep['arithmetic_slope']:.2f}",
        )
        panel.set_xticks(sweep["sizes"], [str(size) for size in sweep["sizes"]])
        panel.minorticks_off()
        panel.set_xlabel(name)
        panel.grid(True, color="#dddddd", linewidth=0.6)
        panel.legend(fontsize=7, frameon=False, loc="upper left")
    panels[0][0].set_ylabel("ms a training step")
    pairing.save_picture(figure, path)


def main() -> int:
    """Prints a table and the slopes; returns 1 where --check finds a slope above the arithmetic's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="numpy", help="which backend (default: numpy)")
    parser.add_argument(
        "--sweeps", default=",".join(SWEEPS), help=f"which sizes to change (default: {','.join(SWEEPS)})"
    )
    parser.add_argument(
        "--points",
        type=int,
        default=9,
        help="at most so many sizes of each, the smallest ones (default: all)",
    )
    parser.add_argument("--turns", type=int, default=5, help="turns of each size (default: 5)")
    parser.add_argument("--steps", type=int, default=2, help="counted steps in a turn (default: 2)")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads of the numerical libraries (default: 2)"
    )
    parser.add_argument(
        "--picture", metavar="FILE", help="draw the points and lines to FILE, an SVG (default: no picture)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures to FILE")
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"exit with 1 where a slope is more than {MARGIN} above the arithmetic's",
    )
    arguments = parser.parse_args()
    names = arguments.sweeps.split(",")
    if unknown := [name for name in names if name not in SWEEPS]:
        parser.error(f"unknown sweep {', '.join(unknown)}: known are {', '.join(SWEEPS)}")
    if arguments.points < 2:
        parser.error("--points must be 2 or more, a slope needs two")
    pairing.limit_threads(arguments.threads)
    print(f"{pairing.machine()}, backend {arguments.backend}\nAround the base of {describe(BASE)}\n")
    sweeps: dict[str, dict[str, Any]] = {}
    rows = []
    for name in names:
        field, sizes = SWEEPS[name][0], SWEEPS[name][1][: arguments.points]
        configs = [with_size(field, size) for size in sizes]
        seconds, work = (
            measure(arguments.backend, configs, arguments.steps, arguments.turns),
            [operations(config) for config in configs],
        )
        slopes = {"slope": pairing.slope(sizes, seconds), "arithmetic_slope": pairing.slope(sizes, work)}
        sweeps[name] = {"sizes": list(sizes), "seconds": seconds, "operations": work, **slopes}
        for size, time, count in zip(sizes, seconds, work, strict=True):
            rows.append([name, size, f"{1e3 * time:.1f}", f"{count / 1e9:.2f}", f"{count / time / 1e9:.0f}"])
    print(pairing.table(["changed", "to", "median ms a step", "GFLOP", "GFLOP/s"], rows) + "\n")
    promises = pairing.Promises()
    for name, sweep in sweeps.items():
        text = (
            f"{name}: time grows with slope {sweep['slope']:.2f}, the arithmetic with "
            f"{sweep['arithmetic_slope']:.2f}"
        )
        promises.say(sweep["slope"] <= sweep["arithmetic_slope"] + MARGIN, text)
    if arguments.picture:
        draw(sweeps, Path(arguments.picture))
        print(f"\nThe picture is in {arguments.picture}.")
    pairing.write_json(arguments.json, sweeps)
    return int(arguments.check and promises.missed)


if __name__ == "__main__":
    sys.exit(main())
