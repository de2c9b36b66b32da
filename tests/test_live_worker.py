"""The live page of the site: what the build puts there, and Python inside a real browser giving the numbers
of Python outside.

The last needs a Chromium, the extra `browser`, and Pyodide, which npm fetches; it skips with the reason where
one is missing.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from static_host import CHROMIUM, static_host

from tinygpt_core.live import Microscope

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "tests" / "fixtures" / "runs" / "documents" / "run"
SLOW = 400_000  # milliseconds: a machine may have much else to do

sys.path.insert(0, str(ROOT / "docs" / "site"))
try:
    live: Any = import_module("live")
finally:
    sys.path.remove(str(ROOT / "docs" / "site"))


def test_the_same_files_make_the_same_archive():
    files = {"b/a.txt": b"x" * 1000, "a.txt": b""}
    assert live.zipped(files) == live.zipped(dict(reversed(files.items())))
    with zipfile.ZipFile(io.BytesIO(live.zipped(files))) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files


def test_the_core_is_packed_as_it_stands():
    with zipfile.ZipFile(io.BytesIO(live.core())) as archive:
        names = archive.namelist()
        assert archive.read("tinygpt_core/tape.py") == (ROOT / "tinygpt_core" / "tape.py").read_bytes()
    assert "tinygpt_core/live/page/index.html" in names and not any("__pycache__" in name for name in names)


def test_another_archive_than_the_pinned_one_is_refused(tmp_path):
    path = tmp_path / f"pyodide-{live.PYODIDE.version}.tgz"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not the one that was pinned"):
        live.fetched(live.PYODIDE, tmp_path)
    assert not path.exists()


def test_without_npm_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(live.Unavailable, match="npm is missing"):
        live.fetched(live.PYODIDE, tmp_path)


def test_the_bundled_runs_are_the_default_one_and_one_with_merges():
    settings = live.settings()
    assert settings["letters"].to_dict() | {"backend": ""} == live.PRESETS["identifiers"].config.to_dict() | {
        "backend": ""
    }
    assert settings["byte pairs"].tokenizer == "bpe"


def test_what_an_optimizer_remembers_is_not_loaded_at_first(tmp_path):
    cache = ROOT / "build" / "site-cache"
    try:
        live.write(tmp_path, cache, {"letters": RUN})
    except live.Unavailable as reason:
        pytest.skip(f"there is no Python for the browser: {reason}")
    runtime = tmp_path / "runtime"
    manifest = json.loads((runtime / "manifest.json").read_text())
    with zipfile.ZipFile(runtime / manifest["runs"]) as archive:
        assert "letters/model.safetensors" in archive.namelist()
        assert not any("optimizer" in name for name in archive.namelist())
    with zipfile.ZipFile(runtime / manifest["optimizers"]) as archive:
        assert archive.namelist() == ["letters/optimizer.safetensors"]
    offline = (tmp_path / "offline.js").read_text()
    assert manifest["optimizers"] not in offline and "runtime/runs.zip" in offline
    loaded = sum(path.stat().st_size for path in runtime.rglob("*") if path.is_file())
    assert 0 <= manifest["megabytes"] * 1e6 - (loaded - (runtime / "optimizers.zip").stat().st_size) < 2e6


def test_every_question_mark_leads_to_a_section_of_the_book():
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    try:
        anchors = import_module("markdown_text").anchors
    finally:
        sys.path.remove(str(ROOT / "docs" / "site"))
    script = (ROOT / "tinygpt_core" / "live" / "page" / "help.js").read_text(encoding="utf-8")
    chapters = dict(re.findall(r'(\w+): "(\d\d-[\w-]+)"', script))
    topics = re.findall(r'"(\w+)", "([\w-]+)"\],\n', script)
    assert len(topics) > 15 and len(chapters) == 8
    for chapter, section in topics:
        text = (ROOT / "docs" / f"{chapters[chapter]}.md").read_text(encoding="utf-8")
        assert section in anchors(text), f"{chapters[chapter]} has no section {section}"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    if CHROMIUM is None or find_spec("playwright") is None:
        pytest.skip("there is no browser on this machine, or no Playwright (pip install -e '.[browser]')")
    site = tmp_path_factory.mktemp("live-site")
    try:
        live.write(site, ROOT / "build" / "site-cache", {"letters": RUN})
    except live.Unavailable as reason:
        pytest.skip(f"there is no Python for the browser: {reason}")
    with static_host(site) as server:
        yield f"http://127.0.0.1:{server.server_port}/live/index.html", server


def test_python_in_the_browser_gives_the_numbers_of_python_outside(address):
    from playwright.sync_api import sync_playwright

    url, server = address
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=os.geteuid() != 0)
        context = browser.new_context(reduced_motion="reduce")
        context.set_default_timeout(SLOW)
        page = context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: message.type == "error" and problems.append(message.text))
        page.on("request", lambda request: request.url.startswith(url[:21]) or problems.append(request.url))
        page.goto(url)
        page.wait_for_selector("html[data-ready=true]", state="attached")
        asked = [
            ("forward", {"text": "get_size"}),
            ("cell", {"text": "get_size", "view": "blocks.0.scores", "row": 3, "column": 1, "head": 1}),
            ("draw", {"text": "get_", "seed": 7, "draw": 2, "temperature": 0.9}),
            ("train_new", {"own_text": "get_a\nset_b\nis_value\n" * 8, "by_line": True, "width": 8}),
            ("train_run", {"steps": 1}),
            ("train_run", {"steps": 1}),
            ("train_step", {}),
            ("train_new", {"own_text": "get_size\nset_name\n" * 8, "by_line": True, "continue_run": True}),
            ("train_step", {}),
        ]
        script = "([method, params]) => import('./store.js').then((store) => store.ask(method, params))"
        own = Microscope({"letters": str(RUN)}, backend="python")
        for method, params in asked:
            found = page.evaluate(script, [method, params])
            expected = json.loads(own.answer_text(json.dumps({"method": method, "params": params})))["result"]
            assert _close(found, expected), method
        page.wait_for_function("navigator.serviceWorker.ready.then((it) => it.active.state === 'activated')")
        server.shutdown()
        server.server_close()
        page.reload()
        page.wait_for_selector("html[data-ready=true]", state="attached")
        assert not problems
        browser.close()


def _close(found: Any, expected: Any) -> bool:
    """Whether two JSON values are the same, times aside, and floats as far as float32 goes, whose last bit
    may differ: the two have other exp and tanh.
    """
    if isinstance(expected, dict):
        keys = expected.keys() - {"seconds"}
        return keys == found.keys() - {"seconds"} and all(_close(found[key], expected[key]) for key in keys)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_close, found, expected))
    if isinstance(expected, float):
        return bool(found == pytest.approx(expected, rel=1e-5, abs=1e-7))
    return bool(found == expected)
