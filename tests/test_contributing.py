"""docs/contributing.md is true: each recipe, applied to a copy of the repository, does what it says there;
each answer to "where is …?" names what is in the file that it links to.

A `diff` block of the document holds changes: `--- old` and `+++ new`, then hunks that begin with `@@`. What a
hunk has to find (lines with a blank or a minus before them) stands once in the file; a hunk that finds
nothing is added at the end.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from test_book import names_in
from test_readme import markdown_text

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "contributing.md"
COPIED = ("tinygpt_core", "tinygpt_accel", "tests", "benchmarks", "docs", "README.md", "pyproject.toml")


class Section(NamedTuple):
    """A part of the document under a heading of the second level."""

    title: str
    parts: list[str | markdown_text.Block]

    @property
    def blocks(self) -> list[markdown_text.Block]:
        return [part for part in self.parts if not isinstance(part, str)]


def sections() -> list[Section]:
    """The document's sections."""
    text = DOCUMENT.read_text(encoding="utf-8")
    pieces = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return [
        Section(title, list(markdown_text.parts(body)))
        for title, body in zip(pieces[1::2], pieces[2::2], strict=True)
    ]


SECTIONS = {section.title: section for section in sections()}
RECIPES = [section for title, section in SECTIONS.items() if title.startswith("How to add")]


# ---------------------------------------------------------------- changes


def apply_changes(changes: str, root: Path) -> list[Path]:
    """Makes the changes of a `diff` block in the files below `root`; returns the files."""
    changed = []
    for change in re.split(r"^(?=--- )", changes, flags=re.MULTILINE)[1:]:
        old, new, *lines = change.splitlines()
        path = root / new.removeprefix("+++ ")
        assert old in ("--- /dev/null", f"--- {path.relative_to(root)}") and lines[0].startswith("@@")
        assert path.exists() != (old == "--- /dev/null"), f"{new}: it is new, or not"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for hunk in re.split(r"^@@.*\n", "\n".join(lines) + "\n", flags=re.MULTILINE)[1:]:
            text = _with_hunk(text, hunk, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        changed.append(path)
    return changed


def _with_hunk(text: str, hunk: str, path: Path) -> str:
    lines = hunk.splitlines(keepends=True)
    assert all(line[0] in " +-" for line in lines), f"{path.name}: a line of a hunk begins with one of ' +-'"
    found = "".join(line[1:] for line in lines if line[0] != "+")
    wanted = "".join(line[1:] for line in lines if line[0] != "-")
    if not found:
        return text + wanted
    times = f"\n{text}".count(f"\n{found}")
    assert times == 1, f"{path.name} has these lines {times} times:\n{found}"
    return f"\n{text}".replace(f"\n{found}", f"\n{wanted}")[1:]


def copy_repository(to: Path) -> None:
    """Makes a copy of what a recipe may change or run, without what is made from it."""
    ignored = shutil.ignore_patterns("__pycache__", "pictures", "*.egg-info", ".hypothesis", "build")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, to / name)


def run(command: str, root: Path) -> str:
    """Runs a line of a `sh` block in a copy of the repository; returns what it printed."""
    beside = str(Path(sys.executable).parent)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TINYGPT_", "PYTEST_"))}
    settings = {
        "PATH": f"{beside}{os.pathsep}{kept.get('PATH', '')}",
        "PYTHONPATH": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
    }
    done = subprocess.run(
        command, shell=True, cwd=root, env=kept | settings, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
    return done.stdout


def follow(recipe: Section, root: Path) -> list[Path]:
    """Does what a recipe says, in order; returns the files that it changed."""
    changed: list[Path] = []
    for block in recipe.blocks:
        if block.language == "diff":
            changed += apply_changes(block.code, root)
        else:
            for command in block.code.splitlines():
                run(command, root)
    return changed


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title.replace(" ", "-"))
def test_a_recipe_does_what_it_says(recipe: Section, tmp_path: Path) -> None:
    copy_repository(tmp_path)
    changed = follow(recipe, tmp_path)
    files = " ".join(sorted({str(path.relative_to(tmp_path)) for path in changed if path.suffix == ".py"}))
    run(f"ruff check --no-cache {files}", tmp_path)
    run(f"ruff format --no-cache --check {files}", tmp_path)


def test_all_recipes_together_keep_the_rules(tmp_path: Path) -> None:
    """They can be followed one after the other, and types and imports are then as they should be."""
    copy_repository(tmp_path)
    for recipe in RECIPES:
        for block in recipe.blocks:
            if block.language == "diff" and "theirs.py" not in block.code:
                apply_changes(block.code, tmp_path)
    run("mypy --cache-dir=/dev/null", tmp_path)
    run("lint-imports --no-cache", tmp_path)
    run("python tests/test_house.py --write", tmp_path)
    run("pytest tests/test_house.py tests/test_docstrings.py", tmp_path)


def test_there_is_a_recipe_for_everything() -> None:
    things = (
        "an operation, a kernel, an activation, a layer, an optimizer, a corpus, a model format, a backend, "
    )
    wanted = [f"How to add {thing}" for thing in (things + "a command").split(", ")]
    assert [recipe.title for recipe in RECIPES] == wanted
    for recipe in RECIPES:
        languages = [block.language for block in recipe.blocks]
        assert "diff" in languages and languages[-1] == "sh", (
            f"{recipe.title} ends with the command that tests it"
        )
        assert any("pytest " in block.code for block in recipe.blocks if block.language == "sh")


def test_a_hunk_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("x = 1\ny = 2\nx = 1\n")
    for hunk, message in (("-x = 1\n", "2 times"), (" z\n+w\n", "0 times"), ("x\n", "begins with one of")):
        with pytest.raises(AssertionError, match=message):
            apply_changes(f"--- a.py\n+++ a.py\n@@\n{hunk}", tmp_path)
    with pytest.raises(AssertionError, match="new"):
        apply_changes("--- /dev/null\n+++ a.py\n@@\n+x\n", tmp_path)
    changes = "--- a.py\n+++ a.py\n@@\n-y = 2\n+y = 3\n@@ at the end\n+z = 4\n"
    changes += "--- /dev/null\n+++ b/c.py\n@@\n+w = 1\n"
    assert apply_changes(changes, tmp_path) == [file, tmp_path / "b" / "c.py"]
    assert (
        file.read_text() == "x = 1\ny = 3\nx = 1\nz = 4\n" and (tmp_path / "b/c.py").read_text() == "w = 1\n"
    )


# ---------------------------------------------------------------- where is …?

_ROW = re.compile(r"^\| (?P<question>[^|]+) \| (?P<answer>[^|]+) \|$", re.MULTILINE)
_ANSWER = re.compile(r"`(?P<file>[\w./]+)`: (?P<links>[^;]+)")


def answers() -> dict[str, list[tuple[str, str, str]]]:
    """For each question its answers: the file as it is shown, the name, and where the link leads."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    text = "".join(part for part in SECTIONS["Where is …?"].parts if isinstance(part, str))
    for row in _ROW.finditer(text):
        if row["question"] != "where is …" and set(row["question"]) != {"-"}:
            found[row["question"]] = [
                (answer["file"], link.label, link.target)
                for answer in _ANSWER.finditer(row["answer"])
                for link in markdown_text.links(answer["links"])
            ]
    return found


ANSWERS = answers()


@pytest.mark.parametrize("question", ANSWERS)
def test_a_question_is_answered_by_what_is_there(question: str) -> None:
    """By at most two files. The link leads to the file that is shown, and the name is one that it defines."""
    assert 1 <= len({target for _, _, target in ANSWERS[question]}) <= 2
    for file, label, target in ANSWERS[question]:
        path = (DOCUMENT.parent / target).resolve()
        assert path.is_file(), f"{target} is gone"
        assert path == ROOT / file or path == ROOT / "tinygpt_core" / file, f"{file} links to {target}"
        name = label.strip("`")
        if path.suffix == ".py":
            assert name in names_in(path), f"{file} defines no {name}"
        else:
            assert re.search(rf"\b{name}\b", path.read_text(encoding="utf-8")), f"{file} has no {name}"


def test_every_row_is_read_and_there_are_thirty() -> None:
    text = "".join(part for part in SECTIONS["Where is …?"].parts if isinstance(part, str))
    headers = text.count("| where is … | there |")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(ANSWERS) == len(rows) - headers >= 30
    assert sum(map(len, ANSWERS.values())) == text.count("](")


# What issue and design ask for in so many words, as a word of the question.
ASKED = (
    "softmax's derivative, attention's mask, schedule, `tinygpt train`, NumPy's matmul, presets, "
    "written safely, dropout's randomness, shape error, plug-in, key/value cache, byte-pair, batches, "
    "loss is shown, the page of, `x + y`, broadcasting, memory is freed"
)


def test_what_was_asked_for_is_answered() -> None:
    assert [word for word in ASKED.split(", ") if not any(word in question for question in ANSWERS)] == []
