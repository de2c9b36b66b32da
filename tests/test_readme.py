"""The README and the documents in docs stay true: every Python block runs and prints what is shown, every
command is run.

`python tests/test_readme.py` prints how many there are, and for each command that is run in another form, or
elsewhere, why.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = ROOT / "docs" / "contributing.md"
DOCUMENTS = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))

# What is run in place of a command that takes too long here, and why. {run} is a directory of the test's.
OUTSIDE = (None, "tests/test_outside_backend.py runs the laws on a backend that is installed like this one")
MPI = (None, "tests/test_parallel_runs.py starts runs like this one, where mpi4py and an mpiexec are there")
HOSTS = (None, "needs two machines; benchmarks/two_hosts.py makes two of one, as root")
GPUS = (None, "needs GPUs; tests/test_communicators.py runs the logic against a stand-in for NCCL")
SMOLLM = (None, "SmolLM's weights are a download; tests/test_families.py has small ones")
QUANTIZED = (None, "SmolLM's weights are a download; tests/test_quantized.py samples from small ones")
LORA = (None, "SmolLM's weights are a download; tests/test_lora.py does all of this with a small one")
READER = (None, "the reader's own files; tests/test_conversations.py goes from a text to answers")
SUBSTITUTES = {
    "git clone URL tinygpt && cd tinygpt": (None, "the reader's own copy of what the tests run in"),
    "python3 -m tinygpt_core train": ("train --steps 3 --out {run}", "a minute"),
    "python3 -m tinygpt_core train --ngram-prior 0 --out no-counts": (
        "train --ngram-prior 0 --steps 3 --out no-counts",
        "a minute",
    ),
    'python3 -m tinygpt_core generate runs/latest --prompt "get_" --count 5': (
        'generate {run} --prompt "get_" --count 2',
        "another directory",
    ),
    'python3 -m tinygpt_core generate runs/latest --prompt "Abstract" --temperature 0.5 --count 5': (
        'generate {run} --prompt "Abstract" --temperature 0.5 --count 2',
        "another directory",
    ),
    'python3 -m tinygpt_core generate runs/latest --prompt "get_" --count 20': (
        'generate {run} --prompt "get_" --count 2',
        "another directory",
    ),
    "python3 -m tinygpt_core explain runs/latest": ("explain {run} --out {run}.html", "another directory"),
    'python3 -m tinygpt_core explain runs/latest --prompt "get_" --out get.html': (
        'explain {run} --prompt "get_" --out {run}.html',
        "another directory",
    ),
    "python3 -m tinygpt_core live runs/latest": (
        None,
        "answers until Ctrl-C; tests/test_live_server.py starts and stops it",
    ),
    "python3 -m tinygpt_core train --preset debug --show-config > run.toml": (
        "train --preset debug --show-config",
        "there is no shell here that writes it to a file",
    ),
    "python3 -m tinygpt_core train --config run.toml --steps 40 --out runs/from-a-file": (
        None,
        "tests/test_settings_file.py trains by such a file",
    ),
    "python3 -m tinygpt_core train names --init-from runs/from-a-file --preset debug "
    "--learning-rate 0.001 --out runs/fine-tuned": (
        None,
        "the corpus is a download; tests/test_init_from.py begins with other models",
    ),
    "python3 -m tinygpt_core train --data colours.jsonl --packing --context-length 64 --out runs/colours": (
        None,
        "tests/test_conversations.py trains on such a file",
    ),
    "python3 -m tinygpt_core generate runs/colours --chat": (
        None,
        "asks until Ctrl-D; tests/test_conversations.py types the messages",
    ),
    "python3 -m tinygpt_core train --data notes.txt --context-length 128 --out runs/reader": READER,
    "python3 -m tinygpt_core train --data colours.jsonl --init-from runs/reader --learning-rate 0.001 "
    "--out runs/answers": READER,
    "python3 -m tinygpt_core generate runs/answers --chat": READER,
    "python3 -m tinygpt_core plot runs/latest": ("plot {run}", "another directory"),
    "python3 -m tinygpt_core inspect runs/latest": ("inspect {run}", "another directory"),
    "python3 -m tinygpt_core convert gpt2 runs/gpt2": (
        None,
        "GPT-2's weights are a download; tests/test_cli_convert.py runs it on small ones",
    ),
    "python3 -m tinygpt_core inspect ../SmolLM-135M": SMOLLM,
    "python3 -m tinygpt_core convert ../SmolLM-135M runs/smollm": SMOLLM,
    'python3 -m tinygpt_core generate runs/smollm --prompt "The" --count 1': SMOLLM,
    'python3 -m tinygpt_core generate ../SmolLM-135M --prompt "The" --dtype bfloat16': QUANTIZED,
    'python3 -m tinygpt_core generate runs/smollm --prompt "The" --dtype int8 --backend numpy': QUANTIZED,
    "python3 -m tinygpt_core train --data notes.txt --init-from ../SmolLM-135M --lora 8 --lora-alpha 16 "
    "--out runs/tuned": LORA,
    'python3 -m tinygpt_core generate runs/tuned --prompt "The" --count 1': LORA,
    "python3 -m tinygpt_core convert runs/tuned ../SmolLM-tuned --merge": LORA,
    "python3 -m tinygpt_core convert runs/tuned ../SmolLM-adapters --to peft": LORA,
    "python3 -m tinygpt_core convert ../SmolLM-adapters runs/again --merge --to native": LORA,
    "pytest -p tinygpt_spec.plugin --pyargs tinygpt_spec --backend python": (
        None,
        "tests/spec is part of this very run",
    ),
    'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" -e ./tinygpt_accel '
    "&& .venv/bin/pytest -n 2": (None, "installs; .ci/run runs these steps"),
    'pip install -e ".[docs]"': (None, "installs; .ci/run does it"),
    "python docs/site/build.py": (
        None,
        "tests/test_site.py builds the site where Sphinx is installed, as .ci/run does",
    ),
    'pip install . "./tinygpt_accel[cuda13]"': (None, "installs CuPy for a GPU; tests/gpu is run there"),
    "tinygpt train --backend cupy --dtype bfloat16 --preset gpt2-124m": (
        None,
        "needs a GPU; benchmarks/gpu.py runs it there",
    ),
    "python benchmarks/explain.py --models default --pictures docs/pictures": (
        None,
        "minutes of training and timing in a browser; tests/test_explain_page.py drives one",
    ),
    "python benchmarks/run_picture.py": (
        None,
        "a minute of training; tests/test_benchmarks.py draws a short run",
    ),
    "python benchmarks/scaling.py --picture docs/pictures/scaling.svg": (
        None,
        "minutes of measuring, with PyTorch; tests/test_benchmarks.py runs a short form",
    ),
    "python benchmarks/shakespeare_cpu.py --data tinyshakespeare.txt "
    "--picture docs/pictures/shakespeare_cpu.svg": (
        None,
        "minutes of training, with PyTorch and a text that is fetched",
    ),
    "python benchmarks/mutation.py --sample 400": (
        None,
        "half an hour; tests/test_benchmarks.py makes mutants and runs none",
    ),
    "python benchmarks/mutation.py --show": (None, "there is nothing to show before the other has run"),
    'pip install . "./tinygpt_accel[fast,mpi]" mpich': (None, "installs; .ci/run does it"),
    "mpiexec -n 2 python3 -m tinygpt_core train --backend numpy --preset nanogpt-cpu": MPI,
    "mpiexec -n 2 python3 -m tinygpt_core train --shards 4 --out runs/mine": MPI,
    "mpiexec -n 4 python3 -m tinygpt_core train --resume runs/mine": MPI,
    "python3 -m tinygpt_core train --resume runs/mine": MPI,
    'printf "alpha:2\\nbeta:2\\n" > hosts': HOSTS,
    "mpiexec -f hosts -n 4 python3 -m tinygpt_core train --backend numpy --out runs/two-machines": HOSTS,
    "srun python3 -m tinygpt_core train --backend numpy --preset nanogpt-cpu --shards 8 --out runs/slurm": (
        None,
        "needs a cluster; tests/test_sharding.py reads SLURM's variables",
    ),
    "mpiexec -n 4 apptainer exec tinygpt.sif python3 -m tinygpt_core train --backend numpy "
    "--out runs/container": (None, "needs an image"),
    "mpiexec -n 8 python3 -m tinygpt_core train --backend cupy --dtype bfloat16 --preset gpt2-124m": GPUS,
    "torchrun --nproc-per-node 8 -m tinygpt_core train --backend cupy --dtype bfloat16 "
    "--preset gpt2-124m": GPUS,
    "tinygpt spec --backend theirs": OUTSIDE,
    "python -m pytest -p tinygpt_spec.plugin --pyargs tinygpt_spec --backend theirs": OUTSIDE,
    "python -m pytest -p tinygpt_spec.plugin --pyargs tinygpt_spec --backend python,theirs "
    "--profile nightly": OUTSIDE,
}


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


# Which also makes the notebooks and the site
markdown_text = _load(ROOT / "docs" / "site" / "markdown_text.py")


def blocks(document: Path) -> list[Any]:
    """All fenced blocks of a document but those that show what the block before them prints."""
    return [
        part
        for part in markdown_text.parts(document.read_text(encoding="utf-8"))
        if not isinstance(part, str)
    ]


def text_outside(document: Path) -> str:
    """A document without its fenced blocks."""
    return "\n".join(
        part for part in markdown_text.parts(document.read_text(encoding="utf-8")) if isinstance(part, str)
    )


def commands(document: Path) -> list[str]:
    """The lines of a document's `sh` blocks, without comments; and commands that stand in text, as indented
    blocks.
    """
    lines = [line for block in blocks(document) if block.language == "sh" for line in block.code.splitlines()]
    indented = re.findall(
        r"^(?: {4,}|\t)((?:\$ |(?:pip|python3?|tinygpt|pytest|git|cd) (?![^\n]*=))[^\n]+)$",
        text_outside(document),
        re.MULTILINE,
    )
    return [
        command for line in [*lines, *indented] if (command := re.sub(r"(^|\s\s)\s*#.*", "", line).rstrip())
    ]


SUBSTITUTES |= {
    command: (None, "tests/test_contributing.py runs it in a copy, with the changes of its recipe")
    for command in commands(CONTRIBUTING)
    if command not in SUBSTITUTES
}


def what_is_run(command: str) -> tuple[str | None, str]:
    """The arguments for tinygpt that are run for a command (None: it is run elsewhere, if anywhere), and why
    they are not its own.
    """
    if command in SUBSTITUTES:
        return SUBSTITUTES[command]
    own = re.match(r"(?:python3 -m tinygpt_core|tinygpt) (.*)", command)
    assert own, f"nothing tests this command: {command}"
    return own[1], ""


def report() -> tuple[dict[str, int], str]:
    """How many blocks and commands there are and what becomes of them: as counts, and as text with all
    reasons.
    """
    names = (
        "Python blocks",
        "Python blocks run",
        "outputs compared",
        "commands",
        "as written",
        "in another form",
        "elsewhere",
        "unexplained",
    )
    counts = dict.fromkeys(names, 0)
    lines = []
    for document in DOCUMENTS:
        python = [block for block in blocks(document) if block.language == "python"]
        counts["Python blocks"] += len(
            re.findall(r"^ *[`~]{3,} *(?:python|py\b)", document.read_text(encoding="utf-8"), re.MULTILINE)
        )
        counts["Python blocks run"] += len(python)
        counts["outputs compared"] += sum(bool(block.shown) for block in python)
        for command in commands(document):
            arguments, why = what_is_run(command)
            counts["commands"] += 1
            counts["elsewhere" if arguments is None else "in another form" if why else "as written"] += 1
            counts["unexplained"] += arguments is None and not why
            if why:
                form = "not run here" if arguments is None else f"run as: tinygpt {arguments}"
                lines.append(f"{document.relative_to(ROOT)}: {command}\n    {form}\n    because: {why}")
    lines += [
        "",
        f"{len(DOCUMENTS)} documents",
        f"{counts['Python blocks']} Python blocks, {counts['Python blocks run']} of them run, "
        f"{counts['outputs compared']} outputs compared",
        f"{counts['commands']} commands: {counts['as written']} run as written, "
        f"{counts['in another form']} in another form, {counts['elsewhere']} not here; "
        f"without a reason: {counts['unexplained']}",
    ]
    return counts, "\n".join(lines)


@documents
def test_every_block_is_of_a_kind_that_is_tested(document: Path) -> None:
    found = blocks(document)
    text = document.read_text(encoding="utf-8")
    fences = len(re.findall(r"^[ >]*(?:```|~~~)", text, re.MULTILINE))
    assert fences == 2 * (len(found) + sum(bool(block.shown) for block in found)), (
        "a fence is not closed, or stands inside a list"
    )
    hidden = re.search(
        r"^(?: {4,}|\t)(?:>>> |from \w+ import |import \w+$|def \w+\()", text_outside(document), re.MULTILINE
    )
    assert not hidden, f"Python without a fence, which nothing runs: {hidden[0]}"
    tested = {"python", "sh", "toml"} | ({"diff"} if document == CONTRIBUTING else set())
    for block in found:
        assert block.language in tested, (
            f"line {block.line}: nothing tests a block of {block.language or 'no language'!r}"
        )


@documents
def test_python_blocks_print_what_is_shown(document: Path) -> None:
    """In order. A chapter is one program; the README's blocks stand alone: each is there to be copied."""
    from tinygpt_core import backends

    namespace: dict[str, Any] = {"__name__": "document"}
    backends.available()  # finds what is installed, once; then what is known can be put back
    known, loaded = dict(backends._plugins), dict(backends._loaded)
    try:
        for block in blocks(document):
            if block.language == "python":
                if document.name == "README.md":
                    namespace = {"__name__": "document"}
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile("\n" * block.line + block.code, str(document), "exec"), namespace)
                lines, expected = (
                    [line.rstrip() for line in text.splitlines()]
                    for text in (printed.getvalue(), block.shown)
                )
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
    for line in commands(document):
        arguments, _why = what_is_run(line)
        if arguments is None or line in done:
            continue
        done.add(line)
        command = [sys.executable, "-S", "-m", "tinygpt_core", *shlex.split(arguments.format(run=run))]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TINYGPT_")}
        environment = kept | {"PYTHONPATH": str(ROOT)}
        # Beside the clone, in which what a command writes would be there at the next run of the tests
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        assert result.stdout
    assert document != ROOT / "README.md" or (run / "model.safetensors").is_file()


def test_everything_is_executed_or_says_why() -> None:
    """100 % of the Python blocks and the commands; each command that is not run as it stands has a reason."""
    counts, text = report()
    print(text)
    assert counts["Python blocks run"] == counts["Python blocks"] > 50
    assert counts["as written"] + counts["in another form"] + counts["elsewhere"] == counts["commands"] > 10
    assert counts["unexplained"] == 0
    used = {command for document in DOCUMENTS for command in commands(document)}
    assert set(SUBSTITUTES) <= used, "substitutes of commands that are gone"
    for command, (_arguments, why) in SUBSTITUTES.items():
        assert len(why.split()) > 1, f"no reason: {command}"
        for path in re.findall(r"(?:tests|benchmarks|docs|\.ci)/[\w/.]*\w", why):
            assert (ROOT / path).exists(), f"{path}, which a reason names, is gone"


def test_the_test_command_is_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for part in ('-e ".[test]" -e ./tinygpt_accel', "-m venv", "pytest"):
        assert part in ci


def test_no_figure_is_missing() -> None:
    table = README.split("| what | figure |")[1].split("\n\n")[0]
    assert not re.search(r"\| [A-Z]{4,} \|", table), "a figure of the README is still a placeholder"
    for script in re.findall(r"`(benchmarks/\w+\.py)`", table):
        assert (ROOT / script).is_file(), script


if __name__ == "__main__":
    print(report()[1])
