"""Pickle, copy, deepcopy and another process: what comes back is what was sent."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from tinygpt_core import Tensor, backends
from tinygpt_core.dtype import DType
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, LSTM, BatchNorm2d, Conv2d, Dropout, GPTConfig, Linear, ReLU, Sequential
from tinygpt_core.optimizers import SGD, AdamW
from tinygpt_core.random import Generator
from tinygpt_core.tokenizer import BPETokenizer, CharTokenizer

BACKENDS = ["python"] if backends.why_not("numpy") else ["python", "numpy"]
WAYS: list[Callable[[Any], Any]] = [copy.deepcopy]
WAYS += [
    lambda value, protocol=protocol: pickle.loads(pickle.dumps(value, protocol))  # type: ignore[misc]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
]


@pytest.fixture(params=BACKENDS)
def home(request: pytest.FixtureRequest) -> Any:
    with backends.use(request.param):
        yield request.param


@pytest.mark.parametrize("way", WAYS)
def test_tensors(home: str, way: Callable[[Any], Any]) -> None:
    """A leaf keeps its elements, dtype, backend, whether it requires gradients, and its gradient."""
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], dtype=DType.float64, requires_grad=True)
    (x * x).sum().backward()
    again = way(x)
    assert again.to_python() == x.to_python() and again.dtype is DType.float64
    assert again.backend == home and again.requires_grad and again.is_leaf
    assert again.grad.to_python() == [[2.0, 4.0], [6.0, 8.0]]
    assert not way(Tensor([1, 2])).requires_grad and way(Tensor([True])).dtype is DType.bool
    assert way(x.detach()[:, 0]).to_python() == [1.0, 3.0]
    assert way(Tensor.zeros((0, 2))).shape == (0, 2) and way(Tensor(2.5)).item() == 2.5


def test_what_is_in_a_graph_is_refused_with_advice(home: str) -> None:
    y = Tensor([1.0], requires_grad=True) * 2.0
    for way in WAYS:
        with pytest.raises(RuntimeError, match=r"only leaves .* detach\(\) it"):
            way(y)
    assert pickle.loads(pickle.dumps(y.detach())).to_python() == [2.0]


def test_a_shallow_copy_shares_elements_and_history(home: str) -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = x * 3.0
    copy.copy(y).backward()
    assert x.grad is not None and x.grad.to_python() == [3.0, 3.0]
    assert copy.copy(x).buffer is x.buffer and copy.copy(x).requires_grad


class Named(Tensor):
    """A subclass with attributes of its own."""


def test_subclasses_keep_their_attributes() -> None:
    x = Named([1.0])
    x.name = "x"  # type: ignore[attr-defined]
    for again in (copy.copy(x), pickle.loads(pickle.dumps(x))):
        assert type(again) is Named and again.name == "x" and again.to_python() == [1.0]


def trained(home: str) -> tuple[GPT, AdamW]:
    model = GPT(GPTConfig(vocab_size=7, context_length=4, num_layers=1, num_heads=2, embedding_dim=4))
    optimizer = AdamW(model, learning_rate=0.01)
    train_once(model, optimizer)
    return model, optimizer


def train_once(model: Any, optimizer: Any) -> None:
    optimizer.zero_grad()
    CrossEntropyLoss(reduction="mean")(model(Tensor([[1, 2, 3]])), Tensor([[2, 3, 4]])).backward()
    optimizer.update()


@pytest.mark.parametrize("way", WAYS)
def test_a_model_and_its_optimizer_go_on_training_alike(home: str, way: Callable[[Any], Any]) -> None:
    """Ties between a model's weights, and between the model and its optimizer, are still there."""
    model, optimizer = trained(home)
    again, its_optimizer = way((model, optimizer))
    assert its_optimizer.module is again and again is not model
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, _ in again.named_parameters()] == names
    train_once(model, optimizer)
    train_once(again, its_optimizer)
    for (_, one), (_, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert one.buffer.to_array() == other.buffer.to_array() and one.buffer is not other.buffer


def test_all_kinds_of_objects(home: str) -> None:
    bpe = BPETokenizer()
    bpe.train("abc abc abd", 260)
    things = [
        Sequential(Conv2d(1, 2, 3), BatchNorm2d(2), ReLU(), Dropout(0.1)),
        LSTM(2, 3),
        SGD(Linear(2, 2), learning_rate=0.1, momentum=0.9),
        CrossEntropyLoss(),
        Generator(3),
        bpe,
    ]
    for thing in things:
        for way in (*WAYS[3:], copy.copy, copy.deepcopy):  # protocols 0 and 1 know no __slots__
            assert type(way(thing)) is type(thing)
    assert pickle.loads(pickle.dumps(bpe)).encode("abcabd") == bpe.encode("abcabd")
    characters = CharTokenizer.train("hello")
    assert pickle.loads(pickle.dumps(characters)).encode("hello") == characters.encode("hello")


def doubled(x: Tensor) -> Tensor:
    return x.detach() * 2.0


def test_another_process(home: str) -> None:
    """Tensors go to a process that shares nothing, and come back."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result = pool.apply_async(doubled, (Tensor([1.0, 2.0], requires_grad=True),)).get(60)
    assert result.to_python() == [2.0, 4.0] and result.backend == home


def test_a_backend_that_is_not_there_is_named() -> None:
    data = pickle.dumps(Tensor([1.0]), 0).replace(b"python", b"nowhere")
    with pytest.raises(ValueError, match="unknown backend 'nowhere'"):
        pickle.loads(data)
