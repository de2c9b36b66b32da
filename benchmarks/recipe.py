"""The recipe of today, taken apart: what each part is worth on Shakespeare, by tokens and by the clock.

    python benchmarks/recipe.py --data tinyshakespeare.txt [--steps 600] [--only base,muon] [--json FILE]
    python benchmarks/recipe.py --data tinyshakespeare.txt --time 1 --time 0.5 --only base,recipe

Needs numpy. Every variant is the run of the preset `nanogpt-cpu` with a few settings changed, by the
library's own `Trainer`: 4 layers, 4 heads, 128 wide, length 64, batch 12. `recipe` is the preset
`shakespeare-cpu`, and "recipe without ..." lacks one of its parts. Two comparisons:

*   at equal tokens: each variant makes the same number of steps, on the same batches;
*   at equal time (`--time SHARE`, in its place): each trains for a share of the time that the first takes for
    its steps, so that a step that costs more is made less often. What a step takes is measured before, in
    turns of a few steps, and gives each variant its number of steps, over which its rate falls. Then they
    train in turns, too, so that other work on the machine slows all of them, and both clocks are read: `wall`
    is what one waits for, and wants a machine that does nothing else; `--clock processor`, with `--threads
    1`, can be compared on a machine with other work, too.

The loss is the cross-entropy over the whole validation part, all its windows that do not overlap, in nats a
character: without label smoothing and z-loss, whatever was trained with. One seed each, unless `--seeds` says
more; two runs of one variant that differ in nothing but the seed lie about 0.01 apart, so smaller differences
say nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pairing  # beside this file; puts the repository on sys.path
from training_sides import EVERYTHING, add_shakespeare, describe, shakespeare

from tinygpt_core import training

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
TURNS = 20  # in which runs that are compared by the clock go on
ROUNDS, STEPS = 8, 5  # in which the time of a step is measured, and how many in each
MUON: dict[str, Any] = {"optimizer": "muon", "learning_rate": 4e-3, "minimum_learning_rate": 2e-4}
BLOCKS: dict[str, Any] = {"activation": "relu2", "query_key_norm": True}
RECIPE: dict[str, Any] = {
    name: value
    for name, value in training.PRESETS["shakespeare-cpu"].config.to_dict().items()
    if value != training.PRESETS["nanogpt-cpu"].config.to_dict().get(name) and name not in ("preset", "steps")
}
"""What the recommended preset changes."""
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "rotary": {"positions": "rotary"},
    "relu2": {"activation": "relu2"},
    "query/key norm": {"query_key_norm": True},
    "window of 32": {"sliding_window": 32},
    "logit soft cap": {"logit_soft_cap": 15.0},
    "wsd": {"schedule": "wsd"},
    "ema": {"ema_decay": 0.99},
    "label smoothing": {"label_smoothing": 0.05},
    "z-loss": {"z_loss": 1e-4},
    "value embeddings": {"value_embeddings": 2},
    "muon": MUON,
    "muon, wsd": {**MUON, "schedule": "wsd"},
    "muon, ema": {**MUON, "ema_decay": 0.99},
    "muon, wsd, rotary": {**MUON, "schedule": "wsd", "positions": "rotary"},
    "muon, wsd, rotary, relu2, query/key norm": {**MUON, **BLOCKS, "schedule": "wsd", "positions": "rotary"},
    "muon, wsd, rotary, relu2, query/key norm, value embeddings": {
        **MUON,
        **BLOCKS,
        "schedule": "wsd",
        "positions": "rotary",
        "value_embeddings": 2,
    },
    "recipe": RECIPE,
    "recipe without muon": {**RECIPE, "optimizer": "adamw", "learning_rate": 2e-3},
    "recipe without muon, twice the rate": {**RECIPE, "optimizer": "adamw"},
    "recipe without rotary": {**RECIPE, "positions": "learned"},
    "recipe without relu2": {**RECIPE, "activation": "gelu"},
    "recipe without query/key norm": {**RECIPE, "query_key_norm": False},
    "recipe without value embeddings": {**RECIPE, "value_embeddings": 0},
    "recipe without wsd": {**RECIPE, "schedule": "cosine"},
    "recipe with a short fall": {**RECIPE, "decay_fraction": 0.2},
}
"""By their names, the settings of each that differ from those of the preset."""


class Outcome(NamedTuple):
    """What came of a variant."""

    loss: float
    steps: int
    wall: float
    processor: float


class Run:
    """A variant that trains, and two clocks that count while it does."""

    def __init__(self, config: training.TrainingConfig, directory: str) -> None:
        self.trainer = training.Trainer.start(config, directory)
        self.seconds = dict.fromkeys(CLOCKS, 0.0)

    def go_on(self, steps: int) -> None:
        """Makes some updates."""
        before = {name: clock() for name, clock in CLOCKS.items()}
        for _ in range(steps):
            self.trainer.train_step()
        for name, clock in CLOCKS.items():
            self.seconds[name] += clock() - before[name]

    def outcome(self) -> Outcome:
        """Returns the loss over the whole validation part, and what it took."""
        return Outcome(self.trainer.validate(), self.trainer.step, **self.seconds)


Found = dict[str, list[Outcome]]
"""The outcomes of each variant, one a seed."""


def measure(base: training.TrainingConfig, names: list[str], seeds: int) -> Found:
    """Returns the outcomes of variants, one after the other, at equal tokens.

    Args:
        base: the settings that they change.
        names: of the variants.
        seeds: how many runs of each.
    """
    found: Found = {}
    for name in names:
        config = replace(base, **VARIANTS[name])
        found[name] = []
        for number in range(seeds):
            with tempfile.TemporaryDirectory() as directory:
                run = Run(replace(config, seed=base.seed + number), os.path.join(directory, "run"))
                run.go_on(config.steps)
                found[name].append(run.outcome())
        last = found[name][-1]
        print(f"{name}: {last.loss:.3f} in {last.processor:.0f} s", file=sys.stderr, flush=True)
    return found


def times_of_a_step(configs: dict[str, training.TrainingConfig], clock: str) -> dict[str, float]:
    """Returns the seconds of a step by a clock: the least of the means of a few steps, measured in turns."""
    least = dict.fromkeys(configs, float("inf"))
    with tempfile.TemporaryDirectory() as directory:
        runs = {name: Run(config, os.path.join(directory, name)) for name, config in _named(configs).items()}
        for turn in range(ROUNDS + 1):
            for name, run in zip(configs, runs.values(), strict=True):
                before = run.seconds[clock]
                run.go_on(STEPS)
                if turn:  # the first one warms up
                    least[name] = min(least[name], (run.seconds[clock] - before) / STEPS)
    return least


def race(base: training.TrainingConfig, names: list[str], seeds: int, share: float, clock: str) -> Found:
    """Returns the outcomes of variants that train in turns, each for a share of the first one's time.

    Args:
        base, names, seeds: as for `measure`.
        share: of the time that the first variant takes for the steps of `base`.
        clock: by which a step is measured.
    """
    configs = {name: replace(base, **VARIANTS[name]) for name in names}
    times = times_of_a_step(configs, clock)
    found: Found = {name: [] for name in names}
    for number in range(seeds):
        with tempfile.TemporaryDirectory() as directory:
            runs = {}
            for name, config in _named(configs).items():
                steps = max(1, round(share * base.steps * times[names[0]] / times[names[len(runs)]]))
                chosen = replace(config, steps=steps, seed=base.seed + number)
                runs[name] = Run(chosen, os.path.join(directory, name))
            for turn in range(1, TURNS + 1):
                for run in runs.values():
                    run.go_on(turn * run.trainer.config.steps // TURNS - run.trainer.step)
            for name, run in zip(names, runs.values(), strict=True):
                found[name].append(run.outcome())
                print(f"{name}: {found[name][-1]}", file=sys.stderr, flush=True)
    return found


def _named(configs: dict[str, training.TrainingConfig]) -> dict[str, training.TrainingConfig]:
    """Returns the settings by names that are good for a directory."""
    return {str(number): config for number, config in enumerate(configs.values())}


def rows(found: Found) -> list[list[str]]:
    """Returns a row of the table for each variant: its means over the seeds, and how far they lie from those
    of the first.
    """
    means = {name: sum(each.loss for each in outcomes) / len(outcomes) for name, outcomes in found.items()}
    first = next(iter(means.values()))
    result = []
    for name, outcomes in found.items():
        steps = sum(each.steps for each in outcomes) / len(outcomes)
        wall = sum(each.wall for each in outcomes) / len(outcomes)
        processor = sum(each.processor for each in outcomes) / len(outcomes)
        result.append(
            [
                name,
                f"{means[name]:.3f}",
                f"{means[name] - first:+.3f}",
                f"{steps:.0f}",
                f"{wall:.0f}",
                f"{processor:.0f}",
                f"{1e3 * processor / max(1.0, steps):.1f}",
            ]
        )
    return result


def main() -> int:
    """Prints a Markdown table for each comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_shakespeare(parser)
    parser.add_argument("--steps", type=int, help="updates of each (default: the preset's 2,000)")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each variant (default: 1)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the library (default: 2)")
    parser.add_argument("--only", metavar="NAMES", help="variants, with commas between them (default: all)")
    parser.add_argument(
        "--time",
        type=float,
        action="append",
        metavar="SHARE",
        help="compare at equal time, at this share of the first one's (default: at equal tokens)",
    )
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="for --time (default: wall)")
    parser.add_argument("--tiny", action="store_true", help="a model of the size of a test (default: no)")
    parser.add_argument("--json", metavar="FILE", help="write all figures to FILE")
    arguments = parser.parse_args()
    names = list(VARIANTS) if arguments.only is None else _split(arguments.only)
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        parser.error(f"unknown variant {unknown[0]!r}: known are {'; '.join(VARIANTS)}")
    pairing.limit_threads(arguments.threads)
    base = shakespeare(arguments.data)
    base = replace(base, eval_every=0, eval_batches=EVERYTHING, checkpoint_every=0)
    if arguments.tiny:
        base = replace(base, num_layers=2, num_heads=2, embedding_dim=8, context_length=8, batch_size=2)
    if arguments.steps:
        base = replace(base, steps=arguments.steps)
    print(
        f"{pairing.machine('numpy')}, {arguments.threads} threads\n{base.steps} steps of {describe(base)}\n"
    )
    head = [
        "variant",
        "validation loss",
        "to the first",
        "steps",
        "wall s",
        "processor s",
        "processor ms a step",
    ]
    results: dict[str, Found] = {}
    if not arguments.time:
        results["equal tokens"] = measure(base, names, arguments.seeds)
    for share in arguments.time or ():
        title = f"{share:g} of the time of the first, by the {arguments.clock} clock"
        results[title] = race(base, names, arguments.seeds, share, arguments.clock)
    for title, found in results.items():
        print(f"At {title}:\n\n{pairing.table(head, rows(found))}\n")
    pairing.write_json(arguments.json, results)
    return 0


def _split(text: str) -> list[str]:
    """Returns the names of variants in a text, the longest first where one has a comma of its own."""
    names = []
    while text:
        fitting = [name for name in VARIANTS if text == name or text.startswith(f"{name},")]
        name = max(fitting, key=len, default=text)
        names.append(name)
        text = text[len(name) + 1 :]
    return names


if __name__ == "__main__":
    sys.exit(main())
