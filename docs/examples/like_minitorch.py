"""What minitorch builds up to, in its order: operators, a derivative, broadcasting, and a classifier.

    python docs/examples/like_minitorch.py --data xor --steps 200

minitorch has its reader write a Tensor library. Here one is there, so each step is a few lines that use it: a
function with its derivative, checked against central differences; a view that shares storage; and a network
with the log loss on data sets that a line separates (simple, diagonal) or does not (xor, split).
"""

import argparse

from tinygpt_core import Operation, Tensor, apply_op, check_gradients, seed
from tinygpt_core.nn import Linear, Module
from tinygpt_core.optimizers import Adam

DATA_SETS = {
    "simple": lambda x, y: x < 0.5,
    "diagonal": lambda x, y: x + y < 0.5,
    "split": lambda x, y: (x < 0.2) | (x > 0.8),
    "xor": lambda x, y: ((x < 0.5) & (y > 0.5)) | ((x > 0.5) & (y < 0.5)),
}


class Inverse(Operation):
    """y = 1 / x of each element; dL/dx = -g / x^2."""

    def forward(self, x):
        self.x = x
        return 1.0 / x

    def backward(self, grad):
        return -grad / (self.x * self.x)


def operators():
    """Returns whether a function of one's own has the derivative it says, and a matrix seen another way."""
    x = Tensor([[1.0, 2.0, 4.0]])
    right = check_gradients(lambda x: apply_op(Inverse, x) + x.log1p(), x)
    column = x.T  # a view: what is written to one is seen in the other
    x[0, 0] = 8.0
    return right, (column + x).to_python()


class Classifier(Module):
    """Points (N, 2) in, probabilities (N,) out: three linear layers, ReLU between them, a sigmoid behind."""

    def __init__(self, hidden):
        super().__init__()
        self.layers = [Linear(2, hidden), Linear(hidden, hidden), Linear(hidden, 1)]

    def __call__(self, points):
        first, second, last = self.layers
        return last(second(first(points).relu()).relu()).sigmoid().flatten()


def train(name, steps, count=80, hidden=12):
    """Returns the losses, and how many of the points are on the right side in the end."""
    points = Tensor.uniform((count, 2))
    inside = DATA_SETS[name](points[:, 0], points[:, 1])
    model = Classifier(hidden)
    optimizer = Adam(model, learning_rate=0.03)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        probability = model(points)
        of_the_truth = Tensor.where(inside, probability, 1.0 - probability).clamp(min=1e-6)
        loss = -of_the_truth.log().mean()
        loss.backward()
        optimizer.update()
        losses.append(loss.item())
    right = ((model(points) > 0.5) == inside).sum().item()
    return losses, right / count


def main(arguments=None):
    """Runs all parts; returns the losses and the share of points on the right side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=sorted(DATA_SETS), default="xor")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(arguments)
    seed(2)
    print("derivative right: {}, column + row: {}".format(*operators()))
    losses, accuracy = train(options.data, options.steps)
    print(f"{options.data}: loss {losses[0]:.3f} -> {losses[-1]:.3f}, accuracy {accuracy:.0%}")
    return losses, accuracy


if __name__ == "__main__":
    main()
