"""Sampling with a draft: how much sooner texts come, and how many guesses are accepted.

    python benchmarks/speculative.py --data tinyshakespeare.txt [--steps 300] [--tokens 1000] [--json FILE]

Needs numpy. Trains two models on Shakespeare by characters with the library's own `Trainer`, on the same
batches: a target of 8 layers, 256 wide, otherwise as the preset `nanogpt-cpu` says, and a draft of 1 layer,
64 wide. Then both ways of sampling, `generate_ids` and `SpeculativeDecoding` with several numbers of guesses,
write the same number of tokens in turns, a few times each, and the medians of both clocks are printed. A run
of the target over several positions is compared with one over a single position, too: that they take about
the same is what the gain comes from.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pairing  # beside this file; puts the repository on sys.path
from training_sides import add_shakespeare, shakespeare

from tinygpt_core import backends, random, training
from tinygpt_core.dtype import DType
from tinygpt_core.generation import backend_of, generate_ids
from tinygpt_core.module import evaluating
from tinygpt_core.speculative import SpeculativeDecoding
from tinygpt_core.tensor import Tensor

ROUNDS = 5
GUESSES = (1, 2, 3, 4, 6, 8)
TARGET: dict[str, Any] = {"num_layers": 8, "embedding_dim": 256, "num_heads": 8, "learning_rate": 1e-3}
DRAFT: dict[str, Any] = {"num_layers": 1, "embedding_dim": 64, "num_heads": 2}


def trained(config: training.TrainingConfig) -> tuple[Any, Any, float]:
    """Returns a model that was trained by these settings, its tokenizer and its validation loss."""
    with tempfile.TemporaryDirectory() as directory:
        trainer = training.Trainer.start(config, os.path.join(directory, "run"))
        for _ in range(config.steps):
            trainer.train_step()
        return trainer.model, trainer.data.tokenizer, trainer.validate()


def clocked(work: Callable[[], object]) -> tuple[float, float]:
    """Returns the seconds that some work takes, by the wall clock and by the processor's."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def medians(sides: dict[Any, Callable[[], object]]) -> dict[Any, tuple[float, float]]:
    """Returns the medians of both clocks for each side; they work in turns, the first of which warms up."""
    found: dict[Any, list[tuple[float, float]]] = {side: [] for side in sides}
    for number in range(ROUNDS + 1):
        for side, work in sides.items():
            times = clocked(work)
            if number:
                found[side].append(times)
    return {
        side: (statistics.median(w for w, _ in t), statistics.median(p for _, p in t))
        for side, t in found.items()
    }


def run_over(model: Any, positions: int) -> Callable[[], None]:
    """Returns a function that runs a model over some positions after 32 others, a few times."""
    kind = backend_of(model)
    cache = model.new_cache()
    with evaluating():
        model(Tensor(kind([[1] * 32], DType.int32)), cache)
    ids = Tensor(kind([[1] * positions], DType.int32))

    def run() -> None:
        with evaluating():
            for _ in range(20):
                model(ids, cache)
                cache.rewind(32)

    return run


def main() -> int:
    """Prints two Markdown tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_shakespeare(parser)
    parser.add_argument("--steps", type=int, default=300, help="updates of each model (default: 300)")
    parser.add_argument("--tokens", type=int, default=1000, help="of each text (default: 1,000)")
    parser.add_argument("--temperature", type=float, default=0.8, help="of the sampling (default: 0.8)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the library (default: 2)")
    parser.add_argument("--tiny", action="store_true", help="models of the size of a test (default: no)")
    parser.add_argument("--json", metavar="FILE", help="write all figures to FILE")
    arguments = parser.parse_args()
    pairing.limit_threads(arguments.threads)
    base = replace(shakespeare(arguments.data), eval_every=0, checkpoint_every=0, steps=arguments.steps)
    if arguments.tiny:
        base = replace(base, batch_size=2)
    models = []
    for name, changes in (("target", TARGET), ("draft", DRAFT)):
        small = {"num_layers": 1, "embedding_dim": 8, "num_heads": 1} if arguments.tiny else {}
        config = replace(base, **{**changes, **small})
        model, tokenizer, loss = trained(config)
        models.append(model)
        count = sum(parameter.numel for _, parameter in model.named_parameters())
        print(f"{name}: {count:,} parameters, validation loss {loss:.3f}", file=sys.stderr, flush=True)
    target, draft = models
    prompt = tokenizer.encode("\n")
    samplers = {count: SpeculativeDecoding(draft, count) for count in GUESSES}

    def write(sampler: Callable[..., Any]) -> Callable[[], object]:
        options = {"tokens": arguments.tokens, "temperature": arguments.temperature}
        return lambda: list(sampler(target, prompt, generator=random.Generator(base.seed), **options))

    with backends.use("numpy"):
        by_positions = medians({count: run_over(target, count) for count in (1, 2, 3, 5, 9)})
        of_draft = medians({1: run_over(draft, 1)})[1]
        times = medians({0: write(generate_ids), **{count: write(each) for count, each in samplers.items()}})

    print(f"{pairing.machine('numpy')}, {arguments.threads} threads\n")
    head = ["a run over", "wall ms", "processor ms"]
    lines = [
        [f"{count} of the target", *(f"{50 * t:.2f}" for t in times_)]
        for count, times_ in by_positions.items()
    ]
    print(pairing.table(head, [*lines, ["1 of the draft", *(f"{50 * t:.2f}" for t in of_draft)]]), "\n")
    head = [
        "guesses at a time",
        "accepted",
        "tokens a run",
        "tokens/s",
        "times as fast",
        "by the processor's clock",
    ]
    lines = []
    for count, (wall, processor) in times.items():
        ratios = [f"{times[0][0] / wall:.2f}", f"{times[0][1] / processor:.2f}"]
        texts = ["", "1.00"]
        if count:
            sampler = samplers[count]
            share = sampler.accepted / max(1, sampler.drafted)
            texts = [f"{share:.0%}", f"{1 + sampler.accepted / sampler.runs:.2f}"]
        lines.append([str(count or "none"), *texts, f"{arguments.tokens / wall:,.0f}", *ratios])
    print(pairing.table(head, lines))
    figures = {
        str(count): {
            "seconds": times[count],
            "drafted": each.drafted,
            "accepted": each.accepted,
            "runs": each.runs,
        }
        for count, each in samplers.items()
    }
    pairing.write_json(arguments.json, {"none": {"seconds": times[0]}, **figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
