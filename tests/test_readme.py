"""The README and the chapters of docs stay true: Python blocks run and print what they say, commands are real, links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))

# What is run in place of a command that takes too long here, and why. {run} is a directory of the test's.
OUTSIDE = (None, "tests/test_outside_backend.py runs the laws on a backend that is installed like this one")
SUBSTITUTES = {
    "python3 -m tinygpt_core train": ("train --steps 3 --out {run}", "a minute"),
    'python3 -m tinygpt_core generate runs/latest --prompt "get_" --count 20': (
        'generate {run} --prompt "get_" --count 2',
        "another directory",
    ),
    "python3 -m tinygpt_core inspect runs/latest": ("inspect {run}", "another directory"),
    "python3 -m tinygpt_core convert gpt2 runs/gpt2": (
        None,
        "GPT-2's weights are a download; tests/test_cli_convert.py runs it on small ones",
    ),
    "pytest -p tinygpt_spec.plugin --pyargs tinygpt_spec --backend python": (None, "tests/spec is part of this very run"),
    'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" -e ./tinygpt_accel && .venv/bin/pytest': (
        None,
        "installs; .ci/run runs these steps",
    ),
    "tinygpt spec --backend theirs": OUTSIDE,
    "python -m pytest -p tinygpt_spec.plugin --pyargs tinygpt_spec --backend theirs": OUTSIDE,
    "python -m pytest -p tinygpt_spec.plugin --pyargs tinygpt_spec --backend python,theirs --laws thorough": OUTSIDE,
}


class Block(NamedTuple):
    """A fenced block of a document; `shown` is the `text` block that follows a Python block at once: what it prints."""

    language: str
    code: str
    shown: str
    line: int


def blocks(document: Path) -> list[Block]:
    """All fenced blocks of a document but those that show what the block before them prints."""
    text = document.read_text(encoding="utf-8")
    pattern = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?", re.DOTALL | re.MULTILINE)
    return [Block(m["language"], m["code"], m["shown"] or "", text[: m.start()].count("\n") + 1) for m in pattern.finditer(text)]


@documents
def test_every_block_is_of_a_kind_that_is_tested(document: Path) -> None:
    found = blocks(document)
    fences = len(re.findall(r"^```", document.read_text(encoding="utf-8"), re.MULTILINE))
    assert fences == 2 * (len(found) + sum(bool(block.shown) for block in found)), "a fence is not closed, or stands inside a list"
    for block in found:
        assert block.language in ("python", "sh", "toml"), (
            f"line {block.line}: nothing tests a block of {block.language or 'no language'!r}"
        )


@documents
def test_python_blocks_print_what_is_shown(document: Path) -> None:
    """In order. A chapter is one program; the README's blocks stand alone, since each is there to be copied."""
    from tinygpt_core import backends

    namespace: dict[str, Any] = {"__name__": "document"}
    known, loaded = dict(backends._plugins), dict(backends._loaded)
    try:
        for block in blocks(document):
            if block.language == "python":
                if document.name == "README.md":
                    namespace = {"__name__": "document"}
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile("\n" * block.line + block.code, str(document), "exec"), namespace)
                lines, expected = ([line.rstrip() for line in text.splitlines()] for text in (printed.getvalue(), block.shown))
                assert lines == expected, f"{document.name}, line {block.line}"
            elif block.language == "toml":
                assert tomllib.loads(block.code)
    finally:
        for registry, before in ((backends._plugins, known), (backends._loaded, loaded)):
            registry.clear()
            registry.update(before)  # type: ignore[arg-type]


def test_the_readme_shows_what_every_python_block_prints() -> None:
    assert all(block.shown for block in blocks(ROOT / "README.md") if block.language == "python")


@documents
def test_commands_work_as_written(document: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = set()
    for line in [line for block in blocks(document) if block.language == "sh" for line in block.code.splitlines()]:
        arguments, _why = SUBSTITUTES.get(line, (line.removeprefix("python3 -m tinygpt_core "), ""))
        if arguments is None or line in done:
            continue
        done.add(line)
        assert line in SUBSTITUTES or line.startswith("python3 -m tinygpt_core "), f"{document.name} has a command nothing tests: {line}"
        command = [sys.executable, "-S", "-m", "tinygpt_core", *shlex.split(arguments.format(run=run))]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TINYGPT_")}
        result = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        assert result.stdout
    assert document.name != "README.md" or (run / "model.safetensors").is_file()


def test_no_substitute_is_left_of_a_command_that_is_gone() -> None:
    lines = {line for document in DOCUMENTS for block in blocks(document) if block.language == "sh" for line in block.code.splitlines()}
    assert set(SUBSTITUTES) <= lines


def test_the_test_command_is_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for part in ('-e ".[test]" -e ./tinygpt_accel', "-m venv", "pytest"):
        assert part in ci


def test_no_figure_is_missing() -> None:
    table = README.split("| what | figure |")[1].split("\n\n")[0]
    assert not re.search(r"\| [A-Z]{4,} \|", table), "a figure of the README is still a placeholder"
    for script in re.findall(r"`(benchmarks/\w+\.py)`", table):
        assert (ROOT / script).is_file(), script
