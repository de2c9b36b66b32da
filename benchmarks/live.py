"""Measures the live microscope in a Chromium without a window, with both of its engines.

python benchmarks/live.py [--engine server,worker] [--keystrokes 15] [--steps N] [--json FILE] [--check]
                          [--pictures FOLDER]

The default model (`tinygpt train`) is trained here first. A keystroke is timed from the key to the second
frame after the view was painted anew, for the next token and for attention. Ready is timed from the
navigation to the first forward pass, for the worker with everything in the browser's cache. Training in the
page is compared with the steps a second of this Python, with the same settings. The longest gap is that
between two timers of 10 ms on the page while it trains. The worker needs what `docs/site/live.py` fetches by
npm.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "site")]

from tinygpt_core.dataset.corpora import load_corpus  # noqa: E402
from tinygpt_core.live import Microscope  # noqa: E402
from tinygpt_core.live.server import serve  # noqa: E402
from tinygpt_core.live.session import TrainingSession  # noqa: E402
from tinygpt_core.training import PRESETS, Trainer  # noqa: E402

KEYSTROKE = {"server": 60.0, "worker": 150.0}  # milliseconds, at most, in the median
READY = 10.0  # seconds
TRAINING = 0.4  # of this Python's steps a second
ANSWERS = 100.0  # milliseconds
TIMED = """([letter]) => new Promise((done) => {
    const box = document.getElementById("text");
    const started = performance.now();
    document.addEventListener("painted", () => requestAnimationFrame(() => requestAnimationFrame(
        () => done(performance.now() - started))), { once: true });
    box.value += letter;
    box.dispatchEvent(new Event("input"));
})"""
GAPS = """() => { window.gaps = []; let last = performance.now();
    const note = () => { const now = performance.now(); gaps.push(now - last); last = now; };
    window.timer = setInterval(note, 10); }"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""


@contextmanager
def served(engine: str, run: Path, folder: Path) -> Iterator[str]:
    """The address of the page, served by Python or as plain files, in a `with`."""
    server: Any
    if engine == "server":
        server = serve(Microscope({"run": str(run)}, backend="python"))
        address = server.address
    else:
        import live  # of docs/site

        live.write(folder, ROOT / "build" / "site-cache", {"run": run})
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))
        )
        address = f"http://127.0.0.1:{server.server_port}/live/index.html"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()


def measured(browser: Any, engine: str, address: str, keystrokes: int) -> dict[str, Any]:
    """The figures of one engine."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, bypass_csp=True)
    context.set_default_timeout(300_000)
    page = context.new_page()
    found: dict[str, Any] = {}
    for _ in range(2):  # the second time from the browser's cache
        started = time.perf_counter()
        page.goto(address)
        page.wait_for_selector("h1")
        found["readable seconds"] = time.perf_counter() - started
        page.wait_for_selector("html[data-ready=true]", state="attached")
        found["ready seconds"] = time.perf_counter() - started
    for view in ("next", "attention"):
        page.click(f"#tab-{view}")
        times = []
        for i in range(keystrokes + 2):
            if i % 8 == 0:
                page.fill("#text", "get_")
                page.wait_for_timeout(1500)
            times.append(page.evaluate(TIMED, ["value_of"[i % 8]]))
            page.wait_for_timeout(150)
        found[f"{view} milliseconds"] = times[2:]
    page.click("#tab-train")
    page.click("#train-new")
    page.wait_for_selector(".samples p")
    page.wait_for_timeout(500)
    page.evaluate(GAPS)
    page.click("#train-start")
    page.wait_for_timeout(12_000)
    found["longest gap milliseconds"] = page.evaluate("Math.max(...gaps)")
    page.click("#train-start")
    page.wait_for_selector("#train-step:not([disabled])")
    facts = page.inner_text("#train-facts")
    found["steps in 12 s"] = int(facts.split("Step ")[1].split()[0])
    context.close()
    return found


def pictures(browser: Any, address: str, folder: Path) -> None:
    """Writes the pictures of docs/live.md, which answer three questions of a new reader."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000}, reduced_motion="reduce")
    context.set_default_timeout(300_000)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("html[data-ready=true]", state="attached")
    page.fill("#text", "get_value")
    page.wait_for_selector("#chips .chip:nth-child(10):last-child")
    page.click("#tab-attention")
    page.wait_for_selector("#attention-row tbody tr:nth-child(10)")
    page.click('.switch[data-key="heads-0-0"]')
    page.wait_for_selector('.switch[data-key="heads-0-0"][aria-checked="false"]')
    page.wait_for_timeout(500)
    page.screenshot(path=folder / "live-head.png", clip=_box(page, "#view-attention", 700))
    page.click("#tab-next")
    page.wait_for_selector("text=Kullback")
    page.screenshot(path=folder / "live-change.png", clip=_box(page, "#view-next", 720))
    page.click("#tab-train")
    page.click("#train-continue")
    page.wait_for_selector(".samples p")
    page.click("#train-step")
    page.wait_for_selector(".along svg")
    page.wait_for_timeout(500)
    page.screenshot(path=folder / "live-loss.png", full_page=True, clip=_box(page, "#weight-section", 420))
    page.select_option("#weights-of", "ngram_prior.confidence.weights")
    page.focus("[aria-label^='ngram_prior.confidence.weights']")
    for _ in range(4):  # to the one whose step changes the loss of this batch most
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_selector("#weight-detail h2:has-text('confidence.weights[11')")
    page.wait_for_selector(".along svg")
    page.screenshot(path=folder / "live-weight.png", full_page=True, clip=_box(page, "#weight-detail", 1500))
    context.close()


def _box(page: Any, selector: str, most: int) -> dict[str, float]:
    """The place of an element on the whole page, of at most some height."""
    script = """(selector) => { const box = document.querySelector(selector).getBoundingClientRect();
        return { x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height }; }"""
    box: dict[str, float] = page.evaluate(script, selector)
    return box | {"height": min(box["height"], most)}


def main() -> int:
    """Prints a Markdown table; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", default="server,worker", help="which (default: both)")
    parser.add_argument("--keystrokes", type=int, default=15, help="how many are timed (default: 15)")
    parser.add_argument("--steps", type=int, help="of the training of the model (default: the preset's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write those of docs/live.md, too")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a promise is not kept")
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    from playwright.sync_api import sync_playwright

    config = replace(PRESETS["identifiers"].config, backend="python")
    figures: dict[str, dict[str, Any]] = {}
    kept = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for _ in Trainer.start(
            replace(config, steps=options.steps or config.steps), str(folder / "run")
        ).run():
            pass
        session = TrainingSession(config, load_corpus("identifiers"))
        session.run(2, 1e9)
        started = time.perf_counter()
        own = len(session.run(10_000, 8.0)) / (time.perf_counter() - started)
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium)
            if options.pictures:
                with served("server", folder / "run", folder) as address:
                    pictures(browser, address, options.pictures)
            for engine in options.engine.split(","):
                with served(engine, folder / "run", folder / "site") as address:
                    figures[engine] = measured(browser, engine, address, options.keystrokes)
            browser.close()
    print(f"Steps a second of this Python: {own:.2f}\n")
    names = ("engine", "readable", "ready", "key, next token", "key, attention", "training", "longest gap")
    print(f"| {' | '.join(names)} |")
    print("|---|---|---|---|---|---|---|")
    for engine, row in figures.items():
        strokes = [statistics.median(row[f"{view} milliseconds"]) for view in ("next", "attention")]
        share = row["steps in 12 s"] / 12 / own
        row |= {"share of this Python": share, "own steps a second": own}
        kept &= max(strokes) <= KEYSTROKE[engine] and row["ready seconds"] <= READY
        kept &= share >= TRAINING and row["longest gap milliseconds"] <= ANSWERS
        cells = (
            f"{row['readable seconds']:.2f} s",
            f"{row['ready seconds']:.1f} s",
            f"{strokes[0]:.0f} ms",
            f"{strokes[1]:.0f} ms",
            f"{share:.0%}",
            f"{row['longest gap milliseconds']:.0f} ms",
        )
        print(f"| {engine} | {' | '.join(cells)} |")
    print(f"The promises are {'kept' if kept else 'NOT kept'}.")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return int(options.check and not kept)


if __name__ == "__main__":
    sys.exit(main())
