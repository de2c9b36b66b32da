"""`tinygpt_accel.notebook`: events pass through, and a curve is shown, in a real notebook and elsewhere.

What needs nbclient, nbformat and ipykernel is skipped where they are missing.
"""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from small_runs import config_of_words

from tinygpt_core.training import CheckpointEvent, StepEvent, Trainer, ValidationEvent
from tinygpt_core.training.events import Event

pytest.importorskip("numpy", reason="the plug-in is installed with NumPy")
from tinygpt_accel import notebook
from tinygpt_accel.notebook import Curve, watch

ROOT = Path(__file__).resolve().parent.parent
MISSING = [each for each in ("nbclient", "nbformat", "ipykernel") if importlib.util.find_spec(each) is None]


def step(number: int, loss: float) -> StepEvent:
    return StepEvent(number, loss, 0.1, 10, 0.01)


EVENTS: list[Event] = [
    step(1, 4.0),
    step(2, 3.5),
    ValidationEvent(2, 3.75),
    step(3, 3.0),
    step(4, float("inf")),
    CheckpointEvent(4, "runs/x"),
]


# ---- where nothing can show a drawing


def test_events_pass_through_and_lines_are_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(watch(EVENTS, seconds=1e9)) == EVENTS
    assert capsys.readouterr().out.splitlines() == [
        "step 1: loss 4.000",  # at once
        "step 2: loss 3.500, validation 3.750",  # a validation
        "step 3: loss 3.000, validation 3.750",  # the end
    ]
    monkeypatch.setattr(notebook, "LARGEST_SHARE", math.inf)
    assert list(watch(EVENTS, seconds=0.0)) == EVENTS
    assert len(capsys.readouterr().out.splitlines()) == 4  # each loss: that of step 4 cannot be drawn


@pytest.mark.parametrize(
    ("seconds", "drawing", "apart"), [(3.0, 0.0, 3.0), (1.0, 2.0, 22.0), (30.0, 2.0, 32.0)]
)
def test_drawings_leave_the_time_to_training(
    seconds: float, drawing: float, apart: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With events a second apart: a drawing of 2 s comes again after 20 s at least."""
    now = 0.0
    drawn: list[float] = []

    def show(curve: Curve) -> None:
        nonlocal now
        drawn.append(now)
        now += drawing

    def events() -> Iterator[Event]:
        nonlocal now
        for number in range(1, 101):
            now += 1.0
            yield step(number, 1.0)

    monkeypatch.setattr(notebook, "_shower", lambda: show)
    monkeypatch.setattr(notebook.time, "perf_counter", lambda: now)
    assert len(list(watch(events(), seconds=seconds))) == 100
    between = [later - earlier for earlier, later in pairwise(drawn[:-1])]  # the last one is at the end
    assert len(between) >= 2 and set(between) == {apart}


def test_nothing_is_asked_for_before_it_is_wanted() -> None:
    asked: list[int] = []

    def events() -> Iterator[Event]:
        for number, event in enumerate(EVENTS):
            asked.append(number)
            yield event

    watched = watch(events())
    assert asked == []
    assert next(watched) == EVENTS[0] and asked == [0]


def test_a_run_that_is_left_or_fails_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    def failing() -> Iterator[Event]:
        yield from EVENTS[:2]
        raise ArithmeticError("the loss became nan")

    with pytest.raises(ArithmeticError, match="became nan"):
        list(watch(failing(), seconds=1e9))
    assert capsys.readouterr().out.splitlines()[-1] == "step 2: loss 3.500"
    watched = watch(EVENTS, seconds=1e9)
    next(watched), next(watched)
    watched.close()  # type: ignore[attr-defined]
    assert capsys.readouterr().out.splitlines() == ["step 1: loss 4.000", "step 2: loss 3.500"]
    assert list(watch([])) == [] and capsys.readouterr().out == ""


def test_a_curve_says_what_it_has() -> None:
    curve = Curve("mine")
    assert not curve and str(curve) == "no step yet"
    curve.add(ValidationEvent(1200, 2.0, {"guessing": 4.0}))
    assert curve and str(curve) == "step 1,200: validation 2.000"
    assert curve.run.ladder == {"guessing": 4.0} and Curve().run.ladder == {}


def test_a_run_is_watched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of_words(tmp_path, backend="python", steps=4, eval_every=2)
    trainer = Trainer.start(config, str(tmp_path / "run"))
    seen = list(watch(trainer.run(), seconds=1e9))
    losses = [event.loss for event in seen if isinstance(event, StepEvent)]
    validations = [event.val_loss for event in seen if isinstance(event, ValidationEvent)]
    assert (len(losses), len(validations)) == (4, 2)
    last = f"step 4: loss {losses[-1]:.3f}, validation {validations[-1]:.3f}"
    assert capsys.readouterr().out.splitlines()[-1] == last


# ---- in a notebook

CELL = """
from dataclasses import replace

from tinygpt_accel import notebook
from tinygpt_core.training import PRESETS, StepEvent, Trainer

config = replace(
    PRESETS["debug"].config, corpus="names", data_file="words.txt", backend="python", steps=6, eval_every=3
)
trainer = Trainer.start(config, "run")
notebook.LARGEST_SHARE = float("inf")  # every loss
watched = notebook.watch(trainer.run(), name="<debug>", seconds=0.0)
print(sum(isinstance(event, StepEvent) for event in watched))
"""


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_a_notebook_shows_one_drawing_that_grows(tmp_path: Path) -> None:
    import nbclient
    import nbformat

    config_of_words(tmp_path)
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    updates: list[str] = []

    class Client(nbclient.NotebookClient):
        def process_message(self, msg, cell, cell_index):  # type: ignore[no-untyped-def]
            if msg["msg_type"] == "update_display_data":
                updates.append(msg["content"]["data"]["text/plain"])
            return super().process_message(msg, cell, cell_index)

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    client = Client(made, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    shown, printed = made.cells[0].outputs
    assert printed.text == "6\n"
    assert shown.output_type == "display_data" and set(shown.data) == {"image/svg+xml", "text/plain"}
    assert shown.data["text/plain"] == updates[-1] and updates[-1].startswith("step 6: loss ")
    assert "validation" in updates[-1]
    assert len(updates) == len(set(updates)) == 8  # six steps, two validations
    drawing = ElementTree.fromstring(shown.data["image/svg+xml"])
    assert drawing.tag.endswith("svg") and "<debug>" in "".join(drawing.itertext())


def test_ipython_is_not_imported_for_it() -> None:
    code = "import sys, tinygpt_accel.notebook as n; list(n.watch([])); print('IPython' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
