"""Laws of Module: its trees, freezing, modes, and its weights in files."""

import json
import re
from pathlib import Path

import pytest

from tinygpt_core import random
from tinygpt_core.dtype import DType
from tinygpt_core.module import Module
from tinygpt_core.nn import MLP, Dropout, FullyConnectedLayer, Sequential
from tinygpt_core.tensor import Tensor
from tinygpt_core.tree import tree_flatten, tree_map


class Everything(Module):
    """Parameters in all places where they are found, and things that are none."""

    def __init__(self):
        super().__init__()
        self._private = Tensor([1.0], requires_grad=True)
        self._private_layer = FullyConnectedLayer(1, 1)
        self.size = (3, 4)
        self.names = ["a", "b"]
        self.tensor = Tensor([1.0, 2.0], requires_grad=True)
        self.frozen = Tensor([3.0])
        self.counter = Tensor([3])
        self.listed = [Tensor([4.0], requires_grad=True), Tensor([5.0], requires_grad=True)]
        self.table = {
            "left": Tensor([6.0], requires_grad=True),
            "right": {"deep": Tensor([7.0], requires_grad=True)},
        }
        self.layers = (
            FullyConnectedLayer(2, 3),
            Sequential(FullyConnectedLayer(3, 1, bias=False), Dropout(0.5)),
        )


NAMES = [
    "tensor",
    "frozen",
    "counter",
    "listed.0",
    "listed.1",
    "table.left",
    "table.right.deep",
    "layers.0.weights",
    "layers.0.bias",
    "layers.1.layers.0.weights",
]


def flat(tree):
    return tree_flatten(tree)


def test_parameters_are_found_everywhere_but_under_private_names():
    module = Everything()
    assert [name for name, _ in flat(module.parameters())] == NAMES
    assert [name for name, _ in module.named_parameters()] == NAMES
    trainable = [name for name in NAMES if name not in ("frozen", "counter")]
    assert [name for name, _ in flat(module.trainable_parameters())] == trainable
    assert set(module.parameters()) == {"tensor", "frozen", "counter", "listed", "table", "layers"}
    assert "tensor" in module and "bias" not in module and "_private" in module


def test_update_of_parameters_is_the_identity():
    module = Everything()
    before = flat(module.parameters())
    module.update(module.parameters())
    after = flat(module.parameters())
    assert all(name == other and a is b for (name, a), (other, b) in zip(before, after, strict=True))


def test_update_replaces_only_what_it_is_given():
    module = Everything()
    new = Tensor([9.0])
    module.update({"listed": [{}, new], "layers": ({"bias": new},), "table": {"left": new}, "unknown": new})
    changed = [name for name, tensor in flat(module.parameters()) if tensor is new]
    assert changed == ["listed.1", "table.left", "layers.0.bias"]
    assert isinstance(module.layers, tuple) and "unknown" not in module
    with pytest.raises(TypeError, match=r"Everything\.tensor"):
        module.update({"tensor": 3.0})
    with pytest.raises(TypeError, match="Everything: expected a Tensor or a tree of them, but got a str"):
        module.update("no tree")  # as Tricycle's model.update(optimiser) would be
    with pytest.raises(TypeError, match=r"Everything\.layers\.0: expected a Tensor or a tree of them"):
        module.update({"layers": (3.0,)})


def test_apply_makes_trainable_leaves():
    module = Everything()
    module.apply(lambda tensor: tensor * 2)
    assert module.tensor.to_python() == [2.0, 4.0] and module.table["right"]["deep"].to_python() == [14.0]
    assert module.tensor.requires_grad and module.tensor.is_leaf and not module.frozen.requires_grad
    module.apply(
        lambda tensor: tensor.cast(DType.float64),
        lambda m, key, value: Module.valid_parameter_filter(m, key, value) and key != "frozen",
    )
    assert module.tensor.dtype is DType.float64 and module.frozen.dtype is DType.float32


def test_tied_weights_stay_tied_and_count_once():
    module = Everything()
    module.again = module.tensor
    assert module.num_parameters() == Everything().num_parameters()
    assert [name for name, _ in module.named_parameters()] == NAMES
    assert len(flat(module.parameters())) == len(NAMES) + 1
    module.apply(lambda tensor: tensor + 1)
    assert module.again is module.tensor
    module.load_weights([(name, Tensor(tensor.buffer.copy())) for name, tensor in flat(module.parameters())])
    assert module.again is module.tensor


def test_modules_and_children():
    module = Everything()
    names = ["", "layers.0", "layers.1", "layers.1.layers.0", "layers.1.layers.1"]
    assert [name for name, _ in module.named_modules()] == names
    assert module.modules() == [child for _, child in module.named_modules()]
    seen = []
    module.apply_to_modules(lambda name, child: seen.append(name))
    assert seen == names
    assert [name for name, _ in flat(module.children())] == ["layers.0", "layers.1"]
    assert [name for name, _ in flat(module.leaf_modules())] == [
        "layers.0",
        "layers.1.layers.0",
        "layers.1.layers.1",
    ]
    linear = FullyConnectedLayer(2, 2)
    assert linear.children() == {} and linear.leaf_modules() == {} and linear.modules() == [linear]
    new = FullyConnectedLayer(2, 3)
    module.update_modules({"layers": [new]})
    assert module.layers[0] is new


def test_filter_and_map():
    mlp = MLP(2, [3, 1], "relu")
    shapes = mlp.filter_and_map(Module.valid_parameter_filter, lambda tensor: tensor.shape)
    assert shapes == {"layers": [{"weights": (2, 3), "bias": (3,)}, {"weights": (3, 1), "bias": (1,)}]}
    biases = mlp.filter_and_map(
        lambda m, key, value: Module.valid_parameter_filter(m, key, value) and key != "weights"
    )
    assert [name for name, _ in flat(biases)] == ["layers.0.bias", "layers.1.bias"]


def test_freeze_and_unfreeze():
    mlp = MLP(2, [3, 1], "relu")

    def trainable():
        return [name for name, _ in flat(mlp.trainable_parameters())]

    everything = trainable()
    mlp.freeze()
    assert mlp.trainable_parameters() == {"layers": [{}, {}]} and mlp.num_parameters(trainable_only=True) == 0
    mlp.freeze()
    mlp.unfreeze(keys="bias")
    assert trainable() == ["layers.0.bias", "layers.1.bias"]
    mlp.unfreeze()
    assert trainable() == everything
    mlp.freeze(recurse=False)
    assert trainable() == everything
    mlp.layers[0].freeze(recurse=False, keys=["weights"])
    assert trainable() == everything[1:]
    with pytest.raises(KeyError, match="nothing"):
        mlp.freeze(keys="nothing", strict=True)
    mlp.freeze(keys="nothing")
    module = Everything()
    module.freeze()
    module.unfreeze(keys=["listed.1", "table"])
    assert [n for n, _ in flat(module.trainable_parameters())] == [
        "listed.1",
        "table.left",
        "table.right.deep",
    ]
    module.unfreeze()  # an integer Tensor cannot require gradients, and stays as it is
    assert not module.counter.requires_grad


def test_modes_reach_every_submodule():
    module = Everything()
    assert all(child.training for child in module.modules())
    module.eval()
    assert not any(child.training for child in module.modules())
    module.layers[1].train()
    assert [child.training for child in module.modules()] == [False, False, True, True, True]


def test_zero_grad():
    linear = FullyConnectedLayer(2, 1)
    linear(Tensor([[1.0, 2.0]])).sum().backward()
    assert linear.weights.grad.to_python() == [[1.0], [2.0]]
    linear.zero_grad()
    assert linear.weights.grad is None and linear.bias.grad is None


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_weights_survive_a_file(tmp_path, suffix):
    file = tmp_path / f"weights.{suffix}"
    random.seed(1)
    mlp, other = MLP(3, [4, 2], "relu"), MLP(3, [4, 2], "relu")
    mlp.save_weights(str(file))
    other.layers[0].freeze()
    tensors = [tensor for _, tensor in other.named_parameters()]
    other.load_weights(file)
    assert [t.to_python() for _, t in other.named_parameters()] == [
        t.to_python() for _, t in mlp.named_parameters()
    ]
    assert all(a is b for a, (_, b) in zip(tensors, other.named_parameters(), strict=True))  # in place
    assert not other.layers[0].weights.requires_grad and other.layers[1].weights.requires_grad


def test_strict_loading():
    linear, bare = FullyConnectedLayer(2, 1), FullyConnectedLayer(2, 1, bias=False)
    before = linear.weights.to_python()
    with pytest.raises(ValueError, match=r"no weights for .*bias"):
        linear.load_weights(flat(bare.parameters()))
    with pytest.raises(ValueError, match="does not have: bias"):
        bare.load_weights(flat(linear.parameters()))
    with pytest.raises(ValueError, match=r"bias: loaded weights must have the shape \(1,\), not \(2,\)"):
        linear.load_weights([("weights", Tensor([[1.0], [1.0]])), ("bias", Tensor([1.0, 2.0]))])
    with pytest.raises(ValueError, match="pairs of name and Tensor"):
        linear.load_weights([("weights", [[1.0], [1.0]])])
    assert linear.weights.to_python() == before  # a failed load changes nothing
    linear.load_weights([("weights", Tensor([[1.0], [2.0]])), ("unknown", Tensor(1.0))], strict=False)
    assert linear.weights.to_python() == [[1.0], [2.0]]
    linear.load_weights({"weights": bare.weights.buffer, "bias": Tensor([5.0], dtype=DType.float64)})
    assert linear.bias.dtype is DType.float32 and linear.bias.to_python() == [5.0]


def test_bad_files(tmp_path):
    linear = FullyConnectedLayer(2, 1)
    with pytest.raises(ValueError, match=r"weights.pkl: unknown kind of file '.pkl'"):
        linear.save_weights(tmp_path / "weights.pkl")
    for text in ("", "[1]", '{"weights": 3}', '{"weights": "__import__(1)"}', "[" * 100_000):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=r"bad\.json"):
            linear.load_weights(tmp_path / "bad.json")


def test_printed_form():
    mlp = MLP(2, [3, 1], "relu")
    mlp.layers[0].freeze(keys="bias")
    assert [
        line.split("  ") for line in re.sub("   *", "  ", repr(mlp).replace("│   ", "│ ")).split("\n")
    ] == [
        ["MLP(activation_fn='relu')", "13 parameters"],
        ["├── layers.0: FullyConnectedLayer(input_dims=2, output_dims=3, bias=True)", "9"],
        ["│ ├── weights", "float32 (2, 3)", "6"],
        ["│ └── bias", "float32 (3,), frozen", "3"],
        ["└── layers.1: FullyConnectedLayer(input_dims=3, output_dims=1, bias=True)", "4"],
        ["", "├── weights", "float32 (3, 1)", "3"],
        ["", "└── bias", "float32 (1,)", "1"],
    ]
    assert len(set(map(len, repr(mlp).split("\n")[1:]))) == 1, "columns are aligned"


def test_moving_to_the_backend_where_it_is_changes_nothing():
    mlp = MLP(2, [3, 1], "relu")
    before = flat(mlp.parameters())
    assert mlp.to(mlp.layers[0].weights.backend) is mlp
    assert all(a is b for (_, a), (_, b) in zip(before, flat(mlp.parameters()), strict=True))


def test_users_trees_of_gradients():
    mlp = MLP(2, [3, 1], "relu")
    mlp(Tensor([[1.0, 1.0]])).sum().backward()
    grads = tree_map(lambda tensor: tensor.grad, mlp.parameters())
    assert [g.shape for _, g in flat(grads)] == [p.shape for _, p in flat(mlp.parameters())]


def test_weights_in_json_stand_there_once_and_have_an_end(tmp_path):
    """A name that stands twice has two values, and a device has no end: neither is read."""
    linear = FullyConnectedLayer(1, 1, bias=False)
    linear.save_weights(tmp_path / "once.json")
    text = (tmp_path / "once.json").read_text()
    (tmp_path / "twice.json").write_text(
        text.replace("{", '{"weights": "Tensor(data=[[1.0]], requires_grad=True)",')
    )
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    before = linear.weights.to_python()
    with pytest.raises(ValueError, match=r"twice\.json.*'weights' stands twice"):
        linear.load_weights(tmp_path / "twice.json")
    with pytest.raises(ValueError, match=r"endless\.json"):
        linear.load_weights(tmp_path / "endless.json")
    assert linear.weights.to_python() == before


@pytest.mark.parametrize(
    ("data", "grad"),
    [
        ("[1.0, 2]", False),
        ("[True, 1.0]", False),
        ("[" + "9" * 30 + "]", False),
        ("[1, 2]", True),
        ("[[1.0], 2.0]", True),
    ],
)
def test_json_weights_that_are_none_are_value_errors(data: str, grad: bool, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps({"weights": f"Tensor(data={data}, requires_grad={grad})"}))
    with pytest.raises(ValueError, match=r"w\.json is no JSON object of names and tensors"):
        FullyConnectedLayer(1, 1).load_weights(tmp_path / "w.json")


def test_named_parameters_of_a_tied_module_can_be_loaded():
    """A tied Tensor has several names; any of them will do, and what is missing altogether is still named."""

    class Tied(Module):
        def __init__(self):
            super().__init__()
            self.a = Tensor([1.0, 2.0], requires_grad=True)
            self.b = self.a
            self.c = [self.a, Tensor([0.0])]

    source = Tied()
    source.a.assign([5.0, 6.0])
    for name in ("a", "b", "c.0"):
        target = Tied()
        target.load_weights([(name, source.a), ("c.1", Tensor([7.0]))])
        assert target.a.to_python() == [5.0, 6.0] and target.c[1].to_python() == [7.0]
        assert target.b is target.a
    target.load_weights(source.named_parameters())
    with pytest.raises(ValueError, match=r"no weights for these parameters of the model: c\.1$"):
        target.load_weights([("b", source.a)])
