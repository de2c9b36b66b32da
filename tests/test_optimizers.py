"""Optimizers against scalar implementations written here, and the laws that all of them keep."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_core import backends, random
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType
from tinygpt_core.kernels.optimizer_steps import orthogonalized
from tinygpt_core.module import Module, write_tensors
from tinygpt_core.nn import GPT, MLP, FullyConnectedLayer, GPTConfig, Linear
from tinygpt_core.optimizers import SGD, Adam, AdamW, Muon, Optimizer, OptimizerState, clip_gradients
from tinygpt_core.tensor import Tensor, no_grad

BACKENDS = ["python"] if backends.why_not("numpy") else ["python", "numpy"]


class Toy(Module):
    """A matrix and a vector in double precision: what is compared is the rule and not the rounding."""

    def __init__(self):
        super().__init__()
        self.matrix = Tensor([[1.0, -2.0], [0.5, 3.0]], dtype=DType.float64, requires_grad=True)
        self.vector = Tensor([0.25, -1.0], dtype=DType.float64, requires_grad=True)


def flat(module):
    return [*sum(module.matrix.to_python(), []), *module.vector.to_python()]


def set_gradients(module, values):
    module.matrix.grad = Tensor([values[:2], values[2:4]], dtype=DType.float64)
    module.vector.grad = Tensor(values[4:], dtype=DType.float64)


class ScalarSGD:
    def __init__(self, learning_rate, momentum=0.0, weight_decay=0.0, dampening=0.0, nesterov=False):
        self.options = learning_rate, momentum, weight_decay, dampening, nesterov
        self.velocity = None

    def step(self, p, g, is_matrix):
        learning_rate, momentum, weight_decay, dampening, nesterov = self.options
        d = g + weight_decay * p
        self.velocity = d if self.velocity is None else momentum * self.velocity + (1 - dampening) * d
        if momentum:
            d = d + momentum * self.velocity if nesterov else self.velocity
        return p - learning_rate * d


class ScalarAdamW:
    def __init__(self, learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        self.options = learning_rate, betas, eps, weight_decay
        self.m = self.v = self.t = 0

    def step(self, p, g, is_matrix):
        learning_rate, (b1, b2), eps, weight_decay = self.options
        self.t += 1
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g**2
        m, v = self.m / (1 - b1**self.t), self.v / (1 - b2**self.t)
        if is_matrix:
            p -= learning_rate * weight_decay * p
        return p - learning_rate * m / (v**0.5 + eps)


RULES = [
    (SGD, ScalarSGD, {}),
    (SGD, ScalarSGD, {"weight_decay": 0.1}),  # not dropped without momentum
    (SGD, ScalarSGD, {"momentum": 0.9}),
    (SGD, ScalarSGD, {"momentum": 0.9, "weight_decay": 0.1, "dampening": 0.5}),
    (SGD, ScalarSGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (Adam, ScalarAdamW, {}),
    (Adam, ScalarAdamW, {"betas": (0.5, 0.7), "eps": 1e-2}),
    (AdamW, ScalarAdamW, {"weight_decay": 0.3}),
    (AdamW, ScalarAdamW, {"betas": (0.0, 0.9), "weight_decay": 0.0}),
]
gradients = st.lists(st.lists(st.floats(-10, 10), min_size=6, max_size=6), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("kind", "scalar", "options"), RULES, ids=lambda value: getattr(value, "__name__", str(value))
)
@settings(max_examples=10, deadline=None)
@given(gradients)
def test_rule(kind, scalar, options, steps):
    module = Toy()
    optimizer = kind(module, 0.1, **options)
    expected, rules = flat(module), [scalar(0.1, **options) for _ in range(6)]
    for values in steps:
        set_gradients(module, values)
        optimizer.update()
        expected = [
            rule.step(p, g, i < 4) for i, (rule, p, g) in enumerate(zip(rules, expected, values, strict=True))
        ]
        assert flat(module) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        # Grad is left alone
        assert [*sum(module.matrix.grad.to_python(), []), *module.vector.grad.to_python()] == values


def optimizers(module):
    return [
        SGD(module, 0.1),
        SGD(module, 0.1, momentum=0.9, weight_decay=0.1),
        Adam(module, 0.1),
        AdamW(module, 0.1, weight_decay=0.1),
        Muon(module, 0.1, weight_decay=0.1),
    ]


@pytest.mark.parametrize("place", range(5))
def test_only_trainable_parameters_with_a_gradient_change(place):
    module = Toy()
    optimizer = optimizers(module)[place]
    before = flat(module)
    optimizer.update()
    assert flat(module) == before and optimizer.step == 0  # no gradients yet
    set_gradients(module, [1.0] * 6)
    module.vector.grad = None
    optimizer.update()
    assert flat(module)[:4] != before[:4] and flat(module)[4:] == before[4:]
    middle = flat(module)
    set_gradients(module, [1.0] * 6)
    module.freeze(keys="matrix")
    optimizer.update()
    assert flat(module)[:4] == middle[:4] and flat(module)[4:] != middle[4:]


@pytest.mark.parametrize("place", range(5))
def test_updates_are_in_place_and_seen_by_a_pending_backward(place):
    module = MLP(2, [2, 1], "tanh")
    optimizer = optimizers(module)[place]
    tensors = [tensor for _, tensor in module.named_parameters()]
    loss = module(Tensor([[1.0, 2.0]])).sum()
    loss.backward(retain_graph=True)
    optimizer.update()
    assert all(
        a is b and b.is_leaf and b.requires_grad
        for a, (_, b) in zip(tensors, module.named_parameters(), strict=True)
    )
    with pytest.raises(RuntimeError):
        loss.backward()


@pytest.mark.parametrize("place", range(5))
def test_training_learns(place):
    random.seed(0)
    model = MLP(2, [8, 1], "tanh")
    optimizer = optimizers(model)[place]
    optimizer.learning_rate = 0.05
    x = Tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = Tensor([[0.0], [0.5], [0.5], [1.0]])
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.update()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_tied_weights_are_updated_once():
    config = GPTConfig(vocab_size=5, context_length=4, num_layers=1, num_heads=1, embedding_dim=2)
    model = GPT(config)
    model.also = model.embedding_layer.embeddings
    model(Tensor([[1, 2]])).sum().backward()
    before, grad = model.also.to_python(), model.also.grad.to_python()
    SGD(model, 0.1).update()
    expected = [[p - 0.1 * g for p, g in zip(*rows, strict=True)] for rows in zip(before, grad, strict=True)]
    assert sum(model.also.to_python(), []) == pytest.approx(sum(expected, []), abs=1e-7)


class Signed(Optimizer):
    """A user's optimizer: momentum of signs, with a Tensor and a number in its state."""

    def apply_single(self, parameter, state):
        velocity = state.get("velocity", Tensor.zeros(parameter.shape, dtype=parameter.dtype))
        state["velocity"] = 0.5 * velocity + parameter.grad
        state["count"] = state.get("count", 0) + 1
        return parameter.detach() - 0.1 * state["velocity"] / state["count"]


def test_users_optimizer():
    module = Toy()
    optimizer = Signed(module)
    before = flat(module)
    for count, velocity in ((1, 1.0), (2, 1.5)):
        set_gradients(module, [1.0] * 6)
        optimizer.update()
        before = [p - 0.1 * velocity / count for p in before]
        assert flat(module) == pytest.approx(before)
    assert optimizer.state["matrix"]["count"] == 2 and optimizer.step == 2
    with pytest.raises(NotImplementedError, match="apply_single"):
        Optimizer(module).update()


def test_optimizer_state_makes_what_is_missing():
    state = OptimizerState()
    state["a"]["b"] = 1
    assert state == {"a": {"b": 1}}
    assert state.setdefault("c", 2) == 2 and state["c"] == 2


def test_a_default_that_was_asked_for_is_not_stored():
    """`get` is that of every dict; it once kept the default, so a question changed the optimizer's state."""
    state = OptimizerState()
    assert state.get("a", 2) == 2 and state.get("b") is None
    assert state == {}


def run(optimizer, module, steps, first=0):
    for step in range(first, first + steps):
        set_gradients(module, [math.sin(step + i) for i in range(6)])
        optimizer.update()


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, "user"])
def test_saved_and_loaded_state_continues_exactly(tmp_path, suffix, kind):
    def make(module):
        return Signed(module) if kind == "user" else optimizers(module)[kind]

    module = Toy()
    if suffix == "json":  # the text form holds float32
        module.apply(lambda tensor: tensor.cast(DType.float32))
    optimizer = make(module)
    run(optimizer, module, 3)
    optimizer.save_state(tmp_path / f"state.{suffix}")
    other = Toy()
    other.apply(lambda tensor: tensor.cast(module.matrix.dtype))
    other.load_weights(module.named_parameters())
    continued = make(other)
    continued.load_state(str(tmp_path / f"state.{suffix}"))
    assert continued.step == 3
    run(optimizer, module, 3, 3)
    run(continued, other, 3, 3)
    assert flat(module) == flat(other)


def test_state_of_a_fresh_optimizer_can_be_loaded():
    config = GPTConfig(vocab_size=5, context_length=4, num_layers=1, num_heads=1, embedding_dim=2)
    model = GPT(config)
    optimizer = AdamW(model, 0.1)
    state = optimizer.state_dict()
    names = [name for name, _ in model.named_parameters()]
    assert set(state) == {
        "step",
        *(f"{slot}.{name}" for slot in ("first_moment", "second_moment") for name in names),
    }
    assert state["step"].dtype is DType.int64 and all(isinstance(value, Buffer) for value in state.values())
    AdamW(model, 0.1).load_state(list(state.items()))
    loaded = AdamW(model, 0.1)
    loaded.load_state_dict(state)
    model(Tensor([[1]])).sum().backward()
    loaded.update()
    assert max(map(abs, state["first_moment.layer_norm.bias"].to_array())) == 0.0  # loading made copies


def test_strict_state():
    module = Toy()
    state = Adam(module, 0.1).state_dict()
    optimizer = Adam(module, 0.1)
    with pytest.raises(ValueError, match="missing in the state of Adam: step"):
        optimizer.load_state({key: value for key, value in state.items() if key != "step"})
    with pytest.raises(ValueError, match=r"missing .*first_moment.matrix"):
        optimizer.load_state({key: value for key, value in state.items() if key != "first_moment.matrix"})
    for unknown in ("first_moment.nothing", "velocity.matrix", "matrix"):
        with pytest.raises(ValueError, match=f"does not have for this module: {unknown}"):
            optimizer.load_state({**state, unknown: Tensor([1.0])})
        optimizer.load_state({**state, unknown: Tensor([1.0])}, strict=False)
    with pytest.raises(ValueError, match=r"first_moment.vector: .*\(2,\).*\(3,\)"):
        optimizer.load_state({**state, "first_moment.vector": Tensor([1.0, 2.0, 3.0])})
    for step in (-1, 0.5, [1]):
        with pytest.raises(ValueError, match="'step'"):
            optimizer.load_state({**state, "step": Tensor(step)})


def test_the_state_is_of_what_is_trained():
    """Its Buffers are the live ones, of the parameters' dtype, and a frozen parameter has none."""
    module = Toy()
    module.vector.requires_grad = False
    optimizer = AdamW(module, 0.1)
    module.matrix.grad = Tensor([[1.0, 2.0], [3.0, 4.0]], dtype=DType.float64)
    optimizer.update()
    state = optimizer.state_dict()
    assert sorted(state) == ["first_moment.matrix", "second_moment.matrix", "step"]
    before = state["first_moment.matrix"].to_python()
    optimizer.update()
    assert optimizer.state_dict()["first_moment.matrix"] is state["first_moment.matrix"]
    assert state["first_moment.matrix"].to_python() != before
    module.matrix.buffer = module.matrix.buffer.cast(DType.float32)
    module.matrix.grad = Tensor([[1.0, 2.0], [3.0, 4.0]], dtype=DType.float32)
    optimizer.update()
    assert optimizer.state_dict()["first_moment.matrix"].dtype is DType.float32
    with pytest.raises(ValueError, match="missing in the state of AdamW: step"):
        AdamW(module, 0.1).load_state_dict({})


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_a_state_that_does_not_fit_is_named_with_its_file(tmp_path, suffix):
    """Once, whoever has found out; of pairs there is no file."""
    file = tmp_path / f"state.{suffix}"
    state = {"velocity.matrix": Tensor([1.0])}
    optimizer = AdamW(Toy(), 0.1)
    write_tensors(file, state)
    for path in (file, str(file)):
        with pytest.raises(ValueError, match=r"does not have for this module: velocity\.matrix") as error:
            optimizer.load_state(path)
        assert str(error.value).startswith(f"{file}: ") and str(error.value).count(str(file)) == 1
    file.write_bytes(b"{")
    with pytest.raises(ValueError) as error:
        optimizer.load_state(file)
    assert str(error.value).count(str(file)) == 1
    with pytest.raises(ValueError) as error:
        optimizer.load_state(list(state.items()))
    assert str(error.value).startswith("state that AdamW does not have")


class Counting(Optimizer):
    """Keeps a number for each parameter, and a Tensor of the parameter's shape."""

    def apply_single(self, parameter, state):
        state["count"] = state.get("count", 0) + 1
        state["share"] = state.get("share", 1.0) / 2.0
        state["last"] = parameter.grad.detach()
        return parameter.detach() - 1.0


def test_numbers_that_an_optimizer_keeps_come_back_as_numbers():
    """Those of a parameter without axes, which cannot be told from its Tensors, come back as Tensors."""

    class Both(Module):
        def __init__(self):
            super().__init__()
            self.matrix = Tensor([[1.0]], requires_grad=True)
            self.number = Tensor(2.0, requires_grad=True)

    module = Both()
    optimizer = Counting(module)
    module.matrix.grad, module.number.grad = Tensor([[5.0]]), Tensor(6.0)
    optimizer.update()
    again = Counting(module)
    again.load_state_dict(optimizer.state_dict())
    assert again.state["matrix"]["count"] == 1 and type(again.state["matrix"]["count"]) is int
    assert again.state["matrix"]["share"] == 0.5 and type(again.state["matrix"]["share"]) is float
    assert again.state["matrix"]["last"].to_python() == [[5.0]]
    assert isinstance(again.state["number"]["last"], Tensor) and again.state["number"]["last"].item() == 6.0
    assert isinstance(again.state["number"]["count"], Tensor) and again.step == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: SGD(m, -0.1), "learning_rate"),
        (lambda m: SGD(m, math.nan), "learning_rate"),
        (lambda m: SGD(m, 0.1, momentum=-1), "momentum"),
        (lambda m: SGD(m, 0.1, weight_decay=-1), "weight_decay"),
        (lambda m: SGD(m, 0.1, nesterov=True), "Nesterov"),
        (lambda m: SGD(m, 0.1, momentum=0.9, dampening=0.1, nesterov=True), "Nesterov"),
        (lambda m: Adam(m, 0.1, betas=(1.0, 0.9)), r"betas\[0\]"),
        (lambda m: Adam(m, 0.1, betas=(0.9, -0.1)), r"betas\[1\]"),
        (lambda m: Adam(m, 0.1, eps=-1e-8), "eps"),
        (lambda m: AdamW(m, 0.1, weight_decay=-0.1), "weight_decay"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(Toy())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=6, max_size=6), st.floats(0.01, 50))
def test_clipping_scales_all_gradients_by_one_factor(values, max_norm):
    module = Toy()
    set_gradients(module, values)
    old = module.matrix.grad
    norm = clip_gradients(module, max_norm)
    assert norm == pytest.approx(math.sqrt(sum(value**2 for value in values)))
    factor = min(1.0, max_norm / norm) if norm else 1.0
    clipped = [*sum(module.matrix.grad.to_python(), []), *module.vector.grad.to_python()]
    assert clipped == pytest.approx([value * factor for value in values], rel=1e-9, abs=1e-12)
    assert sum(old.to_python(), []) == values[:4]  # who holds the old gradient keeps it


def test_clipping_of_tensors():
    linear = FullyConnectedLayer(2, 1)
    linear(Tensor([[3.0, 4.0]])).sum().backward()
    # Once each, and none without gradient
    assert clip_gradients([linear.weights, linear.weights, Tensor([1.0])], 1.0) == 5.0
    assert sum(linear.weights.grad.to_python(), []) == pytest.approx([0.6, 0.8])
    assert linear.weights.grad.dtype is DType.float32 and linear.bias.grad.to_python() == [1.0]
    assert clip_gradients(linear, math.inf) == pytest.approx(math.sqrt(2.0))
    linear.bias.grad = Tensor([math.inf])
    assert clip_gradients(linear, 1.0) == math.inf and sum(
        linear.weights.grad.to_python(), []
    ) == pytest.approx([0.6, 0.8])
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm"):
            clip_gradients(linear, wrong)


def test_accumulated_gradients_are_those_of_one_batch():
    random.seed(0)
    model = MLP(2, [3, 1], "tanh")
    rows = [[0.5, 1.0], [-1.0, 2.0], [0.0, 1.0], [1.0, 1.0]]
    model(Tensor(rows)).sum().backward()
    whole = [tensor.grad for _, tensor in model.named_parameters()]
    model.zero_grad()
    for row in rows:
        model(Tensor([row])).sum().backward()
    for expected, (_, tensor) in zip(whole, model.named_parameters(), strict=True):
        assert tensor.grad.close_to(expected, rtol=1e-5, atol=1e-6)


def test_gradients_that_are_broadcast_views():
    module = Toy()
    # The gradient of a sum may be one element seen many times
    (module.matrix.sum() + module.vector.sum()).backward()
    before = flat(module)
    SGD(module, 0.5).update()
    assert flat(module) == [p - 0.5 for p in before]
    with no_grad():
        assert module.matrix.requires_grad


@pytest.mark.parametrize("make", [lambda m: AdamW(m, 0.1), lambda m: SGD(m, 0.1, momentum=0.9)])
@pytest.mark.parametrize("name", BACKENDS)
def test_a_parameter_of_another_shape_than_before(make, name):
    """It is named, with both shapes, and nothing changes; what the message advises works."""
    with backends.use(name):
        layer = Linear(2, 1)
        optimizer = make(layer)
        layer(Tensor([[1.0, 2.0]])).sum().backward()
        optimizer.update()
        layer.weights = Tensor([[1.0], [2.0], [3.0]], requires_grad=True)
        layer(Tensor([[1.0, 2.0, 3.0]])).sum().backward()
        bias = layer.bias.to_python()
        with pytest.raises(ValueError, match=r"'weights' has shape \(3, 1\) now.* \(2, 1\)"):
            optimizer.update()
        assert optimizer.step == 1 and layer.weights.to_python() == [[1.0], [2.0], [3.0]]
        assert layer.bias.to_python() == bias
        del optimizer.state["weights"]
        optimizer.update()
        assert optimizer.step == 2 and optimizer.state_dict()


# ---------------------------------------------------------------- Muon


class Matrices(Module):
    """What Muon treats in different ways."""

    def __init__(self, rows, columns):
        super().__init__()
        self.matrix = Tensor.zeros((rows, columns), dtype=DType.float64, requires_grad=True)
        self.embeddings = Tensor.zeros((rows, columns), dtype=DType.float64, requires_grad=True)
        self.head = FullyConnectedLayer(rows, columns, bias=False)
        self.head.weights = Tensor.zeros((rows, columns), dtype=DType.float64, requires_grad=True)
        self.vector = Tensor.zeros((columns,), dtype=DType.float64, requires_grad=True)


@pytest.mark.parametrize("where", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.5, 0.95]),
    st.sampled_from([0.0, 0.3]),
)
def test_muon_is_its_definition(where, rows, columns, number, momentum, decay):
    """The matrix as its singular values say, by NumPy's decomposition; the rest as AdamW does, scalar by
    scalar. What is remembered of each is of one kind.
    """
    numpy = pytest.importorskip("numpy")
    draw = numpy.random.default_rng(number)
    with backends.use(where):
        module = Matrices(rows, columns)
        optimizer = Muon(module, 0.1, momentum, betas=(0.8, 0.9), weight_decay=decay)
        tensors = dict(module.named_parameters())
        expected = {name: draw.normal(size=tensor.shape) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            tensor.assign(Tensor(expected[name].tolist(), dtype=DType.float64))
        rules = {name: ScalarAdamW(0.1, (0.8, 0.9), weight_decay=decay) for name in tensors}
        m = numpy.zeros((rows, columns))
        for _ in range(3):
            for name, tensor in tensors.items():
                g = draw.normal(size=tensor.shape)
                tensor.grad = Tensor(g.tolist(), dtype=DType.float64)
                p = expected[name]
                if name != "matrix":
                    expected[name] = rules[name].step(p, g, p.ndim == 2)
                    continue
                m = momentum * m + (1 - momentum) * g
                u, s, v = numpy.linalg.svd(momentum * m + (1 - momentum) * g, full_matrices=False)
                s = s / numpy.sqrt((s**2).sum())
                for _ in range(5):
                    s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
                factor = 0.2 * max(rows, columns) ** 0.5
                expected[name] = p - 0.1 * decay * p - 0.1 * factor * (u * s) @ v
            optimizer.update()
        for name, tensor in tensors.items():
            error = numpy.abs(numpy.array(tensor.to_python()) - expected[name]).max()
            assert error < 1e-9, name
        kept = set(optimizer.state_dict())
    others = ("embeddings", "head.weights", "vector")
    assert kept == {
        "step",
        "momentum.matrix",
        *(f"{slot}.{name}" for slot in ("first_moment", "second_moment") for name in others),
    }


@pytest.mark.parametrize("rows", [[[1.0, -2.0], [0.0, 3.0]], [[-1.0, -2.0, -0.5]], [[-2.0]]])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_what_is_made_orthogonal_may_be_of_any_size(rows, scale):
    """Nothing overflows or vanishes; signs stay; zeros and nothing are what they were."""
    x = Buffer(rows, DType.float64)
    found, plain = orthogonalized(x * scale), orthogonalized(x)
    assert sum(found.to_python(), []) == pytest.approx(sum(plain.to_python(), []), rel=1e-9)
    if len(rows) == 1:  # a row keeps its direction, and gets a length of about 1
        length = math.hypot(*rows[0])
        ratio = plain.to_python()[0][0] / rows[0][0] * length
        assert 0.6 < ratio < 1.3
        assert plain.to_python()[0] == pytest.approx([value * ratio / length for value in rows[0]])
    assert orthogonalized(x * 0.0).to_python() == (x * 0.0).to_python()
    assert orthogonalized(Buffer.zeros((0, 3), DType.float64)).shape == (0, 3)


def test_muon_takes_the_matrices_of_the_blocks():
    config = GPTConfig(
        vocab_size=5,
        context_length=4,
        num_layers=1,
        num_heads=1,
        embedding_dim=2,
        tied_head=False,
        ngram_tables=(7, 7),
    )
    model = GPT(config)
    optimizer = Muon(model, 0.1)
    mine = {name for name, tensor in model.named_parameters() if optimizer.is_for(name, tensor)}
    blocks = {name for name, tensor in model.named_parameters() if "blocks" in name and tensor.ndim == 2}
    assert mine == blocks and len(mine) == 4
    everything = Muon(model, 0.1, excluded=())
    assert {name for name, tensor in model.named_parameters() if everything.is_for(name, tensor)} == {
        name for name, tensor in model.named_parameters() if tensor.ndim == 2 and not tensor.sparse_grad
    }


def test_muon_with_state_of_adamw_and_bad_settings():
    module = Toy()
    with pytest.raises(ValueError, match=r"does not have for this module: .*first_moment\.matrix"):
        Muon(module, 0.1).load_state_dict(AdamW(module, 0.1).state_dict())
    for options in ({"momentum": 1.0}, {"betas": (0.9, 1.0)}, {"eps": -1.0}, {"weight_decay": -0.1}):
        with pytest.raises(ValueError, match="must lie in"):
            Muon(module, 0.1, **options)
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        Muon(module, 0.1, iterations=0)
    assert Muon(module, 0.1, iterations=1).iterations == 1


def test_muon_checks_shapes_before_it_changes_anything():
    module = Toy()
    optimizer = Muon(module, 0.1)
    set_gradients(module, [1.0] * 6)
    optimizer.update()
    before = module.matrix.to_python()
    module.vector.buffer = Buffer([1.0, 2.0, 3.0], DType.float64)
    module.vector.grad = Tensor([1.0, 2.0, 3.0], dtype=DType.float64)
    with pytest.raises(ValueError, match="vector"):
        optimizer.update()
    assert module.matrix.to_python() == before and optimizer.step == 1


@pytest.mark.parametrize("make", [lambda m: SGD(m, 0.1, momentum=0.9), lambda m: AdamW(m, 0.1)])
def test_what_is_remembered_moves_with_the_model(make):
    """To another backend, where the next step is the one that it would have been."""
    if "numpy" not in BACKENDS:
        pytest.skip("there is no other backend")
    stayed, moved = Toy(), Toy()
    optimizers = [make(stayed), make(moved)]
    for step in range(3):
        if step == 2:
            for parameter in (moved.matrix, moved.vector):
                parameter.buffer = backends.get("numpy")(parameter.to_python(), DType.float64)
        for module, optimizer in zip((stayed, moved), optimizers, strict=True):
            for parameter, values in (
                (module.matrix, [[1.0, 2.0], [3.0, -4.0]]),
                (module.vector, [0.5, -0.5]),
            ):
                parameter.grad = Tensor(type(parameter.buffer)(values, DType.float64))
            optimizer.update()
    assert type(moved.matrix.buffer).backend == "numpy"
    assert flat(moved) == pytest.approx(flat(stayed), rel=1e-14)


def test_a_message_does_not_repeat_long_names():
    """As those in a file that somebody has damaged."""
    with pytest.raises(ValueError, match="does not have for this module") as problem:
        AdamW(Toy(), 0.1).load_state({"velocity." + "9" * 9000: Tensor([1.0])})
    assert len(str(problem.value)) < 600
