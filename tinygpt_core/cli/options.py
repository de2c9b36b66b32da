"""Options of commands that are settings of a run, made from what stands with the fields of TrainingConfig."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..training import config
from ..training.presets import PRESETS
from ..training.settings import Range, Setting

CORPUS = config.SETTINGS["corpus"]  # has no option: it stands on the command line by itself
SETTINGS: tuple[Setting, ...] = tuple(each for each in config.SETTINGS.values() if each.option)
RESUMABLE = tuple(each.name for each in SETTINGS if each.is_resumable)  # settings that --resume may change
OPTIONS = {each.name: each.option for each in SETTINGS}  # name of a setting -> what a person types
BESIDE_RESUME = (
    f"only {', '.join(OPTIONS[name] for name in RESUMABLE)}, --log-to, --quiet, --show-config, "
    "--communicator, --collective-timeout and --shard-optimizer may stand beside it"
)


def path(text: str) -> str:
    """Returns an argument that names a file or directory.

    Raises:
        argparse.ArgumentTypeError: it is empty, as a variable of the shell is that was never set.
    """
    if not text:
        raise argparse.ArgumentTypeError("a path is not empty")
    return text


def text(argument: str) -> str:
    """Returns an argument that is a text: its bytes read as UTF-8, whatever the locale.

    Raises:
        argparse.ArgumentTypeError: they are no UTF-8.
    """
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"a text must be UTF-8, but got {argument!r}") from None


def sizes(argument: str) -> tuple[int, ...]:
    """Returns an argument that is several integers, "4096,8192"; "none" means none of them.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    if argument == "none":
        return ()
    try:
        return tuple(int(part) for part in argument.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"numbers with commas between them, such as 4096,8192, or none: not {argument!r}"
        ) from None


UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(argument: str) -> float:
    """Returns a time in seconds: a number, or one with its unit, such as 90s, 5m or 1.5h.

    Raises:
        argparse.ArgumentTypeError: it is no such time.
    """
    unit = UNITS.get(argument[-1:])
    try:
        return float(argument if unit is None else argument[:-1]) * (unit or 1.0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a time is like 60s, 5m or 1h, not {argument!r}") from None


def help_text(setting: Setting) -> str:
    """Returns what `--help` says of a setting: what it is, what it may be, and its default."""
    text = setting.help
    if isinstance(setting.allowed, Range):
        text += f"; {setting.allowed.text}"
    elif setting.allowed is not None:
        text += f": {', '.join(setting.allowed)}"
    value = getattr(PRESETS[config.SETTINGS["preset"].default].config, setting.name)
    if isinstance(value, tuple):
        value = ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        value = "yes" if value else "no"
    default = setting.default_help or f"the preset's; {config.SETTINGS['preset'].default}: {value}"
    return f"{text} (default: {default})"


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds to a parser what says how a run trains: the corpus, the option of each setting, and --config."""
    parser.add_argument("corpus", nargs="?", type=path, metavar=CORPUS.metavar, help=help_text(CORPUS))
    for setting in SETTINGS:
        add_setting(parser, setting)
    parser.add_argument(
        "--config",
        type=path,
        metavar="FILE",
        help="settings in TOML, by the names of the options, which override them (default: none)",
    )


def add_setting(parser: argparse.ArgumentParser, setting: Setting) -> None:
    """Adds the option of a setting to a parser, which leaves it None where it is not given."""
    if setting.type == "bool":
        action = argparse.BooleanOptionalAction
        parser.add_argument(setting.option, dest=setting.name, action=action, help=help_text(setting))
        return
    types: dict[str, Any] = {
        "int": int,
        "int | None": int,
        "float": float,
        "float | None": float,
        "str": str,
        "str | None": path,
        "tuple[int, ...]": sizes,
    }
    parser.add_argument(
        setting.option,
        dest=setting.name,
        type=seconds if setting.unit == "s" else types[setting.type],
        metavar=setting.metavar,
        help=help_text(setting),
    )
