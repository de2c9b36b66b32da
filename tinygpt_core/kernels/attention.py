"""Attention: every position looks at others, and takes the mean of their values, weighted by how well their
keys fit its query.

    y = softmax(q k^T / sqrt(D)) v

for each head of each sequence, with a query q, a key k and a value v of D numbers at every position.

Where q, k and v come from. A linear map gives each position the three side by side, each in H heads of D
numbers. `PackedAttention` takes them apart, without a copy, and puts the results side by side again:

    one position of (B, T, 3 H D)
    +----------- query -----------+------------ key ------------+----------- value -----------+
    | head 0 | head 1 | .. | H - 1| head 0 | head 1 | .. | H - 1| head 0 | head 1 | .. | H - 1|
    +--------+--------+----+------+--------+--------+----+------+--------+--------+----+------+
     D numbers

    reshape       (B, T, 3, H, D)
    [:, :, part]  (B, T, H, D)       for each of the three
    permute       (B, H, T, D)       a matrix for each head: a row of D numbers for each position

Which keys a query sees. The scores q k^T of a head are a matrix with a row for each of T queries and a column
for each of S keys. Causal attention leaves out what comes later: those scores become -infinity, so that the
softmax gives them the weight 0. The queries are the last T of the S positions: all of them in training, and
the new ones where keys and values of earlier positions are kept from before:

    T = S = 5                              T = 2, S = 5
              key 0  1  2  3  4                      key 0  1  2  3  4
    query 0       x  .  .  .  .            query 0       x  x  x  x  .
    query 1       x  x  .  .  .            query 1       x  x  x  x  x
    query 2       x  x  x  .  .
    query 3       x  x  x  x  .            x  a score that counts
    query 4       x  x  x  x  x            .  -infinity

Notation as in `base`.
"""

from __future__ import annotations

import math
from typing import Any

from .. import shape_errors
from ..buffer.base import Buffer
from ..dtype import DType
from ..shape_errors import ShapeError
from .base import Gradient, Kernel, lookup, require_float
from .softmax import Softmax


class Attention(Kernel):
    """y = softmax(q k^T scale) v for each head: q (B, H, T, D), k and v (B, H, S, D), y (B, H, T, D).

    Causal: position i of the T queries, which are the last of the S positions, sees keys j <= i + S - T. The
    scale is 1 / sqrt(D) unless given. With P the probabilities and dP = g v^T: dv = P^T g, dS = P (dP -
    sum(dP P)), dq = dS k scale, dk = dS^T q scale.
    Source: Vaswani et al., "Attention Is All You Need", 2017, equation 1.

    Raises:
        TypeError: operands that are not of one float dtype.
        ShapeError: shapes that do not fit, or a causal T above S.
    """

    @staticmethod
    def check(query: Buffer, key: Buffer, value: Buffer, causal: bool) -> None:
        """Raises TypeError or ValueError unless shapes and dtypes fit."""
        require_float("attention", query=query, key=key, value=value)
        fits = query.ndim == key.ndim == 4 and key.shape == value.shape and query.shape[:2] == key.shape[:2]
        if not fits or query.shape[3] != key.shape[3] or (causal and query.shape[2] > key.shape[2]):
            raise ShapeError(shape_errors.attention(query.shape, key.shape, value.shape, causal))

    @staticmethod
    def scale_of(query: Buffer, scale: float | None) -> float:
        """Returns the scale: 1 / sqrt(D) unless given, and 1 where D is 0, which leaves nothing to scale."""
        return 1.0 / math.sqrt(query.shape[3] or 1) if scale is None else scale

    @staticmethod
    def positions(scores: Buffer) -> tuple[Buffer, Buffer]:
        """Returns, for scores (B, H, T, S), where the queries (T, 1), which are the last, and the keys (S)
        stand.
        """
        queries, keys = scores.shape[2:]
        kind = type(scores)
        of_queries = kind.arange(keys - queries, keys, dtype=DType.int64).reshape((queries, 1))
        return of_queries, kind.arange(0, keys, dtype=DType.int64)

    @staticmethod
    def comes_later(scores: Buffer) -> Buffer:
        """Returns, for scores (B, H, T, S), a bool matrix (T, S): whether key j comes after query i."""
        of_queries, of_keys = Attention.positions(scores)
        return of_keys > of_queries

    @staticmethod
    def forward(
        query: Buffer, key: Buffer, value: Buffer, *, causal: bool = True, scale: float | None = None
    ) -> tuple[Buffer, Any]:
        Attention.check(query, key, value, causal)
        scale = Attention.scale_of(query, scale)
        scores = query.matmul(key.transpose(2, 3)) * scale
        if causal:
            scores = Buffer.where(Attention.comes_later(scores), -math.inf, scores)
        probabilities, _ = Softmax.forward(scores, axis=3)
        return probabilities.matmul(value), (query, key, value, probabilities, scale)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        query, key, value, probabilities, scale = saved
        of_probabilities = grad.matmul(value.transpose(2, 3))
        (of_scores,) = Softmax.backward((probabilities, 3), of_probabilities)
        of_scores = of_scores * scale
        return (
            lambda: of_scores.matmul(key),
            lambda: of_scores.transpose(2, 3).matmul(query),
            lambda: probabilities.transpose(2, 3).matmul(grad),
        )


class WindowedAttention(Kernel):
    """y = softmax(c tanh(q k^T scale / c)) v for each head, in which a query sees a window of keys: shapes,
    scale and order as in causal `Attention`.

    Position i of the queries sees keys j <= i + S - T, and of these the last `window`; None means all. c is
    `soft_cap`, beyond which no score goes; with None scores are q k^T scale. With P the probabilities and
    dP = g v^T: dv = P^T g, dS = P (dP - sum(dP P)) (1 - tanh^2), dq = dS k scale, dk = dS^T q scale.
    Source: Beltagy, Peters, Cohan, "Longformer", 2020 (window); Gemma Team, "Gemma 2", 2024 (soft cap).

    Raises:
        TypeError: operands that are not of one float dtype.
        ShapeError: shapes that do not fit, or T above S.
        ValueError: a window below 1, or a soft cap that is not above 0.
    """

    @staticmethod
    def is_hidden(scores: Buffer, window: int | None) -> Buffer:
        """Returns, for scores (B, H, T, S), a bool matrix (T, S): whether a query does not see a key."""
        of_queries, of_keys = Attention.positions(scores)
        later = of_keys > of_queries
        return later if window is None else Buffer.where(of_keys > of_queries - window, later, True)

    @staticmethod
    def forward(
        query: Buffer,
        key: Buffer,
        value: Buffer,
        *,
        window: int | None = None,
        soft_cap: float | None = None,
        scale: float | None = None,
    ) -> tuple[Buffer, Any]:
        Attention.check(query, key, value, causal=True)
        if window is not None and window < 1:
            raise ValueError(f"attention: window must be at least 1, not {window}")
        if soft_cap is not None and not soft_cap > 0.0:
            raise ValueError(f"attention: soft_cap must be above 0, not {soft_cap}")
        scale = Attention.scale_of(query, scale)
        scores = query.matmul(key.transpose(2, 3)) * scale
        bent = None
        if soft_cap is not None:
            bent = (scores * (1.0 / soft_cap)).tanh()
            scores = bent * soft_cap
        scores = Buffer.where(WindowedAttention.is_hidden(scores, window), -math.inf, scores)
        probabilities, _ = Softmax.forward(scores, axis=3)
        return probabilities.matmul(value), (query, key, value, probabilities, bent, scale)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        query, key, value, probabilities, bent, scale = saved
        of_probabilities = grad.matmul(value.transpose(2, 3))
        (of_scores,) = Softmax.backward((probabilities, 3), of_probabilities)
        if bent is not None:
            of_scores = of_scores * (1.0 - bent * bent)
        of_scores = of_scores * scale
        return (
            lambda: of_scores.matmul(key),
            lambda: of_scores.transpose(2, 3).matmul(query),
            lambda: probabilities.transpose(2, 3).matmul(grad),
        )


class PackedAttention(Kernel):
    """Causal self-attention of a packed x (B, T, 3 H D), which holds query, key and value side by side, each
    split into H heads of D.

    y = softmax(q k^T / sqrt(D)) v for each head, with the heads side by side again, (B, T, H D); dL/dx holds
    dL/dq, dL/dk and dL/dv of `Attention` side by side. Source: Vaswani et al., "Attention Is All You Need",
    2017.

    Raises:
        TypeError: x is not floating.
        ShapeError: x has no such shape.
    """

    @staticmethod
    def check(x: Buffer, num_heads: int) -> None:
        """Raises TypeError or ShapeError unless x is floating and (B, T, 3 H D)."""
        require_float("packed_attention", x=x)
        if x.ndim != 3 or x.shape[2] % (3 * num_heads):
            expected = ("batch", "positions", f"3 x {num_heads} heads x their size")
            raise ShapeError(
                shape_errors.wrong_shape("packed_attention", "input", x.shape, expected=expected)
            )

    @staticmethod
    def heads(x: Buffer, num_heads: int) -> tuple[Buffer, ...]:
        """Returns views (B, H, T, D) of the query, key and value; raises TypeError or ShapeError where x has
        none.
        """
        PackedAttention.check(x, num_heads)
        batch, length, width = x.shape
        split = x.reshape((batch, length, 3, num_heads, width // (3 * num_heads)))
        return tuple(split[:, :, part].permute((0, 2, 1, 3)) for part in range(3))

    @staticmethod
    def side_by_side(y: Buffer) -> Buffer:
        """Returns heads (B, H, T, D) as (B, T, H D)."""
        batch, heads, length, size = y.shape
        return y.permute((0, 2, 1, 3)).reshape((batch, length, heads * size))

    @staticmethod
    def forward(x: Buffer, *, num_heads: int) -> tuple[Buffer, Any]:
        query, key, value = PackedAttention.heads(x, num_heads)
        attention = lookup(Attention, type(x))
        y, saved = attention.forward(query, key, value, causal=True)
        return PackedAttention.side_by_side(y), (x, attention, saved, y.shape)

    @staticmethod
    def backward(saved: Any, grad: Buffer) -> tuple[Gradient, ...]:
        x, attention, saved_by_attention, (batch, heads, length, size) = saved
        of_heads = grad.reshape((batch, length, heads, size)).permute((0, 2, 1, 3))
        parts = []
        for part in attention.backward(saved_by_attention, of_heads):
            of_part = part() if callable(part) else part
            parts.append(PackedAttention.side_by_side(of_part))
        return (type(x).concatenate(parts, axis=2),)
