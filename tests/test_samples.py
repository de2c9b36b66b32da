"""Texts that a model writes while it trains, numbers as a table of CSV, and bits per byte."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mpi_runs import log_of
from small_runs import TINY_WITHOUT_COUNTING as TINY
from small_runs import WORDS, config_of_words
from test_cli import assert_refused, tinygpt

from tinygpt_core.cli import progress
from tinygpt_core.tokenizer import TokenizerError
from tinygpt_core.training import StepEvent, Trainer, TrainingConfig, prepare_data
from tinygpt_core.training.data import bits_per_byte
from tinygpt_core.training.loggers import COLUMNS, CSVLogger, find_logger, open_loggers


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    return config_of_words(
        tmp_path, steps=9, eval_every=3, eval_batches=1, checkpoint_every=4, batch_size=2, dropout=0.25
    )


def samples(run: Path) -> dict[int, str]:
    return {line["step"]: line["sample"] for line in log_of(run) if "sample" in line}


# ---- samples


def test_sampling_changes_nothing_else_and_is_resumed_to_the_bit(
    config: TrainingConfig, tmp_path: Path
) -> None:
    without, whole, parts = (tmp_path / name for name in ("without", "whole", "parts"))
    list(Trainer.start(config, str(without)).run())
    config = replace(config, sample_every=2, prompt="get_")
    list(Trainer.start(config, str(whole)).run())
    trainer = Trainer.start(config, str(parts))
    for event in trainer.run():
        trainer.stop_requested = event.step >= 5
    list(Trainer.resume(str(parts)).run())
    assert log_of(parts) == log_of(whole)
    assert [{k: v for k, v in line.items() if k != "sample"} for line in log_of(whole)] == log_of(without)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (whole / name).read_bytes() == (without / name).read_bytes() == (parts / name).read_bytes()
    found = samples(whole)
    assert list(found) == [2, 4, 6, 8] and all(text.startswith("get_") for text in found.values())
    assert len(set(found.values())) > 1


def test_a_prompt_that_the_tokenizer_does_not_know_is_refused_before_the_first_step(
    config: TrainingConfig, tmp_path: Path
) -> None:
    with pytest.raises(TokenizerError, match="日"):
        Trainer.start(replace(config, sample_every=2, prompt="日"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_samples_are_printed_and_logged(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(WORDS)
    options = ["names", "--data", "words.txt", *TINY, "--backend", "python", "--out", "run"]
    asked = ["--sample-every", "3", "--prompt", "set_", "--log-to", "csv"]
    done = tinygpt("train", *options, *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = samples(tmp_path / "run")
    assert list(found) == [3, 6]
    for step, text in found.items():
        assert f"step {step:>6}/6  sample\n    {text}\n" in done.stdout
    assert re.search(r"^that is \d\.\d{3} bits a byte", done.stdout, re.MULTILINE)
    more = tinygpt("train", "--resume", "run", "--steps", "8", "--sample-every", "8", cwd=tmp_path)
    assert more.returncode == 0 and list(samples(tmp_path / "run")) == [3, 6, 8]
    refused = tinygpt("train", *options[:-1], "other", "--sample-every", "1", "--prompt", "日", cwd=tmp_path)
    assert_refused(refused, "日")
    assert not (tmp_path / "other").exists()


def test_a_sample_moves_no_cursor_and_the_curve_is_drawn_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    config = SimpleNamespace(steps=100, time_budget=0.0)
    stream, trainer = Terminal(), SimpleNamespace(step=0, config=config, directory="nowhere")
    shown = progress.Progress(stream, trainer)  # type: ignore[arg-type]
    shown.show(StepEvent(1, 1.0, 0.1, 8, 0.1))
    assert shown.drawn
    shown.show(StepEvent(2, 1.0, 0.1, 8, 0.1, sample="one\x1b[2J\ntwo"))
    assert shown.drawn == [] and "\x1b[2J" not in stream.getvalue()
    text = stream.getvalue()
    assert (
        text.rsplit("\x1b[J", 1)[1].startswith("step      2/100  sample\n    one") and "\n    two\n" in text
    )


def test_loggers_that_take_texts_get_the_samples() -> None:
    texts: list[tuple[str, str, int]] = []

    class Numbers:
        def __init__(self, directory: str, settings: object, step: int) -> None:
            pass

        def write(self, scalars: dict[str, float], step: int) -> None:
            pass

        def close(self) -> None:
            pass

    class Texts(Numbers):
        def write_text(self, name: str, text: str, step: int) -> None:
            texts.append((name, text, step))

    with open_loggers([Numbers, Texts], "run", {}, 0) as log:
        log(StepEvent(1, 1.0, 0.1, 10, 0.1))
        log(StepEvent(2, 1.0, 0.1, 10, 0.1, sample="a text"))
    assert texts == [("sample", "a text", 2)]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_the_loggers_of_the_plug_in_take_texts(name: str) -> None:
    module = pytest.importorskip(f"tinygpt_accel.loggers.{name}")
    (kind,) = (value for key, value in vars(module).items() if key.endswith("Logger"))
    calls: list[tuple[Any, ...]] = []
    logger = object.__new__(kind)
    logger.writer = SimpleNamespace(add_text=lambda *given: calls.append(given))
    logger.run = SimpleNamespace(log=lambda numbers, step: calls.append((*numbers.popitem(), step)))
    logger.write_text("sample", "one\n# two", 7)
    ((found, text, step),) = calls
    assert (found, step) == ("sample", 7) and "# two" in text


# ---- CSV


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / CSVLogger.FILE, newline="") as file:
        return list(csv.DictReader(file))


def test_csv_says_what_the_log_says_also_after_a_kill(config: TrainingConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def train(trainer: Trainer, until: int) -> None:
        with open_loggers([find_logger("csv")], str(run), {}, trainer.step) as log:
            for event in trainer.run():
                log(event)
                if event.step >= until:
                    return  # as a kill: steps 5 and 6 are in the table, and not in a checkpoint

    train(Trainer.start(config, str(run)), 6)
    with open(run / CSVLogger.FILE, "a") as file:
        file.write("7,1.0")  # half a row
    train(Trainer.resume(str(run)), 99)
    names = {"loss/training": "loss", "loss/validation": "val_loss", "learning_rate": "learning_rate"}
    names["gradient_norm"] = "gradient_norm"
    expected = [(line["step"], {n: line.get(key) for n, key in names.items()}) for line in log_of(run)]
    found = [(int(row["step"]), {n: float(row[n]) if row[n] else None for n in names}) for row in rows(run)]
    assert found == expected and [step for step, _ in found][-1] == 9
    assert list(rows(run)[0]) == ["step", *COLUMNS]


def test_csv_of_an_earlier_run_in_the_directory_is_replaced(tmp_path: Path) -> None:
    (tmp_path / CSVLogger.FILE).write_text("anything\n5,1,1,1,1,1\r\n")
    CSVLogger(str(tmp_path), {}, 0).close()
    assert rows(tmp_path) == []


# ---- bits per byte


@pytest.mark.parametrize("tokenizer", ["characters", "bpe"])
@pytest.mark.parametrize("corpus", ["names", "text"])
def test_bits_per_byte_are_those_of_the_text(config: TrainingConfig, corpus: str, tokenizer: str) -> None:
    """Of a model that guesses evenly they are log2(kinds) for a token, over the bytes of a token."""
    data = prepare_data(replace(config, corpus=corpus, tokenizer=tokenizer, vocab_size=270, context_length=8))
    kinds = data.tokenizer.vocab_size
    num_tokens = sum(batch.num_targets for batch in data.validation_batches)
    specials = data.tokenizer.special_tokens.values()
    targets = [t for batch in data.validation_batches for t in batch.targets if t >= 0 and t not in specials]
    num_bytes = len(data.tokenizer.decode(targets).encode())
    found = bits_per_byte(data, math.log(kinds))
    assert found == pytest.approx(num_tokens * math.log2(kinds) / num_bytes, rel=1e-12)


def test_text_without_bytes_has_no_bits_a_byte(config: TrainingConfig) -> None:
    data = prepare_data(config)
    assert bits_per_byte(data._replace(validation_batches=[]), 1.0) is None
