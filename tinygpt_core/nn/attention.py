"""Causal self-attention, its key/value cache, and the transformer block around it.

Shapes: B batch, T positions of the input, S positions that can be attended to, H heads, D size of a head, C =
H * D.
"""

from __future__ import annotations

from itertools import pairwise

from .. import operations, shape_errors
from ..buffer.base import Buffer
from ..module import Module
from ..shape import ShapeError
from ..tensor import Tensor, apply_op
from .activations import GATED_ACTIVATIONS
from .dropout import Dropout
from .linear import FullyConnectedLayer, check_size
from .mlp import MLP, GatedMLP
from .normalization import LayerNorm, RMSNorm


class KeyValueCache:
    """Keys and values of the positions that a model has seen, so that generating runs only the new ones.

    Args:
        num_layers, batch_size, num_heads, context_length, head_dim: sizes of the buffers, which are allocated
            at once; the heads are those of keys and values.
        like: a Buffer of the wanted dtype and backend, such as that of a parameter.

    Attributes:
        length: positions held by every layer.
        keys, values: for each layer a Buffer (batch_size, num_heads, context_length, head_dim).

    Raises:
        TypeError: a batch_size that is no int.
        ValueError: a batch_size below 1.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_heads: int,
        context_length: int,
        head_dim: int,
        like: Buffer,
    ) -> None:
        shape = (check_size("batch_size", batch_size), num_heads, context_length, head_dim)
        self.batch_size = batch_size
        self.context_length = context_length
        self.length = 0
        self.keys = [type(like).zeros(shape, like.dtype) for _ in range(num_layers)]
        self.values = [type(like).zeros(shape, like.dtype) for _ in range(num_layers)]

    def reset(self) -> None:
        """Forget all positions; the storage is kept."""
        self.length = 0

    def store(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values (B, H, T, D) of new positions of one layer, and return those of all
        positions.

        ``length`` is left alone: the model advances it when all its layers have stored theirs.
        """
        end = self.length + key.shape[2]
        self.keys[layer][:, :, self.length : end, :] = key.buffer
        self.values[layer][:, :, self.length : end, :] = value.buffer
        return Tensor(self.keys[layer][:, :, :end, :]), Tensor(self.values[layer][:, :, :end, :])


class RotaryEncoding(Module):
    """Rotary position encoding: turns the pairs (x[i], x[i + D/2]) at position p by the angle ``a = p * base
    ** (-2 i / D)``.

    ``y[i] = x[i] cos(a) - x[i + D/2] sin(a); y[i + D/2] = x[i + D/2] cos(a) + x[i] sin(a)``
    The product of a rotated query and key then depends on the distance of their positions only.
    Su et al. 2021, https://arxiv.org/abs/2104.09864; halves are paired as in GPT-NeoX and Llama.

    Args:
        base: the longest wavelength is about 2 π base positions.

    Shape:
        (B, H, T, D) -> the same; D is even. ``start`` is the position of the first of the T.
    """

    def __init__(self, base: float = 10000.0) -> None:
        super().__init__()
        self.base = base

    def __call__(self, x: Tensor, start: int = 0) -> Tensor:
        return apply_op(operations.Rotary, x, positions_start=start, base=self.base)

    def _extra_repr(self) -> str:
        return f"base={self.base}"


class CausalSelfAttention(Module):
    """Multi-head causal self-attention: ``Y = softmax(Q K^T / sqrt(D)) V`` for each head; position i sees
    positions j <= i.

    Query, key and value come from one packed linear map (C -> 3 C, in this order, each split into heads).
    With fewer heads of keys and values, K, the map has C + 2 K D columns, and query head h uses key and value
    head h // (H / K). Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; Ainslie et al. 2023,
    https://arxiv.org/abs/2305.13245 (grouped queries)

    Args:
        embedding_dim: C.
        max_seq_length: the longest T that is accepted.
        num_heads: H; divides C.
        num_key_value_heads: K; divides H. None means H.
        bias: whether the two linear maps have biases.
        rotary: whether queries and keys are rotated by their positions (`RotaryEncoding` with rotary_base).
        std, output_std: as ``std`` of `FullyConnectedLayer`, for the packed map and for ``out``.

    Shape:
        (B, T, C) -> (B, T, C).

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1, heads that do not divide, or rotary with an odd head size.
    """

    def __init__(
        self,
        embedding_dim: int,
        max_seq_length: int,
        num_heads: int,
        *,
        num_key_value_heads: int | None = None,
        bias: bool = False,
        rotary: bool = False,
        rotary_base: float = 10000.0,
        std: float | None = None,
        output_std: float | None = None,
    ) -> None:
        super().__init__()
        self.embedding_dim = check_size("embedding_dim", embedding_dim)
        self.max_seq_length = check_size("max_seq_length", max_seq_length)
        self.num_heads = check_size("num_heads", num_heads)
        if embedding_dim % num_heads != 0:
            raise ValueError(f"embedding_dim ({embedding_dim}) must be divisible by num_heads ({num_heads})")
        self.head_dim = embedding_dim // num_heads
        if rotary and self.head_dim % 2:
            raise ValueError(
                f"rotary encoding needs an even head size, but embedding_dim / num_heads is {self.head_dim}"
            )
        shared = (
            num_heads
            if num_key_value_heads is None
            else check_size("num_key_value_heads", num_key_value_heads)
        )
        if num_heads % shared:
            raise ValueError(f"num_heads ({num_heads}) must be divisible by num_key_value_heads ({shared})")
        self.num_key_value_heads = shared
        self.query_key_value = FullyConnectedLayer(
            embedding_dim, (num_heads + 2 * shared) * self.head_dim, bias, std=std
        )
        self.out = FullyConnectedLayer(embedding_dim, embedding_dim, bias, std=output_std)
        if rotary:
            self.rotary = RotaryEncoding(rotary_base)

    def __call__(self, x: Tensor, cache: KeyValueCache | None = None, layer: int = 0) -> Tensor:
        """Attend.

        Args:
            x: the positions to run, (B, T, C).
            cache: holds the positions before them; theirs are added. Gradients do not flow into a cache: use
                `no_grad`.
            layer: which of the cache's layers this is.

        Raises:
            ShapeError: x has another shape, or more positions than max_seq_length come together.
        """
        start = 0 if cache is None else cache.length
        if x.ndim != 3 or x.shape[2] != self.embedding_dim:
            raise ShapeError(
                shape_errors.wrong_shape(
                    type(self).__name__, "input", x.shape, expected=("batch", "positions", self.embedding_dim)
                )
            )
        if start + x.shape[1] > self.max_seq_length:
            raise ShapeError(
                f"{x.shape[1]} positions after {start} cached ones are more than max_seq_length = {self.max_seq_length}"
            )
        batch_size, length, _ = x.shape
        heads, shared = self.num_heads, self.num_key_value_heads
        packed = self.query_key_value(x)
        if cache is None and shared == heads and "rotary" not in self:
            return self.out(apply_op(operations.PackedAttention, packed, num_heads=heads))
        packed = packed.reshape((batch_size, length, heads + 2 * shared, self.head_dim))
        bounds = pairwise((0, heads, heads + shared, heads + 2 * shared))
        # (B, H, T, D), (B, K, T, D) twice
        query, key, value = (packed[:, :, a:b].permute((0, 2, 1, 3)) for a, b in bounds)
        if "rotary" in self:
            query, key = self.rotary(query, start), self.rotary(key, start)
        if cache is not None:
            key, value = cache.store(layer, key, value)
        if shared < heads:
            grouped = (batch_size, shared, heads // shared, *key.shape[2:])
            key, value = (
                each.reshape((batch_size, shared, 1, *key.shape[2:]))
                .expand(grouped)
                .reshape((batch_size, heads, *key.shape[2:]))
                for each in (key, value)
            )
        attended = apply_op(operations.Attention, query, key, value, causal=True)
        return self.out(attended.permute((0, 2, 1, 3)).reshape(x.shape))

    def _extra_repr(self) -> str:
        rotary = ", rotary=True" if "rotary" in self else ""
        sizes = f"embedding_dim={self.embedding_dim}, max_seq_length={self.max_seq_length}, num_heads={self.num_heads}"
        return sizes + rotary


CasualSelfAttention = CausalSelfAttention  # TinyGPT's spelling


class TransformerBlock(Module):
    """A pre-norm transformer block: ``x = x + attn(ln_1(x)); x = x + mlp(ln_2(x))``.

    Args:
        embedding_dim, max_seq_length, num_heads, num_key_value_heads, rotary, rotary_base: as for
            `CausalSelfAttention`.
        hidden_dim: size inside the MLP; 4 * embedding_dim when None.
        activation: a name of `ACTIVATION_FUNCTIONS` for an `MLP`, or of `GATED_ACTIVATIONS` for a `GatedMLP`.
        normalization: "layer_norm" or "rms_norm".
        final_activation: whether the activation also follows the last layer of the `MLP`.
        bias: whether the MLP's layers and LayerNorm have biases.
        attention_bias: whether the attention's layers have them.
        dropout: probability of dropping an element of what the attention and the MLP add, in training.
        eps: of the normalizations.
        std, output_std: initialise linear layers as `FullyConnectedLayer` does with ``std``; those that write
            to the residual stream take ``output_std``.

    Shape:
        (B, T, C) -> (B, T, C).

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1, heads that do not divide, or a name of no activation or normalization.
    """

    def __init__(
        self,
        embedding_dim: int,
        max_seq_length: int,
        num_heads: int,
        *,
        num_key_value_heads: int | None = None,
        hidden_dim: int | None = None,
        activation: str = "relu",
        final_activation: bool = False,
        normalization: str = "layer_norm",
        bias: bool = True,
        attention_bias: bool = False,
        rotary: bool = False,
        rotary_base: float = 10000.0,
        dropout: float = 0.0,
        eps: float = 1e-5,
        std: float | None = None,
        output_std: float | None = None,
    ) -> None:
        super().__init__()
        stds = {"std": std, "output_std": output_std}
        hidden_dim = 4 * embedding_dim if hidden_dim is None else hidden_dim
        self.ln_1 = normalization_layer(normalization, embedding_dim, eps, bias)
        self.attn = CausalSelfAttention(
            embedding_dim,
            max_seq_length,
            num_heads,
            num_key_value_heads=num_key_value_heads,
            bias=attention_bias,
            rotary=rotary,
            rotary_base=rotary_base,
            **stds,
        )
        self.ln_2 = normalization_layer(normalization, embedding_dim, eps, bias)
        self.mlp: MLP | GatedMLP
        if activation in GATED_ACTIVATIONS:
            self.mlp = GatedMLP(embedding_dim, hidden_dim, activation, bias, **stds)
        else:
            self.mlp = MLP(
                embedding_dim,
                [hidden_dim, embedding_dim],
                activation,
                bias,
                final_activation=final_activation,
                **stds,
            )
        self.dropout = Dropout(dropout)

    def __call__(self, x: Tensor, cache: KeyValueCache | None = None, layer: int = 0) -> Tensor:
        x = x + self.dropout(self.attn(self.ln_1(x), cache, layer))
        return x + self.dropout(self.mlp(self.ln_2(x)))


def normalization_layer(name: str, size: int, eps: float, bias: bool) -> LayerNorm | RMSNorm:
    """Make the normalization "layer_norm" or "rms_norm" over a last axis of this size; raises ValueError for
    another name.
    """
    if name == "layer_norm":
        return LayerNorm(size, eps, bias=bias)
    if name == "rms_norm":
        return RMSNorm(size, eps)
    raise ValueError(f"unknown normalization {name!r}; expected 'layer_norm' or 'rms_norm'")
