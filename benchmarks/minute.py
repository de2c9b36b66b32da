"""The default runs, of a minute or two on one core: how good they are on all validation names, and what each
part adds.

    python benchmarks/minute.py [--backend python] [--variant "GPT alone"] [--seeds 1337 1 2] [--check]
                                [--json]

Each variant is the run of `tinygpt train` on a backend (preset `identifiers` or `identifiers-fast`) with a
change, a seed at a time; the loss is that on all names that are held out, in nats a letter, and the time is
that of the whole run, the validations and the ladder included, in seconds of processor time and by the clock.

The default model adds what it learns to what counting says, as far as it trusts that. "trusted everywhere"
takes counting as it is at each position; "without blocks" has no attention and no MLP, so that what is added
depends on the last letter alone; "own occurrence counted" learns from counts that contain the answer. The
variants "GPT alone", "with tables" and "tables alone" have no counting, and the steps and rates that suit
them: the GPT, the same with tables of hashed n-grams in which it looks up vectors ("one table", "two tables",
... with the first of these only), and the tables without any blocks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pairing  # beside this file; puts the repository on sys.path

from tinygpt_core import backends, no_grad
from tinygpt_core.dtype import DType
from tinygpt_core.nn import GPT, NgramPrior
from tinygpt_core.training import Trainer, TrainingConfig
from tinygpt_core.training.presets import PRESETS, default_preset

ALL_NAMES = 10_000  # validation batches, more than there are
TARGETS = {"python": 1.72, "numpy": 1.65}  # nats a letter, whatever counting reaches
MOST_SECONDS = 75
TABLES = (4096, 16384, 32768, 65536, 65536)  # rows for the last two, three, ... letters
SMALL = {"steps": 1100, "learning_rate": 0.015, "minimum_learning_rate": 0.0007}
LARGE = {"steps": 400, "learning_rate": 0.002, "dropout": 0.0}
ADAMW = {"optimizer": "adamw", "weight_decay": 0.0, "beta2": TrainingConfig().beta2}
# By preset: what suits a model without counting
WITHOUT_COUNTING = {"identifiers": SMALL, "identifiers-fast": LARGE | ADAMW}


class Variant(NamedTuple):
    """What is changed: settings of the run, and the model before its first step."""

    settings: Callable[[TrainingConfig], TrainingConfig] = lambda config: config
    model: Callable[[GPT], None] = lambda model: None


class NothingLeftOut(NgramPrior):
    """Predicts in training, too, with all that was counted."""

    def _row(self, context: Sequence[int], target: int | None, dtype: DType) -> array[float]:
        return super()._row(context, None, dtype)


def with_settings(**changes: Any) -> Variant:
    """Returns the default run with other settings."""
    return Variant(lambda config: replace(config, **changes))


def with_tables(count: int, model: Callable[[GPT], None] = lambda model: None) -> Variant:
    """Returns a run without counting, with so many tables of n-grams."""

    def settings(config: TrainingConfig) -> TrainingConfig:
        changes = {"ngram_prior": 0, "ngram_tables": TABLES[:count], **WITHOUT_COUNTING[config.preset]}
        return replace(config, **changes)

    return Variant(settings, model)


def count_all(model: GPT) -> None:
    """Leaves a position's own occurrence in the counts."""
    model.ngram_prior.__class__ = NothingLeftOut


def trust_everywhere(model: GPT) -> None:
    """Holds the confidence at 1."""
    confidence = model.ngram_prior.confidence
    with no_grad():
        confidence.bias.assign(confidence.bias + 1.0)  # it begins at 0
    confidence.freeze()


def without_blocks(model: GPT) -> None:
    """Takes the blocks away."""
    model.transformer_blocks.clear()


VARIANTS = {
    "default": Variant(),
    "trusted everywhere": Variant(model=trust_everywhere),
    "without blocks": Variant(model=without_blocks),
    "own occurrence counted": Variant(model=count_all),
    "GPT alone": with_tables(0),
    "with tables": with_tables(len(TABLES)),
    "tables alone": with_tables(len(TABLES), without_blocks),
    "one table": with_tables(1),
    "two tables": with_tables(2),
    "three tables": with_tables(3),
    "four tables": with_tables(4),
    "weight decay": with_settings(weight_decay=0.1),
    "average of weights": with_settings(ema_decay=0.99),
    "Muon": with_settings(optimizer="muon"),
    "WSD": with_settings(schedule="wsd"),
}


class Result(NamedTuple):
    """What became of one run."""

    nats: float
    processor_seconds: float
    seconds: float
    parameters: int
    ladder: dict[str, float]


def run(backend: str, variant: str, seed: int, **changes: Any) -> Result:
    """Trains once and returns how good the model is on all validation names, and how long it took."""
    config = PRESETS[default_preset(backend)].config
    config = replace(config, backend=backend, seed=seed, eval_batches=ALL_NAMES)
    started = time.perf_counter()
    started_processor = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer.start(replace(VARIANTS[variant].settings(config), **changes), folder)
        VARIANTS[variant].model(trainer.model)
        for _ in trainer.run():
            pass
        nats = trainer.validated.val_loss if trainer.validated else trainer.validate()
        ladder = trainer.ladder()
    return Result(
        nats,
        time.process_time() - started_processor,
        time.perf_counter() - started,
        trainer.model.num_parameters(),
        ladder,
    )


def main() -> int:
    """Prints a Markdown table, or JSON; returns 1 where --check finds a missed promise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--backend", action="append", choices=TARGETS, help="may be given twice (default: those that can run)"
    )
    parser.add_argument(
        "--variant", action="append", choices=VARIANTS, help="may be given more than once (default: default)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1337, 1, 2], help="(default: 1337 1 2)")
    parser.add_argument("--steps", type=int, help="updates (default: the preset's)")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a promise is missed")
    parser.add_argument("--json", action="store_true", help="print JSON, and judge nothing")
    arguments = parser.parse_args()
    names = arguments.backend or [name for name in TARGETS if not backends.why_not(name)]
    changes = {} if arguments.steps is None else {"steps": arguments.steps}
    found = {
        (name, variant): [run(name, variant, seed, **changes) for seed in arguments.seeds]
        for name in names
        for variant in arguments.variant or ["default"]
    }
    if arguments.json:
        print(json.dumps([[*key, [result._asdict() for result in each]] for key, each in found.items()]))
        return 0
    print(
        f"the default runs, seeds {', '.join(map(str, arguments.seeds))}, Python {sys.version.split()[0]}\n"
    )
    print("| backend | variant | parameters | nats a letter (median; all) | processor s | clock s |")
    print("|---|---|---|---|---|---|")
    for (name, variant), each in found.items():
        every = ", ".join(f"{result.nats:.3f}" for result in each)
        median, processor, clock = (
            statistics.median(getattr(result, what) for result in each)
            for what in ("nats", "processor_seconds", "seconds")
        )
        print(
            f"| {name} | {variant} | {each[0].parameters:,} | **{median:.3f}** ({every}) "
            f"| {processor:.0f} | {clock:.0f} |"
        )
    print("\nThe ladder on the same names: ", end="")
    ladder = next(iter(found.values()))[0].ladder
    print(", ".join(f"{name} {nats:.3f}" for name, nats in ladder.items()), end="\n\n")
    best, least = min(ladder.items(), key=lambda rung: rung[1])
    promises = pairing.Promises()
    for (name, variant), each in found.items():
        if variant != "default":
            continue
        worst = max(result.nats for result in each)
        promises.say(worst < least, f"{name}: {worst:.3f} at most, below counting {best}, {least:.3f}")
        promises.say(worst <= TARGETS[name], f"{name}: {worst:.3f} at most ({TARGETS[name]:.2f} at most)")
        seconds = statistics.median(result.seconds for result in each)
        promises.say(seconds <= MOST_SECONDS, f"{name}: {seconds:.0f} s ({MOST_SECONDS} s at most)")
    return int(arguments.check and promises.missed)


if __name__ == "__main__":
    sys.exit(main())
