"""One forward pass with everything that is between its ends: each value a named view, with its axes and the
views that it was made from.

The model itself runs, watched by hooks, so the numbers are the model's own. Only what no kernel hands out,
the scores and probabilities of attention, is computed here, in doubles, from the queries and keys that ran.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from .. import operations
from ..buffer.base import Buffer
from ..dtype import DType
from ..module import Module
from ..nn.attention import CausalSelfAttention
from ..nn.embedding import SCALE
from ..nn.experts import MixtureOfExperts
from ..nn.gpt import GPT
from ..nn.inspection import ForwardHook
from ..nn.mlp import MLP
from ..tensor import Tensor, apply_op, no_grad

MOST_POSITIONS = 64  # of a text that is shown
Matrix = list[list[float]]
ATTENTION, MULTI_LAYER = "attention", "mlp"
PARTS = (ATTENTION, MULTI_LAYER)  # of a block, which can be switched off


@dataclass(frozen=True)
class Switches:
    """What is switched off in a forward pass.

    Attributes:
        heads: pairs of a block and a head of it, whose values then count as zeros.
        parts: pairs of a block and "attention" or "mlp", which then adds nothing to the stream.
    """

    heads: frozenset[tuple[int, int]] = frozenset()
    parts: frozenset[tuple[int, str]] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.heads or self.parts)


@dataclass(frozen=True)
class View:
    """A value of a forward pass, as a matrix with a row a position, or one for each head.

    Attributes:
        name: by which it is asked for, such as "blocks.0.query".
        title: what it is, in a few words.
        axes: the names of its axes, from the first.
        matrices: one, or one for each head; rows of floats.
        formula: how it was made.
        inputs: the names of the views that it was made from.
        section: what it belongs to: "embedding", a block's number, or "head".
    """

    name: str
    title: str
    axes: tuple[str, ...]
    matrices: list[Matrix]
    formula: str
    inputs: tuple[str, ...]
    section: str

    @property
    def shape(self) -> list[int]:
        """The sizes of the axes."""
        sizes = [len(self.matrices[0]), len(self.matrices[0][0])]
        return [len(self.matrices), *sizes] if len(self.axes) == 3 else sizes


@dataclass
class Trace:
    """A forward pass that was watched.

    Attributes:
        model: that ran.
        ids: the tokens that it read.
        switches: what was off.
        views: by name, in the order in which they are made.
    """

    model: GPT
    ids: list[int]
    switches: Switches
    views: dict[str, View] = field(default_factory=dict)

    def add(self, name: str, title: str, axes: Sequence[str], value: Any, formula: str, *inputs: str) -> None:
        """Adds a view; `value` is a Tensor or Buffer with a leading batch axis of 1, or matrices."""
        if isinstance(value, (Tensor, Buffer)):
            rows = value.to_python()[0]
            value = rows if len(axes) == 3 else [rows]
        piece = name.split(".")
        section = piece[1] if piece[0] == "blocks" else "head" if piece[0] in HEAD else "embedding"
        self.views[name] = View(name, title, tuple(axes), value, formula, inputs, section)

    def matrix(self, name: str, head: int = 0) -> Matrix:
        """Returns the matrix of a view; of a view with heads that of one head."""
        return self.views[name].matrices[head]


HEAD = ("norm", "network", "counting", "confidence", "logits", "probabilities")
STREAM = ("position", "width")
HEADS = ("head", "position", "size of a head")
MAP = ("head", "position that looks", "position looked at")


def trace(model: GPT, ids: Sequence[int], switches: Switches | None = None) -> Trace:
    """Runs a model over tokens and returns every value on the way.

    Args:
        model: is out of training mode meanwhile.
        ids: at least one, at most as many as the context holds.
        switches: what is off.

    Raises:
        ValueError: no ids, more than the context, or a head or block that the model lacks.
    """
    if not ids:
        raise ValueError("there is no token to read")
    switches = switches or Switches()
    check_switches(model, switches)
    seen = _run(model, ids, switches)
    result = Trace(model, list(ids), switches)
    below = _add_embeddings(result, seen)
    for layer in range(model.config.num_layers):
        below = _add_block(result, seen, layer, below)
    kind = model.config.normalization
    result.add("norm", "normalized", STREAM, seen["layer_norm"][1], NORMALIZED[kind], below)
    _add_logits(result, seen)
    axes = ("position", "token")
    probabilities = [[softmax(row) for row in result.matrix("logits")]]
    formula = "p = exp(logit) / sum of exp(logits)"
    result.add("probabilities", "probabilities", axes, probabilities, formula, "logits")
    return result


NORMALIZED = {
    "layer_norm": "y = (x - mean) / sqrt(variance + eps) · w + b",
    "rms_norm": "y = x / sqrt(mean of squares + eps) · w",
}


def check_switches(model: GPT, switches: Switches) -> None:
    """Raises ValueError where a head or block to be switched off is none of the model's."""
    layers, heads = model.config.num_layers, model.config.num_heads
    for layer, what in (*switches.heads, *switches.parts):
        if not 0 <= layer < layers:
            raise ValueError(f"there is no block {layer}: the model has {layers}, counted from 0")
        if isinstance(what, str) and what not in PARTS:
            raise ValueError(f"a block has no part {what!r}: switch off one of {', '.join(PARTS)}")
        if isinstance(what, int) and not 0 <= what < heads:
            raise ValueError(f"there is no head {what}: a block has {heads}, counted from 0")


def _run(model: GPT, ids: Sequence[int], switches: Switches) -> dict[str, Any]:
    """Returns of each module its input and output; of the rotary encoding that of query and key."""
    seen: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            if name in seen:  # the rotary encoding is called for queries, then for keys
                seen[name + ".key"] = (inputs[0], output)
            else:
                seen[name] = (inputs[0], output)

        return hook

    def without_heads(heads: list[int], name: str) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...], output: Any) -> Any:
            size = model.config.head_dim
            rows = inputs[0].to_python()[0]
            for row in rows:
                for head in heads:
                    row[head * size : (head + 1) * size] = [0.0] * size
            kept = Tensor(type(inputs[0].buffer)([rows], inputs[0].dtype))
            output = apply_op(operations.Linear, kept, module.weights, getattr(module, "bias", None))
            seen[name] = (kept, output)
            return output

        return hook

    def nothing(module: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        return output * 0.0

    was_training = model.training
    model.eval()
    with ExitStack() as hooks, no_grad():
        for layer, block in enumerate(model.transformer_blocks):
            parts: tuple[tuple[str, Module], ...] = ((ATTENTION, block.attn), (MULTI_LAYER, block.mlp))
            for part, switched in parts:
                if (layer, part) in switches.parts:
                    hooks.enter_context(ForwardHook(switched, nothing))
        for name, module in model.named_modules():
            hooks.enter_context(ForwardHook(module, keep(name)))
        for layer, block in enumerate(model.transformer_blocks):
            heads = [head for of, head in switches.heads if of == layer]
            if heads:
                name = f"transformer_blocks.{layer}.attn.out"
                hooks.enter_context(ForwardHook(block.attn.out, without_heads(heads, name)))
        try:
            model(token_ids_of(model, ids))
        finally:
            model.train(was_training)
    return seen


def _add_embeddings(result: Trace, seen: dict[str, Any]) -> str:
    """Adds the views of what makes vectors of tokens; returns the name of the stream that enters block 1."""
    model = result.model
    parts = {"embedding": "E[token]"}
    result.add("embedding", "row of the table", STREAM, seen["embedding_layer"][1], "x = E[token]")
    if model.config.positions == "learned":
        table = model.position_embedding_layer.embeddings.buffer[: len(result.ids)].to_python()
        result.add("positions", "row of the positions", STREAM, [table], "p = P[position]")
        parts["positions"] = "P[position]"
    if model.config.ngram_tables:
        rows = seen["ngram_embedding_layer"][1]
        formula = f"n = {SCALE:g} · sum over tables of T[hash of the last tokens]"
        result.add("ngrams", "rows of the last tokens", STREAM, rows, formula)
        parts["ngrams"] = "n"
    formula = f"x = {' + '.join(parts.values())}"
    result.add("stream", "what enters block 1", STREAM, seen["transformer_blocks.0"][0], formula, *parts)
    return "stream"


def _add_block(result: Trace, seen: dict[str, Any], layer: int, below: str) -> str:
    """Adds the views of one block; returns the name of the stream that leaves it."""
    model = result.model
    block = model.transformer_blocks[layer]
    path, own = f"transformer_blocks.{layer}", f"blocks.{layer}"

    def output(part: str) -> Any:
        return seen[f"{path}.{part}"][1]

    kind = NORMALIZED[model.config.normalization]
    result.add(f"{own}.ln_1", "normalized", STREAM, output("ln_1"), kind, below)
    _add_attention(result, seen, layer, block.attn)
    off = (layer, ATTENTION) in result.switches.parts
    formula = "y = 0 (switched off)" if off else _linear(block.attn.out, "heads side by side")
    result.add(f"{own}.attn", "attention adds", STREAM, output("attn"), formula, f"{own}.values")
    middle = seen[f"{path}.ln_2"][0]
    result.add(f"{own}.middle", "after attention", STREAM, middle, "x = x + attention", below, f"{own}.attn")
    result.add(f"{own}.ln_2", "normalized", STREAM, output("ln_2"), kind, f"{own}.middle")
    if isinstance(block.mlp, MixtureOfExperts):
        raise ValueError(f"block {layer} has a mixture of experts, which is not shown here yet")
    last = _add_mlp(result, seen, layer, block.mlp)
    off = (layer, MULTI_LAYER) in result.switches.parts
    if off:
        formula = "y = 0 (switched off)"
    elif last == "down":
        formula = f"y = {model.config.activation}(x)"
    else:
        formula = _linear(block.mlp.layers[-1] if isinstance(block.mlp, MLP) else block.mlp.down, "x")
    result.add(f"{own}.mlp", "MLP adds", STREAM, output("mlp"), formula, f"{own}.{last}")
    stream = seen[path][1]
    names = (f"{own}.middle", f"{own}.mlp")
    result.add(f"{own}.stream", f"after block {layer + 1}", STREAM, stream, "x = x + MLP", *names)
    return f"{own}.stream"


def _linear(module: Any, x: str) -> str:
    return f"y = {x} W + b" if "bias" in module else f"y = {x} W"


def _add_attention(result: Trace, seen: dict[str, Any], layer: int, attn: CausalSelfAttention) -> None:
    path, own = f"transformer_blocks.{layer}.attn", f"blocks.{layer}"
    size = attn.head_dim
    rows = seen[f"{path}.query_key_value"][1].to_python()[0]
    starts = (0, attn.num_heads, attn.num_heads + attn.num_key_value_heads)
    counts = (attn.num_heads, attn.num_key_value_heads, attn.num_key_value_heads)
    formula = _linear(attn.query_key_value, "x")
    for name, start, count in zip(("query", "key", "value"), starts, counts, strict=True):
        first = [(start + head) * size for head in range(count)]
        heads = [[row[place : place + size] for row in rows] for place in first]
        result.add(f"{own}.{name}", name, HEADS, heads, formula, f"{own}.ln_1")
    query, key = f"{own}.query", f"{own}.key"
    if "rotary" in attn:
        turned = "turned by position · base^(-2 i / size)"
        for name, place in (("query", f"{path}.rotary"), ("key", f"{path}.rotary.key")):
            title = f"{name}, turned by its position"
            result.add(f"{own}.turned_{name}", title, HEADS, seen[place][1], turned, f"{own}.{name}")
        query, key = f"{own}.turned_query", f"{own}.turned_key"
    group = attn.num_heads // attn.num_key_value_heads
    scale = 1.0 / math.sqrt(size)
    scores = [
        scores_of(result.matrix(query, head), result.matrix(key, head // group), scale)
        for head in range(attn.num_heads)
    ]
    formula = f"s = q · k / sqrt({size})"
    result.add(f"{own}.scores", "scores", MAP, scores, formula, query, key)
    maps = [
        [softmax(row[: place + 1]) + [0.0] * (len(row) - place - 1) for place, row in enumerate(head)]
        for head in scores
    ]
    formula = "p = softmax(s) over the positions up to its own"
    result.add(f"{own}.attention", "attention", MAP, maps, formula, f"{own}.scores")
    attended = seen[f"{path}.out"][0].to_python()[0]
    heads = [[row[head * size : (head + 1) * size] for row in attended] for head in range(attn.num_heads)]
    formula = "y = sum over positions of p · value"
    names = (f"{own}.attention", f"{own}.value")
    result.add(f"{own}.values", "weighted values", HEADS, heads, formula, *names)


def _add_mlp(result: Trace, seen: dict[str, Any], layer: int, mlp: Any) -> str:
    """Adds the views inside an MLP; returns the last one's name, without the block's."""
    path, own = f"transformer_blocks.{layer}.mlp", f"blocks.{layer}"
    activation = result.model.config.activation
    axes = ("position", "hidden")
    if isinstance(mlp, MLP):
        first, second = (seen[f"{path}.layers.{number}"] for number in (0, 1))
        formula = _linear(mlp.layers[0], "x")
        result.add(f"{own}.hidden", "hidden", axes, first[1], formula, f"{own}.ln_2")
        formula = f"y = {activation}(x)"
        result.add(f"{own}.activated", "activated", axes, second[0], formula, f"{own}.hidden")
        if not mlp.final_activation:
            return "activated"
        formula = _linear(mlp.layers[1], "x")
        result.add(f"{own}.down", "mapped back", STREAM, second[1], formula, f"{own}.activated")
        return "down"
    for name in ("gate", "up"):
        formula = _linear(getattr(mlp, name), "x")
        result.add(f"{own}.{name}", name, axes, seen[f"{path}.{name}"][1], formula, f"{own}.ln_2")
    formula = f"y = {activation}'s gate(g) · u"
    gated = seen[f"{path}.down"][0]
    result.add(f"{own}.gated", "gated", axes, gated, formula, f"{own}.gate", f"{own}.up")
    return "gated"


def _add_logits(result: Trace, seen: dict[str, Any]) -> None:
    """Adds the logits, and for a model that builds on counts what they are made of."""
    model = result.model
    axes = ("position", "token")
    product = "x E^T" if model.config.tied_head else "x W"
    if not model.config.ngram_prior:
        result.add("logits", "logits", axes, seen[""][1], f"logits = {product}", "norm")
        return
    x, back = seen["layer_norm"][1], model.config.ngram_prior
    with no_grad():
        network = model.embedding_layer.as_linear(x) if model.config.tied_head else seen["head"][1]
        counted = model.ngram_prior.log_probabilities(token_ids_of(model, result.ids), dtype=x.dtype)
    result.add("network", "what the network adds", axes, network, f"z = {product}", "norm")
    formula = f"log p, where p(token | the last {back} tokens)"
    result.add("counting", "what counting says", axes, counted, formula)
    confidence = seen["ngram_prior.confidence"][1]
    result.add("confidence", "trust in counting", ("position", "trust"), confidence, "c = x W + b", "norm")
    formula = "logits = z + c · log p"
    result.add("logits", "logits", axes, seen[""][1], formula, "network", "confidence", "counting")


def token_ids_of(model: GPT, ids: Sequence[int]) -> Tensor:
    """Returns a batch (1, T) of one text, where the model lives."""
    buffer_class: Any = type(model.embedding_layer.embeddings.buffer)
    return Tensor(buffer_class([list(ids)], DType.int32))


def scores_of(query: Matrix, key: Matrix, scale: float) -> Matrix:
    """Returns q · k times a scale, (T, S), in doubles."""
    return [[dot(q, k) * scale for k in key] for q in query]


def dot(a: Iterable[float], b: Iterable[float]) -> float:
    """Returns the sum of the products of two rows, in doubles."""
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def softmax(row: Sequence[float]) -> list[float]:
    """Returns exp(x) / sum exp(x), in doubles."""
    largest = max(row)
    weights = [math.exp(value - largest) for value in row]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
