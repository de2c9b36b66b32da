"""What the two packages say of themselves, and that every hint to install something works as it stands."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECTS = [ROOT, ROOT / "tinygpt_accel"]


def texts() -> list[tuple[str, str]]:
    """The name and content of every file of the project that a person reads or that may print a hint."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("the files of the project are listed by git, and this is no repository")
    names = [name for name in listed.stdout.split("\n") if name.endswith((".py", ".md", ".toml"))]
    return [
        (name, (ROOT / name).read_text(encoding="utf-8"))
        for name in names
        if (ROOT / name).is_file() and name != "tests/test_packages.py"
    ]


def test_hints_install_from_the_folder() -> None:
    """Neither package is published, so no command may name them as if they were; the plug-in alone cannot be
    installed either, since it needs the core.
    """
    for name, text in texts():
        for command in re.findall(r"pip install [^`\n]*", text):
            command = command.replace("\\", "")  # of a pattern in a test
            assert not re.search(r'[\s"]tinygpt[-_](core|accel)\b', command), f"{name}: {command}"
            if "./tinygpt_accel" in command:
                has_core = re.search(r'install (-e )?("?\.(\[\w+\])?"? )', command)
                assert has_core, f"{name}: the core is missing in: {command}"


@pytest.mark.parametrize("folder", PROJECTS, ids=lambda path: path.name)
def test_long_descriptions_have_no_relative_links(folder: Path) -> None:
    """They are shown elsewhere, where no file lies beside them."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (folder / project["readme"]).read_text(encoding="utf-8")
    assert len(text) > 300
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert all(link.startswith("https://") for link in links), links


@pytest.mark.parametrize("extra", ["accel", "cuda12", "cuda13"])
def test_extras_of_the_core_are_extras_of_the_plug_in(extra: str) -> None:
    core, accel = (
        tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for folder in PROJECTS
    )
    for requirement in core["optional-dependencies"][extra]:
        found = re.fullmatch(r"tinygpt-accel\[([\w,-]+)\]", requirement)
        assert found and set(found[1].split(",")) <= set(accel["optional-dependencies"])


@pytest.mark.parametrize("folder", PROJECTS, ids=lambda path: path.name)
def test_each_package_carries_its_licence_and_says_that_it_is_typed(folder: Path) -> None:
    described = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    package = ROOT / ("tinygpt_core" if folder == ROOT else "tinygpt_accel")
    assert "MIT License" in (package / "LICENSE").read_text(encoding="utf-8")
    assert (package / "py.typed").is_file()
    assert described["project"]["license"] == "MIT"
    licences = [(folder / name).resolve() for name in described["project"]["license-files"]]
    assert licences == [package / "LICENSE"]
    assert "py.typed" in described["tool"]["setuptools"]["package-data"][package.name]
