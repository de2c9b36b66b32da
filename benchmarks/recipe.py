"""The recipe of today, taken apart: what each part is worth on Shakespeare, by tokens and by the clock.

    python benchmarks/recipe.py --data tinyshakespeare.txt [--steps 600] [--only base,muon] [--json FILE]

Needs numpy. Every variant is the run of the preset `nanogpt-cpu` with a few settings changed, by the
library's own `Trainer`: 4 layers, 4 heads, 128 wide, length 64, batch 12. Two comparisons:

*   at equal tokens: each variant makes the same number of steps, on the same batches;
*   at equal time (`--time`): each trains for as long as the first took for its steps, by the clock of
    `train --until`, so that a step that costs more is made less often.

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
from dataclasses import replace
from typing import Any, NamedTuple

import pairing  # beside this file; puts the repository on sys.path
from training_sides import EVERYTHING, add_shakespeare, describe, shakespeare

from tinygpt_core import training

MUON: dict[str, Any] = {"optimizer": "muon", "learning_rate": 4e-3, "minimum_learning_rate": 2e-4}
BLOCKS: dict[str, Any] = {"activation": "relu2", "query_key_norm": True}
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
    "muon": MUON,
    "muon, wsd": {**MUON, "schedule": "wsd"},
    "muon, ema": {**MUON, "ema_decay": 0.99},
    "muon, wsd, rotary": {**MUON, "schedule": "wsd", "positions": "rotary"},
    "muon, wsd, rotary, relu2, query/key norm": {**MUON, **BLOCKS, "schedule": "wsd", "positions": "rotary"},
}
"""By their names, the settings of each that differ from those of the preset."""


class Outcome(NamedTuple):
    """What came of a variant."""

    loss: float
    steps: int
    seconds: float


def outcome(config: training.TrainingConfig) -> Outcome:
    """Trains by these settings, and returns the loss over the whole validation part, the number of steps, and
    the time that they took: without the validation.
    """
    with tempfile.TemporaryDirectory() as directory:
        trainer = training.Trainer.start(config, os.path.join(directory, "run"))
        seconds = sum(event.seconds for event in trainer.run() if isinstance(event, training.StepEvent))
        return Outcome(trainer.validate(), trainer.step, seconds)


def measure(
    base: training.TrainingConfig, names: list[str], seeds: int, seconds: float | None = None
) -> dict[str, list[Outcome]]:
    """Returns the outcomes of each variant, one a seed.

    Args:
        base: the settings that they change.
        names: of the variants.
        seeds: how many runs of each.
        seconds: how long each trains, in place of the number of steps.
    """
    found: dict[str, list[Outcome]] = {}
    for name in names:
        config = replace(base, **VARIANTS[name])
        if seconds is not None:
            config = replace(config, time_budget=seconds, steps=2**31)
        found[name] = [outcome(replace(config, seed=base.seed + number)) for number in range(seeds)]
        last = found[name][-1]
        print(f"{name}: {last.loss:.3f} in {last.seconds:.0f} s", file=sys.stderr, flush=True)
    return found


def rows(found: dict[str, list[Outcome]]) -> list[list[str]]:
    """Returns a row of the table for each variant: its means over the seeds, and how far they lie from those
    of the first.
    """
    means = {name: sum(each.loss for each in outcomes) / len(outcomes) for name, outcomes in found.items()}
    first = next(iter(means.values()))
    result = []
    for name, outcomes in found.items():
        steps = sum(each.steps for each in outcomes) / len(outcomes)
        seconds = sum(each.seconds for each in outcomes) / len(outcomes)
        result.append(
            [
                name,
                f"{means[name]:.3f}",
                f"{means[name] - first:+.3f}",
                f"{steps:.0f}",
                f"{seconds:.0f}",
                f"{1e3 * seconds / max(1.0, steps):.1f}",
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
    parser.add_argument("--time", action="store_true", help="compare at equal time, too (default: by tokens)")
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
        base = replace(base, num_layers=1, num_heads=2, embedding_dim=8, context_length=8, batch_size=2)
    if arguments.steps:
        base = replace(base, steps=arguments.steps)
    print(
        f"{pairing.machine('numpy')}, {arguments.threads} threads\n{base.steps} steps of {describe(base)}\n"
    )
    head = ["variant", "validation loss", "to the first", "steps", "seconds", "ms a step"]
    outcome(replace(base, steps=2))  # what only the first run waits for
    by_tokens = measure(base, names, arguments.seeds)
    print(f"At equal tokens:\n\n{pairing.table(head, rows(by_tokens))}\n")
    by_time: dict[str, list[Outcome]] = {}
    if arguments.time:
        seconds = by_tokens[names[0]][0].seconds
        by_time = measure(base, names, arguments.seeds, seconds)
        print(f"At equal time, {seconds:.0f} s:\n\n{pairing.table(head, rows(by_time))}\n")
    pairing.write_json(arguments.json, {"tokens": by_tokens, "time": by_time})
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
