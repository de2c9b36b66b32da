"""Laws of autocast, loss scaling and the training step, on a backend without 16-bit numbers."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import backends
from tinygpt_core.kernels.precision import LossScaler, autocast, compute_dtype
from tinygpt_core.training import Trainer, TrainingConfig, TrainingStep

CONFIG = TrainingConfig(
    steps=3, embedding_dim=8, batch_size=2, eval_every=0, checkpoint_every=0, backend="numpy"
)


def test_autocast_is_for_backends_that_can() -> None:
    """Float32 works everywhere; the rest is an error that says who can. Contexts nest, and end where they
    end.
    """
    with autocast("float32"):
        assert compute_dtype() == "float32"
    for name in ("bfloat16", "float16", "tf32"):
        with (
            pytest.raises(
                ValueError, match=f"python backend computes in float32, not {name}: the cupy backend"
            ),
            autocast(name),
        ):
            pass
    with pytest.raises(ValueError, match=r"'half'.*bfloat16"), autocast("half"):
        pass
    assert compute_dtype() == "float32"


def test_the_largest_loss_scale_and_its_state() -> None:
    """Twice as large at most is 2^127, the largest power that float32 has; no step is forgotten."""
    for exponent in (125, 126, 127):
        scaler = LossScaler(2.0**exponent, patience=2)
        scaler.update(True)
        again = LossScaler(patience=2)
        again.set_state(scaler.get_state())
        assert again.get_state() == {"scale": 2.0**exponent, "good_steps": 1}
        again.update(True)
        assert again.get_state() == {"scale": 2.0 ** min(exponent + 1, 127), "good_steps": 0}


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_loss_scaler(finite: list[bool], patience: int) -> None:
    """Halved by each overflow, doubled after `patience` good steps in a row, always a power of two; its state
    is JSON and is all of it.
    """
    scaler, exponent, good = LossScaler(2.0**10, patience), 10, 0
    for i, each in enumerate(finite):
        scaler.update(each)
        good = good + 1 if each else 0
        if not each:
            exponent = max(exponent - 1, -24)
        elif good == patience:
            exponent, good = exponent + 1, 0
        assert scaler.scale == 2.0**exponent
        if i == len(finite) // 2:
            state = json.loads(json.dumps(scaler.get_state()))
            scaler = LossScaler(1.0, patience)
            scaler.set_state(state)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"scale": 0.0, "good_steps": 1},
        {"scale": math.inf, "good_steps": 1},
        {"scale": 2.0, "good_steps": -1},
        {"scale": 2.0, "good_steps": 1.5},
        {"scale": "2", "good_steps": 1},
    ],
)
def test_a_bad_state_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="loss scaler's state"):
        LossScaler().set_state(state)


def test_a_scale_may_be_below_one_and_is_a_float() -> None:
    scaler = LossScaler()
    scaler.set_state({"scale": 2.0**-9, "good_steps": 0})
    assert scaler.get_state() == {"scale": 2.0**-9, "good_steps": 0}
    scaler.set_state({"scale": 1, "good_steps": 3})
    assert type(scaler.scale) is float and scaler.good_steps == 3


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="loss scale"):
        LossScaler(scale)
    with pytest.raises(ValueError, match="patience"):
        LossScaler(2.0, patience=0)
    assert LossScaler(0.5, patience=1).scale == 0.5


def test_the_least_loss_scale() -> None:
    """It halves down to 2^-24, and no further, however many steps overflow."""
    scaler = LossScaler(2.0**-20)
    seen = []
    for _ in range(10):
        scaler.update(False)
        seen.append(scaler.scale)
    assert seen == [2.0**-k for k in (21, 22, 23, *[24] * 7)]


class Halves(TrainingStep):
    """A step with a scaled loss, on a backend whose numbers have float32's range."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.scaler = LossScaler(2.0**20)


def trained(scale: float | None, steps: int, tmp_path: Any) -> tuple[Trainer, list[float], np.ndarray]:
    """A run whose loss is scaled, or not; its losses and weights."""
    trainer = Trainer.start(CONFIG, str(tmp_path / f"run-{scale}"))
    with backends.use("numpy"):
        if scale is not None:
            trainer.update = Halves(
                trainer.model, trainer.optimizer, trainer.total_loss, CONFIG.gradient_clip
            )
            trainer.update.scaler.scale = scale  # type: ignore[union-attr]
        losses = [trainer.train_step().loss for _ in range(steps)]
    weights = [np.asarray(parameter.buffer).ravel() for _, parameter in trainer.model.named_parameters()]
    return trainer, losses, np.concatenate(weights)


def test_a_step_knows_its_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends read it; float16 has a scaler of the loss, and a dtype that the backend cannot is refused."""

    def step(dtype: str) -> TrainingStep:
        return TrainingStep(None, None, lambda batch: batch, 1.0, dtype)  # type: ignore[arg-type]

    with backends.use("numpy"):
        with pytest.raises(ValueError, match="bfloat16"):
            step("bfloat16")
        dtypes = ("float32", "bfloat16", "float16")
        monkeypatch.setattr(backends.active(), "compute_dtypes", dtypes, raising=False)
        assert [step(dtype).dtype for dtype in dtypes] == list(dtypes)
        assert [step(dtype).scaler is not None for dtype in dtypes] == [False, False, True]


def test_a_scaled_loss_trains_the_same(tmp_path: Any) -> None:
    """A power of two changes no bit of the gradients, so none of the weights and losses."""
    one, plain, expected = trained(None, 3, tmp_path)
    other, scaled, weights = trained(2.0**20, 3, tmp_path)
    assert plain == scaled and np.array_equal(weights, expected)
    # Before they are clipped, reported and given to the optimizer, gradients have their own size again
    assert one.update.gradient_norm == other.update.gradient_norm
    for (name, a), (_, b) in zip(one.model.named_parameters(), other.model.named_parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        assert np.array_equal(np.asarray(a.grad.buffer), np.asarray(b.grad.buffer)), name


def test_an_overflow_is_skipped_and_survived(tmp_path: Any) -> None:
    """Steps whose gradients are infinite change neither weights nor moments nor the optimizer's count; then
    the scale fits.
    """
    trainer, losses, _ = trained(2.0**140, 1, tmp_path)
    assert (
        math.isfinite(losses[0]) and trainer.optimizer.step == 0 and trainer.update.scaler.scale == 2.0**139
    )  # type: ignore[union-attr]
    with backends.use("numpy"):
        more = [trainer.train_step().loss for _ in range(30)]
    assert 0 < trainer.optimizer.step < 30 and all(map(math.isfinite, more))
    assert all(np.isfinite(np.asarray(p.buffer)).all() for _, p in trainer.model.named_parameters())


def test_the_scale_is_in_the_checkpoint(tmp_path: Any) -> None:
    """And a run in float16 goes on with it; a run without one has none."""
    trainer, _, _ = trained(2.0**9, 2, tmp_path)
    trainer.update.scaler.good_steps = 7  # type: ignore[union-attr]
    trainer.save()
    state = json.loads((tmp_path / "run-512.0" / "state.json").read_text())["state"]
    assert state["loss_scale"] == {"scale": 512.0, "good_steps": 7}
    resumed = Trainer.resume(trainer.directory)
    assert resumed.update.scaler is None  # the run itself is one of float32


def test_a_dtype_that_the_backend_lacks_is_said_before_training(tmp_path: Any) -> None:
    """The settings know the names; starting knows the backend."""
    with pytest.raises(ValueError, match=r"dtype must be one of .*bfloat16.*'int8'"):
        TrainingConfig(dtype="int8")
    for name in ("python", "numpy"):
        with pytest.raises(ValueError, match=f"the {name} backend computes in float32, not bfloat16"):
            Trainer.start(TrainingConfig(dtype="bfloat16", backend=name), str(tmp_path / name))
