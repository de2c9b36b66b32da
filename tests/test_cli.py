"""The command line as a real process: `python -S -m tinygpt_core ...`, with nothing but the standard library.

What an option means is tested in this process.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import TINY, WORDS

from tinygpt_core import cli
from tinygpt_core.cli.options import OPTIONS, help_text
from tinygpt_core.training.settings import Range, Setting

ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str]:
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("TINYGPT_", "PYTHON", "COV_"))
    }
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def tinygpt(*arguments: object, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", "-m", "tinygpt_core", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, encoding="utf-8", timeout=120, **options
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small corpus and one finished run, `runs/tiny`."""
    place = tmp_path_factory.mktemp("place")
    (place / "words.txt").write_text(WORDS)
    (place / "prose.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    result = tinygpt("train", "names", "--data", "words.txt", "--out", "runs/tiny", *TINY, cwd=place)
    assert result.returncode == 0, result.stderr
    (place / "printed.txt").write_text(result.stdout)
    return place


def snapshot(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def assert_refused(result: subprocess.CompletedProcess[str], *words: str, code: int = 2) -> None:
    """One line on the error stream that holds the words, and nothing else."""
    assert result.returncode == code, (result.stdout, result.stderr)
    assert re.fullmatch(r"tinygpt: error: [^\n]+\n", result.stderr), result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    for word in words:
        assert word in result.stderr


# ---- train


def test_train_identifiers_with_nothing_installed(tmp_path: Path) -> None:
    result = tinygpt("train", *TINY, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs" / "latest"
    assert run.resolve().name.startswith("identifiers-")
    assert "20 samples" in result.stdout and "unigram entropy" in result.stdout
    assert f"generate {os.path.join('runs', run.resolve().name)}" in result.stdout


def test_a_run_holds_its_files(place: Path) -> None:
    names = {path.name for path in (place / "runs" / "tiny").iterdir()}
    assert names == {
        "config.json",
        "tokenizer",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "log.jsonl",
    }
    assert (place / "runs" / "latest" / "state.json").exists()


def test_the_log_has_one_object_a_step_and_one_a_validation(place: Path) -> None:
    lines = [json.loads(line) for line in (place / "runs" / "tiny" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "val_loss" in line]
    assert len(steps) + len(validations) == len(lines)
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in validations] == [3, 6]
    assert all(
        set(line) == {"step", "loss", "learning_rate", "tokens", "seconds", "gradient_norm", "parameters"}
        for line in steps
    )
    assert [set(line) for line in validations] == [{"step", "val_loss"}, {"step", "val_loss", "ladder"}]
    assert all(line["seconds"] > 0 and line["tokens"] > 0 and line["learning_rate"] > 0 for line in steps)


def test_a_pipe_gets_plain_lines(place: Path) -> None:
    printed = (place / "printed.txt").read_text()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", printed)
    assert re.search(r"^step +6/6  mean loss \d\.\d+  [\d,]+ tokens/s", printed, re.MULTILINE)
    assert re.search(r"^step +6/6  validation loss \d", printed, re.MULTILINE)


def test_quiet_shows_only_the_result(place: Path) -> None:
    result = tinygpt(
        "train", "names", "--data", "words.txt", "--out", "runs/quiet", "--quiet", *TINY, cwd=place
    )
    assert result.returncode == 0 and "tokens/s" not in result.stdout and "20 samples" in result.stdout


def test_any_text_file_is_a_stream(place: Path) -> None:
    result = tinygpt("train", "--data", "prose.txt", "--out", "runs/prose", *TINY, cwd=place)
    assert result.returncode == 0, result.stderr
    assert "a sample at temperature" in result.stdout
    result = tinygpt("generate", "runs/prose", "--prompt", "the ", "--tokens", "30", "--seed", "1", cwd=place)
    assert result.returncode == 0 and result.stdout.startswith("the ") and len(result.stdout) == 4 + 30 + 1


def test_byte_pair_tokens(place: Path) -> None:
    result = tinygpt(
        "train",
        "--data",
        "prose.txt",
        "--tokenizer",
        "bpe",
        "--vocab-size",
        "280",
        "--out",
        "runs/bpe",
        *TINY,
        cwd=place,
    )
    assert result.returncode == 0, result.stderr
    assert "of 280 kinds" in result.stdout


def test_two_runs_with_one_seed_are_the_same(place: Path) -> None:
    result = tinygpt("train", "names", "--data", "words.txt", "--out", "runs/again", *TINY, cwd=place)
    assert result.returncode == 0
    one, two = (json.loads((place / "runs" / name / "state.json").read_text()) for name in ("tiny", "again"))
    assert one == two  # it holds the digests of the weights and of the optimizer


# ---- resume


def test_resume_goes_on_with_more_steps(place: Path) -> None:
    arguments = ("names", "--data", "words.txt", "--out", "runs/longer", *TINY)
    assert tinygpt("train", *arguments, cwd=place).returncode == 0
    result = tinygpt("train", "--resume", "runs/longer", "--steps", "9", cwd=place)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (place / "runs" / "longer" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 10))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch-size", "3"], ["--batch-size", "--steps"]),
        (["names"], ["corpus 'names'"]),
        (["--out", "elsewhere"], ["--out"]),
        (["--steps", "2"], ["steps", "6"]),
    ],
)
def test_resume_refuses_other_settings(place: Path, arguments: list[str], words: list[str]) -> None:
    before = snapshot(place / "runs" / "tiny")
    assert_refused(tinygpt("train", "--resume", "runs/tiny", *arguments, cwd=place), *words)
    assert snapshot(place / "runs" / "tiny") == before


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_keeps_the_step_and_says_how_to_go_on(place: Path, tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    place = tmp_path
    (place / "words.txt").write_text(WORDS)
    arguments = [
        "train",
        "names",
        "--data",
        "words.txt",
        "--out",
        "runs/stopped",
        *TINY,
        "--steps",
        "100000",
        "--eval-every",
        "0",
    ]
    command = [sys.executable, "-S", "-m", "tinygpt_core", *arguments]
    process = subprocess.Popen(
        command,
        cwd=place,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        # Pytest in the background ignores it
        preexec_fn=lambda: signal.signal(
            number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
        ),
    )
    log = place / "runs" / "stopped" / "log.jsonl"
    wait_for(lambda: log.exists() and log.read_bytes().count(b"\n") >= 4)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    what = "Ctrl-C" if name == "SIGINT" else name
    step = json.loads((place / "runs" / "stopped" / "state.json").read_text())["state"]["step"]
    assert errors.startswith(f"tinygpt: error: stopped by {what} at step {step},") and errors.count("\n") == 1
    assert "train --resume runs/stopped" in errors
    assert log.read_bytes().count(b"\n") == step


def wait_for(condition: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "the process under test did not get that far"
        time.sleep(0.01)


# ---- generate


def test_generate_documents_one_a_line(place: Path) -> None:
    result = tinygpt(
        "generate", "runs/tiny", "--prompt", "get", "--count", "5", "--tokens", "12", "--seed", "3", cwd=place
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 5 and all(line.startswith("get") and len(line) <= 15 for line in lines)
    again = tinygpt(
        "generate", "runs/tiny", "--prompt", "get", "--count", "5", "--tokens", "12", "--seed", "3", cwd=place
    )
    assert again.stdout == result.stdout


def test_generate_greedily(place: Path) -> None:
    result = tinygpt(
        "generate",
        "runs/tiny",
        "--temperature",
        "0",
        "--count",
        "2",
        "--top-k",
        "1",
        "--top-p",
        "0.5",
        cwd=place,
    )
    first, second = result.stdout.splitlines()
    assert first == second


def test_generate_is_quiet_when_its_reader_leaves(place: Path) -> None:
    command = f"'{sys.executable}' -S -m tinygpt_core generate runs/tiny --count 2000 --tokens 5 | head -n 1"
    result = subprocess.run(
        ["sh", "-c", command], cwd=place, env=environment(), capture_output=True, encoding="utf-8", timeout=60
    )
    assert result.stdout.count("\n") == 1 and result.stderr == ""


# ---- the rest


def test_backends(tmp_path: Path) -> None:
    result = tinygpt("backends", cwd=tmp_path)
    assert result.returncode == 0 and re.search(r"^python ", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", [[], ["train"], ["generate"], ["backends"], ["spec"]])
def test_help(tmp_path: Path, command: list[str]) -> None:
    result = tinygpt(*command, "--help", cwd=tmp_path)
    assert result.returncode == 0 and result.stdout.startswith("usage: python3 -m tinygpt_core")
    options = re.findall(r"^  (--[a-z-]+)[^\n]*(?:\n {15,}[^\n]*)*", result.stdout, re.MULTILINE)
    texts = re.findall(r"^  --[a-z-]+[^\n]*(?:\n {15,}[^\n]*)*", result.stdout, re.MULTILINE)
    without = [
        o
        for o, text in zip(options, texts, strict=True)
        if "default" not in text and o not in ("--resume", "--version")
    ]
    assert not without, f"no default is stated for {without}"


def test_no_command_is_help(tmp_path: Path) -> None:
    """With another exit code, since nothing was done."""
    result = tinygpt(cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, "")
    assert result.stdout == tinygpt("--help", cwd=tmp_path).stdout


def test_spec_without_pytest_says_what_to_install(tmp_path: Path) -> None:
    assert_refused(tinygpt("spec", "--backend", "python", cwd=tmp_path), "pip install", code=1)


# ---- options are settings


def parsed(*arguments: str) -> argparse.Namespace:
    return cli.build_parser().parse_args(["train", *arguments])


@pytest.mark.parametrize("setting", cli.SETTINGS, ids=lambda setting: setting.option)
def test_every_option_is_listed_with_what_it_is_and_its_default(setting: Setting) -> None:
    help_page = " ".join(subparser("train").format_help().split())
    value = f", --no-{setting.option[2:]}" if setting.type == "bool" else f" {setting.metavar}"
    assert f"{setting.option}{value} {' '.join(help_text(setting).split())}" in help_page
    assert setting.help in help_text(setting) and "(default: " in help_text(setting)


def subparser(name: str) -> argparse.ArgumentParser:
    (commands,) = (each for each in cli.build_parser()._actions if isinstance(each.choices, dict))
    found: argparse.ArgumentParser = commands.choices[name]  # type: ignore[index]
    return found


@pytest.mark.parametrize("setting", cli.SETTINGS, ids=lambda setting: setting.option)
def test_every_option_sets_its_setting(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPT_BACKEND", "python")
    others = {"preset": "debug", "backend": "python", "data_file": __file__, "tokenizer": "bpe"}
    others |= {"init_from": os.path.realpath(__file__), "prompt": "get", "lora_targets": "q_proj"}
    beside = []  # what a setting of adapters needs, or of conversations, or of experts
    if setting.name in ("chat_template", "packing"):
        beside = ["--data", "x.jsonl"]
    if setting.name == "num_experts":
        beside = ["--experts-per-token", "1"]  # at most as many
    if setting.name in ("experts_per_token", "balance_loss", "router_z_loss"):
        beside = ["--experts", "4"]
    if setting.name.startswith("lora"):
        beside = ["--init-from", __file__, *(["--lora", "2"] if setting.name != "lora_rank" else [])]
    value = others.get(setting.name, setting.default)
    if setting.type == "tuple[int, ...]":
        config = cli.settings_from(parsed(setting.option, "64,128"))
        assert getattr(config, setting.name) == (64, 128) != setting.default
        return
    if setting.type == "bool":
        for option in (setting.option, f"--no-{setting.option[2:]}"):
            config = cli.settings_from(parsed(option, *beside))
            assert getattr(config, setting.name) == (option == setting.option)
        return
    if isinstance(setting.allowed, tuple):
        value = setting.allowed[-1]
    elif isinstance(setting.allowed, Range):
        value = 2 * setting.default if setting.default else 0.5  # no number is none, as 0 is
        value = math.ceil(value) if setting.type.startswith("int") else value
    config = cli.settings_from(parsed(setting.option, str(value), *beside))
    assert value != setting.default or setting.name == "backend"
    assert getattr(config, setting.name) == value


@pytest.mark.parametrize(
    "setting",
    [each for each in cli.SETTINGS if isinstance(each.allowed, (Range, tuple))],
    ids=lambda setting: setting.option,
)
def test_an_error_speaks_of_the_option(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of nothing else: `warmup_--steps must be 0 or more` once came of replacing names in the message."""
    monkeypatch.setenv("TINYGPT_BACKEND", "python")
    if isinstance(setting.allowed, Range):
        number = float if setting.type.startswith("float") else int
        values = [number(setting.allowed.low - 1), number(2 * setting.allowed.high)]
        written = [(value,) if setting.type == "tuple[int, ...]" else value for value in values]
        expected = [f"{setting.option} must be {setting.allowed.text}, not {value}" for value in written]
        if setting.allowed.high == math.inf:
            values.pop()
    else:
        assert setting.allowed is not None
        values = ["nonsense"]
        expected = [f"{setting.option} must be one of {', '.join(setting.allowed)}, not 'nonsense'"]
    for value, message in zip(values, expected, strict=False):
        with pytest.raises(cli.UsageError) as caught:
            cli.settings_from(parsed(f"{setting.option}={value}"))
        assert str(caught.value) == message


@pytest.mark.parametrize(
    "setting",
    [each for each in cli.SETTINGS if isinstance(each.allowed, Range)],
    ids=lambda setting: setting.option,
)
def test_a_range_says_both_of_its_ends(setting: Setting) -> None:
    """An end that a message does not name is one that nobody can keep to."""
    assert isinstance(setting.allowed, Range)
    text = re.sub(r" \(.*?\)", "", setting.allowed.text)
    for end in (setting.allowed.low, setting.allowed.high):
        if end != math.inf:
            numbers = [power(word) for word in text.split() if word[0].isdigit()]
            assert any(math.isclose(end, number, rel_tol=1e-9, abs_tol=1e-300) for number in numbers), text


def power(word: str) -> float:
    """The number that is written as 7, 1e6 or 2**31."""
    base, _, exponent = word.partition("**")
    return float(base) ** float(exponent or 1)


def test_an_option_that_sets_a_setting_is_made_from_it() -> None:
    """No other option of `train` sets one: what it is would be described twice."""
    options = {setting.name: setting.option for setting in cli.SETTINGS}
    for action in subparser("train")._actions:
        if action.dest in options and action.option_strings:
            option = options[action.dest]
            is_switch = isinstance(action, argparse.BooleanOptionalAction)
            expected = [option, f"--no-{option[2:]}"] if is_switch else [option]
            assert action.option_strings == expected


def test_an_error_about_two_settings_speaks_of_two_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPT_BACKEND", "python")
    with pytest.raises(cli.UsageError) as caught:
        cli.settings_from(parsed("--heads", "3"))
    assert str(caught.value) == "--embedding-dim (16) must be divisible by --heads (3)"
    with pytest.raises(cli.UsageError) as caught:
        cli.settings_from(parsed("--embedding-dim", "6"))
    assert str(caught.value).startswith("--positions ") and "--embedding-dim / --heads is 3" in str(
        caught.value
    )


def test_what_may_stand_beside_resume_is_said_by_the_settings() -> None:
    assert set(cli.RESUMABLE) == {
        "steps",
        "decay_steps",
        "eval_every",
        "checkpoint_every",
        "keep_best",
        "patience",
        "learning_rate",
        "minimum_learning_rate",
        "sample_every",
        "prompt",
        "time_budget",
        "backend",
        "dtype",
    }
    for name in cli.RESUMABLE:
        assert OPTIONS[name] in cli.BESIDE_RESUME


def test_an_option_beside_resume_is_said_as_it_was_typed(place: Path) -> None:
    assert_refused(
        tinygpt("train", "--resume", "runs/tiny", "--eval-every", "-1", cwd=place),
        "--eval-every must be from 0 to 2**31",
    )


# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], ["fly"]),
        (["train", "nonsense"], ["nonsense", "identifiers"]),
        (["train", "--preset", "nonsense"], ["nonsense", "identifiers"]),
        (["train", "--backend", "nonsense"], ["nonsense", "python"]),
        (["train", "--nonsense"], ["--nonsense"]),
        (["train", "--layer", "3"], ["--layer; did you mean --layers?"]),
        (["train", "--contxt-length=3"], ["did you mean --context-length?"]),
        (["trian"], ["invalid choice: 'trian'", "'plot'", "did you mean train?"]),
        (["xyzzy"], ["invalid choice: 'xyzzy'", "'spec', 'exercise') (see `"]),
        (["generate", "runs/tiny", "--token", "1"], ["did you mean --tokens?", "generate --help"]),
        (["train", "--steps", "0"], ["--steps", "0"]),
        (["train", "--warmup-steps", "-1"], ["error: --warmup-steps must be from 0 to 2**31, not -1"]),
        (["train", "--steps", "ten"], ["--steps", "ten"]),
        (["train", "--batch-size", "-1"], ["--batch-size"]),
        (["train", "--heads", "3"], ["--embedding-dim", "--heads"]),
        (["train", "--learning-rate", "nan"], ["--learning-rate", "nan"]),
        (["train", "--learning-rate", "0"], ["--learning-rate"]),
        (["train", "--dropout", "1"], ["--dropout"]),
        (["train", "--seed", "-1"], ["--seed"]),
        (["train", "--tokenizer", "words"], ["--tokenizer", "bpe"]),
        (["train", "--data", "missing.txt"], ["missing.txt"]),
        (["train", "--data", "empty.txt"], ["empty"]),
        (["train", "names", "--data", "empty.txt"], ["empty"]),
        (["train", "--data", "short.txt", "--context-length", "64"], ["64"]),
        (["train", "--data", "two.txt"], ["use more text"]),
        (["train", "--data", "/dev/zero"], ["/dev/zero", "more than"]),
        (["train", "--data", ""], ["--data", "empty"]),
        (["train", ""], ["CORPUS", "empty"]),
        (["train", "--data", "prose.txt", "--out", ""], ["--out", "empty"]),
        (["train", "--resume", ""], ["--resume", "empty"]),
        (["generate", ""], ["DIR", "empty"]),
        (["inspect", ""], ["empty"]),
        (["convert", "runs/tiny", ""], ["DESTINATION", "empty"]),
        (["train", "--data", "binary.bin"], ["binary.bin", "UTF-8"]),
        (["train", "--data", "binaries"], ["irectory", "1 not UTF-8"]),
        (["train", "binaries"], ["irectory", "1 not UTF-8"]),
        (["train", "prose.txt", "--tokenizer", "tricks"], ["tricks", "vocab.json"]),
        (["train", "--data", "prose.txt", "--out", "words.txt/run"], ["words.txt"]),
        (["train", "--data", "prose.txt", "--out", "words.txt"], ["words.txt"]),
        (["train", "--data", "prose.txt", "--out", "used"], ["used", "not empty"]),
        (["train", "--resume", "missing"], ["missing"]),
        (["train", "--resume", "used"], ["used"]),
        (["generate", "missing"], ["missing"]),
        (["generate", "used"], ["used"]),
        (["generate", "runs/tiny", "--tokens", "-1"], ["tokens"]),
        (["generate", "runs/tiny", "--count", "-1"], ["--count"]),
        (["generate", "runs/tiny", "--temperature", "-1"], ["temperature"]),
        (["generate", "runs/tiny", "--temperature", "inf"], ["temperature"]),
        (["generate", "runs/tiny", "--top-k", "0"], ["top_k"]),
        (["generate", "runs/tiny", "--top-p", "1.5"], ["top_p"]),
        (["generate", "runs/tiny", "--seed", "-1"], ["seed"]),
        (["generate", "runs/tiny", "--prompt", "日本"], ["日"]),
        (["generate", "runs/tiny", "--backend", "nonsense"], ["nonsense"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_bad_input_gets_one_clear_line(place: Path, arguments: list[str], words: list[str]) -> None:
    (place / "empty.txt").write_text("")
    (place / "short.txt").write_text("too short")
    (place / "two.txt").write_text("ab")
    (place / "binary.bin").write_bytes(bytes(range(128, 256)) * 10)
    (place / "binaries").mkdir(exist_ok=True)
    (place / "binaries" / "one").write_bytes(b"\x89PNG\0")
    (place / "used").mkdir(exist_ok=True)
    (place / "used" / "diary.txt").write_text("dear diary")
    before = snapshot(place)
    result = tinygpt(*arguments, cwd=place)
    assert_refused(result, *words)
    assert not result.stdout
    assert snapshot(place) == before


def test_the_context_length_that_is_advised_works(place: Path) -> None:
    (place / "brief.txt").write_text("a text of some words")
    refused = tinygpt("train", "--data", "brief.txt", "--out", "runs/brief", cwd=place)
    assert_refused(refused, "--context-length")
    advised = re.search(r"use --context-length (\d+) or less", refused.stderr)
    assert advised, refused.stderr
    small = [*TINY, "--context-length", advised[1]]
    assert tinygpt("train", "--data", "brief.txt", "--out", "runs/brief", *small, cwd=place).returncode == 0


@pytest.mark.parametrize(
    ("closed", "arguments", "code"),
    [(1, ["backends"], 0), (1, ["generate", "runs/tiny"], 0), (2, ["fly"], 2)],
)
def test_a_stream_that_was_closed_is_no_failure(
    place: Path, closed: int, arguments: list[str], code: int
) -> None:
    result = tinygpt(*arguments, cwd=place, preexec_fn=lambda: os.close(closed))
    assert (result.returncode, result.stdout, result.stderr) == (code, "", "")


def test_a_corpus_of_one_character_has_no_negative_zeros(place: Path) -> None:
    (place / "same.txt").write_text("a" * 500)
    result = tinygpt("train", "--data", "same.txt", "--out", "runs/same", *TINY, cwd=place)
    assert result.returncode == 0 and "-0.0" not in result.stdout and "validation loss 0.000" in result.stdout


def test_the_command_is_a_function_and_its_module_is_there() -> None:
    """The package has the name `main` from the module of the same name."""
    module = importlib.import_module("tinygpt_core.cli.main")
    assert cli.main is module.main and callable(cli.main)


def test_version(tmp_path: Path) -> None:
    from tinygpt_core import __version__

    assert tinygpt("--version", cwd=tmp_path).stdout == f"tinygpt {__version__}\n"


@pytest.mark.parametrize(
    "damage", ["truncated", "tampered", "newer", "nonsense", "setting", "missing", "boundary", "data"]
)
@pytest.mark.parametrize(
    "command",
    [
        ["generate", "damaged"],
        ["train", "--resume", "damaged", "--steps", "8"],
        ["convert", "damaged", "converted"],
    ],
)
def test_a_damaged_run_is_refused(place: Path, tmp_path: Path, damage: str, command: list[str]) -> None:
    run = tmp_path / "damaged"
    run.mkdir()
    for name, content in snapshot(place / "runs" / "tiny").items():
        (run / name).write_bytes(content)
    model = (run / "model.safetensors").read_bytes()
    config = json.loads((run / "config.json").read_text())
    if damage == "truncated":
        (run / "model.safetensors").write_bytes(model[:-7])
    elif damage == "tampered":
        (run / "model.safetensors").write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
    elif damage == "missing":
        (run / "model.safetensors").unlink()
    elif damage == "newer":
        (run / "config.json").write_text(json.dumps(config | {"format_version": 999}))
    elif damage == "nonsense":
        (run / "config.json").write_text("{" * 1000)
    elif damage == "setting":
        config["training"]["steps"] = "many"
        config["model"]["num_heads"] = "many"
        (run / "config.json").write_text(json.dumps(config))
    elif damage == "boundary":  # by someone who also mended the digests
        tokenizer = json.loads((run / "tokenizer").read_text())
        (run / "tokenizer").write_text(
            json.dumps(tokenizer | {"special_tokens": {"<|other|>": len(tokenizer["characters"])}})
        )
    elif damage == "data":
        (run / "config.json").write_text(json.dumps(config | {"data": 7}))
    if damage in ("boundary", "data"):
        state = json.loads((run / "state.json").read_text())
        for name, about in state["files"].items():
            content = (run / name).read_bytes()
            about |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (run / "state.json").write_text(json.dumps(state))
    before = snapshot(run)
    assert_refused(tinygpt(*command, cwd=tmp_path))
    assert snapshot(run) == before


def test_a_full_disk_is_a_failure(place: Path) -> None:
    import resource

    def limit() -> None:  # a file may hold 2,000 bytes, so the first checkpoint fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    result = tinygpt(
        "train", "names", "--data", "words.txt", "--out", "runs/full", *TINY, cwd=place, preexec_fn=limit
    )
    assert_refused(result, "File too large", code=1)


def test_another_corpus_is_noticed_on_resume(place: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(WORDS)
    assert (
        tinygpt("train", "names", "--data", "words.txt", "--out", "run", *TINY, cwd=tmp_path).returncode == 0
    )
    (tmp_path / "words.txt").write_text(WORDS + "another\n")
    assert_refused(tinygpt("train", "--resume", "run", "--steps", "8", cwd=tmp_path), "not the text")
