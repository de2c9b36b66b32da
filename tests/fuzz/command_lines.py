"""Command lines, drawn: whatever a person types, there is an exit code, and one line of an error."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
from pathlib import Path

from tinygpt_core.cli.main import COMMANDS, build_parser, main

# They take seconds, and read no file; or serve until they are stopped
NOT_RUN = ("spec", "compare-backends", "live")
EXIT_CODES = (0, 1, 2, 130)
# Settings that take long where they are large, and are allowed to: what a person asks for, and waits for
PATIENCE = {"--steps": 3, "--tokens": 20, "--count": 3, "--eval-batches": 20, "--accumulation": 20}
VALUES = (
    *(
        "0",
        "1",
        "2",
        "3",
        "-1",
        "-0",
        "0.5",
        "1e-3",
        "1e3",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1.0",
        "1_0",
        "0x10",
    ),
    *(
        "999999999",
        "16777216",
        "16777217",
        "2147483648",
        "9223372036854775808",
        "1" * 5000,
        "٣",
        "",
        " ",
        "true",
    ),
    *("python", "numpy", "cupy", "bpe", "characters", "gpt2", "native", "relu", "float16"),
)
PATHS = (
    *(".", "text.txt", "x.safetensors", "script.py", "empty", "nowhere", "/dev/null", "words", "log.jsonl"),
    *("config.json", "new.svg", "new/deep", "text.txt/x", "a.html", "\udcff", "é", "\x1b[2J", "-", "--", "~"),
    *("bpe", "a" * 300),
)
SMALL = (
    *("--data=text.txt", "--quiet", "--layers=1", "--heads=1", "--embedding-dim=2", "--context-length=4"),
    *("--batch-size=2", "--steps=1", "--eval-batches=1", "--backend=python", "--preset=debug"),
)
RESUMED = ("--resume=.", "--backend=python")


def drawn(rng: random.Random) -> list[str]:
    """Returns a command line: a command with what it needs, to which something was added or changed."""
    parsers = build_parser()._subparsers
    assert parsers is not None
    choices = parsers._group_actions[0].choices
    assert choices is not None and len(list(choices)) == len(COMMANDS)
    command = rng.choice(sorted(set(choices) - set(NOT_RUN)))
    options = {
        name: action.nargs != 0
        for action in choices[command]._actions  # type: ignore[index]
        for name in action.option_strings
    }
    words = {
        "train": lambda: [*(SMALL if rng.random() < 0.8 else RESUMED)],
        "convert": lambda: [rng.choice(PATHS), rng.choice(PATHS)],
        "generate": lambda: [rng.choice((".", *PATHS)), "--tokens=3"],
        "find-learning-rate": lambda: [*SMALL, "--steps=3"],  # a hundred of the default sizes take long
        "backends": list,
    }.get(command, lambda: [rng.choice((".", *PATHS))])()
    for _ in range(rng.randrange(5)):
        kind = rng.random()
        if kind < 0.8:
            option = rng.choice(sorted(options))
            value = rng.choice(rng.choice((VALUES, PATHS)))
            takes_one = options[option] != (rng.random() < 0.02)
            words += rng.choice(([option, value], [f"{option}={value}"])) if takes_one else [option]
        elif kind < 0.9 or not words:
            words.append(rng.choice(PATHS))
        else:
            words[rng.randrange(len(words))] = rng.choice(VALUES + PATHS)
    return [command, *_patient(words)]


def _patient(words: list[str]) -> list[str]:
    """Returns a command line with numbers of steps and the like made small."""
    result: list[str] = []
    for word in words:
        name, _, value = word.partition("=")
        is_apart = bool(result) and result[-1] in PATIENCE
        most = PATIENCE.get(result[-1] if is_apart else name)
        with contextlib.suppress(ValueError):
            if most is not None and int(word if is_apart else value) > most:
                word = str(most) if is_apart else f"{name}={most}"
        result.append(word)
    return result


def run(folder: Path, words: list[str]) -> None:
    """Runs a command line in a folder, and puts the folder's files back.

    Raises:
        AssertionError: it ended in another way than is documented.
    """
    before = {path: (path.stat(), path.read_bytes()) for path in folder.iterdir() if path.is_file()}
    folders = {path for path in folder.iterdir() if path.is_dir()}
    complaints = io.StringIO()
    place = os.getcwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(complaints):
            code = main(words)
    finally:
        os.chdir(place)
        _restore(folder, before, folders)
    said = complaints.getvalue()
    errors = [line for line in said.splitlines() if line.startswith("tinygpt: error: ")]
    is_documented = code in EXIT_CODES and len(errors) == (1 if code else 0)
    if not is_documented or "this is a bug" in said or "Traceback" in said:
        raise AssertionError(f"{words!r:.2000} ended with {code}: {said[-2000:]}")


def _restore(folder: Path, files: dict[Path, tuple[os.stat_result, bytes]], folders: set[Path]) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            if path not in folders or path.name == "empty":
                shutil.rmtree(path)
        elif path not in files:
            path.unlink()
    (folder / "empty").mkdir(exist_ok=True)
    for path, (about, data) in files.items():
        if not path.exists() or path.stat().st_mtime_ns != about.st_mtime_ns:
            path.write_bytes(data)
