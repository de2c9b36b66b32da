"""Forward hooks, the record of calls and the summary: they show what happens, change nothing, and leave no
trace.
"""

from __future__ import annotations

import copy
import re

import pytest

from tinygpt_core import Module, nn, random
from tinygpt_core.explain import Recorder
from tinygpt_core.instrumentation import WrappedMethod, is_wrapped, unwrap_object, wrap_object
from tinygpt_core.nn.inspection import ForwardHook, inspect, summary
from tinygpt_core.tensor import Tensor


@pytest.fixture(autouse=True)
def fixed_seed():
    random.seed(3)


def small_gpt():
    return nn.GPT(
        nn.GPTConfig(vocab_size=7, context_length=5, num_layers=2, num_heads=2, embedding_dim=4, dropout=0.1)
    )


def test_a_hook_sees_calls_until_it_is_removed():
    layer, seen = nn.Linear(2, 3), []
    kind = type(layer)
    x = Tensor([[1.0, 2.0]])
    hook = ForwardHook(layer, lambda module, inputs, output: seen.append((module, inputs, output)))
    y = layer(x)
    assert len(seen) == 1 and seen[0][0] is layer and seen[0][1] == (x,) and seen[0][2] is y
    assert isinstance(layer, kind) and repr(layer).startswith("FullyConnectedLayer(")
    hook.remove()
    hook.remove()
    layer(x)
    assert len(seen) == 1 and type(layer) is kind and set(vars(layer)) == {"weights", "bias"}


def test_hooks_run_in_order_and_may_replace_the_output():
    layer = nn.ReLU()
    x = Tensor([-1.0, 2.0])
    with (
        ForwardHook(layer, lambda module, inputs, output: output * 10.0),
        ForwardHook(layer, lambda module, inputs, output: output + 1.0),
    ):
        assert layer(x).to_python() == [1.0, 21.0]
    assert layer(x).to_python() == [0.0, 2.0] and type(layer) is nn.ReLU


def test_the_record_has_every_call_parts_before_the_whole():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = Tensor.normal((5, 3))
    expected = model(x)
    with inspect(model) as calls:
        y = model(x)
        hidden = model[0](x)
    assert [call.name for call in calls] == ["layers.0", "layers.1", "layers.2", "", "layers.0"]
    assert [call.output.shape for call in calls] == [(5, 4), (5, 4), (5, 2), (5, 2), (5, 4)]
    assert (
        calls[3].output is y
        and calls[3].module is model
        and calls[1].inputs[0] is calls[0].output
        and calls[4].output is hidden
    )
    assert y.to_python() == expected.to_python()
    model(x)
    assert len(calls) == 5 and [type(module) for module in model.modules()] == [
        nn.Sequential,
        nn.Linear,
        nn.ReLU,
        nn.Linear,
    ]


def test_an_exception_leaves_no_hooks():
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(ValueError), inspect(model):
        model(Tensor.zeros((1, 2)))
    assert type(model) is nn.Sequential and type(model[0]) is nn.Linear


def test_a_shared_module_is_observed_once_a_call():
    layer = nn.Linear(2, 2)
    with inspect(nn.Sequential(layer, layer)) as calls:
        calls[:] = []
        layer(Tensor.zeros((1, 2)))
    assert [call.name for call in calls] == ["layers.0"]


def test_gradients_flow_and_models_can_be_copied_under_observation():
    model = small_gpt()
    ids = Tensor([[0, 1, 2]])
    model.eval()
    model(ids).sum().backward()
    expected = [parameter.grad.to_python() for _, parameter in model.named_parameters()]
    model.zero_grad()
    with inspect(model) as calls:
        model(ids).sum().backward()
        assert copy.deepcopy(model)(ids).close_to(calls[-1].output)
        assert model.num_parameters() == small_gpt().num_parameters()
    assert [parameter.grad.to_python() for _, parameter in model.named_parameters()] == expected


@pytest.mark.parametrize("hook_first", [True, False])
@pytest.mark.parametrize("hook_ends_first", [True, False])
def test_a_hook_and_a_recorder_see_the_same_call_once(hook_first, hook_ends_first):
    """Whichever is opened and closed first, and afterwards nothing is left of them."""
    layer, outputs = nn.Linear(2, 3), []
    before = vars(nn.Linear)["__call__"]
    recorder = Recorder()
    if not hook_first:
        recorder.__enter__()
    hook = ForwardHook(layer, lambda module, inputs, output: outputs.append(output))
    if hook_first:
        recorder.__enter__()
    y = layer(Tensor([[1.0, 2.0]]))
    assert len(outputs) == len(recorder.calls) == 1 and outputs[0] is y
    if hook_ends_first:
        hook.remove()
        layer(Tensor([[1.0, 2.0]]))
        recorder.__exit__(None, None, None)
        assert len(outputs) == 1 and len(recorder.calls) == 2
    else:
        recorder.__exit__(None, None, None)
        layer(Tensor([[1.0, 2.0]]))
        hook.remove()
        assert len(outputs) == 2 and len(recorder.calls) == 1
    layer(Tensor([[1.0, 2.0]]))
    assert type(layer) is nn.Linear and vars(nn.Linear)["__call__"] is before
    assert len(outputs) + len(recorder.calls) == 3


def test_the_two_ways_to_wrap_a_method():
    """One object, or all of a class and of those derived from it, also ones that do not exist yet."""

    class Plain:
        def double(self, x: int) -> int:
            return 2 * x

    class Derived(Plain):
        def double(self, x: int) -> int:
            return super().double(x) + 1

    def negate(original):
        return lambda self, x: -original(self, x)

    one, other = Derived(), Derived()
    wrap_object(one, "double", negate)
    assert (one.double(1), other.double(1)) == (-3, 3) and isinstance(one, Derived)
    assert is_wrapped(one) and not is_wrapped(other) and type(one).double.__name__ == "double"
    unwrap_object(one)
    assert type(one) is Derived and one.double(1) == 3

    before = vars(Plain)["double"], vars(Derived)["double"]
    with WrappedMethod(Plain, "double", negate):

        class Later(Plain):
            def double(self, x: int) -> int:
                return 10 * x

        wrap_object(other, "double", negate)
        assert Plain().double(1) == -2 and Later().double(1) == -10
        assert one.double(1) == -(-2 + 1)
        assert other.double(1) == one.double(1)  # negated twice more: its own class is one made meanwhile
        unwrap_object(other)
    assert (vars(Plain)["double"], vars(Derived)["double"]) == before and Later().double(1) == 10
    assert "__init_subclass__" not in vars(Plain) and "__init_subclass__" not in vars(Module)


def test_summary():
    model = small_gpt()
    model.embedding_layer.freeze()
    text = summary(model, Tensor([[0, 1, 2]]))
    lines = text.splitlines()
    assert lines[0].split() == ["module", "output", "or", "parameter", "parameters"]
    assert lines[1].startswith("GPT(vocab_size=7, ") and lines[1].split()[-4:] == [
        "(1,",
        "3,",
        "7)",
        f"{model.num_parameters()}",
    ]
    block = next(line for line in lines if "TransformerBlock" in line)  # both, since they are equal
    assert block.startswith(
        "├── transformer_blocks.0 … transformer_blocks.1: 2 × TransformerBlock "
    ) and block.endswith(" 2 × 244")
    assert "(1, 3, 4)" in block
    assert re.search(
        r"^│   │   ├── layers\.0: FullyConnectedLayer\(.*\) +\(1, 3, 16\) +80$", text, re.MULTILINE
    )
    assert re.search(r"^│   └── embeddings +float32 \(7, 4\), frozen +28$", text, re.MULTILINE)
    total, trainable = model.num_parameters(), model.num_parameters(trainable_only=True)
    assert total - trainable == 28
    assert lines[-1] == f"{total} parameters, {trainable} of them trainable, {4 * total:,} bytes"
    assert model.training and all(module.training for module in model.modules())


def test_summary_without_inputs_and_of_a_state():
    text = summary(nn.LSTM(3, 4))
    assert re.fullmatch(r"LSTM\(.*\) +144", text.splitlines()[1]) and "output" not in text.splitlines()[0]
    model = nn.LSTM(3, 4)
    assert "(2, 5, 4), (1, 2, 4), (1, 2, 4)" in summary(model, Tensor.zeros((2, 5, 3)))
