"""A running average of a model's weights, which is often better than the weights of the last step.

While the rate is large, each step jumps to and fro across the valley that the loss falls along; an average of
the last steps lies in its middle. It costs a copy of the weights and one pass over them a step, and changes
nothing of the training itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..buffer.base import Buffer
from ..kernels.optimizer_steps import moving_mean
from ..nn.gpt import GPT
from ..nn.lora import lora_config, put_adapters
from ..tensor import no_grad, uninitialized

TRAINED = "trained."
"""Before the names of the weights in training, in the file of the optimizer's tensors."""


class WeightAverage:
    """The exponential moving average (EMA) of a model's weights: `a = β a + (1 - β) p` after each update.

    In the first steps β is smaller, `min(β, t / (9 + t))` at update t, from 1 on, so that what the weights
    were before training is soon forgotten.

    Args:
        model: in training; its weights are where the average begins.
        decay: β, at least 0 and below 1.

    Attributes:
        model: a GPT that has the averages for its weights; those that are frozen are the other model's own.
        trained: the model in training.

    Source: Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the smaller β at
    first is TensorFlow's, of `tf.train.ExponentialMovingAverage`
    """

    def __init__(self, model: GPT, decay: float) -> None:
        self.decay = decay
        self.trained = model
        with uninitialized():  # so that nothing is drawn
            self.model = GPT(model.config)
            if (adapters := lora_config(model)) is not None:
                put_adapters(self.model, adapters)
        if model.config.ngram_prior:
            self.model.ngram_prior.use(model.ngram_prior.counting)
        for (_, average), (_, trained) in zip(
            self.model.named_parameters(), model.named_parameters(), strict=True
        ):
            average.buffer = trained.buffer.copy() if trained.requires_grad else trained.buffer
        self.model.eval()

    def update(self, number: int) -> None:
        """Takes the weights after update `number`, the first of which is 1, into the average."""
        decay = min(self.decay, number / (9.0 + number))
        with no_grad():
            for (_, average), (_, trained) in zip(
                self.model.named_parameters(trainable_only=True),
                self.trained.named_parameters(trainable_only=True),
                strict=True,
            ):
                average.buffer.assign(moving_mean(average.buffer, trained.buffer, decay))

    def tensors(self) -> dict[str, Buffer]:
        """Returns the weights in training, in their shapes, by their names after `TRAINED`: for the
        optimizer's file, since that of the model has the averages.
        """
        named = self.trained.named_parameters(trainable_only=True)
        return {TRAINED + name: tensor.buffer for name, tensor in named}

    def load_trained(self, tensors: Mapping[str, Buffer]) -> None:
        """Takes over what `tensors` gave, names without `TRAINED`, as the weights in training.

        Raises:
            ValueError: a name is missing or unknown, or a shape differs.
        """
        expected = {name for name, _ in self.trained.named_parameters(trainable_only=True)}
        if tensors.keys() != expected:
            wrong = ", ".join(sorted(tensors.keys() ^ expected))
            raise ValueError(f"unknown or missing among the weights in training: {wrong:.400}")
        self.trained.load_weights(list(tensors.items()), strict=False)
        if self.model.config.ngram_prior:  # which the model's file has, and not the optimizer's
            self.trained.ngram_prior.use(self.model.ngram_prior.counting)


def split_off_trained(tensors: Mapping[str, Buffer]) -> tuple[dict[str, Buffer], dict[str, Buffer]]:
    """Returns the tensors in an optimizer's file that are its own, and the weights in training, by name and
    in their shapes.
    """
    trained = {name: value for name, value in tensors.items() if name.startswith(TRAINED)}
    own = {name: value for name, value in tensors.items() if name not in trained}
    return own, {name.removeprefix(TRAINED): value for name, value in trained.items()}
