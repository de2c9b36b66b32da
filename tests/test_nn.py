"""Layers against compositions of Tensor operations, and their errors."""

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_core import nn, random
from tinygpt_core.checks import check_gradients
from tinygpt_core.dtype import DType
from tinygpt_core.nn.attention import plain_attention
from tinygpt_core.tensor import Tensor, no_grad


@pytest.fixture(autouse=True)
def fixed_seed():
    random.seed(7)


def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    assert (a.buffer - b.buffer).maximum(b.buffer - a.buffer).max().item() <= tolerance


def as_float64(module):
    module.apply(lambda tensor: tensor.cast(DType.float64))
    return module


def randomized(module, std=0.5):
    """All parameters drawn anew, so that no bias is zero and no scale one."""
    module.apply(lambda tensor: Tensor.normal(tensor.shape, std=std, dtype=tensor.dtype))
    return module


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 3), max_size=2), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_linear_is_matrix_product_plus_bias(lead, input_dims, output_dims, bias):
    layer = nn.FullyConnectedLayer(input_dims, output_dims, bias)
    x = Tensor.normal((*lead, input_dims))
    expected = x @ layer.weights
    close(layer(x), expected + layer.bias if bias else expected)
    assert ("bias" in layer) is bias and layer(x).requires_grad


def test_linear_initialisation():
    layer = nn.Linear(25, 400)
    for values in (sum(layer.weights.to_python(), []), layer.bias.to_python()):
        assert max(values) <= 0.2 and min(values) >= -0.2 and max(values) - min(values) > 0.38
    assert nn.Linear is nn.FullyConnectedLayer
    assert set(nn.Linear(2, 3, std=0.02).bias.to_python()) == {0.0}


@pytest.mark.parametrize("sizes", [(None, 2), (2, None), (2.0, 2), (True, 2)])
def test_sizes_of_wrong_type(sizes):
    with pytest.raises(TypeError, match="_dims must be an int"):
        nn.FullyConnectedLayer(*sizes)


@pytest.mark.parametrize("sizes", [(0, 2), (2, 0), (-1, 2)])
def test_sizes_below_one(sizes):
    with pytest.raises(ValueError, match="_dims must be at least 1"):
        nn.FullyConnectedLayer(*sizes)


def test_same_seed_same_weights():
    def weights(seed):
        random.seed(seed)
        return [tensor.to_python() for _, tensor in nn.TransformerBlock(4, 3, 2).named_parameters()]

    assert weights(1) == weights(1) != weights(2)


@pytest.mark.parametrize("name", list(nn.MLP.activation_functions))
def test_mlp_has_no_activation_after_its_last_layer(name):
    mlp = nn.MLP(3, [4, 2], name)
    x = Tensor.normal((5, 3))
    activation = nn.ACTIVATION_FUNCTIONS[name]
    close(mlp(x), mlp.layers[1](activation(mlp.layers[0](x))))


def test_mlp_can_be_negative():
    mlp = nn.MLP(1, [1], "relu")
    mlp.load_weights([("layers.0.weights", Tensor([[-1.0]])), ("layers.0.bias", Tensor([0.0]))])
    assert mlp(Tensor([[2.0]])).to_python() == [[-2.0]]


def test_mlp_errors():
    with pytest.raises(ValueError, match="unknown activation function 'reluu'; expected one of linear, relu"):
        nn.MLP(2, [2], "reluu")
    with pytest.raises(TypeError):
        nn.MLP(2, None, "relu")
    with pytest.raises(ValueError):
        nn.MLP(2, [2, 0], "relu")


def test_activation_modules():
    x = Tensor([-2.0, -0.5, 0.0, 1.0])
    close(nn.ReLU()(x), x.relu())
    close(nn.SiLU()(x), x * x.sigmoid())
    exact = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.to_python()]
    close(nn.GELU("none")(x), Tensor(exact))
    close(nn.GELU()(x), Tensor(exact), 1e-3)


@pytest.mark.parametrize("name", ["glu", "reglu", "geglu", "swiglu"])
def test_gated_mlp(name):
    gated = nn.GatedMLP(3, 5, name, bias=True)
    x = Tensor.normal((2, 3))
    activation = {"glu": Tensor.sigmoid, "reglu": Tensor.relu, "geglu": Tensor.gelu, "swiglu": Tensor.silu}[
        name
    ]
    close(gated(x), (activation(gated.gate(x)) * gated.up(x)) @ gated.down.weights + gated.down.bias)
    with pytest.raises(ValueError, match="gated unit 'relu'"):
        nn.GatedMLP(3, 5, "relu")


def test_sequential():
    first, last = nn.Linear(2, 3), nn.Linear(3, 1)
    model = nn.Sequential(first, Tensor.tanh, last)
    x = Tensor.normal((4, 2))
    close(model(x), last(first(x).tanh()))
    assert len(model) == 3 and next(iter(model)) is first and model[2] is last
    assert [name for name, _ in model.named_parameters()] == [
        "layers.0.weights",
        "layers.0.bias",
        "layers.2.weights",
        "layers.2.bias",
    ]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_embedding_looks_rows_up_and_its_gradient_counts_them(indices):
    embedding = nn.Embedding(4, 3)
    result = embedding(Tensor([indices]))
    assert result.to_python() == [[embedding.embeddings.to_python()[index] for index in indices]]
    result.sum().backward()
    assert embedding.embeddings.grad.to_python() == [[float(indices.count(row))] * 3 for row in range(4)]


def test_embedding_errors():
    embedding = nn.Embedding(3, 4)
    for wrong in (None, [[0, 1]]):
        with pytest.raises(TypeError, match="must be a Tensor"):
            embedding(wrong)
    for wrong in ([[0.0]], [[True]]):
        with pytest.raises(ValueError, match="must be integers"):
            embedding(Tensor(wrong))
    for wrong in (-1, 3):
        with pytest.raises(IndexError):
            embedding(Tensor([[0, wrong]]))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_layer_norm_is_its_formula(shape):
    for normalized in range(1, len(shape) + 1):
        axes = tuple(range(len(shape) - normalized, len(shape)))
        x = Tensor.normal(shape, mean=3.0, std=2.0)
        centred = x - x.mean(axes, keepdim=True)
        expected = centred / ((centred * centred).mean(axes, keepdim=True) + 1e-5).sqrt()
        close(nn.LayerNorm(shape[-normalized:], elementwise_affine=False)(x), expected)
        norm = randomized(nn.LayerNorm(shape[-normalized:]))
        close(norm(x), expected * norm.weights + norm.bias)
        norm = randomized(nn.LayerNorm(shape[-normalized:], bias=False))
        close(norm(x), expected * norm.weights)
        assert "bias" not in norm
        norm = randomized(nn.RMSNorm(shape[-normalized:]))
        close(norm(x), x / ((x * x).mean(axes, keepdim=True) + 1e-5).sqrt() * norm.weights)
        assert norm.parameters().keys() == {"weights"}
    assert nn.RMSNorm(4, elementwise_affine=False).parameters() == {}


@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm])
def test_normalization_errors(kind):
    for wrong in ((0,), (1, -1), ()):
        with pytest.raises(ValueError):
            kind(wrong)
    with pytest.raises(TypeError):
        kind([3])
    for affine in (True, False):
        with pytest.raises(
            ValueError,
            match=rf"{kind.__name__}: input must have the shape \(\.\.\., 3\), not \(2, 2\)[^^]*\^ axis 1",
        ):
            kind(3, elementwise_affine=affine)(Tensor.zeros((2, 2)))


def test_dropout():
    layer = nn.Dropout(0.25)
    x = Tensor.ones((1000,))
    state = random.default_generator().get_state()
    first = layer(x).to_python()
    assert {round(value, 5) for value in first} == {0.0, 1.33333} and 150 < first.count(0.0) < 350
    assert layer(x).to_python() != first
    random.default_generator().set_state(state)
    assert layer(x).to_python() == first
    layer.eval()
    position = random.default_generator().position
    assert layer(x) is x and random.default_generator().position == position
    for wrong in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="dropout probability"):
            nn.Dropout(wrong)


def attention_by_hand(attention, x):
    """Position by position and head by head, in plain Python."""
    (rows,), size, dims = (
        x.to_python(),
        attention.embedding_dim // attention.num_heads,
        attention.embedding_dim,
    )
    packed = attention.query_key_value(x).to_python()[0]
    out = []
    for i in range(len(rows)):
        row = []
        for head in range(attention.num_heads):
            q, k, v = (
                [p[part * dims + head * size : part * dims + (head + 1) * size] for p in packed]
                for part in range(3)
            )
            scores = [
                sum(a * b for a, b in zip(q[i], k[j], strict=True)) / math.sqrt(size) for j in range(i + 1)
            ]
            weights = [math.exp(score - max(scores)) for score in scores]
            row += [sum(w * v[j][d] for j, w in enumerate(weights)) / sum(weights) for d in range(size)]
        out.append(row)
    return attention.out(Tensor([out]))


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_attention_is_its_formula_scaled_by_the_head_size(num_heads):
    attention = randomized(nn.CausalSelfAttention(8, 6, num_heads, bias=True))
    x = Tensor.normal((1, 5, 8))
    close(attention(x), attention_by_hand(attention, x), 1e-4)
    assert nn.CasualSelfAttention is nn.CausalSelfAttention


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_the_plain_formula_and_the_layer_agree_in_values_and_gradients(num_heads):
    attention = as_float64(randomized(nn.CausalSelfAttention(8, 6, num_heads, bias=True)))

    def by_formula(x):
        heads = attention.query_key_value(x).reshape((2, 5, 3, num_heads, 8 // num_heads))
        query, key, value = (heads[:, :, part].permute((0, 2, 1, 3)) for part in range(3))
        return attention.out(plain_attention(query, key, value).permute((0, 2, 1, 3)).reshape((2, 5, 8)))

    results = []
    x = Tensor.normal((2, 5, 8), dtype=DType.float64, requires_grad=True)
    factors = Tensor.normal((2, 5, 8), dtype=DType.float64)
    for function in (attention, by_formula):
        attention.zero_grad()
        x.zero_grad()
        y = function(x)
        (y * factors).sum().backward()
        results.append([y, x.grad, *(parameter.grad for _, parameter in attention.named_parameters())])
    for of_layer, of_formula in zip(*results, strict=True):
        close(of_layer, of_formula, 1e-12)


@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_a_block_draws_its_weights_as_it_is_told(activation):
    """`output_std` for the two layers that end in the residual stream, `std` for those before them."""
    block = nn.TransformerBlock(16, 4, 2, activation=activation, std=0.5, output_std=0.01)
    for name, parameter in block.named_parameters():
        values = parameter.reshape((parameter.numel,)).to_python()
        if parameter.ndim == 2:
            wanted = 0.01 if name in ("attn.out.weights", "mlp.down.weights", "mlp.layers.1.weights") else 0.5
            assert statistics.pstdev(values) == pytest.approx(wanted, rel=0.25), name
        else:
            assert set(values) == {1.0 if name.endswith("weights") else 0.0}, name


def test_a_block_knows_the_order_of_what_was_before_only_by_rotary_encoding():
    x = Tensor.normal((1, 3, 8))
    swapped = Tensor([[x.to_python()[0][i] for i in (1, 0, 2)]])

    def difference(**options):
        random.seed(3)
        block = randomized(nn.TransformerBlock(8, 4, 2, **options))
        last = [block(each).to_python()[0][2] for each in (x, swapped)]
        return max(abs(a - b) for a, b in zip(*last, strict=True))

    assert difference() < 1e-5 < 1e-2 < difference(rotary=True)
    assert difference(rotary=True, rotary_base=2.0) != difference(rotary=True)


@pytest.mark.parametrize("rotary", [False, True])
def test_attention_sees_no_later_position(rotary):
    attention = nn.CausalSelfAttention(4, 6, 2, rotary=rotary)
    x = Tensor.normal((2, 5, 4), requires_grad=True)
    attention(x)[:, 2].sum().backward()
    per_position = [[sum(map(abs, row)) > 0 for row in rows] for rows in x.grad.to_python()]
    assert per_position == [[True, True, True, False, False]] * 2
    close(attention(x)[:, :3], attention(x[:, :3]))


def test_rotary_scores_depend_on_distance_only():
    rotary, q, k = nn.RotaryEncoding(), Tensor.normal((1, 1, 1, 6)), Tensor.normal((1, 1, 1, 6))

    def score(i, j):
        return (rotary(q, i) * rotary(k, j)).sum().item()

    assert score(0, 0) == pytest.approx((q * k).sum().item(), abs=1e-5)
    assert score(9, 4) == pytest.approx(score(5, 0), abs=1e-5) != pytest.approx(score(6, 0), abs=1e-3)


def test_attention_errors():
    for arguments in ((8, 6, 9), (4, 6, 3)):
        with pytest.raises(ValueError, match="divisible"):
            nn.CausalSelfAttention(*arguments)
    with pytest.raises(ValueError, match="even head size"):
        nn.CausalSelfAttention(6, 4, 2, rotary=True)
    attention = nn.CausalSelfAttention(4, 6, 2)
    for shape in ((2, 4), (1, 2, 3), (1, 7, 4), (1, 1, 2, 4)):
        with pytest.raises(ValueError):
            attention(Tensor.ones(shape))


def test_block_is_its_formula():
    block = nn.TransformerBlock(4, 6, 2)
    x = Tensor.normal((3, 2, 4))
    h = x + block.attn(block.ln_1(x))
    close(block(x), h + block.mlp(block.ln_2(h)))
    with pytest.raises(ValueError, match="unknown normalization 'batch'"):
        nn.TransformerBlock(4, 6, 2, normalization="batch")


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.FullyConnectedLayer(4, 3),
        lambda: nn.MLP(4, [3, 2], "gelu"),
        lambda: nn.GatedMLP(4, 3),
        lambda: nn.LayerNorm(4),
        lambda: nn.RMSNorm((3, 4)),
        lambda: nn.CausalSelfAttention(4, 3, 2, rotary=True, bias=True),
        lambda: nn.TransformerBlock(4, 3, 2, activation="silu"),
    ],
)
def test_gradients(make):
    module = as_float64(randomized(make()))
    x = Tensor.normal((2, 3, 4), dtype=DType.float64, requires_grad=True)
    weight = Tensor.normal(module(x).shape, dtype=DType.float64)
    # Parameters are passed beside x so that they are checked too; the module reads them from itself.
    check_gradients(
        lambda x, *parameters: (module(x) * weight).sum(), x, *(p for _, p in module.named_parameters())
    )


def test_no_grad_forward_records_nothing():
    with no_grad():
        assert not nn.MLP(2, [2], "relu")(Tensor([[1.0, 2.0]])).requires_grad


def test_activations_as_modules():
    x = Tensor.normal((3, 6))
    for module, expected in (
        (nn.Sigmoid(), x.sigmoid()),
        (nn.Tanh(), x.tanh()),
        (nn.ReLUSquared(), x.relu() * x.relu()),
        (nn.Softmax(), x.softmax()),
        (nn.Softmax(axis=0), x.softmax(0)),
        (nn.Swish(), x.silu()),
        (nn.GLU(), x[:, :3] * x[:, 3:].sigmoid()),
        (nn.GLU("geglu"), x[:, :3] * x[:, 3:].gelu()),
        (nn.SwiGLU(), x[:, :3] * x[:, 3:].silu()),
    ):
        close(module(x), expected)
    with pytest.raises(ValueError, match="'maxout'; expected one of glu, "):
        nn.GLU("maxout")
    with pytest.raises(
        ValueError, match=r"SwiGLU needs a last axis of even size, but the input has the shape \(3, 5\)"
    ):
        nn.SwiGLU()(Tensor.zeros((3, 5)))
