"""A backend from outside the repository, as docs/writing-a-backend.md builds it: packaged, installed, found,
and run through the laws.

Everything is laid out as `pip install` leaves it (modules and a dist-info folder, so no network is needed) in
a folder that also holds copies of the core and of the specification; the repository itself is not on the
path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from test_readme import blocks

ROOT = Path(__file__).resolve().parent.parent
CHAPTER = ROOT / "docs" / "writing-a-backend.md"


def files_of_the_chapter() -> dict[str, str]:
    """The blocks that begin with the name of a file."""
    named = ((re.match(r"# (\S+\.\w+)\n", block.code), block.code) for block in blocks(CHAPTER))
    return {name[1]: code for name, code in named if name}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an environment's site-packages holds after installing tinygpt-core[spec] and the chapter's
    package.
    """
    site = tmp_path_factory.mktemp("environment") / "site-packages"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tinygpt_core", site / "tinygpt_core", ignore=ignore)
    shutil.copytree(ROOT / "tests" / "spec", site / "tinygpt_spec", ignore=ignore)
    files = files_of_the_chapter()
    assert set(files) == {"pyproject.toml", "theirs_plugin.py", "theirs_backend.py"}
    # "Copy tests/spec/minimal.py, call the class TheirBuffer and its backend "theirs", and end it with your
    # kernels."
    minimal = (ROOT / "tests" / "spec" / "minimal.py").read_text(encoding="utf-8")
    renamed = minimal.replace("MinimalBuffer", "TheirBuffer").replace(
        'backend = "minimal"', 'backend = "theirs"'
    )
    (site / "theirs_backend.py").write_text(renamed + "\n\n" + files["theirs_backend.py"], encoding="utf-8")
    (site / "theirs_plugin.py").write_text(files["theirs_plugin.py"], encoding="utf-8")
    project = tomllib.loads(files["pyproject.toml"])["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = project["entry-points"]["tinygpt.backends"]
    (info / "entry_points.txt").write_text(
        "[tinygpt.backends]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
    )
    return site


def python(*arguments: str, site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("TINYGPT_", "PYTEST_", "PYTHON"))
    }
    kept |= {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=kept, capture_output=True, encoding="utf-8", timeout=300
    )


def test_it_is_listed_and_imported_when_asked_for(site: Path, tmp_path: Path) -> None:
    code = (
        "import sys, tinygpt_core; from tinygpt_core import Tensor, backends\n"
        "print(tinygpt_core.__file__)\n"
        "print({s.name: s[1:] for s in backends.available()}['theirs'], 'theirs_backend' in sys.modules)\n"
        "backends.use('theirs'); print(Tensor([1.0]).silu().backend)\n"
    )
    done = python("-c", code, site=site, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    where, listed, backend = done.stdout.splitlines()
    assert where.startswith(str(site)), "the repository's own core was imported"
    assert listed == "(True, '', 'a backend from a package of its own', -1) False"
    assert backend == "theirs"
    listed = python("-m", "tinygpt_core", "backends", site=site, cwd=tmp_path).stdout
    assert re.search(r"^theirs +a backend from a package of its own$", listed, re.MULTILINE)


# Laws of every module, quick ones: the whole specification on this backend is what test_spec_itself runs on
# its original.
SUBSET = "SiLU or matmul or views or ndarray or uniform_bit_for_bit"


def test_it_passes_the_laws(site: Path, tmp_path: Path) -> None:
    arguments = [
        "-p",
        "tinygpt_spec.plugin",
        "--pyargs",
        "tinygpt_spec",
        "--backend",
        "theirs",
        "-p",
        "no:cacheprovider",
        "-rA",
    ]
    done = python("-m", "pytest", *arguments, "-k", SUBSET, site=site, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    for law in (
        "test_kernel_laws.py::test_fused_equals_composed[theirs-SiLU]",
        "test_values_dtype_and_shape[theirs-matmul]",
    ):
        assert law in done.stdout, law
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])  # type: ignore[index]
    assert passed > 30 and "skipped" not in done.stdout


def test_a_mistake_in_its_kernel_is_caught(site: Path, tmp_path: Path) -> None:
    """The law is really run on their kernel: with a wrong slope it fails."""
    broken = tmp_path / "site-packages"
    shutil.copytree(site, broken)
    file = broken / "theirs_backend.py"
    right = file.read_text(encoding="utf-8")
    wrong = right.replace("s * (1.0 + value * (1.0 - s))", "s * (1.0 + value * (1.001 - s))")
    assert wrong != right
    file.write_text(wrong, encoding="utf-8")
    arguments = [
        "--backend",
        "theirs",
        "--",
        "-p",
        "no:cacheprovider",
        "-k",
        "test_fused_equals_composed and SiLU",
    ]
    done = python("-m", "tinygpt_core", "spec", *arguments, site=broken, cwd=tmp_path)
    assert done.returncode == 1 and "test_fused_equals_composed[theirs-SiLU]" in done.stdout, (
        done.stdout[-2000:] + done.stderr
    )
