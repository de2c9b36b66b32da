"""A multi-layer perceptron finds the curve between two moons, and draws it.

    python docs/examples/two_moons.py --picture two_moons.svg

Two half circles reach into each other, so no straight line separates them: the hidden layers have to bend it.
"""

import argparse
from pathlib import Path

from tinygpt_core import Tensor, no_grad, seed
from tinygpt_core.dataset.toy_data import two_moons
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import MLP
from tinygpt_core.optimizers import Adam

WIDTH, HEIGHT = 60, 40  # cells of the picture
LEFT, RIGHT, BOTTOM, TOP = -1.6, 2.6, -1.2, 1.7  # what part of the plane it shows
COLOURS = ("#2b6cb0", "#dd6b20")


def accuracy(model, points, classes):
    """The share of points whose class the model gives the larger logit."""
    with no_grad():
        predicted = model(points).argmax(-1)
    return (predicted == classes).sum().item() / points.shape[0]


def draw(model, points, classes):
    """Returns an SVG: each cell in the colour of the class that the model sees there, fainter where it is
    unsure, and the points.
    """
    xs = [LEFT + (i + 0.5) * (RIGHT - LEFT) / WIDTH for i in range(WIDTH)]
    ys = [TOP - (j + 0.5) * (TOP - BOTTOM) / HEIGHT for j in range(HEIGHT)]
    with no_grad():
        probabilities = model(Tensor([[x, y] for y in ys for x in xs])).softmax().to_python()
    size = 10
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * size} {HEIGHT * size}">']
    for place, pair in enumerate(probabilities):
        label = pair.index(max(pair))
        x, y = place % WIDTH * size, place // WIDTH * size
        opacity = max(pair) - 0.4
        parts.append(
            f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="{COLOURS[label]}" '
            f'opacity="{opacity:.2f}"/>'
        )
    for (x, y), label in zip(points.to_python(), classes.to_python(), strict=True):
        across, down = (x - LEFT) / (RIGHT - LEFT) * WIDTH * size, (TOP - y) / (TOP - BOTTOM) * HEIGHT * size
        parts.append(
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{COLOURS[label]}" stroke="white"/>'
        )
    return "\n".join([*parts, "</svg>\n"])


def main(arguments=None):
    """Trains, writes the picture, and returns the accuracy on the training set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300, help="updates (default: 300)")
    parser.add_argument("--points", type=int, default=100, help="how many points (default: 100)")
    parser.add_argument("--picture", metavar="FILE", help="where to write the decision boundary, as SVG")
    options = parser.parse_args(arguments)

    seed(1)
    points, classes = two_moons(options.points, noise=0.1, seed=1)
    model = MLP(2, [16, 16, 2], "relu")
    loss_function = CrossEntropyLoss(reduction="mean")
    optimizer = Adam(model, learning_rate=0.02)

    for step in range(1, options.steps + 1):
        optimizer.zero_grad()
        loss = loss_function(model(points), classes)
        loss.backward()
        optimizer.update()
        if step % 50 == 0:
            print(f"step {step:3d}  loss {loss.item():.4f}  accuracy {accuracy(model, points, classes):.1%}")

    if options.picture:
        Path(options.picture).write_text(draw(model, points, classes), encoding="utf-8")
        print(f"the boundary is drawn in {options.picture}")
    return accuracy(model, points, classes)


if __name__ == "__main__":
    main()
