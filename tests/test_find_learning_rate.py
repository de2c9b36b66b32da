"""`tinygpt find-learning-rate`: rates that rise until the loss does."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import TINY_WITHOUT_COUNTING as TINY
from small_runs import WORDS, config_of_words
from test_cli import assert_refused, tinygpt

from tinygpt_core import cli
from tinygpt_core.cli.find_learning_rate import losses_by_rate, steepest
from tinygpt_core.cli.plotting.svg_chart import rates_svg
from tinygpt_core.training import Trainer


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text(WORDS)
    return tmp_path


SEARCH = ["find-learning-rate", "names", "--data", "words.txt", *TINY[2:], "--backend", "python"]


def test_a_search_prints_its_curve_and_keeps_nothing_else(place: Path) -> None:
    done = tinygpt(*SEARCH, "--steps", "40", "--highest", "10", "--out", "curve.svg", cwd=place)
    assert done.returncode == 0, done.stderr
    found = re.search(r"falls fastest at (\S+), and is lowest at (\S+)\n", done.stdout)
    assert found and 1e-6 < float(found[1]) <= float(found[2]) <= 10
    assert f"train --learning-rate {found[1]} and the other options that were given here\n" in done.stdout
    rows = re.findall(r"^ +(\S+) +(\d+\.\d{4}) +(\d+\.\d{4})$", done.stdout, re.MULTILINE)
    rates = [float(rate) for rate, _, _ in rows]
    assert rates[0] == 1e-6 and rates == sorted(rates) and len(rates) > 5
    assert sorted(path.name for path in place.iterdir()) == ["curve.svg", "words.txt"]
    drawing = ElementTree.fromstring((place / "curve.svg").read_text())
    assert f"It falls fastest at {found[1]}." in "".join(drawing.itertext())


def test_the_rate_rises_by_equal_factors_and_the_steps_are_those_of_a_run(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of_words(place, steps=5)
    found = list(losses_by_rate(config, None, 1e-5, 1e-1))
    assert [rate for rate, _ in found] == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    trainer = Trainer.start(config, str(place / "run"))
    trainer.schedule = lambda step: 10.0 ** (step - 5)
    assert [loss for _, loss in found] == pytest.approx(
        [trainer.train_step().loss for _ in range(5)], rel=1e-6
    )


def test_a_search_writes_no_samples(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings may be those of a run that does."""
    monkeypatch.setattr(Trainer, "sample", lambda self: pytest.fail("a sample was written"))
    options = ["names", "--data", str(place / "words.txt"), "--preset", "debug", "--backend", "python"]
    assert cli.main(["find-learning-rate", *options, "--steps", "4", "--sample-every", "1"]) == 0


def test_a_search_ends_where_the_loss_has_risen_or_is_no_number(place: Path) -> None:
    config = config_of_words(place, steps=60, gradient_clip=math.inf)
    found = list(losses_by_rate(config, None, 1e-4, 1e6))
    assert 3 < len(found) < 60 and all(math.isfinite(loss) for _, loss in found)


@given(
    centre=st.floats(-4.0, -1.0),
    width=st.floats(0.2, 1.0),
    height=st.floats(0.5, 5.0),
    rise=st.floats(0.5, 2.0),
)
def test_the_steepest_place_of_a_step_is_its_middle(
    centre: float, width: float, height: float, rise: float
) -> None:
    """A loss that falls as tanh falls, and then rises without bound: its derivative is known."""
    exponents = [-6.0 + 0.05 * i for i in range(141)]

    def loss(x: float) -> float:
        return 3.0 - height * math.tanh((x - centre) / width) + 100.0 * max(0.0, x - centre - 2.0 - rise) ** 2

    found = steepest([(10.0**x, loss(x)) for x in exponents])
    assert math.log10(found) == pytest.approx(centre, abs=0.0501)


def test_a_loss_that_only_rises_gives_its_beginning() -> None:
    assert steepest([(0.1, 1.0), (0.2, 2.0), (0.4, 3.0)]) == 0.2


def test_a_drawing_has_a_tick_for_each_power_of_ten() -> None:
    points = [(10.0**x, 3.0 - x) for x in range(-5, 1)]
    drawing = rates_svg(points, points, 1e-3)
    texts = [text.text for text in ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")]
    assert {"1e-05", "0.0001", "0.001", "0.01", "0.1", "1", "falls fastest: 0.001"} <= set(texts)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--lowest", "1", "--highest", "0.1"], ["--lowest (1)", "--highest (0.1)"]),
        (["--lowest", "0"], ["--lowest (0) must be above 0"]),
        (["--highest", "inf"], ["--highest (inf)"]),
        (["--steps", "1"], ["--steps must be at least 2"]),
        (["--out", "curve.png"], [".svg", "curve.png"]),
        (["--layers", "0"], ["--layers must be from 1"]),
    ],
)
def test_bad_input_gets_one_clear_line(
    place: Path, options: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["find-learning-rate", "names", "--data", str(place / "words.txt"), *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("tinygpt: error: ") and printed.err.count("\n") == 1
    for word in words:
        assert word in printed.err


def test_rates_that_are_all_too_high_are_said(place: Path) -> None:
    refused = tinygpt(*SEARCH, "--lowest", "1e20", "--highest", "1e30", "--gradient-clip", "inf", cwd=place)
    assert_refused(refused, "try a --lowest below 1e+20")
