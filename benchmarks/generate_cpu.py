"""Sampling from the baby GPT on the CPU: tinygpt with its key/value cache against PyTorch with one, and
without.

    python benchmarks/generate_cpu.py [--tokens 500] [--check]

Needs numpy and torch. The same random weights on all sides, drawn five times as wide as a model starts with,
so that the text is no mere repetition. tinygpt samples through `tinygpt_core.generation.generate_ids`, which
is what `tinygpt generate` does. PyTorch with a cache has the same policy: a full cache is filled anew from
the last half of the context. PyTorch without one runs the last 256 tokens again for each new one, as
nanoGPT's `generate` does. The sides take turns in processes of their own (see pairing.py).

The check: decoded greedily, tinygpt and PyTorch with its cache give the same text, and so does PyTorch
without one up to the length of the context (from there on it sees other positions).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from typing import Any

import pairing  # beside this file; puts the repository on sys.path
from training_sides import SIZES, VOCABULARY, WeightsFile, build, describe

from tinygpt_core import backends, random
from tinygpt_core.files.safetensors import load_safetensors
from tinygpt_core.generation import generate_ids

OURS, CACHED, UNCACHED = "tinygpt, numpy, cached", "PyTorch eager, cached", "PyTorch eager, no cache"
SCALE, PROMPT = 5.0, [1, 2, 3, 5, 8, 13, 21, 34, 55]
TIMES = 5.0  # as fast as PyTorch without a cache


class Sampler:
    """A side: samples ids and says how long it took."""

    def texts(self, count: int, tokens: int, temperature: float) -> list[tuple[float, list[int]]]:
        """Returns seconds and ids, a pair a text."""
        results = []
        for _ in range(count):
            start = time.perf_counter()
            ids = list(self.generate(tokens, temperature))
            results.append((time.perf_counter() - start, ids))
        return results

    def generate(self, tokens: int, temperature: float) -> Any:
        """Returns an iterator over sampled ids."""
        raise NotImplementedError


class TinyGPT(Sampler):
    """tinygpt on a backend."""

    def __init__(self, config: Any, weights: str, backend: str) -> None:
        backends.use(backend)
        self.model = build(config)
        self.model.load_weights(weights)

    def generate(self, tokens: int, temperature: float) -> Any:
        """Yields the ids that are sampled, one after the other."""
        return generate_ids(
            self.model, PROMPT, tokens=tokens, temperature=temperature, generator=random.Generator(1)
        )


class PyTorch(Sampler):
    """PyTorch on the CPU, with its cache or without."""

    def __init__(self, config: Any, weights: str, threads: int, cached: bool) -> None:
        import pytorch_gpt
        import torch

        torch.set_num_threads(threads)
        model = pytorch_gpt.GPT(config.model_config(VOCABULARY)).eval()
        with backends.use("python"):
            model.load_tinygpt(load_safetensors(weights))
        self.sample = model.generate_cached if cached else model.generate

    def generate(self, tokens: int, temperature: float) -> Any:
        """Yields the ids that are sampled, one after the other."""
        return self.sample(PROMPT, tokens, temperature)


def main() -> int:
    """Prints a Markdown table; returns 1 where --check finds a missed promise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config",
        choices=list(SIZES),
        default="baby",
        help="which size; the promises are about baby (default: baby)",
    )
    parser.add_argument("--tokens", type=int, default=500, help="tokens in a text (default: 500)")
    parser.add_argument("--turns", type=int, default=5, help="texts of each side (default: 5)")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="of the sampling that is timed (default: 1)"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of each library (default: 2)")
    parser.add_argument("--json", metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a promise is missed")
    arguments = parser.parse_args()
    pairing.limit_threads(arguments.threads)
    config, tokens, threads = SIZES[arguments.config], arguments.tokens, arguments.threads
    with tempfile.TemporaryDirectory() as directory:
        weights = os.path.join(directory, "weights.safetensors")
        pairing.Worker(WeightsFile, config, weights, SCALE).close()
        sides = {
            CACHED: pairing.Worker(PyTorch, config, weights, threads, True),
            OURS: pairing.Worker(TinyGPT, config, weights, "numpy"),
            UNCACHED: pairing.Worker(PyTorch, config, weights, threads, False),
        }
        try:
            # Warms up too
            greedy = {name: side.call("texts", 1, tokens, 0.0)[0][1] for name, side in sides.items()}
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(arguments.turns):
                for name, side in sides.items():
                    time.sleep(pairing.PAUSE)
                    seconds[name].append(side.call("texts", 1, tokens, arguments.temperature)[0][0])
        finally:
            for side in sides.values():
                side.close()

    def times_faster(name: str) -> float:
        return statistics.median(
            theirs / ours for ours, theirs in zip(seconds[OURS], seconds[name], strict=True)
        )

    print(f"{pairing.machine('numpy', 'torch')}, {threads} threads each")
    print(
        f"{arguments.config}: {describe(config)}; {tokens} tokens after a prompt of {len(PROMPT)}, "
        f"{arguments.turns} texts of each side\n"
    )
    rows = []
    for name, values in seconds.items():
        low, middle, high = (tokens / value for value in pairing.quartiles(values))
        rows.append([name, f"{middle:.0f}", f"{high:.0f} to {low:.0f}", f"{times_faster(name):.2f}"])
    print(
        pairing.table(
            ["side", "median tokens/s", "quartiles", "tinygpt is faster by (median of pairs)"], rows
        )
        + "\n"
    )
    promises = pairing.Promises()
    promises.say(
        times_faster(CACHED) >= 1.0,
        f"{times_faster(CACHED):.2f} times PyTorch's tokens/s with a cache (at least 1)",
    )
    promises.say(
        times_faster(UNCACHED) >= TIMES,
        f"{times_faster(UNCACHED):.2f} times PyTorch's tokens/s without one (at least {TIMES:.0f})",
    )
    within = min(tokens, config.context_length - len(PROMPT) + 1)
    same = greedy[OURS] == greedy[CACHED] and greedy[OURS][:within] == greedy[UNCACHED][:within]
    promises.say(
        same, f"the greedy texts are the same ({len(set(greedy[OURS]))} kinds of tokens in {tokens})"
    )
    pairing.write_json(
        arguments.json, {"config": arguments.config, "tokens": tokens, "seconds": seconds, "greedy": greedy}
    )
    return int(arguments.check and promises.missed)


if __name__ == "__main__":
    sys.exit(main())
