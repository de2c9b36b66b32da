"""The command `tinygpt` (also `python3 -m tinygpt_core`): train, generate, plot, convert, inspect, compare-backends, backends, spec.

Exit codes: 0 done, 1 something failed (a full disk, say), 2 the input was wrong, 130 stopped by Ctrl-C. An error is one line on the
standard error stream; set TINYGPT_DEBUG=1 to see the traceback too.
"""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from .training import Trainer, TrainingConfig

RUNS = "runs"  # where runs are kept unless --out says otherwise
LATEST = "latest"  # in RUNS: a link to the newest run there
SAMPLES = 20
SAMPLE_TEMPERATURE = 0.7
SAMPLE_TOKENS = 200  # the most for a document
RESUMABLE = ("steps", "eval_every", "checkpoint_every", "backend", "dtype")  # settings that --resume may change
BESIDE_RESUME = "only --steps, --eval-every, --checkpoint-every, --backend, --dtype, --log-to and --quiet may stand beside it"

# Every option of `train` that is a setting: field of TrainingConfig, option, type, what it is.
SETTINGS: tuple[tuple[str, str, type, str], ...] = (
    ("steps", "--steps", int, "updates to make"),
    ("batch_size", "--batch-size", int, "sequences in a batch"),
    ("accumulation", "--accumulation", int, "batches whose gradients make one update"),
    ("context_length", "--context-length", int, "tokens the model sees at once"),
    ("num_layers", "--layers", int, "transformer blocks"),
    ("num_heads", "--heads", int, "attention heads in a block"),
    ("embedding_dim", "--embedding-dim", int, "width of the model, a multiple of the heads"),
    ("positions", "--positions", str, "how the model knows places: 'learned', 'rotary' or 'none'"),
    ("normalization", "--normalization", str, "'layer_norm' or 'rms_norm'"),
    ("activation", "--activation", str, "of the MLPs: 'gelu', 'relu', 'silu', 'swiglu' and others"),
    ("dropout", "--dropout", float, "probability of dropping an activation, at least 0 and below 1"),
    ("learning_rate", "--learning-rate", float, "highest learning rate, reached after the warm-up"),
    ("minimum_learning_rate", "--minimum-learning-rate", float, "learning rate at the end of the cosine"),
    ("warmup_steps", "--warmup-steps", int, "steps over which the learning rate rises from 0"),
    ("weight_decay", "--weight-decay", float, "AdamW's decay of matrices"),
    ("gradient_clip", "--gradient-clip", float, "largest norm of the gradient"),
    ("tokenizer", "--tokenizer", str, "'characters', 'bpe', or one that is there: a file, or a folder with vocab.json and merges.txt"),
    ("vocab_size", "--vocab-size", int, "tokens of a bpe tokenizer"),
    ("dtype", "--dtype", str, "what products are computed in: 'float32', on a GPU also 'tf32', 'bfloat16' or 'float16'"),
    ("seed", "--seed", int, "of everything random"),
    ("eval_every", "--eval-every", int, "steps between validations, 0 for none"),
    ("eval_batches", "--eval-batches", int, "batches in a validation"),
    ("checkpoint_every", "--checkpoint-every", int, "steps between checkpoints, 0 for one at the end only"),
)


class UsageError(ValueError):
    """The command line makes no sense; the message says why."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments after the command's name; default: those of the process.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character must not end a run
    warnings.formatwarning = lambda message, *_, **__: f"tinygpt: note: {_one_line(message)}\n"
    try:
        arguments = build_parser().parse_args(argv)
        code: int = arguments.command(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as finished:  # argparse, after --help and --version
        return int(finished.code or 0)
    except KeyboardInterrupt:
        return _complain("stopped by Ctrl-C", 130)
    except BrokenPipeError:  # the reader of a pipe has left: say nothing, also not when Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as problem:
        if os.environ.get("TINYGPT_DEBUG"):
            import traceback

            traceback.print_exc()
        return _complain(*_explain(problem))


def _explain(problem: Exception) -> tuple[str, int]:
    """What to say about an exception, and the exit code."""
    from .backends import BackendUnavailable

    if isinstance(problem, OSError):
        bad_paths = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EROFS,
                     errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}  # fmt: skip
        reason = problem.strerror or str(problem) or type(problem).__name__
        return f"{problem.filename}: {reason}" if problem.filename else reason, 2 if problem.errno in bad_paths else 1
    if isinstance(problem, BackendUnavailable):
        return str(problem), 2
    if isinstance(problem, ValueError):
        is_failure = isinstance(problem.__cause__, OSError) and _explain(problem.__cause__)[1] == 1  # a full disk, in other words
        return str(problem), 1 if is_failure else 2
    if isinstance(problem, MemoryError):
        return str(problem) or "not enough memory: a smaller model or batch would need less", 1
    if isinstance(problem, ArithmeticError) or type(problem) is RuntimeError:  # said by us, of something other than the input
        return str(problem), 1
    return f"{type(problem).__name__}: {problem} (this is a bug; TINYGPT_DEBUG=1 shows where)", 1


def _complain(message: str, code: int) -> int:
    print("tinygpt: error:", _one_line(message), file=sys.stderr, flush=True)
    return code


def _one_line(message: object) -> str:
    """A message as one printable line, whatever it holds."""
    from .misfit import folded

    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(folded(str(message)).split()))


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each subcommand sets `command` to the function that runs it."""
    from . import __version__, cli_compare, cli_convert, cli_plot, corpora, explain
    from .training import PRESETS, TrainingConfig

    parser = _Parser(prog="tinygpt", description="Train a GPT from scratch and sample from it, in pure Python.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"tinygpt {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    presets = "\n".join(
        f"  {name:<12} {text}\n{'':15}{c.corpus}, {c.num_layers} layers, {c.num_heads} heads, {c.embedding_dim} wide, "
        f"length {c.context_length}, batch {c.batch_size}, {c.steps} steps"
        for name, (text, c) in PRESETS.items()
    )
    about = "Train a GPT on a corpus. With no arguments: about a minute on `identifiers`, the names in Python's own library."
    train = commands.add_parser("train", help="train a model", allow_abbrev=False, description=about)
    train.formatter_class = argparse.RawDescriptionHelpFormatter
    train.epilog = f"presets (options override them):\n{presets}"
    train.set_defaults(command=run_train)
    option = train.add_argument
    path, text = cli_convert.path, f"one of {', '.join(corpora.CORPORA)}, or a path as with --data (default: the preset's)"
    option("corpus", nargs="?", type=path, metavar="CORPUS", help=text)
    text = "a text file to train on, or a folder of texts or of train.bin (default: what the corpus stands for)"
    option("--data", type=path, metavar="FILE", help=text)
    option("--preset", metavar="NAME", help="named settings, see below (default: the corpus's own, or identifiers)")
    default, metavars = TrainingConfig(), {int: "N", float: "X", str: "KIND"}
    for field, name, kind, text in SETTINGS:
        text = f"{text} (default: the preset's; identifiers: {getattr(default, field)})"
        option(name, dest=field, type=kind, metavar=metavars[kind], help=text)
    option("--backend", metavar="NAME", help="see `tinygpt backends` (default: $TINYGPT_BACKEND, or the fastest that can run)")
    option("--out", type=path, metavar="DIR", help=f"directory of the run, new or empty (default: {RUNS}/CORPUS-DATE-TIME)")
    option("--resume", type=path, metavar="DIR", help=f"continue the run in DIR with its own settings; {BESIDE_RESUME}")
    option("--log-to", action="append", metavar="NAME", help="also to tensorboard or wandb; may be given twice (default: log.jsonl only)")
    option("--quiet", action="store_true", help="no progress, only the result (default: progress)")

    about = "Continue a text with the model of a run, as it is sampled."
    generate = commands.add_parser("generate", help="sample from a trained model", allow_abbrev=False, description=about)
    generate.set_defaults(command=run_generate)
    option = generate.add_argument
    option("directory", type=path, metavar="DIR", help=f"directory of a run, such as {RUNS}/{LATEST}")
    option("--prompt", default="", metavar="TEXT", help="the text to continue (default: none)")
    option("--count", type=int, default=1, metavar="N", help="how many texts to sample (default: 1)")
    option("--tokens", type=int, default=SAMPLE_TOKENS, metavar="N", help=f"most tokens to sample for each (default: {SAMPLE_TOKENS})")
    text = f"0: always the most probable token, 1: as trained (default: {SAMPLE_TEMPERATURE})"
    option("--temperature", type=float, default=SAMPLE_TEMPERATURE, metavar="X", help=text)
    option("--top-k", type=int, metavar="N", help="sample among the N most probable tokens (default: all)")
    option("--top-p", type=float, metavar="X", help="sample among the most probable tokens that reach probability X (default: all)")
    option("--seed", type=int, metavar="N", help="the same seed gives the same text (default: a new one each time)")
    option("--backend", metavar="NAME", help="see `tinygpt backends` (default: the run's)")

    cli_convert.add_commands(commands)
    explain.add_commands(commands)
    cli_plot.add_command(commands)
    cli_compare.add_commands(commands)
    about = "List what can run here and, for what cannot, why."
    commands.add_parser("backends", help="list the backends", description=about).set_defaults(command=run_backends)
    about = "Run the laws that every backend must keep (needs pytest and hypothesis)."
    spec = commands.add_parser("spec", help="run the specification on a backend", allow_abbrev=False, description=about)
    spec.set_defaults(command=run_spec)
    spec.add_argument("--backend", default="python", metavar="NAME[,NAME...]", help="what to test (default: python)")
    spec.add_argument("pytest_arguments", nargs="*", metavar="ARGUMENT", help="for pytest, after `--` (default: none)")
    return parser


# ---- train


def run_train(arguments: argparse.Namespace) -> int:
    """`tinygpt train`: start or resume a run, show its progress, end with samples.

    Raises:
        UsageError: options that do not work, or no run to resume.
    """
    from .loggers import find_logger, following
    from .progress import Progress
    from .training import Trainer

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
        saved = "is kept" if trainer.saved_step == trainer.step else f"is lost after step {trainer.saved_step}"
        advice = f"continue with: {command_name()} train --resume {shlex.quote(trainer.directory)}"
        return _complain(f"stopped by Ctrl-C at step {trainer.step}, which {saved}; {advice}", 130)
    _summarize(trainer)
    return 0


def settings_from(arguments: argparse.Namespace) -> TrainingConfig:
    """The settings of a new run: those of the preset, overridden by the options.

    Raises:
        UsageError: a preset there is none of, or a setting out of range.
    """
    from dataclasses import replace

    from . import backends, corpora
    from .training import PRESETS

    if not arguments.data and arguments.corpus not in corpora.CORPORA and os.path.exists(arguments.corpus or ""):
        arguments.data, arguments.corpus = arguments.corpus, None
    by_default = "text" if arguments.data and not arguments.corpus else arguments.corpus or "identifiers"
    preset = arguments.preset or (by_default if by_default in PRESETS else "identifiers")
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}: known are {', '.join(PRESETS)}")
    changes = {field: getattr(arguments, field) for field, *_ in SETTINGS if getattr(arguments, field) is not None}
    if arguments.corpus or arguments.data:
        changes["corpus"] = by_default
    if arguments.data:
        changes["data_file"] = os.path.abspath(arguments.data)
    if changes.get("tokenizer") not in (None, "characters", "bpe"):
        changes["tokenizer"] = os.path.abspath(changes["tokenizer"])
    if "learning_rate" in changes:  # the preset's minimum may lie above it
        changes.setdefault("minimum_learning_rate", changes["learning_rate"] / 10)
    changes["backend"] = arguments.backend or os.environ.get(backends.ENVIRONMENT_VARIABLE) or backends.fastest()
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
    given |= {name: f"--{name}" for name in ("data", "preset", "backend", "out") if getattr(arguments, name) is not None}
    if arguments.corpus is not None:
        given["corpus"] = f"the corpus {arguments.corpus!r}"
    if refused := [option for field, option in given.items() if field not in RESUMABLE]:
        raise UsageError(f"--resume takes its settings from the run, so {', '.join(refused)} cannot be given; {BESIDE_RESUME}")
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
    from . import backends, random

    data, generator = trainer.data, random.Generator(trainer.config.seed, stream=3)

    def pieces(tokens: int) -> Iterator[str]:
        return _pieces(trainer.model, data.tokenizer, data.opening, data.is_documents, generator, tokens=tokens)

    with backends.use(trainer.config.backend):
        if data.is_documents:
            texts = ["".join(pieces(SAMPLE_TOKENS)) for _ in range(SAMPLES)]
            invented = sum(text not in data.documents for text in texts)
            print(f"\n{SAMPLES} samples at temperature {SAMPLE_TEMPERATURE}, {invented} of them not in the corpus:")
            _write_text("".join(f"  {text}\n" for text in texts))
        else:
            print(f"\na sample at temperature {SAMPLE_TEMPERATURE}:")
            for piece in pieces(2 * SAMPLE_TOKENS):
                _write_text(piece)
            print()
        val_loss = trainer.validate()
    entropy = f"the corpus's unigram entropy, the least without context, is {data.unigram_entropy:z.3f}"
    print(f"\nvalidation loss {val_loss:z.3f} nats a token; {entropy}")
    if peak := getattr(backends.get(trainer.config.backend), "peak_memory", None):
        print(f"peak memory on the device {peak() / 2**30:.2f} GiB")
    where, count = shlex.quote(trainer.directory), SAMPLES if data.is_documents else 1
    print(f"the model is kept in {trainer.directory}; more of it: {command_name()} generate {where} --count {count}")
    print(f"a look inside, as a page: {command_name()} explain {where}")


def command_name() -> str:
    """How this process was called, for messages that say what to type next."""
    return "python3 -m tinygpt_core" if sys.argv[0].endswith("__main__.py") else "tinygpt"


# ---- directories of runs


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


def find_run(path: str) -> str:
    """The directory that `path` means: itself, or the one that a link leads to.

    Raises:
        UsageError: there is no such run.
    """
    if not os.path.isdir(path):
        raise UsageError(f"there is no run in {path}: `{command_name()} train` makes one")
    return os.path.normpath(path) if not os.path.islink(path) else os.path.relpath(os.path.realpath(path))


# ---- generate, backends, spec


def run_generate(arguments: argparse.Namespace) -> int:
    """`tinygpt generate`: texts from a trained model, streamed.

    Raises:
        UsageError: a negative count, a seed out of range, or no such run.
        ValueError: sampling settings out of range.
    """
    from . import backends, random
    from .generation import check_sampling
    from .training import load_model

    if arguments.count < 0:
        raise UsageError(f"--count must be 0 or more, not {arguments.count}")
    check_sampling(arguments.tokens, arguments.temperature, arguments.top_k, arguments.top_p)
    seed = arguments.seed if arguments.seed is not None else int.from_bytes(os.urandom(4), "little")
    if not 0 <= seed < 2**64:
        raise UsageError(f"--seed must be from 0 to 2**64 - 1, not {seed}")
    generator = random.Generator(seed)
    model, tokenizer, config = load_model(find_run(arguments.directory), arguments.backend)
    is_documents = config["data"]["is_documents"]
    prompt = arguments.prompt or config["data"]["opening"]
    tokenizer.encode(prompt)  # raises where it cannot be, before it is printed
    sampling = {name: getattr(arguments, name) for name in ("tokens", "temperature", "top_k", "top_p")}
    with backends.use(config["training"]["backend"]):
        for index in range(arguments.count):
            if index and not is_documents:
                print("---")
            _write_text(arguments.prompt)
            for piece in _pieces(model, tokenizer, prompt, is_documents, generator, **sampling):
                _write_text(piece)
            print(flush=True)
    return 0


def _pieces(
    model: Any, tokenizer: Any, prompt: str, is_documents: bool, generator: Any, *, temperature: float = SAMPLE_TEMPERATURE, **sampling: Any
) -> Iterator[str]:
    from .generation import generate
    from .training import BOUNDARY

    stop_id = tokenizer.special_tokens[BOUNDARY] if is_documents else None
    return generate(model, tokenizer, prompt, temperature=temperature, generator=generator, stop_id=stop_id, **sampling)


def _write_text(text: str) -> None:
    """Print sampled text as it comes; on a terminal without the control characters that could act on it."""
    if sys.stdout.isatty():
        text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
    print(text, end="", flush=True)


def run_backends(arguments: argparse.Namespace) -> int:
    """`tinygpt backends`: one line a backend."""
    from . import backends

    for status in backends.available():
        print(f"{status.name:<10} {_one_line(status.description if status.available else f'not available: {status.reason}')}")
    return 0


def run_spec(arguments: argparse.Namespace) -> int:
    """`tinygpt spec`: the specification, through pytest.

    Raises:
        RuntimeError: pytest or the specification is not installed.
    """
    try:
        import pytest
        import tinygpt_spec  # noqa: F401
    except ImportError as problem:
        raise RuntimeError(f'the specification needs {problem.name}: pip install "tinygpt-core[spec]"') from None
    chosen = ["--pyargs", "tinygpt_spec", "--backend", arguments.backend, *arguments.pytest_arguments]
    return int(pytest.main(["-p", "tinygpt_spec.plugin", *chosen]))
