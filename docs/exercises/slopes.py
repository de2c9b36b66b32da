"""Solutions of the exercises of chapter 1, slopes. `python -m pytest tests/test_book.py -k slopes`
checks them.
"""

import math

from tinygpt_core import Buffer, DType, Tensor, check_gradients, kernels


def central(f, x, h):
    """The chapter's measured slope."""
    return (f(x + h) - f(x - h)) / (2 * h)


def jacobian(function, point, h=1e-6):
    """The chapter's measured Jacobian: a row for each output."""
    columns = []
    for j in range(len(point)):
        above, below = list(point), list(point)
        above[j] += h
        below[j] -= h
        columns.append([(p - q) / (2 * h) for p, q in zip(function(above), function(below), strict=True)])
    return [list(row) for row in zip(*columns, strict=True)]


def close(first, second, tolerance=1e-7):
    return all(abs(a - b) <= tolerance for a, b in zip(first, second, strict=True))


# 1.1 The error of `central` with step 2 h is four times that with h, up to terms with h^4: so (4 near - far)
# / 3 has only those.
#
# Hint: the error of the central difference with step 2 h is four times that with step h; which mix of the
# two cancels it?


def four_points(f, x, h):
    return (4 * central(f, x, h) - central(f, x, 2 * h)) / 3


def test_1_1_four_points():
    def f(x):
        return 1 / x

    def error(measure, h):
        return abs(measure(f, 1.3, h) + 1 / 1.3**2)

    assert 15 < error(four_points, 0.02) / error(four_points, 0.01) < 17
    assert 3.9 < error(central, 0.02) / error(central, 0.01) < 4.1
    assert four_points(lambda x: x**4, 2.0, 0.5) == 32.0  # exact up to the fourth power
    # Near the fifth root of 1e-16, where it is best
    assert error(four_points, 1e-3) < 2e-11 < error(central, 1e-3)


# 1.2 f(x + ih) = f(x) + i h f'(x) - h² f''(x) / 2 - …: the slope stands alone in the imaginary part, and
# nothing is subtracted from it.
#
# Hint: expand f(x + ih) by powers of h, with i² = -1, and look at the imaginary part alone


def complex_step(f, x, h=1e-20):
    return f(complex(x, h)).imag / h


def test_1_2_a_step_into_the_complex_plane():
    for x in (0.3, 1.0, -2.5):
        exact = 3 * x * x - 2
        assert abs(complex_step(lambda x: x * x * x - 2 * x, x) - exact) <= 4e-16 * (3 * x * x + 2)
        assert abs(central(lambda x: x * x * x - 2 * x, x, 1e-20) - exact) > 0.1


# 1.3 With u = c (x + k x³) and t = tanh u: a product of x / 2 and 1 + t, and t has the slope (1 - t²) times
# that of u.
#
# Hint: it is a product of x / 2 and 1 + tanh u; then the chain rule for u, which is a polynomial


def gelu_slope(x):
    c, k = math.sqrt(2 / math.pi), 0.044715
    t = math.tanh(c * (x + k * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * k * x * x)


def test_1_3_the_slope_of_gelu():
    points = [-3.0, -0.75, 0.0, 0.4, 2.0]
    x = Tensor(points, DType.float64, requires_grad=True)
    x.gelu().sum().backward()
    assert close(x.grad.to_python(), map(gelu_slope, points), 1e-14)


# 1.4 y_i = e_i / S: a step of x_j counts through e_i where i = j, which gives y_i, and through 1 / S, which
# gives -y_i y_j. The row g times that: sum over i of g_i (y_i [i = j] - y_i y_j) = y_j (g_j - sum of g_i
# y_i). The sum is the same for all j.
#
# Hint: y_i is e_i times 1 / S: a step of x_j counts through both; the sum over i of g_i y_i is the same
# for every j


# Given
def softmax(x):
    e = [math.exp(value - max(x)) for value in x]
    return [value / sum(e) for value in e]


def softmax_jacobian(x):
    """Row i has the slopes of result i."""
    y = softmax(x)
    return [[y_i * ((i == j) - y_j) for j, y_j in enumerate(y)] for i, y_i in enumerate(y)]


def softmax_backward(x, g):
    """From the slopes g of the loss for the result to those for x."""
    y = softmax(x)
    mean = sum(g_i * y_i for g_i, y_i in zip(g, y, strict=True))
    return [y_j * (g_j - mean) for g_j, y_j in zip(g, y, strict=True)]


def test_1_4_the_jacobian_of_softmax():
    x, g = [2.0, 1.0, -1.0, 0.5], [1.0, -2.0, 0.5, 3.0]
    table = softmax_jacobian(x)
    assert all(close(*rows) for rows in zip(table, jacobian(softmax, x), strict=True))
    long_way = [sum(g_i * row[j] for g_i, row in zip(g, table, strict=True)) for j in range(4)]
    assert close(long_way, softmax_backward(x, g), 1e-14)


# 1.5 With r = 1 / √(mean x² + ε), y_i = x_i r. The slope of r for x_j is -r³ x_j / n: y_i has for x_j the
# slope r [i = j] - r³ x_i x_j / n. The row g times that: r g_j - r³ x_j / n times the sum of g_i x_i. With y
# = x r it is r (g_j - y_j mean(g y)).
#
# Hint: with r = 1 / √(mean x² + ε) the result is x r: the slope of r for x_j is -r³ x_j / n


def rms_norm_backward(x, g, eps=1e-5):
    """From the slopes g of the loss for y to those for x."""
    r = 1 / math.sqrt(sum(value * value for value in x) / len(x) + eps)
    mean = sum(g_i * x_i * r for g_i, x_i in zip(g, x, strict=True)) / len(x)
    return [r * (g_j - x_j * r * mean) for g_j, x_j in zip(g, x, strict=True)]


def test_1_5_rms_norm():
    def forward(x):
        return [value / math.sqrt(sum(v * v for v in x) / len(x) + 1e-5) for value in x]

    x, g = [0.5, -1.5, 2.0, 0.1, 0.0], [1.0, 2.0, -0.5, 3.0, 1.0]
    table = jacobian(forward, x)
    assert close(
        rms_norm_backward(x, g),
        [sum(g_i * row[j] for g_i, row in zip(g, table, strict=True)) for j in range(5)],
    )
    row = Buffer([x], DType.float64)
    _, saved = kernels.RMSNorm.forward(row)
    of_input = kernels.RMSNorm.backward(saved, Buffer([g], DType.float64))[0]()
    assert close(rms_norm_backward(x, g), of_input.to_python()[0], 1e-14)
    assert check_gradients(lambda x: x * (1.0 / ((x * x).mean() + 1e-5).sqrt()), Tensor(x))


# 1.6 One pass for each input, but all outputs at once: better where inputs are fewer than outputs, and it
# keeps nothing.
#
# Hint: the slope of a product has two terms, and each needs the value of the other factor


class Dual:
    def __init__(self, value, slope=0.0):
        self.value, self.slope = value, slope

    def __add__(self, other):
        return Dual(self.value + other.value, self.slope + other.slope)

    def __mul__(self, other):
        return Dual(self.value * other.value, self.slope * other.value + self.value * other.slope)

    def sin(self):
        return Dual(math.sin(self.value), math.cos(self.value) * self.slope)


def test_1_6_numbers_that_carry_their_slope():
    x = Dual(1.2, 1.0)
    y = x * x.sin() + Dual(3.0) * x
    assert abs(y.value - (1.2 * math.sin(1.2) + 3.6)) < 1e-15
    assert abs(y.slope - (math.sin(1.2) + 1.2 * math.cos(1.2) + 3.0)) < 1e-15
    a, b = Dual(2.0, 0.0), Dual(5.0, 1.0)  # the slope for b
    assert (a * b * b).slope == 20.0
