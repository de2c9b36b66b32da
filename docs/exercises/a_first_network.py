"""Solutions of the exercises of chapter 3, a first network. `python -m pytest tests/test_book.py -k
a_first_network` checks them.
"""

import math
from itertools import pairwise

from tinygpt_core import DType, Module, Tensor, no_grad, seed
from tinygpt_core.dataset.toy_data import two_moons
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import FullyConnectedLayer
from tinygpt_core.optimizers import SGD, AdamW, Optimizer
from tinygpt_core.random import Generator

CURVATURES, START = [1.0, 25.0], [-8.0, 1.6]


def descend(rule, steps):
    """The chapter's descent into its valley."""
    p, state = list(START), [{} for _ in START]
    for t in range(1, steps + 1):
        p = [rule(value, c * value, memory, t) for value, c, memory in zip(p, CURVATURES, state, strict=True)]
    return p


class Point(Module):
    """Where one stands in the valley."""

    def __init__(self):
        super().__init__()
        self.p = Tensor(START, DType.float64, requires_grad=True)


def descend_by(make, steps):
    point = Point()
    optimizer = make(point)
    for _ in range(steps):
        optimizer.zero_grad()
        ((point.p * point.p * Tensor(CURVATURES, DType.float64)).sum() * 0.5).backward()
        optimizer.update()
    return point, optimizer


class Network(Module):
    """The chapter's network."""

    def __init__(self, *sizes):
        super().__init__()
        self.layers = [FullyConnectedLayer(a, b) for a, b in pairwise(sizes)]

    def __call__(self, x):
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x).tanh()
        return last(x)


# 3.1 The factors are |1 - η| and |1 - 25 η|. The first falls with η and the second rises (beyond 1/25): the
# larger is least where they are equal, 1 - η = 25 η - 1, so η = 2 / 26. Both are then 24 / 26, and (12 /
# 13)^n = 1 / 1000 at n = 86.3.
#
# Hint: a direction with curvature c shrinks by |1 - η c|; make the two extreme factors equal


def best_rate(smallest, largest):
    """The rate for these two curvatures, its factor per step, and the number of steps to a thousandth."""
    rate = 2 / (smallest + largest)
    factor = 1 - rate * smallest
    return rate, factor, math.ceil(math.log(1000) / -math.log(factor))


def test_3_1_the_best_single_rate():
    rate, factor, steps = best_rate(*CURVATURES)
    assert steps == 87

    def worst(eta):
        return max(abs(1 - eta * c) for c in CURVATURES)

    assert abs(worst(rate) - factor) < 1e-15
    assert all(worst(k / 1000) >= factor for k in range(100))
    end = descend(lambda p, g, memory, t: p - rate * g, steps)
    before = descend(lambda p, g, memory, t: p - rate * g, steps - 1)
    assert abs(end[0]) <= 8.0 / 1000 < abs(before[0])


# 3.2 The same velocity, and one more look along it.
#
# Hint: update the velocity first, and then step along g + μ u


def nesterov(p, g, memory, t, rate=0.02, mu=0.9):
    memory["u"] = memory.get("u", 0.0) * mu + g
    return p - (g + memory["u"] * mu) * rate


def test_3_2_looking_ahead():
    point, _ = descend_by(lambda point: SGD(point, 0.02, momentum=0.9, nesterov=True), 80)
    assert point.p.to_python() == descend(nesterov, 80)


# 3.3 Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023.
#
# Hint: m is `state.get("momentum", …)`, and `state["momentum"] = …` keeps it for the next step


# Given
def sign(x):
    return Tensor.where(x > 0.0, 1.0, Tensor.where(x < 0.0, -1.0, x * 0.0))


class Lion(Optimizer):
    slots = ("momentum",)  # the names of what `state` keeps

    def __init__(self, module, learning_rate, betas=(0.9, 0.99)):
        super().__init__(module)
        self.learning_rate, self.betas = learning_rate, betas

    def apply_single(self, parameter, state):
        """The new value of a parameter, whose gradient is `parameter.grad`."""
        m = state.get("momentum", parameter.grad * 0.0)
        one, two = self.betas
        direction = sign(m * one + parameter.grad * (1.0 - one))
        state["momentum"] = m * two + parameter.grad * (1.0 - two)
        return parameter.detach() - direction * self.learning_rate


# Given
def lion(p, g, memory, t):
    m = memory.get("m", 0.0)
    step = m * 0.9 + g * (1.0 - 0.9)
    memory["m"] = m * 0.99 + g * (1.0 - 0.99)
    return p - math.copysign(1.0, step) * 0.1


def test_3_3_only_the_sign():
    point, optimizer = descend_by(lambda point: Lion(point, 0.1), 30)
    assert point.p.to_python() == descend(lion, 30)
    saved = optimizer.state_dict()
    assert set(saved) == {"step", "momentum.p"} and saved["step"].item() == 30
    other = Lion(Point(), 0.1)
    other.load_state_dict(saved)
    assert (
        other.step == 30
        and other.state["p"]["momentum"].to_python() == optimizer.state["p"]["momentum"].to_python()
    )


# 3.4 Gradients add up until zero_grad, so it is enough that each part contributes its share of the mean: the
# sum of its losses divided by the number of all points. The mean of the parts' means would count a point of a
# small part for more.
#
# Hint: gradients add up in leaves; by what must the mean of each part be multiplied?


def gradient_in_parts(model, points, classes, sizes):
    """Leaves the gradient in the parameters of the model; the parts have these sizes."""
    model.zero_grad()
    start = 0
    for size in sizes:
        losses = CrossEntropyLoss()(model(points[start : start + size]), classes[start : start + size])
        (losses.sum() / points.shape[0]).backward()
        start += size


def test_3_4_a_batch_in_parts():
    points, classes = two_moons(100, seed=3)
    seed(4)
    model = Network(2, 8, 2)
    CrossEntropyLoss(reduction="mean")(model(points), classes).backward()
    expected = [p.grad for _, p in model.named_parameters()]
    for sizes in ((25, 25, 25, 25), (40, 40, 15, 5)):
        gradient_in_parts(model, points, classes, sizes)
        assert all(
            p.grad.close_to(g, rtol=1e-4, atol=1e-6)
            for (_, p), g in zip(model.named_parameters(), expected, strict=True)
        )


# 3.5 Equal weights in and out give equal values and equal gradients, and every rule of the chapter moves
# equal numbers with equal gradients alike. Only something random that touches one of them, such as the start
# or dropout, sets them apart.
#
# Hint: compare one column of the first layer's weights with another, and one row of the second's


def are_twins(model):
    into, out = model.layers
    return all(
        tensor[first].to_python() == tensor[second].to_python()
        for tensor, first, second in (
            (into.weights, (slice(None), 0), (slice(None), 1)),
            (into.bias, 0, 1),
            (out.weights, 0, 1),
        )
    )


def test_3_5_twins():
    points, classes = two_moons(20, seed=1)
    for make in (lambda model: SGD(model, 0.5, momentum=0.9), lambda model: AdamW(model, 0.05)):
        seed(2)
        model = Network(2, 4, 2)
        optimizer = make(model)
        assert not are_twins(model)
        with no_grad():
            into, out = model.layers
            into.weights[:, 1], into.bias[1], out.weights[1] = (
                into.weights[:, 0],
                into.bias[0],
                out.weights[0],
            )
        before = into.weights.to_python()
        for _ in range(20):
            optimizer.zero_grad()
            CrossEntropyLoss(reduction="mean")(model(points), classes).backward()
            optimizer.update()
            assert are_twins(model)
        assert into.weights.to_python() != before


# 3.6 Back through a layer, the gradient is multiplied by the transposed weights, a sum over n outputs, and
# half of it is set to 0, where relu was off. That is the same factor as on the way forward: with √2 / √n both
# keep their size.
#
# Hint: keep the gradient of every value with retain_grad, and take the root of its mean square


def gradient_sizes(factor, depth=10, width=128, rows=32):
    """The typical sizes of the gradients for x and for the result of each layer, where those for the last
    result are random numbers of size 1, and weights are of size factor / √width.
    """
    generator = Generator(0)
    x = Tensor.normal((rows, width), generator=generator, requires_grad=True)
    passed = [x]
    for _ in range(depth):
        weights = Tensor.normal((width, width), std=factor / math.sqrt(width), generator=generator)
        passed.append((passed[-1] @ weights).relu())
        passed[-1].retain_grad()
    passed[-1].backward(Tensor.normal((rows, width), generator=generator))
    return [(value.grad * value.grad).mean().item() ** 0.5 for value in passed]


def test_3_6_the_size_of_a_gradient():
    for factor in (1.0, math.sqrt(2.0), 2.0):
        sizes = gradient_sizes(factor)
        assert 0.9 < sizes[-1] < 1.1
        growth = (sizes[0] / sizes[-1]) ** 0.1  # for each layer, on the way back
        assert abs(growth - factor / math.sqrt(2.0)) < 0.06 * factor
