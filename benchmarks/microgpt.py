"""microgpt's model, data and step: a scalar autograd beside tinygpt's Tensors, from the same weights, in one
process, in turn.

    python benchmarks/microgpt.py [--data names.txt] [--steps 20] [--processes 15] [--json]
    python benchmarks/microgpt.py --parts [--steps 100]

The model (after Karpathy's microgpt): 1 layer, 16 wide, 4 heads, context 16, 27 tokens (26 letters and a
boundary), RMSNorm without weights, a ReLU MLP four times as wide, no biases, an untied head; one name a step;
Adam with betas 0.85 and 0.99. The scalar version below builds one node for every addition and multiplication,
as micrograd does. It is written for this benchmark: nothing is copied.

The ratio of one process differs from that of the next by up to a tenth, mostly by the time that the scalar
version takes there. So what counts is the median of several processes.

`--parts` shows where the time of a step goes instead: into each kernel, without what it calls of others, and
into all the rest, which is the tape, operations without a kernel, and walking over parameters. Of each call
the least of many repetitions of one step counts, so that a busy machine shows the same table.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tinygpt_core import Module, Tensor, apply_op, backends, operations, random  # noqa: E402
from tinygpt_core.dataset.corpora import load_corpus  # noqa: E402
from tinygpt_core.kernels.base import register, registered  # noqa: E402
from tinygpt_core.optimizers import Adam  # noqa: E402

WIDTH, HEADS, CONTEXT, VOCABULARY, BOUNDARY = 16, 4, 16, 27, 26
HEAD = WIDTH // HEADS
LEARNING_RATE, BETAS, EPS, NORM_EPS, TOTAL_STEPS = 0.01, (0.85, 0.99), 1e-8, 1e-5, 1000
SHAPES = {
    "token": (VOCABULARY, WIDTH),
    "position": (CONTEXT, WIDTH),
    "query": (WIDTH, WIDTH),
    "key": (WIDTH, WIDTH),
    "value": (WIDTH, WIDTH),
    "out": (WIDTH, WIDTH),
    "expand": (WIDTH, 4 * WIDTH),
    "contract": (4 * WIDTH, WIDTH),
    "head": (WIDTH, VOCABULARY),
}
Matrix = list[list[float]]


def initial_weights(seed: int) -> dict[str, Matrix]:
    """Returns the weights that both versions start from, rounded to float32."""
    generator = random.Generator(seed)
    return {
        name: Tensor.normal(shape, 0.0, 0.08, generator=generator).to_python()
        for name, shape in SHAPES.items()
    }


# ---------------------------------------------------------------- scalar by scalar


class Value:
    """A number that remembers the numbers it was made from and its derivative with respect to each."""

    __slots__ = ("data", "grad", "inputs", "slopes")

    def __init__(self, data: float, inputs: tuple[Value, ...] = (), slopes: tuple[float, ...] = ()) -> None:
        self.data, self.grad, self.inputs, self.slopes = data, 0.0, inputs, slopes

    def __add__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    __radd__ = __add__

    def __mul__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    __rmul__ = __mul__

    def __sub__(self, other: Value | float) -> Value:
        return self + other * -1.0

    def __truediv__(self, other: Value) -> Value:
        return self * other**-1.0

    def __pow__(self, power: float) -> Value:
        return Value(self.data**power, (self,), (power * self.data ** (power - 1.0),))

    def exp(self) -> Value:
        """Returns e^x."""
        result = math.exp(self.data)
        return Value(result, (self,), (result,))

    def log(self) -> Value:
        """Returns the natural logarithm."""
        return Value(math.log(self.data), (self,), (1.0 / self.data,))

    def relu(self) -> Value:
        """Returns max(x, 0)."""
        return Value(max(self.data, 0.0), (self,), (float(self.data > 0.0),))

    def backward(self) -> None:
        """Adds the derivative of this number to `grad` of every number it was made from."""
        order: list[Value] = []
        seen: set[int] = set()
        stack: list[tuple[Value, bool]] = [(self, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((child, False) for child in node.inputs)
        self.grad = 1.0
        for node in reversed(order):
            for child, slope in zip(node.inputs, node.slopes, strict=True):
                child.grad += slope * node.grad


class ScalarModel:
    """The model and Adam on lists of Values."""

    def __init__(self, weights: dict[str, Matrix]) -> None:
        self.weights = {name: [[Value(x) for x in row] for row in matrix] for name, matrix in weights.items()}
        self.parameters = [x for matrix in self.weights.values() for row in matrix for x in row]
        self.moments = [(0.0, 0.0)] * len(self.parameters)

    @staticmethod
    def linear(x: Sequence[Value], weight: list[list[Value]]) -> list[Value]:
        """Returns x W^T."""
        return [sum(a * row[j] for a, row in zip(x, weight, strict=True)) for j in range(len(weight[0]))]

    @staticmethod
    def norm(x: Sequence[Value]) -> list[Value]:
        """Returns x / sqrt(mean of x^2 + eps)."""
        scale = (sum(a * a for a in x) * (1.0 / len(x)) + NORM_EPS) ** -0.5  # type: ignore[operator]
        return [a * scale for a in x]

    @staticmethod
    def softmax(x: Sequence[Value]) -> list[Value]:
        """Returns e^x / sum of e^x."""
        top = max(a.data for a in x)
        exponentials = [(a - top).exp() for a in x]
        total = sum(exponentials)
        return [e / total for e in exponentials]  # type: ignore[operator]

    def loss(self, ids: Sequence[int]) -> Value:
        """Returns the mean cross-entropy of the ids that follow each other."""
        w, keys, values, losses = self.weights, [], [], []  # type: ignore[var-annotated]
        for position, (token, target) in enumerate(pairwise(ids)):
            x = self.norm([a + b for a, b in zip(w["token"][token], w["position"][position], strict=True)])
            normal = self.norm(x)
            query = self.linear(normal, w["query"])
            keys.append(self.linear(normal, w["key"]))
            values.append(self.linear(normal, w["value"]))
            attended: list[Value] = []
            for head in range(HEADS):
                part = slice(head * HEAD, (head + 1) * HEAD)
                scores = [
                    sum(a * b for a, b in zip(query[part], key[part], strict=True)) * HEAD**-0.5
                    for key in keys
                ]
                probabilities = self.softmax(scores)  # type: ignore[arg-type]
                for j in range(part.start, part.stop):
                    attended.append(sum(p * value[j] for p, value in zip(probabilities, values, strict=True)))
            x = [a + b for a, b in zip(self.linear(attended, w["out"]), x, strict=True)]
            hidden = [a.relu() for a in self.linear(self.norm(x), w["expand"])]
            x = [a + b for a, b in zip(self.linear(hidden, w["contract"]), x, strict=True)]
            losses.append(self.softmax(self.linear(x, w["head"]))[target].log() * -1.0)
        return sum(losses) * (1.0 / len(losses))  # type: ignore[return-value]

    def step(self, ids: Sequence[int], number: int) -> float:
        """One step of Adam on one name; returns the loss."""
        loss = self.loss(ids)
        loss.backward()
        (b1, b2), rate = BETAS, learning_rate(number)
        for i, parameter in enumerate(self.parameters):
            m = b1 * self.moments[i][0] + (1.0 - b1) * parameter.grad
            v = b2 * self.moments[i][1] + (1.0 - b2) * parameter.grad**2
            self.moments[i] = m, v
            parameter.data -= rate * (m / (1.0 - b1**number)) / (math.sqrt(v / (1.0 - b2**number)) + EPS)
            parameter.grad = 0.0
        return loss.data


# ---------------------------------------------------------------- tensor by tensor


class TensorModel(Module):
    """The same through tinygpt's public Tensor API, in float32."""

    def __init__(self, weights: dict[str, Matrix]) -> None:
        super().__init__()
        for name in ("token", "position", "out", "expand", "contract", "head"):
            setattr(self, name, Tensor(weights[name], requires_grad=True))
        packed = [
            q + k + v for q, k, v in zip(weights["query"], weights["key"], weights["value"], strict=True)
        ]
        self.query_key_value = Tensor(packed, requires_grad=True)
        self._optimizer = Adam(self, LEARNING_RATE, betas=BETAS, eps=EPS)

    def __call__(self, ids: Tensor) -> Tensor:
        length = ids.shape[0]
        embedded = apply_op(operations.Embedding, self.token, ids) + self.position[:length]
        x = apply_op(operations.RMSNorm, embedded, eps=NORM_EPS)
        normal = apply_op(operations.RMSNorm, x, eps=NORM_EPS)
        packed = apply_op(operations.Linear, normal, self.query_key_value).reshape((1, length, 3 * WIDTH))
        attended = apply_op(operations.PackedAttention, packed, num_heads=HEADS).reshape((length, WIDTH))
        x = apply_op(operations.Linear, attended, self.out) + x
        hidden = apply_op(
            operations.Linear, apply_op(operations.RMSNorm, x, eps=NORM_EPS), self.expand
        ).relu()
        x = apply_op(operations.Linear, hidden, self.contract) + x
        return apply_op(operations.Linear, x, self.head)

    def step(self, ids: Sequence[int], number: int) -> float:
        """One step of Adam on one name; returns the loss."""
        self._optimizer.zero_grad()
        loss = apply_op(operations.CrossEntropy, self(Tensor(ids[:-1])), Tensor(ids[1:])).mean()
        loss.backward()
        self._optimizer.learning_rate = learning_rate(number)
        self._optimizer.update()
        return float(loss)


def learning_rate(number: int) -> float:
    """The learning rate at step `number`, counted from 1: linear decay."""
    return LEARNING_RATE * (1.0 - (number - 1) / TOTAL_STEPS)


def token_ids(name: str) -> list[int]:
    """Returns a name as token ids between boundaries, cut to the context."""
    return [BOUNDARY, *(ord(c) - ord("a") for c in name), BOUNDARY][: CONTEXT + 1]


def read_names(path: str | None) -> list[str]:
    """Returns names in a random order, as microgpt holds them: strings, which become ids when their turn
    comes.
    """
    beside = ROOT.parent / "shared" / "data" / "names.txt"
    found = path or (str(beside) if beside.is_file() else None)
    documents = load_corpus("names", found).documents or []
    order = random.Generator(42).permutation(len(documents))
    return [documents[i] for i in order]


def compare_in_processes(count: int, arguments: list[str]) -> list[dict[str, float]]:
    """Returns what `compare` finds in each of several fresh processes, one after the other, by ratio."""
    command = [sys.executable, __file__, *arguments, "--processes", "1", "--json"]
    found = []
    for number in range(1, count + 1):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        found.append(json.loads(done.stdout))
        print(f"process {number} of {count}: {found[-1]['ratio']:.1f} times", file=sys.stderr)
    return sorted(found, key=lambda result: result["ratio"])


def compare(names: list[str], steps: int, warm_up: int = 2, backend: str = "python") -> dict[str, float]:
    """Runs both versions in turn on the same names; returns medians in seconds, the ratio, and how far the
    losses differ.
    """
    backends.use(backend)
    weights = initial_weights(1)
    scalar, tensor = ScalarModel(weights), TensorModel(weights)
    times: list[tuple[float, float]] = []
    difference = 0.0
    for number, name in enumerate(names[: steps + warm_up], 1):
        ids = token_ids(name)
        start = time.perf_counter()
        expected = scalar.step(ids, number)
        middle = time.perf_counter()
        loss = tensor.step(ids, number)
        end = time.perf_counter()
        difference = max(difference, abs(loss - expected))
        if number > warm_up:
            times.append((middle - start, end - middle))
    return {
        "scalar_seconds": statistics.median(a for a, _ in times),
        "tensor_seconds": statistics.median(b for _, b in times),
        "ratio": statistics.median(a / b for a, b in times),
        "largest_loss_difference": difference,
        "steps": steps,
    }


# ---------------------------------------------------------------- where the time goes


class Parts:
    """The least time that each call of a step took, without the calls inside it, over many steps.

    Attributes:
        calls: of the step in progress, what was called and its seconds.
        least: of all steps so far, call by call.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, float]] = []
        self.least: list[tuple[str, float]] = []
        self._inner = [0.0]  # seconds inside each function that is running

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function, which notes its time; functions that it returns in a tuple do, too."""

        def call(*inputs: Any, **options: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            result = function(*inputs, **options)
            seconds = time.perf_counter() - start
            self.calls.append((name, seconds - self._inner.pop()))
            self._inner[-1] += seconds
            if not isinstance(result, tuple):
                return result
            return tuple(
                self.timed(f"{name}, input {i}", part) if callable(part) else part
                for i, part in enumerate(result)
            )

        return call

    def step(self, function: Callable[[], Any]) -> None:
        """Runs a step."""
        self.calls = []
        self.timed("the rest", function)()
        if len(self.least) != len(self.calls):
            self.least = self.calls
        self.least = [(name, min(a, b)) for (name, a), (_, b) in zip(self.least, self.calls, strict=True)]

    def totals(self) -> dict[str, tuple[int, float]]:
        """Returns the calls and the seconds of each part, the longest first."""
        totals: dict[str, tuple[int, float]] = {}
        for name, seconds in self.least:
            count, total = totals.get(name, (0, 0.0))
            totals[name] = count + 1, total + seconds
        return dict(sorted(totals.items(), key=lambda item: -item[1][1]))


def parts_of_a_step(name: str, repetitions: int, backend: str) -> dict[str, tuple[int, float]]:
    """Returns the calls and seconds of each kernel in a step of one name, and of the rest."""
    backends.use(backend)
    model = TensorModel(initial_weights(1))
    ids = token_ids(name)
    parts = Parts()
    for kernel, implementation in list(registered(backends.active())):
        forward = parts.timed(kernel.__name__, implementation.forward)
        backward = parts.timed(f"{kernel.__name__} backward", implementation.backward)
        methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        register(kernel, backends.active(), type(implementation.__name__, (implementation,), methods))
    for number in range(1, repetitions + 1):
        parts.step(lambda number=number: model.step(ids, number))  # type: ignore[misc]
    return parts.totals()


def main() -> None:
    """Prints a Markdown table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="names, one a line (default: ../shared/data/names.txt, else the names corpus)",
    )
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed (default: 20)")
    parser.add_argument(
        "--processes", type=int, default=1, help="in how many, one after the other (default: 1)"
    )
    parser.add_argument(
        "--backend",
        default="python",
        help="where the Tensors live (default: python; the promise is about that one)",
    )
    parser.add_argument("--parts", action="store_true", help="show where the time of a step goes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if arguments.parts:
        totals = parts_of_a_step("andrea", arguments.steps, arguments.backend)
        if arguments.json:
            print(json.dumps(totals))
            return
        whole = sum(seconds for _, seconds in totals.values())
        print(f"a step of microgpt on 'andrea', Python {sys.version.split()[0]}: {1e3 * whole:.2f} ms\n")
        print("| part | calls | milliseconds | share |\n|---|---|---|---|")
        for part, (count, seconds) in totals.items():
            print(f"| {part} | {count} | {1e3 * seconds:.2f} | {seconds / whole:.0%} |")
        return
    if arguments.processes > 1:
        found = compare_in_processes(arguments.processes, sys.argv[1:])
        result = {
            **{key: statistics.median(each[key] for each in found) for key in found[0]},
            "steps": arguments.steps,
            "smallest_ratio": found[0]["ratio"],
            "largest_ratio": found[-1]["ratio"],
            "processes": arguments.processes,
        }
    else:
        result = compare(read_names(arguments.data), arguments.steps, backend=arguments.backend)
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"microgpt, {result['steps']} steps of one name each, Python {sys.version.split()[0]}\n")
    print("| version | median seconds a step |\n|---|---|")
    scalar, tensor = (f"{result[side]:.4f}" for side in ("scalar_seconds", "tensor_seconds"))
    print(f"| scalar autograd | {scalar} |\n| tinygpt_core, {arguments.backend} backend | {tensor} |\n")
    targets = "36 on Python 3.11, 34 on 3.13"
    spread = ""
    if arguments.processes > 1:
        least, most = result["smallest_ratio"], result["largest_ratio"]
        spread = f", the median of {arguments.processes} processes ({least:.1f} to {most:.1f})"
    print(f"The Tensor version is **{result['ratio']:.1f} times** faster{spread} (targets: {targets}).")
    print(f"Largest difference of the losses: {result['largest_loss_difference']:.1e}.")


if __name__ == "__main__":
    main()
