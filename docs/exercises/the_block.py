"""Solutions of the exercises of chapter 8, the block. `python -m pytest tests/test_book.py -k the_block`
checks them.
"""

import math

from tinygpt_core import Tensor, check_gradients, seed
from tinygpt_core.nn import FullyConnectedLayer, LayerNorm
from tinygpt_core.random import Generator, normals


def numbers(count, stream=0):
    return normals(Generator(stream).reserve(count), count)


# 8.1 If the last map is zero, the block adds nothing, whatever the first one does. Where layers replace, the
# block would have to compute its own input: the two maps and the bend between them would have to be the
# identity.
#
# Hint: which of the two maps has the last word? `layer.weights = Tensor(…)` gives a layer other weights


def do_nothing(expand, contract):
    contract.weights.assign(contract.weights.detach() * 0.0)
    contract.bias.assign(contract.bias.detach() * 0.0)


def test_8_1_a_layer_that_does_nothing():
    seed(1)
    expand, contract, x = FullyConnectedLayer(4, 16), FullyConnectedLayer(16, 4), Tensor.normal((3, 4))
    assert not (x + contract(expand(x).gelu())).close_to(x)
    do_nothing(expand, contract)
    assert (x + contract(expand(x).gelu())).to_python() == x.to_python()


# 8.2 Subtracting the mean removes a constant, dividing by the deviation a positive factor. Two vectors with
# one result z are s1 z + m1 and s2 z + m2, so one is s1 / s2 times the other, plus a constant.
#
# Hint: mean first, then the root of the mean of the squared distances from it


def layer_norm(x):
    mean = sum(x) / len(x)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in x) / len(x))
    return [(value - mean) / deviation for value in x]


def test_8_2_what_layer_norm_forgets():
    x = numbers(6)
    y = layer_norm(x)
    assert abs(sum(y)) < 1e-9 and abs(sum(value * value for value in y) / 6 - 1) < 1e-9
    same, other = layer_norm([3.5 * value - 2.0 for value in x]), layer_norm([-value for value in x])
    assert all(abs(a - b) < 1e-9 for a, b in zip(y, same, strict=True))
    assert any(abs(a - b) > 0.1 for a, b in zip(y, other, strict=True))
    assert LayerNorm(6, eps=1e-12)(Tensor([x])).close_to([y], atol=1e-5)


# 8.3 (x A + a) B + b = x (A B) + (a B + b).
#
# Hint: multiply out (x A + a) B + b


def merged(A, a, B, b):
    def times(row, matrix):
        return [sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*matrix, strict=True)]

    return [times(row, B) for row in A], [x + y for x, y in zip(times(a, B), b, strict=True)]


def test_8_3_one_linear_map():
    seed(2)
    first, second, x = FullyConnectedLayer(3, 12), FullyConnectedLayer(12, 2), Tensor.normal((5, 3))
    matrix, bias = merged(
        first.weights.to_python(), first.bias.to_python(), second.weights.to_python(), second.bias.to_python()
    )
    assert (len(matrix), len(matrix[0]), len(bias)) == (3, 2, 2)
    assert second(first(x)).close_to(x @ Tensor(matrix) + Tensor(bias), atol=1e-5)


# 8.4 With d the deviation and y the result: the slope of y_i for x_j is ([i = j] - 1/n - y_i y_j / n) / d.
# The row g times that is (g_j - mean(g) - y_j mean(g y)) / d: what is left of g without its parts along the
# constant and along y, which change nothing.
#
# Hint: as for softmax: write down the slope of y_i for x_j, and find the two sums that are the same for
# all j


def layer_norm_backward(x, g):
    n, mean = len(x), sum(x) / len(x)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in x) / n)
    y = [(value - mean) / deviation for value in x]
    of_mean, along = sum(g) / n, sum(a * b for a, b in zip(g, y, strict=True)) / n
    return [(g_j - of_mean - y_j * along) / deviation for g_j, y_j in zip(g, y, strict=True)]


def test_8_4_the_slope_of_layer_norm():
    x, g = numbers(5, 1), numbers(5, 2)
    tensor = Tensor(x, requires_grad=True)
    LayerNorm(5, eps=1e-12, elementwise_affine=False)(tensor).backward(Tensor(g))
    assert tensor.grad.close_to(layer_norm_backward(x, g), atol=1e-4)
    assert abs(sum(layer_norm_backward(x, g))) < 1e-9
    assert check_gradients(LayerNorm(5, elementwise_affine=False), Tensor(x))


# 8.5 Variances of independent numbers add: 1 + 2 L, where the stream began with 1. Contributions that are
# √(2 L) times smaller add 1 in all, however many there are. GPT-2 starts like that.
#
# Hint: variances of independent numbers add; numbers times a factor have factor² times the variance


def spread(L, factor=1.0):
    return 1.0 + 2 * L * factor**2


def test_8_5_the_stream_grows():
    for L, factor in ((3, 1.0), (12, 1.0), (12, 1 / math.sqrt(24))):
        size = 4000
        parts = [numbers(size, stream) for stream in range(2 * L + 1)]
        total = [first + factor * sum(rest) for first, *rest in zip(*parts, strict=True)]
        measured = sum(value * value for value in total) / size
        assert abs(measured / spread(L, factor) - 1) < 0.15
    assert spread(12) == 25.0 and math.isclose(spread(12, 1 / math.sqrt(24)), 2.0)
