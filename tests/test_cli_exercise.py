"""`tinygpt exercise`: skeletons that say what is asked, laws that tell right from wrong, and no file lost."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

from tinygpt_core.cli import main
from tinygpt_core.cli.exercise import Solution, check, exercises, skeleton

ALL = exercises()
every_exercise = pytest.mark.parametrize("exercise", ALL.values(), ids=list(ALL))


@every_exercise
def test_every_exercise_has_something_to_fill_in_a_mark_and_a_hint(exercise):
    solution, text = Solution(exercise), skeleton(exercise)
    module = ast.parse(text)
    assert exercise.number in ast.get_docstring(module)
    assert re.search(r", ★{1,3}$", exercise.title)
    assert solution.asked
    assert solution.hint() != "read the chapter once more"
    written = {node.name: node for node in module.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for asked in solution.asked:
        assert "NotImplementedError" in ast.unparse(written[asked.name])
        explained = solution.whole()
        assert f" {asked.name}" in explained and "test_" not in explained and "# Hint" not in explained


@every_exercise
def test_a_skeleton_has_all_that_its_solution_needs(exercise):
    """The names that the solution reads are given, asked for, its own, or Python's."""
    solution = Solution(exercise)
    text = skeleton(exercise)
    parts = list(ast.walk(ast.parse(text)))
    given = {node.id for node in parts if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    given |= {node.arg for node in parts if isinstance(node, ast.arg)}
    given |= {name for line in re.findall(r"import (.+)", text) for name in re.findall(r"\w+", line)}
    given |= set(re.findall(r"^(?:def|class) (\w+)", text, re.MULTILINE))
    defined = set(re.findall(r"^(?:def|class) (\w+)|^(\w+) =", solution.source, re.MULTILINE))
    at_top = {name for pair in defined for name in pair if name and not name.startswith("test_")}
    for node in solution.asked:
        used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        assert used & at_top <= given


def command(*arguments: str) -> int:
    return main(["exercise", *arguments])


def test_from_a_skeleton_to_a_solution(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command("1.4") == 0
    path = Path("exercise_1_4.py")
    assert "softmax_backward" in path.read_text(encoding="utf-8")
    capsys.readouterr()

    assert command("1.4", "--check") == 1
    assert "NotImplementedError" in capsys.readouterr().out

    assert command("1.4", "--solution") == 0
    solution = "import math\n" + capsys.readouterr().out
    solution += "\ndef softmax(x):\n    e = [math.exp(v) for v in x]\n    return [v / sum(e) for v in e]\n"
    path.write_text(solution.replace("(g_j - mean)", "(g_j + mean)"), encoding="utf-8")
    assert command("1.4", "--check") == 1
    printed = capsys.readouterr().out
    assert "assert close(long_way" in printed and "Hint: " in printed

    written = path.stat()
    path.write_text(solution, encoding="utf-8")
    os.utime(path, (written.st_atime, written.st_mtime))  # as of two attempts in one second
    assert path.stat().st_size == written.st_size
    assert command("1.4", "--check") == 0
    assert "1.4 holds" in capsys.readouterr().out


def test_what_is_wrong_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, said in (
        (("99.1",), "no exercise 99.1"),
        (("1.4", "--check"), "there is no"),
        (("1.4", "--file", "nowhere/x.py"), "nowhere"),
    ):
        assert command(*arguments) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    mine = tmp_path / "exercise_1_4.py"
    mine.write_text("softmax = 1 / 0", encoding="utf-8")
    assert command("1.4") == 2 and mine.read_text(encoding="utf-8") == "softmax = 1 / 0"
    assert "is there already" in capsys.readouterr().err
    assert command("1.4", "--check") == 2 and "ZeroDivisionError" in capsys.readouterr().err
    mine.write_text("softmax = 1", encoding="utf-8")
    assert command("1.4", "--check") == 2 and "defines no softmax_jacobian" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "returned", "said"),
    [
        ("1.5", "x", "assert close( rms_norm_backward(x, g), [sum("),  # four lines of the law
        ("1.5", "x", "\nwhere x = [0.5, -1.5, 2.0, 0.1, 0.0], g = [1.0, 2.0, -0.5, 3.0, 1.0]\n"),
        ("3.1", "1.0, 1.0, 3", "assert steps == 87\nwhere steps = 3\n"),
        ("3.1", "[\n        1.0,\n        1 / 0,\n    ]", "return [ 1.0, 1 / 0, ]\nZeroDivisionError"),
        ("2.1", "by_numbers(result)[:-1]", "in value.parents)\nKeyError"),  # objects are not shown
    ],
)
def test_a_law_that_does_not_hold_is_quoted_with_its_values(number, returned, said, tmp_path):
    path = tmp_path / ALL[number].file
    written = skeleton(ALL[number]).replace("raise NotImplementedError\n", f"return {returned}\n")
    path.write_text(written, encoding="utf-8")
    assert said in check(ALL[number], path) + "\n"


def test_the_list_names_all(capsys):
    assert command() == 0
    printed = capsys.readouterr().out
    assert all(f" {number}  {exercise.title}" in printed for number, exercise in ALL.items())


def test_without_the_book_a_clone_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="clone"):
        exercises(tmp_path)


def test_an_installed_package_finds_the_exercises_of_the_clone_it_runs_in(tmp_path, monkeypatch):
    monkeypatch.setattr("tinygpt_core.cli.exercise.DOCS", tmp_path / "site-packages" / "docs")
    monkeypatch.chdir(Path(__file__).resolve().parent.parent)
    assert exercises().keys() == ALL.keys()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="clone"):
        exercises()


@pytest.mark.parametrize("number", ["1.6", "2.1", "4.1", "7.5", "11.1", "16.1"])
def test_a_solution_holds_against_its_law(number):
    assert check(ALL[number], ALL[number].path) == ""
