"""What stands on a terminal while a model trains, and that a pipe gets none of it. Real processes on real
pseudo-terminals.
"""

from __future__ import annotations

import io
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from terminal import run_on_terminal

from tinygpt_core.cli import progress
from tinygpt_core.training import StepEvent, ValidationEvent

ROOT = Path(__file__).resolve().parent.parent
WORDS = "".join(
    f"{a}{b}\n" for a in ("get", "set", "is", "has") for b in ("name", "size", "path", "kind", "text")
)
TINY = [
    "--layers",
    "1",
    "--heads",
    "1",
    "--embedding-dim",
    "4",
    "--context-length",
    "8",
    "--batch-size",
    "2",
    "--eval-every",
    "20",
    "--eval-batches",
    "1",
    "--backend",
    "python",
]


def on_terminal(
    directory: Path, *arguments: str, columns: int = 80, rows: int = 24, term: str = "xterm"
) -> bytes:
    """What `tinygpt train` writes to a terminal of that size."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("TINYGPT_", "PYTHON", "COV_", "COLUMNS", "LINES"))
    }
    environment = kept | {
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
        "TERM": term,
    }
    return run_on_terminal(
        [sys.executable, "-S", "-m", "tinygpt_core", "train", *arguments],
        directory,
        environment,
        columns,
        rows,
    )


def screen(written: bytes, columns: int) -> list[str]:
    """What a terminal of that width shows in the end, above the samples."""
    pyte = pytest.importorskip("pyte", reason="pyte, a terminal in Python, is in the extra `test`")
    shown = pyte.Screen(columns, 100)
    pyte.ByteStream(shown).feed(written)
    lines = [line.rstrip() for line in shown.display]
    return lines[: next(i for i, line in enumerate(lines) if "20 samples" in line)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text(WORDS)
    return tmp_path


def test_a_terminal_shows_the_curve_and_one_line_in_place(place: Path) -> None:
    written = on_terminal(place, "names", "--data", "words.txt", "--out", "run", "--steps", "60", *TINY)
    lines = screen(written, 80)
    axis = [i for i, line in enumerate(lines) if "└" in line]
    header = next(i for i, line in enumerate(lines) if "│" in line)
    assert len(axis) == 1 and sum("│" in line for line in lines) == axis[0] - header == progress.ROWS - 2
    assert header == 6
    assert re.fullmatch(r" +1 +step 60", lines[axis[0] + 1])
    assert re.fullmatch(
        r"step +60/60  mean loss \d\.\d+  [\d,]+ tokens/s  0:00 left  validation \d\.\d+", lines[axis[0] + 2]
    )
    assert sum(line.count("●") for line in lines) in (1, 2, 3), "validations are marked"
    assert any("\u2800" <= c <= "\u28ff" for line in lines for c in line)
    assert lines[axis[0] + 3 :] == [""] and b"\x1b[3" in written, (
        "nothing else is left, and there are colours"
    )


def test_a_resumed_run_shows_its_earlier_losses(place: Path) -> None:
    on_terminal(place, "names", "--data", "words.txt", "--out", "run", "--steps", "40", *TINY)
    lines = screen(on_terminal(place, "--resume", "run", "--steps", "60"), 80)
    (axis,) = (i for i, line in enumerate(lines) if "└" in line)
    assert re.fullmatch(r" +1 +step 60", lines[axis + 1]) and sum(line.count("●") for line in lines) >= 2
    width = len(lines[axis]) - lines[axis].index("└") - 1
    first = min(line.index(c) for line in lines for c in line if "\u2800" < c <= "\u28ff")
    assert first < 8 and width > 60, "the curve begins at step 1"


@pytest.mark.parametrize(("columns", "rows"), [(30, 24), (80, 8)])
def test_where_there_is_no_room_a_line_is_enough(place: Path, columns: int, rows: int) -> None:
    written = on_terminal(
        place,
        "names",
        "--data",
        "words.txt",
        "--out",
        "run",
        "--steps",
        "30",
        *TINY,
        columns=columns,
        rows=rows,
    )
    assert "└".encode() not in written
    assert re.search(rb"\rstep +30/30  mean loss \d\.", written) and b"\x1b[K" in written
    assert all(len(line) < columns for line in screen(written, columns) if line.startswith("step"))


def test_a_dumb_terminal_gets_plain_lines(place: Path) -> None:
    written = on_terminal(
        place, "names", "--data", "words.txt", "--out", "run", "--steps", "30", *TINY, term="dumb"
    )
    assert b"\x1b" not in written and re.search(
        rb"\nstep +30/30  mean loss \d\.\d+  [\d,]+ tokens/s", written
    )


def test_quiet_draws_nothing(place: Path) -> None:
    written = on_terminal(
        place, "names", "--data", "words.txt", "--out", "run", "--steps", "30", "--quiet", *TINY
    )
    assert b"\x1b" not in written and b"tokens/s" not in written


# ---- without a process


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def shown_by(
    monkeypatch: pytest.MonkeyPatch, events: list[Any], sizes: Any, total: int = 100
) -> tuple[progress.Progress, Terminal]:
    """A Progress that was shown events, one a second, on a terminal whose size is what `sizes` gives for
    their number.
    """
    clock = iter(range(10**9))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock) * 1.0)
    monkeypatch.setattr(progress, "abilities", lambda stream: {"colour": True, "unicode": True})
    monkeypatch.setenv("TERM", "xterm")
    stream, trainer = (
        Terminal(),
        SimpleNamespace(step=0, config=SimpleNamespace(steps=total, time_budget=0.0), directory="nowhere"),
    )
    shown = progress.Progress(stream, trainer)  # type: ignore[arg-type]
    for number, event in enumerate(events):
        monkeypatch.setattr(
            progress.shutil, "get_terminal_size", lambda number=number: os.terminal_size(sizes(number))
        )
        shown.show(event)
    return shown, stream


def step(number: int, loss: float = 1.0) -> StepEvent:
    return StepEvent(number, loss, 0.1, 8, 0.1)


def test_a_terminal_that_becomes_narrower_is_drawn_over_where_its_lines_have_wrapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = [step(number, 3.0 / number) for number in range(1, 9)]
    shown, stream = shown_by(monkeypatch, events, lambda number: (100, 30) if number < 7 else (60, 30))
    up = [int(found) for found in re.findall(r"\x1b\[(\d+)A", stream.getvalue())]
    # The axis is longer than 60 characters and has wrapped, and so has the line of steps below it; the
    # curve's lines may have, too.
    assert up[:-1] == [progress.ROWS] * len(up[:-1]) and up[-1] >= progress.ROWS + 2
    assert all(len(progress.ESCAPES.sub("", line)) < 60 for line in shown.drawn)


def test_the_curve_of_a_long_run_stays_small_and_keeps_its_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 3 * progress.MOST_POINTS
    shown, _ = shown_by(
        monkeypatch,
        [step(number, number / count) for number in range(1, count + 1)],
        lambda number: (30, 5),
        count,
    )
    points = shown.run.losses
    assert len(points) <= progress.MOST_POINTS and points == sorted(points) and points[-1][0] == count
    assert sum(loss for _, loss in points) / len(points) == pytest.approx((count + 1) / (2 * count))


def test_the_last_validation_is_in_the_picture_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [*(step(number, 3.0 / number) for number in range(1, 6)), ValidationEvent(5, 2.0)]
    shown, stream = shown_by(monkeypatch, events, lambda number: (80, 24), total=5)
    before = stream.getvalue().count("●")
    shown.end()
    assert before == 0 and stream.getvalue().count("●") == 1 and stream.getvalue().endswith("\n")
    assert "validation 2.0000" in stream.getvalue().rsplit("\x1b[J", 1)[1]


def test_the_smoothed_loss_begins_at_the_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean of the losses so far, in which later ones count more; not one that lags behind from 0 or from
    the first.
    """
    losses = [4.0, 3.0, 2.0, 2.0]
    events = [step(1 + i, loss) for i, loss in enumerate(losses)]
    _, stream = shown_by(monkeypatch, events, lambda number: (120, 30), total=4)
    shares = [0.95 ** (3 - i) for i in range(4)]
    expected = sum(share * loss for share, loss in zip(shares, losses, strict=True)) / sum(shares)
    assert f"mean loss {expected:.4f}" in stream.getvalue()


def test_skipped_steps_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [step(1), step(2)._replace(skipped=True)]
    _, stream = shown_by(monkeypatch, events, lambda number: (120, 30), total=2)
    assert "1 step skipped: gradient not finite" in stream.getvalue()


def test_the_time_left_does_not_hang_on_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first step things are made that the others use: it says nothing, and is not counted later."""
    events = [step(number)._replace(seconds=60.0 if number == 1 else 2.0) for number in range(1, 11)]
    shown, _ = shown_by(monkeypatch, events[:1], lambda number: (120, 30))
    assert "tokens/s" in shown.line and "left" not in shown.line
    shown, _ = shown_by(monkeypatch, events, lambda number: (120, 30))
    assert shown.line.endswith("3:00 left")  # 90 steps of 2 s
    shown, _ = shown_by(monkeypatch, events[:1], lambda number: (120, 30), total=1)
    assert shown.line.endswith("0:00 left")


def wait_for(stream: Terminal, text: str) -> None:
    last = time.monotonic() + 60.0
    while text not in stream.getvalue():
        assert time.monotonic() < last, f"no {text!r} in {stream.getvalue()!r}"
        time.sleep(0.001)


def test_a_terminal_says_for_how_long_a_run_is_being_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TOLD_EVERY", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    with progress.preparing(stream):
        wait_for(stream, "preparing")
    *lines, last = stream.getvalue().split("\r")
    assert set(lines) == {"preparing the corpus and the model  0:00\x1b[K"} and last == "\x1b[K"
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    with pytest.raises(ValueError, match="interrupted"), progress.preparing(stream):
        wait_for(stream, "\r")
        raise ValueError("interrupted")
    assert stream.getvalue().startswith("preparing the corpu\x1b[K\r"), "a line that wraps would stay"
    assert stream.getvalue().endswith("\r\x1b[K"), "what is told next begins on an empty line"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["a pipe", "quiet"])
def test_only_a_terminal_hears_of_the_preparation(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    monkeypatch.setattr(progress, "TOLD_EVERY", 0.001)
    with progress.preparing(stream, quiet=stream.isatty()):
        time.sleep(0.05)
    assert stream.getvalue() == ""
