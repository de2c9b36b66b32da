"""What becomes of runs when several begin at once, when one dies, and when somebody else writes in them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import stat
import subprocess
import sys
import tracemalloc
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinygpt_core import Tensor, backends
from tinygpt_core.cli.plotting.curves import read_run
from tinygpt_core.dataset import TokenStream
from tinygpt_core.explain.history import read_log
from tinygpt_core.files.atomic import atomic_write, write_durably
from tinygpt_core.files.json_objects import read_json_object
from tinygpt_core.files.safetensors import read_safetensors_header
from tinygpt_core.training import PRESETS, Trainer, TrainingConfig, checkpoint, load_model
from tinygpt_core.training.checkpoint import CheckpointError, load_checkpoint
from tinygpt_core.training.events import StepEvent
from tinygpt_core.training.loop import learning_rate_schedule
from tinygpt_core.training.memory import least_memory
from tinygpt_core.training.settings import SettingError

ROOT = Path(__file__).resolve().parent.parent
TEXT = "the cat sat on the mat. " * 100
SMALL = ["--preset", "debug", "--context-length", "16", "--data", "text.txt", "--backend", "python"]


def begin(*arguments: object, cwd: Path, code: str = "") -> subprocess.Popen[str]:
    """A process of the command line; `code` is run in it before."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TINYGPT_")}
    environment["PYTHONPATH"] = str(ROOT)
    call = "import sys; from tinygpt_core.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", f"{code}\n{call}", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code and what was said of errors."""
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture
def config(place: Path) -> TrainingConfig:
    return replace(
        PRESETS["debug"].config, corpus="text", data_file=str(place / "text.txt"), context_length=8, steps=6
    )


# ---- begun together

# Whoever has chosen a directory waits for the others to have chosen theirs
TOGETHER = """
import os, time
from tinygpt_core.training import loop
prepare = loop.prepare_data
def slowly(*arguments):
    time.sleep(1.5)
    return prepare(*arguments)
loop.prepare_data = slowly
from tinygpt_core.cli import train
train.time.strftime = lambda form: "now"
"""


def test_three_seeds_that_begin_at_once_are_three_runs(place: Path) -> None:
    processes = [
        begin("train", *SMALL, "--seed", seed, "--quiet", cwd=place, code=TOGETHER) for seed in (1, 2, 3)
    ]
    assert [finish(process) for process in processes] == [(0, "")] * 3
    runs = [path for path in (place / "runs").iterdir() if path.name != "latest"]
    seeds = [load_checkpoint(run).config["training"]["seed"] for run in runs]
    assert sorted(seeds) == [1, 2, 3]
    for run in runs:
        assert (run / "log.jsonl").read_text().count('"loss"') == 20
    assert (place / "runs" / "latest" / "state.json").exists()


def test_one_directory_is_given_to_one_of_two(place: Path) -> None:
    processes = [
        begin("train", *SMALL, "--seed", seed, "--out", "run", "--quiet", cwd=place, code=TOGETHER)
        for seed in (1, 2)
    ]
    results = sorted(finish(process) for process in processes)
    assert results[0] == (0, "")
    code, said = results[1]
    assert code == 1 and "going on in another process" in said and said.count("\n") == 1
    assert (place / "run" / "log.jsonl").read_text().count('"loss"') == 20


def test_whoever_was_overtaken_is_told(config: TrainingConfig, tmp_path: Path) -> None:
    """Two have read one checkpoint, and the first has gone on."""
    directory = str(tmp_path / "run")
    Trainer.start(config, directory)
    first = Trainer.resume(directory)
    second = Trainer.resume(directory)
    list(first.run())
    log = (tmp_path / "run" / "log.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="another process has trained"):
        list(second.run())
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == log


# ---- that die


def dies(call: str, name: str, time: int = 1) -> str:
    """Code after which a process dies at a call of a function of `os` with a path of that name."""
    return f"""
import os
real, left = os.{call}, [{time}]
def dying(path, *others):
    left[0] -= os.path.basename(os.fspath(path)).startswith({name!r})
    if left[0] == 0:
        os._exit(9)
    return real(path, *others)
os.{call} = dying
"""


def test_death_between_the_renames_of_the_last_checkpoint(place: Path) -> None:
    code = dies("replace", "config.json.next", time=3)
    assert finish(begin("train", *SMALL, "--out", "run", "--quiet", cwd=place, code=code))[0] == 9
    run = place / "run"
    assert (run / "model.safetensors.next").exists()
    for name in (".state.json.0123.tmp", ".log.jsonl.0123.tmp"):
        (run / name).write_text("half")
    expected = (run / "model.safetensors.next").read_bytes()
    assert finish(begin("train", "--resume", "run", "--quiet", cwd=place)) == (0, "")
    assert (run / "model.safetensors").read_bytes() == expected
    assert sorted(os.listdir(run)) == sorted([*checkpoint.FILES, "log.jsonl", "state.json"])


def test_killed_before_the_first_checkpoint_it_begins_again_with_its_settings(place: Path) -> None:
    code = dies("replace", ".state.json")
    settings = [*SMALL, "--seed", 5, "--steps", 7, "--quiet"]
    assert finish(begin("train", *settings, "--out", "killed", cwd=place, code=code))[0] == 9
    assert "state.json" not in os.listdir(place / "killed")
    code, said = finish(begin("train", "--resume", "killed", "--quiet", cwd=place))
    assert code == 0 and "ended before its first checkpoint: it begins again" in said
    assert finish(begin("train", *settings, "--out", "whole", cwd=place)) == (0, "")
    for name in ("config.json", "model.safetensors"):
        assert (place / "killed" / name).read_bytes() == (place / "whole" / name).read_bytes()
    assert sorted(os.listdir(place / "killed")) == sorted(os.listdir(place / "whole"))


def test_a_directory_of_a_run_without_a_checkpoint_can_be_used_again(place: Path) -> None:
    code = dies("replace", ".state.json")
    assert finish(begin("train", *SMALL, "--out", "run", "--quiet", cwd=place, code=code))[0] == 9
    assert finish(begin("train", *SMALL, "--out", "run", "--quiet", cwd=place)) == (0, "")
    assert sorted(os.listdir(place / "run")) == sorted([*checkpoint.FILES, "log.jsonl", "state.json"])


def test_a_first_checkpoint_that_fails_leaves_nothing(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match=r"beginning\.json"):
            Trainer.start(config, str(tmp_path / "made" / "run"))
        assert not (tmp_path / "made").exists()
        (tmp_path / "empty").mkdir()
        patch.undo()
        patch.setattr(checkpoint, "write_durably", failing(OSError(28, "No space left on device")))
        with pytest.raises(CheckpointError, match="No space left"):
            Trainer.start(config, str(tmp_path / "empty"))
        assert os.listdir(tmp_path / "empty") == []
    assert Trainer.start(config, str(tmp_path / "empty")).step == 0


def failing(problem: Exception) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        raise problem

    return call


# ---- that somebody has changed


def change_state(run: Path, change: Callable[[dict[str, Any]], None], *, mend: bool) -> None:
    """Changes the run's own state in state.json, and mends its digest, or leaves it out as runs of before."""
    whole = json.loads((run / "state.json").read_text())
    change(whole["state"])
    if mend:
        text = json.dumps(whole["state"], sort_keys=True, separators=(",", ":"))
        whole["state_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    else:
        whole.pop("state_sha256")
    (run / "state.json").write_text(json.dumps(whole))


@pytest.mark.parametrize("mend", [True, False], ids=["mended digest", "no digest"])
@pytest.mark.parametrize("step", [-5, 3.5, True, 5, 7, 2**70, "6", None])
def test_a_step_that_cannot_be_is_refused(
    config: TrainingConfig, tmp_path: Path, step: object, mend: bool
) -> None:
    run = tmp_path / "run"
    list(Trainer.start(config, str(run)).run())
    change_state(run, lambda state: state.update(step=step), mend=mend)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(CheckpointError, match="step"):
        Trainer.resume(str(run), steps=9)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_state_that_was_changed_is_noticed(config: TrainingConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    Trainer.start(config, str(run))
    text = (run / "state.json").read_text()
    (run / "state.json").write_text(text.replace('"position": 0', '"position": 8', 1))
    with pytest.raises(CheckpointError, match=r"state.json does not have the SHA-256"):
        load_checkpoint(run)


# ---- gradients and weights that are not finite


def poison(trainer: Trainer, *steps: int) -> None:
    """Makes the loss finite and one gradient infinite at these steps."""
    loss = trainer.total_loss

    def poisoned(batch: Any) -> Any:
        value = loss(batch)
        if trainer.step + 1 in steps:
            weights = trainer.model.named_parameters()[0][1]
            weights.grad = Tensor(type(weights.buffer).full(weights.shape, math.inf, weights.dtype))
        return value

    trainer.total_loss = poisoned  # type: ignore[method-assign]


@pytest.mark.parametrize("chosen", ["python", "numpy"])
def test_a_step_with_an_infinite_gradient_changes_nothing(
    config: TrainingConfig, tmp_path: Path, chosen: str
) -> None:
    if backends.why_not(chosen):
        pytest.skip(backends.why_not(chosen) or "")
    trainer = Trainer.start(replace(config, backend=chosen, checkpoint_every=1), str(tmp_path / "run"))
    poison(trainer, 3)
    bits = []
    for event in trainer.run():
        if isinstance(event, StepEvent):
            weights = [tensor.buffer.to_array() for _, tensor in trainer.model.named_parameters()]
            moments = [buffer.to_array() for buffer in trainer.optimizer.state_dict().values()]
            bits.append((weights, moments, trainer.optimizer.step))
            assert event.skipped is (True if event.step == 3 else None)
    assert bits[1] == bits[2] and bits[2] != bits[3]
    assert [step for _, _, step in bits] == [1, 2, 2, 3, 4, 5]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("skipped")] == [3]
    resumed = Trainer.resume(str(tmp_path / "run"))
    assert (resumed.step, resumed.skipped_steps, resumed.optimizer.step) == (6, 1, 5)


def test_steps_that_changed_nothing_are_counted_from_none_to_all(
    config: TrainingConfig, tmp_path: Path
) -> None:
    """Of earlier versions, which did not count them, there were none."""
    run = tmp_path / "run"
    trainer = Trainer.start(config, str(run))
    poison(trainer, 1, 2, 3)
    for event in trainer.run():
        trainer.stop_requested = event.step == 3
    resumed = Trainer.resume(str(run))
    assert (resumed.step, resumed.skipped_steps, resumed.skipped_in_a_row) == (3, 3, 3)
    assert resumed.optimizer.step == 0
    list(resumed.run())
    assert (resumed.skipped_steps, resumed.skipped_in_a_row) == (3, 0)
    early = tmp_path / "early"
    list(Trainer.start(config, str(early)).run())
    for name in ("skipped_steps", "skipped_in_a_row"):
        change_state(early, lambda state: state.pop(name), mend=True)  # noqa: B023
    resumed = Trainer.resume(str(early))
    assert (resumed.step, resumed.skipped_steps, resumed.skipped_in_a_row) == (6, 0, 0)


@pytest.mark.parametrize("name", ["skipped_steps", "skipped_in_a_row"])
@pytest.mark.parametrize("count", [-1, 7, 1.0, True, "0", None])
def test_a_count_of_steps_that_cannot_be_is_refused(
    config: TrainingConfig, tmp_path: Path, name: str, count: object
) -> None:
    run = tmp_path / "run"
    list(Trainer.start(config, str(run)).run())
    change_state(run, lambda state: state.update({name: count}), mend=True)
    with pytest.raises(CheckpointError, match=f"its {name} must be an integer from 0 to 6"):
        Trainer.resume(str(run))


def test_many_such_steps_in_a_row_end_the_run(config: TrainingConfig, tmp_path: Path) -> None:
    trainer = Trainer.start(replace(config, steps=40), str(tmp_path / "run"))
    poison(trainer, *range(5, 8), *range(9, 40))
    with pytest.raises(ArithmeticError, match=r"10 steps in a row, up to step 18: try a learning rate"):
        list(trainer.run())
    assert trainer.skipped_steps == 13


def test_a_finite_checkpoint_is_not_replaced_by_another(config: TrainingConfig, tmp_path: Path) -> None:
    trainer = Trainer.start(config, str(tmp_path / "run"))
    name, weights = trainer.model.named_parameters()[-1]
    weights.buffer = type(weights.buffer).full(weights.shape, math.nan, weights.dtype)
    trainer.step = 4
    with pytest.raises(ArithmeticError, match=f"{name} is not finite at step 4.*checkpoint of step 0"):
        trainer.save()
    assert Trainer.resume(str(tmp_path / "run")).step == 0


# ---- more steps


def rates(trainer: Trainer) -> list[float]:
    return [event.learning_rate for event in trainer.run() if isinstance(event, StepEvent)]


def test_more_steps_stretch_the_cosine_and_say_so(config: TrainingConfig, tmp_path: Path) -> None:
    directory = str(tmp_path / "run")
    first = rates(Trainer.start(config, directory))
    assert first == [learning_rate_schedule(config)(step) for step in range(6)]
    with pytest.warns(UserWarning, match=r"9 steps in place of 6 stretch.*--decay-steps 6"):
        trainer = Trainer.resume(directory, steps=9)
    stretched = learning_rate_schedule(replace(config, steps=9))
    assert rates(trainer) == [stretched(step) for step in range(6, 9)]


def test_the_end_of_the_cosine_can_be_kept_and_is_remembered(
    config: TrainingConfig, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """A run that is stopped and resumed goes on with the rates that were chosen."""
    directory = str(tmp_path / "run")
    list(Trainer.start(config, directory).run())
    trainer = Trainer.resume(directory, steps=10, decay_steps=6)
    found = []
    for event in trainer.run():
        if isinstance(event, StepEvent):
            found.append(event.learning_rate)
            trainer.stop_requested = event.step == 8
    again = Trainer.resume(directory)
    assert again.config.decay_steps == 6
    assert found + rates(again) == [config.minimum_learning_rate] * 4
    assert not [str(each.message) for each in recwarn if "stretch" in str(each.message)]


def test_settings_of_before_have_no_end_of_the_cosine() -> None:
    """Nor have those of now where it is the last step: earlier versions can read them."""
    values = TrainingConfig().to_dict()
    assert "decay_steps" not in values and TrainingConfig.from_dict(values) == TrainingConfig()
    assert TrainingConfig.from_dict(TrainingConfig(decay_steps=7).to_dict()).decay_steps == 7


# ---- files that somebody cuts, removes or puts in the place of others


def test_ids_that_are_cut_are_an_error(tmp_path: Path) -> None:
    """And do not end the process, as they would if they were mapped into memory."""
    path = tmp_path / "train.bin"
    path.write_bytes(array("H", range(50_000)).tobytes())
    stream = TokenStream.open(path, "H", 50_000)
    part = stream.view(40_000, 50_000)
    assert stream[49_999] == 49_999 and list(part[1:3]) == [40_001, 40_002] and len(part) == 10_000
    os.truncate(path, 4096)
    assert stream[2047] == 2047
    for read in (lambda: stream[2048], lambda: part.int32(0, 5), lambda: stream[2000:2100]):
        with pytest.raises(ValueError, match=r"train\.bin was cut while it was in use"):
            read()


def test_a_log_that_is_removed_is_told_and_begun_again(config: TrainingConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    events = Trainer.start(config, str(run)).run()
    next(events)
    (run / "log.jsonl").unlink()
    with pytest.warns(UserWarning, match=r"log\.jsonl was removed or replaced"):
        next(events)
    list(events)
    assert json.loads((run / "log.jsonl").read_text().splitlines()[0])["step"] == 2


def test_a_directory_that_is_removed_ends_the_run_and_loses_no_step(
    config: TrainingConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    events = Trainer.start(config, str(run)).run()
    next(events)
    shutil.rmtree(run)
    with pytest.raises(CheckpointError, match=r"was removed while the run went on.*step 2 was written"):
        next(events)
    assert Trainer.resume(str(run)).step == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
@pytest.mark.parametrize("name", ["log.jsonl", "config.json", "state.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_in_a_run_is_refused(
    config: TrainingConfig, tmp_path: Path, name: str, kind: str
) -> None:
    run = tmp_path / "run"
    list(Trainer.start(config, str(run)).run())
    (run / name).unlink()
    if kind == "pipe":
        os.mkfifo(run / name)
    else:
        (run / name).symlink_to("/dev/zero")
    with pytest.raises(
        ValueError, match=name.replace(".", r"\.") if name != "state.json" else "no checkpoint"
    ):
        list(Trainer.resume(str(run), steps=9, decay_steps=6).run())
    if name == "log.jsonl":
        with pytest.raises(ValueError, match="is a pipe or a device"):
            read_run(str(run))
    elif name == "model.safetensors":
        with pytest.raises(ValueError, match="is a pipe or a device"):
            read_safetensors_header(run / name)
    else:
        with pytest.raises(ValueError, match="is a pipe or a device"):
            read_json_object(run / name)


def test_integers_beyond_floats_in_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 1' + "0" * 400 + "}\n")
    assert read_log(str(log))["log"]["loss"] == [2.5]


# ---- what atomic_write says


def test_errors_name_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    """And not the temporary one beside it; of a full disk the system names none."""
    (tmp_path / "folder").mkdir()
    os.symlink("loop", tmp_path / "loop")
    for path in (tmp_path / "folder", tmp_path / "nowhere" / "x", tmp_path / "loop", Path("/dev/full")):
        if path == Path("/dev/full") and not path.exists():
            continue
        with pytest.raises(OSError) as failed:
            atomic_write(path, b"x")
        assert failed.value.filename == str(path) and failed.value.filename2 is None
    assert sorted(os.listdir(tmp_path)) == ["folder", "loop"]


# ---- what atomic_write replaces


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    atomic_write(tmp_path / "link", b"newer", replace_anything=True)
    assert not (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_and_a_device_are_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert atomic_write(tmp_path / "pipe", b"drawing").size == 7
    assert os.read(reader, 99) == b"drawing" and stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    os.close(reader)
    (tmp_path / "null").symlink_to("/dev/null")
    atomic_write(tmp_path / "null", b"drawing")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode) and os.listdir(tmp_path) != []


def test_temporary_names_cannot_be_foreseen_and_follow_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()
    real = os.replace

    def replace(old: str, new: str) -> None:
        names.add(os.path.basename(old))
        real(old, new)

    monkeypatch.setattr(os, "replace", replace)
    atomic_write(tmp_path / "t", b"1")
    atomic_write(tmp_path / "t", b"2")
    assert len(names) == 2
    monkeypatch.setattr(os, "urandom", bytes)  # zeros, as an attacker might guess
    (tmp_path / "victim").write_text("kept")
    (tmp_path / f".t.{'00' * 8}.tmp").symlink_to("victim")
    with pytest.raises(FileExistsError):
        atomic_write(tmp_path / "t", b"3")
    (tmp_path / "next").symlink_to("victim")
    with pytest.raises(OSError, match="next"):
        write_durably(tmp_path / "next", b"3")
    assert (tmp_path / "victim").read_text() == "kept" and (tmp_path / "t").read_text() == "2"


# ---- names


def test_a_corpus_whose_name_is_no_utf_8(config: TrainingConfig, tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    Path(path).write_text(TEXT)
    run = str(tmp_path / "run")
    list(Trainer.start(replace(config, data_file=path), run).run())
    assert Trainer.resume(run).config.data_file == path


def test_a_prompt_is_utf_8_whatever_the_locale(place: Path) -> None:
    (place / "text.txt").write_text("caf\u00e9 " * 300, encoding="utf-8")
    assert finish(begin("train", *SMALL, "--out", "run", "--quiet", cwd=place))[0] == 0
    call = [sys.executable, "-m", "tinygpt_core", "generate", "run", "--tokens", "0", "--prompt"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    plain = environment | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    prompt = "caf\u00e9".encode()
    for each in (environment, plain):
        done = subprocess.run([*call, prompt], cwd=place, env=each, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() in (prompt, b"caf\\xe9")
    done = subprocess.run([*call, b"caf\xe9"], cwd=place, env=environment, capture_output=True)
    assert done.returncode == 2 and b"--prompt" in done.stderr and b"UTF-8" in done.stderr


# ---- sizes that nobody has


def forge_model(run: Path, **model: object) -> None:
    """Puts other sizes into a run's config.json, with a digest that fits."""
    config = json.loads((run / "config.json").read_text())
    config["model"] |= model
    (run / "config.json").write_text(json.dumps(config))
    whole = json.loads((run / "state.json").read_text())
    data = (run / "config.json").read_bytes()
    whole["files"]["config.json"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (run / "state.json").write_text(json.dumps(whole))


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_layers": 2**22},
        {"embedding_dim": 2**14, "vocab_size": 2**17},
        {"embedding_dim": 2**70},
        {"context_length": 2**40},
        {"num_layers": 2},
        {"hidden_dim": 33},
        {"rotary_base": 10**400},
    ],
)
def test_a_config_is_compared_with_the_weights_before_anything_is_made(
    config: TrainingConfig, tmp_path: Path, sizes: dict[str, object]
) -> None:
    run = tmp_path / "run"
    Trainer.start(config, str(run))
    forge_model(run, **sizes)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"run|rotary_base"):
            load_model(str(run))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "sizes",
    [
        {"batch_size": 999_999_999},
        {"num_layers": 10_000_000},
        {"embedding_dim": 2**24},
        {"context_length": 2**24, "batch_size": 100_000, "embedding_dim": 64},
    ],
)
def test_sizes_beyond_the_memory_are_refused_with_an_estimate(
    config: TrainingConfig, tmp_path: Path, sizes: dict[str, Any]
) -> None:
    with pytest.raises(SettingError, match=r"takes at least [\d,]+ GiB of memory, and there are"):
        Trainer.start(replace(config, **sizes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("gpt2-124m", "code-49m")])
def test_the_estimate_refuses_no_preset(name: str) -> None:
    config = PRESETS[name].config
    assert least_memory(config, config.vocab_size) < 2 * 2**30


@pytest.mark.parametrize("change", [{"optimizer": "muon"}, {"ema_decay": 0.9}])
def test_the_estimate_knows_what_an_optimizer_and_an_average_keep(
    config: TrainingConfig, tmp_path: Path, change: dict[str, Any]
) -> None:
    config = replace(config, embedding_dim=64, num_layers=2)

    def kept_and_estimated(config: TrainingConfig, name: str) -> tuple[int, float]:
        trainer = Trainer.start(config, str(tmp_path / name))
        kept = list(trainer.optimizer.state_dict().values())
        if trainer.average is not None:
            kept += [tensor.buffer for _, tensor in trainer.average.model.named_parameters()]
        estimate = least_memory(config, trainer.data.tokenizer.vocab_size) / 4
        return sum(buffer.numel for buffer in kept), estimate

    kept, estimate = kept_and_estimated(replace(config, **change), "changed")
    kept_before, estimate_before = kept_and_estimated(config, "plain")
    difference = kept - kept_before  # biases and scales are not estimated
    assert difference and 0.95 <= (estimate - estimate_before) / difference <= 1.0


def test_the_estimate_is_below_what_a_run_takes(config: TrainingConfig, tmp_path: Path) -> None:
    """Of memory that Python counts, so on the python backend."""
    config = replace(config, batch_size=16, context_length=32, embedding_dim=32, num_layers=2)
    tracemalloc.start()
    try:
        trainer = Trainer.start(config, str(tmp_path / "run"))
        trainer.train_step()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 1_000_000 < least_memory(config, trainer.data.tokenizer.vocab_size) < peak
