"""Measures the page of `tinygpt explain`: how large it is, how long it takes to make, and how long to open in
a Chromium without a window.

python benchmarks/explain.py [--models default,gpt2] [--openings 7] [--pictures docs/pictures]
                             [--json FILE] [--check]

The models are trained here first: `default` is the one that `tinygpt train` makes in pure Python with nothing
installed, and its commands are timed as the path of a newcomer; `gpt2` has GPT-2's shape (12 layers, 768
wide, 50,257 tokens; 124M parameters) on NumPy, after 2 steps with a context of 64. Opening a page is timed
from the navigation to the second frame after its scripts have run, the graph from the click to the second
frame; both in a fresh window, and the browser is running already.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MOST_BYTES, MOST_SECONDS, MOST_MINUTES = 5_000_000, 2.0, 3.0
PYTHON = [sys.executable, "-S", "-m", "tinygpt_core"]
COMMANDS = {
    "default": [*PYTHON, "train", "--backend", "python"],
    "gpt2": [
        sys.executable,
        "-m",
        "tinygpt_core",
        "train",
        "--preset",
        "gpt2-124m",
        "--backend",
        "numpy",
        "--context-length",
        "64",
        "--batch-size",
        "1",
        "--accumulation",
        "1",
        "--steps",
        "2",
        "--eval-every",
        "0",
        "--checkpoint-every",
        "0",
    ],
}
PICTURES = {
    "explain-overview": ("light", "overview", 960),
    "explain-graph": ("dark", "step", 860),
    "explain-attention": ("light", "attention", 860),
    "explain-training": ("dark", "training", 1160),
}  # name: theme, view and height
TO_ATTENTION = """() => {
    document.querySelector(".tools button").click();
    const {graph} = JSON.parse(document.getElementById("data").textContent);
    const slider = document.getElementById("steps");
    const isAttention = (place) => graph.operations[place].kind === "Attention";
    slider.value = graph.steps.findIndex(([phase, place]) => phase === "backward" && isAttention(place));
    slider.dispatchEvent(new Event("input"));
}"""
TWO_FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"


def timed(command: list[str]) -> float:
    """Runs a command in the repository and returns its seconds."""
    started = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def opened(browser: Any, page: Path, openings: int) -> tuple[list[float], list[float]]:
    """Returns the seconds to open a page, and then its graph; raises RuntimeError if the console says
    anything.
    """
    pages, graphs = [], []
    for _ in range(openings):
        context = browser.new_context(viewport={"width": 1400, "height": 900}, offline=True)
        window = context.new_page()
        said: list[str] = []
        window.on("console", lambda message, said=said: said.append(message.text))
        window.on("pageerror", lambda error, said=said: said.append(str(error)))
        started = time.perf_counter()
        window.goto(page.as_uri())
        window.evaluate(TWO_FRAMES)
        pages.append(time.perf_counter() - started)
        started = time.perf_counter()
        window.click("#tab-step")
        window.evaluate(TWO_FRAMES)
        graphs.append(time.perf_counter() - started)
        context.close()
        if said:
            raise RuntimeError(f"the console says: {said[0]}")
    return pages, graphs


def draw(browser: Any, page: Path, folder: Path) -> None:
    """Writes the pictures of the documentation."""
    for name, (theme, tab, height) in PICTURES.items():
        context = browser.new_context(
            viewport={"width": 1280, "height": height}, color_scheme=theme, reduced_motion="reduce"
        )
        window = context.new_page()
        window.goto(page.as_uri())
        window.click(f"#tab-{tab}")
        if tab == "step":
            window.evaluate(TO_ATTENTION)
        window.evaluate(TWO_FRAMES)
        window.screenshot(path=str(folder / f"{name}.png"))
        context.close()


def milliseconds(row: dict[str, Any], name: str) -> str:
    """The median and the largest of a row's times, as text."""
    times = row.get(name)
    return (
        f"{statistics.median(times) * 1e3:.0f} ms (at most {max(times) * 1e3:.0f})"
        if times
        else "not measured: no Chromium"
    )


def main() -> int:
    """Prints a Markdown table; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", default="default,gpt2", help="which, separated by commas (default: default,gpt2)"
    )
    parser.add_argument("--openings", type=int, default=7, help="how often each page is opened (default: 7)")
    parser.add_argument("--steps", type=int, help="of the training of `default` (default: the preset's)")
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="FOLDER",
        help="also write the documentation's pictures, of `default`, here",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a promise is not kept")
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    figures: dict[str, dict[str, Any]] = {}
    kept = True
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models.split(","):
            run, page = str(Path(folder) / model), Path(folder) / f"{model}.html"
            steps = ["--steps", str(options.steps)] if options.steps and model == "default" else []
            training = timed([*COMMANDS[model], *steps, "--quiet", "--out", run])
            start = PYTHON if model == "default" else [sys.executable, "-m", "tinygpt_core"]
            making = timed([*start, "explain", run, "--out", str(page)])
            figures[model] = {
                "training seconds": training,
                "making seconds": making,
                "bytes": page.stat().st_size,
            }
            kept &= page.stat().st_size < MOST_BYTES and (
                model != "default" or training + making < 60 * MOST_MINUTES
            )
        if chromium is not None:
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=chromium)
                for model, row in figures.items():
                    page = Path(folder) / f"{model}.html"
                    opened(browser, page, 1)
                    row["opening seconds"], row["graph seconds"] = opened(browser, page, options.openings)
                    kept &= max(row["opening seconds"]) < MOST_SECONDS
                if options.pictures:
                    draw(browser, Path(folder) / "default.html", options.pictures)
                browser.close()
    print(
        "| model | trained in | page made in | its size (limit 5 MB) | opened in (limit 2 s) | its "
        "graph then in |"
    )
    print("|---|---|---|---|---|---|")
    for model, row in figures.items():
        made = (
            f"{row['training seconds']:.0f} s | {row['making seconds']:.1f} s | {row['bytes'] / 1e6:.2f} MB"
        )
        print(
            f"| {model} | {made} | {milliseconds(row, 'opening seconds')} | "
            f"{milliseconds(row, 'graph seconds')} |"
        )
    if "default" in figures:
        seconds = figures["default"]["training seconds"] + figures["default"]["making seconds"]
        print(
            f"\nA newcomer's path, `train` and `explain` in pure Python: {seconds:.0f} s (limit "
            f"{60 * MOST_MINUTES:.0f} s)."
        )
    print(f"The promises are {'kept' if kept else 'NOT kept'}.")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return int(options.check and not kept)


if __name__ == "__main__":
    sys.exit(main())
