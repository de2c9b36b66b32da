"""The subcommand `tinygpt train`."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

from .. import backends, random
from ..dataset import corpora
from ..formats import ADAPTERS, base_of, find_source, load_pretrained, plan_adapters
from ..nn.gpt import GPT
from ..nn.lora import LoRAConfig
from ..tokenizer.files import find_tokenizer
from ..training import communicator, loggers
from ..training.checkpoint import load_checkpoint
from ..training.communicator import Communicator
from ..training.config import TrainingConfig, describe_sizes, plural
from ..training.data import bits_per_byte
from ..training.loop import Trainer
from ..training.origin import Origin
from ..training.presets import PRESETS, default_preset
from ..training.runs import (
    BEST,
    SAMPLE_TEMPERATURE,
    SAMPLE_TOKENS,
    DirectoryExistsError,
    answer_pieces,
    backend_of,
    sample_pieces,
    saved_settings,
    settings_of_a_beginning,
)
from ..training.settings import SettingError
from .generate import SAMPLES
from .messages import (
    Stopped,
    UsageError,
    command_name,
    complain,
    describe_error,
    find_run,
    one_line,
    stop_signals,
    stopped_by,
)
from .options import BESIDE_RESUME, OPTIONS, RESUMABLE, SETTINGS, add_settings, path
from .progress import Progress, preparing
from .settings_file import read_settings, settings_text
from .writing import write_report

RUNS = "runs"  # where runs are kept unless --out says otherwise
LATEST = "latest"  # in RUNS: a link to the newest run there
MOST_STEPS = 2**31  # of a run that ends by the clock
ONE_SIGNAL = 1.0  # seconds in which several signals to several processes count as one
QUESTIONS = 3  # that a run on conversations answers at its end
SAMPLE_STREAM = 3  # random stream of the run's seed for the samples at its end


def add_command(commands: Any) -> None:
    """Adds `train` to the subcommands of a parser."""
    about = (
        "Train a GPT on a corpus. With no arguments: a minute or two on `identifiers`, "
        "the names in Python's own library, by the preset `identifiers` in pure Python "
        "and by `identifiers-fast` on a faster backend."
    )
    parser = commands.add_parser("train", help="train a model", allow_abbrev=False, description=about)
    parser.set_defaults(command=run_train)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "presets (options override them):\n" + "\n".join(map(_preset_lines, PRESETS))
    add_settings(parser)
    parser.add_argument(
        "--out",
        type=path,
        metavar="DIR",
        help=f"directory of the run, new or empty (default: {RUNS}/CORPUS-DATE-TIME)",
    )
    parser.add_argument(
        "--show-config",
        action="store_true",
        help="print the settings as such a file, of the run of --resume where that is given, and end "
        "(default: train)",
    )
    parser.add_argument(
        "--resume",
        type=path,
        metavar="DIR",
        help=f"continue the run in DIR with its own settings; {BESIDE_RESUME}",
    )
    parser.add_argument(
        "--log-to",
        action="append",
        metavar="NAME",
        help="also to csv, tensorboard or wandb; may be given twice (default: log.jsonl only)",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="no progress, only the result (default: progress)"
    )
    parser.add_argument(
        "--communicator",
        metavar="NAME",
        help="what connects processes: mpi, nccl, or none for one process "
        "(default: mpi or, for GPUs, nccl where mpiexec, srun or torchrun has started several)",
    )
    parser.add_argument(
        "--collective-timeout",
        type=float,
        default=communicator.COLLECTIVE_TIMEOUT,
        metavar="SECONDS",
        help="the longest that one process waits for another, before all end "
        f"(default: {communicator.COLLECTIVE_TIMEOUT:g})",
    )
    parser.add_argument(
        "--shard-optimizer",
        action="store_true",
        help="each process keeps the optimizer's memory of a part of the model only (default: of all)",
    )


def _preset_lines(name: str) -> str:
    """Returns what `--help` says of a preset, in two lines."""
    about, config = PRESETS[name]
    steps = plural(config.steps, "step")
    sizes = f"{describe_sizes(config)}, length {config.context_length}, batch {config.batch_size}, {steps}"
    return f"  {name:<12} {about}\n{'':15}{config.corpus}, {sizes}"


def run_train(arguments: argparse.Namespace) -> int:
    """Runs `tinygpt train`: starts or resumes a run, shows its progress, ends with samples.

    Where a launcher has started several processes, they do it together. Whatever ends one of them ends all.

    Returns:
        The exit code.

    Raises:
        UsageError: options that do not work, or no run to resume.
        CommunicationError: processes were launched that cannot be connected.
    """
    processes = _connect(arguments)
    if processes.size == 1:
        return _train(arguments, processes)
    try:
        code = _train(arguments, processes)
        processes.close()
    except Stopped as stop:
        processes.abort(*stopped_by(stop.number))
    except KeyboardInterrupt:
        processes.abort(*stopped_by(signal.SIGINT))
    except Exception as problem:
        if os.environ.get("TINYGPT_DEBUG"):
            traceback.print_exc()
        message, code = describe_error(problem)
        processes.abort(one_line(message), code)
    return code


def _connect(arguments: argparse.Namespace) -> Communicator:
    """Returns what connects this process with the others of its run.

    Raises:
        UsageError: an option does not work.
        CommunicationError: see `communicator.connect`.
    """
    if not 0.0 < arguments.collective_timeout < float("inf"):
        raise UsageError(f"--collective-timeout is a time above 0, not {arguments.collective_timeout:g}")
    if arguments.communicator is None and communicator.launched() is None:
        return communicator.ONE_PROCESS
    # The backend as far as it is known: it must not be imported yet, since it shares the cores with others.
    backend = arguments.backend
    if backend is None and arguments.resume is not None:
        backend = backend_of(find_run(arguments.resume))
    if backend is None and arguments.config is not None:
        backend = read_settings(arguments.config).get("backend")
    backend = backend or os.environ.get(backends.ENVIRONMENT_VARIABLE)
    if backend is None:
        usable = [status for status in backends.available() if status.available]
        backend = max(usable, key=lambda status: status.preference).name
    return communicator.connect(arguments.communicator, backend, arguments.collective_timeout)


def _train(arguments: argparse.Namespace, processes: Communicator) -> int:
    """Does what `run_train` says, in one of the processes; only the first prints anything."""
    is_first = processes.is_first
    if arguments.show_config:
        if is_first:
            print(settings_text(_shown_settings(arguments, processes.size)), end="")
        return 0
    kinds = [loggers.find_logger(name) for name in arguments.log_to or []] if is_first else []
    together: dict[str, Any] = {"communicator": processes, "shard_optimizer": arguments.shard_optimizer}
    quiet = arguments.quiet or not is_first
    with preparing(sys.stdout, quiet=quiet):
        trainer = _start(arguments, together) if arguments.resume is None else _resume(arguments, together)
    if arguments.resume is None and is_first:
        _point_latest_at(trainer.directory)
    progress = Progress(sys.stdout, trainer, quiet=quiet)
    progress.begin()
    opened = loggers.open_loggers(
        kinds, trainer.directory, trainer.config.to_dict(), trainer.step, trainer.skipped_steps
    )
    number: int | None = signal.SIGINT if processes.size == 1 else None  # of the signal that has stopped it
    signals: list[signal.Signals] = []
    try:
        with _polite_stop(trainer) as signals, opened as log:
            for event in trainer.run():
                if not signals:  # the terminal may be gone
                    progress.show(event)
                log(event)
    except Stopped as stop:
        trainer.stop_requested = True
        if processes.size > 1:  # the others wait for this one: `run_train` ends them, too
            raise
        number = signal.Signals(stop.number)
    except KeyboardInterrupt:
        trainer.stop_requested = True
        if processes.size > 1:
            raise
    finally:
        with suppress(OSError) if trainer.stop_requested else nullcontext():
            progress.end()
    if signals:
        number = signals[0]
    if not trainer.is_finished:
        return _complain_that_it_stopped(trainer, number)
    last = trainer.validated
    val_loss = last.val_loss if last and last.step == trainer.step else trainer.validate()
    if is_first:
        _summarize(trainer, val_loss)
    return 0


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that were given as options, by name."""
    values = {setting.name: getattr(arguments, setting.name) for setting in SETTINGS}
    return {name: value for name, value in values.items() if value is not None}


def settings_from(arguments: argparse.Namespace, num_processes: int = 1) -> TrainingConfig:
    """Returns the settings of a new run: those of the preset, overridden by the settings file of --config,
    and that by the options.

    Args:
        arguments: the options.
        num_processes: that train together; a batch is cut into as many shards.

    Raises:
        UsageError: a preset there is none of, or a setting that does not work.
        BackendUnavailable: the backend cannot run here.
        OSError: the settings file cannot be read.
    """
    return _settings_of(_given_for_a_new_run(arguments), num_processes)


def _settings_of(given: Mapping[str, Any], num_processes: int) -> TrainingConfig:
    """Returns the settings of a new run, of which these were given; see `settings_from`."""
    corpus = given.get("corpus")
    data_file = given.get("data_file")
    if data_file is None and corpus not in corpora.CORPORA and os.path.exists(corpus or ""):
        data_file = corpus  # a path stands in the place of a corpus
        corpus = None
    if corpus is None and data_file is not None:
        corpus = "text"
    backend = given.get("backend") or os.environ.get(backends.ENVIRONMENT_VARIABLE) or backends.fastest()
    preset = given.get("preset") or (corpus if corpus in PRESETS else "identifiers")
    if "preset" not in given and preset == "identifiers":
        preset = default_preset(backend)
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}: known are {', '.join(PRESETS)}")
    changes = {name: value for name, value in given.items() if name not in ("corpus", "data_file")}
    changes["preset"] = preset
    if corpus is not None:  # otherwise it is the preset's
        changes["corpus"] = corpus
    if data_file is not None:
        changes["data_file"] = os.path.abspath(data_file)
    if changes.get("tokenizer") not in (None, "characters", "bpe"):
        changes["tokenizer"] = os.path.abspath(changes["tokenizer"])
    if changes.get("init_from") is not None:
        changes["init_from"] = os.path.realpath(changes["init_from"])  # runs/latest leads elsewhere later
    if changes.get("time_budget"):
        changes.setdefault("steps", MOST_STEPS)
    if "learning_rate" in changes:  # the preset's minimum may lie above it
        changes.setdefault("minimum_learning_rate", changes["learning_rate"] / 10)
    changes.setdefault("shards", num_processes)
    changes["backend"] = backend
    backends.get(backend)
    try:
        return replace(PRESETS[preset].config, **changes)
    except SettingError as problem:
        raise UsageError(problem.worded(OPTIONS)) from None


def _given_for_a_new_run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that the settings file and the options give, by name; the options override it.

    Raises:
        UsageError: the file is none, or does not work.
        OSError: it cannot be read.
    """
    in_file = {} if arguments.config is None else read_settings(arguments.config)
    if arguments.corpus is not None:
        in_file.pop("data_file", None)  # it goes with the corpus of the file
        in_file["corpus"] = arguments.corpus
    return in_file | _given(arguments)


def are_given(arguments: argparse.Namespace) -> bool:
    """Whether a settings file or options give any setting of a new run but how many steps it makes."""
    return bool(_given_for_a_new_run(arguments).keys() - {"steps"})


def settings_and_origin(
    arguments: argparse.Namespace, num_processes: int
) -> tuple[TrainingConfig, Origin | None]:
    """Returns the settings of a new run, and the model of --init-from that it begins with.

    Raises:
        UsageError: a setting does not work, or contradicts the model.
        FormatError, CheckpointError, TokenizerError: there is no such model, or no tokenizer with it.
    """
    given = _given_for_a_new_run(arguments)
    settings = _settings_of(given, num_processes)
    if settings.init_from is None:
        return settings, None
    place = settings.init_from
    with backends.use(settings.backend):
        model = load_pretrained(place)
    folder = place if os.path.isdir(place) else os.path.dirname(place)
    tokenizer = find_tokenizer(folder)
    if tokenizer is None and (source := find_source(place)).format == ADAPTERS:
        base = base_of(source)
        folder = base if os.path.isdir(base) else os.path.dirname(base)
        tokenizer = find_tokenizer(folder)
    if tokenizer is None:
        raise UsageError(f"there is no tokenizer in {folder}: the model's own must lie beside its weights")
    origin = Origin(place, folder, model, tokenizer, _adapters(settings, model))
    try:
        return origin.settings(settings, given), origin
    except SettingError as problem:
        raise UsageError(problem.worded(OPTIONS)) from None


def _adapters(settings: TrainingConfig, model: GPT) -> LoRAConfig | None:
    """Returns which adapters a model gets that a run begins with; None where all of it is trained.

    Raises:
        UsageError: a target that no layer is called, or a rank above what a layer's matrix can have.
    """
    if not settings.lora_rank:
        return None
    place = str(settings.init_from)
    names = [name.strip() for name in settings.lora_targets.split(",")]
    try:
        return plan_adapters(
            model,
            find_source(place).format,
            settings.lora_rank,
            alpha=settings.lora_alpha,
            dropout=settings.lora_dropout,
            targets=[name for name in names if name],
            base=place,
        )
    except ValueError as problem:
        raise UsageError(f"--lora {settings.lora_rank} for the model in {place}: {problem}") from None


def _start(arguments: argparse.Namespace, together: dict[str, Any]) -> Trainer:
    """Returns the new run that the options ask for, for the processes that begin together.

    Raises:
        UsageError: settings that do not work, or no model to begin with.
    """
    processes = together["communicator"]
    settings, origin = settings_and_origin(arguments, processes.size)
    together = {**together, "origin": origin}
    try:
        if arguments.out or not processes.is_first:  # the first process tells the others where
            return Trainer.start(settings, arguments.out or "", **together)
        return _start_in_runs(settings, together)
    except SettingError as problem:
        raise UsageError(problem.worded(OPTIONS)) from None


def _resume(arguments: argparse.Namespace, together: dict[str, Any]) -> Trainer:
    """Returns the run of --resume, for the processes that go on together.

    Raises:
        UsageError: no such run, options that are not for a run that exists, or a value that does not work.
    """
    changes = _changes(arguments)
    try:
        return Trainer.resume(find_run(arguments.resume), **together, **changes)
    except SettingError as problem:
        raise UsageError(problem.worded(OPTIONS)) from None


def _shown_settings(arguments: argparse.Namespace, num_processes: int) -> TrainingConfig:
    """Returns the settings of the run that the options ask for: of a new one, or of that of --resume.

    Raises:
        UsageError: as `settings_from` and `_resume`.
        CheckpointError: the run of --resume is damaged.
    """
    if arguments.resume is None:
        return settings_and_origin(arguments, num_processes)[0]
    changes = _changes(arguments)
    directory = find_run(arguments.resume)
    settings = settings_of_a_beginning(directory)
    if settings is None:
        settings = saved_settings(load_checkpoint(directory, optimizer=False), directory)
    try:
        return settings.going_on_with(**changes)
    except SettingError as problem:
        raise UsageError(problem.worded(OPTIONS)) from None


def _changes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns what the run of --resume shall have other than before, by the names of the settings.

    Raises:
        UsageError: there are options that are not for a run that exists.
    """
    changes = _given(arguments)
    refused = [OPTIONS[name] for name in changes if name not in RESUMABLE]
    if arguments.out is not None:
        refused.append("--out")
    if arguments.config is not None:
        refused.append("--config")
    if arguments.corpus is not None:
        refused.append(f"the corpus {arguments.corpus!r}")
    if refused:
        raise UsageError(
            "--resume takes its settings from the run, "
            f"so {', '.join(refused)} cannot be given; {BESIDE_RESUME}"
        )
    return changes


def _complain_that_it_stopped(trainer: Trainer, number: int | None) -> int:
    """Says that a run was stopped by a signal and how to go on; returns the exit code.

    Of several processes the first says so; where another one got the signal, its number is None.
    """
    is_kept = trainer.saved_step == trainer.step
    kept = "is kept" if is_kept else f"is lost after step {trainer.saved_step}"
    advice = f"continue with: {command_name()} train --resume {shlex.quote(trainer.directory)}"
    stopped, code = stopped_by(signal.SIGINT if number is None else number)
    if number is None:
        stopped = "stopped by a signal to another of its processes"
    if not trainer.communicator.is_first:
        return code
    return complain(f"{stopped} at step {trainer.step}, which {kept}; {advice}", code)


@contextmanager
def _polite_stop(trainer: Trainer) -> Iterator[list[signal.Signals]]:
    """Inside it the first Ctrl-C (or SIGTERM, or SIGHUP) lets the running step end and be saved; the second
    one stops at once. Yields a list, to which the signals are added as they come.
    """
    came: list[signal.Signals] = []
    first_at = 0.0

    def stop(number: int, frame: object) -> None:
        nonlocal first_at
        if came and trainer.communicator.size > 1 and time.monotonic() - first_at < ONE_SIGNAL:
            return  # the terminal and the launcher have sent the same one
        if not came:
            first_at = time.monotonic()
        came.append(signal.Signals(number))
        trainer.stop_requested = True
        if len(came) > 1:
            raise Stopped(number)

    with stop_signals(stop):
        yield came


def _summarize(trainer: Trainer, val_loss: float) -> None:
    """Prints samples, how good they should be, and where the model is."""
    data = trainer.data
    best = trainer.best
    if trainer.has_lost_patience:
        waited = plural(best.waited, "validation")
        print(
            f"\nended early, after step {trainer.step}: {waited} in a row not better than that after step "
            f"{best.step}, {best.val_loss:z.4f}; --patience {2 * best.waited} or more goes on"
        )
    generator = random.Generator(trainer.config.seed, stream=SAMPLE_STREAM)

    def pieces(tokens: int) -> Iterator[str]:
        return sample_pieces(
            trainer.evaluated_model, data.tokenizer, data.opening, data.is_documents, generator, tokens=tokens
        )

    with backends.use(trainer.config.backend):
        if data.conversations is not None:
            print(f"\nanswers at temperature {SAMPLE_TEMPERATURE}, to questions of the validation:")
            template = data.conversations.template
            for question in data.conversations.questions(QUESTIONS):
                write_report(f"  {question[-1].role}: {question[-1].content}\n  assistant: ")
                for piece in answer_pieces(
                    trainer.evaluated_model, data.tokenizer, template, question, generator
                ):
                    write_report(piece)
                print()
        elif data.is_documents:
            texts = ["".join(pieces(SAMPLE_TOKENS)) for _ in range(SAMPLES)]
            invented = sum(bool(text) and text not in data.documents for text in texts)
            about = f"at temperature {SAMPLE_TEMPERATURE}, {invented} of them not in the corpus"
            print(f"\n{SAMPLES} samples {about}:")
            write_report("".join(f"  {text or '(empty)'}\n" for text in texts))
        else:
            print(f"\na sample at temperature {SAMPLE_TEMPERATURE}:")
            for piece in pieces(2 * SAMPLE_TOKENS):
                write_report(piece)
            print()
    entropy = f"the corpus's unigram entropy, the least without context, is {data.unigram_entropy:z.3f}"
    print(f"\nvalidation loss {val_loss:z.3f} nats a token; {entropy}")
    bits = bits_per_byte(data, val_loss)
    if bits is not None:
        print(f"that is {bits:z.3f} bits a byte, whatever the tokens are")
    if data.conversations is None:
        print("\nthe ladder, in nats a token on that validation text:")
        for name, nats in ladder_lines(trainer.ladder(), val_loss):
            print(f"  {name:<22} {nats:6.3f}")
    print()
    peak_memory = getattr(backends.get(trainer.config.backend), "peak_memory", None)
    if peak_memory is not None:
        print(f"peak memory on the device {peak_memory() / 2**30:.2f} GiB")
    where = shlex.quote(trainer.directory)
    if trainer.config.keep_best and best.step is not None:
        place = os.path.join(trainer.directory, BEST)
        print(f"the best, after step {best.step} with {best.val_loss:z.3f}, is kept in {place}")
    count = SAMPLES if data.is_documents else 1
    more = f"{command_name()} generate {where} --count {count}"
    if data.conversations is not None:
        more = f"{command_name()} generate {where} --chat"
    print(f"the model is kept in {trainer.directory}; more of it: {more}")
    if trainer.config.lora_rank:
        print(f"one model of it and its base: {command_name()} convert {where} DIR --merge")
        print(f"the adapters alone: {command_name()} convert {where} DIR --to {ADAPTERS}")
    print(f"a look inside, as a page: {command_name()} explain {where}")


def ladder_lines(rungs: Mapping[str, float], val_loss: float) -> list[tuple[str, float]]:
    """Returns what predicts a text, in words, with its nats a token, and the model where it belongs."""
    words = {"uniform": "guessing evenly", "unigram": "counting tokens"}
    lines = [(words.get(name, f"counting {name}"), nats) for name, nats in rungs.items()]
    lines.append(("this model", val_loss))
    return sorted(lines, key=lambda line: -line[1])


def _start_in_runs(config: TrainingConfig, together: dict[str, Any]) -> Trainer:
    """Returns a new run in a directory of its own, also where others begin in the same second."""
    while True:
        with suppress(DirectoryExistsError):  # another process was faster
            return Trainer.start(config, new_directory(config), must_be_new=True, **together)


def new_directory(config: TrainingConfig) -> str:
    """Returns a name for a new run that no run has yet: runs/CORPUS-DATE-TIME."""
    base = os.path.join(RUNS, f"{config.corpus}-{time.strftime('%Y%m%d-%H%M%S')}")
    name = base
    count = 1
    while os.path.lexists(name):
        count += 1
        name = f"{base}-{count}"
    return name


def _point_latest_at(directory: str) -> None:
    """Makes the symbolic link runs/latest lead to a run in `runs`."""
    directory = os.path.abspath(directory)
    if os.path.realpath(os.path.dirname(directory)) != os.path.realpath(RUNS):
        return
    latest = os.path.join(RUNS, LATEST)
    if os.path.isdir(latest) and not os.path.islink(latest):
        return  # someone's own directory
    temporary = f"{latest}.{os.urandom(8).hex()}"
    with suppress(OSError, NotImplementedError):  # a convenience, which a system without symbolic links lacks
        os.symlink(os.path.basename(directory), temporary)
        os.replace(temporary, latest)
