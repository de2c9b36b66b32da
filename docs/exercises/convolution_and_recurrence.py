"""Solutions of the exercises of chapter 14, convolution and recurrence. `python -m pytest tests/test_book.py
-k convolution_and_recurrence` checks them.
"""

import math
from itertools import product

from tinygpt_core import DType, Tensor, nn, no_grad, random


def slide(x, w):
    """The chapter's window."""
    return [sum(w[i] * x[p + i] for i in range(len(w))) for p in range(len(x) - len(w) + 1)]


# 14.1 The window spans d (k - 1) + 1, so d (k - 1) places are lost, half of them on each side.
#
# Hint: how many numbers does a window of k with that dilation span?


def same_padding(k, dilation=1):
    return dilation * (k - 1) // 2


def test_14_1_the_same_size():
    for k, dilation in product((1, 3, 5), (1, 2, 3)):
        conv = nn.Conv2d(1, 1, k, padding=same_padding(k, dilation), dilation=dilation)
        assert conv(Tensor.zeros((1, 1, 9, 7))).shape == (1, 1, 9, 7)


# 14.2 Row p holds w, moved to the right by p: equal numbers along each diagonal, zeros elsewhere. As y = M x,
# dL/dx = M^T g, whose row n is the sum of g[n - i] w[i].
#
# Hint: row i of M holds the weights from column i on


def matrix_of(w, size):
    """M for an x of that size, as a list of rows."""
    return [[w[n - p] if 0 <= n - p < len(w) else 0.0 for n in range(size)] for p in range(size - len(w) + 1)]


# Given
def times(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def test_14_2_a_convolution_is_a_matrix():
    x, w, g = [1.0, 2.0, -1.0, 3.0, 0.5], [0.5, -1.0, 2.0], [1.0, 10.0, 100.0]
    matrix = matrix_of(w, len(x))
    assert times(matrix, x) == slide(x, w)
    transposed = [list(column) for column in zip(*matrix, strict=True)]
    room = [0.0] * (len(w) - 1)
    assert times(transposed, g) == slide(room + g + room, w[::-1])


# 14.3 Differentiate the middle answer, and count the columns from the first that has a gradient to the last:
# with the last of these networks some between have none. Weights of one cannot cancel.
#
# Hint: let the gradient of the middle output be 1 and look where that of the input is not 0


def seen_by_the_middle(layers, size=31):
    """How many pixels there are, in a row of that size, from the first to the last on which the middle answer
    depends, both counted; the layers are as in `receptive_field`.
    """
    picture = Tensor.zeros((1, 1, 1, size), requires_grad=True)
    result = picture
    for k, stride, dilation in layers:
        layer = nn.Conv2d(1, 1, (1, k), stride=(1, stride), dilation=(1, dilation), bias=False)
        with no_grad():
            layer.weights[:] = 1.0
        result = layer(result)
    result[0, 0, 0, result.shape[3] // 2].backward()
    touched = [column for column, slope in enumerate(picture.grad.to_python()[0][0][0]) if slope]
    return touched[-1] - touched[0] + 1


# Given
def receptive_field(layers):
    sees, step = 1, 1
    for k, stride, dilation in layers:
        sees, step = sees + dilation * (k - 1) * step, step * stride
    return sees


def test_14_3_the_receptive_field_by_the_tape():
    for layers in (
        [(3, 1, 1)] * 2,
        [(3, 1, 1), (3, 1, 2), (3, 1, 4)],
        [(3, 2, 1), (3, 1, 1)],
        [(5, 3, 1), (3, 1, 2)],
    ):
        assert seen_by_the_middle(layers) == receptive_field(layers)
    assert receptive_field([(3, 1, 1)] * 2) == 5


# 14.4 9 C^2 against 9 C + C^2. Eight times fewer: 9 C^2 = 8 (9 C + C^2), so C = 72. (More than nine times is
# out of reach.)
#
# Hint: a depthwise window has 9 weights for each channel, a full one 9 for each pair of channels


def weights_full(channels):
    return 9 * channels * channels


def weights_separable(channels):
    return 9 * channels + channels * channels


def test_14_4_separable_convolutions():
    for channels in (1, 4, 12):
        full = nn.Conv2d(channels, channels, 3, bias=False)
        parts = nn.Sequential(
            nn.Conv2d(channels, channels, 3, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
        )
        assert full.num_parameters() == weights_full(channels)
        assert parts.num_parameters() == weights_separable(channels)
    assert weights_full(72) == 8 * weights_separable(72)


# 14.5 y = (conv(x) - mean) s + shift with s = weights / sqrt(var + eps): multiply the rows of the convolution
# by s, and move its bias.
#
# Hint: `norm` has `weights`, `bias`, `running_mean`, `running_var` and `eps`: the scale goes into the weights
# of each output channel, the rest into the bias


def folded(conv, norm):
    """One nn.Conv2d for an nn.Conv2d with a bias and the nn.BatchNorm2d behind it."""
    scale = norm.weights / (norm.running_var + norm.eps) ** 0.5
    out, depth = conv.weights.shape[:2]
    result = nn.Conv2d(
        depth * conv.groups, out, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    )
    result.weights = (conv.weights * scale.reshape((out, 1, 1, 1))).detach()
    result.bias = ((conv.bias - norm.running_mean) * scale + norm.bias).detach()
    return result


def test_14_5_batch_norm_folded_away():
    random.seed(0)
    conv, norm = nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3)
    with no_grad():
        norm.weights[:], norm.bias[:] = Tensor([0.5, 2.0, -1.0]), Tensor([0.1, 0.2, 0.3])
    for _ in range(3):
        norm(conv(Tensor.normal((4, 2, 6, 6), mean=1.0)))
    norm.eval()
    images = Tensor.normal((2, 2, 6, 6))
    both, one = norm(conv(images)).buffer.to_array(), folded(conv, norm)(images).buffer.to_array()
    assert all(abs(a - b) < 1e-5 for a, b in zip(both, one, strict=True))


# 14.6 U turns a vector and makes it sqrt(a^2 + b^2) times as long, and so does its transpose. So (a^2 +
# b^2)^(k/2) times the length; it stays for a^2 + b^2 = 1, where U only turns.
#
# Hint: a rotation with a factor: what is the length of (a, b)?


def length_after(a, b, k):
    """The length k steps earlier, where it is 1 at h[t]."""
    return (a * a + b * b) ** (k / 2)


def test_14_6_the_gradient_of_a_rotation():
    for a, b in ((0.6, 0.8), (0.5, 0.5), (1.0, 0.7)):
        start = Tensor([[1.0, 2.0]], DType.float64, requires_grad=True)
        matrix, h = Tensor([[a, b], [-b, a]], DType.float64), start
        for _ in range(20):
            h = h @ matrix
        h[0, 0].backward()
        assert math.isclose(math.hypot(*start.grad.to_python()[0]), length_after(a, b, 20), rel_tol=1e-9)
    assert math.isclose(length_after(0.6, 0.8, 1000), 1.0)


# 14.7 The input alone does not say that it is the first; the state does, for it is 0 only then. Forget, input
# and output gate stand open for good (a bias of 30). The candidate is tanh(10 x + 30 h): the sign of x while
# h is 0, and ever after the sign of h, which is at least tanh(1) = 0.76 away from 0, so that 30 h outweighs
# 10 x. The cell grows away from 0 on the side of the first input.
#
# Hint: a large bias holds a gate open for good; the state is 0 only before the first input, and later it can
# outweigh an input. `lstm.layers[0]` has input_weights, hidden_weights, input_bias and hidden_bias, each with
# i, f, g, o side by side


def remembering():
    """An nn.LSTM(1, 1) whose output has the sign of the first input, and is more than 0.7 away from 0."""
    lstm = nn.LSTM(1, 1)
    layer = lstm.layers[0]
    with no_grad():
        layer.input_weights[:] = Tensor([[0.0, 0.0, 10.0, 0.0]])  # i, f, g, o
        layer.hidden_weights[:] = Tensor([[0.0, 0.0, 30.0, 0.0]])
        layer.input_bias[:] = Tensor([30.0, 30.0, 0.0, 30.0])
        layer.hidden_bias[:] = 0.0
    return lstm


def test_14_7_the_first_input_is_remembered():
    lstm, length = remembering(), 1000
    for first in (1.0, -1.0):
        for others in ([-first] * (length - 1), [1.0, -1.0, -1.0] * (length // 3)):
            with no_grad():
                outputs, _ = lstm(Tensor([[[value] for value in [first, *others[: length - 1]]]]))
            assert outputs[0, length - 1, 0].item() * first > 0.7
