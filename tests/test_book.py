"""The book's pictures are what their scripts draw, its exercises are solved, and its links to code name
something that is there.
"""

from __future__ import annotations

import ast
import codeop
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
CHAPTERS = sorted(DOCS.glob("[0-9][0-9]-*.md"))
WITH_EXERCISES = CHAPTERS[1:]  # chapter 0 asks for nothing but a look
EXERCISES = sorted((DOCS / "exercises").glob("*.py"))
FIGURES = sorted(path for path in (DOCS / "figures").glob("*.py") if path.stem != "drawing")
# Drawn by benchmarks from what they measured
MEASURED = {
    "run.svg": "run_picture.py",
    "scaling.svg": "scaling.py",
    "shakespeare_cpu.svg": "shakespeare_cpu.py",
}


def load(path: Path):
    """The module in a file, with the modules beside it importable."""
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(f"book_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(path.parent))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("script", FIGURES, ids=lambda path: path.stem)
def test_pictures_are_what_their_script_draws(script):
    drawn = load(script).pictures()
    assert drawn
    for name, svg in drawn.items():
        assert svg == text_of(DOCS / "pictures" / f"{name}.svg"), f"run: python docs/figures/{script.name}"
        assert len(svg) < 60_000
        root = ElementTree.fromstring(svg)
        assert root.find("{http://www.w3.org/2000/svg}title").text, (
            "a picture says in its title what it shows"
        )


def test_the_microscope_has_the_picture_of_a_gpt():
    inside = ROOT / "tinygpt_core" / "explain" / "page" / "gpt.svg"
    assert text_of(inside) == text_of(DOCS / "pictures" / "gpt.svg"), "run: python docs/figures/whole.py"


def test_every_picture_has_a_script_and_a_place_in_the_book():
    drawn = {f"{name}.svg" for script in FIGURES for name in load(script).pictures()}
    committed = {path.name for path in (DOCS / "pictures").glob("*.svg")}
    used = {
        Path(name).name
        for path in [ROOT / "README.md", *DOCS.rglob("*.md")]
        for name in re.findall(r"!\[[^\]]+\]\(([^)]+\.svg)\)", text_of(path))
    }
    assert drawn | set(MEASURED) == committed, "pictures without a script, or not written"
    assert all(Path(name).stem in text_of(ROOT / "benchmarks" / script) for name, script in MEASURED.items())
    assert committed <= used, "pictures that no chapter shows"


# ---------------------------------------------------------------- exercises

SOLUTIONS = [
    (path, name)
    for path in EXERCISES
    for name in re.findall(r"^def (test_\w+)\(\)", text_of(path), re.MULTILINE)
]


@pytest.mark.parametrize(("path", "name"), SOLUTIONS, ids=[f"{path.stem}-{name}" for path, name in SOLUTIONS])
def test_solutions_of_the_exercises_are_right(path, name):
    getattr(load(path), name)()


@pytest.mark.parametrize("chapter", WITH_EXERCISES, ids=lambda path: path.stem)
def test_every_exercise_has_a_solution(chapter):
    asked = re.findall(r"^\*\*Exercise (\d+\.\d+)", text_of(chapter), re.MULTILINE)
    solutions = DOCS / "exercises" / f"{chapter.stem[3:].replace('-', '_')}.py"
    solved = [
        ".".join(numbers)
        for numbers in re.findall(r"^def test_(\d+)_(\d+)_", text_of(solutions), re.MULTILINE)
    ]
    assert asked, "a chapter has exercises"
    assert asked == sorted(set(solved), key=solved.index), "exercises and solutions, in order"
    assert f"exercises/{solutions.name}" in text_of(chapter), "a chapter says where its solutions are"


# ---------------------------------------------------------------- how a chapter is made


@pytest.mark.parametrize("chapter", WITH_EXERCISES, ids=lambda path: path.stem)
def test_a_chapter_begins_with_a_question_and_a_picture(chapter):
    title, question, picture = text_of(chapter).split("\n\n")[:3]
    assert title.startswith(f"# {int(chapter.name[:2])} ")
    assert re.match(r"\*[^*]+\?\* ", question), "a question in italics, and what the picture says about it"
    assert re.match(r"!\[[^\]]+\]\(pictures/[\w-]+\.svg\)$", picture)


def test_the_whole_game_is_short_and_a_text_is_written_early():
    words = len(text_of(CHAPTERS[0]).split())
    assert words <= 1500
    assert "tinygpt_core generate" in text_of(CHAPTERS[0])


def typed(code):
    """What an interactive interpreter says of lines that are pasted into it: None, or what is wrong.

    It runs a statement that goes over several lines as soon as an empty line comes.
    """
    compiler, lines = codeop.CommandCompiler(), []
    for line in [*code.splitlines(), ""]:
        lines.append(line)
        try:
            if compiler("\n".join(lines), symbol="single") is not None:
                lines = []
        except SyntaxError as error:
            return f"{error}: {line}"
    return "unfinished" if any(lines) else None


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda path: path.stem
)
def test_blocks_can_be_pasted(document):
    for code in re.findall(r"^```python\n(.*?)^```", text_of(document), re.DOTALL | re.MULTILINE):
        assert typed(code) is None, code


def test_an_interpreter_says_the_same_of_pasted_blocks():
    """The check above is what `python3 -i` does: on a block, and on one with empty lines in a class."""
    good = (
        "class A:\n    def f(self):\n        pass\n    def g(self):\n        return 2\n\n\nprint(A().g())\n"
    )
    bad = good.replace("    def g", "\n    def g")
    for code in (good, bad):
        done = subprocess.run(
            [sys.executable, "-i", "-q"], input=code + "\n", capture_output=True, text=True, timeout=60
        )
        assert ("IndentationError" in done.stderr) == (typed(code) is not None) == (code is bad)
        assert ("2" in done.stdout) == (code is good)


# ---------------------------------------------------------------- terms

# Where a term is defined, in bold; it is not used in an earlier chapter, or only where that one says what it
# means, or where it will be explained.
TERMS = {
    "loss": 0,
    "token": 0,
    "parameters": 0,
    "prompt": 0,
    "gradient": 1,
    "Jacobian": 1,
    "matrix": 1,
    "layer": 1,
    "weights": 1,
    "backward": 1,
    "softmax": 1,
    "cross-entropy": 1,
    "topological": 2,
    "frozen": 2,
    "storage": 2,
    "standard deviation": 3,
    "bias": 3,
    "batch": 3,
    "learning rate": 3,
    "curvature": 3,
    "momentum": 3,
    "nat": 4,
    "perplexity": 4,
    "overfitting": 4,
    "validation": 4,
    "n-gram": 4,
    "vocabulary": 5,
    "bits per byte": 5,
    "byte-pair encoding": 5,
    "one-hot": 6,
    "embeddings?": 6,
    "seed": 6,
    "dot product": 7,
    "variance": 7,
    "query": 7,
    "residual stream": 8,
    "layer normalization": 8,
    "GELU": 8,
    "logits": 9,
    "top-p": 9,
    "dropout": 10,
}


def defines(text, term):
    """Whether a term stands in bold. (What stands between two bold ones has asterisks on both sides, too.)"""
    return any(re.search(term, bold, re.IGNORECASE) for bold in re.findall(r"\*\*(.+?)\*\*", text, re.DOTALL))


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_defined_where_it_is_first_used(term):
    """In bold in its chapter; before that only in code, or with a chapter's number."""
    number = TERMS[term]
    without_code = re.sub(r"```.*?```|`[^`]*`", " ", text_of(CHAPTERS[number]), flags=re.DOTALL)
    assert defines(without_code, term), f"{term} is not defined"
    for chapter in CHAPTERS[1:number]:
        prose = re.split(r"^## Exercises", text_of(chapter), flags=re.MULTILINE)[0]
        prose = re.sub(r"```.*?```|`[^`]*`|!?\[[^\]]*\]\([^)]*\)", " ", prose, flags=re.DOTALL)
        for paragraph in prose.split("\n\n"):
            if re.search(rf"\b{term}\b", paragraph, re.IGNORECASE):
                is_said = re.search(r"chapters? \d", paragraph, re.IGNORECASE) is not None
                is_said = is_said or defines(paragraph, rf"\b{term}\b")
                assert is_said, f"{chapter.stem} uses {term}: {paragraph}"


# ---------------------------------------------------------------- links to code


def names_in(path: Path) -> set[str]:
    """The names that a file defines: functions, classes, their methods and attributes, and what is assigned
    at top level.
    """

    def visit(body, prefix):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield prefix + node.name
                if isinstance(node, ast.ClassDef):
                    yield from visit(node.body, prefix + node.name + ".")
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    yield from (prefix + name.id for name in ast.walk(target) if isinstance(name, ast.Name))

    return set(visit(ast.parse(text_of(path)).body, ""))


@pytest.mark.parametrize("document", sorted(DOCS.rglob("*.md")), ids=lambda path: path.stem)
def test_links_to_code_name_what_is_there(document):
    """[`Class.method`](../package/module.py) leads to a file that defines it. (Line numbers would be wrong
    with the next change.)
    """
    for name, target in re.findall(r"\[`([\w.]+?)(?:\(\))?`\]\(([^)#]+\.py)\)", text_of(document)):
        if not name.endswith(".py"):
            assert name in names_in((document.parent / target).resolve()), f"{target} defines no {name}"
