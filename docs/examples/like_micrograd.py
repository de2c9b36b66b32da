"""What micrograd's tutorial does, written with arrays: a small network, the margin loss of a classifier.

    python docs/examples/like_micrograd.py --steps 60

micrograd builds a network of single numbers, each a node of the graph. The same steps with Tensors: the first
part differentiates one expression of two numbers, the second separates two moons with max(0, 1 - y score) as
the loss, plain gradient descent, and a learning rate that falls.
"""

import argparse
from itertools import pairwise

from tinygpt_core import DType, Tensor, no_grad, seed
from tinygpt_core.dataset.toy_data import two_moons


def one_expression():
    """Returns an expression's value and its slopes at a = -4, b = 2, as exact as Python's floats."""
    a, b = (Tensor(value, dtype=DType.float64, requires_grad=True) for value in (-4.0, 2.0))
    c = a + b
    d = a * b + b**3
    c = c + c + 1
    c = c + 1 + c + (-a)
    d = d + d * 2 + (b + a).relu()
    d = d + 3 * d + (b - a).relu()
    e = c - d
    f = e**2
    g = f / 2 + 10 / f
    g.backward()
    return g.item(), a.grad.item(), b.grad.item()


class Network:
    """Layers of weights (inputs, outputs) and biases, with ReLU between them."""

    def __init__(self, sizes):
        pairs = list(pairwise(sizes))
        self.weights = [Tensor.uniform(pair, -1, 1, requires_grad=True) for pair in pairs]
        self.biases = [Tensor.zeros(outputs, requires_grad=True) for _, outputs in pairs]

    def __call__(self, x):
        *hidden, last = zip(self.weights, self.biases, strict=True)
        for weights, bias in hidden:
            x = (x @ weights + bias).relu()
        return x @ last[0] + last[1]

    def parameters(self):
        """Returns all of its Tensors in one list."""
        return [*self.weights, *self.biases]


def loss_and_accuracy(network, points, signs):
    """Returns the mean margin loss with a small penalty on the weights, and the share of right signs."""
    scores = network(points).squeeze(-1)
    margin = (1.0 - signs * scores).clamp(min=0.0).mean()
    penalty = sum((p**2).sum() for p in network.parameters())
    return margin + 1e-4 * penalty, ((scores > 0) == (signs > 0)).sum().item() / len(signs)


def train(steps, count=100):
    """Trains on all points at each step, and returns the losses and the last accuracy."""
    points, classes = two_moons(count)
    signs = Tensor.where(classes == 1, 1.0, Tensor.full(classes.shape, -1.0))
    network = Network([2, 16, 16, 1])
    losses = []
    for step in range(steps):
        loss, accuracy = loss_and_accuracy(network, points, signs)
        for parameter in network.parameters():
            parameter.zero_grad()
        loss.backward()
        rate = 0.5 * (1.0 - 0.9 * step / steps)
        with no_grad():
            for parameter in network.parameters():
                parameter -= rate * parameter.grad
        losses.append(loss.item())
    return losses, accuracy


def main(arguments=None):
    """Runs both parts; returns the losses and the last accuracy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args(arguments)
    print("g = {:.4f}, dg/da = {:.4f}, dg/db = {:.4f}".format(*one_expression()))
    seed(1337)
    losses, accuracy = train(options.steps)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, accuracy {accuracy:.0%}")
    return losses, accuracy


if __name__ == "__main__":
    main()
