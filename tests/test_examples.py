"""The examples run from top to bottom, with fewer steps where a whole run takes long, and learn what they are
about.
"""

from __future__ import annotations

import importlib.util
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tinygpt_core import backends

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "docs" / "examples"
DATA = ROOT.parent / "shared" / "data"


def example(name):
    """The example's module, loaded from its file."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shared(name):
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not in ../shared/data, and tests fetch nothing")
    return str(DATA / name)


def excerpt(tmp_path, name, characters):
    """The beginning of a text in ../shared/data, as a file."""
    file = tmp_path / name
    file.write_text(Path(shared(name)).read_text(encoding="utf-8")[:characters], encoding="utf-8")
    return str(file)


@pytest.fixture(autouse=True)
def same_backend_afterwards():
    before = backends.active()
    yield
    assert backends.active() is before


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_say_how_to_run_them(path):
    """Each is a script that starts from the root of a clone; its help shows its docstring's command."""
    done = subprocess.run(
        [sys.executable, str(path), "--help"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert f"python docs/examples/{path.name}" in done.stdout


def test_and_gate(capsys):
    assert example("and_gate").main([]) == 4
    assert "1   1" in capsys.readouterr().out


def test_two_moons(tmp_path, capsys):
    """All points of the training set are right, and the picture has the points and a boundary between two
    colours.
    """
    picture = tmp_path / "moons.svg"
    module = example("two_moons")
    assert module.main(["--steps", "150", "--picture", str(picture)]) == 1.0
    text = picture.read_text(encoding="utf-8")
    assert text.count("<circle") == 100 and text.count("<rect") == module.WIDTH * module.HEIGHT
    shares = [
        len(re.findall(f'<rect [^>]*fill="{colour}"', text)) / (module.WIDTH * module.HEIGHT)
        for colour in module.COLOURS
    ]
    assert sum(shares) == 1.0 and min(shares) > 0.2
    assert "100.0%" in capsys.readouterr().out


@pytest.mark.parametrize(("data", "steps", "least"), [("iris", 200, 0.9), ("digits", 20, 0.8)])
def test_iris_and_digits(data, steps, least, capsys):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed, which has the data")
    assert example("iris").main(["--data", data, "--steps", str(steps)]) >= least
    assert "Sequential" in capsys.readouterr().out


def test_names_rnn_vs_gpt(tmp_path, capsys):
    """Both have about as many parameters, and after a few steps both know more than the letters."""
    rows = example("names_rnn_vs_gpt").main(
        ["--data", excerpt(tmp_path, "names.txt", 20_000), "--steps", "6"]
    )
    assert [name for name, _, _ in rows] == ["LSTM", "GPT"]
    sizes = [parameters for _, parameters, _ in rows]
    assert max(sizes) / min(sizes) < 1.02
    assert all(loss < math.log(27) for *_, loss in rows)  # 26 letters and the boundary
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[2] for row in table[1:]] == [f"{loss:.3f}" for *_, loss in rows]


def test_shakespeare_gpt(tmp_path, capsys):
    data = excerpt(tmp_path, "tinyshakespeare.txt", 30_000)
    loss = example("shakespeare_gpt").main(
        ["--data", data, "--steps", "12", "--tokens", "20", "--out", str(tmp_path / "run")]
    )
    printed = capsys.readouterr().out
    assert (
        0.0 < loss < 4.2
        and f"validation loss {loss:.3f}" in printed
        and (tmp_path / "run" / "model.safetensors").is_file()
    )


def test_code_model(tmp_path, capsys):
    """On a file of source code, with a small preset; the large one's size is a law in test_training."""
    source = ROOT / "tinygpt_core" / "tensor.py"
    options = [
        "--data",
        str(source),
        "--preset",
        "stdlib",
        "--vocab-size",
        "300",
        "--steps",
        "4",
        "--tokens",
        "10",
    ]
    loss = example("code_model").main([*options, "--out", str(tmp_path / "run")])
    printed = capsys.readouterr().out
    assert 0.0 < loss < 6.0 and "def read(self, size):" in printed and "tokens of source code" in printed


def test_like_micrograd(capsys):
    """The expression's value and slopes are those that its formula has; both moons are told apart."""
    module = example("like_micrograd")
    a, b, step = -4.0, 2.0, 1e-6

    def g(a, b):
        c, d = a + b, a * b + b**3
        c = c + c + 1
        c = c + 1 + c - a
        d = d + d * 2 + max(b + a, 0.0)
        d = d + 3 * d + max(b - a, 0.0)
        f = (c - d) ** 2
        return f / 2 + 10 / f

    value, by_a, by_b = module.one_expression()
    assert value == pytest.approx(g(a, b), rel=1e-12)
    assert by_a == pytest.approx((g(a + step, b) - g(a - step, b)) / (2 * step), rel=1e-6)
    assert by_b == pytest.approx((g(a, b + step) - g(a, b - step)) / (2 * step), rel=1e-6)
    losses, accuracy = module.main(["--steps", "40"])
    assert losses[-1] < 0.3 * losses[0] and accuracy > 0.9
    assert f"dg/da = {by_a:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(("data", "steps"), [("diagonal", 60), ("xor", 150)])
def test_like_minitorch(data, steps, capsys):
    losses, accuracy = example("like_minitorch").main(["--data", data, "--steps", str(steps)])
    assert losses[-1] < 0.5 * losses[0] and accuracy > 0.9
    assert "derivative right: True" in capsys.readouterr().out


def test_like_makemore(tmp_path, capsys):
    """Pairs of letters tell something, counted or learned, and a context of three letters tells more."""
    words = tmp_path / "words.txt"
    words.write_text(
        "\n".join(["anna", "emma", "ava", "mia", "nora", "ella", "lea", "lena", "mina", "ada"] * 4)
    )
    pairs, learned, network = example("like_makemore").main(
        ["--data", str(words), "--backend", "numpy", "--steps", "300"]
    )
    assert network < min(pairs, learned) and max(pairs, learned) < math.log(12)
    printed = capsys.readouterr().out.splitlines()
    assert f"pairs counted {pairs:.3f}" in printed[0] and set(printed[1]) <= set("adelmnorvi ")
