"""The same small model's training step on every backend that runs here.

    python benchmarks/backends.py [--preset text] [--steps 5] [--check]

Needs nothing for `python`, NumPy and the plug-in for `numpy`, a GPU for `cupy`. One seed gives the same
initial weights and batches on all of them, and the losses must agree. The backends take turns in processes of
their own (see pairing.py).
"""

from __future__ import annotations

import argparse
import sys

import pairing  # beside this file; puts the repository on sys.path
from training_sides import TinyGPT, describe

from tinygpt_core import backends
from tinygpt_core.training import PRESETS

TOLERANCE = 1e-4


def main() -> int:
    """Prints a Markdown table; returns 1 where --check finds losses that differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text = (
        "size and settings of the model, by a preset's name; python takes minutes for a step of "
        "nanogpt-cpu (default: text)"
    )
    parser.add_argument("--preset", choices=list(PRESETS), default="text", help=text)
    parser.add_argument(
        "--backends",
        metavar="NAMES",
        help="names with commas between them, the first is 1 (default: all that run here)",
    )
    parser.add_argument("--turns", type=int, default=5, help="turns of each backend (default: 5)")
    parser.add_argument("--steps", type=int, default=5, help="counted steps in a turn (default: 5)")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads of the numerical libraries (default: 2)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the losses differ")
    arguments = parser.parse_args()
    pairing.limit_threads(arguments.threads)
    names = (
        arguments.backends.split(",")
        if arguments.backends
        else [status.name for status in backends.available() if status.available]
    )
    config = PRESETS[arguments.preset][1]
    sides = {name: pairing.Worker(TinyGPT, config, name) for name in names}
    try:
        turns = pairing.alternate(sides, arguments.turns, arguments.steps)
    finally:
        for side in sides.values():
            side.close()
    seconds = {name: [[step.seconds for step in turn] for turn in turns[name]] for name in names}
    losses = {name: [step.value for turn in turns[name] for step in turn] for name in names}
    print(f"{pairing.machine()}\nThe preset {arguments.preset}: {describe(config)}\n")
    rows = []
    for name in names:
        ratio = 1.0 / pairing.paired_ratio(seconds[name], seconds[names[0]])
        rows.append([name, *pairing.milliseconds(pairing.flat(seconds[name])), f"{ratio:.1f}"])
    print(
        pairing.table(["backend", "median ms a step", "quartiles", f"times as fast as {names[0]}"], rows)
        + "\n"
    )
    difference = max(
        abs(a - b) for name in names for a, b in zip(losses[name], losses[names[0]], strict=True)
    )
    promises = pairing.Promises()
    promises.say(
        difference <= TOLERANCE, f"the losses differ by at most {difference:.1e} (limit {TOLERANCE:.0e})"
    )
    for status in backends.available():
        if not status.available:
            print(f"- not here: {status.name}, {status.reason}")
    pairing.write_json(arguments.json, {"preset": arguments.preset, "seconds": seconds, "losses": losses})
    return int(arguments.check and promises.missed)


if __name__ == "__main__":
    sys.exit(main())
