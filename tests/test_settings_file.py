"""`train --config FILE` and `--show-config`: what is printed, given back, makes the same run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import TINY_WITHOUT_COUNTING as TINY
from small_runs import WORDS
from test_cli import assert_refused, tinygpt

from tinygpt_core import cli
from tinygpt_core.cli.messages import UsageError
from tinygpt_core.cli.settings_file import NAMES, read_settings, settings_text
from tinygpt_core.training import PRESETS, TrainingConfig
from tinygpt_core.training.config import SETTINGS
from tinygpt_core.training.settings import Setting


def settings(*arguments: str) -> TrainingConfig:
    return cli.settings_from(cli.build_parser().parse_args(["train", "--backend", "python", *arguments]))


def write(folder: Path, text: str) -> str:
    (folder / "run.toml").write_text(text, encoding="utf-8")
    return str(folder / "run.toml")


# ---- as real processes


def test_what_is_printed_makes_the_same_run(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(WORDS)
    options = [
        "names",
        "--data",
        "words.txt",
        *TINY,
        "--backend",
        "python",
        "--dropout",
        "0.1",
        "--seed",
        "5",
    ]
    shown = tinygpt("train", *options, "--show-config", cwd=tmp_path)
    assert shown.returncode == 0 and shown.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["words.txt"]  # nothing was trained
    (tmp_path / "run.toml").write_text(shown.stdout)
    for arguments in ([*options, "--out", "one"], ["--config", "run.toml", "--out", "two"]):
        assert tinygpt("train", *arguments, "--quiet", cwd=tmp_path).returncode == 0
    for name in ("config.json", "model.safetensors", "optimizer.safetensors", "state.json", "tokenizer"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    of_the_run = tinygpt("train", "--resume", "two", "--show-config", cwd=tmp_path)
    assert of_the_run.stdout == shown.stdout
    again = tinygpt("train", "--config", "run.toml", "--show-config", "--steps", "9", cwd=tmp_path)
    changed = [line for line in again.stdout.splitlines() if line not in shown.stdout.splitlines()]
    assert len(changed) == 1 and changed[0].startswith("steps = 9 ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layer = 2", ["run.toml", "unknown setting 'layer'", "did you mean 'layers'?"]),
        ("num_layers = 2", ["did you mean 'layers'?"]),
        ("loudness = 2", ["unknown setting 'loudness'", "--show-config"]),
        ("layers = 0", ["run.toml: layers must be from 1 to 2**24, not 0"]),
        ('layers = "two"', ["run.toml: layers must be int, not 'two'"]),
        ("layers = true", ["layers must be int"]),
        ("layers = {a = 1}", ["layers must be int"]),
        ("corpus = 7", ["corpus must be str"]),
        ('data = ""', ["data must not be empty"]),
        ('until = "soon"', ["until", "60s"]),
        ("learning-rate = nan", ["learning-rate", "nan"]),
        ("learning-rate = 1" + "0" * 400, ["learning-rate must be"]),
        ("heads = 3", ["--embedding-dim (16) must be divisible by --heads (3)"]),
        ("layers =", ["run.toml is no settings file in TOML"]),
        ("layers = 1\nlayers = 2", ["no settings file in TOML"]),
        ("layers = " + "[" * 100_000, ["no settings file in TOML"]),
        ('preset = "nonsense"', ["unknown preset 'nonsense'"]),
    ],
)
def test_a_file_that_does_not_work_gets_one_clear_line(
    tmp_path: Path, text: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--backend", "python", "--preset", "identifiers"][: 2 if "preset" in text else 4]
    assert cli.main(["train", *arguments, "--config", write(tmp_path, text)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("tinygpt: error: ") and printed.err.count("\n") == 1
    for word in words:
        assert word in printed.err


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    (tmp_path / "large").write_bytes(b"#" * 2_000_000)
    assert_refused(tinygpt("train", "--config", "missing", cwd=tmp_path), "missing")
    assert_refused(tinygpt("train", "--config", "binary", cwd=tmp_path), "binary")
    assert_refused(tinygpt("train", "--config", "large", cwd=tmp_path), "more than 1,048,576 bytes")
    assert_refused(tinygpt("train", "--config", "/dev/zero", cwd=tmp_path), "/dev/zero")
    assert_refused(tinygpt("train", "--resume", ".", "--config", "large", cwd=tmp_path), "--config")


# ---- what a file means


def test_options_override_the_file_and_the_file_the_preset(tmp_path: Path) -> None:
    file = write(tmp_path, 'preset = "debug"\nsteps = 7\nlayers = 2\ntied_head = true\nuntil = "2m"\n')
    config = settings("--config", file, "--layers", "3")
    debug = PRESETS["debug"].config
    assert (config.preset, config.steps, config.num_layers, config.time_budget) == ("debug", 7, 3, 120.0)
    assert config.tied_head and config.embedding_dim == debug.embedding_dim
    assert (
        settings("--config", file, "--preset", "text").embedding_dim == PRESETS["text"].config.embedding_dim
    )


def test_a_corpus_on_the_command_line_takes_no_data_from_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, 'corpus = "names"\ndata = "names.txt"\n')
    config = settings("--config", file)
    assert config.corpus == "names" and config.data_file == str(Path("names.txt").absolute())
    config = settings("shakespeare", "--config", file)
    assert (config.corpus, config.data_file) == ("shakespeare", None)
    config = settings("--data", "other.txt", "--config", file)
    assert (config.corpus, config.data_file) == ("names", str(Path("other.txt").absolute()))


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_every_setting_has_its_options_name_and_is_printed_with_what_it_is(setting: Setting) -> None:
    if setting.option:
        assert f"--{NAMES[setting.name]}" == setting.option
    text = settings_text(TrainingConfig(data_file="/a"))
    assert sum(
        line.startswith(f"{NAMES[setting.name]} = ") and line.endswith(setting.help)
        for line in text.splitlines()
    ) == (setting.default is not None or setting.name == "data_file")


@given(
    data_file=st.none() | st.text(min_size=1),
    learning_rate=st.floats(min_value=math.ulp(0.0), max_value=1e6),
    gradient_clip=st.floats(min_value=math.ulp(0.0)),
    seed=st.integers(0, 2**64 - 1),
    tied_head=st.booleans(),
    ngram_tables=st.lists(st.integers(1, 2**24)).map(tuple),
)
def test_a_file_says_every_setting_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, **changes: object
) -> None:
    config = replace(PRESETS["baby"].config, minimum_learning_rate=0.0, **changes)  # type: ignore[arg-type]
    found = read_settings(write(tmp_path_factory.getbasetemp(), settings_text(config)))
    assert TrainingConfig(**found) == config
    assert json.dumps(TrainingConfig(**found).to_dict()) == json.dumps(config.to_dict())


def test_a_path_that_is_no_utf_8_cannot_stand_in_a_file() -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        settings_text(TrainingConfig(data_file="/\udcff"))
