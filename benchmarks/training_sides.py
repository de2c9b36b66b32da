"""The two sides of the training benchmarks: a step of tinygpt on some backend, and the same step in PyTorch.

Both begin from the same weights (in a file, as whole models would count in the memory that is measured) and
see the same batches. A step is forward, backward, clipping to norm 1, AdamW. Batches are drawn and become
arrays before the clock starts.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pairing  # beside this file; puts the repository on sys.path

from tinygpt_core import Tensor, backends, no_grad, random
from tinygpt_core.dataset import Batch, StreamBatches, TokenStream
from tinygpt_core.dataset.corpora import load_corpus
from tinygpt_core.files.safetensors import load_safetensors, save_safetensors
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT
from tinygpt_core.optimizers import AdamW, clip_gradients
from tinygpt_core.training import PRESETS, TrainingConfig, as_tensors

VOCABULARY = 65  # of tinyshakespeare by characters
EVERYTHING = 2**20  # more validation batches than there are
# One learning rate for both, low enough for runs without a warm-up to stay together.
SIZES = {
    "nanogpt-cpu": replace(PRESETS["nanogpt-cpu"][1], learning_rate=1e-3),
    "baby": replace(PRESETS["baby"][1], dropout=0.0, batch_size=8),
}


def add_shakespeare(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--data`, of tinyshakespeare."""
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="tinyshakespeare (default: what the corpus `shakespeare` stands for, fetched once)",
    )


def shakespeare(data: str | None) -> TrainingConfig:
    """Returns the settings of nanoGPT's run on a CPU, on NumPy and the text that `--data` names.

    Raises:
        ValueError, OSError: it is no text, or cannot be read: before anything else begins.
    """
    data_file = os.path.abspath(data) if data else None
    load_corpus("shakespeare", data_file)
    return replace(PRESETS["nanogpt-cpu"].config, backend="numpy", data_file=data_file)


def describe(config: TrainingConfig) -> str:
    """Returns a model's size in words."""
    return (
        f"{config.num_layers} layers, {config.num_heads} heads, {config.embedding_dim} wide, length "
        f"{config.context_length}, "
        f"batch {config.batch_size}"
    )


def build(config: TrainingConfig) -> GPT:
    """Returns the model with its initial weights, on the active backend; the seed gives the same ones on
    every backend.
    """
    random.seed(config.seed)
    return GPT(config.model_config(VOCABULARY))


class WeightsFile:
    """Writes a model's initial weights to a file, scaled by a factor; a side of its own, so that its memory
    counts for nobody.
    """

    def __init__(self, config: TrainingConfig, path: str, scale: float = 1.0, backend: str = "numpy") -> None:
        with backends.use(backend), no_grad():
            model = build(config)
            named = {n: p * scale if p.ndim >= 2 else p for n, p in model.named_parameters()}
            save_safetensors(path, {name: parameter.buffer for name, parameter in named.items()})


def batches(config: TrainingConfig) -> Iterator[Batch]:
    """Yields random windows of a text that is always at hand, a source file of the core, with its bytes
    folded to 65 kinds.
    """
    text = (pairing.ROOT / "tinygpt_core" / "shape.py").read_bytes()
    stream = TokenStream([byte % VOCABULARY for byte in text], VOCABULARY)
    drawn = StreamBatches(
        stream, config.context_length, config.batch_size, random.Generator(config.seed, stream=1)
    )
    while True:
        yield drawn.next_batch()


class Step(NamedTuple):
    """What a step took: wall time, the loss (or what else the side says), and processor time over all
    threads.

    On a machine with other work, processor time with one thread still compares two sides where wall time does
    not.
    """

    seconds: float
    value: float
    processor_seconds: float


class Side:
    """What both sides share: the clock, the batches and the memory."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config, self.batches = config, batches(config)

    def steps(self, count: int) -> list[Step]:
        """Trains; a value is a loss."""
        results = []
        for _ in range(count):
            inputs, targets = self.prepare(next(self.batches))
            start, processor = time.perf_counter(), time.process_time()
            loss = self.step(inputs, targets)
            results.append(Step(time.perf_counter() - start, loss, time.process_time() - processor))
        return results

    def memory(self) -> tuple[int, int]:
        """Returns the most bytes this process ever had in memory, and how many it had before there was a
        model.
        """
        return pairing.peak_memory(), self.memory_before

    def prepare(self, batch: Batch) -> tuple[Any, Any]:
        """Returns a batch's inputs and targets as this side's arrays."""
        raise NotImplementedError

    def step(self, inputs: Any, targets: Any) -> float:
        """Makes one update; returns the loss before it."""
        raise NotImplementedError

    memory_before = 0


class TinyGPT(Side):
    """tinygpt on a backend, through the public interface that its `Trainer` uses too."""

    def __init__(self, config: TrainingConfig, backend: str, weights: str | None = None) -> None:
        super().__init__(config)
        backends.use(backend)
        self.memory_before = pairing.present_memory()
        self.model = build(config)
        if weights is not None:
            self.model.load_weights(weights)
        self.criterion = CrossEntropyLoss()
        self.optimizer = AdamW(
            self.model,
            config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )

    def prepare(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns the inputs and targets of a batch as Tensors."""
        return as_tensors(batch)

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        """Makes one update and returns the loss before it."""
        self.optimizer.zero_grad()
        loss = self.criterion(logits=self.model(inputs), labels=targets).mean()
        loss.backward()
        clip_gradients(self.model, self.config.gradient_clip)
        self.optimizer.update()
        return float(loss.item())

    def profile(self, count: int, lines: int = 25) -> str:
        """Returns what cProfile says about `count` steps."""
        import cProfile
        import io
        import pstats

        profiler, text = cProfile.Profile(), io.StringIO()
        profiler.runcall(self.steps, count)
        pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(lines)
        return text.getvalue().strip()


class PyTorch(Side):
    """PyTorch on the CPU, eager or compiled."""

    def __init__(self, config: TrainingConfig, weights: str, threads: int, compiled: bool = False) -> None:
        super().__init__(config)
        import pytorch_gpt
        import torch

        self.torch = torch
        torch.set_num_threads(threads)
        self.memory_before = pairing.present_memory()
        self.model = pytorch_gpt.GPT(config.model_config(VOCABULARY))
        with backends.use("python"):
            self.model.load_tinygpt(load_safetensors(weights))
        self.optimizer = pytorch_gpt.adamw(self.model, config)
        self.loss = torch.compile(self.model.loss) if compiled else self.model.loss

    def prepare(self, batch: Batch) -> tuple[Any, Any]:
        """Returns the inputs and targets of a batch as PyTorch's tensors."""
        return tuple(
            self.torch.frombuffer(ids, dtype=self.torch.int32).long().view(batch.shape)
            for ids in (batch.inputs, batch.targets)
        )

    def step(self, inputs: Any, targets: Any) -> float:
        """Makes one update and returns the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(inputs, targets)
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        return float(loss.item())


class Products:
    """The floor: the matrix products of a step alone, through `numpy.matmul(..., out=...)`, and nothing else.

    Forward `x W`, backward `dy W^T` and `x^T dy` for every linear map, and the six products of attention over
    the whole square (a causal kernel could leave out up to half of these).
    """

    def __init__(self, config: TrainingConfig) -> None:
        import numpy

        self.numpy = numpy
        width, heads, length, batch = (
            config.embedding_dim,
            config.num_heads,
            config.context_length,
            config.batch_size,
        )
        rows, head = batch * length, width // heads
        maps = [
            (width, 3 * width),
            (width, width),
            (width, 4 * width),
            (4 * width, width),
        ] * config.num_layers + [(width, VOCABULARY)]
        generator = numpy.random.default_rng(0)
        self.jobs: list[tuple[Any, Any, Any]] = []
        self.operations = 0

        def array(*shape: int) -> Any:
            return generator.standard_normal(shape, dtype=numpy.float32)

        def add(a: Any, b: Any) -> None:
            out = numpy.empty((*a.shape[:-1], b.shape[-1]), numpy.float32)
            self.jobs.append((a, b, out))
            self.operations += 2 * out.size * a.shape[-1]

        for inputs, outputs in maps:
            x, weight, grad = array(rows, inputs), array(inputs, outputs), array(rows, outputs)
            add(x, weight)
            add(grad, weight.T)
            add(x.T, grad)
        for _ in range(config.num_layers):
            query, key, value, grad = (array(batch, heads, length, head) for _ in range(4))
            square = array(batch, heads, length, length)
            add(query, key.swapaxes(-1, -2))  # scores
            add(square, value)  # probabilities times values
            add(grad, value.swapaxes(-1, -2))  # gradient of the probabilities
            add(square.swapaxes(-1, -2), grad)  # of the values
            add(square, key)  # of the queries
            add(square.swapaxes(-1, -2), query)  # of the keys

    def steps(self, count: int) -> list[Step]:
        """Does all products; a value is the number of floating-point operations."""
        results = []
        for _ in range(count):
            start, processor = time.perf_counter(), time.process_time()
            for a, b, out in self.jobs:
                self.numpy.matmul(a, b, out=out)
            results.append(
                Step(time.perf_counter() - start, float(self.operations), time.process_time() - processor)
            )
        return results
