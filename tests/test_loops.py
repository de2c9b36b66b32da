"""The compiled loops of the NumPy backend do what the chains of NumPy calls do, and how work is shared out
changes no result.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

np = pytest.importorskip("numpy", reason="this is about the numpy backend, and NumPy is not installed")
pytest.importorskip("tinygpt_accel", reason="this is about the plug-in tinygpt-accel, which is not installed")

from tinygpt_accel import philox  # noqa: E402
from tinygpt_accel.numpy_backend import NumpyBuffer, chains, loops, threads  # noqa: E402
from tinygpt_accel.numpy_backend.kernels import attention  # noqa: E402
from tinygpt_core import random  # noqa: E402
from tinygpt_core.dtype import DType  # noqa: E402

compiled = loops.compiled_loops()
needs_numba = pytest.mark.skipif(
    compiled is None, reason="Numba is not installed, so there are no compiled loops"
)

F = np.float32
EPS = F(1e-5)
rows, columns = st.integers(1, 5), st.integers(1, 40)


def numbers(seed: int, *shape: int, scale: float = 1.0) -> Any:
    return np.random.default_rng(seed).normal(size=shape, scale=scale).astype(F)


def both(name: str, *arguments: Any) -> None:
    """Calls a function of either module on copies of the same arguments; every array must end up the same, to
    rounding.
    """
    results = []
    for module in (chains, compiled):
        copies = [x.copy() if isinstance(x, np.ndarray) else x for x in arguments]
        with np.errstate(all="ignore"):
            getattr(module, name)(*copies)
        results.append(copies)
    for expected, found in zip(*results, strict=True):
        if isinstance(expected, np.ndarray):
            np.testing.assert_allclose(
                found,
                expected,
                rtol=1e-5,
                atol=2e-6 * np.max(np.abs(expected[np.isfinite(expected)]), initial=1.0),
            )


@needs_numba
@given(st.integers(0, 99), columns, st.sampled_from([1.0, 10.0, 60.0]))
@settings(deadline=None, max_examples=30)
def test_activations(seed: int, size: int, scale: float) -> None:
    x = numbers(seed, size, scale=scale)
    out = np.zeros_like(x)
    both("gelu", x, out, out, F(0.7978845608), F(0.7978845608 * 0.044715))
    both("silu", x, out, out)


@pytest.mark.parametrize("is_compiled", [False, pytest.param(True, marks=needs_numba)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["key", "value"])
def test_what_comes_later_does_not_reach_earlier_rows(
    is_compiled: bool, bad: float, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight of 0 times NaN would be NaN: of all keys and values only those count that a query sees,
    forward and in the gradient of its own row.
    """
    if not is_compiled:
        monkeypatch.setattr(attention, "loops_for", lambda dtype: chains)
    q, k, v = (numbers(i, 2, 2, 70, 4) for i in range(3))
    later = 40

    def run(k: Any, v: Any, length: int) -> tuple[Any, list[Any]]:
        operands = [NumpyBuffer.wrap(x.copy(), DType.float32) for x in (q[:, :, -length:], k, v)]
        y, saved = attention.NumpyAttention.forward(*operands)
        g = np.zeros_like(y.array)
        g[:, :, : length - 30] = 1.0
        gradients = attention.NumpyAttention.backward(saved, NumpyBuffer.wrap(g, DType.float32))
        return y.array, [x.array for x in gradients]

    spoiled = {"key": k.copy(), "value": v.copy()}
    spoiled[place][:, :, later, 1] = bad
    for length in (70, 50):  # all positions, and the last ones of a cache
        y, (dq, _, _) = run(k, v, length)
        found, (of_query, _, _) = run(spoiled["key"], spoiled["value"], length)
        first = later - (70 - length)  # the first query that sees it
        np.testing.assert_allclose(found[:, :, :first], y[:, :, :first], rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(of_query[:, :, :first], dq[:, :, :first], rtol=2e-4, atol=1e-5)
        if place == "value" or math.isnan(bad):
            assert not np.isfinite(found[:, :, first:]).all(-1).any()


@needs_numba
@given(st.integers(0, 99), rows, columns, st.booleans())
@settings(deadline=None, max_examples=30)
def test_rows(seed: int, count: int, size: int, flag: bool) -> None:
    x, g, weight, bias = (
        numbers(seed + i, *shape) for i, shape in enumerate([(count, size), (count, size), (size,), (size,)])
    )
    out, per_row = np.zeros_like(x), np.zeros(count, F)
    both("add_to_rows", x, bias)
    both("scale_rows", x, g[:, 0].copy(), out)
    both("normalize", x, weight, bias, out, out, per_row, EPS, flag)
    both("normalize_gradients", g, weight, x, np.abs(g[:, 0]), out, np.zeros((2, size), F), flag)
    ids = np.random.default_rng(seed).integers(0, size, count)
    both("add_rows", np.zeros((size, size), F), ids, x)
    both("add_columns", np.zeros((1, size)), x[None])
    losses = []
    # The shift of the exponentials is each one's own affair, the losses and probabilities are not
    for module in (chains, compiled):
        exponentials, totals, loss = out.copy(), per_row.copy(), per_row.copy()
        module.cross_entropy(x, ids, exponentials, totals, loss)
        losses.append((loss, exponentials / totals[:, None]))
    for first, second in zip(*losses, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


@needs_numba
@given(st.integers(0, 99), rows, columns)
@settings(deadline=None, max_examples=30)
def test_quantized_rows(seed: int, count: int, size: int) -> None:
    x, scales, out, wide = (
        numbers(seed, size),
        numbers(seed + 1, count),
        np.zeros(count, F),
        np.zeros((count, size), F),
    )
    halves = numbers(seed + 2, count, size).view(np.uint32) >> 16
    both("widen_bfloat16", halves.astype(np.uint16), wide)
    both("product_of_bfloat16", halves.astype(np.uint16), x, out)
    int8 = np.random.default_rng(seed).integers(-127, 128, (count, size)).astype(np.int8)
    both("widen_int8", int8, scales, wide)
    both("product_of_int8", int8, scales, x, out)


@needs_numba
def test_sums_along_wide_rows() -> None:
    """A part of a row is added up in float32, and the parts in doubles."""
    x = np.random.default_rng(3).uniform(0.0, 1.0, (1, 1 << 20)).astype(F)
    wide = x.astype(np.float64)
    y, normal = np.empty_like(x), np.empty_like(x)
    compiled.softmax(x[None], y[None], F(1.0), False)
    np.testing.assert_allclose(y, np.exp(wide) / np.exp(wide).sum(), rtol=6e-7)
    ones = np.ones(x.size, F)
    scales = np.empty(1, F)
    compiled.normalize(x, ones, ones, y, normal, scales, EPS, False)
    np.testing.assert_allclose(scales, 1 / np.sqrt((wide * wide).mean() + EPS), rtol=3e-7)
    compiled.normalize(x, ones, ones, y, normal, scales, EPS, True)
    np.testing.assert_allclose(scales, 1 / np.sqrt(wide.var() + EPS), rtol=3e-7)


@needs_numba
def test_sums_of_many_rows() -> None:
    """More than a few rows go on in doubles: the sums are those of doubles, whichever loop makes them."""
    rng = np.random.default_rng(5)
    x = rng.uniform(0.5, 1.5, (3, 4001, 5)).astype(F)
    ids = np.concatenate([np.arange(70), rng.integers(0, 3, 3931)])
    for module in (chains, compiled):
        total = np.ones((3, 5))
        module.add_columns(total, x)
        np.testing.assert_allclose(total, 1 + x.sum(1, dtype=np.float64), rtol=2e-7)
        by_index = np.ones((100, 5), F)
        module.add_rows(by_index, ids, x[0])
        expected = np.ones((100, 5))
        np.add.at(expected, ids, x[0].astype(np.float64))
        np.testing.assert_allclose(by_index, expected, rtol=2e-7)


@needs_numba
@given(
    st.integers(0, 99), st.integers(1, 3), rows, columns, st.booleans(), st.sampled_from([0.1, 1.0, 300.0])
)
@settings(deadline=None, max_examples=40)
def test_softmax(seed: int, heads: int, count: int, more: int, causal: bool, scale: float) -> None:
    """Scores far outside the range of exp take the way with the largest subtracted, on both."""
    x = numbers(seed, heads, count, count + more)
    both("softmax", x, np.zeros_like(x), F(scale), causal)
    both("softmax_gradient", x, np.abs(x), numbers(seed + 1, heads, count), F(scale))


@needs_numba
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_softmax_of_what_is_not_finite(value: float) -> None:
    x = np.array([[[0.5, value, -0.25], [value, value, value], [1.0, 2.0, 3.0]]], F)
    both("softmax", x, np.zeros_like(x), F(1.0), False)
    both("gelu", x.reshape(-1), np.zeros(9, F), np.zeros(9, F), F(0.8), F(0.035))


@needs_numba
def test_the_exponential_is_accurate() -> None:
    x = np.concatenate([np.linspace(-86.9, 88.3, 100_001), [-200.0, -87.5, 89.0, 300.0]]).astype(F)
    y, factors = np.zeros((1, 1, 2), F), []
    for value in x[:: len(x) // 200]:
        compiled.softmax(np.array([[[value, 0.0]]], F), y, F(1.0), False)
        factors.append(y[0, 0, 0])
    expected = 1.0 / (1.0 + np.exp(-x[:: len(x) // 200].astype(np.float64)))
    np.testing.assert_allclose(factors, expected, rtol=1e-6)


@needs_numba
@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**40),
    st.integers(1, 50),
    st.floats(0.0, 1.0),
)
@settings(deadline=None, max_examples=50)
def test_masks(seed: int, stream: int, block: int, size: int, probability: float) -> None:
    """The words behind a mask are those of the core's scalar function."""
    threshold = int(probability * 2**32)
    expected = [word >= threshold for word in random.words(random.Key(seed, stream, block), size)]
    for module in (chains, compiled):
        mask = np.zeros(size, bool)
        module.keep_mask(
            mask, np.uint64(block), np.uint64(stream), philox.round_keys(np, seed), np.uint64(threshold)
        )
        assert mask.tolist() == expected


@needs_numba
@given(st.integers(0, 99), columns)
@settings(deadline=None, max_examples=20)
def test_adamw(seed: int, size: int) -> None:
    p, g, m, v = (numbers(seed + i, size) for i in range(4))
    both("adamw", p, g, m, np.abs(v), F(0.9), F(0.99), F(0.1), F(0.01), F(1e-3), F(1e-8), F(0.999))


@given(st.integers(0, 1000), st.integers(0, 300))
@settings(deadline=None, max_examples=50)
def test_sharing_out_does_everything_once(count: int, grain: int) -> None:
    done = np.zeros(count, int)

    def work(start: int, stop: int) -> None:
        done[start:stop] += 1

    threads.parallel_for(work, count, grain)
    assert done.tolist() == [1] * count


def test_an_error_on_another_thread_arrives_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_count", 3)

    def work(start: int, stop: int) -> None:
        if start:
            raise ZeroDivisionError(f"at {start}")

    with pytest.raises(ZeroDivisionError, match="at "):
        threads.parallel_for(work, 30)
    threads.parallel_for(lambda start, stop: None, 30)  # the threads go on


@pytest.mark.parametrize("count", [1, 2, 5])
def test_how_many_threads_there_are_changes_no_bit(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinygpt_core import Tensor, backends, seed
    from tinygpt_core.losses import CrossEntropyLoss
    from tinygpt_core.nn import GPT, GPTConfig

    for name in ("CHAIN_GRAIN", "STEP_GRAIN"):
        monkeypatch.setattr(threads, name, 16)

    def gradients(threads_used: int) -> list[Any]:
        monkeypatch.setattr(threads, "_count", threads_used)
        seed(3)
        config = GPTConfig(
            vocab_size=11, context_length=8, num_layers=1, num_heads=2, embedding_dim=16, dropout=0.25
        )
        with backends.use("numpy"):
            model, ids = GPT(config), [[i % 11 for i in range(j, j + 8)] for j in range(4)]
            CrossEntropyLoss()(logits=model(Tensor(ids)), labels=Tensor(ids)).mean().backward()
        return [parameter.grad.buffer.to_array() for _, parameter in model.named_parameters()]

    with threads.single_threaded_blas():
        assert gradients(count) == gradients(1)
