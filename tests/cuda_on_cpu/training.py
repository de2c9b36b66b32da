"""A small model in training, for the tests of training steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt_core import Tensor, backends, random
from tinygpt_core.dataset import StreamBatches, TokenStream
from tinygpt_core.kernels.precision import autocast
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.optimizers import AdamW
from tinygpt_core.tensor import no_grad
from tinygpt_core.training import as_tensors, training_step

CONFIG = GPTConfig(vocab_size=29, context_length=12, num_layers=2, num_heads=2, embedding_dim=16, dropout=0.1)


class Run:
    """A small model in training, on the active backend.

    Args:
        dtype: in which the model computes.
        config: of the model.
        step: makes updates; default: the backend's.
        optimizer: its class.
        eager: whether a step on the device is never recorded.
        model: makes another model than the GPT of `config`.
    """

    def __init__(
        self,
        dtype: str = "float32",
        config: GPTConfig = CONFIG,
        *,
        step: Any = None,
        optimizer: Any = AdamW,
        eager: bool = False,
        model: Any = None,
    ) -> None:
        random.seed(5)
        self.dtype = dtype
        self.model = model() if model else GPT(config)
        self.optimizer = optimizer(self.model, 1e-2)
        ids = [int(i) % 29 for i in np.random.default_rng(2).integers(0, 1000, size=400)]
        self.batches = StreamBatches(TokenStream(ids, 29), 12, 3, random.Generator(4))
        self.step: Any = (step or training_step)(self.model, self.optimizer, self.total_loss, 0.5, dtype)
        if eager:
            self.step.why_no_graph = "not asked for"
            self.step.capture = None

    def total_loss(self, batch: Any) -> Tensor:
        inputs, targets = as_tensors(batch)
        with autocast(self.dtype):
            return CrossEntropyLoss()(logits=self.model(inputs), labels=targets).sum()

    def losses(self, count: int) -> list[float]:
        """The losses of `count` updates of two batches each."""
        return [self.step([self.batches.next_batch(), self.batches.next_batch()]) for _ in range(count)]

    def weights(self) -> np.ndarray:
        """All numbers of the model, one after the other."""
        return np.concatenate([np.ravel(p.to_python()) for _, p in self.model.named_parameters()])

    def validate(self) -> None:
        """What a validation does: a forward in eval mode, which leaves weights converted."""
        self.model.eval()
        kept = random.default_generator().position
        with no_grad(), autocast(self.dtype):
            for length in (12, 5):
                self.model(Tensor(backends.active()(np.zeros((2, length), np.int32)))).sum().item()
        random.default_generator().position = kept
        self.model.train()
