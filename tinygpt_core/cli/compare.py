"""The subcommand `tinygpt compare-backends`: one training step on every backend that can run, whether they
agree and how fast they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ..training.presets import PRESETS
from . import comparison
from .convert import _printable


def add_command(commands: Any) -> None:
    """Adds `compare-backends` to the subcommands of a parser."""
    about = (
        "Run one training step of a small GPT (forward, backward, clipping, AdamW; same weights, same batch of real text) on every backend "
        "that can run, and show how far its loss, gradients and new weights are from those of the python backend, what float32 rounding "
        "allows, and the time of a step. Exit code 1 if a backend disagrees or fails."
    )
    parser = commands.add_parser(
        "compare-backends", help="show that the backends agree, and their speed", allow_abbrev=False
    )
    parser.description = about
    parser.set_defaults(command=run_compare_backends)
    option = parser.add_argument
    option(
        "--backend",
        metavar="NAME[,NAME...]",
        help="what to compare with python, such as numpy or cupy:1 (default: all that can run)",
    )
    text = f"sizes and settings of the model, one of {', '.join(PRESETS)}; larger ones take python minutes (default: identifiers)"
    option("--preset", default="identifiers", metavar="NAME", help=text)
    text = f"steps to time on each, after {comparison.WARM_UP}; fewer where they take over {comparison.PATIENCE:.0f} s (default: 5)"
    option("--steps", type=int, default=5, metavar="N", help=text)


def run_compare_backends(arguments: argparse.Namespace) -> int:
    """`tinygpt compare-backends`: prints what agrees and how fast it is.

    Raises:
        ValueError: an option that makes no sense.
        BackendUnavailable: a backend that was asked for cannot run here.
        RuntimeError: a backend disagrees with python, or failed.
    """
    live = sys.stderr.isatty()

    def tell(name: str) -> None:
        if live:
            print(f"\rone step on {_one_line(name)} …\x1b[K", end="", file=sys.stderr, flush=True)

    names = None if arguments.backend is None else arguments.backend.split(",")
    try:
        found = comparison.compare(names, arguments.preset, arguments.steps, tell)
    finally:
        if live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    print("\n".join(_report(found)), flush=True)
    if problems := [_complaint(measurement) for measurement in found.measurements if not measurement.agrees]:
        raise RuntimeError("; ".join(problems))
    return 0


def _report(found: comparison.Comparison) -> list[str]:
    """Returns the lines of what is printed: the step, how far the backends are apart, what is tolerated, the
    times, who is missing.
    """
    config, u = found.config, comparison.UNIT
    parts = [
        f"{number} {what}{'s' * (number > 1)}"
        for number, what in ((config.num_layers, "layer"), (config.num_heads, "head"))
    ]
    sizes = f"{', '.join(parts)}, {config.embedding_dim} wide: {found.num_parameters:,} parameters"
    failures = [
        f"{_one_line(each.backend)} failed: {_one_line(each.problem)}"
        for each in found.measurements
        if each.problem
    ]
    missing = [f"not here: {_one_line(name)}, {_one_line(reason)}" for name, reason in found.unavailable]
    return [
        f"one training step of a GPT of {sizes}, on {found.shape[0]} x {found.shape[1]} characters of `identifiers`",
        "",
        *_table(_agreement(found), "<><>>><"),
        "",
        *(failures if len(found.measurements) > 1 else ["There is no other backend to compare python with."]),
        f"Tolerances, from the roundings to float32 on the longest way through this step ({u:.1e} each):",
        f"  loss       {found.loss_tolerance:.1e} of it ({found.loss_tolerance / u:,.0f} roundings)",
        f"  gradients  {found.gradient_tolerance:.1e} of each tensor's largest element ({found.gradient_tolerance / u:,.0f} roundings)",
        "  weights    what such a gradient changes in AdamW's first step, which follows the gradient's sign, element by element",
        "",
        *_table(_times(found), "<>>>"),
        *(["", *missing] if missing else []),
    ]


def _agreement(found: comparison.Comparison) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            "backend",
            "loss",
            "compared with python",
            "largest difference",
            "of the largest",
            "of the tolerance",
            "agrees",
        ),
        (found.measurements[0].backend, f"{found.measurements[0].loss:.7f}", "", "", "", "", ""),
    ]
    for other in found.measurements[1:]:
        name, loss = _one_line(other.backend), f"{other.loss:.7f}"
        if other.problem:
            rows.append((name, "", "failed, see below", "", "", "", "no"))
        for each in other.differences:
            share = f"{100 * each.share:.1f} %" if each.share < 10 else "over 1000 %"
            agrees = "yes" if each.share <= 1 else "no"
            rows.append(
                (name, loss, each.quantity, f"{each.largest:.1e}", f"{each.relative:.1e}", share, agrees)
            )
            name = loss = ""
    return rows


def _times(found: comparison.Comparison) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("backend", "ms a step", "steps", "times as fast as python")]
    for each in found.measurements:
        if each.seconds:
            speed = found.measurements[0].median / each.median
            rows.append(
                (_one_line(each.backend), f"{1e3 * each.median:.2f}", str(len(each.seconds)), f"{speed:.1f}")
            )
    return rows


def _complaint(measurement: comparison.Measurement) -> str:
    """Returns what is wrong with a measurement: the error, or the quantity that is furthest beyond its
    tolerance.
    """
    if measurement.problem:
        return f"{measurement.backend} failed: {measurement.problem}"
    worst = max(measurement.differences, key=lambda difference: difference.share)
    wrong = ", ".join(difference.quantity for difference in measurement.differences if difference.share > 1)
    at = "" if worst.where == worst.quantity else f", in {worst.where}"
    return (
        f"{measurement.backend} disagrees with python ({wrong}): its {worst.quantity} {'is' if worst.quantity == 'loss' else 'are'} "
        f"{worst.share:,.1f} times the tolerance away{at}"
    )


def _table(rows: Sequence[Sequence[str]], alignment: str) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, alignment, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _one_line(text: str) -> str:
    """Names and errors come from plug-ins, and must stay one line."""
    return _printable(" ".join(text.split()))
