"""Trains a small CNN on MNIST and measures its accuracy on images it has not seen.

    python benchmarks/mnist.py --data FOLDER [--backend numpy|python] [--train 8000] [--test 2000]
                              [--epochs 5] [--batch 64]

FOLDER holds MNIST's 10,000 test images (`t10k-…`, plain or gzip), which a fixed seed splits into 8,000 to
learn from and 2,000 to be tested on. Without --data they are fetched once. The python backend takes a subset,
1,500 and 500, for two epochs of smaller batches. Exits with 1 where the accuracy is below the goal, 97 % (90
% on the python backend), or the time above it, 3 minutes (5).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tinygpt_core import backends, nn, random  # noqa: E402
from tinygpt_core.buffer import Buffer  # noqa: E402
from tinygpt_core.dataset.images import load_mnist  # noqa: E402
from tinygpt_core.losses import CrossEntropyLoss  # noqa: E402
from tinygpt_core.optimizers import AdamW  # noqa: E402
from tinygpt_core.schedules import cosine_with_warmup  # noqa: E402
from tinygpt_core.tensor import Tensor, no_grad  # noqa: E402

LEARNING_RATE, SPLIT_SEED = 3e-3, 5
# backend -> images to learn from, images to be tested on, epochs, images a step, and the goal: accuracy and
# seconds
PLANS = {"python": (1_500, 500, 2, 16, 0.90, 300.0)}
DEFAULT_PLAN = (8_000, 2_000, 5, 64, 0.97, 180.0)


def cnn() -> nn.Sequential:
    """Two convolutions with pooling, then a linear layer: 20,490 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


def batch(images: Tensor, labels: Tensor, indices: list[int]) -> tuple[Tensor, Tensor]:
    """The images and labels with these numbers."""
    chosen = Tensor(Buffer(indices))
    return images.take(chosen), labels.take(chosen)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, indices: list[int]) -> float:
    """The part of these images whose most probable class is their label."""
    model.eval()
    right = 0
    with no_grad():
        for start in range(0, len(indices), 250):
            x, y = batch(images, labels, indices[start : start + 250])
            right += sum(a == b for a, b in zip(model(x).argmax(1).to_python(), y.to_python(), strict=True))
    model.train()
    return right / len(indices)


def main() -> int:
    """Trains, prints progress and the result; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder of the IDX files")
    parser.add_argument("--backend", default="numpy", help="where to train (default: numpy)")
    meanings = {
        "train": "images to train on",
        "test": "images to test on",
        "epochs": "times all images are seen",
        "batch": "images a step",
    }
    for name, meaning in meanings.items():
        parser.add_argument(f"--{name}", type=int, help=f"{meaning} (default: what suits the backend)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the weights and the order of the images (default: 1)"
    )
    options = parser.parse_args()
    plan = PLANS.get(options.backend, DEFAULT_PLAN)
    train_size, test_size, epochs, size = (
        getattr(options, name) or plan[i] for i, name in enumerate(("train", "test", "epochs", "batch"))
    )
    goal, limit = plan[4:]

    started = time.perf_counter()
    with backends.use(options.backend):
        images, labels = load_mnist("test", options.data)
        order = list(random.Generator(SPLIT_SEED).permutation(10_000))
        train, test = order[:8_000][:train_size], order[8_000:][:test_size]
        print(
            f"{options.backend}: {len(train):,} images to learn from, {len(test):,} to be tested on, "
            f"{epochs} epochs",
            flush=True,
        )
        random.seed(options.seed)
        model, loss_of = cnn(), CrossEntropyLoss()
        optimizer, shuffling = AdamW(model, learning_rate=LEARNING_RATE), random.Generator(options.seed)
        schedule, step = (
            cosine_with_warmup(LEARNING_RATE, total_steps=epochs * math.ceil(len(train) / size)),
            0,
        )
        for epoch in range(1, epochs + 1):
            shuffled, total = [train[i] for i in shuffling.permutation(len(train))], 0.0
            for start in range(0, len(train), size):
                x, y = batch(images, labels, shuffled[start : start + size])
                optimizer.learning_rate = schedule(step)
                loss = loss_of(model(x), y).mean()
                loss.backward()
                optimizer.update()
                optimizer.zero_grad()
                total, step = total + loss.item() * len(y), step + 1
            reached, seconds = accuracy(model, images, labels, test), time.perf_counter() - started
            print(
                f"epoch {epoch}: loss {total / len(train):.4f}, test accuracy {reached:.2%}, {seconds:.1f} s",
                flush=True,
            )
    print(
        f"{reached:.2%} in {seconds:.1f} s, {time.process_time():.1f} s of processor time (goal: "
        f"{goal:.0%} within {limit:.0f} s)"
    )
    return 0 if reached >= goal and seconds <= limit else 1


if __name__ == "__main__":
    sys.exit(main())
