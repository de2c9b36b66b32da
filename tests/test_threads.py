"""What holds for the calling thread only, and what threads share: recording, `uninitialized`, `autocast`, the
backend in use, and random numbers.
"""

from __future__ import annotations

import copy
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinygpt_core import Tensor, backends, no_grad, random
from tinygpt_core.buffer.python import PythonBuffer
from tinygpt_core.generation import generate_ids
from tinygpt_core.kernels.precision import autocast, compute_dtype
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.module import evaluating
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.optimizers import AdamW
from tinygpt_core.random import Generator, use_generator
from tinygpt_core.tape import is_recording
from tinygpt_core.tensor import is_allocating, uninitialized

BACKENDS = ["python"] if backends.why_not("numpy") else ["python", "numpy"]
SECONDS = 60  # a thread that takes longer hangs


def in_threads(*works: Callable[[], Any]) -> list[Any]:
    """What each function returns; all run at the same time, each in a thread of its own."""
    results: list[Any] = [None] * len(works)
    problems: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(place: int, work: Callable[[], Any]) -> None:
        try:
            start.wait(SECONDS)
            results[place] = work()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive(), "a thread hangs"
    if problems:
        raise problems[0]
    return results


@pytest.fixture
def threads_change_often() -> Iterator[None]:
    """The interpreter goes from one thread to another every few instructions, not every 5 ms."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# ---------------------------------------------------------------- blocks

BLOCKS: dict[str, tuple[Callable[[], AbstractContextManager[Any]], Callable[[], Any], Any, Any]] = {
    # how to open one, what to look at, its value inside and outside
    "no_grad": (no_grad, is_recording, False, True),
    "uninitialized": (uninitialized, is_allocating, False, True),
    "autocast": (lambda: autocast("bfloat16"), compute_dtype, "bfloat16", "float32"),
    "use": (lambda: backends.use("theirs"), lambda: backends.active().backend, "theirs", "python"),
    "use_generator": (lambda: use_generator(Generator(99)), lambda: random.default_generator().seed, 99, 0),
}


class TheirBuffer(PythonBuffer):
    """Another backend."""

    backend = "theirs"
    compute_dtypes = ("float32", "bfloat16")


@pytest.fixture
def their_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_plugins", dict(backends._plugins))
    monkeypatch.setattr(backends, "_loaded", dict(backends._loaded))
    monkeypatch.setattr(PythonBuffer, "compute_dtypes", ("float32", "bfloat16"), raising=False)
    backends.register("theirs", lambda device: TheirBuffer)


@pytest.fixture(params=BLOCKS)
def block(request: pytest.FixtureRequest, their_backend: None) -> Iterator[Any]:
    with backends.use("python"), use_generator(Generator(0)):
        yield BLOCKS[request.param]


def test_blocks_nest_and_give_back(block: Any) -> None:
    make, look, inside, outside = block
    assert look() == outside
    with make():
        assert look() == inside
        with make():
            assert look() == inside
        assert look() == inside
        with pytest.raises(KeyError), make():
            raise KeyError
        assert look() == inside
    assert look() == outside


def test_a_block_holds_for_its_thread_only(block: Any) -> None:
    """A thread that is started inside of it, or runs beside it, sees the default; and the other way round."""
    make, look, inside, _ = block
    entered, looked = threading.Event(), threading.Event()

    def opens() -> Any:
        with make():
            entered.set()
            assert looked.wait(SECONDS)
            return look()

    def looks() -> Any:
        assert entered.wait(SECONDS)
        found = look()
        looked.set()
        return found

    default = in_threads(look)[0]
    assert default != inside
    assert in_threads(opens, looks) == [inside, default]
    with make():
        assert in_threads(look) == [default] and look() == inside


def test_blocks_of_threads_do_not_disturb_each_other(block: Any, threads_change_often: None) -> None:
    """Each opens and closes thousands."""
    make, look, inside, _ = block
    default = in_threads(look)[0]

    def often() -> bool:
        right = True
        for _ in range(500):
            with make(), make():
                right = right and look() == inside
            right = right and look() == default
        return right

    assert in_threads(often, often, often) == [True, True, True]


@pytest.mark.parametrize("make, look", [(no_grad, is_recording), (uninitialized, is_allocating)])
def test_a_decorated_function_may_call_itself(make: Any, look: Any, threads_change_often: None) -> None:
    """And two threads may be in it at once, since the decorator holds nothing."""
    seen = []

    @make()
    def countdown(n: int) -> None:
        seen.append(look())
        if n:
            countdown(n - 1)
        seen.append(look())

    countdown(5)
    assert look() and not any(seen)
    in_threads(*[lambda: [countdown(5) for _ in range(100)]] * 3)
    assert look() and not any(seen)

    @make()
    def fails(n: int) -> None:
        if not n:
            raise KeyError
        fails(n - 1)

    with pytest.raises(KeyError):
        fails(3)
    assert look(), "an exception left it switched off"


@pytest.mark.parametrize("make", [no_grad, uninitialized])
def test_one_object_may_be_entered_again(make: Any) -> None:
    look = is_recording if make is no_grad else is_allocating
    once = make()
    with once:
        with once:
            assert not look()
        assert not look()
    assert look()
    with once:
        assert not look()
    assert look()


def test_functions_under_autocast_may_call_themselves(their_backend: None) -> None:
    @autocast("bfloat16")
    def countdown(n: int) -> list[str]:
        return [compute_dtype(), *(countdown(n - 1) if n else []), compute_dtype()]

    with backends.use("python"):
        assert countdown(3) == ["bfloat16"] * 8 and compute_dtype() == "float32"


# ---------------------------------------------------------------- the backend in use


def name() -> str:
    return backends.active().backend


def test_use_as_a_statement_is_for_its_thread_and_lasts(their_backend: None) -> None:
    def chooses() -> list[str]:
        before = name()
        backends.use("theirs")
        return [before, name(), Tensor([1.0]).backend]

    with backends.use("python"):
        default = in_threads(name)[0]
        assert in_threads(chooses, name) == [[default, "theirs", "theirs"], default]
        assert name() == "python"
        backends.use("theirs")
        assert name() == "theirs" and in_threads(name) == [default]


def test_use_may_be_entered_again(their_backend: None) -> None:
    """Each `with` gives back what was in use before it, whatever was chosen inside."""
    with backends.use("python"):
        with backends.use("theirs") as kind:
            assert kind is TheirBuffer
            backends.use("python")
            assert name() == "python"
        assert name() == "python"
        theirs = backends.use("theirs")
        assert name() == "theirs"
        with theirs:
            with theirs:
                backends.use("python")
                with theirs:
                    assert name() == "theirs"
                assert name() == "python"
            assert name() == "theirs"
        assert name() == "python"
        with theirs:
            assert name() == "theirs"
        assert name() == "python"

        def enters() -> list[str]:
            with theirs:
                inside = name()
            return [inside, name()]

        default = in_threads(name)[0]
        assert in_threads(enters, enters) == [["theirs", default]] * 2 and name() == "python"


def test_a_backend_that_cannot_be_used_changes_nothing(their_backend: None) -> None:
    with backends.use("theirs"):
        with pytest.raises(ValueError, match="nowhere"):
            backends.use("nowhere")
        assert name() == "theirs"


def test_threads_that_ask_for_a_backend_at_once_get_the_same_class(
    monkeypatch: pytest.MonkeyPatch, threads_change_often: None
) -> None:
    monkeypatch.setattr(backends, "_plugins", dict(backends._plugins))
    monkeypatch.setattr(backends, "_loaded", dict(backends._loaded))
    for attempt in range(20):
        made = f"made-{attempt}"

        def factory(device: str, made: str = made) -> type:
            return type("Made", (PythonBuffer,), {"backend": made})

        backends.register(made, factory)
        assert len(set(in_threads(*[lambda made=made: backends.get(made)] * 4))) == 1


# ---------------------------------------------------------------- random numbers


def test_threads_never_get_the_same_numbers(threads_change_often: None) -> None:
    """The default generator is the process's: what three threads draw from it are different blocks, and none
    is left out.
    """
    random.seed(3)
    count = 4000

    def draw() -> list[int]:
        return [random.default_generator().reserve(4).block for _ in range(count)]

    drawn = [block for blocks in in_threads(draw, draw, draw) for block in blocks]
    assert sorted(drawn) == list(range(3 * count)) and random.default_generator().position == 3 * count


def test_a_generator_of_ones_own_draws_the_same_numbers_each_time(threads_change_often: None) -> None:
    def draw(seed: int) -> Callable[[], list[float]]:
        def work() -> list[float]:
            with use_generator(Generator(seed)) as own:
                assert random.default_generator() is own
                return [random.default_generator().uniform(), *Tensor.uniform((300,)).to_python()]

        return work

    state = random.default_generator().get_state()
    alone = [draw(seed)() for seed in range(4)]
    assert in_threads(*map(draw, range(4))) == alone and alone[0] != alone[1]
    assert random.default_generator().get_state() == state, "the default generator has moved"


def test_seeding_inside_use_generator_is_for_that_one() -> None:
    state = random.default_generator().get_state()
    own = Generator(1)
    with use_generator(own):
        with use_generator(Generator(2)) as inner:
            assert random.default_generator() is inner
        random.seed(7)
        first = Tensor.normal((3,)).to_python()
    assert (own.seed, own.position) == (7, 1) and random.default_generator().get_state() == state
    assert first == Tensor.normal((3,), generator=Generator(7)).to_python()
    with pytest.raises(KeyError), use_generator(own):
        raise KeyError
    assert random.default_generator() is not own


def test_generators_can_be_copied_and_pickled() -> None:
    generator = Generator(5, 6)
    generator.uniform()
    for other in (copy.copy(generator), copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))):
        assert other.get_state() == generator.get_state() and other is not generator
    copied = copy.deepcopy(generator)
    assert [copied.uniform() for _ in range(3)] == [generator.uniform() for _ in range(3)]


# ---------------------------------------------------------------- all at once

CONFIG = GPTConfig(vocab_size=11, context_length=8, num_layers=1, num_heads=2, embedding_dim=8, dropout=0.2)


def trains(backend: str) -> Any:
    """A short training; returns its losses, and all gradients and weights at the end."""
    with backends.use(backend), use_generator(Generator(1)):
        model = GPT(CONFIG)
        optimizer = AdamW(model, learning_rate=0.01)
        inputs, targets = Tensor([[1, 2, 3, 4, 5, 6]]), Tensor([[2, 3, 4, 5, 6, 7]])
        losses = []
        for _ in range(12):
            optimizer.zero_grad()
            loss = CrossEntropyLoss()(logits=model(inputs), labels=targets).mean()
            loss.backward()
            optimizer.update()
            losses.append(loss.item())
        parameters = [parameter for _, parameter in model.named_parameters()]
        gradients = [None if p.grad is None else p.grad.buffer.to_array() for p in parameters]
        return losses, gradients, [p.buffer.to_array() for p in parameters]


def samples(backend: str, seed: int) -> list[int]:
    """What a model of its own writes, from a generator of its own, without records."""
    with backends.use(backend), use_generator(Generator(seed)), no_grad():
        model = GPT(CONFIG)
        written = list(generate_ids(model, [1, 2], tokens=30))
        assert not model(Tensor([[1]])).requires_grad
        return written


def loads(backend: str) -> Any:
    """The shape of a model that is made without numbers."""
    with backends.use(backend), uninitialized():
        model = GPT(CONFIG)
        return [max(parameter.buffer.stride, default=0) for _, parameter in model.named_parameters()]


@pytest.mark.parametrize("own", BACKENDS)
def test_two_threads_sample_while_one_trains(own: str, threads_change_often: None) -> None:
    """Each gets, bit for bit, what it gets alone, on its own backend and on another."""
    works = [
        lambda: trains(own),
        lambda: samples(own, 5),
        lambda: samples(BACKENDS[-1 - BACKENDS.index(own)], 6),
        lambda: loads(own),
    ]
    alone = [work() for work in works]
    assert all(gradient is not None for gradient in alone[0][1])
    assert len(set(alone[1])) > 1 and alone[1] != alone[2] and not any(alone[3])
    state = random.default_generator().get_state()
    for _ in range(2):
        assert in_threads(*works) == alone
    assert is_recording() and random.default_generator().get_state() == state


# ---------------------------------------------------------------- what decorates generators


@pytest.mark.parametrize("own", BACKENDS)
def test_a_decorated_generator_is_inside_while_it_runs(own: str) -> None:
    """And outside while it waits; it takes what is sent and thrown into it, and returns what it returns."""
    with backends.use(own):
        x = Tensor([1.0], requires_grad=True)

        @no_grad()
        def rows(count: int) -> Iterator[Any]:
            """Yields results."""
            got = None
            for _ in range(count):
                try:
                    got = yield (x * 2.0).requires_grad, got  # type: ignore[misc]
                except ValueError:
                    got = "caught"
            return "end"

        running: Any = rows(4)
        assert next(running) == (False, None) and is_recording()
        assert running.send(5) == (False, 5) and is_recording()
        assert running.throw(ValueError()) == (False, "caught") and is_recording()
        assert list(running) == [(False, None)] and is_recording()
        running = rows(1)
        next(running)
        with pytest.raises(StopIteration) as end:
            next(running)
        assert end.value.value == "end" and rows.__doc__ == "Yields results."
        closed: Any = rows(2)
        next(closed)
        closed.close()
        assert is_recording()


def test_coroutines_are_not_decorated() -> None:
    async def sampled() -> None:
        pass

    with pytest.raises(TypeError, match=r"with no_grad\(\):"):
        no_grad()(sampled)


# ---------------------------------------------------------------- what BLAS is told


def test_blas_gets_its_threads_back_when_the_last_has_left() -> None:
    """Two threads that overlap do not put back each other's limit of one thread."""
    threads_of_plugin = pytest.importorskip(
        "tinygpt_accel.numpy_backend.threads", reason="the plug-in is not installed"
    )
    pytest.importorskip("threadpoolctl", reason="BLAS's threads are counted with threadpoolctl")
    if threads_of_plugin.thread_count() == 1:
        pytest.skip("there is one core, so that BLAS's threads are left alone")

    def limits() -> list[int]:
        found = threads_of_plugin._controller.select(user_api="blas").info()
        return [library["num_threads"] for library in found]

    before = limits()
    first, second = threads_of_plugin.single_threaded_blas(), threads_of_plugin.single_threaded_blas()
    first.__enter__()
    second.__enter__()
    assert set(limits()) <= {1}
    first.__exit__(None, None, None)
    assert set(limits()) <= {1}
    second.__exit__(None, None, None)
    assert limits() == before


def test_on_a_python_without_the_global_lock(tmp_path: Any) -> None:
    """Two threads that train and one that samples, truly at once, get what each gets alone."""
    found = [shutil.which(f"python3.{minor}t") for minor in (13, 14, 15)]
    interpreter = next((path for path in found if path), None)
    if interpreter is None:
        pytest.skip("there is no free-threaded CPython here (python3.13t or later)")
    script = tmp_path / "stress.py"
    script.write_text(FREE_THREADED, encoding="utf-8")
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [interpreter, "-S", str(script)],
        cwd=root,
        env={"PYTHONPATH": str(root), "PYTHON_GIL": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and done.stdout == "alike\n", done.stderr


FREE_THREADED = """
from concurrent.futures import ThreadPoolExecutor

from tinygpt_core import Tensor, no_grad
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.module import evaluating
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.optimizers import AdamW
from tinygpt_core.random import Generator, use_generator

config = GPTConfig(vocab_size=11, context_length=8, num_layers=1, num_heads=2, embedding_dim=8, dropout=0.2)


def trained(number):
    with use_generator(Generator(number)):
        model = GPT(config)
        optimizer = AdamW(model, learning_rate=0.01)
        for _ in range(10):
            optimizer.zero_grad()
            loss = CrossEntropyLoss(reduction="mean")(model(Tensor([[1, 2, 3]])), Tensor([[2, 3, 4]]))
            loss.backward()
            optimizer.update()
        with no_grad():
            return loss.item(), model(Tensor([[1, 2]])).to_python()


alone = [trained(number) for number in range(4)]
with ThreadPoolExecutor(4) as threads:
    for _ in range(3):
        assert list(threads.map(trained, range(4))) == alone
print("alike")
"""


# ---------------------------------------------------------------- generators, and the mode of a model


@pytest.mark.parametrize("name", ["no_grad", "uninitialized", "autocast", "use_generator"])
def test_every_block_decorates_generators(name: str, their_backend: None) -> None:
    make, look, inside, outside = BLOCKS[name]

    @make()
    def watch() -> Iterator[Any]:
        yield look()
        yield look()

    with backends.use("python"), use_generator(Generator(0)):
        seen = watch()
        assert (next(seen), look()) == (inside, outside)
        with make():
            assert next(seen) == inside
        assert look() == outside and list(seen) == []


def test_a_thread_samples_from_a_model_that_another_trains(threads_change_often: None) -> None:
    """Sampling needs dropout off, training needs it on: both have the same model, and its flag stays."""
    config = GPTConfig(
        vocab_size=7, context_length=8, num_layers=1, num_heads=1, embedding_dim=4, dropout=0.5
    )
    model = GPT(config)
    alone = list(generate_ids(model, [1], tokens=12, temperature=0))
    is_over = threading.Event()
    seen: set[tuple[bool, bool]] = set()

    def train() -> None:
        ids = Tensor([[1, 2, 3, 4]])
        for _ in range(40):
            with use_generator(Generator(5)):
                first = model(ids).to_python()
            with use_generator(Generator(6)):
                seen.add((model.training, model(ids).to_python() != first))  # another mask
        is_over.set()

    def sample() -> None:
        while not is_over.is_set():
            assert list(generate_ids(model, [1], tokens=12, temperature=0)) == alone

    in_threads(train, sample)
    assert seen == {(True, True)} and model.training


def test_evaluating_is_for_one_thread_and_leaves_the_flag() -> None:
    model = GPT(GPTConfig(vocab_size=7, context_length=8, num_layers=1, num_heads=1, embedding_dim=4))
    with evaluating():
        assert not model.training and in_threads(lambda: model.training) == [True]
        model.train()
        assert not model.training
        model.eval()
    assert not model.training
    model.train()
    assert model.training and pickle.loads(pickle.dumps(model)).training


# ---------------------------------------------------------------- one model, several samplers


def modes(model: GPT) -> list[bool]:
    return [module.training for module in model.modules()]


def test_samplers_that_take_turns_leave_the_model_in_its_mode() -> None:
    """Each module in its own: one may have been put out of training mode on purpose."""
    model = GPT(replace(CONFIG, dropout=0.5))
    model.modules()[1].eval()
    before = modes(model)
    assert True in before and False in before
    first, second = (generate_ids(model, [1, 2], tokens=5, generator=Generator(1)) for _ in range(2))
    drawn = [next(first), next(second)]
    assert modes(model) == before, "while a sampler waits, the model is in its caller's mode"
    rest = [*first], [*second]
    assert drawn[0] == drawn[1] and rest[0] == rest[1], "dropout is off while a sampler computes"
    assert modes(model) == before


def test_threads_that_sample_from_one_model_leave_it_in_its_mode(threads_change_often: None) -> None:
    model = GPT(replace(CONFIG, dropout=0.5))
    expected = list(generate_ids(model, [1, 2], tokens=10, generator=Generator(1)))
    for _ in range(10):
        works = [lambda: list(generate_ids(model, [1, 2], tokens=10, generator=Generator(1)))] * 3
        assert in_threads(*works) == [expected] * 3
        assert all(modes(model))


def test_an_evaluation_that_fails_ends() -> None:
    model = GPT(CONFIG)
    with pytest.raises(KeyError), model.evaluation():
        assert not any(modes(model))
        raise KeyError
    assert all(modes(model))
