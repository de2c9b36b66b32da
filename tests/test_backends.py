"""Finding, choosing and losing backends. Plug-ins are installed for real, into a folder of the test's own: a
package and its metadata.

Most of this runs in other processes, since what was imported by whom is the question.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import TINY

from tinygpt_core import Tensor, backends, no_grad, seed
from tinygpt_core.buffer import Buffer
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.optimizers import SGD, Adam, AdamW, Optimizer

ROOT = Path(__file__).resolve().parent.parent


def install(
    site: Path, entry_points: dict[str, str], modules: dict[str, str] | None = None, package: str = "theirs"
) -> Path:
    """Lays out what `pip install` leaves behind: modules, and a dist-info folder with entry points."""
    info = site / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entry_points.items()]
    (info / "entry_points.txt").write_text("[tinygpt.backends]\n" + "\n".join(lines) + "\n")
    for name, code in (modules or {}).items():
        (site / f"{name}.py").write_text(code)
    return site


def python(
    *arguments: str, site: Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("TINYGPT_", "PYTHON", "COV_"))
    }
    kept |= {
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment,
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd or site,
        env=kept,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


def output(code: str, *options: str, site: Path, **environment: str) -> str:
    done = python(*options, "-c", code, site=site, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tinygpt(
    *arguments: str, site: Path, options: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    return python(*options, "-m", "tinygpt_core", *arguments, site=site, **environment)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert re.fullmatch(r"tinygpt: error: [^\n]+\n", done.stderr), done.stderr
    for word in words:
        assert word in done.stderr


@pytest.fixture
def accel(tmp_path: Path) -> Path:
    """A folder that holds the metadata of tinygpt-accel; its modules are the repository's."""
    pytest.importorskip("numpy", reason="the numpy backend needs NumPy, which is not installed")
    return install(
        tmp_path / "site", {"numpy": "tinygpt_accel.numpy_backend.plugin"}, package="tinygpt_accel"
    )


# ---------------------------------------------------------------- discovery is lazy


def test_importing_the_core_looks_for_no_plugin(accel: Path) -> None:
    loaded = output(
        "import tinygpt_core, sys; tinygpt_core.Tensor([1.0]); print(*sys.modules)", site=accel
    ).split()
    assert "tinygpt_core.backends" in loaded
    assert not {
        "numpy",
        "tinygpt_accel",
        "tinygpt_accel.numpy_backend.plugin",
        "tinygpt_accel.numpy_backend.buffer",
    } & set(loaded)


def test_listing_the_backends_imports_light_modules_only(accel: Path) -> None:
    code = (
        "from tinygpt_core import backends; import sys; print([s[:2] for s in "
        "backends.available()]); print(*sys.modules)"
    )
    listed, loaded = output(code, site=accel).splitlines()
    assert "('python', True)" in listed and "('numpy', True)" in listed
    assert "tinygpt_accel.numpy_backend.plugin" in loaded.split()
    assert not {"numpy", "tinygpt_accel.numpy_backend.buffer", "tinygpt_accel.array_buffer"} & set(
        loaded.split()
    )


def test_asking_for_one_imports_it_and_no_other(accel: Path) -> None:
    install(
        accel,
        {"noisy": "noisy"},
        {"noisy": "raise SystemError('imported, although nobody asked')"},
        package="noisy",
    )
    code = (
        "from tinygpt_core import Tensor, backends; import sys; backends.use('numpy'); "
        "print(Tensor([1.0]).backend, 'noisy' in sys.modules)"
    )
    assert output(code, site=accel).split() == ["numpy", "False"]


def test_the_command_lists_them(accel: Path) -> None:
    done = tinygpt("backends", site=accel)
    assert done.returncode == 0 and re.search(r"^python .*\nnumpy +NumPy: ", done.stdout)


# ---------------------------------------------------------------- plug-ins that are broken

GOOD = (
    "preference = 99\ndef factory(device):\n    from tinygpt_core.buffer.python import "
    "PythonBuffer\n    return PythonBuffer\n"
)
# What is wrong -> (the module "theirs", or None for none; what the reason says; whether `available` can know
# it)
BROKEN = {
    "no such module": (None, ("theirs", "ModuleNotFoundError"), True),
    "an import error": ("import a_library_that_is_not_there", ("a_library_that_is_not_there",), True),
    "another error at import": (
        "raise OSError('libgpu.so: cannot open\\nshared object')",
        ("libgpu.so",),
        True,
    ),
    "a syntax error": ("def factory(:", ("SyntaxError",), True),
    "a probe that raises": (
        GOOD + "def probe():\n    raise RuntimeError('driver too old')\n",
        ("probe", "driver too old"),
        True,
    ),
    "a probe that says why": (
        GOOD + "def probe():\n    return 'no CUDA driver: install one'\n",
        ("no CUDA driver",),
        True,
    ),
    "a factory that raises": (
        "preference = 99\ndef factory(device):\n    raise RuntimeError('out of order')",
        ("out of order",),
        False,
    ),
    "a factory that cannot import": (
        "preference = 99\ndef factory(device):\n    import not_there",
        ("not_there",),
        False,
    ),
    "a factory that says why": (
        "from tinygpt_core.backends import BackendUnavailable\ndef factory(device):\n    raise "
        "BackendUnavailable('no licence')",
        ("no licence",),
        False,
    ),
    "no factory": ("preference = 99", ("theirs",), False),
    "a factory that gives nothing": (
        "preference = 99\ndef factory(device):\n    pass",
        ("None", "no Buffer class"),
        False,
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_plugin_is_listed_and_breaks_nothing_else(what: str, tmp_path: Path) -> None:
    module, words, known = BROKEN[what]
    site = install(tmp_path, {"theirs": "theirs"}, {} if module is None else {"theirs": module})
    code = """
import json
from tinygpt_core import Tensor, backends
before = (Tensor([1.0, 2.0]) * 2).to_python()
status = {s.name: [s.available, s.reason] for s in backends.available()}
try:
    backends.get("theirs")
    refusal = ""
except backends.BackendUnavailable as problem:
    refusal = str(problem)
try:
    backends.use("theirs")
except backends.BackendUnavailable:
    pass
after = (Tensor([1.0, 2.0]) * 2).to_python()
print(json.dumps([before == after == [2.0, 4.0], status, refusal, backends.fastest()]))
"""
    works, status, refusal, fastest = json.loads(output(code, "-S", site=site))
    assert works and fastest == "python" and status["python"] == [True, ""]
    available, reason = status["theirs"]
    assert available == (not known) and bool(reason) == known
    if "probe" not in what:  # a probe is advice for the list; who asks for the backend gets to try
        assert "'theirs' is not available" in refusal
    for word in words:
        assert word in (reason if known else refusal)


@pytest.mark.parametrize("what", ["no such module", "another error at import", "a factory that raises"])
def test_the_command_line_stays_usable_beside_a_broken_plugin(what: str, tmp_path: Path) -> None:
    module, words, known = BROKEN[what]
    site = install(tmp_path, {"theirs": "theirs"}, {} if module is None else {"theirs": module})
    listed = tinygpt("backends", site=site, options=("-S",))
    assert listed.returncode == 0 and len(listed.stdout.splitlines()) == 2 and not listed.stderr
    assert ("not available" in listed.stdout) == known
    for arguments in (["train", "--backend", "theirs", *TINY], ["train", *TINY]):
        environment = {} if "--backend" in arguments else {"TINYGPT_BACKEND": "theirs"}
        assert_refused(tinygpt(*arguments, site=site, options=("-S",), **environment), "theirs", words[0])
    done = tinygpt("train", "--out", "run", *TINY, site=site, options=("-S",))
    assert done.returncode == 0 and "\nbackend    python\n" in done.stdout, done.stderr


def test_the_plugin_without_numpy(tmp_path: Path) -> None:
    """tinygpt-accel is installed, NumPy is not (`-S` hides it)."""
    site = install(tmp_path, {"numpy": "tinygpt_accel.numpy_backend.plugin"}, package="tinygpt_accel")
    done = tinygpt("backends", site=site, options=("-S",))
    assert done.returncode == 0 and re.search(
        r"^numpy +not available: .*pip install numpy", done.stdout, re.MULTILINE
    )
    assert_refused(
        tinygpt("train", "--backend", "numpy", *TINY, site=site, options=("-S",)), "numpy", "pip install"
    )


def test_a_numpy_that_cannot_be_imported(tmp_path: Path) -> None:
    """NumPy is there, so the probe is content, but it is broken: asked for by name it is an error, and by
    default python runs.
    """
    site = install(
        tmp_path,
        {"numpy": "tinygpt_accel.numpy_backend.plugin"},
        {"numpy": "raise ImportError('wrong libc')"},
        package="tinygpt_accel",
    )
    assert_refused(tinygpt("train", "--backend", "numpy", *TINY, site=site), "wrong libc")
    done = tinygpt("train", "--out", "run", *TINY, site=site)
    assert done.returncode == 0 and "\nbackend    python\n" in done.stdout


# ---------------------------------------------------------------- choosing


def test_the_environment_variable(accel: Path) -> None:
    code = "from tinygpt_core import Tensor; print(Tensor([1.0]).backend)"
    assert output(code, site=accel).strip() == "python"
    assert output(code, site=accel, TINYGPT_BACKEND="numpy").strip() == "numpy"
    assert output(code, site=accel, TINYGPT_BACKEND="").strip() == "python"
    done = python("-c", code, site=accel, TINYGPT_BACKEND="nunpy")
    assert (
        done.returncode == 1
        and "unknown backend 'nunpy': known are numpy, python" in done.stderr.splitlines()[-1]
    )


def test_unknown_names_and_devices() -> None:
    with pytest.raises(ValueError, match=r"unknown backend 'nowhere': known are .*python"):
        backends.get("nowhere")
    with pytest.raises(ValueError, match="python:1"):
        backends.get("python:1")
    with pytest.raises(ValueError, match="name"):
        backends.register("a:b", lambda device: Buffer)


def test_fastest_is_the_largest_preference_that_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = backends.get("python")
    monkeypatch.setattr(backends, "_plugins", dict(backends._plugins))
    monkeypatch.setattr(backends, "_loaded", dict(backends._loaded))

    def refuse(device: str) -> type[Buffer]:
        raise RuntimeError("cannot start")

    backends.register("slow", lambda device: kind, preference=-1)
    backends.register("quick", lambda device: kind, preference=1000)
    assert backends.fastest() == "quick"
    backends.register("quicker", lambda device: kind, probe=lambda: "not today", preference=2000)
    backends.register("quickest", refuse, preference=3000)
    assert backends.fastest() == "quick"
    assert (
        backends.why_not("quick") == ""
        and "cannot start" in backends.why_not("quickest")
        and "unknown" in backends.why_not("gone")
    )


@pytest.fixture
def numpy_backend() -> type[Buffer]:
    if reason := backends.why_not("numpy"):
        pytest.skip(f"this needs a second backend: {reason}")
    return backends.get("numpy")


def test_use_nests_and_gives_back(numpy_backend: type[Buffer]) -> None:
    outside = backends.active()
    with backends.use("python") as kind:
        assert backends.active() is kind is backends.get("python")
        with backends.use("numpy"):
            assert Tensor([1.0]).backend == "numpy"
            with backends.use("python"):
                assert Tensor([1.0]).backend == "python"
            assert Tensor([1.0]).backend == "numpy"
            with pytest.raises(ValueError, match="nowhere"):
                backends.use("nowhere")
            assert Tensor([1.0]).backend == "numpy"
        with pytest.raises(RuntimeError, match="inside"), backends.use("numpy"):
            raise RuntimeError("inside")
        assert Tensor([1.0]).backend == "python"
    assert backends.active() is outside


def test_operands_of_two_backends_are_refused_and_both_are_named(numpy_backend: type[Buffer]) -> None:
    ours, theirs = (
        Tensor(backends.get("python")([[1.0, 2.0], [3.0, 4.0]])),
        Tensor(numpy_backend([[1.0, 2.0], [3.0, 4.0]])),
    )
    cases = {
        "+": lambda a, b: a + b,
        "/": lambda a, b: a / b,
        "**": lambda a, b: a**b,
        "<": lambda a, b: a < b,
        "==": lambda a, b: a == b,
        "@": lambda a, b: a @ b,
        "maximum": lambda a, b: a.maximum(b),
        "concatenate": lambda a, b: Tensor.concatenate([a, b]),
        "where": lambda a, b: Tensor.where(a > 1, b, b),
        "assign": lambda a, b: a.assign(b),
        "setitem": lambda a, b: a.__setitem__(0, b[0]),
        "take": lambda a, b: a.take(b.cast(b.dtype.int64)),
        "cross_entropy": lambda a, b: CrossEntropyLoss()(logits=a, labels=b),
    }
    for name, compute in cases.items():
        for a, b in ((ours, theirs), (theirs, ours)):
            with pytest.raises(TypeError) as caught:
                compute(a, b)
            assert "'python'" in str(caught.value) and "'numpy'" in str(caught.value), (
                f"{name}: {caught.value}"
            )
    assert (ours + theirs.to("python")).to_python() == [[2.0, 4.0], [6.0, 8.0]]


# ---------------------------------------------------------------- moving a model


def tiny_model() -> GPT:
    seed(5)
    return GPT(GPTConfig(vocab_size=7, context_length=6, num_layers=1, num_heads=2, embedding_dim=8))


def train(model: GPT, optimizer: Optimizer, steps: int) -> list[float]:
    kind = type(model.named_parameters()[0][1].buffer)
    inputs, targets = Tensor(kind([[0, 3, 1, 6], [2, 2, 5, 4]])), Tensor(kind([[3, 1, 6, 0], [2, 5, 4, 1]]))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = CrossEntropyLoss()(logits=model(inputs), labels=targets).mean()
        loss.backward()
        optimizer.update()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    "make",
    [
        lambda m: SGD(m, 0.1, momentum=0.9),
        lambda m: Adam(m, 0.01),
        lambda m: AdamW(m, 0.01, weight_decay=0.1),
    ],
)
def test_a_model_moves_between_updates_and_its_optimizer_follows(
    make: object, numpy_backend: type[Buffer]
) -> None:
    """What an optimizer remembers follows its parameter at the next update: the losses are those of a model
    that stayed.
    """
    with backends.use("python"):
        stays = tiny_model()
        expected = train(stays, make(stays), 9)  # type: ignore[operator]
        moves = tiny_model()
        optimizer = make(moves)  # type: ignore[operator]
        found = train(moves, optimizer, 3)
        assert moves.to("numpy") is moves and all(
            p.backend == "numpy" and p.requires_grad for _, p in moves.named_parameters()
        )
        found += train(moves, optimizer, 3)
        remembered = [
            v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)
        ]
        assert remembered and {v.backend for v in remembered} == {"numpy"}
        moves.to("python")
        found += train(moves, optimizer, 3)
    assert optimizer.step == 9 and found == pytest.approx(expected, abs=1e-4)


def test_what_moving_keeps_and_what_it_does_not(numpy_backend: type[Buffer]) -> None:
    """Values, ties and what is frozen are kept, bit for bit; gradients are not, and the old Tensors stay
    where they were.
    """
    with backends.use("python"):
        model = tiny_model()
        model.freeze(keys=["bias"])
        frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        old = dict(model.named_parameters())
        next(p for p in old.values() if p.requires_grad).grad = Tensor([0.0])
        before = {name: p.buffer.to_array() for name, p in old.items()}
        model.to("numpy")
        for name, p in model.named_parameters():
            assert p.buffer.to_array() == before[name] and p.grad is None
            assert old[name].backend == "python" and p is not old[name]
        assert {name for name, p in model.named_parameters() if not p.requires_grad} == frozen and frozen
        with no_grad():
            assert model(Tensor(numpy_backend([[1, 2]]))).backend == "numpy"
        with pytest.raises(TypeError, match=r"numpy.*python|python.*numpy"):
            model(Tensor([[1, 2]]))


# ---------------------------------------------------------------- the command line


def test_train_takes_the_fastest_and_a_run_keeps_its_backend(accel: Path) -> None:
    def backend_of(run: str) -> str:
        return str(json.loads((accel / run / "config.json").read_text())["training"]["backend"])

    done = tinygpt("train", "--out", "run", *TINY, site=accel)
    assert done.returncode == 0 and "\nbackend    numpy\n" in done.stdout and backend_of("run") == "numpy", (
        done.stderr
    )
    assert (
        "\nbackend    python\n"
        in tinygpt("train", "--out", "a", "--backend", "python", *TINY, site=accel).stdout
    )
    assert (
        "\nbackend    python\n"
        in tinygpt("train", "--out", "b", *TINY, site=accel, TINYGPT_BACKEND="python").stdout
    )
    # A run that is resumed keeps its own.
    done = tinygpt("train", "--resume", "a", "--steps", "7", site=accel)
    assert done.returncode == 0 and "\nbackend    python\n" in done.stdout
    assert len(done.stderr.splitlines()) == 1 and "stretch the cosine" in done.stderr  # and nothing else
    # Unless told otherwise.
    done = tinygpt("train", "--resume", "a", "--steps", "8", "--backend", "numpy", site=accel)
    assert done.returncode == 0 and "\nbackend    numpy\n" in done.stdout and backend_of("a") == "numpy", (
        done.stderr
    )
    # On a machine without NumPy: told so, and on with python.
    bare = {"site": accel, "options": ("-S",)}
    note = (
        r"tinygpt: note: backend 'numpy' is not available: [^\n]*pip install numpy; going on with "
        r"the python backend\n(tinygpt: note: \d steps in place of \d stretch the cosine[^\n]*\n)?"
    )
    done = tinygpt("generate", "run", "--seed", "1", "--tokens", "5", **bare)  # type: ignore[arg-type]
    assert done.returncode == 0 and done.stdout and re.fullmatch(note, done.stderr), done.stderr
    assert_refused(tinygpt("generate", "run", "--backend", "numpy", **bare), "numpy")
    assert_refused(tinygpt("train", "--resume", "run", "--steps", "7", "--backend", "numpy", **bare), "numpy")
    done = tinygpt("train", "--resume", "run", "--steps", "7", **bare)  # type: ignore[arg-type]
    assert (
        done.returncode == 0 and "\nbackend    python\n" in done.stdout and re.fullmatch(note, done.stderr)
    ), done.stderr
    assert backend_of("run") == "python"


def test_generate_gives_one_text_for_a_seed_on_every_backend(accel: Path) -> None:
    assert tinygpt("train", "--out", "run", "--backend", "python", *TINY, site=accel).returncode == 0
    texts = {
        tinygpt("generate", "run", "--seed", "3", "--backend", name, site=accel).stdout
        for name in ("python", "numpy")
    }
    assert len(texts) == 1 and texts.pop().strip()
