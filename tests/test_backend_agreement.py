"""Backends agree: one seed gives the same weights bit for bit, training goes the same way, and checkpoints
are the same bytes.

Runs on the backends of `--backend`, each against the reference; where only `python` is named, the numpy
backend is added if it is here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from spec import plugin

from tinygpt_core import Tensor, backends, random, seed
from tinygpt_core.dtype import DType
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.optimizers import AdamW, clip_gradients
from tinygpt_core.training import PRESETS, Trainer, checkpoint, load_model

CONFIGS = {
    "GPT-2's parts": GPTConfig(
        vocab_size=11,
        context_length=8,
        num_layers=2,
        num_heads=2,
        embedding_dim=16,
        dropout=0.1,
        tied_head=True,
    ),
    "Llama's parts": GPTConfig(
        vocab_size=11,
        context_length=8,
        num_layers=2,
        num_heads=2,
        embedding_dim=16,
        positions="rotary",
        normalization="rms_norm",
        activation="swiglu",
    ),
}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "other" in metafunc.fixturenames:
        asked = [name for name in plugin.names(metafunc.config) if name != "python"]
        metafunc.parametrize("other", asked or ["numpy"], indirect=True)


@pytest.fixture
def other(request: pytest.FixtureRequest) -> str:
    """The name of a backend that is compared with the reference."""
    if request.param == "numpy" and (reason := backends.why_not("numpy")):
        pytest.skip(f"there is no second backend to compare with: {reason}")
    plugin.resolve(request.param)
    return str(request.param)


def weights(config: GPTConfig, backend: str) -> dict[str, Any]:
    with backends.use(backend):
        seed(20)
        model = GPT(config)
        assert all(p.backend == backend for _, p in model.named_parameters())
        return {
            name: (p.shape, p.dtype, p.buffer.to_array().tobytes()) for name, p in model.named_parameters()
        }


@configs
def test_one_seed_gives_the_same_weights_bit_for_bit(config: GPTConfig, other: str) -> None:
    assert weights(config, other) == weights(config, "python")


def losses(config: GPTConfig, backend: str, steps: int) -> list[float]:
    """Forward, backward, clipping and AdamW on drawn batches, with dropout: everything random comes from the
    seed.
    """
    with backends.use(backend):
        seed(20)
        model = GPT(config)
        optimizer = AdamW(model, 0.01, weight_decay=0.1)
        generator, result = random.Generator(3), []
        for _ in range(steps):
            ids = [[generator.integer(0, 11) for _ in range(9)] for _ in range(3)]
            inputs = Tensor([row[:-1] for row in ids], DType.int32)
            optimizer.zero_grad()
            loss = CrossEntropyLoss()(
                logits=model(inputs), labels=Tensor([row[1:] for row in ids], DType.int32)
            ).mean()
            loss.backward()
            clip_gradients(model, 1.0)
            optimizer.update()
            result.append(loss.item())
        return result


@configs
def test_the_same_loss_for_twenty_steps(config: GPTConfig, other: str) -> None:
    expected = losses(config, "python", 20)
    assert losses(config, other, 20) == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.1, "nothing was learnt, so nothing was compared"


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("direction", ["there", "back"])
def test_a_checkpoint_loads_on_the_other_backend_unchanged(
    direction: str, other: str, tmp_path: Path
) -> None:
    """Written on one backend, read and written again on the other: weights and moments are the same bytes."""
    first, second = ("python", other) if direction == "there" else (other, "python")
    (tmp_path / "words.txt").write_text(
        "".join(f"{a}{b}\n" for a in ("get", "set", "is") for b in ("name", "size", "path") for _ in range(4))
    )
    config = replace(
        PRESETS["debug"][1],
        corpus="names",
        data_file=str(tmp_path / "words.txt"),
        steps=4,
        eval_every=0,
        backend=first,
    )
    trainer = Trainer.start(config, str(tmp_path / "run"))
    list(trainer.run())
    moved = Trainer.resume(str(tmp_path / "run"), backend=second)
    assert {p.backend for _, p in moved.model.named_parameters()} == {second}
    moved.directory = str(tmp_path / "again")
    moved.save()
    for name in ("model.safetensors", "optimizer.safetensors", "tokenizer"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
    one, two = (checkpoint.load_checkpoint(str(tmp_path / name)) for name in ("run", "again"))
    assert one.state == two.state
    settings = two.config["training"]
    assert settings["backend"] == second and {**settings, "backend": first} == config.to_dict()
    model, _, used = load_model(str(tmp_path / "run"), backend=second)
    assert used["training"]["backend"] == second
    for (name, ours), (_, theirs) in zip(
        model.named_parameters(), trainer.model.named_parameters(), strict=True
    ):
        assert ours.backend == second and ours.buffer.to_array() == theirs.buffer.to_array(), name
