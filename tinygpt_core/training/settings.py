"""How a setting is described: once, beside the field of the configuration that holds it.

    steps: int = setting(1100, "updates to make", COUNT)

The check of its value, the error messages, the option of the command line and its help all come from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Range:
    """Numbers that a setting may be: those from `low` to `high`; `text` says so, after "must be"."""

    low: float
    high: float
    text: str


Allowed = Range | tuple[str, ...] | None  # numbers, or one of some words, or whatever has the field's type


@dataclass(frozen=True)
class Setting:
    """All that is known of a setting.

    Attributes:
        name: of the field.
        type: as the field is annotated, such as "int" or "str | None".
        default: its value where nothing else is said.
        help: what it is, in a few words; with the unit, where it has one.
        allowed: what it may be; None where the type is all that can be said here.
        option: its name on the command line, such as "--layers"; "" where it has none.
        metavar: what stands for its value in `--help`.
        default_help: where the command line takes it from if it is not given; "" means from the preset.
        is_resumable: whether a run that is resumed may have another value.
        unit: "s" where it is a time, which a person may type as 90s, 5m or 1.5h.
    """

    name: str
    type: str
    default: Any
    help: str
    allowed: Allowed
    option: str
    metavar: str
    default_help: str
    is_resumable: bool
    unit: str


def setting(
    default: Any,
    help: str,
    allowed: Allowed = None,
    *,
    option: str | None = None,
    metavar: str | None = None,
    default_help: str = "",
    is_resumable: bool = False,
    unit: str = "",
) -> Any:
    """Returns a field of a dataclass that describes a setting. The arguments are the attributes of `Setting`.

    Args:
        option: default: the field's name with dashes, such as "--batch-size" for batch_size.
        metavar: default: N for an int, X for a float, TIME where the unit is "s", KIND for words.
    """
    description = {
        "help": help,
        "allowed": allowed,
        "option": option,
        "metavar": metavar,
        "default_help": default_help,
        "is_resumable": is_resumable,
        "unit": unit,
    }
    return field(default=default, metadata=description)


def settings_of(config: type) -> dict[str, Setting]:
    """Returns the settings of a dataclass whose fields are made by `setting`, by name, in their order."""
    metavars = {"int": "N", "int | None": "N", "float": "X", "float | None": "X"}
    result = {}
    for each in fields(config):
        description = dict(each.metadata)
        kind = str(each.type)  # annotations are strings where `from __future__ import annotations` stands
        if description["option"] is None:
            description["option"] = "--" + each.name.replace("_", "-")
        if description["metavar"] is None:
            description["metavar"] = "TIME" if description["unit"] == "s" else metavars.get(kind, "KIND")
        result[each.name] = Setting(name=each.name, type=kind, default=each.default, **description)
    return result


class _SettingProblem(Exception):
    """What `SettingError` and `SettingTypeError` have in common.

    Args:
        parts: the message: names of settings and what is said of them, in turns.
    """

    def __init__(self, *parts: str) -> None:
        super().__init__("".join(parts))
        self.parts = parts

    def worded(self, names: Mapping[str, str]) -> str:
        """Returns the message with other names for the settings, such as their options.

        Args:
            names: of settings -> what to call them; those that are not in it keep their names.
        """
        words = list(self.parts)
        words[::2] = [names.get(name, name) for name in self.parts[::2]]
        return "".join(words)


class SettingError(_SettingProblem, ValueError):
    """A setting has a value that does not work; the message begins with the setting's name.

    Args:
        parts: the message: names of settings and what is said of them, in turns, such as
            ("embedding_dim", " (16) must be divisible by ", "num_heads", " (3)").
    """


class SettingTypeError(_SettingProblem, TypeError):
    """A setting has a value of another type; the message begins with the setting's name.

    Args:
        parts: as for `SettingError`.
    """


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "str | None": (str, type(None)),
    "int | None": (int, type(None)),
    "float | None": (int, float, type(None)),
    "tuple[int, ...]": (tuple,),
}


def check_settings(config: Any) -> None:
    """Checks the type of each setting of a configuration, and that it is one of what is allowed.

    Raises:
        SettingTypeError: a value of another type.
        SettingError: a value out of range, or an unknown word.
    """
    for each in settings_of(type(config)).values():
        check_setting(each, getattr(config, each.name))


def check_setting(setting: Setting, value: Any) -> None:
    """Checks the type of a setting's value, and that it is one of what is allowed.

    Raises:
        SettingTypeError: it has another type.
        SettingError: it is out of range, or an unknown word.
    """
    has_type = isinstance(value, _TYPES[setting.type])
    if isinstance(value, bool) and setting.type != "bool":  # Python counts it among the ints
        has_type = False
    if isinstance(value, tuple) and any(type(number) is not int for number in value):
        has_type = False
    if not has_type:
        raise SettingTypeError(setting.name, f" must be {setting.type}, not {value!r:.80}")
    if value is None:
        return
    if isinstance(setting.allowed, Range):
        for number in value if isinstance(value, tuple) else (value,):
            if not setting.allowed.low <= number <= setting.allowed.high:
                raise SettingError(setting.name, f" must be {setting.allowed.text}, not {value!r:.80}")
    elif setting.allowed is not None and value not in setting.allowed:
        raise SettingError(setting.name, f" must be one of {', '.join(setting.allowed)}, not {value!r:.80}")
