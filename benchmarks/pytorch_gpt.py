"""A plain PyTorch GPT, written as one would write it for speed on a CPU: what the NumPy backend is measured
against.

GPT-2's architecture as `tinygpt_core.nn.GPT` has it by default: learned positions, pre-norm blocks, biases,
GELU in its tanh form, a head tied to the token embeddings. Attention is `scaled_dot_product_attention`, the
optimizer PyTorch's fused AdamW.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Cache = list[tuple[Tensor, Tensor]]


class Attention(nn.Module):
    """Multi-head causal self-attention, optionally with a cache of keys and values."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width, bias)
        self.out = nn.Linear(width, width, bias)

    def forward(self, x: Tensor, cache: tuple[Tensor, Tensor] | None = None, start: int = 0) -> Tensor:
        """Returns causal attention of x (B, T, C), which continues a cache where there is one."""
        batch, length, width = x.shape
        packed = self.query_key_value(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        if cache is not None:
            end = start + length
            cache[0][:, :, start:end], cache[1][:, :, start:end] = key, value
            key, value = cache[0][:, :, :end], cache[1][:, :, :end]
        # One new position sees all cached ones; several come only into an empty cache, where causal means
        # what it says.
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=length > 1)
        return self.out(attended.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, bias=bias)
        self.attn = Attention(width, heads, bias)
        self.ln_2 = nn.LayerNorm(width, bias=bias)
        self.expand = nn.Linear(width, 4 * width, bias)
        self.contract = nn.Linear(4 * width, width, bias)

    def forward(self, x: Tensor, cache: tuple[Tensor, Tensor] | None = None, start: int = 0) -> Tensor:
        """Returns what the block makes of x (B, T, C)."""
        x = x + self.attn(self.ln_1(x), cache, start)
        return x + self.contract(functional.gelu(self.expand(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """The model; `config` has the fields of `tinygpt_core.nn.GPTConfig`."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        plain = {
            "normalization": "layer_norm",
            "positions": "learned",
            "activation": "gelu",
            "tied_head": True,
            "dropout": 0.0,
        }
        other = [name for name, value in plain.items() if getattr(config, name) != value]
        if other or config.attention_bias not in (None, config.bias):
            raise ValueError(
                f"the PyTorch model of the benchmarks has no such {', '.join(other) or 'attention_bias'}"
            )
        width = config.embedding_dim
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Embedding(config.context_length, width)
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, config.bias) for _ in range(config.num_layers)
        )
        self.layer_norm = nn.LayerNorm(width, bias=config.bias)

    def forward(
        self, ids: Tensor, cache: Cache | None = None, start: int = 0, last_only: bool = False
    ) -> Tensor:
        """Returns the logits at every position, or at the last one only; with a cache, `ids` are the
        positions from `start` on.
        """
        x = self.tokens(ids) + self.positions.weight[start : start + ids.shape[1]]
        for layer, block in enumerate(self.blocks):
            x = block(x, None if cache is None else cache[layer], start)
        return functional.linear(self.layer_norm(x[:, -1:] if last_only else x), self.tokens.weight)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean cross-entropy, in nats."""
        return functional.cross_entropy(self(ids).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def load_tinygpt(self, weights: Mapping[str, Any]) -> None:
        """Copies the weights of a tinygpt GPT: Buffers by the names of its parameters."""
        ours = {
            "embedding_layer.embeddings": self.tokens.weight,
            "position_embedding_layer.embeddings": self.positions.weight,
        }
        for prefix, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm)):
                name = (
                    prefix.replace("blocks.", "transformer_blocks.")
                    .replace("expand", "mlp.layers.0")
                    .replace("contract", "mlp.layers.1")
                )
                ours[f"{name}.weights"] = module.weight.T if isinstance(module, nn.Linear) else module.weight
                if module.bias is not None:
                    ours[f"{name}.bias"] = module.bias
        if set(ours) != set(weights):
            raise ValueError(f"the models have different parameters: {sorted(set(ours) ^ set(weights))}")
        for name, parameter in ours.items():
            parameter.copy_(
                torch.frombuffer(weights[name].to_array(), dtype=torch.float32).view(weights[name].shape)
            )

    # ---------------------------------------------------------------- sampling

    @torch.inference_mode()
    def generate(self, ids: list[int], count: int, temperature: float = 1.0) -> Iterator[int]:
        """Yields ids, running the last `context_length` positions for each, as nanoGPT's `generate` does."""
        history = torch.tensor([ids])
        for _ in range(count):
            row = self(history[:, -self.config.context_length :], last_only=True)[:, -1]
            drawn = self._draw(row, temperature)
            history = torch.cat((history, drawn), 1)
            yield int(drawn)

    @torch.inference_mode()
    def generate_cached(self, ids: list[int], count: int, temperature: float = 1.0) -> Iterator[int]:
        """Yields ids with a key/value cache, by the policy of `tinygpt_core.generation`: a full one is filled
        from its last half.
        """
        config = self.config
        shape = (1, config.num_heads, config.context_length, config.embedding_dim // config.num_heads)
        cache = [(torch.empty(shape), torch.empty(shape)) for _ in self.blocks]
        history, used = list(ids), 0
        pending = torch.tensor([history[-config.context_length :]])
        for _ in range(count):
            if used + pending.shape[1] > config.context_length:
                used, pending = 0, torch.tensor([history[-max(1, config.context_length // 2) :]])
            row = self(pending, cache, used, last_only=True)[:, -1]
            used += pending.shape[1]
            pending = self._draw(row, temperature)
            history.append(int(pending))
            yield history[-1]

    @staticmethod
    def _draw(logits: Tensor, temperature: float) -> Tensor:
        if temperature == 0.0:
            return logits.argmax(-1, keepdim=True)
        return torch.multinomial(functional.softmax(logits / temperature, -1), 1)


def adamw(model: nn.Module, config: Any) -> torch.optim.AdamW:
    """Returns PyTorch's fused AdamW with tinygpt's hyper-parameters; only matrices decay. `config` is a
    TrainingConfig.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)
