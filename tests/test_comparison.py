"""`tinygpt compare-backends`: backends that agree, one that is wrong, one that fails, one that is absent."""

from __future__ import annotations

import math
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spec import broken
from spec.minimal import MinimalBuffer

from tinygpt_core import Buffer, Tensor, backends
from tinygpt_core.cli import comparison, main
from tinygpt_core.nn import Linear
from tinygpt_core.optimizers import AdamW
from tinygpt_core.training import PRESETS

ROOT = Path(__file__).resolve().parent.parent


class Failing(MinimalBuffer):
    """A backend whose matrix products raise."""

    __slots__ = ()
    backend = "failing"

    def _matmul(self, other: Any, shape: Any) -> MinimalBuffer:
        raise RuntimeError("the device\nis on \x1b[31mfire")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends that a test registers are gone after it; those of other tests, installed or registered, are
    gone during it.
    """
    backends.available()
    kept = {name: backends._plugins[name] for name in ("python", "numpy") if name in backends._plugins}
    monkeypatch.setattr(backends, "_plugins", kept)
    monkeypatch.setattr(
        backends, "_loaded", {name: kind for name, kind in backends._loaded.items() if name in kept}
    )


@pytest.fixture(autouse=True)
def same_backend() -> Iterator[None]:
    before = backends.active()
    yield
    assert backends.active() is before, "the caller's backend was not put back"


def compare(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["compare-backends", "--steps", "1", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def cells(printed: str, first: str) -> list[str]:
    """The cells of the first row of the table that begins so."""
    row = next(line for line in printed.splitlines() if line.startswith(first))
    return re.split(r"  +", row)


# ---------------------------------------------------------------- what it finds


def test_python_and_numpy_agree(registry: None, capsys: pytest.CaptureFixture[str]) -> None:
    if reason := backends.why_not("numpy"):
        pytest.skip(f"there is no second backend to compare with: {reason}")
    code, out, err = compare(capsys, "--backend", "numpy", "--preset", "debug")
    assert code == 0 and err == ""
    assert cells(out, "numpy")[2] == "loss" and cells(out, "numpy")[-1] == "yes"
    for quantity in ("gradients", "weights"):
        row = next(
            line.split()
            for line in out.splitlines()
            if line.startswith(" ") and quantity in line and line.endswith(("yes", "no"))
        )
        assert row[0] == quantity and row[-1] == "yes" and 0.0 <= float(row[1]) < 1e-3
    times = {
        name: re.findall(rf"^{name} +([\d.]+) +1 +([\d.]+)$", out, re.MULTILINE)
        for name in ("python", "numpy")
    }
    assert times["python"][0][1] == "1.0" and float(times["numpy"][0][0]) > 0.0


@pytest.mark.parametrize(
    ("defect", "quantities"),
    [
        ("broken-linear-bias-gradient", "gradients, weights"),
        ("broken-attention-scale", "loss, gradients, weights"),
        ("broken-g-e-l-u-form", "gradients"),
        ("broken-adam-w-correction", "weights"),
    ],
)
def test_a_wrong_backend_is_named_with_what_is_wrong(
    defect: str, quantities: str, registry: None, capsys: pytest.CaptureFixture[str]
) -> None:
    broken.register()
    code, out, err = compare(capsys, "--backend", defect)
    assert code == 1 and cells(out, defect)[2] == "loss"
    verdicts = re.findall(r"(loss|gradients|weights) [^\n]* (yes|no)$", out, re.MULTILINE)
    assert ", ".join(quantity for quantity, verdict in verdicts if verdict == "no") == quantities
    said = re.fullmatch(
        rf"tinygpt: error: {defect} disagrees with python \(([a-z, ]+)\): "
        r"its [^\n]+ times the tolerance away[^\n]*\n",
        err,
    )
    assert said and said[1] == quantities, err


def test_one_that_raises_is_shown_and_the_others_are_measured(
    registry: None, capsys: pytest.CaptureFixture[str]
) -> None:
    backends.register("failing", lambda device: Failing)
    backends.register("right", lambda device: MinimalBuffer)
    code, out, err = compare(capsys, "--backend", "failing,right", "--preset", "debug")
    message = r"failed: RuntimeError: the device is on \x1b[31mfire"
    assert code == 1 and err == f"tinygpt: error: failing {message}\n"
    assert f"\nfailing {message}\n" in out and cells(out, "failing")[-1] == "no"
    assert cells(out, "right")[-1] == "yes" and re.search(r"^right +[\d.]+ +1 +[\d.]+$", out, re.MULTILINE)


def test_what_cannot_run_is_listed_with_its_reason(
    registry: None, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(device: str) -> type[Buffer]:
        raise backends.BackendUnavailable("no licence\nhere")

    backends._plugins.pop("numpy", None)
    backends.register("absent", lambda device: MinimalBuffer, lambda: "no driver: install one")
    backends.register("refusing", refuse)
    code, out, err = compare(capsys, "--preset", "debug")
    assert code == 0 and err == "" and "There is no other backend" in out
    assert "\nnot here: absent, no driver: install one\n" in out
    assert "\nnot here: refusing, backend 'refusing' is not available: no licence here\n" in out
    code, out, err = compare(capsys, "--backend", "refusing")  # asked for by name, so not passed over
    assert code == 2 and out == "" and err.startswith("tinygpt: error: backend 'refusing' is not available")


def test_every_device_is_measured(registry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"": MinimalBuffer, "0": MinimalBuffer, "1": type("Second", (MinimalBuffer,), {"__slots__": ()})}

    def factory(device: str) -> type[Buffer]:
        if device not in kinds:
            raise ValueError(f"no device {device}")
        return kinds[device]

    backends._plugins.pop("numpy", None)
    backends.register("many", factory)
    backends.register("careless", lambda device: MinimalBuffer)  # takes any device, and has one
    announced: list[str] = []
    found = comparison.compare(preset="debug", steps=1, announce=announced.append)
    assert (
        announced == [each.backend for each in found.measurements] == ["python", "careless", "many", "many:1"]
    )
    assert all(each.agrees for each in found.measurements)


def test_a_nan_disagrees(registry: None) -> None:
    found = comparison._difference("weights", {"w": [1.0, math.nan]}, {"w": [1.0, 2.0]}, {"w": [0.5, 0.5]})
    assert found.share == found.largest == math.inf and not comparison.Measurement("x", 1.0, (found,)).agrees
    exact = comparison._difference("weights", {"w": [0.0, 0.0]}, {"w": [0.0, 0.0]}, {"w": [0.0, 0.0]})
    assert exact == comparison.Difference("weights", 0.0, 0.0, 0.0, "w")


# ---------------------------------------------------------------- what is tolerated

magnitudes = st.floats(-12, 1).map(lambda power: 10.0**power)


@given(magnitudes, st.floats(-1, 1), magnitudes, st.floats(-1, 1), st.sampled_from([1, -1]))
def test_weight_tolerance_covers_the_step_of_any_gradient_within_the_error(
    size: float, start: float, error: float, part: float, sign: int
) -> None:
    """Two AdamW steps in float32 from one weight, with gradients g and g + part e."""
    gradients = [sign * size, sign * size + part * error]
    moved = []
    for gradient in gradients:
        model = Linear(1, 1, bias=False)
        optimizer = AdamW(model, 0.01, betas=(0.9, 0.99), weight_decay=0.1)
        ((_, weight),) = model.named_parameters()
        weight.assign(Tensor([[start]]))
        weight.grad = Tensor([[gradient]])
        optimizer.update()
        moved.append(weight.item())
    tolerance = comparison.weight_tolerance(gradients[0], abs(error), moved[0], optimizer)
    assert abs(moved[0] - moved[1]) <= tolerance
    # And forgives no more than a change of sign
    assert tolerance <= 2.0 * 0.01 * (1.0 + 1e-4) + 1e-4 * abs(start)


def test_roundings_are_those_of_the_sums_of_a_step() -> None:
    """By hand for one block, 4 wide, 2 heads, 3 rows of 5 tokens, 7 characters."""
    config = replace(PRESETS["debug"][1], num_layers=1, num_heads=2, embedding_dim=4)
    block = 2 * (4 + 4) + 4 + 2 + 5 + 5 + 4 + 4 + 16
    forward = block + (4 + 4) + 4 + 7 + 15
    backward = block + 2 * 4 + (4 + 4) + 4 + 7 + 15  # 3 * 4 instead of 4 where query, key and value meet
    assert comparison.roundings(config, 7, (3, 5)) == (2 * forward, 2 * (forward + backward))
    deeper = replace(config, num_layers=3)
    assert comparison.roundings(deeper, 7, (3, 5))[0] == 2 * (forward + 2 * block)


# ---------------------------------------------------------------- the command as a process


def environment() -> dict[str, str]:
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("TINYGPT_", "PYTHON", "COV_"))
    }
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


COMMAND = [sys.executable, "-S", "-m", "tinygpt_core", "compare-backends"]


def tinygpt(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=environment(), capture_output=True, encoding="utf-8", timeout=120
    )


def test_a_pipe_gets_plain_lines_and_nothing_is_installed() -> None:
    done = tinygpt("--steps", "2", "--preset", "debug")
    assert done.returncode == 0 and done.stderr == ""
    assert all(line.isprintable() for line in done.stdout.splitlines()) and done.stdout.isascii()
    assert re.search(r"^python +[\d.]+ +2 +1\.0$", done.stdout, re.MULTILINE)


def test_a_terminal_sees_what_is_being_measured() -> None:
    parent, child = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "--steps", "1", "--preset", "debug"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=child,
    ) as process:
        os.close(child)
        assert process.stdout is not None
        printed = process.stdout.read()
        shown = os.read(parent, 65536).decode()
        os.close(parent)
    assert process.returncode == 0 and b"\x1b" not in printed
    assert re.fullmatch(r"\rone step on python …\x1b\[K\r\x1b\[K", shown), shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "nunpy"], ["unknown backend 'nunpy'"]),
        (["--backend", "python,"], ["unknown backend ''"]),
        (["--backend", "python:1"], ["no devices"]),
        (["--preset", "huge"], ["unknown preset 'huge'", "nanogpt-cpu"]),
        (["--steps", "0"], ["steps must be 1 or more, not 0"]),
        (["--steps", "many"], ["--steps", "'many'"]),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], words: list[str]) -> None:
    done = tinygpt(*arguments)
    assert (
        done.returncode == 2 and done.stdout == "" and re.fullmatch(r"tinygpt: error: [^\n]+\n", done.stderr)
    ), done.stderr
    for word in words:
        assert word in done.stderr


def test_help_states_every_default() -> None:
    done = tinygpt("--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: python3 -m tinygpt_core compare-backends")
    texts = re.findall(r"^  --[a-z-]+[^\n]*(?:\n {15,}[^\n]*)*", done.stdout, re.MULTILINE)
    assert len(texts) == 3 and all("default" in text for text in texts)
