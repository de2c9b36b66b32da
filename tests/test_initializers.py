"""Initialisers: bounds and variances are those of their formulas, and a seed gives the same numbers again."""

from __future__ import annotations

import math
import statistics

import pytest

from tinygpt_core import nn
from tinygpt_core.dtype import DType
from tinygpt_core.nn import initializers
from tinygpt_core.random import Generator
from tinygpt_core.tensor import Tensor

FAN_IN, FAN_OUT = 30, 90
DEVIATIONS = {
    "xavier_uniform": math.sqrt(2 / (FAN_IN + FAN_OUT)),
    "xavier_normal": math.sqrt(2 / (FAN_IN + FAN_OUT)),
    "kaiming_uniform": math.sqrt(2 / FAN_IN),
    "kaiming_normal": math.sqrt(2 / FAN_IN),
}


def values(tensor):
    return list(tensor.buffer.to_array())


@pytest.mark.parametrize("shape", [(FAN_IN, FAN_OUT), (FAN_OUT // 6, FAN_IN // 6, 2, 3)])
@pytest.mark.parametrize("name", DEVIATIONS)
def test_deviation_follows_from_the_fans(name, shape, backend):
    """A matrix (in, out), and weights of a convolution (out, in, 2, 3) with the same fans."""
    tensor = Tensor.zeros(shape, requires_grad=True)
    initialize = getattr(initializers, name)
    assert initializers.fans(tensor) == (FAN_IN, FAN_OUT)
    assert initialize(tensor, generator=Generator(1)) is tensor and tensor.requires_grad and tensor.is_leaf
    drawn, deviation = values(tensor), DEVIATIONS[name]
    # The error of a deviation from n numbers is about deviation / sqrt(2 n); four of them.
    assert statistics.pstdev(drawn) == pytest.approx(deviation, rel=4 / math.sqrt(2 * len(drawn)))
    assert abs(statistics.fmean(drawn)) < 4 * deviation / math.sqrt(len(drawn))
    if name.endswith("uniform"):
        assert max(map(abs, drawn)) <= deviation * math.sqrt(3) * (1 + 1e-6)
    else:
        assert max(map(abs, drawn)) > deviation * math.sqrt(3)
    before = drawn
    assert (
        values(initialize(tensor, generator=Generator(1)))
        == before
        != values(initialize(tensor, generator=Generator(2)))
    )


def test_gains_scale():
    one, other = (
        initializers.xavier_normal(Tensor.zeros((4, 4)), name, generator=Generator(0))
        for name in ("linear", "tanh")
    )
    assert (one * (5 / 3)).close_to(other, rtol=1e-6)
    with pytest.raises(ValueError, match="'maxout'; expected one of linear, "):
        initializers.kaiming_normal(Tensor.zeros((4, 4)), "maxout")


def test_plain_ones_and_dtypes():
    tensor = Tensor.zeros((40, 50), DType.float64)
    drawn = values(initializers.normal(tensor, 3.0, 0.5, generator=Generator(0)))
    assert statistics.fmean(drawn) == pytest.approx(3.0, abs=0.05) and statistics.pstdev(
        drawn
    ) == pytest.approx(0.5, abs=0.03)
    drawn = values(initializers.uniform(tensor, -1.0, 2.0, generator=Generator(0)))
    assert -1.0 <= min(drawn) < -0.99 and 1.99 < max(drawn) < 2.0
    assert set(values(initializers.constant(tensor, 0.25))) == {0.25} and tensor.dtype is DType.float64


def test_gpt2_scaled_is_what_gpt_starts_with():
    config = nn.GPTConfig(vocab_size=11, context_length=4, num_layers=8, num_heads=2, embedding_dim=16)
    model = nn.GPT(config)
    tensor = initializers.gpt2_scaled(Tensor.zeros((16, 16)), config.num_layers)
    expected = 0.02 / math.sqrt(2 * 8)
    assert statistics.pstdev(values(tensor)) == pytest.approx(expected, rel=0.2)
    weights = sum((values(block.attn.out.weights) for block in model.transformer_blocks), [])
    assert statistics.pstdev(weights) == pytest.approx(expected, rel=0.1)
    with pytest.raises(ValueError, match="num_layers must be at least 1, but got 0"):
        initializers.gpt2_scaled(tensor, 0)


def test_a_vector_has_no_fans():
    with pytest.raises(ValueError, match=r"not of shape \(5,\)"):
        initializers.xavier_uniform(Tensor.zeros((5,)))
