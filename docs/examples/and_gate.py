"""The smallest network there is: one neuron learns the AND gate.

python docs/examples/and_gate.py
"""

import argparse

from tinygpt_core import Tensor, no_grad, seed
from tinygpt_core.losses import BinaryCrossEntropyLoss
from tinygpt_core.nn import Linear
from tinygpt_core.optimizers import SGD


def main(arguments=None):
    """Trains, prints the truth table, and returns how many of its four rows are right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200, help="updates (default: 200)")
    steps = parser.parse_args(arguments).steps

    seed(1)
    inputs = Tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    targets = Tensor([[0.0], [0.0], [0.0], [1.0]])

    neuron = Linear(2, 1)  # y = w1 x1 + w2 x2 + b: above 0 means yes
    loss_function = BinaryCrossEntropyLoss()
    optimizer = SGD(neuron, learning_rate=1.0)

    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_function(neuron(inputs), targets)
        loss.backward()  # leaves d loss / d w in w.grad
        optimizer.update()  # moves w a little against it
        if step % 50 == 0:
            print(f"step {step:3d}  loss {loss.item():.4f}")

    with no_grad():
        probabilities = neuron(inputs).sigmoid().to_python()
    print("\n x1  x2   probability of 1")
    for (x1, x2), (probability,) in zip(inputs.to_python(), probabilities, strict=True):
        print(f"  {x1:.0f}   {x2:.0f}   {probability:.3f}")
    (w1,), (w2,) = neuron.weights.to_python()
    print(f"\nlearnt: yes where {w1:.1f} x1 + {w2:.1f} x2 > {-neuron.bias.item():.1f}")
    return sum((p > 0.5) == (t > 0.5) for (p,), (t,) in zip(probabilities, targets.to_python(), strict=True))


if __name__ == "__main__":
    main()
