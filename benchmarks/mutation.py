"""How many small mistakes the tests notice: a mutation run over what computes.

    python benchmarks/mutation.py --sample 400 [--room kernels]
    python benchmarks/mutation.py --show

Each mutant (`mutants.py`) is a module with one mistake. It lives in a process of its own, forked from one
that has loaded pytest, Hypothesis and NumPy but nothing of ours, so that it is imported anew; there the tests
that run the changed lines are made, the quickest first, until one fails. Which tests those are is found out
first, by running all tests of a room once with every line noted. A mutant is

- killed, if a test fails, or cannot be collected, or runs ten times as long as without it;
- equivalent, if `equivalent_mutants.json` says why nobody could notice;
- a survivor otherwise, also where no test runs the lines at all.

The score is the share of killed ones among all that are not equivalent. What was found is kept in --results
and a run goes on where the last one ended; a mutant whose function changed since is run again. `--record`
copies the verdicts into `judged_mutants.json`, from which any run begins, on whatever machine.

It takes hours for all mutants and is not part of continuous integration; `docs/mutation.md` has the figures
of a sample.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import gc
import hashlib
import importlib.abc
import importlib.machinery
import io
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from mutants import Mutant, mutants, mutated  # noqa: E402

RESULTS = ROOT / "build" / "mutation.json"
EQUIVALENT = ROOT / "benchmarks" / "equivalent_mutants.json"
JUDGED = ROOT / "benchmarks" / "judged_mutants.json"
# Seconds of the processor: that a machine is busy makes no difference.
SLOWER = 10.0  # times as long as without the mistake is a timeout,
GRACE = 5.0  # and this many seconds more
IMPORTS = 30.0  # to import and to collect
WAITING = 10.0  # times as many seconds by the clock, and as much for what waits and does not compute
KILLERS = 4  # tests that have killed mutants of a function are tried first, so many of them
MEMORY = 6 << 30  # bytes of address space
TIMED_OUT, SURVIVED, KILLED = 42, 0, 1
NOTHING_TO_RUN = 5  # an exit code of pytest
# Tests that the default run leaves out, for they take long together; each is quick, and no other looks there.
MADE_HERE = ("test_trainer.py",)


class Room(NamedTuple):
    """Modules that one set of tests covers."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    backends: str


def laws(*names: str) -> tuple[str, ...]:
    """Returns files of the specification."""
    return tuple(f"spec/test_{name}.py" for name in names)


KERNEL_LAWS = laws("kernel_laws", "table_laws", "operation_laws", "precision_laws", "edge_laws")
ROOMS: dict[str, Room] = {
    "operations": Room(
        ("tinygpt_core/operations.py",),
        (
            *laws("operation_laws", "autograd_laws", "precision_laws", "edge_laws", "float32_stays"),
            "test_sparse_gradients.py",
            "test_defaults.py",
        ),
        "python",
    ),
    "kernels": Room(
        ("tinygpt_core/kernels/*.py",),
        (
            *KERNEL_LAWS,
            *laws("einsum_laws", "random_laws", "quantized_laws"),
            "test_quantized.py",
            "test_shape_errors.py",
            "test_convolution.py",
            "test_ngram_embeddings.py",
            "test_optimizers.py",
            "test_sparse_gradients.py",
            "test_precision.py",
            "test_defaults.py",
        ),
        "python",
    ),
    "fast kernels": Room(
        ("tinygpt_core/kernels/python/*.py",),
        (*KERNEL_LAWS, "test_optimizers.py", "test_sparse_gradients.py", "test_python_buffer.py"),
        "python",
    ),
    "numpy kernels": Room(
        ("tinygpt_accel/numpy_backend/kernels/*.py",),
        (
            *KERNEL_LAWS,
            *laws("random_laws", "quantized_laws"),
            "test_quantized.py",
            "test_loops.py",
            "test_numpy_convolution.py",
            "test_numpy_kernels.py",
            "test_sparse_gradients.py",
        ),
        "numpy",
    ),
    "optimizers": Room(
        ("tinygpt_core/optimizers.py",),
        ("test_optimizers.py", "test_sparse_gradients.py", "test_threads.py", "test_defaults.py"),
        "python",
    ),
    "schedules": Room(
        ("tinygpt_core/schedules.py",),
        ("test_schedules.py", "test_training.py", "test_defaults.py"),
        "python",
    ),
    "tokenizer": Room(
        ("tinygpt_core/tokenizer/*.py",),
        (
            "test_tokenizer_rules.py",
            "test_tokenizer.py",
            "test_tokenizer_limits.py",
            "test_encoders.py",
            "test_pretokenize.py",
            "test_pipelines.py",
            "test_tokenizer_json.py",
            "test_chat_templates.py",
            "test_vocabularies.py",
            "test_speculative.py",
            "test_seed_documents.py",
        ),
        "python",
    ),
    "attention": Room(
        (
            "tinygpt_core/nn/attention.py",
            "tinygpt_core/nn/cache.py",
            "tinygpt_core/nn/rotary.py",
            "tinygpt_core/nn/transformer.py",
        ),
        (
            "test_nn.py",
            "test_attention_layers.py",
            "test_value_embeddings.py",
            *laws("decoder_laws", "cache_laws", "packing_laws"),
            "test_families.py",
            "test_gpt.py",
            "test_generation.py",
            "test_ngram_embeddings.py",
            "test_seed_documents.py",
            "test_defaults.py",
        ),
        "python",
    ),
    "generation": Room(
        ("tinygpt_core/generation.py", "tinygpt_core/speculative.py"),
        (
            "test_generation.py",
            "test_generate_options.py",
            "test_prompts_in_a_batch.py",
            "test_speculative.py",
            "test_gpt.py",
            "test_training.py",
            "test_defaults.py",
        ),
        "python",
    ),
    "counting": Room(
        ("tinygpt_core/counting.py", "tinygpt_core/nn/ngram_prior.py"),
        ("test_counting.py", "test_ngram_prior.py"),
        "python",
    ),
    "trainer": Room(
        (
            "tinygpt_core/training/loop.py",
            "tinygpt_core/training/step.py",
            "tinygpt_core/training/statistics.py",
        ),
        (
            "test_trainer.py",
            "test_training.py",
            "test_runs.py",
            "test_parameter_statistics.py",
            "test_run_lengths.py",
            "test_time_budget.py",
            "test_best.py",
            "test_init_from.py",
            "test_samples.py",
            "test_recipe.py",
            "test_validation.py",
            "test_sharding.py",
            "test_precision.py",
            "test_checkpoint.py",
            "test_explain.py",
        ),
        "python",
    ),
}


def modules_of(room: Room) -> list[str]:
    """Returns the paths of a room's modules, but for those that only register kernels."""
    paths = sorted(path for pattern in room.modules for path in ROOT.glob(pattern))
    return [str(path.relative_to(ROOT)) for path in paths if path.name != "__init__.py"]


# ---------------------------------------------------------------- inside a forked process


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules that are changed, and loads what they have become.

    Args:
        trees: the changed modules, by their paths.
        names: what they find as globals beside their own.
    """

    def __init__(self, trees: dict[str, ast.Module], names: dict[str, Any] | None = None) -> None:
        self.trees = {
            ".".join(Path(path).with_suffix("").parts): (path, tree) for path, tree in trees.items()
        }
        self.names = names or {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self.trees:
            return None
        spec = importlib.machinery.ModuleSpec(name, self, origin=str(ROOT / self.trees[name][0]))
        spec.has_location = True
        return spec

    def exec_module(self, module: Any) -> None:
        path, tree = self.trees[module.__name__]
        vars(module).update(self.names)
        exec(compile(tree, str(ROOT / path), "exec"), module.__dict__)


def _end_after(seconds: float) -> None:
    """Ends this process as one that takes too long, unless it is called again before."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WAITING * seconds)


class _Chosen:
    """A pytest plug-in: makes only the chosen tests, in their order, each within its time.

    Args:
        seconds: what each chosen test takes.
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        order = {name: place for place, name in enumerate(self.seconds)}
        items[:] = sorted(
            (item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid]
        )

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.failed = nodeid
        _end_after(GRACE + SLOWER * self.seconds.get(nodeid, 0.0))

    def pytest_runtest_logfinish(self) -> None:
        _end_after(IMPORTS)


def noting(path: str, tree: ast.Module) -> ast.Module:
    """Returns a module that calls `__note__(path, line)` before every statement of its functions."""

    def noted(body: list[ast.stmt]) -> list[ast.stmt]:
        result: list[ast.stmt] = []
        for statement in body:
            call = ast.parse(f"__note__(({path!r}, {statement.lineno}))").body[0]
            result += [ast.copy_location(call, statement), inside(statement)]
        return result

    def inside(statement: Any) -> Any:
        is_code = not isinstance(statement, ast.ClassDef)
        for name in ("body", "orelse", "finalbody"):
            if body := getattr(statement, name, None):
                setattr(statement, name, noted(body) if is_code else list(map(inside, body)))
        for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            part.body = noted(part.body)
        return statement

    tree.body = [inside(x) if isinstance(x, (ast.FunctionDef, ast.ClassDef)) else x for x in tree.body]
    return ast.fix_missing_locations(tree)


class _Lines:
    """A pytest plug-in: notes which statements of some files each test runs, and how long it takes."""

    def __init__(self, files: Iterable[str]) -> None:
        self.lines: set[tuple[str, int]] = set()
        self.imported: set[tuple[str, int]] = set()
        self.shared: dict[str, set[tuple[str, int]]] = {}  # by the fixtures of a test file
        self.tests: dict[str, set[tuple[str, int]]] = {}
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        trees = {name: noting(name, ast.parse((ROOT / name).read_text(encoding="utf-8"))) for name in files}
        sys.meta_path.insert(0, _Changed(trees, {"__note__": self.lines.add}))

    def pytest_collection_finish(self) -> None:
        self.imported |= self.lines

    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        before = set(self.lines)
        self.lines.clear()
        yield
        if fixturedef.scope != "function":
            file = request.node.nodeid.partition("::")[0]
            self.shared.setdefault(file, set()).update(self.lines)
        self.lines |= before

    pytest_fixture_setup.hookwrapper = True  # type: ignore[attr-defined]

    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        self.lines.clear()
        started = time.process_time()
        yield
        self.seconds[item.nodeid] = time.process_time() - started
        self.tests[item.nodeid] = set(self.lines)

    pytest_runtest_protocol.hookwrapper = True  # type: ignore[attr-defined]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def _pytest(plugin: Any, files: Sequence[str], backends: str, examples: int = 10) -> int:
    import pytest
    from hypothesis import HealthCheck, Phase, settings

    # Draws the same each time, and does not make a failure small.
    settings.register_profile(
        "mutation",
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    options = ["-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    if isinstance(plugin, _Lines):
        options.remove("-x")
    options += ["-c", str(ROOT / "pyproject.toml"), "--backend", backends, "--profile", "mutation"]
    if not set(files) <= set(MADE_HERE):
        options += ["-m", "not thorough"]
    return int(pytest.main([*options, *(str(ROOT / "tests" / name) for name in files)], plugins=[plugin]))


def _forked(work: Callable[[Any], int], limit: float) -> tuple[int, str]:
    """Calls a function in a forked process, with a file for its answer; returns its exit code and that."""
    place = tempfile.mkdtemp(prefix="mutant-")
    answer = Path(place) / "answer"
    process = os.fork()
    if process == 0:
        os.setsid()
        code = 99
        try:
            for number in (signal.SIGALRM, signal.SIGPROF):
                signal.signal(number, lambda *_: os._exit(TIMED_OUT))
            _end_after(IMPORTS)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            os.environ["TMPDIR"] = tempfile.tempdir = place
            output = os.open(Path(place) / "output", os.O_WRONLY | os.O_CREAT)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = work(answer)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    code = _waited(process, limit)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)  # what it may have started
    text = answer.read_text() if answer.exists() else ""
    if code not in (SURVIVED, KILLED, TIMED_OUT) and not text:
        text = (Path(place) / "output").read_text(errors="replace")[-2000:]
    shutil.rmtree(place, ignore_errors=True)
    return code, text


def _waited(process: int, limit: float) -> int:
    """Returns the exit code of a process, which is ended after some seconds."""
    end = time.monotonic() + limit
    while True:
        is_late = time.monotonic() >= end  # before it is asked: whoever stopped us has not stopped the clock
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if is_late:
            break
        time.sleep(0.01)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return TIMED_OUT


# ---------------------------------------------------------------- one room, one mutant


@functools.cache
def _functions_of(module: str) -> dict[int, range]:
    """Returns the lines of the function around each statement, by the line in which that begins."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {
        node.lineno: range(function.lineno, (function.end_lineno or function.lineno) + 1)
        for function in functions  # the inner ones last
        for statement in function.body
        for node in ast.walk(statement)
        if isinstance(node, ast.stmt)
    }


class Coverage(NamedTuple):
    """What a run without a mistake has shown of a room.

    Attributes:
        seconds: that each test takes.
        lines: which tests run a statement, by the text "file:line" of where it begins.
        imported: the lines that are run by importing.
    """

    seconds: dict[str, float]
    lines: dict[str, list[str]]
    imported: list[str]

    def tests_of(self, mutant: Mutant, killers: Iterable[str] = ()) -> list[str]:
        """Returns the tests that run a mutant's lines, or else its module: the quickest files first.

        Args:
            killers: tests that come before all others if they are among these.
        """
        line = f"{mutant.module}:{mutant.first}"
        tests = set(self.lines.get(line, []))
        function = _functions_of(mutant.module).get(mutant.first)
        if function is None or line in self.imported:
            # By importing, as a default is: all that run the module count, and what runs nothing of the room,
            # which may look at signatures
            of_module = [found for name, found in self.lines.items() if name.startswith(f"{mutant.module}:")]
            tests.update(*of_module, set(self.seconds).difference(*self.lines.values()))
        elif not tests:  # it may be reached by what is drawn another time
            tests.update(*(self.lines.get(f"{mutant.module}:{number}", []) for number in function))
        of_file: Counter[str] = Counter()
        for test in tests:
            of_file[test.partition("::")[0]] += self.seconds[test]  # type: ignore[assignment]

        def order(test: str) -> tuple[float, str, float]:
            file = test.partition("::")[0]
            return of_file[file], file, self.seconds[test]

        first = [test for test in killers if test in tests]
        return [*first, *sorted(tests.difference(first), key=order)]


def cover(room: Room, file: str, report: Callable[[str], None]) -> dict[str, Any]:
    """Runs the tests of a file, on the code as it is; returns `seconds`, `lines` and `imported`, as JSON
    values, and leaves out tests that fail.

    Raises:
        SystemExit: the tests cannot be run.
    """

    def work(answer: Path) -> int:
        _end_after(0)
        plugin = _Lines(modules_of(room))
        code = _pytest(plugin, [file], room.backends, examples=4)
        lines: dict[str, list[str]] = {}
        for test, found in plugin.tests.items():
            for name, line in found | plugin.shared.get(test.partition("::")[0], set()):
                lines.setdefault(f"{name}:{line}", []).append(test)
        imported = [f"{name}:{line}" for name, line in plugin.imported]
        answer.write_text(json.dumps([plugin.seconds, lines, imported, plugin.failed]))
        return code

    code, text = _forked(work, 3600)
    if code == 99 or not text.startswith("["):
        raise SystemExit(f"the tests could not be run: {text}")
    seconds, lines, imported, failed = json.loads(text)
    if failed:
        report(f"  left out, for they fail without a mistake: {', '.join(failed)}")
        for tests in lines.values():
            tests[:] = [test for test in tests if test not in failed]
    return {"seconds": seconds, "lines": lines, "imported": imported}


def judge(room: Room, mutant: Mutant, coverage: Coverage, killers: Iterable[str] = ()) -> dict[str, Any]:
    """Runs the tests that a mutant is to be noticed by, `killers` first; returns what happened, as JSON
    values.
    """
    started = time.perf_counter()
    tests = coverage.tests_of(mutant, killers)
    seconds = {test: coverage.seconds[test] for test in tests}
    source = (ROOT / mutant.module).read_text(encoding="utf-8")
    # Tests that stand side by side and are of one file are made together
    parts = [
        (file.removeprefix("tests/"), {test: seconds[test] for test in part})
        for file, part in itertools.groupby(tests, lambda test: test.partition("::")[0])
    ]

    def work(answer: Path) -> int:
        sys.meta_path.insert(0, _Changed({mutant.module: mutated(source, mutant)}))
        for file, chosen in parts:
            plugin = _Chosen(chosen)
            if _pytest(plugin, [file], room.backends) not in (0, NOTHING_TO_RUN):
                answer.write_text(plugin.failed or f"importing it for {file}")
                return KILLED
        return SURVIVED

    # Each test has its own limit; this is for what does not even notice that.
    code, text = _forked(work, WAITING * (IMPORTS + len(tests) * GRACE + SLOWER * sum(seconds.values())))
    verdict = {SURVIVED: "survived", TIMED_OUT: "timeout"}.get(code, "killed")
    by = f"{len(tests)} tests" if verdict == "survived" else text[-300:]
    return {"verdict": verdict, "by": by, "seconds": round(time.perf_counter() - started, 2)}


# ---------------------------------------------------------------- a run


def sampled(size: int, seed: int) -> dict[str, list[Mutant]]:
    """Returns mutants of each room, drawn at random: as many as its share of all, and at least 15, so that of
    a small room more than its share are drawn.

    Args:
        size: about how many in all; 0 stands for every one.
    """
    everything = {
        name: [mutant for module in modules_of(room) for mutant in mutants(ROOT, module)]
        for name, room in ROOMS.items()
    }
    total = sum(map(len, everything.values()))
    chosen = {}
    for name, found in everything.items():
        count = len(found) if not size else min(len(found), max(15, round(size * len(found) / total)))
        # By keys that are mixed with the seed: of two mutants the same one comes first whatever others come
        # or go, and a larger sample holds the smaller ones. How many are taken follows from how many there
        # are.
        order = sorted(found, key=lambda m: hashlib.sha256(f"{seed} {m.key}".encode()).hexdigest())
        chosen[name] = order[:count]  # in this order: what was run of a room when it stops is a sample of it
    return chosen


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def states_of(room: Room) -> dict[str, str]:
    """Returns a digest for each file of a room's tests, which changes with it and with any of the modules."""
    files = [*modules_of(room), "tests/spec/table.py"]
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in files]
    tests = {name: (ROOT / "tests" / name).read_text(encoding="utf-8") for name in room.tests}
    return {name: _digest(room.backends, *texts, text) for name, text in tests.items()}


def function_text(mutant: Mutant) -> str:
    """Returns the source of what stands around a mutant: its function, or the module."""
    return _text_of(mutant.module, mutant.function)


@functools.cache
def _text_of(module: str, function: str) -> str:
    source = (ROOT / module).read_text(encoding="utf-8")
    node: ast.AST = ast.parse(source)
    for name in filter(None, function.split(".")):
        inner = (each for each in ast.walk(node) if each is not node and getattr(each, "name", "") == name)
        node = next(inner, node)
    return ast.get_source_segment(source, node) or source


class Results:
    """What is known: what was recorded, and beyond that a file that is written after every mutant; and which
    tests run which lines, in a much larger one beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.beside = path.with_suffix(".lines.json")
        self.mutants = recorded()
        self.coverage: dict[str, Any] = {}
        if path.exists():
            self.mutants.update(json.loads(path.read_text())["mutants"])
        if self.beside.exists():
            self.coverage = json.loads(self.beside.read_text())

    def save(self) -> None:
        """Writes what became of mutants, into a file that is whole at any moment."""
        _replace(self.path, {"mutants": self.mutants})

    def covered(self, name: str, room: Room, report: Callable[[str], None]) -> Coverage:
        """Returns which tests run which lines of a room, noted anew for the files of tests that are others,
        and for all of them where its modules are.
        """
        known = self.coverage.setdefault(name, {})
        whole = Coverage({}, {}, [])
        for file, state in states_of(room).items():
            found = known.get(file, {})
            if found.get("state") != state:
                started = time.perf_counter()
                found = {"state": state, **cover(room, file, report)}
                report(f"  noted which lines {file} runs: {time.perf_counter() - started:.0f} s")
                known[file] = found
                _replace(self.beside, self.coverage)
            whole.seconds.update(found["seconds"])
            whole.imported.extend(found["imported"])
            for line, tests in found["lines"].items():
                whole.lines.setdefault(line, []).extend(tests)
        return whole


def recorded() -> dict[str, dict[str, Any]]:
    """Returns the verdicts that were recorded, by the keys of the mutants."""
    if not JUDGED.exists():
        return {}
    return {
        key: {"verdict": verdict, "first": first, "text": digest}
        for functions in json.loads(JUDGED.read_text(encoding="utf-8")).values()
        for digest, verdicts in functions.items()
        for what, keys in verdicts.items()
        for verdict, first in [what.split(", first ") if ", " in what else (what, what)]
        for key in keys.split()
    }


def record(results: Results) -> None:
    """Writes the verdicts on mutants of the code as it stands: by module, and by the digest of a function."""
    judged: dict[str, dict[str, dict[str, list[str]]]] = {}
    for chosen in sampled(0, 0).values():
        for mutant in sorted(chosen, key=lambda mutant: (mutant.module, mutant.number)):
            known, digest = results.mutants.get(mutant.key), _digest(function_text(mutant))
            if known is None or known["text"] != digest:
                continue
            first = known.get("first", known["verdict"])
            what = known["verdict"] if first == known["verdict"] else f"{known['verdict']}, first {first}"
            verdicts = judged.setdefault(mutant.module, {}).setdefault(digest, {})
            verdicts.setdefault(what, []).append(mutant.key)
    found = {
        module: {
            digest: {what: " ".join(keys) for what, keys in verdicts.items()}
            for digest, verdicts in functions.items()
        }
        for module, functions in sorted(judged.items())
    }
    JUDGED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _replace(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(value))
    draft.replace(path)


def equivalent() -> dict[str, str]:
    """Returns the reasons for which mutants cannot be noticed, by their keys."""
    if not EQUIVALENT.exists():
        return {}
    return {entry["key"]: entry["why"] for entry in json.loads(EQUIVALENT.read_text(encoding="utf-8"))}


def run(arguments: argparse.Namespace) -> None:
    """Runs the mutants that were asked for and are not known yet."""
    import hypothesis.strategies
    import numpy  # noqa: F401
    import pytest

    with contextlib.suppress(ImportError):
        import numba  # noqa: F401
    import hypothesis.extra.numpy  # noqa: F401

    # pytest loads its parts when it is called: once here, and not in every process.
    with tempfile.TemporaryDirectory() as empty, contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["-p", "no:cacheprovider", "--rootdir", empty, "-c", os.devnull, empty])
    assert not any(name.startswith("tinygpt") for name in sys.modules)
    gc.freeze()
    os.chdir(ROOT)
    results, why = Results(arguments.results), equivalent()
    end = time.monotonic() + arguments.minutes * 60

    def report(text: str) -> None:
        print(text, flush=True)

    for name, chosen in sampled(arguments.sample, arguments.seed).items():
        if name not in (arguments.room or ROOMS):
            continue
        room = ROOMS[name]
        if arguments.tests:
            room = room._replace(tests=tuple(file for file in room.tests if file in arguments.tests))
        waiting = []
        for mutant in chosen:
            known = results.mutants.get(mutant.key)
            if mutant.key in why:
                continue
            if arguments.again:
                is_wanted = known is not None and known["verdict"] == "survived"
            else:
                is_wanted = known is None or known["text"] != _digest(function_text(mutant))
            if is_wanted:
                waiting.append(mutant)
        report(f"{name}: {len(waiting)} of {len(chosen)} mutants to run")
        if not waiting:
            continue
        coverage = results.covered(name, room, report)
        killers: defaultdict[str, list[str]] = defaultdict(list)  # of the last mutants of a function
        for mutant in waiting:
            if time.monotonic() > end:
                return
            found = judge(room, mutant, coverage, killers[mutant.function])
            if found["verdict"] == "killed":
                others = [test for test in killers[mutant.function] if test != found["by"]]
                killers[mutant.function] = [found["by"], *others[: KILLERS - 1]]
            known = results.mutants.get(mutant.key, {}) if arguments.again else {}
            results.mutants[mutant.key] = {
                **found,
                "first": known.get("first", known.get("verdict", found["verdict"])),
                "text": _digest(function_text(mutant)),
            }
            results.save()
            if found["verdict"] == "survived" or arguments.verbose:
                report(f"  {found['verdict']} ({found['seconds']} s, {found['by']})\n    {described(mutant)}")


def described(mutant: Mutant) -> str:
    """Returns a mutant in one line."""
    where = f"{mutant.module}:{mutant.line} {mutant.function or 'module'}"
    return f"{mutant.key} {where}: {mutant.kind}: {mutant.before} -> {mutant.after}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def show(arguments: argparse.Namespace) -> None:
    """Prints the score of each room, and the survivors."""
    results, why = Results(arguments.results), equivalent()
    sums: Counter[str] = Counter()
    survivors = []
    # At first: before the survivors led to laws, of the mutants of which that is known.
    names = ("all", "run", "equivalent", "killed", "timeout", "survived", "judged at first", "at first")
    print("| room | mutants | run | equivalent | killed by a test | by time | survive | score", end=" | ")
    print("judged at first | survived at first | score at first |")
    print("|---" * (len(names) + 3) + "|")

    def row(name: str, counts: Counter[str]) -> str:
        killed = counts["killed"] + counts["timeout"]
        cells = [f"{counts[each]:,}" for each in names]
        cells.insert(-2, _percent(killed, killed + counts["survived"]))
        judged = counts["judged at first"]
        return f"| {' | '.join([name, *cells, _percent(judged - counts['at first'], judged)])} |"

    everything = sampled(0, 0)
    for name, chosen in sampled(arguments.sample, arguments.seed).items():
        counts: Counter[str] = Counter(all=len(everything[name]))
        for mutant in chosen:
            known = results.mutants.get(mutant.key)
            if known is not None and known["text"] != _digest(function_text(mutant)):
                known = None  # of what stood there before
            if mutant.key in why:
                counts["equivalent"] += 1
            elif known is not None:
                counts[known["verdict"]] += 1
                counts["judged at first"] += "first" in known
                counts["at first"] += known.get("first") == "survived"
                if known["verdict"] == "survived":
                    survivors.append(described(mutant))
            counts["run"] += mutant.key in why or known is not None
        print(row(name, counts))
        sums += counts
    print(row("**all**", sums))
    print(f"\n{len(survivors)} survivors")
    for line in survivors:
        print(f"  {line}")


def main() -> None:
    """Judges mutants, or shows what became of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--sample", type=int, default=400, metavar="N", help="how many mutants (0: all; default: 400)"
    )
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    parser.add_argument(
        "--room", action="append", choices=list(ROOMS), help="only of this room; may be repeated"
    )
    parser.add_argument(
        "--tests",
        action="append",
        metavar="FILE",
        help="make only the tests in this file of a room's; may be repeated. Quicker, and what survives may "
        "be killed by the others: see --again",
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="run survivors again, and nothing else: for tests that were added",
    )
    parser.add_argument(
        "--minutes", type=float, default=1e9, help="begin no mutant after this time (default: none)"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="what was found (default: build/mutation.json)"
    )
    parser.add_argument("--show", action="store_true", help="run nothing; print the scores and the survivors")
    parser.add_argument(
        "--record", action="store_true", help=f"run nothing; write what is known into {JUDGED.name}"
    )
    parser.add_argument("--verbose", action="store_true", help="print every mutant, not only survivors")
    arguments = parser.parse_args()
    if arguments.show or arguments.record:
        if arguments.record:
            record(Results(arguments.results))
        if arguments.show:
            show(arguments)
        return
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is the same in every mutant
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    run(arguments)


if __name__ == "__main__":
    main()
