"""A training step in float32 on NumPy allocates no float64 array of more than 4 KB, not even a temporary.

NumPy's allocator does not know what an array is of, so its arrays report it: for the length of a step
every array is of a subclass whose `__array_finalize__` NumPy calls for each new array, temporaries inside an
expression included. Arrays that are made from nothing (`numpy.empty`, `zeros`, …) come from a stand-in for
the namespace. That this can fail is shown by leaks of each kind.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tinygpt_core import Tensor, backends, kernels, no_grad, seed
from tinygpt_core.dtype import DType
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.optimizers import AdamW, clip_gradients

np = pytest.importorskip("numpy", reason="this is about the numpy backend, and NumPy is not installed")
if reason := backends.why_not("numpy"):
    pytest.skip(f"this is about the numpy backend, which cannot be had: {reason}", allow_module_level=True)

LIMIT = 4096  # bytes
found: list[str] = []  # where a float64 array above the limit was made
seen = [0]  # how many arrays have reported themselves
lock = threading.Lock()


class Reporting(np.ndarray):
    """An ndarray that reports itself, and passes the habit on to all that is computed from it."""

    def __array_finalize__(self, source: Any) -> None:
        with lock:
            seen[0] += 1
            if self.dtype == np.float64 and self.nbytes > LIMIT:
                frames = [
                    frame
                    for frame in traceback.extract_stack()[:-1]
                    if "tinygpt" in frame.filename or "test_no" in frame.filename
                ]
                last = frames[-1]
                file = last.filename.rsplit("/", 1)[-1]
                found.append(f"{self.shape} at {file}:{last.lineno}: {last.line}")


def reporting(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(map(reporting, result))
    return result.view(Reporting) if type(result) is np.ndarray else result


class Namespace:
    """NumPy, but arrays that its functions make report themselves."""

    ndarray = Reporting

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        if isinstance(value, (type, np.ufunc)) or not callable(value):
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            return reporting(value(*arguments, **options))

        return call


@contextmanager
def trace_arrays() -> Iterator[list[str]]:
    """Inside it the plug-in's modules see `Namespace` where they imported NumPy."""
    kind: Any = backends.get("numpy")
    modules = [
        module
        for name, module in sys.modules.items()
        if name.startswith("tinygpt_accel.") and vars(module).get("numpy") is np
    ]
    assert modules
    namespace = Namespace()
    found.clear()
    seen[0] = 0
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "numpy", namespace)
            # Functions that a module has taken out of NumPy by name
            for name, value in list(vars(module).items()):
                if (
                    getattr(np, name, None) is value
                    and callable(value)
                    and not isinstance(value, (type, np.ufunc))
                ):
                    patch.setattr(module, name, getattr(namespace, name))
        patch.setattr(kind, "xp", namespace)
        yield found


def step(dtype: DType = DType.float32) -> None:
    """One step of a GPT with every part of the usual one, large enough that any activation or parameter is
    above the limit.
    """
    seed(1)
    model = GPT(
        GPTConfig(
            vocab_size=65, context_length=32, num_layers=2, num_heads=4, embedding_dim=64, tied_head=True
        )
    )
    model.apply(lambda parameter: parameter.cast(dtype))
    optimizer = AdamW(model, 1e-3, weight_decay=0.1)
    ids = Tensor([[(7 * i + j) % 65 for j in range(32)] for i in range(4)], DType.int32)
    with trace_arrays():
        for _, parameter in model.named_parameters():  # what stood there before reports from here on
            parameter.buffer.array = reporting(parameter.buffer.array)
        for _ in range(2):
            optimizer.zero_grad()
            loss = CrossEntropyLoss()(logits=model(ids), labels=ids).mean()
            loss.backward()
            clip_gradients(model, 1e-3)
            optimizer.update()
        for _, parameter in model.named_parameters():
            grad: Any = parameter.grad
            assert type(parameter.buffer.array) is Reporting and type(grad.buffer.array) is Reporting
            assert parameter.dtype is dtype


@pytest.fixture(autouse=True)
def numpy_backend() -> Iterator[Any]:
    with backends.use("numpy") as kind:
        yield kind


def test_a_step_allocates_no_float64() -> None:
    step()
    assert seen[0] > 1000, "hardly anything was reported"
    assert not found, "\n".join(dict.fromkeys(found))


# ---------------------------------------------------------------- the tracing itself


def test_a_model_in_float64_is_noticed() -> None:
    step(DType.float64)
    assert len(found) > 100


def leak_in_an_expression(kind: Any) -> Any:
    """A temporary that no variable ever holds; the result is float32 again."""
    return lambda self, other: self.wrap(
        (self.array.astype("float64") * other.array).astype(self.array.dtype), self.dtype
    )


def leak_by_a_scalar(kind: Any) -> Any:
    """float64 scalars of NumPy are strong: they widen what they meet."""
    return lambda self, other: self.wrap(
        (self.array * np.float64(1.0) * other.array).astype("float32"), self.dtype
    )


def leak_by_a_default(kind: Any) -> Any:
    """numpy.empty without a dtype."""

    def multiply(self: Any, other: Any) -> Any:
        out = kind.xp.empty(np.broadcast_shapes(self.shape, other.shape))
        out[...] = self.array * other.array
        return self.wrap(out.astype(np.float32), self.dtype)

    return multiply


@pytest.mark.parametrize("leak", [leak_in_an_expression, leak_by_a_scalar, leak_by_a_default])
def test_a_leak_in_a_hook_is_noticed(
    leak: Callable[[Any], Any], numpy_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numpy_backend, "_mul", leak(numpy_backend))
    with trace_arrays(), no_grad():
        x = Tensor.ones((64, 64))
        x.buffer.array = reporting(x.buffer.array)
        assert (x * x).dtype is DType.float32
    assert found and "test_no_float64.py" in found[0]


def test_a_leak_in_a_kernel_is_noticed(numpy_backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a step, where one kernel works in doubles and rounds at the end: nothing else would show it."""
    right = kernels.lookup(kernels.GELU, numpy_backend)

    class Leaking(right):  # type: ignore[valid-type, misc]
        @staticmethod
        def backward(saved: Any, grad: Any) -> Any:
            (result,) = right.backward(saved, grad)
            doubled = result() if callable(result) else result
            return (numpy_backend.wrap((doubled.array + np.zeros(1)).astype("float32"), DType.float32),)

    monkeypatch.setattr(
        kernels.base, "_registered", {**kernels.base._registered, (kernels.GELU, numpy_backend): Leaking}
    )
    monkeypatch.setattr(kernels.base, "_found", {})
    step()
    assert found and all("doubled.array" in place for place in found)


def test_small_arrays_and_other_dtypes_are_no_matter(numpy_backend: Any) -> None:
    with trace_arrays():
        numpy_backend.xp.zeros(512)
        numpy_backend.xp.zeros(100_000, "int64")
        assert seen[0] >= 2 and not found
        numpy_backend.xp.zeros(513)
        assert len(found) == 1
