"""What a person sees of a run that goes on: a loss curve and a line on a terminal, plain lines in a pipe.

The loss of one batch jumps about, so the line has their mean: the exponential moving average of the
losses since the run began or was resumed, which the last twenty make two thirds of,

    m_t = 0.95 m_(t-1) + 0.05 loss_t,    mean loss = m_t / (1 - 0.95^t)
"""

from __future__ import annotations

import math
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO

from ..formats.families import why_not_elsewhere
from ..nn.gpt import GPT
from ..printable import replace_unprintable
from ..training.config import describe_sizes, plural
from ..training.events import Event, StepEvent, ValidationEvent
from ..training.loop import Trainer
from .plotting.curves import Point, Run, read_run
from .plotting.terminal_chart import abilities, chart

SMALLEST = (40, 12)  # columns and rows of a terminal that has room for a curve
ROWS = 14  # of the curve, at most
PLAIN_LINES = 20  # of a run, in a pipe
MOST_POINTS = 4096  # of a curve; then neighbours are joined
SHARE = 0.01  # of the time that drawing may take
TOLD_EVERY = 1.0  # seconds, while a run is prepared
KEPT = 0.95  # of a running mean when a loss is added
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@contextmanager
def preparing(stream: TextIO, *, quiet: bool = False) -> Iterator[None]:
    """Returns a context in which a terminal says once a second for how long a run has been prepared, from the
    first second on: to read a corpus, to learn its tokenizer and to draw a model's weights may take minutes.

    Args:
        stream: where to write; nothing is written where it is no terminal.
        quiet: whether to show nothing.
    """
    if quiet or not _can_be_drawn_over(stream):
        yield
        return
    is_over = threading.Event()

    def tell() -> None:
        started = time.monotonic()
        line = ""
        while not is_over.wait(TOLD_EVERY):
            line = f"preparing the corpus and the model  {duration(time.monotonic() - started)}"
            line = line[: shutil.get_terminal_size()[0] - 1]
            # The cursor goes back to the line's beginning, where a warning may overwrite it
            print(f"{line}\x1b[K\r", end="", file=stream, flush=True)
        if line:
            print("\x1b[K", end="", file=stream, flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        is_over.set()
        teller.join()


def _can_be_drawn_over(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class Progress:
    """Shows a run: a curve and a line, drawn in place, on a terminal; about twenty plain lines and the
    validations elsewhere.

    Args:
        stream: where to write.
        trainer: whose `run` is shown; a run that is resumed shows its earlier losses, too.
        quiet: whether to show nothing.
    """

    def __init__(self, stream: TextIO, trainer: Trainer, *, quiet: bool = False) -> None:
        self.stream = stream
        self.trainer = trainer
        self.quiet = quiet
        self.is_live = not quiet and _can_be_drawn_over(stream)
        self.first_step = trainer.step
        self.total = trainer.config.steps
        self.every = max(1, (self.total - self.first_step) // PLAIN_LINES)
        self.budget = trainer.config.time_budget  # in seconds; 0 where steps say when the run ends
        # What the steps so far came to
        self.tokens = 0
        self.seconds = 0.0
        self.first_seconds = 0.0  # of the first step, in which things are made that the others use
        self.loss = 0.0  # the running mean, of which the first losses still lack a share of KEPT ** count
        self.count = 0
        self.skipped = 0
        # What the curve shows: a point stands for `joined` steps, those of the next one are in `part`.
        self.run = Run("", [], [])
        self.joined = 1
        self.part: list[Point] = []
        # What is shown, and since or until when (by the clock of time.monotonic)
        self.line = ""
        self.validation = ""
        self.curve: list[str] = []
        self.shown_at = -1.0
        self.next_curve_at = -1.0
        # The lines on the terminal, the cursor's own being the last, and how large it was
        self.drawn: list[str] = []
        self.size = (0, 0)

    def begin(self) -> None:
        """Says what will be done, and where."""
        if self.quiet:
            return
        data = self.trainer.data
        config = self.trainer.config
        tokens = f"{data.num_tokens:,} tokens of {plural(data.tokenizer.vocab_size, 'kind')}"
        if data.ids_dtype is not None:
            tokens += f", read as {data.ids_dtype}"
        parameters = _count_parameters(self.trainer.model)
        source = f", from {os.path.basename(config.data_file)}" if config.data_file else ""
        self._say(f"corpus     {config.corpus}{source}: {tokens}")
        if data.conversations is not None:
            self._say(f"chat       {data.conversations.describe(config.packing)}")
        self._say(f"model      {parameters}: {describe_sizes(config)}, context {config.context_length}")
        if config.init_from is not None and not self.first_step:
            self._say(f"begins as  {config.init_from}")
        self._say(f"backend    {config.backend}")
        self._say(f"preset     {config.preset}")
        if self.trainer.is_sharded:
            shards = plural(config.shards, "shard")
            self._say(f"processes  {self.trainer.communicator.describe()}; {shards} of a batch")
        self._say(f"directory  {self.trainer.directory}")
        if reasons := why_not_elsewhere(self.trainer.model.config):
            found = "; ".join(reason.partition(", not ")[0] for reason in reasons)
            self._say(f"format     tinygpt's own: {found}")
        if self.budget:
            self._say(f"until      {duration(self.budget)} have passed; the learning rate falls by the clock")
        if self.first_step:
            self._say(f"resuming   after step {self.first_step}{self._of_total(' of ')}")
        if self.first_step == config.steps:
            self._say("           nothing is left to do: --steps N goes on for longer")
        elif self.first_step and self.trainer.has_lost_patience:
            self._say("           it has ended early: --patience N with a larger N goes on for longer")
        if self.first_step and self.is_live:
            self._read_earlier_losses()

    def show(self, event: Event) -> None:
        """Shows one event of `Trainer.run`."""
        if self.quiet:
            return
        if isinstance(event, ValidationEvent):
            self._show_validation(event)
        elif isinstance(event, StepEvent):
            self._show_step(event)
            if event.sample is not None:
                self._show_sample(event.step, event.sample)

    def end(self) -> None:
        """Draws the curve to its end, the last validation with it, and leaves it."""
        if self.drawn:
            self.next_curve_at = -1.0
            self._draw()
        if self.is_live:
            self._say("")

    def _read_earlier_losses(self) -> None:
        with suppress(OSError, ValueError):  # a log that cannot be read is not needed for going on
            before = read_run(self.trainer.directory)
            self.run.validations.extend(before.validations)
            for step, loss in before.losses:
                self._add_point(step, loss)

    def _show_validation(self, event: ValidationEvent) -> None:
        self.validation = f"  validation {event.val_loss:z.4f}"
        self.run.validations.append((event.step, event.val_loss))
        if not self.is_live:
            self._say(f"step {event.step:>6}{self._of_total('/')}  validation loss {event.val_loss:z.4f}")

    def _show_sample(self, step: int, sample: str) -> None:
        """Prints a sample, indented; on a terminal above what was drawn, which is drawn anew."""
        if self.is_live:
            sample = replace_unprintable(sample, keep="\n\t")
        if self.drawn:
            upward = self._rows_above_the_cursor(shutil.get_terminal_size()[0])
            self._say((f"\x1b[{upward}A" if upward > 0 else "") + "\r\x1b[J", end="")
        self.drawn = []
        lines = sample.replace("\n", "\n    ")
        self._say(f"step {step:>6}{self._of_total('/')}  sample\n    {lines}")

    def _of_total(self, before: str) -> str:
        """Returns of how many steps it is one, or nothing where the clock says when the run ends."""
        return "" if self.budget else f"{before}{self.total}"

    def _show_step(self, event: StepEvent) -> None:
        self.tokens += event.tokens
        self.seconds += event.seconds
        self.skipped += bool(event.skipped)
        # One batch's loss jumps about; a running mean shows where it is going. The log has every value.
        self.count += 1
        if self.count == 1:
            self.first_seconds = event.seconds
        self.loss = KEPT * self.loss + (1.0 - KEPT) * event.loss
        self._add_point(event.step, event.loss)
        now = time.monotonic()
        if not self._is_time_to_show(event.step, now - self.shown_at):
            return
        self.shown_at = now
        is_known = self.budget or self.count > 1 or event.step == self.total  # the first step says little
        left = f"  {duration(self._seconds_left(event))} left" if is_known else ""
        speed = f"{self.tokens / self.seconds:,.0f} tokens/s"
        # Divided as in Adam, since it began at 0: otherwise it would be far below the losses at first
        mean = self.loss / (1.0 - KEPT**self.count)
        # On a terminal nothing is padded: four digits of steps and a validation just fit into 80 columns.
        step = f"{event.step}" if self.is_live else f"{event.step:>6}"
        self.line = f"step {step}{self._of_total('/')}  mean loss {mean:z.4f}  {speed}{left}"
        if self.skipped:
            self.line += f"  {plural(self.skipped, 'step')} skipped: gradient not finite"
        if self.is_live:
            self._draw()
        else:
            self._say(self.line)

    def _seconds_left(self, event: StepEvent) -> float:
        """Returns how long the run will go on: to the end of its budget, or as long a step as those behind it
        but the first.
        """
        if self.budget:
            return max(0.0, self.budget - (event.elapsed or 0.0) - event.seconds)
        return (self.total - event.step) * (self.seconds - self.first_seconds) / max(1, self.count - 1)

    def _is_time_to_show(self, step: int, waited: float) -> bool:
        if step == self.total:
            return True
        if self.is_live:
            return waited > 0.1
        if self.budget:
            return waited > self.budget / PLAIN_LINES
        return waited > 30 or step % self.every == 0

    def _add_point(self, step: float, loss: float) -> None:
        """Adds to the curve; where that would grow too long, neighbours become their mean."""
        losses = self.run.losses
        self.part.append((step, loss))
        if len(self.part) >= self.joined:
            losses.append(_mean(self.part))
            self.part = []
        if len(losses) >= MOST_POINTS:
            losses[:] = [_mean(pair) for pair in zip(losses[::2], losses[1::2], strict=True)]
            self.joined *= 2

    def _draw(self) -> None:
        """Draws the line, and the curve above it where there is room and it is time, over what was drawn
        before.
        """
        started = time.monotonic()
        columns, rows = shutil.get_terminal_size()
        if (columns, rows) != self.size:
            self.size = (columns, rows)
            self.next_curve_at = -1.0
        if columns < SMALLEST[0] or rows < SMALLEST[1] or len(self.run.losses) < 2:
            self.curve = []
        elif started >= self.next_curve_at:
            width = min(columns - 1, 120)
            height = min(ROWS, rows - 6)
            self.curve = chart(
                [self.run],
                width,
                height,
                **abilities(self.stream),
                last_step=None if self.budget else self.total,
            )
            ended = time.monotonic()
            self.next_curve_at = ended + max(0.5, (ended - started) / SHARE)
        line = (self.line + self.validation)[: columns - 1]  # one that wraps could not be drawn over
        if self.drawn[:-1] == self.curve:
            self._say(f"\r{line}\x1b[K", end="")
        else:
            upward = self._rows_above_the_cursor(columns)
            up = f"\x1b[{upward}A" if upward > 0 else ""
            self._say(up + "\r\x1b[J" + "\n".join([*self.curve, line]), end="")
        self.drawn = [*self.curve, line]

    def _rows_above_the_cursor(self, columns: int) -> int:
        """Returns how far up what was drawn begins. A terminal that has become narrower has wrapped it."""
        rows = 0
        for text in self.drawn:
            length = len(ESCAPES.sub("", text))
            rows += max(1, math.ceil(length / columns))
        return rows - 1

    def _say(self, text: str, end: str = "\n") -> None:
        print(text, end=end, file=self.stream, flush=True)


def _mean(points: Sequence[Point]) -> Point:
    """Returns one point for several: their mean loss, at the last one's step."""
    last_step, _ = points[-1]
    return last_step, sum(loss for _, loss in points) / len(points)


def _count_parameters(model: GPT) -> str:
    """Returns how many parameters a model has, and how many of them are trained, where that is not all."""
    count = model.num_parameters()
    trained = model.num_parameters(trainable_only=True)
    if model.config.ngram_prior:
        return f"{count:,} parameters and {model.ngram_prior.counting.num_ngrams:,} n-grams"
    if trained == count:
        return f"{count:,} parameters"
    return f"{trained:,} of {count:,} parameters are trained ({trained / count:.2%})"


def duration(seconds: float) -> str:
    """Returns a time as people write it: minutes:seconds, or hours:minutes:seconds."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
