"""What a format of weights is: a table of names, and how the config is read and written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from types import MappingProxyType
from typing import Any, NamedTuple

from ..buffer.base import Buffer
from ..files.json_objects import SerializationError
from ..nn.gpt import OPTIONS, GPTConfig

BLOCK = "transformer_blocks.{}."
"""How the names of what is in a block begin in ours; {} stands for its number."""
EXPERT = BLOCK + "mlp.experts.{}."
"""And of what is in an expert of a block; the second {} stands for its number."""
NUMBERED = re.compile(r"(?<=^transformer_blocks\.)\d+|(?<=\.mlp\.experts\.)\d+")
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


class Share(NamedTuple):
    """One of several equal parts of the outputs of a module of theirs, which holds as many modules of ours
    side by side.
    """

    module: str
    number: int
    parts: int


class Family(NamedTuple):
    """A format, as a table.

    Attributes:
        modules: for each module of ours those of theirs, or the `Share` of one; {} stands for the number of a
            block, and the second for that of an expert.
        leaves: for each parameter of a module of ours what it is called there.
        transposed: modules of ours whose weights they keep as (out, in).
        prefix: how their names begin, which those of a model without its head lack.
        ignored: tensors of theirs that are no weights.
        read_config: returns our config, given what theirs says; raises KeyError, TypeError or ValueError
            where it describes no GPT of ours.
        write_config: returns what theirs says of a config of ours.
        obstacles: returns what keeps a model of such a config from being written, in words for a message.
        query_scale: returns by what their query weights are multiplied to make ours.
        by_head: modules whose query, key and value lie side by side head by head there, and one after the
            other in ours.
        minus_one: modules whose weights they keep less 1.
        fused: of another layout, for each tensor in which matrices of all experts stand, (experts, parts *
            rows, columns), what each part is called where it stands by itself; the second {} of that is for
            the number of the expert. Or the other name of a tensor that is only called otherwise.
    """

    modules: dict[str, tuple[str | Share, ...]]
    leaves: dict[str, str]
    transposed: frozenset[str]
    prefix: str
    ignored: re.Pattern[str]
    read_config: Callable[[Mapping[str, Any]], GPTConfig]
    write_config: Callable[[GPTConfig], dict[str, Any]]
    obstacles: Callable[[GPTConfig], list[str]]
    query_scale: Callable[[GPTConfig], float] = lambda config: 1.0
    by_head: frozenset[str] = frozenset()
    minus_one: frozenset[str] = frozenset()
    fused: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def full_name(self, name: str) -> str:
        """Returns the name with the prefix that files of the bare model, without its head, lack."""
        return name if name.startswith((self.prefix, f"{self.head}.")) else self.prefix + name

    @property
    def head(self) -> str:
        """What the head is called there."""
        (head,) = self.modules["head"]
        assert isinstance(head, str)
        return head


class Piece(NamedTuple):
    """Where columns of a tensor of ours lie in one of theirs:
    `ours[..., start:stop] = theirs[..., first:first + stop - start] * scale + offset`, theirs transposed if
    need be, and its columns put in another order where they lie head by head.

    Attributes:
        name, shape: of their tensor.
        start, stop: the columns of ours.
        first: the first of the columns of theirs.
        is_transposed: whether theirs is (out, in).
        scale, offset: how values differ.
        heads: of a tensor in which query, key and value of each head lie side by side; 0 elsewhere.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    first: int
    is_transposed: bool
    scale: float
    offset: float
    heads: int

    def to_ours(self, theirs: Buffer) -> Buffer:
        """Returns the columns of ours (…, stop - start), given the whole tensor of theirs."""
        columns = theirs.transpose(0, 1) if self.is_transposed else theirs
        width = self.stop - self.start
        if columns.shape[-1] != width:
            columns = columns[..., self.first : self.first + width]
        if self.heads:
            columns = _reordered(columns, (self.heads, 3))
        if self.scale != 1.0:
            columns = columns * self.scale
        return columns + self.offset if self.offset else columns

    def to_theirs(self, ours: Buffer) -> Buffer:
        """Returns the columns of theirs (…, stop - start), not transposed back, given the whole tensor of
        ours.
        """
        columns = ours[..., self.start : self.stop]
        if self.offset:
            columns = columns - self.offset
        if self.scale != 1.0:
            columns = columns * (1.0 / self.scale)
        return _reordered(columns, (3, self.heads)) if self.heads else columns


def _reordered(columns: Buffer, parts: tuple[int, int]) -> Buffer:
    """Returns columns that lie as (a, b, size) as (b, a, size), given a and b."""
    width = columns.shape[-1]
    split = columns.reshape((*columns.shape[:-1], *parts, width // (parts[0] * parts[1])))
    last = split.ndim - 1
    order = (*range(last - 2), last - 1, last - 2, last)
    return split.permute(order).reshape((*columns.shape[:-1], width))


def pieces_of(family: Family, config: GPTConfig, name: str, shape: tuple[int, ...]) -> list[Piece]:
    """Returns where our parameter of this name and shape lies in another format: in one tensor, or query, key
    and value in one each.
    """
    module, _, leaf = name.rpartition(".")
    numbers = NUMBERED.findall(module)
    key = NUMBERED.sub("{}", module)
    modules = family.modules[key]
    if len(modules) == 1:
        widths = [shape[-1]]
        scales = [1.0]
    else:
        key_width = config.key_value_heads * config.head_dim
        widths = [config.num_heads * config.head_dim, key_width, key_width]
        scales = [family.query_scale(config), 1.0, 1.0]
    is_transposed = len(shape) == 2 and key in family.transposed
    pieces = []
    start = 0
    for theirs, width, scale in zip(modules, widths, scales, strict=True):
        share = theirs if isinstance(theirs, Share) else Share(theirs, 0, 1)
        their_shape = (*shape[:-1], width * share.parts)
        pieces.append(
            Piece(
                name=f"{share.module.format(*numbers)}.{family.leaves[leaf]}",
                shape=their_shape[::-1] if is_transposed else their_shape,
                start=start,
                stop=start + width,
                first=width * share.number,
                is_transposed=is_transposed,
                scale=scale,
                offset=1.0 if key in family.minus_one else 0.0,
                heads=config.num_heads if key in family.by_head else 0,
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


def other_values(
    config: GPTConfig, required: Mapping[str, Any], possible: Collection[str] = frozenset()
) -> list[str]:
    """Returns which fields of a config of ours have other values than a format can hold, in words.

    Args:
        required: fields that have one value there.
        possible: fields that may have any. Others of `OPTIONS` are as by default.
    """
    required = {**{name: value for name, value in OPTIONS.items() if name not in possible}, **required}
    values = meaning(config)
    return [
        f"{name} is {values[name]!r}, not {value!r}"
        for name, value in required.items()
        if values[name] != value
    ]


def meaning(config: GPTConfig) -> dict[str, Any]:
    """Returns the fields of a config by name, so that models that compute the same have the same: what None
    stands for where every format says it, and None where a value is what None stands for.
    """
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    values["attention_bias"] = config.has_attention_bias
    values["hidden_dim"] = config.mlp_dim
    values["normalized_expert_weights"] = config.has_normalized_expert_weights
    if config.key_value_heads == config.num_heads:
        values["num_key_value_heads"] = None
    for name, implied in {
        "attention_head_dim": config.embedding_dim / config.num_heads,
        "attention_output_bias": config.has_attention_bias,
        "attention_scale": 1.0 / math.sqrt(config.head_dim),
        "rotary_dim": config.head_dim,
    }.items():
        if values[name] == implied:
            values[name] = None
    if config.num_experts is None:
        values |= {name: OPTIONS[name] for name in ("experts_per_token", "normalized_expert_weights")}
    are_local = {config.is_local(layer) for layer in range(config.num_layers)}
    if len(are_local) == 1:
        values["layer_types"] = ()
    if are_local == {False}:
        values |= {"sliding_window": None, "local_rotary_base": None}
    return values


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
