"""A training step of the MNIST CNN on the NumPy backend against the same CNN in PyTorch (eager, CPU), side by
side.

    python benchmarks/cnn_cpu.py [--turns 8] [--batch 64] [--threads 2] [--check]

Needs numpy and torch. Both start from the same weights and see the same images; the sides take turns in
processes of their own (see pairing.py). The promise: at most PyTorch's time, and losses that differ by no
more than rounding.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from typing import Any

import pairing  # beside this file; puts the repository on sys.path
from training_sides import Step

from tinygpt_core import backends, random
from tinygpt_core.buffer import Buffer
from tinygpt_core.files.safetensors import load_safetensors, save_safetensors
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.optimizers import AdamW
from tinygpt_core.tensor import Tensor

LIMIT, TOLERANCE = 1.0, 1e-3
OURS, EAGER = "tinygpt, numpy", "PyTorch eager"


class Task:
    """Writes the weights, images and labels that both sides begin with."""

    def __init__(self, path: str, batch: int) -> None:
        from mnist import cnn

        random.seed(1)
        tensors = {
            f"{i:02} {name}": tensor.buffer for i, (name, tensor) in enumerate(cnn().named_parameters())
        }
        tensors["images"] = Buffer.normal((batch, 1, 28, 28))
        save_safetensors(path, tensors)


class Side:
    """Steps of training on one batch, timed."""

    def steps(self, count: int) -> list[Step]:
        """Makes `count` updates and says how long each took, and its loss."""
        results = []
        for _ in range(count):
            wall, processor = time.perf_counter(), time.process_time()
            loss = self.step()
            results.append(Step(time.perf_counter() - wall, loss, time.process_time() - processor))
        return results

    def step(self) -> float:
        """Makes one update; returns the loss before it."""
        raise NotImplementedError


class TinyGPT(Side):
    """The network of benchmarks/mnist.py."""

    def __init__(self, path: str) -> None:
        from mnist import cnn

        backends.use("numpy")
        tensors = load_safetensors(path)
        self.images = Tensor(Buffer(tensors.pop("images")))
        self.labels = Tensor([i % 10 for i in range(self.images.shape[0])])
        self.model = cnn()
        self.model.load_weights([(name[3:], tensor) for name, tensor in tensors.items()])
        self.criterion, self.optimizer = (
            CrossEntropyLoss(),
            AdamW(self.model, learning_rate=1e-3, weight_decay=0.0),
        )

    def step(self) -> float:
        """Makes one update and returns the loss before it."""
        self.optimizer.zero_grad()
        loss = self.criterion(logits=self.model(self.images), labels=self.labels).mean()
        loss.backward()
        self.optimizer.update()
        return float(loss.item())


class PyTorch(Side):
    """The same network."""

    def __init__(self, path: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch, nn = torch, torch.nn
        values = {name: torch.tensor(tensor.to_python()) for name, tensor in load_safetensors(path).items()}
        self.images = values.pop("images")
        self.labels = torch.tensor([i % 10 for i in range(len(self.images))])
        self.model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 10),
        )
        with torch.no_grad():
            for parameter, name in zip(self.model.parameters(), sorted(values), strict=True):
                value = values[name]
                # PyTorch keeps linear weights as (out, in)
                parameter.copy_(value.T if value.ndim == 2 else value)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.0)

    def step(self) -> float:
        """Makes one update and returns the loss before it."""
        self.optimizer.zero_grad()
        loss = self.torch.nn.functional.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        return float(loss.item())


def main() -> int:
    """Prints a Markdown table; returns 1 where --check finds a missed promise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=8, help="turns of each side (default: 8)")
    parser.add_argument("--steps", type=int, default=30, help="counted steps in a turn (default: 30)")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch (default: 64)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each library (default: 2)")
    parser.add_argument("--json", metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a promise is missed")
    arguments = parser.parse_args()
    pairing.limit_threads(arguments.threads)
    print(f"{pairing.machine('numpy', 'torch')}\n")
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "task.safetensors")
        pairing.Worker(Task, path, arguments.batch).close()
        sides: dict[str, Any] = {
            EAGER: pairing.Worker(PyTorch, path, arguments.threads),
            OURS: pairing.Worker(TinyGPT, path),
        }
        try:
            turns = pairing.alternate(sides, arguments.turns, arguments.steps)
        finally:
            for worker in sides.values():
                worker.close()
    seconds = {side: [[step.seconds for step in turn] for turn in turns[side]] for side in sides}
    rows = []
    for side in sides:
        processor, _ = pairing.milliseconds(step.processor_seconds for turn in turns[side] for step in turn)
        ratio = pairing.paired_ratio(seconds[side], seconds[EAGER])
        rows.append([side, *pairing.milliseconds(pairing.flat(seconds[side])), f"{ratio:.3f}", processor])
    print(pairing.table(["side", "median ms a step", "quartiles", "of pairs", "processor ms"], rows))
    promises = pairing.Promises()
    ratio = pairing.paired_ratio(seconds[OURS], seconds[EAGER])
    promises.say(ratio <= LIMIT, f"{ratio:.3f} of PyTorch eager's time (at most {LIMIT:.2f})")
    losses = [[step.value for turn in turns[side] for step in turn] for side in (OURS, EAGER)]
    difference = max(abs(a - b) for a, b in zip(*losses, strict=True))
    promises.say(
        difference <= TOLERANCE, f"the losses differ by at most {difference:.1e} (limit {TOLERANCE:.0e})"
    )
    pairing.write_json(arguments.json, {"seconds": seconds, "losses": losses, "ratio": ratio})
    return int(arguments.check and promises.missed)


if __name__ == "__main__":
    sys.exit(main())
