"""Loss curves: what is read from a log, what the SVG says, what a terminal and what a pipe gets."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal import run_on_terminal

from tinygpt_core.cli.plotting import (
    DARK,
    LIGHT,
    Run,
    chart,
    keys,
    read_run,
    smoothed,
    step_ticks,
    svg,
    table,
    thinned,
    ticks,
)
from tinygpt_core.printable import replace_unprintable

ROOT = Path(__file__).resolve().parent.parent
SVG = "{http://www.w3.org/2000/svg}"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
LOSSES = st.floats(-1e30, 1e30)
POINTS = st.dictionaries(st.integers(0, 10**6), LOSSES, min_size=1, max_size=30).map(
    lambda d: sorted(d.items())
)
RUNS = st.lists(st.builds(Run, st.text(max_size=20), POINTS, st.just([]) | POINTS), min_size=1, max_size=8)


def environment(**more: str) -> dict[str, str]:
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("TINYGPT_", "PYTHON", "COV_"))
    }
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | more


def plot(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", "-m", "tinygpt_core", "plot", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, encoding="utf-8", timeout=60
    )


def write_run(directory: Path, losses: list[float], validations: dict[int, float] | None = None) -> Path:
    directory.mkdir()
    with open(directory / "log.jsonl", "w", encoding="utf-8") as log:
        for step, loss in enumerate(losses, 1):
            print(
                json.dumps({"step": step, "loss": loss, "learning_rate": 0.1, "tokens": 8, "seconds": 0.1}),
                file=log,
            )
            if step in (validations or {}):
                print(json.dumps({"step": step, "val_loss": validations[step]}), file=log)
    return directory


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    first = [1 + 3 * math.exp(-step / 40) + 0.1 * math.sin(7 * step) for step in range(1, 301)]
    return (
        write_run(tmp_path / "first", first, {100: 1.4, 200: 1.2, 300: 1.1}),
        write_run(tmp_path / "second & <b>", [x + 0.5 for x in first[:150]], {100: 2.0}),
    )


# ---- arithmetic


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300))
def test_a_smoothed_loss_is_a_weighted_mean_of_those_so_far(losses: list[float]) -> None:
    """Against the sum itself: weights b^(t-i), normalized."""
    keep = 1 - 1 / max(1, len(losses) / 50)
    shown = smoothed(list(enumerate(losses)))
    for step in (0, len(losses) // 2, len(losses) - 1):
        weights = [keep ** (step - i) for i in range(step + 1)]
        mean = sum(w * x for w, x in zip(weights, losses, strict=False)) / sum(weights)
        assert shown[step] == (step, pytest.approx(mean, rel=1e-6, abs=1e-6))


@given(st.lists(LOSSES, min_size=1, max_size=400), st.integers(2, 60))
def test_thinning_keeps_the_extremes_the_order_and_few(losses: list[float], most: int) -> None:
    points = list(enumerate(losses))
    kept = thinned(points, most)
    assert set(kept) <= set(points) and kept == sorted(kept) and len(kept) <= most + 4
    assert {min(losses), max(losses)} <= {loss for _, loss in kept}


@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e12), st.integers(1, 10))
def test_ticks_are_round_and_within(low: float, width: float, about: int) -> None:
    marks = ticks(low, low + width, about)
    assert 1 <= len(marks) <= 2 * about + 2
    slack = 1e-6 * width + 1e-11 * abs(low)
    assert all(low - slack <= mark <= low + width + slack for mark in marks)
    if len(marks) > 2 and width > 1e-6 * abs(low):
        gap = marks[1] - marks[0]
        mantissa = gap / 10 ** math.floor(math.log10(gap) + 1e-6)
        assert min(abs(mantissa - round_number) for round_number in (1, 2, 5)) < 1e-2


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.booleans())
def test_ticks_of_steps_are_steps(one: int, two: int, log_steps: bool) -> None:
    low, high = sorted((one, two))
    marks = step_ticks(low, high, log_steps)
    assert (
        1 <= len(marks) <= 20
        and marks == sorted(set(marks))
        and all(mark == int(mark) and low <= mark <= high for mark in marks)
    )


# ---- reading a log


def test_a_log_is_read(runs: tuple[Path, Path]) -> None:
    run = read_run(str(runs[0]))
    assert (
        run.name == "first"
        and len(run.losses) == 300
        and run.validations == [(100, 1.4), (200, 1.2), (300, 1.1)]
    )
    assert read_run(str(runs[0] / "log.jsonl")) == run


def test_a_line_that_is_being_written_is_left_out_and_a_repeated_step_counts_as_it_was_last(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.5}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo'
    )
    assert read_run(str(log)).losses == [(1, 3.0), (2, 2.0)]
    log.write_text(
        '{"step": 1, "loss": NaN}\n{"step": 2, "loss": Infinity}\n'
        '{"step": 3, "loss": 1e300}\n{"step": 4, "loss": 2.0}\n'
    )
    assert read_run(str(log)).losses == [(4, 2.0)]


HOSTILE = {
    "text": b"hello\n",
    "list": b"[1, 2]\n",
    "no step": b'{"loss": 1.0}\n',
    "no loss": b'{"step": 1}\n',
    "step of text": b'{"step": "1", "loss": 1.0}\n',
    "negative step": b'{"step": -1, "loss": 1.0}\n',
    "true": b'{"step": true, "loss": 1.0}\n',
    "huge step": b'{"step": 1' + b"0" * 400 + b', "loss": 1.0}\n',
    "digits": b'{"step": ' + b"1" * 5000 + b', "loss": 1.0}\n',
    "huge loss": b'{"step": 1, "loss": 1' + b"0" * 400 + b"}\n",
    "deep": b"[" * 60000 + b"\n",
    "long": b"x" * 10**6 + b"\n",
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE)
def test_hostile_lines_get_one_clear_error_or_are_left_out(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1, "loss": 2.0}\n' + line + b'{"step": 3, "loss": 1.0}\n')
    result = plot(".", "--out", "curve.svg", cwd=tmp_path)
    if line is HOSTILE["huge loss"]:
        assert result.returncode == 0 and read_run(str(tmp_path)).losses == [(1, 2.0), (3, 1.0)]
        return
    assert result.returncode == 2 and re.fullmatch(r"tinygpt: error: [^\n]*line 2[^\n]+\n", result.stderr), (
        result.stderr
    )
    assert not (tmp_path / "curve.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["missing"], "missing"),
        (["."], "log.jsonl"),
        (["empty"], "no loss"),
        (["first", "--out", "curve.png"], ".svg"),
        ([], "RUN"),
    ],
)
def test_bad_input_gets_one_line(runs: tuple[Path, Path], arguments: list[str], word: str) -> None:
    place = runs[0].parent
    write_run(place / "empty", [])
    result = plot(*arguments, cwd=place)
    assert (
        result.returncode == 2
        and re.fullmatch(r"tinygpt: error: [^\n]+\n", result.stderr)
        and word in result.stderr
    )


# ---- SVG


@given(RUNS, st.booleans())
def test_any_runs_become_xml_whose_points_lie_in_the_drawing(runs: list[Run], log_steps: bool) -> None:
    width, height = 840, 460
    root = ElementTree.fromstring(svg(runs, width, height, log_steps=log_steps))
    for line in root.iter(f"{SVG}polyline"):
        for pair in line.get("points", "").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= width and 0 <= y <= height
    groups = [element for element in root.iter(f"{SVG}g") if element.find(f"{SVG}title") is not None]
    assert len(groups) == len(runs)
    assert [group.find(f"{SVG}title").text.split(": ")[0] for group in groups] == [
        replace_unprintable(run.name).split(": ")[0] for run in runs
    ]


def test_a_run_that_is_named_twice_is_drawn_once(runs: tuple[Path, Path]) -> None:
    """As by `runs/*`, where `latest` leads to one of them."""
    place = runs[0].parent
    (place / "latest").symlink_to("first")
    result = plot("first", "latest", "second & <b>", "--out", "curve.svg", cwd=place)
    assert result.returncode == 0 and "curve.svg: 2 runs" in result.stdout


def test_the_svg_is_complete(runs: tuple[Path, Path]) -> None:
    place = runs[0].parent
    result = plot("first", "second & <b>", "--out", "curve.svg", cwd=place)
    assert result.returncode == 0, result.stderr
    text = (place / "curve.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    title, about = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("role") == "img" and root.get("aria-labelledby") == f"{title.get('id')} {about.get('id')}"
    assert (
        "300 steps" in about.text
        and "second & <b>: train" in about.text
        and "validation 1.1000" in about.text
    )
    classes = [element.get("class") for element in root.iter()]
    assert classes.count("raw") == 2 and classes.count("smooth") == 4  # two of them in the legend
    assert classes.count("point") == 3 + 1 + 2
    labels = [element.text for element in root.iter(f"{SVG}text")]
    assert {"step", "loss (nats a token)", "100", "200", "2", "3"} <= set(labels)
    # Nothing is fetched
    assert "prefers-color-scheme:dark" in text and "http" not in text.replace(
        "http://www.w3.org/2000/svg", ""
    )


def test_the_points_are_where_the_axes_say(runs: tuple[Path, Path]) -> None:
    """Places of the ticks against places of validations of known step and loss."""
    root = ElementTree.fromstring(svg([Run("r", [(0, 0.0), (1000, 10.0)], [(500, 5.0)])]))
    texts = {element.text: element for element in root.iter(f"{SVG}text") if element.get("class") == "tick"}
    point = next(element for element in root.iter(f"{SVG}circle"))
    middle = (float(texts["400"].get("x")) + float(texts["600"].get("x"))) / 2
    assert float(point.get("cx")) == pytest.approx(middle, abs=0.2)
    assert float(point.get("cy")) == pytest.approx(
        (float(texts["4"].get("y")) + float(texts["6"].get("y"))) / 2 - 4, abs=0.2
    )


def luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(("ground", "colours"), [("#ffffff", LIGHT), ("#14181d", DARK)])
def test_colours_have_contrast(ground: str, colours: tuple[str, ...]) -> None:
    """Of 4.5 at least, as WCAG 2.2 (1.4.3) asks for text."""
    text = svg([Run("r", [(1, 1.0), (2, 0.5)], [])])
    assert ground in text
    for colour in colours:
        low, high = sorted((luminance(colour), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour


# ---- text


@given(RUNS, st.integers(24, 200), st.integers(4, 50), st.booleans(), st.booleans(), st.booleans())
def test_a_chart_fits_its_place(
    runs: list[Run], columns: int, rows: int, colour: bool, unicode: bool, log_steps: bool
) -> None:
    lines = chart(runs, columns, rows, colour=colour, unicode=unicode, log_steps=log_steps)
    bare = [re.sub(r"\x1b\[\d*m", "", line) for line in lines]
    assert len(lines) == rows and all(len(line) <= columns for line in bare)
    assert not any(CONTROL.search(line) for line in bare + keys(runs))
    if not colour:
        assert lines == bare
    if not unicode:
        "".join(lines).encode("ascii")


def test_a_falling_line_falls() -> None:
    lines = chart([Run("r", [(step, 100.0 - step) for step in range(40)], [])], 47, 12)
    first_dots = [
        min((i for i, c in enumerate(line[6:]) if "\u2800" < c <= "\u28ff"), default=None)
        for line in lines[:10]
    ]
    assert None not in first_dots and first_dots == sorted(first_dots) and len(set(first_dots)) == 10


def test_a_pipe_gets_a_table_of_every_step(runs: tuple[Path, Path]) -> None:
    result = plot("first", cwd=runs[0].parent)
    assert result.returncode == 0 and not CONTROL.search(result.stdout) and result.stdout.isascii()
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["step", "loss", "val_loss"] and len(lines) == 301
    run = read_run(str(runs[0]))
    assert [(int(step), float(loss)) for step, loss, _ in lines[1:]] == [
        (s, pytest.approx(x, rel=1e-5)) for s, x in run.losses
    ]
    assert [(int(step), float(loss)) for step, _, loss in lines[1:] if loss != "-"] == run.validations


def test_runs_stand_side_by_side_in_the_table() -> None:
    rows = [
        line.split() for line in table([Run("a", [(1, 3.0), (2, 2.0)], []), Run("b", [(2, 5.0)], [(3, 4.0)])])
    ]
    assert rows == [
        ["step", "run1.loss", "run1.val_loss", "run2.loss", "run2.val_loss"],
        ["1", "3", "-", "-", "-"],
        ["2", "2", "-", "5", "-"],
        ["3", "-", "-", "-", "4"],
    ]


@pytest.mark.parametrize(
    ("more", "colour", "braille"),
    [({}, True, True), ({"NO_COLOR": "1"}, False, True), ({"PYTHONIOENCODING": "ascii"}, True, False)],
)
def test_a_terminal_gets_a_drawing(
    runs: tuple[Path, Path], more: dict[str, str], colour: bool, braille: bool
) -> None:
    settings = environment(PYTHONUTF8="1", TERM="xterm", COLUMNS="70", LINES="20") | more
    command = [sys.executable, "-S", "-m", "tinygpt_core", "plot", "first", "second & <b>"]
    text = run_on_terminal(command, runs[0].parent, settings).decode()
    assert "first: train" in text and "second & <b>: train" in text
    assert ("\x1b[36m" in text) == colour and bool(re.search("[\u2801-\u28ff]", text)) == braille
    assert all(len(re.sub(r"\x1b\[\d*m", "", line)) < 70 for line in text.splitlines())
