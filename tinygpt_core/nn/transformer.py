"""The transformer block: attention, which carries something between positions, then an MLP, which works on
each by itself.
"""

from __future__ import annotations

from typing import Any

from ..module import Module
from ..tensor import Tensor
from .attention import CausalSelfAttention
from .cache import KeyValueCache
from .dropout import Dropout
from .experts import MixtureOfExperts
from .mlp import MLP, GatedMLP, mlp_layer
from .normalization import normalization_layer


class TransformerBlock(Module):
    """A pre-norm transformer block: `x = x + attn(ln_1(x)); x = x + mlp(ln_2(x))`.

    Args:
        embedding_dim, max_seq_length, num_heads, and whatever is not named here: as for
            `CausalSelfAttention`.
        hidden_dim: size inside the MLP; 4 * embedding_dim when None.
        activation: a name of `ACTIVATION_FUNCTIONS` for an `MLP`, or of `GATED_ACTIVATIONS` for a `GatedMLP`.
        normalization: "layer_norm" or "rms_norm".
        final_activation: whether the activation also follows the last layer of the `MLP`.
        bias: whether the MLP's layers and LayerNorm have biases.
        attention_bias: whether the attention's layers have them.
        dropout: probability of dropping an element of what the attention and the MLP add, in training.
        eps: of the normalizations.
        post_normalization: whether what attention and MLP add is normalized, too, by `post_ln_1` and
            `post_ln_2`: `x = x + post_ln_1(attn(ln_1(x))); x = x + post_ln_2(mlp(ln_2(x)))`.
        parallel_residual: whether the MLP works beside the attention, on the same x:
            `x = x + attn(ln_1(x)) + mlp(ln_2(x))`.
        num_experts: how many MLPs there are, of which each token passes through `experts_per_token`; their
            weights are normalized as `normalized_expert_weights` says (`MixtureOfExperts`). None means one
            MLP, and no router.
        std, output_std: initialise linear layers as `FullyConnectedLayer` does with `std`; those that write
            to the residual stream take `output_std`.

    Shape:
        (B, T, C) -> (B, T, C).

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1, heads that do not divide, or a name of no activation or normalization.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; normalization first as in GPT-2 (Radford et
    al. 2019), last as well as in Gemma 2 (2024, https://arxiv.org/abs/2408.00118); side by side as in GPT-J
    and GPT-NeoX (Black et al. 2022, https://arxiv.org/abs/2204.06745)
    """

    def __init__(
        self,
        embedding_dim: int,
        max_seq_length: int,
        num_heads: int,
        *,
        hidden_dim: int | None = None,
        activation: str = "relu",
        final_activation: bool = False,
        normalization: str = "layer_norm",
        bias: bool = True,
        attention_bias: bool = False,
        dropout: float = 0.0,
        eps: float = 1e-5,
        post_normalization: bool = False,
        parallel_residual: bool = False,
        num_experts: int | None = None,
        experts_per_token: int = 2,
        normalized_expert_weights: bool | None = None,
        std: float | None = None,
        output_std: float | None = None,
        **attention_options: Any,
    ) -> None:
        super().__init__()
        if hidden_dim is None:
            hidden_dim = 4 * embedding_dim
        self.ln_1 = normalization_layer(normalization, embedding_dim, eps, bias)
        self.attn = CausalSelfAttention(
            embedding_dim,
            max_seq_length,
            num_heads,
            bias=attention_bias,
            eps=eps,
            std=std,
            output_std=output_std,
            **attention_options,
        )
        self.ln_2 = normalization_layer(normalization, embedding_dim, eps, bias)
        self.mlp: MLP | GatedMLP | MixtureOfExperts
        options: dict[str, Any] = {
            "activation": activation,
            "bias": bias,
            "final_activation": final_activation,
            "std": std,
            "output_std": output_std,
        }
        if num_experts is None:
            self.mlp = mlp_layer(embedding_dim, hidden_dim, **options)
        else:
            self.mlp = MixtureOfExperts(
                embedding_dim,
                hidden_dim,
                num_experts,
                experts_per_token,
                normalized_weights=normalized_expert_weights,
                **options,
            )
        if post_normalization:
            self.post_ln_1 = normalization_layer(normalization, embedding_dim, eps, bias)
            self.post_ln_2 = normalization_layer(normalization, embedding_dim, eps, bias)
        self.parallel_residual = parallel_residual
        self.dropout = Dropout(dropout)

    def __call__(
        self,
        x: Tensor,
        cache: KeyValueCache | None = None,
        layer: int = 0,
        documents: Tensor | None = None,
        value_embedding: Tensor | None = None,
    ) -> Tensor:
        attended = self.attn(self.ln_1(x), cache, layer, documents, value_embedding)
        if "post_ln_1" in self:
            attended = self.post_ln_1(attended)
        y = x + self.dropout(attended)
        worked_out = self.mlp(self.ln_2(x if self.parallel_residual else y))
        if "post_ln_2" in self:
            worked_out = self.post_ln_2(worked_out)
        return y + self.dropout(worked_out)
