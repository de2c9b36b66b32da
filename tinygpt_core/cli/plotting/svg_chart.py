"""Loss curves as a drawing: a file of SVG that a browser shows, in a light or a dark theme."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from ...printable import replace_unprintable
from .axes import limits, step_scale, step_ticks, ticks
from .curves import BINS, Point, Run, legend_text, rungs_of, smoothed, thinned

# One colour a run: with a contrast of at least 4.5 to the ground of its theme, and apart for the colour-blind
# (dashes tell them apart too).
LIGHT = ("#0b62a8", "#b3420b", "#14713d", "#8e3fa8", "#7a5b00", "#0b6e78")
DARK = ("#74b8f5", "#f59a64", "#6fd39c", "#d9a5ef", "#e2b93f", "#62cdd6")
DASHES = ("", "8 3", "2 3", "10 3 2 3", "5 2", "1 2")
MOST_MARKS = 100  # of the validations of a run

# Widths of what surrounds the curves, in CSS pixels
LEFT = 64
RIGHT = 28
TOP = 44
BOTTOM = 52
LINE_HEIGHT = 20  # of the legend


class _Frame(NamedTuple):
    """Where the curves are drawn, and what lies at its edges."""

    width: int
    height: int
    along: Callable[[float], float]  # where a step lies along the axis, from x_low to x_high
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @property
    def right(self) -> int:
        return self.width - RIGHT

    @property
    def bottom(self) -> int:
        return self.height - BOTTOM

    def x(self, step: float) -> float:
        """Returns how far from the left a step is."""
        share = (self.along(step) - self.x_low) / (self.x_high - self.x_low)
        return LEFT + share * (self.width - LEFT - RIGHT)

    def y(self, loss: float) -> float:
        """Returns how far from the top a loss is."""
        share = (loss - self.y_low) / (self.y_high - self.y_low)
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)


def svg(runs: Sequence[Run], width: int = 840, height: int = 460, *, log_steps: bool = False) -> str:
    """Returns the loss curves of runs as an SVG document that needs nothing else: axes, legend, a title and a
    description to be read aloud.

    It follows the reader's choice of a light or dark theme (`prefers-color-scheme`).

    Args:
        runs: at least one.
        width, height: in CSS pixels; the drawing scales.
        log_steps: whether the axis of steps is logarithmic, which shows the beginning.

    Source: Scalable Vector Graphics 2, https://www.w3.org/TR/SVG2; accessible names by `title`, `desc` and
    `aria-labelledby`.
    """
    along = step_scale(log_steps)
    smooth_curves = [thinned(smoothed(run.losses), BINS, along) for run in runs]
    everything: list[Point] = []
    for run, smooth in zip(runs, smooth_curves, strict=True):
        everything += [*smooth, *run.losses, *run.validations]
    x_low, x_high = limits(along(step) for step, _ in everything)
    rungs = rungs_of(runs)
    y_low, y_high = limits([*(loss for _, loss in everything), *rungs.values()], 0.04)
    frame = _Frame(width, height, along, x_low, x_high, y_low, y_high)
    first_step = min(step for step, _ in everything)
    last_step = int(max(step for step, _ in everything))

    parts = _head(runs, frame, last_step)
    for loss in ticks(y_low, y_high, 6):
        parts += _loss_tick(frame, loss)
    for step in step_ticks(first_step, last_step, log_steps):
        parts += _step_tick(frame, step)
    for name, nats in rungs.items():
        parts += _rung(frame, name, nats)
    parts += _axes(frame, "step (logarithmic)" if log_steps else "step", "loss (nats a token)")
    for place, (run, smooth) in enumerate(zip(runs, smooth_curves, strict=True)):
        parts += _curve(frame, place, run, smooth)
    # Falling curves leave room at the upper right; on a logarithmic axis they stay high for long, and the
    # room is at the lower left.
    if log_steps:
        parts.append(_legend(runs, LEFT + 12, frame.bottom - LINE_HEIGHT * len(runs) - 16))
    else:
        parts.append(_legend(runs, None, TOP + 10, frame.right - 12))
    parts.append("</svg>")
    return "\n".join(part for part in parts if part) + "\n"


def rates_svg(
    losses: Sequence[Point], smooth: Sequence[Point], best: float, width: int = 840, height: int = 460
) -> str:
    """Returns the losses at rising learning rates as an SVG document, in the manner of `svg`.

    Args:
        losses: rates and losses, at least two, the rates above 0 and rising.
        smooth: the same, smoothed.
        best: the rate to mark.
        width, height: in CSS pixels; the drawing scales.
    """
    x_low, x_high = limits(math.log10(rate) for rate, _ in losses)
    y_low, y_high = limits((loss for _, loss in [*losses, *smooth]), 0.04)
    frame = _Frame(width, height, math.log10, x_low, x_high, y_low, y_high)
    about = f"Training loss, raw and smoothed, in nats a token, at learning rates from {losses[0][0]:.2g} to "
    about += f"{losses[-1][0]:.2g}. It falls fastest at {best:.2g}."
    parts = _title("Loss by learning rate", about, frame, 1)
    for loss in ticks(y_low, y_high, 6):
        parts += _loss_tick(frame, loss)
    for power in range(math.ceil(x_low - 1e-9), math.floor(x_high + 1e-9) + 1):
        parts += _step_tick(frame, 10.0**power, f"{10.0**power:g}")
    parts += _axes(frame, "learning rate (logarithmic)", "loss (nats a token)")
    x = frame.x(best)
    parts += [
        '<g class="run0">',
        _line(frame, losses, 'class="raw"'),
        _line(frame, smooth, 'class="smooth"'),
        "</g>",
        f'<line class="rung" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{frame.bottom}"/>',
        f'<text class="tick" x="{x + 4:.1f}" y="{TOP + 12}">falls fastest: {best:.2g}</text>',
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _head(runs: Sequence[Run], frame: _Frame, last_step: int) -> list[str]:
    """Returns what comes first in a drawing of runs."""
    title = "Loss by training step"
    if len(runs) == 1:
        title += f": {replace_unprintable(runs[0].name)}"
    about = (
        "Training loss, raw and smoothed, and validation loss, in nats a token, "
        f"over {last_step:,} steps. {'. '.join(map(legend_text, runs))}."
    )
    return _title(title, about, frame, len(runs))


def _title(title: str, about: str, frame: _Frame, num_runs: int) -> list[str]:
    """Returns the beginning of a drawing: what it is, in words, its style, its ground and its heading."""
    width = frame.width
    height = frame.height
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-labelledby="title about">',
        f'<title id="title">{escape(title)}</title><desc id="about">{escape(about)}</desc>',
        f"<style>{_style(num_runs)}</style>",
        f'<rect class="ground" width="{width}" height="{height}"/>',
        f'<text class="heading" x="{LEFT}" y="26">{escape(_shortened(title, 80))}</text>',
    ]


def _loss_tick(frame: _Frame, loss: float) -> list[str]:
    """Returns a line across the drawing, and its loss to the left of it."""
    y = frame.y(loss)
    return [
        f'<line class="grid" x1="{LEFT}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>',
        f'<text class="tick" text-anchor="end" x="{LEFT - 8}" y="{y + 4:.1f}">{loss:g}</text>',
    ]


def _rung(frame: _Frame, name: str, nats: float) -> list[str]:
    """Returns a dashed line across the drawing where something else than the model is, with its name."""
    y = frame.y(nats)
    words = escape(f"{name} {nats:.3f}")
    return [
        f'<line class="rung" x1="{LEFT}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>',
        f'<text class="tick" x="{LEFT + 6}" y="{y - 3:.1f}">{words}</text>',
    ]


def _step_tick(frame: _Frame, step: float, text: str | None = None) -> list[str]:
    """Returns a short line below the axis of steps, and its step below that, or the text for it."""
    x = frame.x(step)
    y = frame.bottom
    return [
        f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 5}"/>',
        f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{y + 20}">{text or f"{step:,.0f}"}</text>',
    ]


def _axes(frame: _Frame, across: str, upward: str) -> list[str]:
    """Returns the two axes and what they are called."""
    middle_x = (LEFT + frame.right) / 2
    middle_y = (TOP + frame.bottom) / 2
    turned = f'transform="translate(16 {middle_y}) rotate(-90)"'
    return [
        f'<path class="axis" d="M{LEFT} {TOP}V{frame.bottom}H{frame.right}"/>',
        f'<text class="tick" text-anchor="middle" x="{middle_x}" y="{frame.height - 12}">{across}</text>',
        f'<text class="tick" text-anchor="middle" {turned}>{upward}</text>',
    ]


def _curve(frame: _Frame, place: int, run: Run, smooth: Sequence[Point]) -> list[str]:
    """Returns the curves of a run, raw and smooth, and a mark for each validation."""
    raw = thinned(run.losses, BINS, frame.along)
    dash = DASHES[place % len(DASHES)]
    return [
        f'<g class="run{place % len(LIGHT)}"><title>{escape(legend_text(run))}</title>',
        _line(frame, raw, 'class="raw"'),
        _line(frame, smooth, f'class="smooth" stroke-dasharray="{dash}"'),
        *(
            _mark(place, frame.x(step), frame.y(loss))
            for step, loss in thinned(run.validations, MOST_MARKS, frame.along)
        ),
        "</g>",
    ]


def _line(frame: _Frame, points: Sequence[Point], attributes: str) -> str:
    """Returns a line through points; nothing where there is one only."""
    if len(points) < 2:
        return ""
    places = " ".join(f"{frame.x(step):.1f},{frame.y(loss):.1f}" for step, loss in points)
    return f'<polyline points="{places}" {attributes}/>'


def _mark(place: int, x: float, y: float) -> str:
    """Returns the point of a validation: a circle, a square, a diamond or a triangle."""
    shapes = (
        f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>',
        f'<path class="point" d="M{x - 3.5:.1f} {y - 3.5:.1f}h7v7h-7z"/>',
        f'<path class="point" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5-5z"/>',
        f'<path class="point" d="M{x:.1f} {y - 5:.1f}l4.5 8h-9z"/>',
    )
    return shapes[place % len(shapes)]


def _legend(runs: Sequence[Run], left: float | None, top: float, right: float = 0.0) -> str:
    """Returns a box that begins at `left` or ends at `right`: a line, a point and the name of each run."""
    texts = [_shortened(legend_text(run), 64) for run in runs]
    width = 64 + 6.6 * max(map(len, texts))
    height = LINE_HEIGHT * len(runs) + 12
    if left is None:
        left = right - width
    parts = [
        f'<rect class="ground box" x="{left:.0f}" y="{top - 6}" '
        f'width="{width:.0f}" height="{height}" rx="4"/>'
    ]
    for place, (run, text) in enumerate(zip(runs, texts, strict=True)):
        y = top + 10 + LINE_HEIGHT * place
        dash = DASHES[place % len(DASHES)]
        parts.append(f'<g class="run{place % len(LIGHT)}">')
        parts.append(f'<path class="smooth" stroke-dasharray="{dash}" d="M{left + 10:.0f} {y}h34"/>')
        if run.validations:
            parts.append(_mark(place, left + 27, y))
        parts.append(f'</g><text x="{left + 54:.0f}" y="{y + 4}">{escape(text)}</text>')
    return "".join(parts)


def _style(count: int) -> str:
    """Returns the style sheet: sizes, then the colours of the light theme, then those of the dark one."""
    sizes = (
        "text{font:12px system-ui,sans-serif}"
        ".heading{font-size:15px;font-weight:600}"
        ".grid,.axis{fill:none;stroke-width:1}"
        ".rung{stroke-width:1;stroke-dasharray:2 4}"
        ".raw,.smooth{fill:none;stroke-linejoin:round}"
        ".raw{stroke-width:1;opacity:.28}"
        ".smooth,.point{stroke-width:2}"
        ".box{opacity:.85}"
    )
    light = _colours("#ffffff", "#1b1f24", "#57606a", "#e4e8ec", LIGHT[:count])
    dark = _colours("#14181d", "#e6edf3", "#9aa6b2", "#2b323a", DARK[:count])
    return f"{sizes}{light}@media(prefers-color-scheme:dark){{{dark}}}"


def _colours(ground: str, ink: str, soft: str, grid: str, palette: Sequence[str]) -> str:
    """Returns the rules of a theme: its ground, its text, what stands back, and a colour for each run."""
    rules = [
        f".ground{{fill:{ground}}}",
        f"text{{fill:{ink}}}",
        f".tick{{fill:{soft}}}",
        f".grid{{stroke:{grid}}}",
        f".axis,.rung{{stroke:{soft}}}",
    ]
    for place, colour in enumerate(palette):
        rules.append(f".run{place} *{{stroke:{colour}}}")
        rules.append(f".run{place} .point{{fill:{ground}}}")
    return "".join(rules)


def _shortened(text: str, most: int) -> str:
    """Returns a text of at most so many characters; of a longer one the middle is left out."""
    if len(text) <= most:
        return text
    head = most // 2
    tail = most - 1 - head
    return f"{text[:head]}…{text[len(text) - tail :]}"
