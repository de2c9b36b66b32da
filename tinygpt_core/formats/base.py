"""What a format of weights is: a table of names, and how the config is read and written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..buffer.base import Buffer
from ..files.json_objects import SerializationError
from ..nn.gpt import GPTConfig

BLOCK = "transformer_blocks.{}."
"""How the names of what is in a block begin in ours; {} stands for its number."""
HUGGING_FACE_LEAVES = {"weights": "weight", "bias": "bias", "embeddings": "weight"}
"""What our parameters are called within a module in files of transformers."""
MOST_NAMES = 5  # that a message lists
MOST_CHARACTERS = 80  # of what a file says, in a message


class FormatError(SerializationError):
    """A checkpoint that cannot be read, or a model that a format cannot hold; the message says which part and
    what would work.
    """


@contextmanager
def as_format_error() -> Iterator[None]:
    """Makes a FormatError of every ValueError in a `with`: what is wrong with a file is wrong with the
    checkpoint. Yields nothing.

    Raises:
        FormatError: with the message of the other error.
    """
    try:
        yield
    except FormatError:
        raise
    except ValueError as problem:
        raise FormatError(f"{problem!s:.800}") from problem


class Family(NamedTuple):
    """A format, as a table.

    Attributes:
        modules: for each module of ours those of theirs; {} stands for the number of a block.
        leaves: for each parameter of a module of ours what it is called there.
        transposed: modules of ours whose weights they keep as (out, in).
        prefix: how their names begin, which those of a model without its head lack.
        ignored: tensors of theirs that are no weights.
        read_config: returns our config, given what theirs says; raises KeyError, TypeError or ValueError
            where it describes no GPT of ours.
        write_config: returns what theirs says of a config of ours.
        obstacles: returns what keeps a model of such a config from being written, in words for a message.
        query_scale: returns by what their query weights are multiplied to make ours.
    """

    modules: dict[str, tuple[str, ...]]
    leaves: dict[str, str]
    transposed: frozenset[str]
    prefix: str
    ignored: re.Pattern[str]
    read_config: Callable[[Mapping[str, Any]], GPTConfig]
    write_config: Callable[[GPTConfig], dict[str, Any]]
    obstacles: Callable[[GPTConfig], list[str]]
    query_scale: Callable[[GPTConfig], float] = lambda config: 1.0

    def full_name(self, name: str) -> str:
        """Returns the name with the prefix that files of the bare model, without its head, lack."""
        return name if name.startswith((self.prefix, "lm_head.")) else self.prefix + name


class Piece(NamedTuple):
    """A tensor of theirs that holds columns of one of ours: `ours[..., start:stop] = theirs * scale`, theirs
    transposed if need be.
    """

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]
    is_transposed: bool
    scale: float

    def to_ours(self, theirs: Buffer) -> Buffer:
        """Returns the columns of ours (…, stop - start), given the tensor of theirs."""
        columns = theirs.transpose(0, 1) if self.is_transposed else theirs
        return columns if self.scale == 1.0 else columns * self.scale

    def to_theirs(self, ours: Buffer) -> Buffer:
        """Returns the tensor of theirs, of `shape`, given the whole one of ours."""
        columns = ours[..., self.start : self.stop]
        if self.scale != 1.0:
            columns = columns * (1.0 / self.scale)
        return columns.transpose(0, 1) if self.is_transposed else columns


def pieces_of(family: Family, config: GPTConfig, name: str, shape: tuple[int, ...]) -> list[Piece]:
    """Returns where our parameter of this name and shape lies in another format: in one tensor, or query, key
    and value in one each.
    """
    module, _, leaf = name.rpartition(".")
    block = re.match(r"transformer_blocks\.(\d+)\.", module)
    if block is None:
        number = None
        key = module
    else:
        number = block.group(1)
        key = BLOCK + module[block.end() :]
    modules = family.modules[key]
    if len(modules) == 1:
        widths = [shape[-1]]
        scales = [1.0]
    else:
        key_width = config.key_value_heads * config.head_dim
        widths = [config.embedding_dim, key_width, key_width]
        scales = [family.query_scale(config), 1.0, 1.0]
    is_transposed = len(shape) == 2 and key in family.transposed
    pieces = []
    start = 0
    for module, width, scale in zip(modules, widths, scales, strict=True):
        part_shape = (*shape[:-1], width)
        pieces.append(
            Piece(
                name=f"{module.format(number)}.{family.leaves[leaf]}",
                start=start,
                stop=start + width,
                shape=part_shape[::-1] if is_transposed else part_shape,
                is_transposed=is_transposed,
                scale=scale,
            )
        )
        start += width
    return pieces


# ---------------------------------------------------------------- what configs have to say


def require_values(values: Mapping[str, Any], required: Mapping[str, Any]) -> None:
    """Raises ValueError where a setting of theirs has a value that our GPT has no counterpart for; one that
    is not there is as required.
    """
    for name, value in required.items():
        if values.get(name, value) != value:
            raise ValueError(f"{name} is {shortened(values[name])}; this GPT is built for {value!r}")


def other_values(config: GPTConfig, required: Mapping[str, Any]) -> list[str]:
    """Returns which fields of a config of ours have other values than a format requires, in words.

    No format of another library has `ngram_tables`.
    """
    required = {"ngram_tables": (), **required}
    values = config.to_dict()
    values["ngram_tables"] = config.ngram_tables
    values["attention_bias"] = config.has_attention_bias
    values["hidden_dim"] = config.mlp_dim
    return [
        f"{name} is {values[name]!r}, not {value!r}"
        for name, value in required.items()
        if values[name] != value
    ]


def grouped_queries(config: GPTConfig) -> list[str]:
    """Returns an obstacle for formats in which every head has keys and values of its own."""
    if config.key_value_heads == config.num_heads:
        return []
    return [f"num_key_value_heads is {config.key_value_heads}"]


# ---------------------------------------------------------------- what messages quote


def shortened(value: Any) -> str:
    """Returns the beginning of what a file says."""
    text = repr(value)
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "…"


def listed(names: Iterable[str]) -> str:
    """Returns the first of some names, and how many more there are."""
    ordered = sorted(names)
    text = ", ".join(map(shortened, ordered[:MOST_NAMES]))
    more = len(ordered) - MOST_NAMES
    return f"{text} and {more:,} more" if more > 0 else text
