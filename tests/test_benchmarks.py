"""The benchmark scripts run: `--help` of each, and a tiny run of those that measure side by side. What they
measure is not tested.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cuda_on_cpu import emulation

from tinygpt_core import backends

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(
    path
    for path in (ROOT / "benchmarks").glob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
needs_numpy = pytest.mark.skipif(
    "numpy" not in [status.name for status in backends.available() if status.available],
    reason="the numpy backend is not installed",
)


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def script(name: str, *arguments: str) -> str:
    return run(str(ROOT / "benchmarks" / name), "--threads", "1", *arguments)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.fixture
def size(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return import_module("size")


def takes_options(path: Path) -> bool:
    return "argparse" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", [path for path in SCRIPTS if takes_options(path)], ids=lambda path: path.stem
)
def test_help_explains_every_option(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument"
    ]
    assert calls
    for call in calls:
        assert any(keyword.arg == "help" for keyword in call.keywords), (
            f"{path.name}, line {call.lineno}: an option without help"
        )


def test_help_needs_no_numerical_library() -> None:
    """`--help` of every script in one process, without site-packages, where neither NumPy nor PyTorch can be
    imported.
    """
    code = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
for path in {[str(path) for path in SCRIPTS if takes_options(path)]!r}:
    sys.argv = [path, "--help"]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as done:
        assert done.code == 0, path
    else:
        raise AssertionError(path)
"""
    assert run("-S", "-c", code).count("usage:") == len([path for path in SCRIPTS if takes_options(path)])


def test_public_names_have_docstrings() -> None:
    missing = [
        f"{path.name}: {name}"
        for path in sorted((ROOT / "benchmarks").glob("*.py"))
        for name in _without_docstring(ast.parse(text_of(path)))
    ]
    assert missing == []


def _without_docstring(tree: Any, prefix: str = "") -> list[str]:
    found = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            found += [] if ast.get_docstring(node) else [prefix + node.name]
            found += _without_docstring(node, f"{node.name}.") if isinstance(node, ast.ClassDef) else []
    return found


def test_the_list_of_scripts_is_whole() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert not [path.name for path in SCRIPTS if f"`{path.name}`" not in text]


SAMPLE = '''"""Of two
lines.

"""
# a comment

x = (
    1 +  # one
    2
)


def f():
    """One line."""
    return """no
    docstring"""
'''


def test_lines_are_counted_once(size: ModuleType) -> None:
    assert size.of_python(SAMPLE) == size.Size(code=7, text=5, statements=3)
    assert size.of_python("") == (0, 0, 0)
    assert size.of_another_language("/* a\n\nb */\nint x; // c\n  // d\n") == (1, 3, 0)


def test_sizes_add_up_to_all_there_is(size: ModuleType) -> None:
    """Every file of a package is in one of its rows."""
    for rows, folder in (
        (size.core(), "tinygpt_core"),
        (size.plugin(), "tinygpt_accel"),
        (size.tests(), "tests"),
    ):
        counted = sorted(path for _, files in rows for path in files)
        assert counted == sorted((ROOT / folder).rglob("*.py"))
    assert run(str(ROOT / "benchmarks" / "size.py")).count("\n| 1 dtype, shape") == 1


def test_the_documents_give_the_sizes_in_hundreds(size: ModuleType) -> None:
    text = text_of(ROOT / "docs" / "performance.md")
    row = next(line for line in text.splitlines() if "`benchmarks/size.py`" in line)
    given = [int(number.replace(",", "")) for number in re.findall(r"\d+,\d{3}", row)]
    core, plugin = (sorted((ROOT / folder).rglob("*.py")) for folder in ("tinygpt_core", "tinygpt_accel"))
    counted = [size.size(files).code for files in (size.engine(), core, plugin)]
    assert given == pytest.approx(counted, rel=0.05), f"the figures are old: {counted}"


MUTATED = '''"""A module."""
import math


def mean(values: list[float], start: int = 0) -> float:
    """Of those from `start` on."""
    if not values:
        raise ValueError(f"{len(values) + 1} values")
    total = 0.0
    for value in values[start:]:
        total += value
    return math.fsum([total, -0.0]) / max(1, len(values) - start)
'''


@pytest.fixture
def mutants(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return import_module("mutants")


def test_mutants_are_one_change_each(mutants: ModuleType, tmp_path: Path) -> None:
    """Of what computes, and not of text; each is another module, whose lines are where they were."""
    (tmp_path / "mean.py").write_text(MUTATED)
    found = mutants.mutants(tmp_path, "mean.py")
    assert {f"{mutant.kind}: {mutant.before} -> {mutant.after}" for mutant in found} == {
        "number: 0 -> 1",
        "not left out: not values -> values",
        "statement left out: raise ValueError(f'{len(values) + 1} values') -> pass",
        "number: 0.0 -> 1.0",
        "bound: start: -> start + 1:",
        "statement left out: total += value -> pass",
        "operator: total += value -> total -= value",
        "operator: math.fsum([total, -0.0]) / max(1, len(values) - start) -> "
        "math.fsum([total, -0.0]) * max(1, len(values) - start)",
        "function: max(1, len(values) - start) -> min(1, len(values) - start)",
        "number: 1 -> 2",
        "operator: len(values) - start -> len(values) + start",
    }
    texts = {ast.unparse(mutants.mutated(MUTATED, mutant)) for mutant in found}
    assert len(texts) == len({mutant.key for mutant in found}) == len(found)
    assert ast.unparse(ast.parse(MUTATED)) not in texts
    last = next(mutant for mutant in found if mutant.kind == "function")
    assert (last.function, last.line, last.first) == ("mean", 12, 12)
    place: dict[str, Any] = {}
    exec(compile(mutants.mutated(MUTATED, last), "mean.py", "exec"), place)
    assert place["mean"]([1.0, 3.0]) == 4.0


def test_equivalent_mutants_are_there_and_explained(mutants: ModuleType) -> None:
    entries = json.loads((ROOT / "benchmarks" / "equivalent_mutants.json").read_text(encoding="utf-8"))
    known = {
        mutant.key: mutant
        for module in sorted({entry["module"] for entry in entries})
        for mutant in mutants.mutants(ROOT, module)
    }
    for entry in entries:
        mutant = known.get(entry["key"])
        assert mutant is not None, f"{entry['module']} has no such mutant any more: {entry}"
        assert entry["change"] == f"{mutant.function}: {mutant.kind}: {mutant.before} -> {mutant.after}"
        assert len(entry["why"].split()) > 3, f"no reason: {entry}"


@needs_numpy
def test_backends(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    tiny = ("--preset", "debug", "--backends", "python,numpy", "--turns", "2", "--steps", "1")
    text = script("backends.py", *tiny, "--json", str(file), "--check")
    assert "| numpy |" in text and "kept: the losses" in text
    losses = json.loads(file.read_text(encoding="utf-8"))["losses"]
    assert len(losses["python"]) == 2 and losses["python"] == pytest.approx(losses["numpy"], abs=1e-4)


@needs_numpy
def test_scaling(tmp_path: Path) -> None:
    picture = ("--picture", str(tmp_path / "scaling.svg")) if find_spec("matplotlib") else ()
    text = script(
        "scaling.py", "--sweeps", "batch", "--points", "2", "--turns", "1", "--steps", "1", *picture
    )
    assert "batch: time grows with slope" in text and "the arithmetic with 1.00" in text
    if picture:
        assert 1_000 < (tmp_path / "scaling.svg").stat().st_size < 100_000


def test_the_picture_of_a_run_shows_its_screens(tmp_path: Path) -> None:
    pytest.importorskip("pyte", reason="pyte, a terminal in Python, is in the extra `test`")
    run("benchmarks/run_picture.py", "--steps", "12", "--out", str(tmp_path / "run.svg"))
    svg = text_of(tmp_path / "run.svg")
    picture = ElementTree.fromstring(svg)
    of_svg = "{http://www.w3.org/2000/svg}"
    *others, last = [each for each in picture.iter(of_svg + "g") if "screen" in each.get("class", "")]
    assert others and last.get("class") == "screen last", "one of step 10 or later, and the end"
    shown = [each.text for each in last.iter(of_svg + "text")]
    assert any(each.startswith("step 12/12  mean loss") for each in shown)
    assert shown.index("…") == [each.startswith("20 samples at") for each in shown].index(True) + 7
    assert "the ladder, in nats a token on that validation text:" in shown
    assert all(int(each.get("textLength")) == 8 * len(each.text) for each in picture.iter(of_svg + "text"))
    assert last.find(f"{of_svg}path[@class='dots']") is not None, "the curve"
    assert str(ROOT) not in svg and str(tmp_path) not in svg


def test_the_parts_of_a_step_are_its_kernels_and_the_rest() -> None:
    parts = json.loads(run("benchmarks/microgpt.py", "--parts", "--steps", "2", "--json"))
    for name, calls in {"the rest": 1, "AdamWStep": 1, "Linear": 5, "Linear backward, input 1": 5}.items():
        assert parts[name][0] == calls and parts[name][1] > 0.0


def test_the_ratio_of_several_processes_is_their_median(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("ada\nalan\ngrace\nemmy\n")
    options = ("--data", str(names), "--steps", "1", "--processes", "3", "--json")
    found = json.loads(run("benchmarks/microgpt.py", *options))
    assert found["steps"] == 1 and found["processes"] == 3
    assert 0.0 < found["smallest_ratio"] <= found["ratio"] <= found["largest_ratio"]
    assert found["largest_loss_difference"] < 1e-6


@needs_torch
def test_both_sides_compute_the_same() -> None:
    """The comparison is fair only where both do the same work: losses of a few steps, and greedy texts."""
    code = f"""
import os, sys, tempfile
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import pairing, training_sides as sides, generate_cpu
from dataclasses import replace
config = replace(sides.SIZES["nanogpt-cpu"], num_layers=2, embedding_dim=32, context_length=16, batch_size=4)
with tempfile.TemporaryDirectory() as directory:
    weights = os.path.join(directory, "weights.safetensors")
    sides.WeightsFile(config, weights, 5.0)
    torch, tiny = sides.PyTorch(config, weights, 1), sides.TinyGPT(config, "numpy", weights)
    for theirs, ours in zip(torch.steps(8), tiny.steps(8), strict=True):
        assert abs(theirs.value - ours.value) < 1e-3, (theirs, ours)
    theirs = [generate_cpu.PyTorch(config, weights, 1, with_cache) for with_cache in (True, False)]
    sides_of_it = (generate_cpu.TinyGPT(config, weights, "numpy"), *theirs)
    ours, cached, uncached = (side.texts(1, 40, 0.0)[0][1] for side in sides_of_it)
    assert ours == cached and len(set(ours)) > 3
    within = config.context_length - len(generate_cpu.PROMPT) + 1
    assert ours[:within] == uncached[:within]
print("same")
"""
    assert run("-c", code) == "same\n"


@needs_numpy
@needs_torch
def test_sides_of_quantized_weights_compute_the_same() -> None:
    """In float32 the ids of PyTorch; in bfloat16 those of the same numbers in float32."""
    code = f"""
import sys, tempfile
from pathlib import Path
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import loading, quantized
layers, width = quantized.SIZES["tiny"]
with tempfile.TemporaryDirectory() as name:
    folders = [Path(name) / dtype for dtype in ("F32", "BF16")]
    for folder in folders:
        folder.mkdir()
        loading.write_checkpoint(folder, layers, folder.name, width)
    wide, halves = folders
    ids = quantized.TinyGPT(wide, "float32").text(12)[1]
    assert ids == quantized.PyTorch(wide, 1, layers, width).text(12)[1] and len(ids) == 12
    assert quantized.TinyGPT(halves, "bfloat16").text(12)[1] == quantized.Rounded(halves).ids(12)
    assert quantized.TinyGPT(halves, "int8").memory() > 0
print("same")
"""
    assert run("-c", code) == "same\n"


@needs_torch
@needs_numpy
def test_the_gpu_script_runs_without_a_gpu(tmp_path: Path) -> None:
    """Tiny, on NumPy: every part gives a result, and the report says that it is no measurement."""
    run(str(ROOT / "benchmarks" / "gpu.py"), "--quick", "--backend", "numpy", "--out", str(tmp_path))
    results = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["results"]
    assert not [name for name, result in results.items() if "failed" in result]
    for name in ("gpt2-124m", "code-49m", "baby"):
        assert all(len(results[f"{name} {side}"]["seconds"]) == 2 for side in ("tinygpt", "torch"))
    ours, theirs = (results[f"losses baby {side} float32"]["losses"] for side in ("tinygpt", "torch"))
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-3
    assert "difference" in results["losses gpt2-124m tinygpt float32"]
    assert all(f"gpt2-124m {side}" in results for side in ("tinygpt-eager", "torch-padded"))
    assert "Not a measurement" in (tmp_path / "gpu.md").read_text(encoding="utf-8")


@needs_numpy
def test_the_plan_of_a_step_on_a_gpu() -> None:
    """Counted without a GPU: no pass over the elements stands between the products but those that must, and
    next to nothing is filled with zeros.
    """
    found = json.loads(run(str(ROOT / "benchmarks" / "gpu_plan.py"), "--preset", "baby").splitlines()[-1])
    layers, kernels = 6, {name: count for name, (count, _) in found["kernels"].items()}
    products = sum(count for name, count in kernels.items() if name.startswith("product"))
    assert products == 12 * layers + 3 and kernels["product with gelu"] == layers
    assert kernels["product with gelu_gradient"] == layers and kernels["product with bias"] == 3 * layers
    assert kernels["normalize"] == kernels["normalize_gradient"] == 2 * layers + 1
    assert kernels["product with column_sums"] == 4 * layers
    assert kernels["column_sums"] == kernels["normalize"]  # of the norms' parameters; no bias is left to it
    assert not {"add", "add_bias", "gelu", "gelu_gradient", "cross_entropy_gradient"} & set(kernels)
    assert kernels["adamw"] == kernels["squares"] == kernels["cross_entropy_both"] == 1
    assert sum(part["memsets"] for part in found["phases"].values()) <= 3


@needs_numpy
def test_the_first_look_at_a_gpu_runs_without_one() -> None:
    """Tiny, on NumPy: what there is to look at there is looked at."""
    said = run(str(ROOT / "benchmarks" / "gpu_first.py"), "--quick", "--backend", "numpy")
    assert said.splitlines()[-1] == "nothing wants a look" and said.count(" ok ") == 5


@needs_numpy
@pytest.mark.skipif(bool(emulation.why_not()), reason=emulation.why_not())
@pytest.mark.parametrize("check", ["products", "step", "validation", "logits", "against_numpy"])
def test_the_first_look_at_a_gpu_looks(monkeypatch: pytest.MonkeyPatch, check: str) -> None:
    """At the emulated one, whose step is recorded, too."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("TINYGPT_CUDA_GRAPH", "1")
    first = import_module("gpu_first")
    with backends.use("cuda-on-cpu") as kind:
        assert getattr(first.FirstRun(kind, True), check)()


def test_the_table_of_a_gpu_says_what_cublas_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the times are, there are times."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    gpu = import_module("gpu")
    parts = {
        "product": {"ms": 0.5, "TFLOP/s": 612.0},
        "product with bias": {"failed": "refused | by cuBLASLt"},
    }
    about = {"device": "H100", "backend": "cupy", "quick": False, "date": "now", "versions": {}}
    said = gpu.table({"environment": about, "results": {"kernels": {"kernels": parts}}})
    assert "| product | 0.5 | 612.0 TFLOP/s |\n| product with bias |  | refused / by cuBLASLt |\n" in said


def test_the_plan_of_a_cluster_is_the_one_in_the_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    cluster, pairing = import_module("cluster"), import_module("pairing")
    assert pairing.table(cluster.HEADER, cluster.plan()) in text_of(ROOT / "docs" / "cluster.md")


def test_the_simulator_of_a_cluster_keeps_to_what_must_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: one bucket cannot hide; with many and a fast link nearly all of the first half is hidden."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    simulate = import_module("cluster").simulate
    alone = simulate(1.0, 1e9, 1, 1e9)
    assert (alone.seconds, alone.exposed, alone.bytes_sent) == (1.0, 0.0, 0.0)
    one = simulate(1.0, 1e6, 2, 1e6, message=0.01, size=1e9)
    assert one.seconds == pytest.approx(1.0 + 2 * (0.01 + 0.5))
    assert (one.messages, one.bytes_sent) == (2, 1e6)
    many = simulate(1.0, 1e6, 4, 1e7, size=1e4)
    assert many.bytes_sent == pytest.approx(2 * 0.75e6)
    assert many.seconds == pytest.approx(1.0 + 0.075, abs=0.002)
    slow = simulate(0.0, 1e6, 2, 1e5)
    assert slow.seconds == pytest.approx(1e6 / 1e5)


@needs_numpy
def test_recipe_compares_at_equal_tokens_and_at_equal_time(tmp_path: Path) -> None:
    words = "To be, or not to be, that is the question. " * 30
    (tmp_path / "text.txt").write_text(words, encoding="utf-8")
    file = tmp_path / "found.json"
    tiny = ("--data", str(tmp_path / "text.txt"), "--tiny", "--steps", "30", "--json", str(file))
    text = script("recipe.py", *tiny, "--only", "base,muon, wsd,ema")
    (outcomes,) = json.loads(file.read_text()).values()
    assert list(outcomes) == ["base", "muon, wsd", "ema"]
    assert {of_seeds[0][1] for of_seeds in outcomes.values()} == {30}  # steps
    assert text.count("| base | ") == text.count("| ema | ") == 1 and "At equal tokens" in text

    timed = ("--time", "1", "--time", "0.5", "--clock", "processor", "--seeds", "2", "--threads", "1")
    text = script("recipe.py", *tiny, *timed, "--only", "base,recipe,recipe without muon")
    whole, half = json.loads(file.read_text()).values()
    for found, steps in ((whole, 30), (half, 15)):
        assert list(found) == ["base", "recipe", "recipe without muon"]
        assert [each[1] for each in found["base"]] == [steps] * 2
        assert all(0 < each[1] < steps for each in found["recipe"])  # a step of Muon's costs more
    assert text.count("| recipe | ") == 2 and "At 0.5 of the time of the first" in text
