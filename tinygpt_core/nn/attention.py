"""Causal self-attention: each position asks those before it and itself, and takes a mean of their answers.

At each position there are a query, a key and a value, vectors of size D. With those of all positions as the
rows of Q, K and V,

    Y = softmax(Q K^T / sqrt(D) + M) V,    M[i, j] = 0 where j <= i, and -inf elsewhere

The product of query i with key j says how well position j answers position i, M hides what comes later, and
the softmax makes positive weights of it that add up to 1. So Y[i] is a weighted mean of the values of the
positions j <= i. `plain_attention` is this line in Tensors.

Several heads do that side by side, each with a part of the numbers, so each can look at something else. B is
the batch, T the positions of the input, S those that can be attended to (T, and what a cache has of the
positions before them), H the heads, D the size of one, C = H D:

    x                        (B, T, C)
      |  query_key_value     one linear map, C -> 3 C
    packed                   (B, T, 3 C); with 2 heads, a row of it is

        |<------- C ------->|<------- C ------->|<------- C ------->|
        +---------+---------+---------+---------+---------+---------+
        | query 0 | query 1 |  key 0  |  key 1  | value 0 | value 1 |
        +---------+---------+---------+---------+---------+---------+
        |<-- D -->|

      |  split into heads; the axes of positions and heads change places
    Q (B, H, T, D)   K (B, H, S, D)   V (B, H, S, D)
      |  for each head by itself: softmax(Q K^T / sqrt(D) + M), (B, H, T, S); with T = S = 4

                   key  0  1  2  3
          query 0     [ #  .  .  . ]     # a weight
          query 1     [ #  #  .  . ]     . 0: j > i is not seen yet
          query 2     [ #  #  #  . ]
          query 3     [ #  #  #  # ]     a row adds up to 1

      |  times V
    Y                        (B, H, T, D)
      |  the heads side by side again
    attended                 (B, T, C)
      |  out                 one linear map, C -> C
    y                        (B, T, C)

Where there are fewer heads of keys and values than of queries (grouped queries), say G, the row has H + 2 G
parts instead of 3 H, and each key and value serves H / G queries.
"""

from __future__ import annotations

import math

from .. import operations, shape_errors
from ..module import Module
from ..shape import ShapeError
from ..tensor import Tensor, apply_op
from .arguments import check_divisible, check_rotary, check_size
from .cache import KeyValueCache
from .documents import document_attention
from .linear import FullyConnectedLayer
from .normalization import RMSNorm
from .rotary import RotaryEncoding, RotaryScaling


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Returns softmax(Q K^T / sqrt(D) + M) V for each head, as a textbook writes it.

    `CausalSelfAttention` does the same with one operation, of which backends have fast versions;
    tests/test_nn.py compares values and gradients of the two.

    Shape:
        (B, H, T, D) three times -> (B, H, T, D).
    """
    length = query.shape[2]
    head_dim = query.shape[3]
    scores = query @ key.transpose(2, 3) / math.sqrt(head_dim)
    is_seen = Tensor.ones((length, length)).tril() == 1.0
    weights = Tensor.where(is_seen, scores, -math.inf).softmax(axis=3)
    return weights @ value


class CausalSelfAttention(Module):
    """Multi-head causal self-attention: `Y = softmax(Q K^T / sqrt(D)) V` for each head; position i sees
    positions j <= i.

    Query, key and value come from one packed linear map (C -> 3 C, in this order, each split into heads).
    With fewer heads of keys and values, G, the map has H D + 2 G D columns, and query head h uses key and
    value head h // (H / G).

    Args:
        embedding_dim: C.
        max_seq_length: the longest T that is accepted.
        num_heads: H; divides C unless head_dim is given.
        num_key_value_heads: G; divides H. None means H.
        head_dim: D. None means C / H.
        bias: whether the packed map has a bias.
        output_bias: whether `out` has one; None means as `bias`.
        rotary: whether queries and keys are rotated by their positions (`RotaryEncoding` with rotary_base,
            rotary_dim and rotary_scaling).
        query_key_norm: whether queries and keys of each head are normalized (`RMSNorm` with eps) before.
        norm_across_heads: whether those of all heads are normalized together.
        window: how many positions, the last ones and its own, each sees; None means all before it.
        soft_cap: c, with which scores s become c tanh(s / c); None means that they stay.
        scale: by which scores are multiplied; None means 1 / sqrt(D).
        value_embedding: whether each value v gets an embedding e of its own token, so that what a token is
            need not come through the layers before: `v = a v + b e`, with the learned numbers a and b, 1/2 at
            first, in `value_mix`.
        std, output_std: as `std` of `FullyConnectedLayer`, for the packed map and for `out`.

    Shape:
        (B, T, C) -> (B, T, C).

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1, heads that do not divide, or rotary with an odd head size or a rotary_dim
            that is odd or above it.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; Ainslie et al. 2023,
    https://arxiv.org/abs/2305.13245 (grouped queries); Henry et al. 2020, https://arxiv.org/abs/2010.04245
    (normalized queries and keys); Beltagy et al. 2020, https://arxiv.org/abs/2004.05150 (window); Jordan et
    al. 2024, https://github.com/KellerJordan/modded-nanogpt (value embeddings, after Zhou et al. 2024,
    https://arxiv.org/abs/2410.17897)
    """

    def __init__(
        self,
        embedding_dim: int,
        max_seq_length: int,
        num_heads: int,
        *,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = False,
        output_bias: bool | None = None,
        rotary: bool = False,
        rotary_base: float = 10000.0,
        rotary_dim: int | None = None,
        rotary_scaling: RotaryScaling | None = None,
        query_key_norm: bool = False,
        norm_across_heads: bool = False,
        eps: float = 1e-5,
        window: int | None = None,
        soft_cap: float | None = None,
        scale: float | None = None,
        value_embedding: bool = False,
        std: float | None = None,
        output_std: float | None = None,
    ) -> None:
        super().__init__()
        self.embedding_dim = check_size("embedding_dim", embedding_dim)
        self.max_seq_length = check_size("max_seq_length", max_seq_length)
        self.num_heads = check_size("num_heads", num_heads)
        head_name = "head_dim"
        if head_dim is None:
            check_divisible("embedding_dim", embedding_dim, "num_heads", num_heads)
            head_name, head_dim = "embedding_dim / num_heads", embedding_dim // num_heads
        self.head_dim = check_size("head_dim", head_dim)
        if rotary:
            check_rotary(head_name, head_dim, rotary_dim)
        self.window = None if window is None else check_size("window", window)
        self.soft_cap = soft_cap
        self.scale = scale
        if num_key_value_heads is None:
            num_key_value_heads = num_heads
        self.num_key_value_heads = check_size("num_key_value_heads", num_key_value_heads)
        check_divisible("num_heads", num_heads, "num_key_value_heads", num_key_value_heads)

        packed_dim = (num_heads + 2 * num_key_value_heads) * self.head_dim
        self.query_key_value = FullyConnectedLayer(embedding_dim, packed_dim, bias, std=std)
        self.out = FullyConnectedLayer(
            num_heads * self.head_dim,
            embedding_dim,
            bias if output_bias is None else output_bias,
            std=output_std,
        )
        self.norm_across_heads = norm_across_heads
        if query_key_norm:
            together = (num_heads, num_key_value_heads) if norm_across_heads else (1, 1)
            self.query_norm = RMSNorm(together[0] * self.head_dim, eps)
            self.key_norm = RMSNorm(together[1] * self.head_dim, eps)
        if rotary:
            self.rotary = RotaryEncoding(rotary_base, rotary_dim, rotary_scaling)
        if value_embedding:
            self.value_mix = Tensor([0.5, 0.5], requires_grad=True)

    def __call__(
        self,
        x: Tensor,
        cache: KeyValueCache | None = None,
        layer: int = 0,
        documents: Tensor | None = None,
        value_embedding: Tensor | None = None,
    ) -> Tensor:
        """Returns what each position takes from those before it and itself.

        Args:
            x: the positions to run, (B, T, C).
            cache: has the keys and values of the positions before them; theirs are added. Gradients do not
                flow into a cache: use `no_grad`.
            layer: which of the cache's layers this is.
            documents: integers (B, T), which document a position is of, where rows have several; each sees
                its own only. None: one a row.
            value_embedding: of the token at each position, (B, T, G D), where the layer was made for it.

        Raises:
            TypeError: there is a value_embedding in a layer that was made without, or the reverse.
            ShapeError: x or value_embedding has another shape, or more positions than max_seq_length come
                together.
        """
        start = 0 if cache is None else cache.length
        self._check_input(x, start)
        self._check_value_embedding(x, value_embedding)
        packed = self.query_key_value(x)
        is_rotary = "rotary" in self
        is_normalized = "query_norm" in self and not self.norm_across_heads
        if "query_norm" in self and self.norm_across_heads:
            packed = self._normalized_across_heads(packed)
        is_windowed = self.window is not None and self.window < start + x.shape[1]
        is_textbooks = not is_windowed and self.soft_cap is None and documents is None
        has_fewer = self.num_key_value_heads < self.num_heads
        is_changed = is_rotary or is_normalized or has_fewer or value_embedding is not None
        if cache is None and is_textbooks and not is_changed and self.scale is None:
            # Nothing happens between splitting and attending: one operation does both.
            return self.out(apply_op(operations.PackedAttention, packed, num_heads=self.num_heads))

        query, key, value = self._split_heads(packed)
        if value_embedding is not None:
            mixed_in = value_embedding.reshape((*x.shape[:2], self.num_key_value_heads, self.head_dim))
            value = value * self.value_mix[0] + mixed_in.permute((0, 2, 1, 3)) * self.value_mix[1]
        if is_normalized:
            query = self.query_norm(query)
            key = self.key_norm(key)
        if is_rotary:
            query = self.rotary(query, start)
            key = self.rotary(key, start)
        if cache is not None:
            key, value = cache.store(layer, key, value)
        if has_fewer:
            key = self._repeat_heads(key)
            value = self._repeat_heads(value)
        if documents is not None:
            window = self.window if is_windowed else None
            attended = document_attention(
                query, key, value, documents, window=window, soft_cap=self.soft_cap, scale=self.scale
            )
        elif is_textbooks:
            attended = apply_op(operations.Attention, query, key, value, causal=True, **self._scale_option())
        else:
            attended = apply_op(
                operations.WindowedAttention,
                query,
                key,
                value,
                window=self.window if is_windowed else None,
                soft_cap=self.soft_cap,
                **self._scale_option(),
            )
        side_by_side = (*x.shape[:2], self.num_heads * self.head_dim)
        return self.out(attended.permute((0, 2, 1, 3)).reshape(side_by_side))

    def _scale_option(self) -> dict[str, float]:
        return {} if self.scale is None else {"scale": self.scale}

    def _check_input(self, x: Tensor, start: int) -> None:
        if x.ndim != 3 or x.shape[2] != self.embedding_dim:
            expected = ("batch", "positions", self.embedding_dim)
            raise ShapeError(
                shape_errors.wrong_shape(type(self).__name__, "input", x.shape, expected=expected)
            )
        if start + x.shape[1] > self.max_seq_length:
            raise ShapeError(
                f"{x.shape[1]} positions after {start} cached ones are more than "
                f"max_seq_length = {self.max_seq_length}"
            )

    def _check_value_embedding(self, x: Tensor, value_embedding: Tensor | None) -> None:
        if ("value_mix" in self) != (value_embedding is not None):
            made = "with" if "value_mix" in self else "without"
            raise TypeError(f"{type(self).__name__} was made {made} value_embedding: call it so, too")
        expected = (*x.shape[:2], self.num_key_value_heads * self.head_dim)
        if value_embedding is not None and value_embedding.shape != expected:
            raise ShapeError(
                shape_errors.wrong_shape(
                    type(self).__name__, "value_embedding", value_embedding.shape, expected=expected
                )
            )

    def _split_heads(self, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the queries (B, H, T, D) and the keys and values (B, G, T, D) that lie side by side in
        packed (B, T, (H + 2 G) D).
        """
        batch_size, length, _ = packed.shape
        keys_start = self.num_heads
        values_start = self.num_heads + self.num_key_value_heads
        end = self.num_heads + 2 * self.num_key_value_heads
        heads = packed.reshape((batch_size, length, end, self.head_dim))
        query = heads[:, :, :keys_start].permute((0, 2, 1, 3))
        key = heads[:, :, keys_start:values_start].permute((0, 2, 1, 3))
        value = heads[:, :, values_start:end].permute((0, 2, 1, 3))
        return query, key, value

    def _normalized_across_heads(self, packed: Tensor) -> Tensor:
        """Returns packed (B, T, (H + 2 G) D) with all queries normalized together, and all keys."""
        keys_start = self.num_heads * self.head_dim
        values_start = keys_start + self.num_key_value_heads * self.head_dim
        query = self.query_norm(packed[:, :, :keys_start])
        key = self.key_norm(packed[:, :, keys_start:values_start])
        return Tensor.concatenate([query, key, packed[:, :, values_start:]], 2)

    def _repeat_heads(self, x: Tensor) -> Tensor:
        """Returns keys or values (B, G, S, D) as (B, H, S, D): a copy of its head for each query."""
        batch_size, shared_heads, length, head_dim = x.shape
        group_size = self.num_heads // shared_heads
        repeated = x.reshape((batch_size, shared_heads, 1, length, head_dim)).expand(
            (batch_size, shared_heads, group_size, length, head_dim)
        )
        return repeated.reshape((batch_size, self.num_heads, length, head_dim))

    def _extra_repr(self) -> str:
        settings = [
            f"embedding_dim={self.embedding_dim}",
            f"max_seq_length={self.max_seq_length}",
            f"num_heads={self.num_heads}",
        ]
        if "rotary" in self:
            settings.append("rotary=True")
        if "value_mix" in self:
            settings.append("value_embedding=True")
        for name in ("window", "soft_cap", "scale"):
            if getattr(self, name) is not None:
                settings.append(f"{name}={getattr(self, name)}")
        return ", ".join(settings)


CasualSelfAttention = CausalSelfAttention  # TinyGPT's spelling
