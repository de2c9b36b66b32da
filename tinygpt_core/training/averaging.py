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
from ..tensor import Tensor, no_grad, uninitialized

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
        model: a GPT that has the averages for its weights.
        trained: the model in training.

    Source: Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the smaller β at
    first is TensorFlow's, of `tf.train.ExponentialMovingAverage`
    """

    def __init__(self, model: GPT, decay: float) -> None:
        self.decay = decay
        self.trained = model
        with uninitialized():  # so that nothing is drawn
            self.model = GPT(model.config)
        self.model.apply(lambda tensor: Tensor(tensor.buffer.copy()))
        self.model.load_weights([(name, tensor.buffer) for name, tensor in model.named_parameters()])
        self.model.eval()

    def update(self, number: int) -> None:
        """Takes the weights after update `number`, the first of which is 1, into the average."""
        decay = min(self.decay, number / (9.0 + number))
        with no_grad():
            for (_, average), (_, trained) in zip(
                self.model.named_parameters(), self.trained.named_parameters(), strict=True
            ):
                average.buffer.assign(moving_mean(average.buffer, trained.buffer, decay))

    def tensors(self) -> dict[str, Buffer]:
        """Returns the weights in training, in their shapes, by their names after `TRAINED`: for the
        optimizer's file, since that of the model has the averages.
        """
        return {TRAINED + name: tensor.buffer for name, tensor in self.trained.named_parameters()}


def split_off_trained(tensors: Mapping[str, Buffer]) -> tuple[dict[str, Buffer], dict[str, Buffer]]:
    """Returns the tensors in an optimizer's file that are its own, and the weights in training, by name and
    in their shapes.
    """
    trained = {name: value for name, value in tensors.items() if name.startswith(TRAINED)}
    own = {name: value for name, value in tensors.items() if name not in trained}
    return own, {name.removeprefix(TRAINED): value for name, value in trained.items()}
