"""Runs that earlier code left are read to the bit, and training goes on as that code would have gone on.

They were made by fixtures/make_runs.py before the modules moved into folders. Reading must be exact
everywhere: weights, what the optimizer remembers, tokens, the place in the data and in the random numbers.
What is computed after that is compared

*   exactly, where the arithmetic is that of the machine that made the runs: the python backend, Python 3.11.
    Later versions' `sum` compensates for roundings, and a BLAS adds in an order of its own;
*   elsewhere within TOLERANCE.

What is expected of llama's last parameters was written anew when SiLU got its digits in the tails: its
formula is another one, and so are its last bits. The losses of that run are still the old ones, to the bit.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fixtures import make_runs
from fixtures.make_runs import BOUNDARY, FOLDER, RUNS, STEPS, STOP, digests, follow, parameters, settings
from tinygpt_core.checkpoint import load_checkpoint

from tinygpt_core import backends
from tinygpt_core.nn import GPT
from tinygpt_core.tokenizer import BPETokenizer, load_tokenizer
from tinygpt_core.training import Trainer, TrainingConfig, load_model

# A rounding to float32 is a relative error of at most u = 2**-24. Each step after the stop brings up to 8 of
# them, in units of the loss:
#
#   *  about 5 on the way forward: the products that make the logits, the sum of exponentials, its logarithm,
#      the sum over the targets, and the division by their number;
#   *  about 3 from the update before it. Adam divides a gradient by its own size, so one of size |g| that was
#      summed from numbers of size G with c roundings moves its weight wrongly by about rate * c u G / |g|,
#      and the loss by |g| times that. Over all n weights this is at most rate * c u * sqrt(n) * ||G||, here
#      0.015 * 10 u * sqrt(3500) * 1 (the norm that gradients are clipped to): 9 u, or 3 u of a loss of 3.
#
# Measured between the backends and on Python 3.11, 3.12 and 3.13: at most 1.4 u. For comparison, the three
# steps change the losses by 1 to 5 %, so updates that are wrong by a thousandth are found.
TOLERANCE = (STEPS - STOP) * 8 * 2.0**-24  # 1.4e-6


class Run(NamedTuple):
    """A copy of a run, which tests may change, and what was expected of it when it was made."""

    name: str
    directory: Path
    expected: dict[str, Any]


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Each run in turn, with the working directory that its settings mean when they name a text."""
    kept = FOLDER / request.param
    monkeypatch.chdir(FOLDER)
    copy = shutil.copytree(kept / "run", tmp_path / "run")
    return Run(request.param, copy, json.loads((kept / "expected.json").read_text(encoding="utf-8")))


@pytest.fixture(params=["python", "numpy"])
def usable(request: pytest.FixtureRequest) -> str:
    """A backend that can run here; the fixture `backend`, of the specification, is what --backend names."""
    return needed(request.param)


def needed(backend: str) -> str:
    """A backend's name; skips the test where it is not installed, and fails where it is and does not work."""
    if backend == "numpy":
        pytest.importorskip("numpy")
        if not [each for each in distributions() if each.metadata["Name"] == "tinygpt-accel"]:
            pytest.skip("tinygpt-accel is not installed")
    backends.get(backend)
    return backend


def is_exact(run: Run, backend: str) -> bool:
    """Whether computing gives the same bits here as where the run was made."""
    return sys.version_info[:2] == (3, 11) and backend == "python" == settings(run.name).backend


def saved_state(directory: Path) -> Any:
    return json.loads((directory / "state.json").read_text(encoding="utf-8"))["state"]


def test_a_checkpoint_is_read_to_the_bit(run: Run) -> None:
    found = load_checkpoint(run.directory)
    assert digests(found.model_tensors) == run.expected["parameters"]
    assert digests(found.optimizer_tensors) == run.expected["optimizer"]
    assert found.state == saved_state(run.directory) and found.state["step"] == STOP
    assert TrainingConfig.from_dict(found.config["training"]) == settings(run.name)


def test_a_tokenizer_is_read_and_means_the_same(run: Run) -> None:
    expected = run.expected["tokenizer"]
    for found in (load_checkpoint(run.directory).tokenizer, load_tokenizer(run.directory / "tokenizer")):
        assert found.vocab_size == expected["vocab_size"]
        assert found.special_tokens == expected["special_tokens"]
        assert found.encode(expected["sample"]) == expected["ids"]
        assert found.decode(expected["ids"]) == expected["sample"]


def test_a_model_is_read_to_the_bit(run: Run, usable: str) -> None:
    model, _, config = load_model(str(run.directory), usable)
    assert parameters(model) == run.expected["parameters"]
    on_disk = json.loads((run.directory / "config.json").read_text(encoding="utf-8"))
    assert config["model"] == on_disk["model"] == model.config.to_dict() | on_disk["model"]


def test_a_model_writes_the_same_texts(run: Run, usable: str) -> None:
    # On every backend: a last bit matters only where a random number meets the edge of a token's share.
    assert make_runs.texts(run.directory, usable) == run.expected["texts"]


def test_what_is_resumed_and_saved_is_the_same_run(run: Run) -> None:
    needed(settings(run.name).backend)
    before = {path.name: path.read_bytes() for path in run.directory.iterdir()}
    Trainer.resume(str(run.directory)).save()
    after = {path.name: path.read_bytes() for path in run.directory.iterdir()}
    assert set(after) == set(before)
    for name in ("model.safetensors", "optimizer.safetensors", "tokenizer", "log.jsonl"):
        assert after[name] == before[name], name
    # Something may have been added to the state or the settings since, but nothing lost or changed.
    old_state, new_state = (json.loads(files["state.json"])["state"] for files in (before, after))
    assert new_state | old_state == new_state
    old, new = json.loads(before["config.json"]), json.loads(after["config.json"])
    for part in ("training", "model", "data"):
        assert new[part] == new[part] | old[part]


def test_training_goes_on_as_it_would_have(run: Run, usable: str) -> None:
    log = (run.directory / "log.jsonl").read_bytes()
    is_own = usable == settings(run.name).backend
    trainer = Trainer.resume(str(run.directory), **({} if is_own else {"backend": usable}))
    assert trainer.step == STOP and trainer.config.backend == usable
    found, expected = follow(trainer), run.expected["continued"]
    assert (len(found["losses"]), len(found["validation"])) == (STEPS - STOP, 1)
    if is_exact(run, usable):
        assert found == {name: expected[name] for name in found}
        assert parameters(trainer.model) == expected["parameters"]
    else:
        for name, values in found.items():
            assert values == pytest.approx(expected[name], rel=TOLERANCE, abs=0), name
        assert list(parameters(trainer.model)) == list(expected["parameters"])
    lines = (run.directory / "log.jsonl").read_bytes()
    assert lines.startswith(log)
    steps = [line["step"] for line in map(json.loads, lines.splitlines()) if "loss" in line]
    assert steps == list(range(1, STEPS + 1))


def test_weights_in_json_are_read_to_the_bit() -> None:
    """What `save_weights` wrote, into a model that does not yet have those weights."""
    kept = FOLDER / "documents"
    config = load_model(str(kept / "run"), "python")[0].config
    expected = json.loads((kept / "expected.json").read_text(encoding="utf-8"))["parameters"]
    with backends.use("python"):
        model = GPT(config)
        assert parameters(model) != expected
        model.load_weights(FOLDER / "files" / "weights.json")
    assert parameters(model) == expected


def test_weights_in_json_are_written_as_they_were(tmp_path: Path) -> None:
    load_model(str(FOLDER / "documents" / "run"), "python")[0].save_weights(tmp_path / "weights.json")
    assert (tmp_path / "weights.json").read_bytes() == (FOLDER / "files" / "weights.json").read_bytes()


def test_a_tokenizer_in_a_model_file_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    expected = json.loads((FOLDER / "bpe" / "expected.json").read_text(encoding="utf-8"))["tokenizer"]
    tokenizer = BPETokenizer()
    tokenizer.load(FOLDER / "files" / "tokenizer.model")
    assert tokenizer.encode(expected["sample"]) == expected["ids"]
    assert tokenizer.special_tokens == {BOUNDARY: expected["vocab_size"]}
    tokenizer.save(str(tmp_path / "tokenizer"))
    for suffix in (".model", ".vocab"):
        written, kept = (folder / f"tokenizer{suffix}" for folder in (tmp_path, FOLDER / "files"))
        assert written.read_text("utf-8") == kept.read_text("utf-8")


def test_the_folders_are_small_and_complete() -> None:
    """They are in every clone; and Git ignores other folders called `runs`."""
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    kept = "config.json log.jsonl model.safetensors optimizer.safetensors state.json tokenizer"
    for name in RUNS:
        assert sorted(path.name for path in (FOLDER / name / "run").iterdir()) == kept.split()
