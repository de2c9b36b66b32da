"""The CUDA plug-in without a GPU: its kernels compiled for the CPU (tests/cuda_on_cpu), against definitions
written anew here.

The laws of tests/spec run on the same backend: `pytest tests/spec --backend cuda-on-cpu`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import emulation
from cuda_on_cpu.device import Device
from cuda_on_cpu.training import CONFIG, Run
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_accel.cuda_backend import sources as cuda_sources
from tinygpt_accel.cuda_backend.buffer import ARRAY_DTYPE
from tinygpt_accel.cuda_backend.kernels import common, flash_attention
from tinygpt_accel.cuda_backend.kernels.batched_attention import Batched
from tinygpt_accel.cuda_backend.kernels.common import column_sums
from tinygpt_accel.cuda_backend.kernels.softmax import softmax
from tinygpt_core import Tensor, backends, kernels, random
from tinygpt_core.dtype import DType
from tinygpt_core.kernels.precision import autocast
from tinygpt_core.module import Module
from tinygpt_core.nn import GPT
from tinygpt_core.optimizers import AdamW
from tinygpt_core.training import PRESETS, Trainer, TrainingStep, as_tensors, training_step

pytestmark = pytest.mark.skipif(bool(emulation.why_not()), reason=emulation.why_not())
LOW = ["bfloat16", "float16"]
# Half a unit in the last place, relative: 8 and 11 bits of fraction.
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}


@pytest.fixture
def kind() -> Iterator[Any]:
    """The emulated Buffer class, active."""
    with backends.use("cuda-on-cpu") as backend:
        yield backend


def rounded(x: Any, form: str) -> np.ndarray:
    """Numbers rounded to a form, as float64; by torch-free arithmetic of our own for bfloat16."""
    x = np.asarray(x, np.float32)
    if form == "float16":
        return x.astype(np.float16).astype(np.float64)
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.rint(mantissa * 256.0), exponent - 8)


def low(kind: Any, x: Any, form: str) -> Any:
    """A float32 Buffer that is stored in 16 bits."""
    return kind.wrap(kind(np.asarray(x, np.float32).tolist()).in_format(form), kind([1.0]).dtype)


@pytest.mark.parametrize("form", LOW)
@given(data=st.data())
def test_16_bit_forms_round_to_the_nearest(kind: Any, form: str, data: st.DataObject) -> None:
    """In the kernels' own stores, ties to even, NaN and infinities kept; and a number that has the form comes
    back as it was.
    """
    limit = 60000.0 if form == "float16" else 2.0**100
    x = data.draw(
        st.lists(
            st.floats(-limit, limit, width=32).filter(lambda v: v == 0 or abs(v) > 1e-4),
            min_size=1,
            max_size=9,
        )
    )
    x += [1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8, 1.0 + 2.0**-11, 1.0 + 3 * 2.0**-11]
    got = low(kind, x, form).array
    assert np.array_equal(got, rounded(x, form))
    assert np.array_equal(low(kind, got, form).array, got)
    odd = low(kind, [math.nan, math.inf, -math.inf, -0.0], form).array
    assert (
        math.isnan(odd[0])
        and odd[1] == math.inf
        and odd[2] == -math.inf
        and math.copysign(1.0, odd[3]) == -1.0
    )


def test_the_dropout_mask_is_that_of_the_stream(kind: Any) -> None:
    """Bit for bit the mask of every other backend, also when a recorded launch is moved on; and the backward
    draws the same one.
    """
    x = np.random.default_rng(0).normal(size=(7, 13)).astype(np.float32)
    for seed, block, probability in (
        (0, 0, 0.5),
        (2**64 - 1, 2**63 + 5, 0.1),
        (1337, 2**32 - 1, 0.9),
        (3, 9, 0.0),
    ):
        key = random.Key(seed, 2**64 - 2, block)
        kernel = kernels.lookup(kernels.Dropout, kind)
        assert kernel is not kernels.Dropout
        y, saved = kernel.forward(kind(x.tolist()), probability=probability, key=key)
        kept = np.array(random.uniforms32(key, x.size), np.float32).reshape(x.shape) >= np.float32(
            probability
        )
        expected = np.where(kept, x * np.float32(1.0 / (1.0 - probability)), np.float32(0))
        assert np.array_equal(y.array, expected)
        (gradient,) = kernel.backward(saved, kind(x.tolist()))
        assert np.array_equal(gradient.array, expected)
    kind.random_offset = np.array([5], np.int64)
    try:
        moved, _ = kernel.forward(kind(x.tolist()), probability=0.5, key=random.Key(1, 0, 2))
    finally:
        kind.random_offset = None
    straight, _ = kernel.forward(kind(x.tolist()), probability=0.5, key=random.Key(1, 0, 7))
    assert np.array_equal(moved.array, straight.array)


def test_the_emulation_notices_a_missing_barrier(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker is checked: a sum over a block that reads before all have written comes out wrong."""
    x = np.random.default_rng(0).normal(size=(3, 200)).astype(np.float32)
    expected = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    assert np.allclose(softmax(kind, x), expected, rtol=1e-5)
    whole = cuda_sources.text("softmax.cu")
    broken = whole.replace("    __syncthreads();\n    T total = 0;", "    T total = 0;")
    assert broken != whole
    emulation.library.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(cuda_sources, "text", lambda file: broken)
        assert not np.allclose(softmax(kind, x), expected, rtol=1e-5)
    emulation.library.cache_clear()


@given(data=st.data())
def test_rows_add_up_in_the_order_in_which_they_stand(kind: Any, data: st.DataObject) -> None:
    """The gradient of an embedding, bit for bit the sum in order, whatever the ids: so it is the same in
    every run.

    In order means: of the places sorted by their ids, each piece is added up, and then the pieces of an id.
    """
    classes, columns = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    common = data.draw(st.sampled_from([classes - 1, 0, classes // 2]))  # often most places have one id
    ids = data.draw(
        st.lists(st.one_of(st.just(common), st.integers(0, classes - 1)), min_size=1, max_size=50)
    ) * data.draw(st.integers(1, 8))
    r = np.random.default_rng(len(ids))
    # Of many sizes, so that another order gives other bits
    sizes = 10.0 ** r.integers(-3, 4, size=(len(ids), 1))
    values = (sizes * r.normal(size=(len(ids), columns))).astype(np.float32)
    expected = np.zeros((classes, columns), np.float32)
    order = np.argsort(ids, kind="stable")
    for id in set(ids):
        where = np.flatnonzero(np.array(ids)[order] == id)
        pieces = [np.zeros(columns, np.float32) for _ in range(len(order))]
        for place in where:
            pieces[place // kind.rows_piece] += values[order[place]]
        for piece in pieces[where[0] // kind.rows_piece : where[-1] // kind.rows_piece + 1]:
            expected[id] += piece
    total = np.zeros((classes, columns), np.float32)
    kind.add_rows(total, kind(ids), values)
    assert np.array_equal(total, expected)
    kind.add_rows(total, kind(ids), values)
    assert np.array_equal(total, 2 * expected)


def low_cases() -> list[Any]:
    """Kernel, inputs and options, of which every float is read in 16 bits where the kernel reads it so."""
    r = np.random.default_rng(3)
    x, wide = r.normal(size=(2, 5, 40)), r.normal(size=(40, 51)) / 6
    heads = r.normal(size=(3, 2, 2, 9, 8))
    return [
        pytest.param(kernels.Linear, [x, wide, r.normal(size=51)], {}, id="linear"),
        pytest.param(kernels.LayerNorm, [x, r.normal(size=40), r.normal(size=40)], {}, id="layer_norm"),
        pytest.param(kernels.RMSNorm, [x, r.normal(size=40)], {}, id="rms_norm"),
        pytest.param(kernels.Attention, list(heads), {"causal": True}, id="attention"),
        pytest.param(kernels.Attention, list(heads), {"causal": False}, id="attention_both_ways"),
        pytest.param(
            kernels.PackedAttention, [r.normal(size=(2, 7, 48))], {"num_heads": 2}, id="packed_attention"
        ),
    ]


@pytest.mark.parametrize("form", LOW)
@pytest.mark.parametrize(("kernel", "inputs", "options"), low_cases())
def test_autocast_is_near_float32(
    kind: Any, form: str, kernel: Any, inputs: list[Any], options: dict[str, Any]
) -> None:
    """Results and gradients of a kernel under autocast are those in float32 to a few roundings to 16 bits;
    its results are stored so.
    """
    registered = kernels.lookup(kernel, kind)
    buffers = [kind(np.asarray(x, np.float32).tolist()) for x in inputs]
    with autocast(form):
        y, saved = registered.forward(*buffers, **options)
    exact, exact_saved = kernel.forward(*buffers, **options)
    assert y.stored.dtype.itemsize == 2 and y.dtype is exact.dtype
    grad = kind(np.random.default_rng(5).normal(size=y.shape).astype(np.float32).tolist())
    near(y, exact, form)
    wanted = kernel.backward(exact_saved, grad)
    for got, expected in zip(registered.backward(saved, grad), wanted, strict=True):
        near(got() if callable(got) else got, expected() if callable(expected) else expected, form)


def near(got: Any, expected: Any, form: str) -> None:
    """Within eight roundings of the largest element."""
    got, expected = np.asarray(got.array), np.asarray(expected.array)
    assert got.shape == expected.shape and got.dtype == expected.dtype
    assert np.max(np.abs(got - expected)) <= 8 * ROUNDING[form] * np.max(np.abs(expected))


@pytest.mark.parametrize("form", LOW)
@pytest.mark.parametrize("name", ["GELU", "SiLU", "Softmax", "Dropout", "Rotary", "CrossEntropy"])
def test_kernels_that_read_16_bits(kind: Any, form: str, name: str) -> None:
    """What a product left in 16 bits is read there, with float32 arithmetic: the result is one rounding from
    that of the same numbers.
    """
    kernel = getattr(kernels, name)
    registered = kernels.lookup(kernel, kind)
    shape = (2, 3, 5, 8) if name == "Rotary" else (6, 19)
    x = np.random.default_rng(7).normal(size=shape) * 2
    options: dict[str, Any] = {"probability": 0.3, "key": random.Key(1, 2, 3)} if name == "Dropout" else {}
    more = [kind([3, 0, 18, 7, 7, -1])] if name == "CrossEntropy" else []
    options |= {"ignore_index": -1} if more else {}
    given_low, given_wide = low(kind, x, form), kind(low(kind, x, form).array.tolist())
    y, saved = registered.forward(given_low, *more, **options)
    exact, exact_saved = kernel.forward(given_wide, *more, **options)
    assert y.stored.dtype.itemsize == (4 if more else 2)
    one = 2 * ROUNDING[form]
    assert np.allclose(y.array, exact.array, rtol=one, atol=one)
    grad = kind(np.random.default_rng(9).normal(size=y.shape).astype(np.float32).tolist())
    got, expected = registered.backward(saved, grad)[0], kernel.backward(exact_saved, grad)[0]
    assert np.allclose(got.array, expected.array, rtol=2 * one, atol=2 * one)


@pytest.mark.parametrize("form", ["float32", *LOW])
@pytest.mark.parametrize("columns", [8, 37, 40])
def test_eight_at_a_time_or_one(kind: Any, form: str, columns: int) -> None:
    """What begins at a multiple of 16 bytes is read and written by eights, anything else one by one: the
    results are the same.
    """
    r, rows = np.random.default_rng(columns), 9
    x, y = (kind(r.normal(size=(rows, columns)).astype(np.float32)).in_format(form) for _ in range(2))
    bias = r.normal(size=columns).astype(np.float32)
    ids = kind([int(i) for i in r.integers(0, columns, size=rows)])

    def placed(array: Any, offset: int) -> Any:
        room = np.zeros(array.size + 32, array.dtype)  # which the pool puts at a multiple of 512
        skipped = offset
        room[skipped : skipped + array.size] = kind.to_host(array).reshape(-1)
        result = kind.xp.asarray(room)[skipped : skipped + array.size].reshape(array.shape)
        return kind.wrap(result, kind([1.0]).dtype)

    def everything(offset: int) -> list[np.ndarray]:
        a, found = placed(x, offset), []
        for name, more, options in (
            ("GELU", [], {}),
            ("GELU", [], {"approximate": "none"}),
            ("SiLU", [], {}),
            ("CrossEntropy", [ids], {}),
            ("Dropout", [], {"probability": 0.3, "key": random.Key(1, 2, 3)}),
        ):
            kernel = kernels.lookup(getattr(kernels, name), kind)
            given = placed(x, offset)
            result, saved = kernel.forward(given, *more, **options)
            grad = placed(y, offset) if result.ndim == 2 else kind(y[:, 0].astype(np.float32).tolist())
            found += [result.array, given.array, kernel.backward(saved, grad)[0].array]
        biased = placed(x, offset)
        row = kind(bias.tolist()).in_format(form)
        stored = biased.stored
        kind.launch_elementwise("add_bias", form, x.size, stored, row, rows, columns, columns)
        found += [
            (placed(y, offset) + placed(x, offset)).array,
            biased.array,
            (kind(bias.tolist()).expand((rows, columns)) + a).array,
        ]
        return [*found, a.in_format("float32"), a.in_format("bfloat16" if form == "float32" else form)]

    for i, (one, other) in enumerate(zip(everything(0), everything(1), strict=True)):
        if i in (9, 11):  # cross-entropy adds up in another order
            assert np.allclose(one, other, rtol=2 * ROUNDING.get(form, 1e-6), atol=1e-6)
        else:
            assert np.array_equal(one, other), i


def test_a_16_bit_copy_is_made_again_after_a_write(kind: Any) -> None:
    """An update of a parameter makes its copies old; writes to a view of 16-bit storage reach all who share
    it.
    """
    weight = kind([[1.0, 2.0], [3.0, 4.0]])
    first = weight.in_format("bfloat16")
    assert weight.in_format("bfloat16") is first
    weight.assign(kind([[5.0, 6.0], [7.0, 8.0]]))
    expected = low(kind, [[5.0, 6.0], [7.0, 8.0]], "bfloat16").stored
    assert np.array_equal(expected, weight.in_format("bfloat16"))
    shared = low(kind, [[1.0, 2.0], [3.0, 4.0]], "bfloat16")
    shared[0].assign(9.0)
    assert shared.to_python() == [[9.0, 9.0], [3.0, 4.0]] and shared.stored.dtype.itemsize == 2


def test_a_step_on_the_device_is_the_step(kind: Any) -> None:
    """Losses and weights after steps with dropout, clipping and accumulation are those of the textbook step,
    and those of NumPy.
    """
    ours = Run()
    losses = ours.losses(4)
    assert type(ours.step) is not TrainingStep and ours.optimizer.step == 4
    plain = Run(step=TrainingStep)
    assert np.allclose(losses, plain.losses(4), rtol=1e-6)
    assert np.allclose(ours.weights(), plain.weights(), atol=2e-5)
    with backends.use("numpy"):
        assert np.allclose(losses, Run().losses(4), rtol=1e-5)


@pytest.mark.parametrize("form", LOW)
def test_training_in_16_bits_follows_float32(kind: Any, form: str) -> None:
    """From the same weights and data: losses to the noise of the form, parameters and moments float32."""
    wide = Run().losses(12)
    narrow = Run(dtype=form)
    assert np.allclose(narrow.losses(12), wide, rtol=0.02)
    for _, parameter in narrow.model.named_parameters():
        assert parameter.buffer.stored.dtype.itemsize == 4
    for remembered in narrow.optimizer.state.values():
        assert all(moment.buffer.stored.dtype.itemsize == 4 for moment in remembered.values())


def test_an_overflow_of_float16_changes_nothing_but_the_scale(kind: Any) -> None:
    """A scale too large makes gradients infinite: the step is skipped, the scale halved until they fit, and
    then training goes on.
    """
    run = Run(dtype="float16")
    run.step.scaler.scale = 2.0**40
    before = run.weights()
    run.losses(1)
    assert (
        np.array_equal(run.weights(), before) and run.optimizer.step == 0 and run.step.scaler.scale == 2.0**39
    )
    losses = run.losses(40)
    assert 0 < run.optimizer.step < 40 and run.step.scaler.scale < 2.0**32
    assert np.isfinite(run.weights()).all() and losses[-1] < losses[0]


def test_a_model_without_a_vocabulary_is_launched(kind: Any) -> None:
    class Wrapped(Module):
        def __init__(self, model: GPT) -> None:
            self.inner = model

        def forward(self, ids: Tensor) -> Tensor:
            return self.inner(ids)

    model = Wrapped(GPT(CONFIG))
    step: Any = training_step(model, AdamW(model, 1e-2), lambda batch: model(as_tensors(batch)[0]).sum(), 0.5)
    assert "vocab_size" in step.reason


@pytest.mark.parametrize("fails", ["forward", "backward"])
def test_attention_that_cudnn_refuses(kind: Any, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    """Where it builds no plan, be it for the backward only, batched products take over, and the reason is
    kept.
    """
    x = np.random.default_rng(4).normal(size=(2, 7, 48)).astype(np.float32)
    kernel, grad = (
        kernels.lookup(kernels.PackedAttention, kind),
        kind(np.ones((2, 7, 16), np.float32).tolist()),
    )

    def attention() -> tuple[Any, Any]:
        with autocast("bfloat16"):
            y, saved = kernel.forward(kind(x.tolist()), num_heads=2)
        return y.array, kernel.backward(saved, grad)[0].array

    expected = attention()

    def refuse(*described: Any) -> None:
        raise ValueError("no engine takes this graph")

    monkeypatch.setattr(kind, "has_cudnn", True)
    monkeypatch.setattr(flash_attention, "why_not", lambda: "")
    monkeypatch.setattr(flash_attention, "refused", [])
    monkeypatch.setattr(flash_attention, "_backward_plan", refuse)
    if fails == "forward":
        monkeypatch.setattr(flash_attention, "_forward_plan", refuse)
    else:
        sums = np.zeros((2, 2, 7, 1), np.float32)
        monkeypatch.setattr(flash_attention, "forward", lambda *given: (Batched.forward(*given)[0], sums))
    refuse.__name__ = f"_{fails}_plan"
    for _ in range(2):
        assert all(np.array_equal(one, other) for one, other in zip(attention(), expected, strict=True))
    assert len(flash_attention.refused) == 1 and "no engine" in flash_attention.refused[0]


@pytest.mark.parametrize(("said", "expected"), [("", True), ("in-order", True), ("any-order", False)])
def test_attentions_backward_is_deterministic_unless_asked_otherwise(
    kind: Any, monkeypatch: pytest.MonkeyPatch, said: str, expected: bool
) -> None:
    """What cuDNN's front end is told, through a stand-in for it."""
    told: list[dict[str, Any]] = []

    class Anything:
        """A graph, a tensor, and whatever else: it takes every call."""

        def __getattr__(self, name: str) -> Any:
            return lambda *given, **options: self

        def sdpa_backward(self, **options: Any) -> tuple[Any, Any, Any]:
            told.append(options)
            return Anything(), Anything(), Anything()

        def get_workspace_size(self) -> int:
            return 1

    front_end = SimpleNamespace(
        data_type=SimpleNamespace(BFLOAT16=0, HALF=1, FLOAT=2),
        heur_mode=SimpleNamespace(A=0, FALLBACK=1),
        pygraph=lambda **options: Anything(),
        create_handle=lambda: 0,
        set_stream=lambda **options: None,
    )
    monkeypatch.setitem(sys.modules, "cudnn", front_end)
    monkeypatch.setenv("TINYGPT_CUDA_ATTENTION", said)
    monkeypatch.setattr(flash_attention, "_built", flash_attention._built.__wrapped__)
    monkeypatch.setattr(flash_attention, "_handle", lambda: 0)
    q, k, v, y, g, *out = (kind.xp.empty((1, 2, 4, 8), "uint16") for _ in range(8))
    sums = kind.xp.empty((1, 2, 4, 1), "float32")
    flash_attention.backward(kind, q, k, v, y, g, True, 0.5, False, sums, out)
    assert [options["use_deterministic_algorithm"] for options in told] == [expected]


def test_another_order_of_attention_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPT_CUDA_ATTENTION", "anyorder")
    with pytest.raises(ValueError, match=r"in-order .* or any-order, not 'anyorder'"):
        flash_attention.is_deterministic()


def test_out_of_memory_says_what_to_change(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much was asked for, how much there was, and the options that take less."""
    run = Run()

    def launch(*arguments: Any, **options: Any) -> None:
        raise MemoryError("Out of memory allocating 1,073,741,824 bytes")

    monkeypatch.setattr(kind, "launch", launch)
    monkeypatch.setattr(kind, "memory", lambda: (2**30, 2**34))
    with pytest.raises(MemoryError) as caught:
        run.losses(1)
    for part in (
        "1,073,741,824",
        "1.0 GiB of its 16.0 GiB",
        "--batch-size of 1",
        "--accumulation of 4",
        "--context-length below 12",
    ):
        assert part in str(caught.value)


def test_a_run_in_float16_resumes_where_it_was(kind: Any, tmp_path: Path) -> None:
    """To the same bits, with the loss scale of the checkpoint; and a run goes on in float32 on another
    backend.
    """
    config = replace(
        PRESETS["debug"][1], backend="cuda-on-cpu", dtype="float16", steps=4, eval_every=0, checkpoint_every=2
    )
    whole = Trainer.start(config, str(tmp_path / "whole"))
    list(whole.run())
    part = Trainer.start(config, str(tmp_path / "part"))
    for _ in part.run():
        part.stop_requested = part.step == 2
    resumed = Trainer.resume(part.directory)
    assert resumed.step == 2 and resumed.update.scaler.get_state() == part.update.scaler.get_state()
    list(resumed.run())
    for (name, one), (_, other) in zip(
        whole.model.named_parameters(), resumed.model.named_parameters(), strict=True
    ):
        assert one.buffer.to_array() == other.buffer.to_array(), name
    moved = Trainer.resume(resumed.directory, backend="numpy", dtype="float32", steps=5)
    list(moved.run())
    assert moved.step == 5 and moved.update.scaler is None


# ---------------------------------------------------------------- more rows than an axis of a grid takes


@pytest.fixture
def dry() -> Iterator[None]:
    """Within it launches are checked and nothing runs, so arrays of any size take no memory."""
    Device.is_dry = True
    try:
        yield
    finally:
        Device.is_dry = False


MANY = 40 << 20  # rows; 65,535 blocks of 512 rows, as `column_sums` has them, are 33.6 million


@pytest.mark.parametrize("form", ["float32", *LOW])
def test_launches_fit_a_grid_however_many_rows_there_are(kind: Any, dry: None, form: str) -> None:
    """Of 42 million rows, of which nothing is computed: sums for a bias, the norms, softmax, the loss, GELU,
    and the rows of an embedding's gradient.
    """
    x = kind.wrap(kind.xp.empty((MANY, 8), ARRAY_DTYPE[form]), DType.float32)
    column_sums(kind, x.stored)
    row, grad = (kind.wrap(kind.xp.empty(8, "float32"), DType.float32) for _ in range(2))
    ids = kind.wrap(kind.xp.empty(MANY, "int64"), DType.int64)
    ids._set_known_range(0, 7)
    for name, inputs in (
        ("LayerNorm", [x, row, row]),
        ("RMSNorm", [x, row]),
        ("Softmax", [x]),
        ("CrossEntropy", [x, ids]),
        ("GELU", [x]),
    ):
        registered = kernels.lookup(getattr(kernels, name), kind)
        y, saved = registered.forward(*inputs)
        grad = kind.wrap(kind.xp.empty(y.shape, "float32"), DType.float32)
        for part in registered.backward(saved, grad):
            _ = part().array if callable(part) else part
    kind.add_rows(kind.xp.empty((8, 8), "float32"), ids, x.stored)


def test_the_emulation_refuses_what_a_device_refuses(kind: Any, dry: None) -> None:
    x = kind.xp.empty((8, 8), "float32")
    for grid, said in (((1, 65_536), "65536 blocks along y"), ((0,), "0 blocks along x")):
        with pytest.raises(ValueError, match=said):
            kind.launch("column_sums", "float32", grid, x, x, 8, 8, 8, 1)
    with pytest.raises(ValueError, match="a block of 1056 threads"):
        kind.launch("column_sums", "float32", (1,), x, x, 8, 8, 8, 1, block=1056)


def test_sums_of_more_chunks_than_an_axis_takes(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In numbers, with chunks of two rows."""
    monkeypatch.setattr(common, "ROW_CHUNK", 2)
    x = np.random.default_rng(0).integers(0, 3, size=(140_000, 1)).astype(np.float32)
    assert kind.to_host(column_sums(kind, kind.xp.asarray(x))).tolist() == [x.sum()]
