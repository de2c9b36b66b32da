"""TinyGPT's own example (vocab 1024, 6 layers, 4 heads, 16 wide, length 6, batch 16, Adam): a step, against a
scalar microgpt step.

    python benchmarks/tinygpt_example.py [--steps 20]

The seed takes 42 s for this step on the machine where a scalar microgpt step takes 0.26 s. Here both are
timed in one process, in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import microgpt  # beside this file; puts the repository on sys.path

from tinygpt_core import DType, Tensor, random, seed
from tinygpt_core.buffer import Buffer
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT
from tinygpt_core.optimizers import Adam

VOCABULARY, LENGTH, BATCH = 1024, 6, 16
LIMIT = 1.7


def random_ids(generator: random.Generator) -> Tensor:
    """Returns a batch of random ids."""
    ids = Buffer.uniform((BATCH, LENGTH), 0, VOCABULARY, DType.float64, generator)
    return Tensor(ids.cast(DType.int32))


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20, help="steps of each that are timed (default: 20)")
    parser.add_argument("--data", metavar="FILE", help="names, one a line, for the scalar step")
    arguments = parser.parse_args()

    seed(0)
    model = GPT(max_seq_length=LENGTH, vocab_size=VOCABULARY, num_layers=6, num_heads=4, embedding_dim=16)
    optimizer, loss_function = Adam(model, 1e-3), CrossEntropyLoss()
    generator = random.Generator(1)
    scalar = microgpt.ScalarModel(microgpt.initial_weights(1))
    names = microgpt.read_names(arguments.data)

    times = []
    for number in range(1, arguments.steps + 2):
        inputs, targets = random_ids(generator), random_ids(generator)
        start = time.perf_counter()
        optimizer.zero_grad()
        loss_function(logits=model(inputs), labels=targets).mean().backward()
        optimizer.update()
        middle = time.perf_counter()
        scalar.step(microgpt.token_ids(names[number]), number)
        times.append((middle - start, time.perf_counter() - middle))
    ours, theirs = (statistics.median(column) for column in zip(*times[1:], strict=True))
    ratio = statistics.median(a / b for a, b in times[1:])
    print(f"TinyGPT's example, {arguments.steps} steps, Python {sys.version.split()[0]}\n")
    print("| step | median seconds |\n|---|---|")
    print(
        f"| TinyGPT's example model through tinygpt_core | {ours:.3f} |\n| microgpt, scalar by scalar | "
        f"{theirs:.3f} |\n"
    )
    print(f"Ratio: **{ratio:.2f}** (limit {LIMIT}).")


if __name__ == "__main__":
    main()
