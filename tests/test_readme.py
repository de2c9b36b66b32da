"""The README stays true: its Python blocks run and print what it says, its commands are real, its links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]

# What is run in place of a command that takes too long here, and why. {run} is a directory of the test's.
SUBSTITUTES = {
    "python3 -m tinygpt_core train": ("train --steps 3 --out {run}", "a minute"),
    'python3 -m tinygpt_core generate runs/latest --prompt "get_" --count 20': (
        'generate {run} --prompt "get_" --count 2',
        "another directory",
    ),
    "pytest -p tinygpt_spec.plugin --pyargs tinygpt_spec --backend python": (None, "tests/spec is part of this very run"),
    'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" -e ./tinygpt_accel && .venv/bin/pytest': (
        None,
        "installs; .ci/run runs these steps",
    ),
}


def test_every_python_block_is_followed_by_its_output() -> None:
    assert len(PYTHON) == README.count("```python")


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_blocks_print_what_the_readme_shows(number: int) -> None:
    code, expected = PYTHON[number]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"README.md, Python block {number}", "exec"), {"__name__": "readme"})
    assert [line.rstrip() for line in printed.getvalue().splitlines()] == [line.rstrip() for line in expected.splitlines()]


def test_commands_work_as_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = set()
    for line in SHELL:
        arguments, _why = SUBSTITUTES.get(line, (line.removeprefix("python3 -m tinygpt_core "), ""))
        if arguments is None or line in done:
            continue
        done.add(line)
        assert line in SUBSTITUTES or line.startswith("python3 -m tinygpt_core "), f"the README has a command that nothing tests: {line}"
        command = [sys.executable, "-S", "-m", "tinygpt_core", *shlex.split(arguments.format(run=run))]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        assert result.stdout
    assert (run / "model.safetensors").is_file()


def test_the_test_command_is_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for part in ('-e ".[test]" -e ./tinygpt_accel', "-m venv", "pytest"):
        assert part in ci


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_no_figure_is_missing() -> None:
    table = README.split("| what | figure |")[1].split("\n\n")[0]
    assert not re.search(r"\| [A-Z]{4,} \|", table), "a figure of the README is still a placeholder"
    for script in re.findall(r"`(benchmarks/\w+\.py)`", table):
        assert (ROOT / script).is_file(), script
