"""Classify the 150 flowers of the iris data, or the 1,797 handwritten digits that also come with
scikit-learn.

    pip install scikit-learn
    python docs/examples/iris.py
    python docs/examples/iris.py --data digits --backend numpy

A fifth of the examples is kept back: what counts is how many of those the model gets right.
"""

import argparse

from tinygpt_core import Tensor, backends, no_grad, seed
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import Linear, ReLU, Sequential
from tinygpt_core.nn.inspection import summary
from tinygpt_core.optimizers import SGD
from tinygpt_core.random import Generator


def load(name):
    """Returns rows of features, scaled to mean 0 and deviation 1 in each column, and their classes, in random
    order.
    """
    from sklearn import datasets

    features, classes = getattr(datasets, f"load_{name}")(return_X_y=True)
    columns = [list(map(float, column)) for column in zip(*features, strict=True)]
    for column in columns:
        mean = sum(column) / len(column)
        deviation = (sum((x - mean) ** 2 for x in column) / len(column)) ** 0.5 or 1.0
        column[:] = [(x - mean) / deviation for x in column]
    rows = list(zip(*columns, strict=True))
    order = Generator(7).permutation(len(rows))
    return [list(rows[i]) for i in order], [int(classes[i]) for i in order]


def main(arguments=None):
    """Trains and returns the accuracy on the examples kept back."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=["iris", "digits"], default="iris", help="default: iris")
    parser.add_argument(
        "--steps", type=int, default=300, help="updates, each on all training examples (default: 300)"
    )
    parser.add_argument("--backend", default="python", help="python or numpy (default: python)")
    options = parser.parse_args(arguments)

    with backends.use(options.backend):
        seed(0)
        rows, classes = load(options.data)
        split = len(rows) * 4 // 5
        inputs, targets = Tensor(rows[:split]), Tensor(classes[:split])
        test_inputs, test_targets = Tensor(rows[split:]), Tensor(classes[split:])

        model = Sequential(Linear(inputs.shape[1], 16), ReLU(), Linear(16, max(classes) + 1))
        print(summary(model, inputs), "\n")
        loss_function = CrossEntropyLoss(reduction="mean")
        optimizer = SGD(model, learning_rate=0.1, momentum=0.9)

        for step in range(1, options.steps + 1):
            optimizer.zero_grad()
            loss = loss_function(model(inputs), targets)
            loss.backward()
            optimizer.update()
            if step % 50 == 0:
                print(f"step {step:3d}  loss {loss.item():.4f}")

        with no_grad():
            right = (model(test_inputs).argmax(-1) == test_targets).sum().item()
        print(
            f"{right} of {len(rows) - split} examples that it has never seen are right "
            f"({right / (len(rows) - split):.1%})"
        )
        return right / (len(rows) - split)


if __name__ == "__main__":
    main()
