"""The subcommand `tinygpt compare-backends`: one training step on every backend that can run, whether they
agree and how fast they are.

What is measured and how much is tolerated is in `comparison`; here it is asked for and printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ..training.config import describe_sizes
from ..training.presets import PRESETS
from .comparison import PATIENCE, UNIT, WARM_UP, Comparison, Measurement, compare
from .messages import one_line

Row = tuple[str, ...]


def add_command(commands: Any) -> None:
    """Adds `compare-backends` to the subcommands of a parser."""
    parser = commands.add_parser(
        "compare-backends",
        help="show that the backends agree, and their speed",
        description=(
            "Run one training step of a small GPT (forward, backward, clipping, AdamW; same weights, same "
            "batch of real text) on every backend that can run, and show how far its loss, gradients and new "
            "weights are from those of the python backend, what float32 rounding allows, and the time of a "
            "step. Exit code 1 if a backend disagrees or fails."
        ),
        allow_abbrev=False,
    )
    parser.set_defaults(command=run_compare_backends)
    option = parser.add_argument
    option(
        "--backend",
        metavar="NAME[,NAME...]",
        help="what to compare with python, such as numpy or cupy (default: all that can run)",
    )
    option(
        "--preset",
        default="identifiers",
        metavar="NAME",
        help=(
            f"sizes and settings of the model, one of {', '.join(PRESETS)}; "
            "larger ones take python minutes (default: identifiers)"
        ),
    )
    option(
        "--steps",
        type=int,
        default=5,
        metavar="N",
        help=(
            f"steps to time on each, after {WARM_UP}; "
            f"fewer where they take over {PATIENCE:.0f} s (default: 5)"
        ),
    )


def run_compare_backends(arguments: argparse.Namespace) -> int:
    """Runs `tinygpt compare-backends`: prints what agrees and how fast it is. Returns the exit code.

    Raises:
        ValueError: an option that makes no sense.
        BackendUnavailable: a backend that was asked for cannot run here.
        RuntimeError: a backend disagrees with python, or failed.
    """
    is_live = sys.stderr.isatty()

    def announce(name: str) -> None:
        if is_live:
            print(f"\rone step on {one_line(name)} …\x1b[K", end="", file=sys.stderr, flush=True)

    names = None if arguments.backend is None else arguments.backend.split(",")
    try:
        comparison = compare(names, arguments.preset, arguments.steps, announce)
    finally:
        if is_live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    print("\n".join(_report(comparison)), flush=True)
    problems = [_complaint(each) for each in comparison.measurements if not each.agrees]
    if problems:
        raise RuntimeError("; ".join(problems))
    return 0


def _report(comparison: Comparison) -> list[str]:
    """Returns the lines of what is printed: the step, how far the backends are apart, what is tolerated, the
    times, who is missing.
    """
    lines = [_what_was_run(comparison), ""]
    lines += _table(_agreement_rows(comparison), "<><>>><")
    lines.append("")
    if len(comparison.measurements) == 1:
        lines.append("There is no other backend to compare python with.")
    for each in comparison.measurements:
        if each.problem:
            lines.append(f"{one_line(each.backend)} failed: {one_line(each.problem)}")
    lines += _tolerance_lines(comparison)
    lines.append("")
    lines += _table(_time_rows(comparison), "<>>>")
    if comparison.unavailable:
        lines.append("")
    for name, reason in comparison.unavailable:
        lines.append(f"not here: {one_line(name)}, {one_line(reason)}")
    return lines


def _what_was_run(comparison: Comparison) -> str:
    config = comparison.config
    rows, length = comparison.shape
    return (
        f"one training step of a GPT of {describe_sizes(config)}: "
        f"{comparison.num_parameters:,} parameters, on {rows} x {length} characters of `identifiers`"
    )


def _tolerance_lines(comparison: Comparison) -> list[str]:
    loss = comparison.loss_tolerance
    gradient = comparison.gradient_tolerance
    return [
        f"Tolerances, from the roundings to float32 on the longest way through this step ({UNIT:.1e} each):",
        f"  loss       {loss:.1e} of it ({loss / UNIT:,.0f} roundings)",
        f"  gradients  {gradient:.1e} of each tensor's largest element ({gradient / UNIT:,.0f} roundings)",
        "  weights    what such a gradient changes in AdamW's first step, "
        "which follows the gradient's sign, element by element",
    ]


def _agreement_rows(comparison: Comparison) -> list[Row]:
    """Returns the table of how far each backend is from the reference, a row a quantity."""
    reference, *others = comparison.measurements
    rows: list[Row] = [
        (
            "backend",
            "loss",
            "compared with python",
            "largest difference",
            "of the largest",
            "of the tolerance",
            "agrees",
        ),
        (reference.backend, f"{reference.loss:.7f}", "", "", "", "", ""),
    ]
    for other in others:
        name = one_line(other.backend)
        if other.problem:
            rows.append((name, "", "failed, see below", "", "", "", "no"))
        for number, each in enumerate(other.differences):
            is_first = number == 0
            rows.append(
                (
                    name if is_first else "",
                    f"{other.loss:.7f}" if is_first else "",
                    each.quantity,
                    f"{each.largest:.1e}",
                    f"{each.relative:.1e}",
                    f"{100 * each.share:.1f} %" if each.share < 10 else "over 1000 %",
                    "yes" if each.share <= 1 else "no",
                )
            )
    return rows


def _time_rows(comparison: Comparison) -> list[Row]:
    """Returns the table of times, a row for each backend that was timed."""
    reference = comparison.measurements[0]
    rows: list[Row] = [("backend", "ms a step", "steps", "times as fast as python")]
    for each in comparison.measurements:
        if each.seconds:
            rows.append(
                (
                    one_line(each.backend),
                    f"{1e3 * each.median:.2f}",
                    str(len(each.seconds)),
                    f"{reference.median / each.median:.1f}",
                )
            )
    return rows


def _complaint(measurement: Measurement) -> str:
    """Returns what is wrong with a measurement: the error, or the quantity that is furthest beyond its
    tolerance.
    """
    if measurement.problem:
        return f"{measurement.backend} failed: {measurement.problem}"
    worst = max(measurement.differences, key=lambda difference: difference.share)
    wrong = ", ".join(difference.quantity for difference in measurement.differences if difference.share > 1)
    verb = "is" if worst.quantity == "loss" else "are"
    where = "" if worst.where == worst.quantity else f", in {worst.where}"
    return (
        f"{measurement.backend} disagrees with python ({wrong}): its {worst.quantity} {verb} "
        f"{worst.share:,.1f} times the tolerance away{where}"
    )


def _table(rows: Sequence[Row], alignment: str) -> list[str]:
    """Returns the lines of a table, each column as wide as its widest cell; "<" aligns one to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, alignment, widths, strict=True)
        lines.append("  ".join(f"{cell:{side}{width}}" for cell, side, width in cells).rstrip())
    return lines
