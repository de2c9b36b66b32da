"""The documents that tinygpt continues: their own examples run, with the package's name replaced (and, for
Tricycle and tinytensor, whose names differ, in our names).
"""

from __future__ import annotations

import re

import pytest

from tinygpt_core import DType, Tensor, apply_op, operations, seed
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import CausalSelfAttention, FullyConnectedLayer, Sequential
from tinygpt_core.nn.activations import ReLU
from tinygpt_core.optimizers import SGD

# The complete script of TinyGPT's "Getting started", to the letter.
AND_GATE = """
from tinygpt.tensor import Tensor 
from tinygpt.dataset import Dataset, DatasetHandler
from tinygpt.nn import FullyConnectedLayer
from tinygpt.optimizers import SGD
from tinygpt.losses import CrossEntropyLoss
from tinygpt.utils import DType


class ANDGateDataset(Dataset):

    def __init__(self) -> None:
        # All posible combinations of inputs (x1, x2) and the corresponding output (y0, y1).
        self.data = [((0, 0), (1, 0)), ((0, 1), (1, 0)), ((1, 0), (1, 0)), ((1, 1), (0, 1))]

    def __getitem__(self, idx: int) -> tuple[tuple[int, int], tuple[int, int]]:
        return self.data[idx]

    def __len__(self) -> int:
        return len(self.data)


dataset = ANDGateDataset()
dataset_handler = DatasetHandler(dataset, batch_size=2, shuffle=True)
model = FullyConnectedLayer(input_dims=2, output_dims=2, bias=True)
optimizer = SGD(model, learning_rate=0.1)
loss_fn = CrossEntropyLoss()

# Training
print("Training...")
num_epochs = 1000
for epoch in range(num_epochs):
    for it, batch in enumerate(dataset_handler):

        # Convert the data into Tensors
        xs, ys = batch 
        xs = Tensor(xs, dtype=DType.float32)
        ys = Tensor(ys, dtype=DType.float32)

        # Clean the gradients
        optimizer.zero_grad()

        # Do the forward pass
        pred = model(xs)

        # Calculate the loss
        loss = loss_fn(logits=pred, labels=ys)
        mean_loss = loss.mean(axes=(0,))

        # Do the backward pass
        mean_loss.backward()

        # Apply the gradients
        optimizer.update()

        print(f"[Epoch {epoch + 1}/{num_epochs}[it. {it + 1}/{len(dataset_handler)}] {mean_loss.to_python():.4f}")

# Inference
print("Inference...")
threshold = 0.5
correct_answers = 0
model.eval()
for (x1, x2), (y0, y1) in dataset:
    # Get the output of the model and apply the threshold to get predictions
    model_output = model(Tensor([x1, x2], dtype=DType.float32))
    model_output = model_output.softmax(axis=0).to_python()
    prediction = [int(val > threshold) for val in model_output]
        
    print(
        f"For input {(x1, x2)} the model predicts {prediction} and the expected output is {(y0, y1)}. "
        f"Model output was [{model_output[0]:.4f}, {model_output[1]:.4f}]"
    )

    # Count the correct answers
    if prediction[0] == y0 and prediction[1] == y1:
        correct_answers += 1

print(f"Model accuracy: {correct_answers / len(dataset) * 100:.2f}%")
"""  # noqa: E501, W291, W293


def test_tinygpt_getting_started(capsys: pytest.CaptureFixture[str]) -> None:
    seed(0)
    exec(
        compile(AND_GATE.replace("from tinygpt.", "from tinygpt_core."), "the AND gate", "exec"),
        {"__name__": "and_gate"},
    )
    printed = capsys.readouterr().out
    assert "Model accuracy: 100.00%" in printed
    losses = [float(loss) for loss in re.findall(r"\] (\d\.\d{4})$", printed, re.MULTILINE)]
    assert sum(losses[-40:]) / 40 < 0.05  # "the average loss settled around 0.025"


def test_tricycle_arithmetic_and_derivatives() -> None:
    a, b = Tensor([1.0, 2.0, 3.0]), Tensor([4.0, 5.0, 6.0])
    assert (a + b).to_python() == [5.0, 7.0, 9.0]
    assert (a < b).to_python() == [True, True, True]
    assert a.softmax().close_to(Tensor([0.09003057, 0.24472848, 0.66524094]))

    x = Tensor(2.0, requires_grad=True)
    y = x**2 + 3 * x + 4
    assert y.item() == 14.0
    y.backward()
    assert x.grad is not None and x.grad.item() == 7.0

    shape = (6, 5, 4, 3, 2)
    a, b = Tensor.uniform(shape, requires_grad=True), Tensor.uniform(shape, requires_grad=True)
    (a * b).backward()
    assert a.grad is not None and b.grad is not None
    assert a.grad.close_to(b) and b.grad.close_to(a)


def test_tricycle_attention() -> None:
    attention = CausalSelfAttention(embedding_dim=32, num_heads=2, max_seq_length=32)
    x = Tensor.ones((4, 32, 32), requires_grad=True)
    attention(x).backward()
    assert x.grad is not None and x.grad.shape == (4, 32, 32)


def test_tricycle_transpose_sum_and_product_by_their_own_rules() -> None:
    a, b = Tensor([[1.0, 2.0], [3.0, 4.0]]), Tensor([[5.0, 6.0], [7.0, 8.0]])
    assert a.transpose(0, 1).to_python() == [[1.0, 3.0], [2.0, 4.0]]
    assert a.sum(1).to_python() == [3.0, 7.0]
    assert (a @ b).to_python() == [[19.0, 22.0], [43.0, 50.0]]


def test_tricycle_loss() -> None:
    labels, predicted = Tensor([0, 1, 2]), Tensor([[0, 0, 1], [0, 0, 1], [0, 0, 1]], dtype=DType.float32)
    assert abs(CrossEntropyLoss()(logits=predicted, labels=labels).mean().item() - 1.2181114) < 1e-6


def test_tricycle_small_network_learns_three_groups() -> None:
    seed(42)
    groups = [Tensor.normal((12, 4), mean=mean).to_python() for mean in (-2.0, 0.0, 2.0)]
    inputs = Tensor([row for group in groups for row in group])
    labels = Tensor([number for number in range(3) for _ in range(12)])
    model = Sequential(FullyConnectedLayer(4, 16), ReLU(), FullyConnectedLayer(16, 3))
    optimizer, loss_function = SGD(model, learning_rate=0.1), CrossEntropyLoss()
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = loss_function(logits=model(inputs), labels=labels).mean()
        loss.backward()
        optimizer.update()
        losses.append(loss.item())
    accuracy = (model(inputs).argmax(1) == labels).cast(DType.float32).mean().item()
    assert losses[-1] < losses[0] / 3 and accuracy > 0.9


def test_tinytensor_sums_of_tensors() -> None:
    a, b = Tensor([[1.0, 1.0], [1.0, 1.0]], requires_grad=True), Tensor([[1.0, 2.0], [3.0, 4.0]])
    d = (a + b) + a
    d.backward()
    assert a.grad is not None and a.grad.to_python() == [[2.0, 2.0], [2.0, 2.0]]


def test_tinytensor_dense_layer() -> None:
    weights, x, bias = (
        Tensor([[1.0, -2.0]], requires_grad=True),
        Tensor([[3.0], [2.0]]),
        Tensor([[0.5]], requires_grad=True),
    )
    z = weights.dot(x) + bias
    assert z.to_python() == [[-0.5]]
    assert z.relu().to_python() == [[0.0]]
    assert apply_op(operations.Sigmoid, z).close_to(Tensor([[0.37754067]]))


def test_print_dag_takes_what_tinygpts_takes(capsys: pytest.CaptureFixture[str]) -> None:
    from tinygpt_core.utils import print_dag

    y = Tensor([1.0, 2.0], requires_grad=True).exp().sum(0, keepdim=True)
    y.print_dag()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].startswith("Sum") and "Exp" in lines[1] and "leaf" in lines[2]
    print_dag(y)
    assert capsys.readouterr().out.splitlines() == lines
    print_dag(y.grad_fn, indent="> ", last=False, is_grad_fn=True)
    assert capsys.readouterr().out.splitlines() == [f"> {line}" for line in lines]


def test_parse_value_reads_what_a_serialized_tensor_holds() -> None:
    from tinygpt_core.utils import parse_value

    for value in ([[1.5, -2.0], [0.0, 1e-9]], [True, False], 3, -1.5, [], [[1]]):
        assert parse_value(repr(value)) == value
    assert parse_value("[inf, -inf]") == [float("inf"), -float("inf")]
    for wrong in ("", "[1", "abc", "__import__('os')", "1; 2", "[1, [2]", "[" * 10_000, "Tensor", "True1"):
        with pytest.raises(ValueError, match="numbers in brackets"):
            parse_value(wrong)
