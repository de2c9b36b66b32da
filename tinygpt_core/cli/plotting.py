"""Loss curves: read from a run's log, drawn as SVG or in the characters of a terminal.

The loss of one batch jumps about, so a curve is drawn twice: as it is, faintly, and smoothed by an
exponential moving average,

    m_t = b m_(t-1) + (1 - b) loss_t,    smoothed_t = m_t / (1 - b^t),    b = 1 - 1 / max(1, steps / 50)

whose division undoes that m begins at 0 (Kingma and Ba, Adam, 2014, section 3). Validation losses are points.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

LONGEST_LINE = 1 << 24  # bytes of a line of a log
LARGEST_LOSS = 1e30  # beyond it a run has diverged, and its axis would show nothing else
BINS = 800  # a drawn curve has no more columns
Point = tuple[float, float]
# One colour a run: with a contrast of at least 4.5 to the ground of its theme, and apart for the colour-blind
# (dashes tell them apart too).
LIGHT = ("#0b62a8", "#b3420b", "#14713d", "#8e3fa8", "#7a5b00", "#0b6e78")
DARK = ("#74b8f5", "#f59a64", "#6fd39c", "#d9a5ef", "#e2b93f", "#62cdd6")
DASHES = ("", "8 3", "2 3", "10 3 2 3", "5 2", "1 2")
ANSI = (36, 33, 32, 35, 34, 31)  # the terminal's own colours, in the order of the runs


class Run(NamedTuple):
    """What a log says: the training loss of each step and the validation losses, as pairs of step and loss."""

    name: str
    losses: list[Point]
    validations: list[Point]


def read_run(path: str) -> Run:
    """Returns the losses in the log of a run; a step that stands there twice counts as it was last.

    Args:
        path: of the run's directory, or of a log.

    Raises:
        ValueError: a line is no object of JSON with a step and a loss, or no loss is there. The last line may
            be incomplete: a run that is going on has not finished it. Steps whose loss was no number, or
            infinite, are left out.
        OSError: the file cannot be read.
    """
    file_name = os.path.join(path, "log.jsonl") if os.path.isdir(path) else path
    name = os.path.basename(os.path.realpath(path if os.path.isdir(path) else os.path.dirname(path) or "."))
    losses: dict[int, float] = {}
    validations: dict[int, float] = {}
    with open(file_name, "rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            try:
                record = json.loads(line)
                step, loss = record["step"], record.get("loss", record.get("val_loss"))
                if type(step) is not int or not 0 <= step < 2**53 or type(loss) not in (int, float):
                    raise ValueError
                if abs(loss) <= LARGEST_LOSS:  # false of a NaN, too
                    (losses if "loss" in record else validations)[step] = float(loss)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
                if not line.endswith(b"\n") and not file.read(1):
                    break
                raise ValueError(
                    f"{file_name}: line {number} is no JSON object with a step and its loss or val_loss"
                ) from None
    if not losses and not validations:
        raise ValueError(f"{file_name} has no loss in it yet")
    return Run(name or "run", sorted(losses.items()), sorted(validations.items()))


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Returns the points with the exponential moving average of what they show in place of it."""
    keep = 1 - 1 / max(1.0, len(points) / 50)
    average, weight, result = 0.0, 0.0, []
    for step, loss in points:
        average, weight = keep * average + (1 - keep) * loss, keep * weight + (1 - keep)
        result.append((step, average / weight))
    return result


def thinned(
    points: Sequence[Point], most: int = BINS, along: Callable[[float], float] = float
) -> list[Point]:
    """Returns at most about `most` of the points, so that what is drawn looks the same.

    Args:
        points: in the order of their steps.
        most: the axis has half as many columns, and of each the lowest and the highest point stay; so do the
            first and the last.
        along: where a step lies on the axis.
    """
    if len(points) <= most:
        return list(points)
    low, high = along(points[0][0]), along(points[-1][0])
    kept = {points[0], points[-1]}
    for _, column in groupby(
        points, lambda point: int((along(point[0]) - low) / ((high - low) or 1) * (most // 2))
    ):
        part = list(column)
        kept |= {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
    return sorted(kept)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Returns the multiples of 1, 2 or 5 times a power of ten within [low, high], about so many; at least
    one.
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [
        float(f"{place * step:.12g}")
        for place in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ] or [low]


def limits(values: Iterable[float], room: float = 0.0) -> tuple[float, float]:
    """Returns the least and the greatest of values, with a share of `room` beyond either; apart by a
    millionth of them at least.
    """
    values = list(values)
    low, high = min(values), max(values)
    is_flat = high - low <= 1e-6 * max(abs(low), abs(high))
    margin = max(abs(low), abs(high)) * 0.05 or 0.5 if is_flat else (high - low) * room
    return low - margin, high + margin


def step_ticks(low: float, high: float, log_steps: bool) -> list[float]:
    """Returns which steps an axis names: whole ones; on a logarithmic axis powers of ten, and 2 and 5 times
    them where those are few.
    """
    if not log_steps:
        return [step for step in ticks(low, high, 8) if step == int(step)] or [low]
    powers = range(int(math.log10(max(1, high))) + 1)
    factors = (1,) if len(powers) > 3 else (1, 2, 5)
    return [
        step
        for step in (float(factor * 10**power) for power in powers for factor in factors)
        if low <= step <= high
    ] or [low]


def legend_text(run: Run) -> str:
    """Returns the name of a run with its last losses."""
    train = f"train {smoothed(run.losses)[-1][1]:.4f}" if run.losses else ""
    validation = f"validation {run.validations[-1][1]:.4f}" if run.validations else ""
    return f"{printable(run.name)}: {', '.join(filter(None, (train, validation)))}"


def printable(text: str) -> str:
    """Returns a text without the characters that could move a cursor or are not allowed in XML."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def svg(runs: Sequence[Run], width: int = 840, height: int = 460, *, log_steps: bool = False) -> str:
    """Returns the loss curves of runs as an SVG document that needs nothing else: axes, legend, a title and a
    description to be read aloud.

    It follows the reader's choice of a light or dark theme (`prefers-color-scheme`).

    Args:
        runs: at least one.
        width, height: in CSS pixels; the drawing scales.
        log_steps: whether the axis of steps is logarithmic, which shows the beginning.

    Source: Scalable Vector Graphics 2, w3.org/TR/SVG2; accessible names by `title`, `desc` and
    `aria-labelledby`.
    """
    from html import escape

    left, right, top, bottom = 64, 28, 44, 52
    along = _scale(log_steps)
    curves = [
        (thinned(run.losses, BINS, along), thinned(smoothed(run.losses), BINS, along), run.validations)
        for run in runs
    ]
    everything = [
        point
        for run, (_, smooth, _) in zip(runs, curves, strict=True)
        for point in (*smooth, *run.losses, *run.validations)
    ]
    x_low, x_high = limits(along(step) for step, _ in everything)
    y_low, y_high = limits((loss for _, loss in everything), 0.04)

    def x(step: float) -> float:
        return left + (along(step) - x_low) / (x_high - x_low) * (width - left - right)

    def y(loss: float) -> float:
        return height - bottom - (loss - y_low) / (y_high - y_low) * (height - top - bottom)

    def line(points: Sequence[Point], look: str) -> str:
        places = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)
        return f'<polyline points="{places}" {look}/>' if len(points) > 1 else ""

    title = "Loss by training step" if len(runs) > 1 else f"Loss by training step: {printable(runs[0].name)}"
    across, upward = "step (logarithmic)" if log_steps else "step", "loss (nats a token)"
    steps = int(max(step for step, _ in everything))
    about = f"Training loss, raw and smoothed, and validation loss, in nats a token, over {steps:,} steps. "
    about += ". ".join(map(legend_text, runs)) + "."
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        'aria-labelledby="title about">',
        f'<title id="title">{escape(title)}</title><desc id="about">{escape(about)}</desc>',
        f"<style>{_style(len(runs))}</style>",
        f'<rect class="ground" width="{width}" height="{height}"/>',
        f'<text class="heading" x="{left}" y="26">{escape(_short(title, 80))}</text>',
    ]
    for loss in ticks(y_low, y_high, 6):
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(loss):.1f}" y2="{y(loss):.1f}"/>'
        )
        parts.append(
            f'<text class="tick" text-anchor="end" x="{left - 8}" y="{y(loss) + 4:.1f}">{loss:g}</text>'
        )
    for step in step_ticks(min(step for step, _ in everything), steps, log_steps):
        parts.append(
            f'<line class="axis" x1="{x(step):.1f}" x2="{x(step):.1f}" y1="{height - bottom}" y2="{height - bottom + 5}"/>'
        )
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{x(step):.1f}" y="{height - bottom + 20}">{step:,.0f}</text>'
        )
    parts += [
        f'<path class="axis" d="M{left} {top}V{height - bottom}H{width - right}"/>',
        f'<text class="tick" text-anchor="middle" x="{(left + width - right) / 2}" y="{height - 12}">{across}</text>',
        f'<text class="tick" text-anchor="middle" transform="translate(16 {(top + height - bottom) / 2}) rotate(-90)">{upward}</text>',
    ]
    for place, (raw, smooth, validations) in enumerate(curves):
        parts.append(f'<g class="run{place % len(LIGHT)}"><title>{escape(legend_text(runs[place]))}</title>')
        parts.append(line(raw, 'class="raw"'))
        parts.append(line(smooth, f'class="smooth" stroke-dasharray="{DASHES[place % len(DASHES)]}"'))
        parts += [_marker(place, x(step), y(loss)) for step, loss in thinned(validations, 100, along)]
        parts.append("</g>")
    # Falling curves leave room at the upper right; on a logarithmic axis they stay high for long, and the
    # room is at the lower left.
    parts.append(
        _legend(runs, left + 12, height - bottom - 20 * len(runs) - 16)
        if log_steps
        else _legend(runs, None, top + 10, width - right - 12)
    )
    return "\n".join(part for part in [*parts, "</svg>"] if part) + "\n"


def _scale(log_steps: bool) -> Callable[[float], float]:
    """Where a step lies along its axis; step 0 (a validation before the first update) has no logarithm and
    lies at 1.
    """
    return (lambda step: math.log10(max(1.0, step))) if log_steps else float


def _style(count: int) -> str:
    """The style sheet: sizes, then the colours of the light theme, then those of the dark one."""

    def colours(ground: str, ink: str, soft: str, grid: str, palette: Sequence[str]) -> str:
        rules = f".ground{{fill:{ground}}}text{{fill:{ink}}}.tick{{fill:{soft}}}.grid{{stroke:{grid}}}.axis{{stroke:{soft}}}"
        runs = enumerate(palette[:count])
        return rules + "".join(f".run{i} *{{stroke:{c}}}.run{i} .point{{fill:{ground}}}" for i, c in runs)

    sizes = (
        "text{font:12px system-ui,sans-serif}.heading{font-size:15px;font-weight:600}.grid,.axis{fill:none;stroke-width:1}"
        ".raw,.smooth{fill:none;stroke-linejoin:round}.raw{stroke-width:1;opacity:.28}.smooth,.point{stroke-width:2}.box{opacity:.85}"
    )
    light = colours("#ffffff", "#1b1f24", "#57606a", "#e4e8ec", LIGHT)
    dark = colours("#14181d", "#e6edf3", "#9aa6b2", "#2b323a", DARK)
    return f"{sizes}{light}@media(prefers-color-scheme:dark){{{dark}}}"


def _marker(place: int, x: float, y: float) -> str:
    """A point of a validation: a circle, a square, a diamond or a triangle."""
    shapes = (
        f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>',
        f'<path class="point" d="M{x - 3.5:.1f} {y - 3.5:.1f}h7v7h-7z"/>',
        f'<path class="point" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5-5z"/>',
        f'<path class="point" d="M{x:.1f} {y - 5:.1f}l4.5 8h-9z"/>',
    )
    return shapes[place % len(shapes)]


def _legend(runs: Sequence[Run], left: float | None, top: float, right: float = 0.0) -> str:
    """A box that begins at `left` or ends at `right`: a line, a point and the name of each run."""
    from html import escape

    texts = [_short(legend_text(run), 64) for run in runs]
    width = 64 + 6.6 * max(map(len, texts))
    left = right - width if left is None else left
    parts = [
        f'<rect class="ground box" x="{left:.0f}" y="{top - 6}" width="{width:.0f}" height="{20 * len(runs) + 12}" rx="4"/>'
    ]
    for place, text in enumerate(texts):
        y = top + 10 + 20 * place
        dash = DASHES[place % len(DASHES)]
        parts.append(
            f'<g class="run{place % len(LIGHT)}"><path class="smooth" stroke-dasharray="{dash}" d="M{left + 10:.0f} {y}h34"/>'
        )
        parts.append(_marker(place, left + 27, y) if runs[place].validations else "")
        parts.append(f'</g><text x="{left + 54:.0f}" y="{y + 4}">{escape(text)}</text>')
    return "".join(parts)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - 1 - most // 2) :]}"


def table(runs: Sequence[Run]) -> Iterator[str]:
    """Yields the lines of a table for other programs: a row a step, the training and the validation loss of
    each run, `-` for none.
    """
    names = [f"run{place + 1}." if len(runs) > 1 else "" for place in range(len(runs))]
    columns = [dict(points) for run in runs for points in (run.losses, run.validations)]
    headings = [f"{name}{kind}" for name in names for kind in ("loss", "val_loss")]
    widths = [max(10, len(heading)) for heading in headings]
    yield f"{'step':>8}" + "".join(
        f"  {heading:>{width}}" for heading, width in zip(headings, widths, strict=True)
    )
    for step in sorted(set().union(*columns)):
        values = [f"{column[step]:.6g}" if step in column else "-" for column in columns]
        yield f"{step:>8.0f}" + "".join(
            f"  {value:>{width}}" for value, width in zip(values, widths, strict=True)
        )


def chart(
    runs: Sequence[Run],
    columns: int,
    rows: int,
    *,
    colour: bool = False,
    unicode: bool = True,
    log_steps: bool = False,
    last_step: int | None = None,
) -> list[str]:
    """Returns loss curves as lines of text: smoothed training losses in dots of Braille, eight to a
    character, validations as marks.

    Args:
        runs: at least one with a loss in it.
        columns, rows: of characters, axes included: at least 24 by 4.
        colour: whether to colour each run (ANSI escape sequences).
        unicode: whether Braille can be shown; otherwise stars stand where dots were.
        log_steps: whether the axis of steps is logarithmic.
        last_step: where the axis of steps ends, for a run that is going on.
    """
    curves = [(smoothed(run.losses), run.validations) for run in runs]
    points = [point for both in curves for part in both for point in part]
    along, steps = (
        _scale(log_steps),
        [step for step, _ in points] + ([] if last_step is None else [float(last_step)]),
    )
    x_low, x_high = limits(map(along, steps))
    y_low, y_high = limits(loss for _, loss in points)
    height = rows - 2
    named = {0: y_high, height - 1: y_low} | (
        {height // 2: y_high - (y_high - y_low) * (height // 2) / (height - 1)} if height > 4 else {}
    )
    labels = {row: f"{loss:.3g}" for row, loss in named.items()}
    label_width = max(map(len, labels.values()))
    width = columns - label_width - 2
    cells: dict[tuple[int, int], tuple[str, int]] = {}  # row and column -> character, run

    def dot(step: float, loss: float) -> tuple[int, int]:
        across = (along(step) - x_low) / (x_high - x_low) * (2 * width - 1)
        return round(across), round((y_high - loss) / (y_high - y_low) * (4 * height - 1))

    for place, (curve, validations) in enumerate(curves):
        bits: dict[tuple[int, int], int] = {}
        previous: tuple[int, int] | None = None
        for point in thinned(curve, 4 * width, along):
            x, y = dot(*point)
            for column, row in _between(previous or (x, y), (x, y)):
                cell = (row // 4, column // 2)
                bits[cell] = bits.get(cell, 0) | _BRAILLE[row % 4][column % 2]
            previous = (x, y)
        cells |= {cell: (chr(0x2800 + bit) if unicode else "*", place) for cell, bit in bits.items()}
        mark = ("●■◆▲" if unicode else "osdv")[place % 4]
        for point in validations:
            x, y = dot(*point)
            cells[y // 4, x // 2] = (mark, place)
    vertical, corner, across = ("│", "└", "─") if unicode else ("|", "+", "-")
    lines = []
    for row in range(height):
        drawn = [cells.get((row, column), (" ", -1)) for column in range(width)]
        text = _coloured(drawn) if colour else "".join(character for character, _ in drawn).rstrip()
        lines.append(f"{labels.get(row, ''):>{label_width}} {vertical}{text}")
    lines.append(f"{'':>{label_width}} {corner}{across * width}")
    start, end = f"{min(steps):,.0f}", f"step {max(steps):,.0f}"
    start = start if len(start) + len(end) < width else ""
    lines.append(f"{'':>{label_width}}  {start}{end:>{width - len(start)}}"[:columns])
    return lines


# Unicode 16.0, chapter 21.1: bits of the dots, by row and column
_BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def _between(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """The dots of a line, both ends included."""
    count = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [
        (start[0] + round((end[0] - start[0]) * i / count), start[1] + round((end[1] - start[1]) * i / count))
        for i in range(count + 1)
    ]


def _coloured(cells: Sequence[tuple[str, int]]) -> str:
    """A row of characters with the colour of each run, changed only where the run does."""
    text, current = "", -1
    for character, place in cells:
        if character != " " and place != current:
            text, current = f"{text}\x1b[{ANSI[place % len(ANSI)]}m", place
        text += character
    return text.rstrip() + ("\x1b[0m" if current >= 0 else "")


def keys(runs: Sequence[Run], *, colour: bool = False, unicode: bool = True) -> list[str]:
    """Returns a line a run for below a chart: its mark, its name and its last losses."""
    marks = "●■◆▲" if unicode else "osdv"
    lines = [f"{marks[place % 4]} {legend_text(run)}" for place, run in enumerate(runs)]
    return (
        [f"\x1b[{ANSI[place % len(ANSI)]}m{line}\x1b[0m" for place, line in enumerate(lines)]
        if colour
        else lines
    )


def abilities(stream: Any) -> dict[str, bool]:
    """Returns whether a stream can show colour (a terminal, unless NO_COLOR is set; see no-color.org) and
    Braille (by its encoding).
    """
    try:
        "⣿●".encode(getattr(stream, "encoding", None) or "ascii")
        unicode = True
    except (UnicodeError, LookupError):
        unicode = False
    return {
        "colour": stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        "unicode": unicode,
    }
