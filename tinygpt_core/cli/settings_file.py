"""The settings file of `tinygpt train --config`: TOML, in which a setting has the name of its option.

    preset = "nanogpt-cpu"
    layers = 6
    learning-rate = 1e-3
    until = "5m"

Source: TOML 1.0.0, 2021, https://toml.io/en/v1.0.0
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
from typing import Any

from .. import __version__
from ..files.reading import read_limited
from ..training.config import SETTINGS, TrainingConfig
from ..training.settings import Setting, SettingError, SettingTypeError, check_setting
from .messages import UsageError
from .options import seconds

MOST_BYTES = 1 << 20  # of a file
NAMES = {each.name: each.option.lstrip("-") or each.name.replace("_", "-") for each in SETTINGS.values()}
"""Name of a setting -> its name in a file; of those that have no option as well."""


def read_settings(path: str) -> dict[str, Any]:
    """Returns the settings in a file, by the names of their fields. Only what each may be is checked.

    Raises:
        UsageError: it is no TOML, a name is unknown, or a value does not work; the message names it.
        OSError: it cannot be read.
    """
    import tomllib  # rarely needed

    try:
        values = tomllib.loads(read_limited(path, MOST_BYTES).decode())
    except (ValueError, RecursionError) as problem:  # of UTF-8, too
        what = "it is nested too deeply" if isinstance(problem, RecursionError) else problem
        raise UsageError(f"{path} is no settings file in TOML: {what}") from None
    fields = {name: field for field, name in NAMES.items()}
    result = {}
    for name, value in values.items():
        field = fields.get(name.replace("_", "-"))
        if field is None:
            raise UsageError(f"{path}: unknown setting {name!r:.80}{_hint(name)}")
        try:
            result[field] = _checked(SETTINGS[field], value)
        except (SettingError, SettingTypeError) as problem:
            raise UsageError(f"{path}: {problem.worded(NAMES)}") from None
    return result


def _hint(name: str) -> str:
    """Returns what to say of a setting that does not exist: which one may have been meant."""
    if name.replace("-", "_") in SETTINGS:  # as it is called in code
        close = [NAMES[name.replace("-", "_")]]
    else:
        close = difflib.get_close_matches(name.replace("_", "-"), NAMES.values(), 1, 0.7)
    return f"; did you mean {close[0]!r}?" if close else "; `--show-config` prints all"


def _checked(setting: Setting, value: Any) -> Any:
    """Returns the value of a setting as TrainingConfig takes it; raises SettingError or SettingTypeError."""
    if setting.type == "tuple[int, ...]" and isinstance(value, list):
        value = tuple(value)
    if setting.unit == "s" and isinstance(value, str):
        try:
            value = seconds(value)
        except argparse.ArgumentTypeError as problem:
            raise SettingError(setting.name, f": {problem}") from None
    check_setting(setting, value)
    if value == "" and setting.default != "":
        raise SettingError(setting.name, " must not be empty")
    return float(value) if setting.type in ("float", "float | None") else value


def settings_text(config: TrainingConfig) -> str:
    """Returns a file that, given back, makes the same run: every setting, with what it is.

    Raises:
        UsageError: a path cannot be written in UTF-8.
    """
    lines = [f"# Settings of `tinygpt train --config FILE`, written by tinygpt {__version__}."]
    for setting in SETTINGS.values():
        value = getattr(config, setting.name)
        if value is None:
            continue
        line = f"{NAMES[setting.name]} = {_value_text(value)}"
        lines.append(f"{line:<34}  # {setting.help}")
    return "\n".join(lines) + "\n"


def _value_text(value: Any) -> str:
    """Returns a value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{os.fsencode(value)!r} is not UTF-8, as all of a settings file is") from None
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_value_text, value)) + "]"
    return repr(value)
