"""The specification is tested, too: the smallest backend passes it, every broken one is caught, and the
plug-in is never silent.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, FlakyFailure
from spec import broken, minimal, table
from spec.broken import BROKEN, Law
from spec.templates import must_hooks

from tinygpt_core import backends, kernels, operations
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType

ROOT = Path(__file__).resolve().parent.parent

# Enough examples to find a defect, none spent on making the failure small. Which examples are drawn depends
# on the modules that happen to be loaded (Hypothesis collects constants from them), so the number is far
# above what any one order of tests needs; the first find ends it.
SEARCH = settings(
    max_examples=1000,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)


def is_violation(problem: BaseException) -> bool:
    """Whether an exception says that a law does not hold: a failed assertion, `pytest.fail`, or pytest's "DID
    NOT RAISE". Where a defect shows in one run and not in the next, Hypothesis wraps these in a group with a
    note of that.
    """
    if isinstance(problem, FlakyFailure):
        rest = [inner for inner in problem.exceptions if not isinstance(inner, Flaky)]
        return bool(rest) and all(map(is_violation, rest))
    return isinstance(problem, (AssertionError, pytest.fail.Exception))


def obeys(
    law: Law, backend: type[Buffer], examples: settings = SEARCH, crashes: type[Exception] | None = None
) -> bool:
    """Whether a backend passes a law; it does not where the law is violated, or raises what the backend
    declares (`crashes`). Whatever else is raised is not about the law, and raised on.
    """
    test: Callable[..., Any] = getattr(import_module(f"spec.{law.module}"), law.name)
    arguments: dict[str, Any] = {"backend": backend}
    for name in inspect.signature(test).parameters:
        if name == "row":
            arguments["row"] = next(row for row in table.ROWS if row.name == law.row)
        elif name == "wrong":
            row, _, what = law.row.partition(": ")
            arguments["wrong"] = next(
                w for r in table.ROWS if r.name == row for w in r.errors if w.what == what
            )
        elif name == "name":
            arguments["name"] = law.row
    if hasattr(test, "hypothesis"):
        inner = test.hypothesis.inner_test
        wanted = {name: DRAWN[name] for name in inspect.signature(inner).parameters if name not in arguments}
        test = examples(given(**wanted)(inner))
    with backends.use(backend.backend):
        try:
            test(**arguments)
        except (Exception, pytest.fail.Exception) as problem:
            if is_violation(problem) or (crashes and isinstance(problem, crashes)):
                return False
            problem.add_note(
                f"{backend.backend} crashed before {law.name} {law.row} could judge it: "
                "what is broken computes wrongly, or declares that it crashes"
            )
            raise
    return True


# What the laws that broken backends are tried on draw.
DRAWN: dict[str, st.SearchStrategy[Any]] = {
    "data": st.data(),
    "seed": st.integers(0, 99),
    "stream": st.integers(0, 3),
    "skip": st.integers(0, 9),
}


@pytest.fixture(autouse=True)
def registered() -> None:
    minimal.register()
    broken.register()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_backend_is_caught(name: str) -> None:
    entry = BROKEN[name]
    assert entry.backend.__doc__, "what is wrong with it?"
    exception = entry.crashes and entry.crashes.exception
    for law in entry.caught_by:
        assert not obeys(law, entry.backend, crashes=exception), (
            f"{name} passes {law.name} {law.row}, although: {entry.backend.__doc__}"
        )


@pytest.mark.parametrize("name", [name for name, entry in BROKEN.items() if entry.crashes])
def test_a_declared_crash_is_one(name: str) -> None:
    """What declares a crash does crash, on every law that catches it; its kind is not a violation's."""
    entry = BROKEN[name]
    assert entry.crashes and len(entry.crashes.why.split()) > 3
    assert not issubclass(entry.crashes.exception, AssertionError)
    for law in entry.caught_by:
        with pytest.raises(entry.crashes.exception):
            obeys(law, entry.backend)


def test_few_crashes_are_declared() -> None:
    assert [name for name, entry in BROKEN.items() if entry.crashes] == ["broken-log-raises"]


def test_a_crash_catches_nothing() -> None:
    """Neither a method that takes other arguments than its caller gives, nor an error in a hook."""

    class Signature(minimal.MinimalBuffer):
        backend = "crashing"

        def _add(self) -> Any:  # type: ignore[override]
            return self

    class Raising(minimal.MinimalBuffer):
        backend = "crashing"

        def _add(self, other: Any) -> Any:
            return other.nothing_of_this_name

    for kind, exception in ((Signature, TypeError), (Raising, AttributeError)):
        backends.register("crashing", lambda device, kind=kind: kind)
        with pytest.raises(exception) as caught:
            obeys(broken.value("add"), kind)
        assert "crashed before" in caught.value.__notes__[-1]
        assert not obeys(broken.value("add"), kind, crashes=exception)


def test_what_comes_and_goes_is_a_violation_only_if_it_was_one() -> None:
    def flaky(*problems: BaseException) -> BaseException:
        return FlakyFailure("inconsistent", [*problems, Flaky("it did not fail again")])

    assert is_violation(AssertionError("0 is not 1")) and is_violation(flaky(AssertionError("0 is not 1")))
    assert not is_violation(ValueError()) and not is_violation(flaky(ValueError()))
    assert not is_violation(flaky(ValueError(), AssertionError())) and not is_violation(flaky())


LAWS = sorted({law for entry in BROKEN.values() for law in entry.caught_by})


@pytest.mark.parametrize("law", LAWS, ids=lambda law: f"{law.name}-{law.row}".replace(" ", "_"))
def test_what_catches_broken_backends_lets_the_minimal_one_pass(law: Law) -> None:
    assert obeys(law, minimal.MinimalBuffer, settings(SEARCH, max_examples=25))


def test_the_minimal_backend_has_the_must_hooks_and_nothing_else() -> None:
    """It proves that the list of MUST hooks is complete, and that textbook kernels run on it."""
    hooks = must_hooks()
    assert hooks <= set(vars(minimal.MinimalBuffer)), (
        f"missing: {sorted(hooks - set(vars(minimal.MinimalBuffer)))}"
    )
    overridden = {
        name
        for name in vars(minimal.MinimalBuffer)
        if name in vars(Buffer) and callable(getattr(Buffer, name))
    }
    assert overridden - {"__doc__", "__module__", "__slots__"} == hooks
    for kernel in vars(kernels).values():
        if isinstance(kernel, type) and issubclass(kernel, kernels.Kernel):
            assert kernels.lookup(kernel, minimal.MinimalBuffer) is kernel


# ---------------------------------------------------------------- broken derivatives, which no backend has of
# its own


def _to_the_first(self: Any, grad: Any) -> Any:
    """All of the gradient of equals goes to the first."""
    larger = (self.a >= self.b).cast(grad.dtype)
    return grad * larger, grad * (1.0 - larger)


def _to_none(self: Any, grad: Any) -> Any:
    """A tie has no gradient."""
    return grad * (self.a > self.b).cast(grad.dtype), grad * (self.b > self.a).cast(grad.dtype)


def _to_each(self: Any, grad: Any) -> Any:
    """Each of the largest gets the whole gradient."""
    return (self.x == self.y).cast(grad.dtype) * grad


def _always_from_zero(self: Any, grad: Any) -> Any:
    """Inputs that need no gradient are skipped, and with them their part of it."""
    start, parts = 0, []
    for part, needed in zip(self.parts, self.needs_input_grad, strict=True):
        size = part[-1].stop - part[-1].start
        parts.append(grad[(*part[:-1], slice(start, start + size))] if needed else None)
        start += size if needed else 0
    return tuple(parts)


def _slope_2_001(self: Any, grad: Any) -> Any:
    """A slope that is one in two thousand too steep."""
    return grad * (1.0 - self.y * self.y) * 1.0005


def _the_same_way(self: Any, grad: Any) -> Any:
    """Axes are moved on instead of back, which the shape tells only where sizes differ: there it is right."""
    moved_on = grad.permute(self.axes)
    moved_back = grad.permute(sorted(range(len(self.axes)), key=self.axes.__getitem__))
    return moved_on if moved_on.shape == moved_back.shape else moved_back


def _twice(self: Any, grad: Any) -> Any:
    """The gradient is doubled."""
    return grad * 2.0


def _in_float64(self: Any, grad: Any) -> Any:
    """The gradient comes in float64, whatever dtype the input had."""
    return grad * self.y.cast(DType.float64)


def _at_the_start(self: Any, grad: Any) -> Any:
    """The gradient of a slice goes to the beginning of each axis, wherever the slice lay."""
    sizes = iter(grad.shape)
    start = tuple(0 if isinstance(entry, int) else slice(0, next(sizes), 1) for entry in self.index)
    return operations.PartialGradient(self.shape, start, grad)


DIFFERENCES = "test_gradients_against_central_differences_of_the_reference"
GRADIENTS: list[tuple[str, Any, Law]] = [
    ("Maximum", _to_the_first, Law("test_operation_laws", "test_tied_maximum_shares_the_gradient")),
    ("Maximum", _to_none, Law("test_operation_laws", "test_tied_maximum_shares_the_gradient")),
    ("Max", _to_each, Law("test_operation_laws", "test_tied_max_shares_the_gradient")),
    ("Concatenate", _always_from_zero, Law("test_autograd_laws", "test_unused_inputs_of_concatenate")),
    ("Tanh", _slope_2_001, Law("test_operation_laws", DIFFERENCES, "tanh")),
    ("Permute", _the_same_way, Law("test_operation_laws", DIFFERENCES, "permute")),
    ("Expand", _twice, Law("test_operation_laws", DIFFERENCES, "expand")),
    ("Exp", _in_float64, Law("test_float32_stays", "test_float32_gradients", "exp")),
    ("Slice", _at_the_start, Law("test_autograd_laws", "test_slices_accumulate")),
]


@pytest.mark.parametrize(
    "operation, backward, law", GRADIENTS, ids=[f"{name}-{i}" for i, (name, _, _) in enumerate(GRADIENTS)]
)
def test_a_broken_derivative_is_caught(
    operation: str, backward: Any, law: Law, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = backends.get("python")
    assert obeys(law, python, settings(SEARCH, max_examples=25))
    monkeypatch.setattr(getattr(operations, operation), "backward", backward)
    assert not obeys(law, python)


# ---------------------------------------------------------------- the plug-in, as a process


def run_pytest(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    cleaned = {
        key: value for key, value in os.environ.items() if key not in ("TINYGPT_BACKEND", "PYTEST_ADDOPTS")
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=cwd,
        env={**cleaned, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_minimal_backend_passes_the_whole_specification() -> None:
    done = run_pytest("tests/spec", "--backend", "minimal", "--tb=short")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


def test_a_missing_backend_is_an_error() -> None:
    for arguments, environment in (
        (["--backend", "python,nowhere"], {}),
        ([], {"TINYGPT_BACKEND": "nowhere"}),
    ):
        done = run_pytest("tests/spec/test_random_laws.py", *arguments, **environment)
        assert done.returncode == pytest.ExitCode.USAGE_ERROR and "nowhere" in done.stderr + done.stdout


def test_every_installed_backend_is_tried_by_default() -> None:
    """And only those where one is asked for; of one that cannot run, the end says why."""
    law = "tests/spec/test_random_laws.py::test_uniform_bit_for_bit"
    done = run_pytest(law, "--collect-only")
    for name in {point.name for point in entry_points(group=backends.ENTRY_POINT_GROUP)} | {"python"}:
        reason = backends.why_not(name)
        assert (f"{law}[{name}]" in done.stdout) == (not reason)
        assert (f"no law was tried on {name}: {reason}" in done.stdout) == bool(reason)
    done = run_pytest(law, "--collect-only", "--backend", "python")
    assert f"{law}[python]" in done.stdout and "[numpy]" not in done.stdout
    assert "no law was tried" not in done.stdout


def test_what_takes_long_is_made_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.thorough('a minute')\ndef test_long(): ...\ndef test_short(): ...\n"
    )
    options = ["-p", "spec.plugin", "--backend", "python"]
    for more, wanted in (
        ([], "1 passed, 1 deselected"),
        (["--profile", "thorough"], "2 passed"),
        (["test_it.py::test_long"], "1 passed"),
        (["test_it.py"], "2 passed"),
    ):
        done = run_pytest(*options, *more, cwd=tmp_path, PYTHONPATH=str(ROOT / "tests"))
        assert wanted in done.stdout, done.stdout + done.stderr
    done = run_pytest(*options, "--profile", "hasty", cwd=tmp_path, PYTHONPATH=str(ROOT / "tests"))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR and "quick, thorough, nightly" in done.stderr


def test_several_backends_run_side_by_side() -> None:
    done = run_pytest(
        "tests/spec/test_random_laws.py",
        "--backend",
        "python,broken-own-random-numbers",
        "-k",
        "test_uniform_bit_for_bit",
        "-rA",
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "PASSED tests/spec/test_random_laws.py::test_uniform_bit_for_bit[python]" in done.stdout
    assert (
        "FAILED tests/spec/test_random_laws.py::test_uniform_bit_for_bit[broken-own-random-numbers]"
        in done.stdout
    )


def test_it_runs_outside_the_repository(tmp_path: Path) -> None:
    """As an installed package does: under the name tinygpt_spec, with the backend of someone else from a
    plug-in of theirs.
    """
    shutil.copytree(ROOT / "tests" / "spec", tmp_path / "tinygpt_spec")
    (tmp_path / "theirs.py").write_text(
        "from tinygpt_core import backends\nfrom tinygpt_spec.minimal import MinimalBuffer\n"
        "class Theirs(MinimalBuffer):\n    __slots__ = ()\n    backend = 'theirs'\n"
        "backends.register('theirs', lambda device: Theirs)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    arguments = [
        "-p",
        "theirs",
        "-p",
        "tinygpt_spec.plugin",
        "--pyargs",
        "tinygpt_spec",
        "--backend",
        "theirs",
        "-rA",
        "-k",
        "add",
    ]
    done = run_pytest(*arguments, cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "[theirs-add]" in done.stdout


def test_everything_a_law_needs_is_in_the_package() -> None:
    """Only NumPy, Hypothesis, pytest, the standard library and tinygpt_core are imported, and the package
    itself by relative imports.
    """
    for file in (ROOT / "tests" / "spec").glob("*.py"):
        for line in file.read_text().splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]) and not words[1].startswith("."):
                package = words[1].split(".")[0]
                allowed = {"numpy", "hypothesis", "pytest", "tinygpt_core", *sys.stdlib_module_names}
                assert package in allowed, f"{file.name}: {line}"


def test_what_is_said_to_take_long_is_there() -> None:
    """Every file and test in the list of `conftest.py`, with its reason."""
    text = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    named = re.findall(r'^    "((?:spec/)?test_\w+\.py)(?:::(\w+))?": "([^"]+)",$', text, re.MULTILINE)
    assert len(named) > 20
    for file, test, why in named:
        assert re.search(rf"^def {test or 'test_'}", (ROOT / "tests" / file).read_text("utf-8"), re.MULTILINE)
        assert why, f"{file}::{test}"
