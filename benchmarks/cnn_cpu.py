"""A training step of the MNIST CNN on the NumPy backend against the same CNN in PyTorch (eager, CPU), side by side.

    python benchmarks/cnn_cpu.py [--pairs 30] [--batch 64] [--threads 2]

Both start from the same weights and see the same images; steps alternate (ours, theirs, ours, …), so that what else the machine does falls
on both. Prints the times, the ratio of the medians and how far the losses are apart; exits with 1 where these differ by more than rounding.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


def main() -> int:
    """Prints the report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30, help="steps of each that count (default 30, after 5 that do not)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    for library in ("OMP", "OPENBLAS", "MKL"):  # read when NumPy and PyTorch are imported
        os.environ[f"{library}_NUM_THREADS"] = str(options.threads)

    import torch
    from mnist import cnn

    from tinygpt_core import backends, random
    from tinygpt_core.buffer import Buffer
    from tinygpt_core.losses import CrossEntropyLoss
    from tinygpt_core.optimizers import AdamW
    from tinygpt_core.tensor import Tensor

    torch.set_num_threads(options.threads)
    random.seed(1)
    with backends.use("numpy"):
        model = cnn()
        layers = torch.nn
        theirs = layers.Sequential(
            layers.Conv2d(1, 16, 3, padding=1), layers.ReLU(), layers.MaxPool2d(2),
            layers.Conv2d(16, 32, 3, padding=1), layers.ReLU(), layers.MaxPool2d(2),
            layers.Flatten(), layers.Linear(32 * 7 * 7, 10),
        )  # fmt: skip
        with torch.no_grad():
            ours_flat = [torch.tensor(tensor.to_python()) for _, tensor in model.named_parameters()]
            for parameter, value in zip(theirs.parameters(), ours_flat, strict=True):
                parameter.copy_(value.T if value.ndim == 2 else value)  # PyTorch keeps linear weights as (out, in)
        images, labels = Buffer.normal((options.batch, 1, 28, 28)), [i % 10 for i in range(options.batch)]
        x, y = Tensor(images), Tensor(labels)
        their_x, their_y = torch.tensor(images.to_python()), torch.tensor(labels)
        loss_of, optimizer = CrossEntropyLoss(), AdamW(model, learning_rate=1e-3, weight_decay=0.0)
        their_optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=0.0)

        def step() -> float:
            loss = loss_of(model(x), y).mean()
            loss.backward()
            optimizer.update()
            optimizer.zero_grad()
            return loss.item()

        def their_step() -> float:
            loss = torch.nn.functional.cross_entropy(theirs(their_x), their_y)
            loss.backward()
            their_optimizer.step()
            their_optimizer.zero_grad()
            return loss.item()

        times: tuple[list[float], list[float]] = ([], [])
        apart = 0.0
        for pair in range(options.pairs + 5):
            losses = []
            for kept, run in zip(times, (step, their_step), strict=True):
                start = time.perf_counter()
                losses.append(run())
                if pair >= 5:
                    kept.append(time.perf_counter() - start)
            apart = max(apart, abs(losses[0] - losses[1]))
    ours, torchs = (statistics.median(kept) for kept in times)
    print(f"PyTorch {torch.__version__}, {options.threads} threads, batch {options.batch}, {options.pairs} pairs of steps")
    print(f"tinygpt on NumPy: median {ours * 1e3:.1f} ms, fastest {min(times[0]) * 1e3:.1f} ms")
    print(f"PyTorch eager:    median {torchs * 1e3:.1f} ms, fastest {min(times[1]) * 1e3:.1f} ms")
    print(f"ratio of medians: {ours / torchs:.2f} (goal: at most 1.0), of the fastest: {min(times[0]) / min(times[1]):.2f}")
    print(f"losses differ by at most {apart:.1e}")
    return 0 if apart < 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
