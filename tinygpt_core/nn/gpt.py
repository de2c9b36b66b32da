"""GPT: a decoder-only transformer language model, GPT-2's architecture by default."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from itertools import dropwhile
from typing import Any

from .. import generation, random, shape_errors
from ..buffer.base import Buffer
from ..module import Module, WeightFile, Weights, matching, named_tensors, write_tensors
from ..shape import ShapeError
from ..tensor import Tensor, no_grad
from .activations import ACTIVATION_FUNCTIONS, GATED_ACTIVATIONS
from .arguments import check_divisible, check_rotary, check_size
from .cache import KeyValueCache
from .documents import check_documents, positions_in
from .dropout import Dropout
from .embedding import Embedding, NgramEmbedding
from .experts import check_experts_per_token
from .linear import FullyConnectedLayer
from .mlp import MLP
from .ngram_prior import NgramPrior, check_fits_64_bits
from .normalization import NORMALIZATIONS, normalization_layer
from .rotary import RotaryScaling
from .transformer import TransformerBlock

CHOICES: dict[str, tuple[str, ...]] = {
    "normalization": NORMALIZATIONS,
    "positions": ("learned", "rotary", "none"),
    "activation": (*ACTIVATION_FUNCTIONS, *GATED_ACTIVATIONS),
}
"""For the fields of `GPTConfig` that are words: those that they may be."""
FINAL_ACTIVATION = "final_activation"
"""In the metadata of a `.safetensors` file of weights: they are of a model whose MLPs end with a ReLU."""
FULL_ATTENTION = "full_attention"
SLIDING_ATTENTION = "sliding_attention"
LAYER_TYPES = (FULL_ATTENTION, SLIDING_ATTENTION)
"""What a layer's attention sees: all positions before, or a window of them; the names are Hugging Face's."""

MOST_ROWS = 2**31 - 1  # of a table: ids of rows are int32
LARGEST = 1e30  # of scales and caps, so that float32 holds them
SIZES_OR_NONE = (
    "hidden_dim",
    "num_key_value_heads",
    "attention_head_dim",
    "rotary_dim",
    "sliding_window",
    "num_experts",
)
SWITCHES = (
    "bias",
    "tied_head",
    "final_activation",
    "attention_bias",
    "attention_output_bias",
    "query_key_norm",
    "norm_across_heads",
    "post_normalization",
    "parallel_residual",
    "normalized_expert_weights",
)
POSITIVE_NUMBERS = ("attention_scale", "attention_soft_cap", "logit_soft_cap", "embedding_scale")
NUMBERS = ("dropout", "eps", "rotary_base", "local_rotary_base", *POSITIVE_NUMBERS)


@dataclass(frozen=True)
class GPTConfig:
    """What a GPT is built from. Every field is checked; an error names the field.

    Args:
        vocab_size: number of token ids.
        context_length: the most positions that the model sees at once.
        num_layers, num_heads, embedding_dim: of the transformer; num_heads divides embedding_dim.
        num_key_value_heads: heads of keys and values, which groups of query heads share; divides num_heads.
            None means num_heads.
        hidden_dim: size inside the MLPs. None means 4 * embedding_dim, or for gated activations 8/3 *
            embedding_dim rounded up to a multiple of 8, which holds about as many parameters.
        normalization: "layer_norm" or "rms_norm".
        positions: "learned" (a table of context_length vectors), "rotary" or "none".
        rotary_base: of `RotaryEncoding`, where positions are rotary.
        activation: of the MLPs: "gelu" (its tanh form), "gelu_exact", "relu", "relu2" (its square),
            "silu", "tanh", "sigmoid", "linear", or gated: "swiglu", "geglu", "reglu", "glu".
        final_activation: whether it also follows the last layer of the MLPs, as in TinyGPT; not for gated
            ones.
        ngram_tables: rows of tables of hashed n-gram embeddings, the first for the last two tokens, the next
            for three, and so on (see `NgramEmbedding`); what they hold is added to the token's embedding.
            Empty: none.
        attention_head_dim: size of a head; None means embedding_dim / num_heads, which must then be whole.
        attention_output_bias: whether the attention's last layer has a bias; None means as `attention_bias`.
        attention_scale: by which attention's scores are multiplied; None means 1 / sqrt(head_dim).
        attention_soft_cap, logit_soft_cap: c, with which attention's scores s, or the logits, become
            c tanh(s / c); None means that they stay.
        query_key_norm: whether queries and keys of each head are normalized (`RMSNorm`).
        norm_across_heads: whether `query_key_norm` is of the queries, and of the keys, of all heads together.
        rotary_dim: how many numbers of a head are rotated, the first ones; None means all.
        rotary_scaling: a `RotaryScaling`, which lowers the frequencies of rotary positions.
        sliding_window: how many positions, the last ones and its own, a position sees; None means all.
        layer_types: for each layer "full_attention" or "sliding_attention", which has the window; empty means
            that all have it.
        local_rotary_base: the rotary base of layers with a window, whose frequencies are then not scaled;
            None means that they are as the others.
        embedding_scale: by which token embeddings are multiplied.
        post_normalization: whether what attention and MLP add is normalized, too (`TransformerBlock`).
        parallel_residual: whether attention and MLP work on the same x, side by side (`TransformerBlock`).
        num_experts: MLPs in each block, of which a router chooses `experts_per_token` for each token
            (`MixtureOfExperts`); each has the size hidden_dim inside. None means one MLP, and no router.
        experts_per_token: at most num_experts; nothing where that is None.
        normalized_expert_weights: whether the weights of the chosen experts add up to 1; None means where
            there are several.
        value_embeddings: n, how many tables of value embeddings there are, from which the attention's values
            get a vector of the token (`CausalSelfAttention`). The first n layers have one each, and so have
            the last n, the same tables in the same order, as in modded-nanoGPT; at most num_layers.
        ngram_prior: how many tokens back an n-gram model looks to whose log-probabilities the logits are
            added, as far as it is to be trusted (`NgramPrior`), so that the network learns what counting
            does not know; its counts are those of the text that `ngram_prior.count` gets. A head of its own
            then starts at zero, so that a fresh model guesses evenly. 0: none.
        bias: whether linear layers and LayerNorm have biases (the head has none).
        attention_bias: whether those of the attention have; None means as `bias`.
        tied_head: whether the head uses the token embeddings as its weights.
        dropout: probability, on the embeddings and on what each attention and MLP adds.
        eps: of the normalizations.

    Raises:
        TypeError, ValueError: a field has the wrong type, or a value that does not work.
    """

    vocab_size: int
    context_length: int
    num_layers: int
    num_heads: int
    embedding_dim: int
    hidden_dim: int | None = None
    normalization: str = "layer_norm"
    positions: str = "learned"
    activation: str = "gelu"
    bias: bool = True
    attention_bias: bool | None = None
    tied_head: bool = True
    dropout: float = 0.0
    eps: float = 1e-5
    num_key_value_heads: int | None = None
    rotary_base: float = 10000.0
    final_activation: bool = False
    ngram_tables: tuple[int, ...] = ()
    attention_head_dim: int | None = None
    attention_output_bias: bool | None = None
    attention_scale: float | None = None
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    query_key_norm: bool = False
    rotary_dim: int | None = None
    rotary_scaling: RotaryScaling | None = None
    sliding_window: int | None = None
    layer_types: tuple[str, ...] = ()
    local_rotary_base: float | None = None
    embedding_scale: float = 1.0
    post_normalization: bool = False
    parallel_residual: bool = False
    norm_across_heads: bool = False
    num_experts: int | None = None
    experts_per_token: int = 2
    normalized_expert_weights: bool | None = None
    value_embeddings: int = 0
    ngram_prior: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.rotary_scaling, Mapping):  # JSON has mappings
            object.__setattr__(self, "rotary_scaling", RotaryScaling.from_dict(self.rotary_scaling))
        self._check_tables()
        self._check_sizes()
        self._check_prior()
        self._check_choices()
        self._check_switches()
        self._check_numbers()
        self._check_combinations()

    def _check_sizes(self) -> None:
        check_size("vocab_size", self.vocab_size)
        check_size("context_length", self.context_length)
        check_size("num_layers", self.num_layers)
        check_size("num_heads", self.num_heads)
        check_size("embedding_dim", self.embedding_dim)
        check_size("experts_per_token", self.experts_per_token)
        for name in SIZES_OR_NONE:
            if getattr(self, name) is not None:
                check_size(name, getattr(self, name))
        tables = self.value_embeddings
        if not isinstance(tables, int) or isinstance(tables, bool):
            raise TypeError(f"value_embeddings must be an int, but got {tables!r:.80}")
        if not 0 <= tables <= self.num_layers:
            raise ValueError(
                f"value_embeddings must be from 0 to num_layers ({self.num_layers}), but got {tables!r:.80}"
            )

    def _check_prior(self) -> None:
        back = self.ngram_prior
        if not isinstance(back, int) or isinstance(back, bool):
            raise TypeError(f"ngram_prior must be an int, but got {back!r:.80}")
        if back < 0:
            raise ValueError(f"ngram_prior must be 0 or more, but got {back!r:.80}")
        check_fits_64_bits("ngram_prior", back, self.vocab_size)

    def _check_tables(self) -> None:
        if not isinstance(self.ngram_tables, (tuple, list)):
            raise TypeError(
                f"ngram_tables must be a tuple of sizes, such as (4096, 8192), but got {self.ngram_tables!r}"
            )
        for size in self.ngram_tables:
            check_size("ngram_tables", size)
            if size > MOST_ROWS:
                raise ValueError(f"ngram_tables may have at most {MOST_ROWS:,} rows each, but got {size:,}")
        object.__setattr__(self, "ngram_tables", tuple(self.ngram_tables))  # JSON has lists

    def _check_choices(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, but got {value!r:.80}")
        if not isinstance(self.layer_types, (tuple, list)):
            raise TypeError(f"layer_types must be a tuple of {LAYER_TYPES}, but got {self.layer_types!r:.80}")
        for value in self.layer_types:
            if value not in LAYER_TYPES:
                raise ValueError(f"layer_types holds {' and '.join(LAYER_TYPES)}, but got {value!r:.80}")
        if self.layer_types and len(self.layer_types) != self.num_layers:
            raise ValueError(
                f"layer_types names {len(self.layer_types):,} layers, but num_layers is {self.num_layers:,}"
            )
        object.__setattr__(self, "layer_types", tuple(self.layer_types))  # JSON has lists
        if not isinstance(self.rotary_scaling, (RotaryScaling, type(None))):
            raise TypeError(f"rotary_scaling must be a RotaryScaling, but got {self.rotary_scaling!r:.80}")

    def _may_be_none(self, name: str, value: Any) -> bool:
        """Whether a value is None, of a field that may be."""
        return value is None and getattr(type(self), name) is None  # where its default is

    def _check_switches(self) -> None:
        for name in SWITCHES:
            value = getattr(self, name)
            if not isinstance(value, bool) and not self._may_be_none(name, value):
                raise TypeError(f"{name} must be True or False, but got {value!r:.80}")

    def _check_numbers(self) -> None:
        for name in NUMBERS:
            value = getattr(self, name)
            if self._may_be_none(name, value):
                continue
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"{name} must be a number, but got {value!r:.80}")
            if name in POSITIVE_NUMBERS and not 0.0 < value <= LARGEST:
                raise ValueError(f"{name} must lie above 0 and not above {LARGEST:g}, not {value!r:.80}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), but got {self.dropout!r:.80}")
        if not 0.0 < self.eps < 1.0:
            raise ValueError(f"eps must lie in (0, 1), but got {self.eps!r:.80}")
        for name in ("rotary_base", "local_rotary_base"):
            value = getattr(self, name)
            # An integer may be beyond every float
            if value is not None and not 1.0 <= value <= sys.float_info.max:
                raise ValueError(f"{name} must be a finite number of at least 1, not {value!r:.80}")

    def _check_combinations(self) -> None:
        if self.final_activation and self.activation in GATED_ACTIVATIONS:
            raise ValueError(
                f"final_activation is for MLPs that are not gated, but {self.activation!r:.80} is"
            )
        if self.attention_head_dim is None:
            check_divisible("embedding_dim", self.embedding_dim, "num_heads", self.num_heads)
        check_divisible("num_heads", self.num_heads, "num_key_value_heads", self.key_value_heads)
        if self.norm_across_heads and not self.query_key_norm:
            raise ValueError("norm_across_heads is for query_key_norm, which is False")
        if self.rotary_scaling is not None and self.rotary_scaling.kind == "yarn" and self.rotary_base <= 1.0:
            raise ValueError(
                f"rotary_base must be above 1 for a rotary_scaling of kind yarn, not {self.rotary_base}"
            )
        if self.num_experts is not None:
            check_experts_per_token(self.experts_per_token, self.num_experts)
        if self.positions == "rotary" or self.rotary_dim is not None:
            by_default = self.attention_head_dim is None
            name = "embedding_dim / num_heads" if by_default else "attention_head_dim"
            check_rotary(name, self.head_dim, self.rotary_dim)

    @property
    def head_dim(self) -> int:
        """The size of one attention head: attention_head_dim, or what its None means."""
        if self.attention_head_dim is not None:
            return self.attention_head_dim
        return self.embedding_dim // self.num_heads

    def is_local(self, layer: int) -> bool:
        """Whether the attention of a layer sees a window only."""
        if self.sliding_window is None:
            return False
        return not self.layer_types or self.layer_types[layer] == SLIDING_ATTENTION

    def value_table(self, layer: int) -> int | None:
        """Returns which table of value embeddings a layer has; None where it has none."""
        before_last = self.num_layers - self.value_embeddings
        if layer < self.value_embeddings:
            return layer
        return layer - before_last if layer >= before_last else None

    @property
    def key_value_heads(self) -> int:
        """The number of heads of keys and values: num_key_value_heads, or what its None means."""
        return self.num_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def has_attention_bias(self) -> bool:
        """Whether the attention's layers have biases: attention_bias, or what its None means."""
        return self.bias if self.attention_bias is None else self.attention_bias

    @property
    def has_attention_output_bias(self) -> bool:
        """Whether the attention's last layer has a bias: attention_output_bias, or what its None means."""
        return self.has_attention_bias if self.attention_output_bias is None else self.attention_output_bias

    @property
    def has_normalized_expert_weights(self) -> bool:
        """Whether the weights of the chosen experts add up to 1: normalized_expert_weights, or what its None
        means.
        """
        if self.normalized_expert_weights is None:
            return self.experts_per_token > 1
        return self.normalized_expert_weights

    @property
    def mlp_dim(self) -> int:
        """The size inside the MLPs: hidden_dim, or what its None means."""
        if self.hidden_dim is not None:
            return self.hidden_dim
        if self.activation in GATED_ACTIVATIONS:
            third = (self.embedding_dim + 2) // 3  # rounded up
            return 8 * third
        return 4 * self.embedding_dim

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields by name, ready for JSON.

        `OPTIONS` are among them only where they are not as by default.
        """
        values: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in OPTIONS and value == OPTIONS[field.name]:
                continue
            if isinstance(value, RotaryScaling):
                value = value.to_dict()
            values[field.name] = list(value) if isinstance(value, tuple) else value
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GPTConfig:
        """Returns the config that `to_dict` gave.

        Raises:
            TypeError: it is no mapping, or a value has the wrong type.
            ValueError: a name is unknown or missing, or a value does not work.
        """
        if not isinstance(values, Mapping):
            raise TypeError(
                f"a GPT config must be a mapping of names to values, but got a {type(values).__name__}"
            )
        names = [field.name for field in fields(cls)]
        required = [field.name for field in fields(cls) if field.default is MISSING]
        if unknown := sorted(str(name) for name in values if name not in names):
            raise ValueError(
                f"unknown in a GPT config: {', '.join(unknown):.400}; it may hold {', '.join(names)}"
            )
        if missing := [name for name in required if name not in values]:
            raise ValueError(f"missing in a GPT config: {', '.join(missing)}")
        return cls(**values)


OPTIONS: dict[str, Any] = {
    field.name: field.default
    for field in dropwhile(lambda field: field.name != "ngram_tables", fields(GPTConfig))
}
"""The fields from `ngram_tables` on, and their defaults. They are younger than the others: `to_dict` leaves
them out where they are as by default, so that earlier versions can go on reading, and most formats have
nothing for them.
"""


class GPT(Module):
    """A language model: for each position, the logits of the next token.

    `x = embed(token_ids) + embed(positions); x = block(x) for each block; logits = layer_norm(x) head`

    With `ngram_tables`, x also gets `embed(the last two tokens) + embed(the last three) + ...` at the start;
    with `ngram_prior`, the logits are added to what counting says.

    Weights start as GPT-2's do: normal with standard deviation 0.02, those that write to the residual stream
    0.02 / sqrt(2 num_layers), biases zero.

    Args:
        config: a `GPTConfig`. TinyGPT's arguments `(max_seq_length, vocab_size, num_layers, num_heads,
            embedding_dim)` are taken instead, and give TinyGPT's architecture: ReLU, no biases in the
            attention, a head of its own.

    Shape:
        int (B, T) -> (B, T, vocab_size), T <= context_length.

    Raises:
        TypeError: both a config and sizes, or a size is missing.
        ValueError: sizes that do not work, see `GPTConfig`.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2)
    """

    def __init__(
        self,
        config: GPTConfig | int | None = None,
        vocab_size: int | None = None,
        num_layers: int | None = None,
        num_heads: int | None = None,
        embedding_dim: int | None = None,
        *,
        max_seq_length: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(config, GPTConfig):
            sizes = (vocab_size, num_layers, num_heads, embedding_dim, max_seq_length)
            if any(size is not None for size in sizes):
                raise TypeError("GPT takes either a GPTConfig or sizes, not both")
        else:
            length = config if max_seq_length is None else max_seq_length
            config = _tinygpt_config(vocab_size, length, num_layers, num_heads, embedding_dim)
        self.config = config
        std = 0.02
        self.embedding_layer = Embedding(config.vocab_size, config.embedding_dim, std=std)
        if config.positions == "learned":
            self.position_embedding_layer = Embedding(config.context_length, config.embedding_dim, std=std)
        if config.ngram_tables:
            self.ngram_embedding_layer = NgramEmbedding(config.ngram_tables, config.embedding_dim)
        if config.value_embeddings:
            width = config.key_value_heads * config.head_dim
            self.value_embedding_layers = [
                Embedding(config.vocab_size, width, std=std) for _ in range(config.value_embeddings)
            ]
        self.dropout = Dropout(config.dropout)
        self.transformer_blocks = [
            TransformerBlock(
                config.embedding_dim,
                config.context_length,
                config.num_heads,
                hidden_dim=config.mlp_dim,
                activation=config.activation,
                final_activation=config.final_activation,
                normalization=config.normalization,
                bias=config.bias,
                attention_bias=config.has_attention_bias,
                dropout=config.dropout,
                eps=config.eps,
                post_normalization=config.post_normalization,
                parallel_residual=config.parallel_residual,
                num_experts=config.num_experts,
                experts_per_token=config.experts_per_token,
                normalized_expert_weights=config.normalized_expert_weights,
                std=std,
                output_std=std / math.sqrt(2 * config.num_layers),
                **_attention_options(config, layer),
            )
            for layer in range(config.num_layers)
        ]
        self.layer_norm = normalization_layer(
            config.normalization, config.embedding_dim, config.eps, config.bias
        )
        if not config.tied_head:
            head_std = 0.0 if config.ngram_prior else std  # so that the model begins as guessing evenly
            self.head = FullyConnectedLayer(config.embedding_dim, config.vocab_size, bias=False, std=head_std)
        if config.ngram_prior:
            self.ngram_prior = NgramPrior(config.vocab_size, config.ngram_prior, config.embedding_dim)

    def load_weights(self, file_or_pairs: Weights, strict: bool = True) -> None:
        """Copies values into the parameters, in place, as `Module.load_weights` does; weights of TinyGPT's
        GPT, too.

        These have query, key and value in one matrix each, divide attention scores by the square root of
        embedding_dim, and go through a ReLU after each MLP. So that they give TinyGPT's logits here, the
        query weights are scaled, and this model gets that ReLU (`config.final_activation`); it says so in a
        RuntimeWarning.

        Raises:
            ValueError: names are missing or unknown (strict), a shape differs, or the model is built
                otherwise than TinyGPT's. The model is then unchanged.
        """
        tensors = named_tensors(file_or_pairs)
        is_from_tinygpt = any(name.endswith(".attn.query.weights") for name in tensors)
        if is_from_tinygpt:
            tensors = dict(self._from_tinygpt(tensors))
        super().load_weights(list(tensors.items()), strict)
        needs_it = is_from_tinygpt or _says_final_activation(file_or_pairs)
        if needs_it and not self.config.final_activation:
            warnings.warn(
                "the weights are of TinyGPT's GPT, with a ReLU after each MLP: this model has it now, "
                "and its config says final_activation=True",
                RuntimeWarning,
                stacklevel=2,
            )
            self.config = replace(self.config, final_activation=True)
            for block in self.transformer_blocks:
                if isinstance(block.mlp, MLP):
                    block.mlp.final_activation = True

    def save_weights(self, file: WeightFile) -> None:
        """Writes all parameters to a file, as `Module.save_weights` does; to `.json` under TinyGPT's names
        and in its meaning where this model is TinyGPT's, ReLU after each MLP and all. A `.safetensors` file
        says in its metadata that there is that ReLU, so that `load_weights` gives the same logits.

        Args:
            file: ends in `.safetensors` or `.json`.

        Raises:
            ValueError: as `Module.save_weights` does.
        """
        self.require_savable()
        is_json = os.fspath(file).endswith(".json")
        if self.config.final_activation and not is_json:
            write_tensors(file, self._tensors_of_a_file(), {FINAL_ACTIVATION: "true"})
            return
        if not (is_json and self.config.final_activation and self._is_like_tinygpt()):
            super().save_weights(file)
            return
        theirs: dict[str, Tensor | Buffer] = {}
        width = self.config.embedding_dim
        for name, tensor in self.named_parameters():
            prefix, is_joint, _ = name.partition("query_key_value.weights")
            if not is_joint:
                theirs[name] = tensor
                continue
            scales = {"query": math.sqrt(self.config.num_heads), "key": 1.0, "value": 1.0}
            for number, (part, scale) in enumerate(scales.items()):
                columns = tensor.buffer[:, number * width : (number + 1) * width] * scale
                theirs[f"{prefix}{part}.weights"] = Tensor(columns, requires_grad=tensor.requires_grad)
        write_tensors(file, theirs)

    def _is_like_tinygpt(self) -> bool:
        """Whether the model is built as TinyGPT's, apart from the ReLU after each MLP."""
        config = self.config
        expected = _tinygpt_config(
            config.vocab_size,
            config.context_length,
            config.num_layers,
            config.num_heads,
            config.embedding_dim,
        )
        # What makes no difference is not compared
        same = replace(config, final_activation=False, dropout=0.0, num_key_value_heads=None, hidden_dim=None)
        return (
            same == replace(expected, dropout=0.0)
            and config.key_value_heads == config.num_heads
            and config.mlp_dim == expected.mlp_dim
        )

    def _from_tinygpt(self, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
        """Returns weights of TinyGPT's GPT under our names; leaves the masks of its attention out."""
        config = self.config
        if not self._is_like_tinygpt():
            raise ValueError(
                "the weights are of TinyGPT's GPT, but this model is built otherwise: make it from the five "
                "sizes, GPT(max_seq_length=…, vocab_size=…, num_layers=…, num_heads=…, embedding_dim=…)"
            )
        ours: dict[str, Tensor] = {}
        for name, value in tensors.items():
            block, _, part = name.rpartition(".attn.")
            if part in ("casual_mask", "casual_value", "key.weights", "value.weights"):
                continue
            if part != "query.weights":
                ours[name] = matching(value, self.embedding_layer.embeddings)
                continue
            like = self.embedding_layer.embeddings
            names = [f"{block}.attn.{each}.weights" for each in ("query", "key", "value")]
            if missing := [each for each in names if each not in tensors]:
                raise ValueError(f"no weights for these parameters of the model: {', '.join(missing):.400}")
            query, key, values = (matching(tensors[each], like).buffer for each in names)
            parts = [query * (1.0 / math.sqrt(config.num_heads)), key, values]
            if any(each.ndim != 2 for each in parts):
                raise ValueError(f"{name} and those of key and value are matrices, not {query.shape}")
            if len({each.shape[0] for each in parts}) > 1:
                raise ValueError(f"{name} and those of key and value have different numbers of rows")
            ours[f"{block}.attn.query_key_value.weights"] = Tensor(type(query).concatenate(parts, axis=1))
        return ours

    @property
    def max_seq_length(self) -> int:
        """TinyGPT's name of `config.context_length`."""
        return self.config.context_length

    def __call__(
        self,
        token_ids: Tensor,
        cache: KeyValueCache | None = None,
        documents: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Returns the logits of the next token at every position.

        Args:
            token_ids: int (B, T).
            cache: of `new_cache`. Then `token_ids` are only the new positions; they are added to the cache,
                and no gradients are recorded. The logits are those that the whole sequence would give at the
                new positions.
            documents: int (B, T), where rows have several documents: which one a token is of. The logits are
                those that each document gives alone. Without a cache only.
            targets: int (B, T), the tokens that follow, for training a model with an `ngram_prior` on the
                text that this has counted, see there. Other models ignore them, and so does a cache.

        Raises:
            TypeError: documents are no integers.
            ValueError: both a cache and documents, or documents of another shape; token_ids has another
                number of axes, or the cache another batch size, or there are more positions than the context
                holds.
        """
        if documents is not None:
            if cache is not None:
                raise ValueError("a cache has one document a row: pass documents without a cache")
            check_documents(documents, token_ids)
        if cache is None:
            return self._logits(token_ids, None, documents, targets)
        with no_grad():
            logits = self._logits(token_ids, cache)
        if self.config.ngram_tables or self.config.ngram_prior:
            cache.store_ids(token_ids)
        cache.length += token_ids.shape[1]
        return logits

    def _logits(
        self,
        token_ids: Tensor,
        cache: KeyValueCache | None,
        documents: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        self._check_input(token_ids, cache)
        config = self.config
        has_ngrams = config.ngram_tables or config.ngram_prior
        past = cache.past_ids() if has_ngrams and cache is not None else None
        places = None
        if documents is not None and (config.positions == "learned" or has_ngrams):
            places = positions_in(documents)
        start = 0 if cache is None else cache.length
        x = self.embedding_layer(token_ids)
        if config.embedding_scale != 1.0:
            x = x * config.embedding_scale
        if config.positions == "learned" and places is not None:
            x = x + self.position_embedding_layer(places)
        elif config.positions == "learned":
            end = start + token_ids.shape[1]
            x = x + self.position_embedding_layer.embeddings[start:end]
        if config.ngram_tables:
            x = x + self.ngram_embedding_layer(token_ids, past, places)
        x = self.dropout(x)
        for layer, block in enumerate(self.transformer_blocks):
            table = config.value_table(layer)
            values = None if table is None else self.value_embedding_layers[table](token_ids)
            x = block(x, cache, layer, documents, values)
        x = self.layer_norm(x)
        logits = self.embedding_layer.as_linear(x) if config.tied_head else self.head(x)
        cap = config.logit_soft_cap
        if cap is not None:
            logits = (logits * (1.0 / cap)).tanh() * cap
        if config.ngram_prior:
            logits = logits + self.ngram_prior(x, token_ids, past, places, targets)
        return logits

    def _check_input(self, token_ids: Tensor, cache: KeyValueCache | None) -> None:
        if token_ids.ndim != 2:
            raise ShapeError(
                shape_errors.wrong_shape(
                    type(self).__name__, "token_ids", token_ids.shape, expected=("batch", "positions")
                )
            )
        batch_size, length = token_ids.shape
        if cache is not None and cache.batch_size != batch_size:
            raise ValueError(
                f"the cache is for a batch of {cache.batch_size}, but token_ids has {batch_size} rows"
            )
        start = 0 if cache is None else cache.length
        if start + length > self.config.context_length:
            cached = f" after {start} cached ones" if start else ""
            raise ValueError(
                f"{length} positions{cached} do not fit the context of {self.config.context_length}; "
                "pass the last ones only, with a fresh cache"
            )

    def new_cache(self, batch_size: int = 1) -> KeyValueCache:
        """Returns an empty key/value cache for generating with this model."""
        return KeyValueCache(
            self.config.num_layers,
            batch_size,
            self.config.key_value_heads,
            self.config.context_length,
            self.config.head_dim,
            like=self.layer_norm.weights.buffer,
        )

    def generate_greedy(self, token_ids: Tensor, max_new_tokens: int) -> Tensor:
        """Continues a sequence with the most probable token, again and again.

        Args:
            token_ids: int (1, T), T >= 1.
            max_new_tokens: how many tokens to add.

        Returns:
            int (1, T + max_new_tokens). When the sequence outgrows the context, only its last tokens are
            seen.

        Raises:
            ValueError: token_ids has another shape.
        """
        return self._continued(token_ids, max_new_tokens, generation.most_probable)

    def generate_sample_with_temperature(
        self, token_ids: Tensor, max_new_tokens: int, temperature: float = 1.0
    ) -> Tensor:
        """Continues a sequence with tokens drawn from `softmax(logits / temperature)` by the default
        generator.

        Args:
            token_ids, max_new_tokens: as for `generate_greedy`.
            temperature: 1 samples the model's distribution, lower is more careful, 0 is greedy.

        Returns:
            int (1, T + max_new_tokens), as `generate_greedy`.

        Raises:
            ValueError: token_ids has another shape, or the temperature is negative or not finite.
        """
        if not 0.0 <= temperature < math.inf:
            raise ValueError(f"temperature must be a number of at least 0, but got {temperature}")
        if temperature == 0.0:
            return self.generate_greedy(token_ids, max_new_tokens)

        def draw(logits: Sequence[float]) -> int:
            return random.default_generator().choice(generation.relative_probabilities(logits, temperature))

        return self._continued(token_ids, max_new_tokens, draw)

    def _continued(
        self, token_ids: Tensor, max_new_tokens: int, draw: Callable[[Sequence[float]], int]
    ) -> Tensor:
        """Returns token_ids (1, T) with what `generation.continue_ids` adds to them.

        A full context is filled anew with all the positions that it holds: every token sees as many as it
        can.
        """
        if token_ids.ndim != 2 or token_ids.shape[0] != 1 or token_ids.shape[1] < 1:
            raise ValueError(
                "token_ids must have the shape (1, positions) with a position at least, "
                f"but got {token_ids.shape}"
            )
        prompt_ids: list[int] = token_ids.to_python()[0]
        new_ids = generation.continue_ids(
            self,
            prompt_ids,
            draw,
            tokens=max_new_tokens,
            keep=self.config.context_length,
            like=token_ids.buffer,
        )
        buffer_class = type(token_ids.buffer)
        return Tensor(buffer_class([[*prompt_ids, *new_ids]], token_ids.dtype))

    def _extra_repr(self) -> str:
        """Returns the settings that are not the defaults."""
        chosen = []
        for field in fields(self.config):
            value = getattr(self.config, field.name)
            if field.default is MISSING or field.default != value:
                chosen.append(f"{field.name}={value!r}")
        return ", ".join(chosen)


def _attention_options(config: GPTConfig, layer: int) -> dict[str, Any]:
    """Returns what the attention of a layer is made with."""
    is_local = config.is_local(layer)
    has_own_base = is_local and config.local_rotary_base is not None
    return {
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "output_bias": config.has_attention_output_bias,
        "rotary": config.positions == "rotary",
        "rotary_base": config.local_rotary_base if has_own_base else config.rotary_base,
        "rotary_dim": config.rotary_dim,
        "rotary_scaling": None if has_own_base else config.rotary_scaling,
        "query_key_norm": config.query_key_norm,
        "norm_across_heads": config.norm_across_heads,
        "window": config.sliding_window if is_local else None,
        "soft_cap": config.attention_soft_cap,
        "scale": config.attention_scale,
        "value_embedding": config.value_table(layer) is not None,
    }


def _says_final_activation(source: Any) -> bool:
    """Whether the metadata of a file of weights say that each MLP ends with its activation."""
    from ..files.safetensors import read_safetensors_header  # most programs read no weights

    is_file = isinstance(source, (str, os.PathLike)) and os.fspath(source).endswith(".safetensors")
    return is_file and read_safetensors_header(source).metadata.get(FINAL_ACTIVATION) == "true"


def _tinygpt_config(
    vocab_size: int | None,
    context_length: int | None,
    num_layers: int | None,
    num_heads: int | None,
    embedding_dim: int | None,
) -> GPTConfig:
    """Returns the config of TinyGPT's architecture; raises TypeError where a size is missing."""
    if (
        vocab_size is None
        or context_length is None
        or num_layers is None
        or num_heads is None
        or embedding_dim is None
    ):
        raise TypeError(
            "GPT takes a GPTConfig, or max_seq_length, vocab_size, num_layers, num_heads and embedding_dim"
        )
    return GPTConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        num_layers=num_layers,
        num_heads=num_heads,
        embedding_dim=embedding_dim,
        activation="relu",
        attention_bias=False,
        tied_head=False,
    )
