"""The default runs, of a minute or two on one core: how good they are on all validation names, and what each
part adds.

    python benchmarks/minute.py [--backend python] [--variant "transformer alone"] [--seeds 1337 1 2] [--json]

Each variant is the run of `tinygpt train` on a backend (preset `identifiers` or `identifiers-fast`) with a
change, a seed at a time; the loss is that on all names that are held out, in nats a letter, and the time is
that of the whole run, the validations and the ladder included, in seconds of processor time and by the clock.
"transformer alone" is what the default run was before it had tables of n-grams; "memory alone" has the tables
and no transformer blocks, so that the difference to the default is what attention and its MLP add. An average
of the weights is one of all rows of the tables: in pure Python a step then takes ten times as long.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tinygpt_core import backends  # noqa: E402
from tinygpt_core.training import Trainer, TrainingConfig  # noqa: E402
from tinygpt_core.training.presets import PRESETS, default_preset  # noqa: E402

ALL_NAMES = 10_000  # validation batches, more than there are
TARGETS = {"python": 1.72, "numpy": 1.65}  # nats a letter; in at most 75 s


def with_tables(count: int) -> Callable[[TrainingConfig], TrainingConfig]:
    """Returns a change that leaves so many tables of n-grams."""
    return lambda config: replace(config, ngram_tables=config.ngram_tables[:count])


VARIANTS: dict[str, Callable[[TrainingConfig], TrainingConfig]] = {
    "default": lambda config: config,
    "transformer alone": with_tables(0),
    "memory alone": lambda config: config,  # its blocks are taken away, see `run`
    "one table": with_tables(1),
    "two tables": with_tables(2),
    "three tables": with_tables(3),
    "four tables": with_tables(4),
    "weight decay": lambda config: replace(config, weight_decay=0.1),
    "average of weights": lambda config: replace(config, ema_decay=0.99),
    "Muon": lambda config: replace(config, optimizer="muon"),
    "WSD": lambda config: replace(config, schedule="wsd"),
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
    config = replace(config, backend=backend, seed=seed, eval_batches=ALL_NAMES, **changes)
    started = time.perf_counter()
    started_processor = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer.start(VARIANTS[variant](config), folder)
        if variant == "memory alone":
            trainer.model.transformer_blocks.clear()
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


def main() -> None:
    """Prints a Markdown table, or JSON."""
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
    parser.add_argument("--json", action="store_true", help="print JSON")
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
        return
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
    print(", ".join(f"{name} {nats:.3f}" for name, nats in ladder.items()))
    print(f"Targets: {', '.join(f'{name} {nats}' for name, nats in TARGETS.items())}, in at most 75 s.")


if __name__ == "__main__":
    main()
