"""Layers of images: against their definitions, against PyTorch where it is installed, their state in files,
and their errors.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_core import nn, random
from tinygpt_core.checks import check_gradients
from tinygpt_core.dtype import DType
from tinygpt_core.kernels.windows import Windows
from tinygpt_core.optimizers import SGD
from tinygpt_core.tensor import Tensor, no_grad


@pytest.fixture(autouse=True)
def fixed_seed():
    random.seed(11)


def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    assert (a.buffer - b.buffer).maximum(b.buffer - a.buffer).max().item() <= tolerance


def test_a_convolution_written_out():
    layer = nn.Conv2d(1, 1, 2, bias=False)
    layer.load_weights([("weights", Tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))])
    x = Tensor([[[[1.0, 0.0, 2.0], [0.0, 1.0, 0.0], [5.0, 0.0, 1.0]]]])
    assert layer(x).to_python() == [[[[5.0, 7.0], [17.0, 5.0]]]]


def test_padding_lies_around_the_images_and_nowhere_else():
    x = Tensor.ones((2, 3, 4, 5)).buffer
    windows = Windows.over("conv2d", x, (2, 3), (3, 2), (1, 2))
    padded = windows.pad(x, 7.0)
    assert windows.padded == padded.shape == (2, 3, 6, 9)
    assert padded[windows.inside].to_python() == x.to_python()
    assert padded.sum().item() == 2 * 3 * (4 * 5 + 7 * (6 * 9 - 4 * 5))


def test_a_kernel_of_one_is_a_linear_layer_at_each_pixel():
    layer, x = nn.Conv2d(3, 5, 1), Tensor.normal((2, 3, 4, 4))
    rows = x.permute((0, 2, 3, 1)) @ layer.weights.reshape((5, 3)).transpose(0, 1) + layer.bias
    close(layer(x), rows.permute((0, 3, 1, 2)))


def test_groups_are_convolutions_side_by_side():
    layer, x = nn.Conv2d(4, 6, 3, padding=1, groups=2), Tensor.normal((2, 4, 5, 5))
    halves = []
    for i in range(2):
        half = nn.Conv2d(2, 3, 3, padding=1)
        half.load_weights(
            [("weights", layer.weights[3 * i : 3 * i + 3]), ("bias", layer.bias[3 * i : 3 * i + 3])]
        )
        halves.append(half(x[:, 2 * i : 2 * i + 2]))
    close(layer(x), Tensor.concatenate(halves, axis=1))


def test_initialisation_is_uniform_within_the_fan_in():
    layer = nn.Conv2d(4, 50, (5, 5))
    for values in (layer.weights.reshape((-1,)).to_python(), layer.bias.to_python()):
        assert -0.1 <= min(values) < -0.09 and 0.09 < max(values) <= 0.1  # 1 / sqrt(4 * 5 * 5)


def test_pooling_and_flatten():
    x = Tensor([[[[1.0, 2.0, 5.0, 3.0], [4.0, 0.0, 1.0, -1.0]]]])
    assert nn.MaxPool2d(2)(x).to_python() == [[[[4.0, 5.0]]]]
    assert nn.AvgPool2d(2)(x).to_python() == [[[[1.75, 2.0]]]]
    assert nn.AvgPool2d(2, stride=1)(x).to_python() == [[[[1.75, 2.0, 2.0]]]]
    assert nn.AvgPool2d((2, 3), stride=(1, 2), padding=(1, 1))(x).shape == (1, 1, 3, 2)
    assert nn.Flatten()(x).to_python() == [[1.0, 2.0, 5.0, 3.0, 4.0, 0.0, 1.0, -1.0]]
    assert nn.Flatten()(Tensor.zeros((0, 3, 2, 2))).shape == (0, 12)
    assert nn.Flatten(2)(Tensor.zeros((2, 3, 4, 5))).shape == (2, 3, 20)


# ---------------------------------------------------------------- batch normalization


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(2, 4),
    st.sampled_from([0.0, 0.1, 1.0]),
)
def test_batch_norm_follows_its_definition(images, channels, height, width, momentum):
    import numpy as np

    layer = nn.BatchNorm2d(channels, eps=1e-3, momentum=momentum)
    layer.apply(lambda tensor: Tensor.uniform(tensor.shape, low=0.5, high=2.0))
    x = Tensor.normal((images, channels, height, width), mean=1.0)
    array = np.array(x.to_python())
    w, b, mean, var = (
        np.array(t.to_python())[:, None, None]
        for t in (layer.weights, layer.bias, layer.running_mean, layer.running_var)
    )
    axes, count = (0, 2, 3), images * height * width
    batch_mean, batch_var = array.mean(axes, keepdims=True)[0], array.var(axes, keepdims=True)[0]
    close(layer(x), Tensor(((array - batch_mean) / np.sqrt(batch_var + 1e-3) * w + b).tolist()), 1e-4)
    mean = (1 - momentum) * mean + momentum * batch_mean
    var = (1 - momentum) * var + momentum * batch_var * count / (count - 1)
    close(layer.running_mean, Tensor(mean.ravel().tolist()))
    close(layer.running_var, Tensor(var.ravel().tolist()))
    layer.eval()
    close(layer(x), Tensor(((array - mean) / np.sqrt(var + 1e-3) * w + b).tolist()), 1e-4)
    close(layer.running_mean, Tensor(mean.ravel().tolist()))  # looking changes nothing


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_batch_norm(training):
    layer = nn.BatchNorm2d(2)
    layer.apply(lambda tensor: Tensor.uniform(tensor.shape, low=0.5, high=2.0, dtype=DType.float64))
    layer.train(training)
    x = Tensor.normal((3, 2, 2, 2), dtype=DType.float64, requires_grad=True)
    probe = Tensor.normal((3, 2, 2, 2), dtype=DType.float64)

    def loss(x, weights, bias):
        layer.update({"weights": weights, "bias": bias})
        return (layer(x) * probe).sum()

    check_gradients(loss, x, layer.weights, layer.bias)


def test_running_statistics_are_kept_but_never_trained(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    model.freeze()
    model.unfreeze()
    names = [name for name, _ in model.named_parameters()]
    assert {"layers.1.running_mean", "layers.1.running_var"} <= set(names)
    assert not any("running" in name for name, _ in model.named_parameters(trainable_only=True))
    optimizer = SGD(model, learning_rate=0.1)
    (model(Tensor.normal((4, 1, 4, 4))) ** 2.0).mean().backward()
    moved = model.layers[1].running_mean.to_python()
    optimizer.update()
    assert moved != [0.0, 0.0] and model.layers[1].running_mean.to_python() == moved
    other = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    for suffix in (".safetensors", ".json"):
        model.save_weights(tmp_path / f"weights{suffix}")
        other.load_weights(tmp_path / f"weights{suffix}")
        assert other.layers[1].running_var.to_python() == model.layers[1].running_var.to_python()
    model.eval()
    other.eval()
    x = Tensor.normal((2, 1, 4, 4))
    assert model(x).to_python() == other(x).to_python()


def test_printed_form():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.Flatten()
    )
    text = repr(model)
    settings = "kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=2, bias=True"
    assert f"Conv2d(2, 4, {settings})" in text
    assert (
        "MaxPool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0))" in text
        and "Flatten(start_axis=1)" in text
    )
    assert re.search(r"running_mean +float32 \(4,\), frozen +4$", text, re.MULTILINE)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "exception", "message"),
    [
        (
            lambda: nn.Conv2d(4, 6, 3, groups=4),
            ValueError,
            "groups=4 must divide in_channels=4 and out_channels=6",
        ),
        (lambda: nn.Conv2d(0, 6, 3), ValueError, "in_channels must be at least 1"),
        (lambda: nn.Conv2d(1, 6, 0), ValueError, "kernel_size must be at least 1"),
        (
            lambda: nn.Conv2d(1, 6, (3, 3, 3)),
            TypeError,
            r"kernel_size is an int or a pair of ints, not \(3, 3, 3\)",
        ),
        (
            lambda: nn.Conv2d(1, 6, 3, padding="same"),
            TypeError,
            "padding is an int or a pair of ints, not 'same'",
        ),
        (lambda: nn.MaxPool2d(2, stride=0), ValueError, "stride must be at least 1"),
        (lambda: nn.BatchNorm2d(2, momentum=1.5), ValueError, "momentum must lie in"),
        (
            lambda: nn.Conv2d(1, 2, 5)(Tensor.zeros((1, 1, 4, 4))),
            ValueError,
            r"\(5, 5\) is larger than the padded image of \(4, 4\)",
        ),
        (
            lambda: nn.Conv2d(3, 2, 3)(Tensor.zeros((1, 1, 4, 4))),
            ValueError,
            r"\(1, 1, 4, 4\).*\(2, 1, 3, 3\), not \(2, 3, 3, 3\)",
        ),
        (
            lambda: nn.MaxPool2d(2)(Tensor.zeros((4, 4))),
            ValueError,
            r"max_pool2d: input .*\(batch, .*width\), not \(4, 4\)",
        ),
        (
            lambda: nn.BatchNorm2d(3)(Tensor.zeros((2, 4, 2, 2))),
            ValueError,
            r"\(batch, 3, height, width\).*\(2, 4, 2, 2\)",
        ),
        (
            lambda: nn.BatchNorm2d(3)(Tensor.zeros((1, 3, 1, 1))),
            ValueError,
            r"more than one number.*\(1, 3, 1, 1\)",
        ),
        (lambda: nn.Flatten(4)(Tensor.zeros((2, 4, 2, 2))), ValueError, r"start_axis=4.*\(2, 4, 2, 2\)"),
    ],
)
def test_errors_name_the_parts(make, exception, message):
    with pytest.raises(exception, match=message):
        make()


# ---------------------------------------------------------------- PyTorch


def network(stride=1, dilation=1):
    return nn.Sequential(
        nn.Conv2d(2, 4, (3, 2), stride=stride, padding=(2, 1), dilation=dilation, groups=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(4, 3, 2, padding=1, bias=False),
        nn.AvgPool2d(2, stride=1, padding=1),
    )


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), ((1, 3), (2, 1))])
def test_same_as_pytorch(backend, stride, dilation):
    """A small network with every option, its output, gradients and running statistics, with the same weights
    in both.
    """
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    ours = network(stride, dilation)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, (3, 2), stride=stride, padding=(2, 1), dilation=dilation, groups=2),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(3, stride=2, padding=1),
        torch.nn.Conv2d(4, 3, 2, padding=1, bias=False),
        torch.nn.AvgPool2d(2, 1, 1),
    )
    pairs = []
    for place in (0, 1, 4):
        for name, tensor in ours.layers[place].parameters().items():
            pairs.append((tensor, getattr(theirs[place], name.replace("weights", "weight"))))
    with torch.no_grad():
        for tensor, other in pairs:
            other.copy_(torch.tensor(tensor.to_python()))
    x = Tensor.normal((3, 2, 7, 9), requires_grad=True)
    other_x = torch.tensor(x.to_python(), requires_grad=True)
    y, other_y = ours(x), theirs(other_x)
    close(y, Tensor(other_y.tolist()), 1e-4)
    (y * y).sum().backward()
    (other_y * other_y).sum().backward()
    for tensor, other in ((x, other_x), *pairs):
        close(tensor, Tensor(other.tolist()), 1e-4)
        if other.requires_grad:
            close(tensor.grad, Tensor(other.grad.tolist()), 2e-3)
    ours.eval()
    theirs.eval()
    with no_grad(), torch.no_grad():
        close(ours(x), Tensor(theirs(other_x).tolist()), 1e-4)
