"""What else a folder with `vocab.json` and `merges.txt` says of its tokenizer.

The two files do not say how a text is split before merges happen, or changed before that. GPT-2's tokenizer,
Qwen's and RoBERTa's have files of the same form, and split differently. `tokenizer.json` has it all: a
`normalizer`, a `pre_tokenizer`, the options of the model, and tokens that were added. What of that can be
done here is read; for the rest the folder is refused, as its ids would be others than those that its model
was trained on.

Source: https://github.com/huggingface/tokenizers (tokenizer.json); huggingface/transformers
(tokenizer_config.json).
"""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple, NoReturn

from ..files.json_objects import SerializationError, read_json_object
from .base import TokenizerError
from .patterns import RegexPatterns, compile_pattern, is_total

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
MAXIMUM_BYTES = 64_000_000
GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast")
PLAIN_MODEL: dict[str, tuple[Any, ...]] = {
    "type": ("BPE",),
    "dropout": (None, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (False,),
    "ignore_merges": (False,),
}
"""The values that options of a `model` may have; one that is not there is the first of them."""


class Pipeline(NamedTuple):
    """What a folder says of its tokenizer beside tokens and merges: the split pattern, and the texts and ids
    of tokens that were added.
    """

    pattern: str
    added_tokens: dict[str, int]


def read_pipeline(folder: str) -> Pipeline:
    """Returns what `tokenizer.json` and `tokenizer_config.json` say; GPT-2's pattern where neither is there.

    Raises:
        TokenizerError: they ask for something that is not done here, or are damaged.
        OSError: one cannot be read.
    """
    config_path = os.path.join(folder, TOKENIZER_CONFIG)
    config = _read(config_path)
    path = os.path.join(folder, TOKENIZER)
    if config.get("add_prefix_space", False) is not False:
        _refuse(config_path, "add_prefix_space puts a space before a text")
    if not os.path.isfile(path):
        class_name = config.get("tokenizer_class")
        if class_name is not None and class_name not in GPT2_CLASSES:
            _refuse(
                config_path,
                f"tokenizer_class is {_quoted(class_name)}; without a {TOKENIZER} nothing says how it splits",
            )
        return Pipeline(RegexPatterns.GPT2, {})
    values = _read(path)
    if values.get("normalizer") is not None:
        _refuse(path, f"the normalizer {_type_of(values['normalizer'])} changes a text before it is split")
    model = values.get("model")
    if not isinstance(model, dict):
        _refuse(path, "there is no model")
    for name, known in PLAIN_MODEL.items():
        if not any(
            type(model.get(name, known[0])) is type(value) and model.get(name, known[0]) == value
            for value in known
        ):
            _refuse(path, f"{name} of the model is {_quoted(model[name])}")
    return Pipeline(_pattern_of(values.get("pre_tokenizer"), path), _added_tokens(values, path))


def _read(path: str) -> dict[str, Any]:
    """Returns the JSON object in a file, or an empty one where there is no such file."""
    if not os.path.isfile(path):
        return {}
    try:
        return read_json_object(path, MAXIMUM_BYTES)
    except SerializationError as problem:
        raise TokenizerError(str(problem)) from None


def _pattern_of(pre_tokenizer: Any, path: str) -> str:
    """Returns the pattern that splits as a `pre_tokenizer` does."""
    steps = [pre_tokenizer]
    if _type_of(pre_tokenizer) == "Sequence":
        steps = pre_tokenizer.get("pretokenizers")
        if not isinstance(steps, list):
            _refuse(path, "a Sequence of pre-tokenizers is a list")
    names = [_type_of(step) for step in steps]
    if not names or names[-1] != "ByteLevel":
        _refuse(path, f"the pre-tokenizer is {_quoted(names)}, which does not end with ByteLevel")
    byte_level = steps[-1]
    if byte_level.get("add_prefix_space", True) is not False:
        _refuse(path, "add_prefix_space puts a space before a text")
    if names == ["ByteLevel"]:
        if byte_level.get("use_regex", True) is not True:
            _refuse(path, "ByteLevel without its regular expression leaves a text whole")
        return RegexPatterns.GPT2
    if names != ["Split", "ByteLevel"]:
        _refuse(path, f"the pre-tokenizer splits in several steps, {_quoted(names)}")
    if byte_level.get("use_regex", True) is not False:
        _refuse(path, "the pre-tokenizer splits twice, by a pattern of its own and by GPT-2's")
    split = steps[0]
    pattern = split.get("pattern")
    if not isinstance(pattern, dict) or len(pattern) != 1:
        _refuse(path, f"the pattern of a Split is {_quoted(pattern)}")
    if split.get("behavior") != "Isolated" or split.get("invert", False) is not False:
        _refuse(path, "a Split is read where it is Isolated and not inverted")
    if isinstance(pattern.get("Regex"), str):
        return _total(pattern["Regex"], path)
    if isinstance(pattern.get("String"), str):
        return _total(re.escape(pattern["String"]), path)
    _refuse(path, f"the pattern of a Split is {_quoted(pattern)}")


def _total(pattern: str, path: str) -> str:
    """Returns a pattern that also matches what lies between the matches of `pattern`, as one piece each."""
    try:
        compiled = compile_pattern(pattern)
    except TokenizerError as problem:
        _refuse(path, str(problem))
    if compiled.match("") is not None:
        _refuse(path, f"the pattern {_quoted(pattern)} matches nothing at all")
    if is_total(pattern):
        return pattern
    return rf"{pattern}|(?:(?!{pattern})(?s:.))+"


def _added_tokens(values: dict[str, Any], path: str) -> dict[str, int]:
    """Returns the texts and ids of the tokens that were added."""
    added = values.get("added_tokens") or []
    found: dict[str, int] = {}
    if not isinstance(added, list):
        _refuse(path, "added_tokens is a list")
    for token in added:
        text = token.get("content") if isinstance(token, dict) else None
        idx = token.get("id") if isinstance(token, dict) else None
        if not isinstance(text, str) or type(idx) is not int or text in found:
            _refuse(path, f"an added token has a content of its own and an id, not {_quoted(token)}")
        if token.get("special", False) is not True:
            _refuse(path, f"the added token {_quoted(text)} is not special, but cut out of ordinary text")
        found[text] = idx
    return found


def _type_of(step: Any) -> Any:
    return step.get("type") if isinstance(step, dict) else None


def _quoted(value: Any) -> str:
    return f"{value!r:.80}"


def _refuse(path: str, reason: str) -> NoReturn:
    raise TokenizerError(
        f"{path}: {reason}; this is not done here, and without it the ids would be others than those that "
        f"the tokenizer of this folder gives"
    )
