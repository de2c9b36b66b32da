"""The core works where the standard library is that of a browser's Python, and says so where it cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("without_modules.py")
WORDS = "\n".join(f"{a}_{b}{c}" for a in ("get", "set", "has") for b in ("name", "size") for c in "abcdef")


def tinygpt(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_what_a_browser_can_do(tmp_path):
    (tmp_path / "words.txt").write_text(WORDS)
    small = ["--preset", "debug", "names", "--data", "words.txt", "--backend", "python"]
    for arguments in (
        ["train", *small, "--steps", "4", "--out", "run", "--quiet"],
        ["train", "--resume", "run", "--steps", "6", "--quiet"],
        ["generate", "run", "--prompt", "get_", "--count", "2"],
        ["plot", "run"],
        ["explain", "run", "--out", "page.html"],
        ["explain", "run", "--prompt", "get", "--out", "page.html"],
    ):
        done = tinygpt(*arguments, cwd=tmp_path)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"


def test_what_it_cannot_do_is_said_in_one_line(tmp_path):
    for corpus, why in (("identifiers", "keeps no sources"), ("docs", "without pydoc_data")):
        done = tinygpt("train", corpus, "--backend", "python", "--out", "run", cwd=tmp_path)
        assert done.returncode == 2 and why in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1 and "--data FILE" in done.stderr


def test_neither_thread_nor_process_starts_there():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import without_modules as w; w.make_like_a_browser()\n"
        "import os, subprocess, threading\n"
        "for start in (threading.Thread().start, os.fork, lambda: subprocess.run([sys.executable, '-V'])):\n"
        "    try:\n"
        "        start()\n"
        "    except (RuntimeError, OSError):\n"
        "        continue\n"
        "    os._exit(1)\n"
    )
    command = [sys.executable, "-S", "-c", code, str(SCRIPT.parent)]
    assert subprocess.run(command, timeout=300).returncode == 0


def test_the_microscope_answers_there(tmp_path):
    run = Path(__file__).parent / "fixtures" / "runs" / "documents" / "run"
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]; import without_modules as w; w.make_like_a_browser()\n"
        "from tinygpt_core.live.protocol import Microscope\n"
        "microscope = Microscope({'run': sys.argv[1]}, backend='python')\n"
        "for request in ({'method': 'forward', 'params': {'text': 'get'}},\n"
        "                {'method': 'train_new', 'params': {'own_text': 'ab ba ' * 200, 'width': 4}},\n"
        "                {'method': 'train_step'}):\n"
        "    assert 'result' in microscope.answer(request)\n"
    )
    folders = [str(SCRIPT.parent), str(SCRIPT.parent.parent)]
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(run), *folders], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
