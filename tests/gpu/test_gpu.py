"""What only a GPU can show. Skipped, with the reason, where there is none; the laws run there with `pytest
tests/spec --backend cupy`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygpt_core import Tensor, backends, kernels, random
from tinygpt_core.dataset import StreamBatches, TokenStream
from tinygpt_core.kernels.precision import autocast
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.optimizers import AdamW
from tinygpt_core.tensor import no_grad
from tinygpt_core.training import PRESETS, Trainer, TrainingStep, as_tensors, training_step

REASON = (
    backends.why_not("cupy")
    if "cupy" in [status.name for status in backends.available()]
    else "tinygpt-accel is not installed"
)
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)
LOW = ["bfloat16", "float16"]
ROUNDING = {"float32": 1e-5, "tf32": 2.0**-9, "bfloat16": 2.0**-7, "float16": 2.0**-9}


@pytest.fixture
def cupy_backend() -> Iterator[Any]:
    """The CuPy Buffer class, active."""
    with backends.use("cupy") as kind:
        yield kind


def buffer(kind: Any, x: Any) -> Any:
    return kind(np.ascontiguousarray(x, np.float32))


def test_every_kernel_launches(cupy_backend: Any) -> None:
    """Each source is compiled and each of its instances found, by the names under which they are launched."""
    from tinygpt_accel.cuda_backend import cupy_buffer as backend
    from tinygpt_accel.cuda_backend import sources as cuda_sources

    for file, instances in cuda_sources.INSTANCES.items():
        for name, all_types in instances.items():
            assert cuda_sources.file_of(name) == file
            for types in all_types or ("",):
                formats = [
                    next(fmt for fmt, known in cuda_sources.TYPES.items() if known == each)
                    for each in types.split(", ")
                    if each
                ]
                assert backend._kernel(name, ",".join(formats)).kernel is not None


def test_foreign_arrays(cupy_backend: Any) -> None:
    """CuPy's and PyTorch's arrays come in and go out without a copy; NumPy's are copied, and those of other
    dtypes refused.
    """
    import cupy

    theirs = cupy.arange(6, dtype="float32").reshape(2, 3)
    ours = cupy_backend(theirs)
    ours[0, 0] = 7.0
    assert float(theirs[0, 0]) == 7.0 and float(cupy.from_dlpack(ours)[0, 0]) == 7.0
    with pytest.raises(TypeError, match="no dtype holds"):
        cupy_backend(np.zeros(2, ">f4"))
    torch = pytest.importorskip("torch")
    assert cupy_backend(torch.ones(2, 3)).to_python() == [[1.0] * 3] * 2
    if torch.cuda.is_available():
        tensor = torch.ones(2, 3, device="cuda")
        cupy_backend(tensor)[1, 2] = 5.0
        torch.cuda.synchronize()
        assert tensor[1, 2].item() == 5.0 and torch.from_dlpack(ours)[0, 0].item() == 7.0


@pytest.mark.parametrize("size", [1, 37, 5000, 100_003])
def test_rows_add_up(cupy_backend: Any, size: int) -> None:
    """The embedding's gradient where one id is frequent: races between blocks would show here, and in a
    second run.
    """
    r = np.random.default_rng(size)
    ids = np.where(r.random(size) < 0.4, 3, r.integers(0, 300, size=size)).astype(np.int32)
    values = r.normal(size=(size, 70))
    expected = np.zeros((300, 70))
    np.add.at(expected, ids, values.astype(np.float32))
    found = []
    for _ in range(2):
        total = cupy_backend.zeros((300, 70), cupy_backend([1.0]).dtype)
        cupy_backend.add_rows(total.array, cupy_backend(ids), buffer(cupy_backend, values).array)
        found.append(np.array(total.to_array()).reshape(300, 70))
    assert np.array_equal(*found) and np.allclose(found[0], expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("form", ["float32", "tf32", *LOW])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(257, 768, 3072), (64, 768, 50257), (1, 5, 3), (33, 40, 1)]
)
def test_products(cupy_backend: Any, form: str, rows: int, inputs: int, outputs: int) -> None:
    """Forward and both gradients of a linear map in every form, against float64 on the host; also of weights
    that lie transposed.
    """
    r = np.random.default_rng(rows)
    x, w, b, g = (
        r.normal(size=size) for size in ((rows, inputs), (inputs, outputs), (outputs,), (rows, outputs))
    )
    kernel = kernels.lookup(kernels.Linear, cupy_backend)
    for weight in (buffer(cupy_backend, w), buffer(cupy_backend, w.T).transpose(0, 1)):
        with autocast(form):
            y, saved = kernel.forward(buffer(cupy_backend, x), weight, buffer(cupy_backend, b))
        later: Any = kernel.backward(saved, buffer(cupy_backend, g))
        of_x, of_w, of_b = (gradient() for gradient in later)
        for got, expected in ((y, x @ w + b), (of_x, g @ w.T), (of_w, x.T @ g), (of_b, g.sum(0))):
            found = np.array(got.to_array()).reshape(got.shape)
            assert np.max(np.abs(found - expected)) <= ROUNDING[form] * max(np.max(np.abs(expected)), 1.0) * 2


@pytest.mark.parametrize("form", ["float32", *LOW])
@pytest.mark.parametrize("name", ["bias", "gelu", "gelu with bias", "gelu_gradient", "column_sums"])
def test_epilogues(cupy_backend: Any, form: str, name: str) -> None:
    """What cuBLASLt does to a product, where it grants that for the format, is what our kernels do."""
    from tinygpt_accel.cuda_backend.buffer import Epilogue

    r = np.random.default_rng(5)
    dtype = cupy_backend([1.0]).dtype
    x, w, row, before = (
        buffer(cupy_backend, r.normal(size=size)) for size in ((96, 64), (64, 128), (128,), (96, 128))
    )
    a, b, vector, auxiliary = (each.in_format(form).copy() for each in (x, w, row, before))
    out = cupy_backend.xp.empty((96, 128), a.dtype)
    if name == "column_sums":
        vector = cupy_backend.xp.empty(128, "float32")
        out = cupy_backend.xp.empty((96, 128), "float32")
    given_vector = vector if name in ("bias", "gelu with bias", "column_sums") else None
    given_auxiliary = auxiliary if "gelu" in name else None
    epilogue = Epilogue(name.removesuffix(" with bias"), given_vector, given_auxiliary)
    if not cupy_backend.product(a, b, out, False, epilogue):
        pytest.skip(f"cuBLASLt knows no way for {name} in {form}")

    def numbers(array: Any) -> np.ndarray:
        wide = cupy_backend.wrap(array, dtype)
        return np.array(wide.to_array()).reshape(array.shape).astype(np.float64)

    product = numbers(a) @ numbers(b)
    if name == "column_sums":
        assert np.allclose(numbers(vector), numbers(b).sum(0), rtol=1e-2, atol=ROUNDING[form] * 64)
    if name in ("bias", "gelu with bias"):
        product = product + numbers(vector)
    share = 1 / (1 + np.exp(-2 * 0.7978845608 * (product + 0.044715 * product**3)))
    if name.startswith("gelu") and name != "gelu_gradient":
        assert np.max(np.abs(numbers(auxiliary) - product)) <= 4 * ROUNDING[form] * np.max(np.abs(product))
        product = product * share
    elif name == "gelu_gradient":
        z = numbers(auxiliary)
        share = 1 / (1 + np.exp(-2 * 0.7978845608 * (z + 0.044715 * z**3)))
        product = product * (share + 2 * z * share * (1 - share) * 0.7978845608 * (1 + 0.134145 * z * z))
    assert np.max(np.abs(numbers(out) - product)) <= 4 * max(ROUNDING[form], 1e-3) * np.max(np.abs(product))


@pytest.mark.parametrize("form", LOW)
@pytest.mark.parametrize("causal", [True, False])
def test_flash_attention_is_attention(cupy_backend: Any, form: str, causal: bool) -> None:
    """cuDNN's, where it is installed, and ours by batched products: results and gradients to the roundings of
    the form.
    """
    from tinygpt_accel.cuda_backend.kernels import flash_attention
    from tinygpt_accel.cuda_backend.kernels.batched_attention import Batched, empty_like_heads

    r = np.random.default_rng(1)
    packed = buffer(cupy_backend, r.normal(size=(2, 128, 3, 4, 64)))
    heads = [packed[:, :, i].permute((0, 2, 1, 3)).in_format(form) for i in range(3)]
    grad = buffer(cupy_backend, r.normal(size=(2, 4, 128, 64))).in_format(form)
    if flash_attention.why_not():
        pytest.skip(flash_attention.why_not())
    assert flash_attention.can(cupy_backend, form, heads[0], heads[1], causal)
    found = []
    for implementation in (flash_attention, Batched):
        y, state = implementation.forward(cupy_backend, *heads, causal, 0.125, False)
        gradients = [empty_like_heads(cupy_backend, x) for x in heads]
        implementation.backward(cupy_backend, *heads, y, grad, causal, 0.125, False, state, gradients)
        buffers = [cupy_backend.wrap(x, packed.dtype) for x in (y, *gradients)]
        found.append([np.array(each.to_array()) for each in buffers])
    assert flash_attention.refused == []
    for one, other in zip(*found, strict=True):
        assert np.max(np.abs(one - other)) <= 4 * ROUNDING[form] * np.max(np.abs(other))


CONFIG = GPTConfig(vocab_size=61, context_length=32, num_layers=2, num_heads=2, embedding_dim=64, dropout=0.1)


def losses(
    kind: str,
    dtype: str,
    count: int,
    step: Any = None,
    graph: bool = True,
    between: Any = None,
    config: GPTConfig = CONFIG,
) -> tuple[list[float], Any, Any]:
    """Losses of a small model in training, its weights and its step; `between(model)` is called between two
    steps.
    """
    os.environ["TINYGPT_CUDA_GRAPH"] = str(int(graph))
    with backends.use(kind):
        random.seed(5)
        model = GPT(config)
        ids = [int(i) for i in np.random.default_rng(2).integers(0, 61, size=2000)]
        batches = StreamBatches(TokenStream(ids, 61), 32, 4, random.Generator(4))

        def total_loss(batch: Any) -> Tensor:
            inputs, targets = as_tensors(batch)
            with autocast(dtype):
                return CrossEntropyLoss()(logits=model(inputs), labels=targets).sum()

        made = (step or training_step)(model, AdamW(model, 1e-3), total_loss, 1.0, dtype)
        found = []
        for _ in range(count):
            found.append(made([batches.next_batch(), batches.next_batch()]))
            if between is not None:
                between(model)
        return (
            found,
            np.concatenate([np.array(p.buffer.to_array()) for _, p in model.named_parameters()]),
            made,
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_graph_replays_the_step(dtype: str) -> None:
    """Bit for bit what is launched piece by piece, dropout included."""
    launched, weights, _ = losses("cupy", dtype, 12, graph=False)
    replayed, other, step = losses("cupy", dtype, 12)
    assert step.reason == "" and step.recording is not None
    assert launched == replayed and np.array_equal(weights, other)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_what_runs_between_two_replays_changes_nothing(positions: str) -> None:
    """A validation in 16 bits and a text of many lengths, which fill the pools, the caches of copies and
    those of angles.
    """

    def between(model: GPT) -> None:
        model.eval()
        kept = random.default_generator().position
        with no_grad(), autocast("bfloat16"):
            for length in range(1, 32):
                model(Tensor(cupy_ids(np.zeros((2, length), np.int32)))).sum().item()
        random.default_generator().position = kept
        model.train()

    config = replace(CONFIG, positions=positions)
    expected, weights, _ = losses("cupy", "bfloat16", 10, config=config, graph=False)
    found, other, step = losses("cupy", "bfloat16", 10, config=config, between=between)
    assert step.reason == "" and step.recording is not None
    assert found == expected and np.array_equal(weights, other)


def test_the_step_is_that_of_the_host() -> None:
    """Losses from the same weights, data and dropout masks as on NumPy; in 16 bits to their noise."""
    expected, _, _ = losses("numpy", "float32", 10)
    assert np.allclose(losses("cupy", "float32", 10)[0], expected, rtol=1e-4)
    assert np.allclose(losses("cupy", "float32", 10, step=TrainingStep)[0], expected, rtol=1e-4)
    for dtype in ("tf32", *LOW):
        assert np.allclose(losses("cupy", dtype, 10)[0], expected, rtol=0.02)


def test_a_run_moves_between_backends(tmp_path: Path) -> None:
    """Trained on the GPU in bfloat16, resumed on the CPU in float32, and back: the checkpoint is the same
    kind of thing.
    """
    config = replace(PRESETS["debug"][1], backend="cupy", dtype="bfloat16", steps=4)
    trainer = Trainer.start(config, str(tmp_path / "run"))
    list(trainer.run())
    for backend, dtype, steps in (("numpy", "float32", 6), ("cupy", "bfloat16", 8)):
        again = Trainer.resume(trainer.directory, backend=backend, dtype=dtype, steps=steps)
        list(again.run())
        assert again.step == steps
    model = again.model.to("numpy")
    assert {p.buffer.backend for _, p in model.named_parameters()} == {"numpy"}


def test_memory_is_reported_and_too_much_is_an_error(cupy_backend: Any) -> None:
    """The peak grows with what is allocated; asking for more than there is raises a MemoryError."""
    free, total = cupy_backend.memory()
    assert 0 < free <= total and cupy_backend.peak_memory() >= 0
    with pytest.raises(MemoryError):
        cupy_backend.zeros((total,), cupy_backend([1.0]).dtype)


def test_against_pytorch() -> None:
    """Loss and gradients of a GPT from the same weights, in float32, where PyTorch with CUDA is installed."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU")
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import pytorch_gpt

    config = replace(CONFIG, dropout=0.0)
    with backends.use("cupy"):
        random.seed(1)
        model = GPT(config)
        ids = np.random.default_rng(0).integers(0, 61, size=(3, 33)).astype(np.int32)
        inputs, targets = (Tensor(cast) for cast in (cupy_ids(ids[:, :-1]), cupy_ids(ids[:, 1:])))
        loss = CrossEntropyLoss()(logits=model(inputs), labels=targets).mean()
        loss.backward()
        named = {name: p.buffer for name, p in model.named_parameters()}
        ours = {
            name: np.array(p.grad.buffer.to_array())
            for name, p in model.named_parameters()
            if p.grad is not None
        }
    theirs = pytorch_gpt.GPT(config)
    theirs.load_tinygpt(named)
    theirs = theirs.cuda()
    expected = theirs.loss(torch.tensor(ids[:, :-1]).cuda().long(), torch.tensor(ids[:, 1:]).cuda().long())
    expected.backward()
    assert abs(loss.item() - expected.item()) < 1e-4
    norm = np.sqrt(sum(float(np.sum(g.astype(np.float64) ** 2)) for g in ours.values()))
    reference = np.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in theirs.parameters()))
    assert abs(norm - reference) < 1e-3 * reference


def cupy_ids(ids: Any) -> Any:
    """Ids as an int32 Buffer on the active backend."""
    return backends.active()(np.ascontiguousarray(ids))
