"""What the two packages say of themselves, and that every hint to install something works as it stands."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
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


@pytest.mark.parametrize("major", ["12", "13"])
def test_extras_for_a_gpu_bring_flash_attention(major: str) -> None:
    """CuPy with its toolkit, cuDNN for the same CUDA, and the front end that is small: since 1.24 it brings a
    compiler along.
    """
    described = tomllib.loads((ROOT / "tinygpt_accel" / "pyproject.toml").read_text(encoding="utf-8"))
    brought = described["project"]["optional-dependencies"][f"cuda{major}"]
    names = [re.split("[<>=]", requirement)[0] for requirement in brought]
    assert {f"cupy-cuda{major}x[ctk]", f"nvidia-cudnn-cu{major}", "nvidia-cudnn-frontend"} <= set(names)
    front_end = brought[names.index("nvidia-cudnn-frontend")]
    assert "<1.24" in front_end and ">=1.14" in front_end, "before that there is no `generate_stats`"


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


def build(what: str, folder: Path, destination: Path) -> Path:
    """Builds a distribution with what the project's pyproject.toml asks for; returns its file."""
    program = f"import sys, setuptools.build_meta; setuptools.build_meta.build_{what}(sys.argv[1])"
    command = [sys.executable, "-c", program, str(destination)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return next(destination.iterdir())


def test_the_source_distribution_has_what_it_needs_and_no_tests(tmp_path: Path) -> None:
    setuptools = pytest.importorskip("setuptools", minversion="77", reason="what builds the distributions")
    assert setuptools
    project = tmp_path / "project"
    for folder in ("tinygpt_core", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "fixtures")
        shutil.copytree(ROOT / folder, project / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copyfile(ROOT / name, project / name)
    archive = build("sdist", project, tmp_path / "sdist")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
        files.extractall(tmp_path / "unpacked", filter="data")
    tests = {name for name in names if re.fullmatch(r"tests/.+\.py", name) and "tests/spec/" not in name}
    assert tests == {"tests/source_distribution.py"}
    wheel = build("wheel", next((tmp_path / "unpacked").iterdir()), tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as files:
        packed = {name for name in files.namelist() if name.endswith(".py")}
    source = {str(path.relative_to(ROOT)) for path in (ROOT / "tinygpt_core").rglob("*.py")}
    assert {name for name in packed if name.startswith("tinygpt_core/")} == source
    assert "tinygpt_spec/table.py" in packed and not any(name.startswith("tests/") for name in packed)
