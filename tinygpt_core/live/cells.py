"""How one cell of a view was made: the dot product, or other formula, with its numbers, computed again from
the views before it and the parameters.
"""

from __future__ import annotations

import math
from typing import Any

from ..dtype import DType
from ..kernels.base import lookup
from ..kernels.ngrams import HashNgrams
from ..nn.activations import GATED_ACTIVATIONS
from ..nn.embedding import SCALE
from .views import HEADS, Trace, dot

MOST_TERMS = 64  # of a sum; the others are added up
SIGMOID = "sigmoid"


def explain_cell(trace: Trace, name: str, row: int, column: int, head: int = 0) -> dict[str, Any]:
    """Returns how a cell was made.

    Args:
        trace: the forward pass.
        name: of the view.
        row, column: of the cell, counted from 0.
        head: which, where the view has heads.

    Returns:
        `value` as the model has it, `computed` as it is computed again, in doubles; `formula`; `terms`: for a
        sum of products the name and number of both factors and the product, the largest first, with
        `other_terms` and their `other_sum`; `steps`: name and number of what else went into it.

    Raises:
        ValueError: there is no such view or cell.
    """
    view = trace.views.get(name)
    if view is None:
        raise ValueError(f"there is no view {name!r}")
    if not 0 <= head < len(view.matrices):
        raise ValueError(f"{name} has {len(view.matrices)} heads, and none is number {head}")
    matrix = view.matrices[head]
    if not (0 <= row < len(matrix) and 0 <= column < len(matrix[0])):
        shape = f"{len(matrix)} × {len(matrix[0])}"
        raise ValueError(f"{name} has {shape} cells, and none at row {row}, column {column}")
    made = _Cell(trace, row, column, head).make(name)
    value = matrix[row][column]
    return {
        "view": name,
        "title": view.title,
        "axes": list(view.axes),
        "row": row,
        "column": column,
        "head": head if len(view.axes) == 3 else None,
        "value": value,
        "formula": view.formula,
        "inputs": list(view.inputs),
        **made,
    }


class _Cell:
    """The place of a cell, and how each kind of view is computed."""

    def __init__(self, trace: Trace, row: int, column: int, head: int) -> None:
        self.trace = trace
        self.model: Any = trace.model
        self.row = row
        self.column = column
        self.head = head

    def make(self, name: str) -> dict[str, Any]:
        """Returns what `explain_cell` says of how it was made."""
        pieces = name.split(".")
        if pieces[0] == "blocks":
            self.block = self.model.transformer_blocks[int(pieces[1])]
            self.layer = int(pieces[1])
            self.own = f"blocks.{pieces[1]}"
        made: dict[str, Any] = getattr(self, "_" + pieces[-1])()
        return {"terms": [], "other_terms": 0, "other_sum": 0.0, "steps": []} | made

    # ---- the ends

    def _embedding(self) -> dict[str, Any]:
        token = self.trace.ids[self.row]
        value = self.model.embedding_layer.embeddings.buffer[token, self.column].item()
        return {"computed": value, "steps": [[f"E[{token}, {self.column}]", value]]}

    def _positions(self) -> dict[str, Any]:
        value = self.model.position_embedding_layer.embeddings.buffer[self.row, self.column].item()
        return {"computed": value, "steps": [[f"P[{self.row}, {self.column}]", value]]}

    def _ngrams(self) -> dict[str, Any]:
        layer = self.model.ngram_embedding_layer
        ids = type(layer.tables[0].embeddings.buffer)([self.trace.ids], DType.int32)
        rows, _ = lookup(HashNgrams, type(ids)).forward(ids, table_sizes=layer.table_sizes)
        steps: list[list[Any]] = []
        for place, table in enumerate(layer.tables):
            row = rows[place, 0, self.row].item()
            name = f"the last {place + 2} tokens: T{place + 1}[{row}, {self.column}]"
            steps.append([name, table.embeddings.buffer[row, self.column].item()])
        total = math.fsum(value for _, value in steps)
        return {"computed": SCALE * total, "steps": [*steps, ["sum", total], ["scale", SCALE]]}

    def _stream(self) -> dict[str, Any]:
        if hasattr(self, "own"):
            return self._sum(f"{self.own}.middle", f"{self.own}.mlp")
        return self._sum(*self.trace.views["stream"].inputs)

    def _middle(self) -> dict[str, Any]:
        below = self.trace.views[f"{self.own}.middle"].inputs[0]
        return self._sum(below, f"{self.own}.attn")

    def _logits(self) -> dict[str, Any]:
        if not self.model.config.ngram_prior:
            return self._network()
        z, log_p = (self.trace.matrix(name)[self.row][self.column] for name in ("network", "counting"))
        trust = self.trace.matrix("confidence")[self.row][0]
        steps = [["z, what the network adds", z], ["c, the trust in counting", trust], ["log p", log_p]]
        return {"computed": z + trust * log_p, "steps": steps}

    def _network(self) -> dict[str, Any]:
        if not self.model.config.tied_head:
            return self._linear("norm", self.model.head)
        x = self.trace.matrix("norm")[self.row]
        weights = self.model.embedding_layer.embeddings.buffer[self.column].to_python()
        return self._products(("x", x), ("E", weights))

    def _counting(self) -> dict[str, Any]:
        """p, level by level, and as a sum of what each context says, as far as longer ones lend to it."""
        counting = self.model.ngram_prior.counting
        context = self.trace.ids[: self.row + 1]
        found = counting.steps(context, self.column)
        steps: list[list[Any]] = [["nothing counted: p = 1 / V", 1.0 / counting.vocab_size]]
        for step in found:
            kinds = f"{step.kinds} kind{'s' * (step.kinds != 1)}"
            seen = f"{step.times} of {step.total}, {kinds}, d {step.discount:g}"
            steps.append([f"{step.length} back: {seen}", step.probability])
        shares: list[tuple[str, float]] = []
        lent = [1.0]
        for step in reversed(found):
            own = max(step.times - step.discount, 0.0) / step.total
            shares.append((f"{step.length} back: ({step.times} - {step.discount:g}) / {step.total}", own))
            lent.append(lent[-1] * step.discount * step.kinds / step.total)
        shares.append(("1 / V", 1.0 / counting.vocab_size))
        said = [(name, own, left) for (name, own), left in zip(shares, lent, strict=True) if own]
        made = self._sum_of([[name, own, "lent", left, own * left] for name, own, left in said])
        longest = min(len(context), counting.context_length)
        note = (
            "Each line says how much p is: max(count - d, 0) / total + d · kinds / total · the p above it. "
            f"With {longest} back, counts say how often this token followed; with fewer, how many different "
            "tokens stood before the context and this token. A context that was never seen has no line."
        )
        log_p = math.log(made["computed"])
        return made | {"computed": log_p, "steps": [*steps, ["log p", log_p]], "note": note}

    def _confidence(self) -> dict[str, Any]:
        return self._linear("norm", self.model.ngram_prior.confidence)

    def _probabilities(self) -> dict[str, Any]:
        return self._softmax(self.trace.matrix("logits")[self.row], "logit")

    def _norm(self) -> dict[str, Any]:
        return self._normalized(self.trace.views["norm"].inputs[0], self.model.layer_norm)

    # ---- a block

    def _ln_1(self) -> dict[str, Any]:
        return self._normalized(self.trace.views[f"{self.own}.ln_1"].inputs[0], self.block.ln_1)

    def _ln_2(self) -> dict[str, Any]:
        return self._normalized(f"{self.own}.middle", self.block.ln_2)

    def _query(self) -> dict[str, Any]:
        return self._projected(0)

    def _key(self) -> dict[str, Any]:
        return self._projected(self.block.attn.num_heads)

    def _value(self) -> dict[str, Any]:
        return self._projected(self.block.attn.num_heads + self.block.attn.num_key_value_heads)

    def _projected(self, first: int) -> dict[str, Any]:
        column = (first + self.head) * self.block.attn.head_dim + self.column
        return self._linear(f"{self.own}.ln_1", self.block.attn.query_key_value, column)

    def _turned_query(self) -> dict[str, Any]:
        return self._turned("query")

    def _turned_key(self) -> dict[str, Any]:
        return self._turned("key")

    def _turned(self, name: str) -> dict[str, Any]:
        half = self.block.attn.head_dim // 2
        place = self.column % half
        angle = self.row * self.block.attn.rotary.base ** (-place / half)
        x = self.trace.matrix(f"{self.own}.{name}", self.head)[self.row]
        a, b = x[place], x[place + half]
        cosine, sine = math.cos(angle), math.sin(angle)
        is_first = self.column < half
        value = a * cosine - b * sine if is_first else b * cosine + a * sine
        sign = "a cos - b sin" if is_first else "b cos + a sin"
        steps = [
            [f"a = {name}[{place}]", a],
            [f"b = {name}[{place + half}]", b],
            ["angle", angle],
            ["cos", cosine],
            ["sin", sine],
            [sign, value],
        ]
        return {"computed": value, "steps": steps}

    def _scores(self) -> dict[str, Any]:
        query, key = self.trace.views[f"{self.own}.scores"].inputs
        shared = self.head // (self.block.attn.num_heads // self.block.attn.num_key_value_heads)
        q = self.trace.matrix(query, self.head)[self.row]
        k = self.trace.matrix(key, shared)[self.column]
        made = self._products(("q", q), ("k", k))
        scale = 1.0 / math.sqrt(self.block.attn.head_dim)
        product = made["computed"]
        made["computed"] = product * scale
        made["steps"] = [["q · k", product], ["1 / sqrt(size)", scale]]
        if self.column > self.row:
            made["note"] = "This position comes later: the score is left out before the softmax."
        return made

    def _attention(self) -> dict[str, Any]:
        if self.column > self.row:
            return {"computed": 0.0, "note": "This position comes later, so it gets nothing."}
        scores = self.trace.matrix(f"{self.own}.scores", self.head)[self.row]
        return self._softmax(scores[: self.row + 1], "score")

    def _values(self) -> dict[str, Any]:
        if (self.layer, self.head) in self.trace.switches.heads:
            return {"computed": 0.0, "note": "This head is switched off."}
        shared = self.head // (self.block.attn.num_heads // self.block.attn.num_key_value_heads)
        weights = self.trace.matrix(f"{self.own}.attention", self.head)[self.row]
        column = [row[self.column] for row in self.trace.matrix(f"{self.own}.value", shared)]
        seen = self.row + 1
        return self._products(("p", weights[:seen]), ("value", column[:seen]))

    def _attn(self) -> dict[str, Any]:
        if (self.layer, "attention") in self.trace.switches.parts:
            return {"computed": 0.0, "note": "This attention is switched off."}
        heads = self.trace.views[f"{self.own}.values"].matrices
        x = [value for head in heads for value in head[self.row]]
        return self._linear_of(x, self.block.attn.out, self.column)

    def _hidden(self) -> dict[str, Any]:
        return self._linear(f"{self.own}.ln_2", self.block.mlp.layers[0])

    def _down(self) -> dict[str, Any]:
        return self._linear(f"{self.own}.activated", self.block.mlp.layers[1])

    def _gate(self) -> dict[str, Any]:
        return self._linear(f"{self.own}.ln_2", self.block.mlp.gate)

    def _up(self) -> dict[str, Any]:
        return self._linear(f"{self.own}.ln_2", self.block.mlp.up)

    def _activated(self) -> dict[str, Any]:
        return self._activation(f"{self.own}.hidden", self.model.config.activation)

    def _gated(self) -> dict[str, Any]:
        gate = self.trace.matrix(f"{self.own}.gate")[self.row][self.column]
        up = self.trace.matrix(f"{self.own}.up")[self.row][self.column]
        kind = GATED_ACTIVATIONS[self.model.config.activation]
        opened = activated(kind, gate)
        steps = [["g", gate], [f"{kind}(g)", opened], ["u", up]]
        return {"computed": opened * up, "steps": steps}

    def _mlp(self) -> dict[str, Any]:
        if (self.layer, "mlp") in self.trace.switches.parts:
            return {"computed": 0.0, "note": "This MLP is switched off."}
        below = self.trace.views[f"{self.own}.mlp"].inputs[0]
        if below.endswith(".down"):
            return self._activation(below, self.model.config.activation)
        mlp = self.block.mlp
        return self._linear(below, mlp.down if "down" in mlp else mlp.layers[-1])

    # ---- the formulas

    def _sum(self, *names: str) -> dict[str, Any]:
        values = [self.trace.matrix(name)[self.row][self.column] for name in names]
        titles = [self.trace.views[name].title for name in names]
        steps = [list(pair) for pair in zip(titles, values, strict=True)]
        return {"computed": math.fsum(values), "steps": steps}

    def _linear(self, name: str, module: Any, column: int | None = None) -> dict[str, Any]:
        return self._linear_of(self.trace.matrix(name)[self.row], module, column)

    def _linear_of(self, x: list[float], module: Any, column: int | None = None) -> dict[str, Any]:
        column = self.column if column is None else column
        made = self._products(("x", x), ("W", module.weights.buffer[:, column].to_python()))
        if "bias" in module:
            bias = module.bias.buffer[column].item()
            made["steps"] = [["x · W", made["computed"]], ["b", bias]]
            made["computed"] += bias
        return made

    def _products(self, a: tuple[str, list[float]], b: tuple[str, list[float]]) -> dict[str, Any]:
        terms: list[list[Any]] = [
            [f"{a[0]}[{place}]", x, f"{b[0]}[{place}]", y, x * y]
            for place, (x, y) in enumerate(zip(a[1], b[1], strict=True))
        ]
        return self._sum_of(terms) | {"computed": dot(a[1], b[1])}

    def _sum_of(self, terms: list[list[Any]]) -> dict[str, Any]:
        """A sum of products: names and values of the two factors, and their product."""
        terms = sorted(terms, key=lambda term: -abs(term[4]))
        others = [term[4] for term in terms[MOST_TERMS:]]
        return {
            "computed": math.fsum(term[4] for term in terms),
            "terms": terms[:MOST_TERMS],
            "other_terms": len(others),
            "other_sum": math.fsum(others),
        }

    def _normalized(self, name: str, module: Any) -> dict[str, Any]:
        x = self.trace.matrix(name)[self.row]
        own = x[self.column]
        weight = module.weights.buffer[self.column].item()
        if type(module).__name__ == "RMSNorm":
            size = math.sqrt(math.fsum(value * value for value in x) / len(x) + module.eps)
            steps = [["x", own], ["sqrt(mean of squares + eps)", size], ["w", weight]]
            return {"computed": own / size * weight, "steps": steps}
        mean = math.fsum(x) / len(x)
        variance = math.fsum((value - mean) ** 2 for value in x) / len(x)
        deviation = math.sqrt(variance + module.eps)
        bias = module.bias.buffer[self.column].item() if "bias" in module else 0.0
        steps = [["x", own], ["mean", mean], ["sqrt(variance + eps)", deviation], ["w", weight], ["b", bias]]
        return {"computed": (own - mean) / deviation * weight + bias, "steps": steps}

    def _activation(self, name: str, kind: str) -> dict[str, Any]:
        x = self.trace.matrix(name)[self.row][self.column]
        return {"computed": activated(kind, x), "steps": [["x", x]]}

    def _softmax(self, row: list[float], what: str) -> dict[str, Any]:
        largest = max(row)
        total = math.fsum(math.exp(value - largest) for value in row)
        own = math.exp(row[self.column] - largest)
        steps = [
            [what, row[self.column]],
            [f"largest {what} of the row", largest],
            [f"exp({what} - largest)", own],
            ["sum of them over the row", total],
        ]
        return {"computed": own / total, "steps": steps}


def activated(kind: str, x: float) -> float:
    """Returns an activation function of a number, by its textbook formula."""
    if kind == "relu":
        return max(x, 0.0)
    if kind == "relu2":
        return max(x, 0.0) ** 2
    if kind == "tanh":
        return math.tanh(x)
    if kind == "gelu_exact":
        return x / 2 * (1 + math.erf(x / math.sqrt(2)))
    if kind == "gelu":
        return x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if kind == "linear":
        return x
    share = 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
    return share if kind == SIGMOID else x * share  # the other one is silu


def explain_attention(trace: Trace, layer: int, head: int, row: int) -> dict[str, Any]:
    """Returns how one position of one head looks back, step by step, with all numbers.

    Returns:
        `query` (D); for each position of the text in `keys`: `product` q · k, `scaled`, whether it is
        `masked`, `weight` after the softmax, its `value` (D) and `weighted`, weight · value (D); `output`,
        the sum of the weighted values; `scale`.

    Raises:
        ValueError: there is no such layer, head or position.
    """
    own = f"blocks.{layer}"
    if f"{own}.scores" not in trace.views:
        raise ValueError(f"there is no block {layer}")
    view = trace.views[f"{own}.attention"]
    if not (0 <= head < len(view.matrices) and 0 <= row < len(view.matrices[0])):
        raise ValueError(f"block {layer} has no head {head} or no position {row}")
    attn = trace.model.transformer_blocks[layer].attn
    shared = head // (attn.num_heads // attn.num_key_value_heads)
    query_name, key_name = trace.views[f"{own}.scores"].inputs
    query = trace.matrix(query_name, head)[row]
    keys = trace.matrix(key_name, shared)
    values = trace.matrix(f"{own}.value", shared)
    scale = 1.0 / math.sqrt(attn.head_dim)
    weights = trace.matrix(f"{own}.attention", head)[row]
    entries = []
    for place, (key, value, weight) in enumerate(zip(keys, values, weights, strict=True)):
        product = dot(query, key)
        masked = place > row
        entries.append(
            {
                "key": key,
                "product": product,
                "scaled": product * scale,
                "masked": masked,
                "weight": weight,
                "value": value,
                "weighted": [weight * number for number in value],
            }
        )
    output = [
        math.fsum(weight * value[i] for weight, value in zip(weights, values, strict=True))
        for i in range(attn.head_dim)
    ]
    is_off = (layer, head) in trace.switches.heads
    return {
        "layer": layer,
        "head": head,
        "row": row,
        "axes": list(HEADS),
        "scale": scale,
        "query": query,
        "keys": entries,
        "output": [0.0] * attn.head_dim if is_off else output,
        "is_off": is_off,
    }
