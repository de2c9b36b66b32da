"""What a file or directory holds: which format, and which files its weights are in."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from ..files.atomic import Path
from ..files.json_objects import read_json_object
from ..training import checkpoint
from .base import FormatError, as_format_error, shortened
from .families import FAMILIES

CONFIG = "config.json"
MODEL = "model.safetensors"
INDEX = "model.safetensors.index.json"
TINYGPT_MODEL = "gpt_model.json"
ADAPTERS = "peft"
"""The format of a folder with adapters alone (see `adapters`)."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_MODEL = "adapter_model.safetensors"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
LONGEST_NAME = 255  # characters of the name of a file, which no common file system takes more of


class Source(NamedTuple):
    """A checkpoint that was found: its format, its directory, the files of its weights, and its config.json
    (empty where it has none), or adapter_config.json.
    """

    format: str
    directory: str
    weights: list[str]
    config: dict[str, Any]


def find_source(path: Path) -> Source:
    """Returns what a file or directory holds, from names and config.json alone.

    Args:
        path: a directory with config.json and model.safetensors (or its index), or with adapters alone
            (adapter_config.json and adapter_model.safetensors), a run of `tinygpt train`, a `.safetensors`
            file with config.json beside it, or a `.json` file of TinyGPT's weights.

    Raises:
        FormatError: it holds no checkpoint of a known format, or its config.json is damaged.
        OSError: it cannot be read.
    """
    with as_format_error():
        return _find_source(path)


def _find_source(path: Path) -> Source:
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FormatError(f"there is no file or directory {path}")
    is_directory = os.path.isdir(path)
    directory = path if is_directory else os.path.dirname(path) or "."

    def inside(name: str) -> str:
        return os.path.join(directory, name)

    config = read_json_object(inside(CONFIG)) if os.path.isfile(inside(CONFIG)) else {}
    if path.endswith(".json") and not is_directory:
        # A config.json beside it may be of anything else.
        return Source("tinygpt", directory, [path], config if config.get("model_type") == "tinygpt" else {})
    if not is_directory and not path.endswith(".safetensors"):
        raise FormatError(f"{path} is neither a directory nor a .safetensors or .json file")
    if os.path.isfile(inside(checkpoint.STATE)):
        return Source("native", directory, [inside(checkpoint.MODEL)], config)
    is_whole = os.path.isfile(inside(MODEL)) or os.path.isfile(inside(INDEX))
    if is_directory and os.path.isfile(inside(ADAPTER_CONFIG)) and not is_whole:
        if not os.path.isfile(inside(ADAPTER_MODEL)):
            raise FormatError(
                f"{directory} has {ADAPTER_CONFIG}, but no {ADAPTER_MODEL} beside it: others are not read"
            )
        about = read_json_object(inside(ADAPTER_CONFIG))
        return Source(ADAPTERS, directory, [inside(ADAPTER_MODEL)], about)
    if not config:
        raise FormatError(f"{directory} has no {CONFIG}, which tells how the weights are to be read")
    found = config.get("model_type")
    if not isinstance(found, str) or found not in FAMILIES:
        raise FormatError(
            f"{inside(CONFIG)}: model_type is {shortened(found)}; "
            f"those that can be read are {', '.join(FAMILIES)}"
        )
    if found == "tinygpt":
        return Source(found, directory, [inside(TINYGPT_MODEL)], config)
    if is_directory and os.path.isfile(inside(INDEX)) and not os.path.isfile(inside(MODEL)):
        return Source(found, directory, [inside(name) for name in _shards(inside(INDEX))], config)
    weights = inside(MODEL) if is_directory else path
    if not os.path.isfile(weights):
        raise FormatError(
            f"{directory} has neither {MODEL} nor {INDEX}: other files of weights are not read"
            f"{_pickled(directory)}"
        )
    return Source(found, directory, [weights], config)


def _pickled(directory: str) -> str:
    """Returns how to convert what lies in a directory as a pickle; "" where none does."""
    if not any(os.path.exists(os.path.join(directory, name)) for name in PICKLES):
        return ""
    return (
        f". {PICKLES[0]} is a pickle, which runs whatever its author wrote; where transformers is installed "
        f'and the file is trusted, this writes {MODEL} beside it: python -c "from transformers import '
        f"AutoModelForCausalLM as M; M.from_pretrained('{directory}').save_pretrained('{directory}')\""
    )


def _shards(index: str) -> list[str]:
    """Returns the names of the files that an index lists; raises FormatError unless they are plain names."""
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{index} has no weight_map of tensors and files")
    for name in weight_map.values():
        if not _is_plain_name(name):
            raise FormatError(
                f"{index} names the file {shortened(name)}: a shard is a .safetensors file beside the index"
            )
    return sorted(set(weight_map.values()))


def _is_plain_name(name: Any) -> bool:
    """Whether it names a .safetensors file in the same directory, on any system."""
    if not isinstance(name, str) or not name.endswith(".safetensors"):
        return False
    is_too_long = len(name) > LONGEST_NAME
    return os.path.basename(name) == name and "\\" not in name and not is_too_long
