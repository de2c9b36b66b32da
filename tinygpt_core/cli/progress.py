"""What a person sees of a run while it goes on: the loss curve and a line on a terminal, plain lines in a
pipe.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from typing import TextIO

from ..training.config import describe_sizes
from ..training.loop import Event, StepEvent, Trainer, ValidationEvent
from .plotting import Point, Run, abilities, chart, read_run

SMALLEST = (40, 12)  # columns and rows of a terminal that has room for a curve
ROWS = 14  # of the curve, at most
MOST_POINTS = 4096  # of a curve; then neighbours are joined
SHARE = 0.01  # of the time that drawing may take
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class Progress:
    """Shows a run: a curve and a line, drawn in place, on a terminal; about twenty plain lines and the
    validations elsewhere.

    Args:
        stream: where to write.
        trainer: whose `run` is shown; a run that is resumed shows its earlier losses, too.
        quiet: whether to show nothing.
    """

    def __init__(self, stream: TextIO, trainer: Trainer, *, quiet: bool = False) -> None:
        self.stream, self.trainer, self.quiet = stream, trainer, quiet
        self.is_live = stream.isatty() and not quiet and os.environ.get("TERM") != "dumb"
        self.first_step, self.total = trainer.step, trainer.config.steps
        self.every = max(1, (self.total - self.first_step) // 20)
        self.tokens, self.seconds, self.loss = 0, 0.0, float("nan")
        self.validation = ""
        self.shown_at = self.curve_at = -1.0
        # What the curve shows, and how many steps a point of it stands for
        self.run, self.joined = Run("", [], []), 1
        self.part: list[Point] = []  # the steps of the next point
        self.line, self.curve = "", list[str]()
        # The lines on the terminal, the cursor's own being the last, and how large it was
        self.drawn, self.size = list[str](), (0, 0)

    def begin(self) -> None:
        """Says what will be done, and where."""
        if self.quiet:
            return
        data, config = self.trainer.data, self.trainer.config
        sizes = f"{describe_sizes(config)}, context {config.context_length}"
        self._say(
            f"corpus     {config.corpus}: {data.num_tokens:,} tokens of {data.tokenizer.vocab_size} kinds"
        )
        self._say(f"model      {self.trainer.model.num_parameters():,} parameters: {sizes}")
        self._say(f"backend    {config.backend}")
        self._say(f"directory  {self.trainer.directory}")
        if self.first_step:
            self._say(f"resuming   after step {self.first_step} of {self.total}")
            with suppress(OSError, ValueError):  # a log that cannot be read is not needed for going on
                before = read_run(self.trainer.directory) if self.is_live else self.run
                self.run.validations.extend(before.validations)
                for step, loss in before.losses:
                    self._add(step, loss)

    def show(self, event: Event) -> None:
        """Shows one event of `Trainer.run`."""
        if isinstance(event, ValidationEvent) and not self.quiet:
            self.validation = f"  validation loss {event.val_loss:z.4f}"
            self.run.validations.append((event.step, event.val_loss))
            if not self.is_live:
                self._say(f"step {event.step:>6}/{self.total}{self.validation}")
        if not isinstance(event, StepEvent) or self.quiet:
            return
        self.tokens += event.tokens
        self.seconds += event.seconds
        # One batch's loss jumps about; a running mean shows where it is going. The log has every value.
        self.loss = event.loss if self.loss != self.loss else 0.95 * self.loss + 0.05 * event.loss
        self._add(event.step, event.loss)
        waited = time.monotonic() - self.shown_at
        if event.step == self.total or (
            waited > 0.1 if self.is_live else waited > 30 or event.step % self.every == 0
        ):
            self.shown_at += waited
            left = duration((self.total - event.step) * self.seconds / (event.step - self.first_step))
            speed = f"{self.tokens / self.seconds:,.0f} tokens/s"
            self.line = f"step {event.step:>6}/{self.total}  loss {self.loss:z.4f}  {speed}  {left} left"
            if self.is_live:
                self._draw()
            else:
                self._say(self.line)

    def end(self) -> None:
        """Draws the curve to its end, the last validation with it, and leaves it."""
        if self.drawn:
            self.curve_at = -1.0
            self._draw()
        if self.is_live:
            self._say("")

    def _add(self, step: float, loss: float) -> None:
        """Adds to the curve; where that would grow too long, neighbours become their mean."""
        self.part.append((step, loss))
        if len(self.part) >= self.joined:
            self.run.losses.append(_mean(self.part))
            self.part = []
        if len(self.run.losses) >= MOST_POINTS:
            self.run.losses[:] = [
                _mean(pair) for pair in zip(self.run.losses[::2], self.run.losses[1::2], strict=True)
            ]
            self.joined *= 2

    def _draw(self) -> None:
        """Draws the line, and the curve above it where there is room and it is time, over what was drawn
        before.
        """
        (columns, rows), now = shutil.get_terminal_size(), time.monotonic()
        if (columns, rows) != self.size:
            self.size, self.curve_at = (columns, rows), -1.0
        if columns < SMALLEST[0] or rows < SMALLEST[1] or len(self.run.losses) < 2:
            self.curve = []
        elif now >= self.curve_at:
            size = min(columns - 1, 120), min(ROWS, rows - 6)
            self.curve = chart([self.run], *size, **abilities(self.stream), last_step=self.total)
            self.curve_at = time.monotonic() + max(0.5, (time.monotonic() - now) / SHARE)
        # A line that wraps could not be drawn over
        lines = [*self.curve, (self.line + self.validation)[: columns - 1]]
        if self.drawn[:-1] == self.curve:
            self._say(f"\r{lines[-1]}\x1b[K", end="")
        else:
            # A terminal that has become narrower has wrapped the lines that stand there.
            above = sum(max(1, -(-len(ESCAPES.sub("", text)) // columns)) for text in self.drawn) - 1
            self._say((f"\x1b[{above}A" if above > 0 else "") + "\r\x1b[J" + "\n".join(lines), end="")
        self.drawn = lines

    def _say(self, text: str, end: str = "\n") -> None:
        print(text, end=end, file=self.stream, flush=True)


def _mean(points: list[Point] | tuple[Point, ...]) -> Point:
    return points[-1][0], sum(loss for _, loss in points) / len(points)


def duration(seconds: float) -> str:
    """Returns a time as people write it: minutes:seconds, or hours:minutes:seconds."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
