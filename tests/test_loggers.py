"""What TensorBoard and Weights & Biases get of a run is what its log says, also after a kill and a resume."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tinygpt_core import cli
from tinygpt_core.training import loggers
from tinygpt_core.training.events import StepEvent, ValidationEvent

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = [
    "--steps",
    "6",
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
    "2",
    "--eval-batches",
    "1",
    "--checkpoint-every",
    "2",
    "--backend",
    "python",
]


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text(
        "".join(f"{a}{b}\n" for a in ("get", "set", "is") for b in ("name", "size", "path", "kind"))
    )
    return "words.txt"


def train(*arguments: str) -> int:
    return cli.main(["train", "names", *SETTINGS, "--quiet", *arguments])


def logged(key: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    return [(line["step"], line[key]) for line in lines if key in line]


def is_float32(values: list[tuple[int, float]]) -> list[tuple[int, object]]:
    return [(step, pytest.approx(value, rel=1e-6)) for step, value in values]


def test_tensorboard_shows_the_log_and_no_second_branch_after_a_resume(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboardX", reason='needs pip install . "./tinygpt_accel[tensorboard]"')
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from tinygpt_core.training import Trainer

    validate = Trainer.validate
    # It dies after step 6: its last checkpoint is that of step 4, and TensorBoard has seen 5 and 6
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", lambda self: validate(self) if self.step < 6 else 1 / 0)
        assert train("--data", words, "--out", "run", "--log-to", "tensorboard") == 1
    assert [step for step, _ in logged("loss")] == [1, 2, 3, 4, 5, 6]
    assert cli.main(["train", "--resume", "run", "--steps", "7", "--quiet", "--log-to", "tensorboard"]) == 0
    assert len(list(Path("run/tensorboard").iterdir())) == 2

    events = accumulator.EventAccumulator("run/tensorboard")
    events.Reload()
    curves = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    assert curves["loss/training"] == is_float32(logged("loss")) and len(curves["loss/training"]) == 7
    assert curves["loss/validation"] == is_float32(logged("val_loss"))
    assert curves["learning_rate"] == is_float32(logged("learning_rate"))
    assert curves["gradient_norm"] == is_float32(logged("gradient_norm"))
    ratios = [
        (step, {entry["name"]: entry["ratio"] for entry in parameters})
        for step, parameters in logged("parameters")
    ]
    name = "update_to_weight/embedding_layer.embeddings"
    assert (
        curves[name] == is_float32([(step, of["embedding_layer.embeddings"]) for step, of in ratios])
        and len(curves[name]) > 2
    )
    assert len(curves["tokens_per_second"]) == 7 and "settings/text_summary" in events.Tags()["tensors"]


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, in which wandb keeps an offline run: blocks of 32 KiB,
    after a header of 7 bytes.
    """
    place, record = 7, b""
    while place < len(data):
        left = 32768 - place % 32768
        if left >= 7:
            length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
            record += data[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):  # whole, or the last part
                yield record
                record = b""
        else:
            place += left  # padding


def test_wandb_gets_the_log(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason='needs pip install . "./tinygpt_accel[wandb]"')
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    assert train("--data", words, "--out", "run", "--log-to", "wandb") == 0
    (file,) = Path("run/wandb").glob("offline-run-*/*.wandb")
    losses, config = [], {}
    for data in log_records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        items = {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
        }
        if "loss/training" in items:
            losses.append((items["_step"], items["loss/training"]))
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    assert losses == logged("loss") and len(losses) == 6
    assert config["embedding_dim"] == 4


def test_a_logger_that_is_not_there_is_an_error_before_the_run_begins(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--data", words, "--out", "run", "--log-to", "paper") == 2
    errors = capsys.readouterr().err
    assert "'paper'" in errors and errors.count("\n") == 1 and not Path("run").exists()


def test_a_logger_whose_library_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("ours", "no_such_library_for_a_logger", loggers.ENTRY_POINT_GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point])
    with pytest.raises(
        RuntimeError,
        match=r'ours needs no_such_library_for_a_logger: pip install \. "\./tinygpt_accel\[ours\]" in',
    ):
        loggers.find_logger("ours")


def test_loggers_are_closed_when_a_run_fails(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinygpt_core.training import Trainer

    calls: list[object] = []

    class Kept:
        def __init__(self, directory: str, settings: object, step: int) -> None:
            calls.append(("opened", step))

        def write(self, scalars: dict[str, float], step: int) -> None:
            calls.append(step)

        def close(self) -> None:
            calls.append("closed")

    monkeypatch.setattr(loggers, "find_logger", lambda name: Kept)
    validate = Trainer.validate
    monkeypatch.setattr(Trainer, "validate", lambda self: validate(self) if self.step < 4 else 1 / 0)
    assert train("--data", words, "--out", "run", "--log-to", "kept") == 1
    assert calls == [("opened", 0), 1, 2, 2, 3, 4, "closed"]


def test_skipped_steps_are_counted() -> None:
    written: list[dict[str, float]] = []

    class Kept:
        def __init__(self, directory: str, settings: object, step: int) -> None:
            pass

        def write(self, scalars: dict[str, float], step: int) -> None:
            written.append(scalars)

        def close(self) -> None:
            pass

    def step(number: int, skipped: bool | None) -> StepEvent:
        return StepEvent(number, 1.0, 0.1, 10, 0.1, skipped=skipped)

    with loggers.open_loggers([Kept], "run", {}, 0) as log:
        for event in (step(1, None), step(2, True), ValidationEvent(2, 1.0), step(3, None), step(4, True)):
            log(event)
    assert [numbers.get("skipped_steps") for numbers in written] == [None, 1, None, 1, 2]
    with loggers.open_loggers([Kept], "run", {}, 4, skipped_steps=2) as log:
        log(step(5, None))
    assert written[-1]["skipped_steps"] == 2


def test_nothing_is_imported_until_a_logger_is_asked_for() -> None:
    code = (
        "import sys, tinygpt_core.cli as c; c.main(['train', '--help']); "
        "print(sorted({'wandb', 'tensorboardX'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
