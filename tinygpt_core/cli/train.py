"""The subcommand `tinygpt train`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from .generate import SAMPLE_TEMPERATURE, SAMPLE_TOKENS, SAMPLES, sample_pieces, write_text
from .messages import LATEST, RUNS, UsageError, command_name, complain, find_run
from .options import BESIDE_RESUME, RESUMABLE, SETTINGS

if TYPE_CHECKING:
    from ..training.config import TrainingConfig
    from ..training.loop import Trainer


def run_train(arguments: argparse.Namespace) -> int:
    """`tinygpt train`: start or resume a run, show its progress, end with samples.

    Raises:
        UsageError: options that do not work, or no run to resume.
    """
    from ..training.loggers import find_logger, following
    from ..training.loop import Trainer
    from .progress import Progress

    loggers = [find_logger(name) for name in arguments.log_to or []]
    if arguments.resume is not None:
        trainer = Trainer.resume(find_run(arguments.resume), **_resume_changes(arguments))
    else:
        config = settings_from(arguments)
        trainer = Trainer.start(config, arguments.out or new_directory(config))
        _point_latest_at(trainer.directory)
    progress = Progress(sys.stdout, trainer, quiet=arguments.quiet)
    progress.begin()
    try:
        with _polite_stop(trainer), following(trainer, loggers) as tell:
            for event in trainer.run():
                progress.show(event)
                tell(event)
    except KeyboardInterrupt:
        trainer.stop_requested = True
    finally:
        progress.end()
    if trainer.step < trainer.config.steps:
        saved = (
            "is kept" if trainer.saved_step == trainer.step else f"is lost after step {trainer.saved_step}"
        )
        advice = f"continue with: {command_name()} train --resume {shlex.quote(trainer.directory)}"
        return complain(f"stopped by Ctrl-C at step {trainer.step}, which {saved}; {advice}", 130)
    _summarize(trainer)
    return 0


def settings_from(arguments: argparse.Namespace) -> TrainingConfig:
    """The settings of a new run: those of the preset, overridden by the options.

    Raises:
        UsageError: a preset there is none of, or a setting out of range.
    """
    from dataclasses import replace

    from .. import backends
    from ..dataset import corpora
    from ..training.presets import PRESETS

    if (
        not arguments.data
        and arguments.corpus not in corpora.CORPORA
        and os.path.exists(arguments.corpus or "")
    ):
        arguments.data, arguments.corpus = arguments.corpus, None
    by_default = "text" if arguments.data and not arguments.corpus else arguments.corpus or "identifiers"
    preset = arguments.preset or (by_default if by_default in PRESETS else "identifiers")
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}: known are {', '.join(PRESETS)}")
    changes = {
        field: getattr(arguments, field) for field, *_ in SETTINGS if getattr(arguments, field) is not None
    }
    if arguments.corpus or arguments.data:
        changes["corpus"] = by_default
    if arguments.data:
        changes["data_file"] = os.path.abspath(arguments.data)
    if changes.get("tokenizer") not in (None, "characters", "bpe"):
        changes["tokenizer"] = os.path.abspath(changes["tokenizer"])
    if "learning_rate" in changes:  # the preset's minimum may lie above it
        changes.setdefault("minimum_learning_rate", changes["learning_rate"] / 10)
    changes["backend"] = (
        arguments.backend or os.environ.get(backends.ENVIRONMENT_VARIABLE) or backends.fastest()
    )
    backends.get(changes["backend"])
    try:
        return replace(PRESETS[preset][1], **changes)
    except ValueError as problem:
        message = str(problem)
        for field, option, *_ in SETTINGS:  # speak of what was typed
            message = message.replace(field, option)
        raise UsageError(message) from None


def _resume_changes(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {field: option for field, option, *_ in SETTINGS if getattr(arguments, field) is not None}
    given |= {
        name: f"--{name}"
        for name in ("data", "preset", "backend", "out")
        if getattr(arguments, name) is not None
    }
    if arguments.corpus is not None:
        given["corpus"] = f"the corpus {arguments.corpus!r}"
    if refused := [option for field, option in given.items() if field not in RESUMABLE]:
        raise UsageError(
            f"--resume takes its settings from the run, so {', '.join(refused)} cannot be given; {BESIDE_RESUME}"
        )
    return {field: getattr(arguments, field) for field in given}


@contextmanager
def _polite_stop(trainer: Trainer) -> Iterator[None]:
    """Inside it the first Ctrl-C lets the running step end and be saved; the second one stops at once."""
    import signal

    def stop(number: int, frame: object) -> None:
        trainer.stop_requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _summarize(trainer: Trainer) -> None:
    """Samples, how good they should be, and where the model is."""
    from .. import backends, random

    data, generator = trainer.data, random.Generator(trainer.config.seed, stream=3)

    def pieces(tokens: int) -> Iterator[str]:
        return sample_pieces(
            trainer.model, data.tokenizer, data.opening, data.is_documents, generator, tokens=tokens
        )

    with backends.use(trainer.config.backend):
        if data.is_documents:
            texts = ["".join(pieces(SAMPLE_TOKENS)) for _ in range(SAMPLES)]
            invented = sum(text not in data.documents for text in texts)
            print(
                f"\n{SAMPLES} samples at temperature {SAMPLE_TEMPERATURE}, {invented} of them not in the corpus:"
            )
            write_text("".join(f"  {text}\n" for text in texts))
        else:
            print(f"\na sample at temperature {SAMPLE_TEMPERATURE}:")
            for piece in pieces(2 * SAMPLE_TOKENS):
                write_text(piece)
            print()
        val_loss = trainer.validate()
    entropy = f"the corpus's unigram entropy, the least without context, is {data.unigram_entropy:z.3f}"
    print(f"\nvalidation loss {val_loss:z.3f} nats a token; {entropy}")
    if peak := getattr(backends.get(trainer.config.backend), "peak_memory", None):
        print(f"peak memory on the device {peak() / 2**30:.2f} GiB")
    where, count = shlex.quote(trainer.directory), SAMPLES if data.is_documents else 1
    print(
        f"the model is kept in {trainer.directory}; more of it: {command_name()} generate {where} --count {count}"
    )
    print(f"a look inside, as a page: {command_name()} explain {where}")


def new_directory(config: TrainingConfig) -> str:
    """A name for a new run that no run has yet: runs/CORPUS-DATE-TIME."""
    base = os.path.join(RUNS, f"{config.corpus}-{time.strftime('%Y%m%d-%H%M%S')}")
    names = (base if count == 1 else f"{base}-{count}" for count in range(1, 1000))
    return next(name for name in names if not os.path.lexists(name))


def _point_latest_at(directory: str) -> None:
    """Make the symbolic link runs/latest lead to a run in `runs`."""
    if os.path.realpath(os.path.dirname(os.path.abspath(directory))) != os.path.realpath(RUNS):
        return
    name, latest = os.path.basename(os.path.abspath(directory)), os.path.join(RUNS, LATEST)
    if os.path.isdir(latest) and not os.path.islink(latest):
        return  # someone's own directory
    temporary = f"{latest}.{os.getpid()}"
    with suppress(OSError, NotImplementedError):  # a convenience, which a system without symbolic links lacks
        os.symlink(name, temporary)
        os.replace(temporary, latest)
