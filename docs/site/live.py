"""Python inside the browser, for the site: for the live page, which is that of `tinygpt live`, and for the
book's blocks, which can be edited and run.

    live/               the page's modules, as they are in tinygpt_core/live/page
    runtime/pyodide/    CPython as WebAssembly: the npm package `pyodide`, of one version and checksum,
                        fetched by the build and never committed
    runtime/editor/     the editor CodeMirror, from npm in the same way; what it imports lies beside it
    runtime/core.zip    tinygpt_core as it stands
    runtime/runs.zip    two runs that the build trains, one of letters and one of byte pairs, and the names
                        to train on, since the standard library's sources are not in a browser
    runtime/optimizers.zip  what the runs' optimizers remember, for those who go on with one
    runtime/book.zip    what the book reads: the language reference, which the runtime lacks, and tests/spec
    offline.js          the service worker that keeps all of this for when there is no network

Everything is plain files: any static host will do, with no special headers.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tinygpt_core import backends
from tinygpt_core.dataset.corpora import load_corpus
from tinygpt_core.training import PRESETS, Trainer, TrainingConfig

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORE = ROOT / "tinygpt_core"
PAGE = CORE / "live" / "page"
EPOCH = (1980, 1, 1, 0, 0, 0)  # so that the same files make the same archive
RUN_FILES = ("config.json", "tokenizer", "model.safetensors", "state.json")
OPTIMIZER = "optimizer.safetensors"  # twice as large as the model, and needed only to go on with a training
LATER = "optimizers.zip"  # fetched by who goes on with a run

# The page's first words, which stay where its scripts are not loaded
FROM_A_FILE = (
    "If nothing happens: browsers run no modules from files. Serve the site's folder, "
    "for example with “python3 -m http.server”, and open the address that it prints."
)


class Package(NamedTuple):
    """A package of the npm registry: one version, its checksum as npm writes it, and the files we need."""

    name: str
    version: str
    integrity: str
    files: tuple[str, ...]


PYODIDE = Package(
    "pyodide",
    "314.0.7",
    "sha512-0YvXxEhfEdpLfb/XkM2BFAeMROq0iMUX2bzzH9pOttyMcWkwq+HbE5uyuGD82LN7y2q+SNvi/6V5JEsOlD2R1A==",
    ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json"),
)


def editor_packages() -> tuple[Package, ...]:
    """CodeMirror 6 and what it imports, each an ECMAScript module of one file, as `editor.json` pins them."""
    pinned = json.loads((HERE / "editor.json").read_text(encoding="utf-8"))
    return tuple(
        Package(name, entry["version"], entry["integrity"], (entry["file"],))
        for name, entry in pinned.items()
    )


class Unavailable(Exception):
    """What the live page needs cannot be had here; the message says what and why."""


def fetched(package: Package, cache: Path) -> bytes:
    """The package's archive, from the cache or by npm, if it is the one that was pinned.

    Raises:
        Unavailable: there is no npm, or no network.
        ValueError: it is another file than the one that was pinned.
    """
    path = cache / f"{_file_name(package)}-{package.version}.tgz"
    if not path.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable("npm is missing, which fetches Python for the browser")
        cache.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", "--silent", f"{package.name}@{package.version}"]
        done = subprocess.run(command, cwd=cache, capture_output=True, text=True)
        if done.returncode or not path.is_file():
            raise Unavailable(f"npm cannot fetch {package.name} {package.version}")
    data = path.read_bytes()
    kind, _, expected = package.integrity.partition("-")
    found = base64.b64encode(hashlib.new(kind, data).digest()).decode()
    if found != expected:
        path.unlink()
        raise ValueError(f"{path.name} is not the one that was pinned: {kind}-{found}")
    return data


def _file_name(package: Package) -> str:
    """What npm calls the files of a package: "codemirror-state" for "@codemirror/state"."""
    return package.name.removeprefix("@").replace("/", "-")


def unpacked(package: Package, data: bytes) -> dict[str, bytes]:
    """The package's files that we need, and its `LICENSE` if there is one, by their names in it."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        licence = ["LICENSE"] if "package/LICENSE" in archive.getnames() else []
        for name in [*package.files, *licence]:
            member = archive.extractfile(f"package/{name}")
            assert member is not None
            found[name] = member.read()
    return found


def write_python(folder: Path, data: bytes) -> None:
    """Writes what Pyodide's archive has for us."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in unpacked(PYODIDE, data).items():
        (folder / name).write_bytes(content)


def write_editor(folder: Path, archives: dict[Package, bytes]) -> None:
    """Writes the editor's modules, with their licences, and lets each import the others from beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {package.name: _file_name(package) for package in archives}

    def beside(match: re.Match[str]) -> str:
        return f'{match[1]}"./{names[match[2]]}.js"'

    imported = r"""^((?:import|export)\b[\w\s{},*$]*?\bfrom\s*)['"]([^.'"][^'"]*)['"]"""
    for package, data in archives.items():
        files, name = unpacked(package, data), names[package.name]
        text = re.sub(imported, beside, files[package.files[0]].decode(), flags=re.MULTILINE)
        (folder / f"{name}.js").write_text(text, encoding="utf-8")
        if "LICENSE" in files:
            (folder / f"{name}.LICENSE.txt").write_bytes(files["LICENSE"])


def book_files() -> dict[str, bytes]:
    """What the book's blocks read: the specification's files, and the language reference of this Python,
    which the corpus `docs` is made of.
    """
    files = {
        path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / "tests/spec").glob("*.py")
    }
    try:
        import pydoc_data.topics as topics
    except ImportError:
        return files
    reference = {"pydoc_data/__init__.py": b"", "pydoc_data/topics.py": Path(topics.__file__).read_bytes()}
    return files | reference


def zipped(files: dict[str, bytes]) -> bytes:
    """An archive of files, the same bytes for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name])
    return buffer.getvalue()


def core() -> bytes:
    """The package tinygpt_core, unmodified."""
    paths = [path for path in CORE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return zipped({path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths})


def settings() -> dict[str, TrainingConfig]:
    """The runs that are bundled, by name: the default one, and one whose tokenizer has merges."""
    backend = "python" if backends.why_not("numpy") else "numpy"
    letters = replace(PRESETS["identifiers"].config, backend=backend)
    plain = TrainingConfig()
    pairs = replace(
        letters,
        tokenizer="bpe",
        vocab_size=400,
        context_length=16,
        steps=800,
        ngram_prior=0,  # a GPT alone, which learns as one
        learning_rate=plain.learning_rate,
        minimum_learning_rate=plain.minimum_learning_rate,
    )
    return {"letters": letters, "byte pairs": pairs}


def trained(config: TrainingConfig, cache: Path) -> Path:
    """The directory of a run with these settings, trained now unless it was before."""
    key = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / f"run-{key}"
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for _ in Trainer.start(config, str(folder / "run")).run():
            pass
        (folder / "whole").touch()
    return folder / "run"


def write(site: Path, cache: Path, runs: dict[str, Path] | None = None) -> None:
    """Writes the live page, and Python for it and for the book, into the folder of a site.

    Args:
        site: gets `live`, `runtime` and `offline.js`.
        cache: keeps what was fetched and trained.
        runs: the directories of the runs, by name; default: those of `settings`, trained here.

    Raises:
        Unavailable: Python for the browser cannot be had.
        ValueError: it is not what was pinned.
    """
    python = fetched(PYODIDE, cache)
    editor = {package: fetched(package, cache) for package in editor_packages()}
    if runs is None:
        runs = {name: trained(config, cache) for name, config in settings().items()}
    runtime, page = site / "runtime", site / "live"
    write_python(runtime / "pyodide", python)
    write_editor(runtime / "editor", editor)
    names = "\n".join(load_corpus("identifiers").documents or []) + "\n"
    files = {"identifiers.txt": names.encode()}
    for name, folder in runs.items():
        files |= {f"{name}/{file}": (folder / file).read_bytes() for file in RUN_FILES}
    optimizers = {f"{name}/{OPTIMIZER}": (folder / OPTIMIZER).read_bytes() for name, folder in runs.items()}
    (runtime / "core.zip").write_bytes(core())
    (runtime / "runs.zip").write_bytes(zipped(files))
    (runtime / LATER).write_bytes(zipped(optimizers))
    (runtime / "book.zip").write_bytes(zipped(book_files()))
    loaded = [path for path in runtime.rglob("*") if path.is_file() and path.name != LATER]
    manifest = {
        "megabytes": math.ceil(sum(path.stat().st_size for path in loaded) / 1e6),
        "core": "core.zip",
        "runs": "runs.zip",
        "optimizers": LATER,
        "book": "book.zip",
        "run_folders": {name: f"/home/pyodide/{name}" for name in runs},
        "corpora": {"identifiers": "/home/pyodide/identifiers.txt"},
    }
    (runtime / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    page.mkdir(parents=True, exist_ok=True)
    for path in PAGE.iterdir():
        shutil.copy(path, page)
    index = page / "index.html"
    text = index.read_text(encoding="utf-8").replace(
        'data-engine="server" data-book=""', 'data-engine="worker" data-book="../"'
    )
    text = text.replace(
        '<div class="controls">', '<div class="controls">\n    <a href="../index.html">The book</a>'
    )
    text = text.replace("Starting …", f"Starting … {FROM_A_FILE}")
    index.write_text(text, encoding="utf-8")
    _write_offline(site)


def _write_offline(site: Path) -> None:
    """Writes the service worker with the list of what it keeps, under a name that changes with it."""
    folders = ("live", "runtime", "_static/book")
    found = (path for folder in folders for path in (site / folder).rglob("*"))
    kept = sorted(path for path in found if path.is_file() and path.name != LATER)
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in kept)).hexdigest()
    names = [path.relative_to(site).as_posix() for path in kept]
    script = (HERE / "offline.js").read_text(encoding="utf-8")
    script = script.replace('"VERSION"', json.dumps(digest[:16])).replace("[/* FILES */]", json.dumps(names))
    (site / "offline.js").write_text(script, encoding="utf-8")
