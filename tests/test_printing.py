"""What printing shows: arrays as NumPy prints them, modules as a tree that adds up, graphs that Graphviz
could read.
"""

from __future__ import annotations

import html.parser
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import Buffer, DType, Operation, Tensor, apply_op, nn
from tinygpt_core.buffer.text import ELIDE, array_text

DTYPES = {
    "float32": DType.float32,
    "float64": DType.float64,
    "int32": DType.int32,
    "int64": DType.int64,
    "bool": DType.bool,
}
SHAPES = st.lists(st.integers(1, 5), max_size=4).map(tuple)
NUMBERS = {
    "float32": st.floats(width=32)
    | st.sampled_from([0.0, -0.0, 1.0, float(np.float32(0.1)), 0.1875, math.inf, math.nan]),
    "float64": st.floats() | st.sampled_from([0.0, -0.0, 1.0, 0.1, 1e-4, 123.4567890123, -math.inf]),
    "int32": st.integers(-(2**31), 2**31 - 1) | st.integers(-5, 5),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "bool": st.booleans(),
}


def as_numpy(array: np.ndarray) -> str:
    return "Buffer(" + np.array2string(array, separator=", ", prefix="Buffer(", max_line_width=75)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    name, shape = draw(st.sampled_from(sorted(NUMBERS))), draw(SHAPES)
    # Floats of one size, which print with points aligned, are rare among all floats
    exponent = draw(st.integers(-6, 6))
    some = st.integers(-9999, 9999).map(lambda n: float(np.dtype(name).type(n * 10.0**exponent)))
    numbers = draw(st.sampled_from([NUMBERS[name], some])) if name.startswith("float") else NUMBERS[name]
    values = draw(st.lists(numbers, min_size=math.prod(shape), max_size=math.prod(shape)))
    return np.array(values, dtype=name).reshape(shape)


@given(arrays())
def test_arrays_print_as_in_numpy(array: np.ndarray) -> None:
    largest = np.max(np.abs(array[np.isfinite(array)]), initial=0) if array.dtype.kind == "f" else 0
    if array.dtype == np.float32 and 1e6 <= largest < 1e8 and np.lib.NumpyVersion(np.__version__) < "2.4.0":
        return  # where powers of ten begin was moved
    with np.errstate(over="ignore"):
        assert array_text(Buffer(array.tolist(), DTYPES[array.dtype.name]), "Buffer(") == as_numpy(array)


@pytest.mark.parametrize(
    "shape", [(1001,), (40, 30), (4, 300), (300, 4), (12, 12, 12), (2, 1, 600), (7, 7, 7, 7)], ids=str
)
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_large_arrays_are_elided_as_in_numpy(shape: tuple[int, ...], dtype: str) -> None:
    array = (np.arange(math.prod(shape)) % 977).reshape(shape).astype(dtype)
    assert array.size > ELIDE
    assert array_text(Buffer(array.tolist(), DTYPES[dtype]), "Buffer(") == as_numpy(array)


def test_views_print_what_they_show() -> None:
    x = Tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert (
        repr(x.transpose(0, 1)[::2]) == "Tensor([[1., 4.],\n        [3., 6.]], shape=(2, 2), dtype=float32)"
    )
    assert repr(Tensor.zeros((1,)).expand((2000,))).startswith("Tensor([0., 0., 0., ..., 0., 0., 0.]")


def test_a_tensor_says_what_else_it_is() -> None:
    leaf = Tensor([1.0], requires_grad=True)
    assert repr(leaf) == "Tensor([1.], shape=(1,), dtype=float32, requires_grad=True)"
    assert repr(leaf * 2.0) == "Tensor([2.], shape=(1,), dtype=float32, grad_fn=Mul)" == str(leaf * 2.0)
    long = repr(Tensor.arange(16, dtype=DType.float64)).split("\n")
    assert long == [
        "Tensor([ 0.,  1.,  2.,  3.,  4.,  5.,  6.,  7.,  8.,  9., 10., 11., 12.,",
        "        13., 14., 15.], shape=(16,), dtype=float64)",
    ]
    assert repr(Tensor.arange(13)).split("\n")[1:] == ["       shape=(13,), dtype=int32)"]
    assert repr(Tensor(True)) == "Tensor(True, shape=(), dtype=bool)" and "[], shape=(0, 3)" in repr(
        Tensor.zeros((0, 3))
    )


def test_a_tensor_of_another_backend_names_it() -> None:
    from tinygpt_core import backends

    if backends.why_not("numpy"):
        pytest.skip(f"the plug-in is not installed: {backends.why_not('numpy')}")
    assert (
        repr(Tensor([1.0, 2.5]).to("numpy"))
        == "Tensor([1. , 2.5], shape=(2,), dtype=float32, backend='numpy')"
    )


# ---------------------------------------------------------------- modules


def test_the_counts_of_a_tree_add_up() -> None:
    model = nn.GPT(nn.GPTConfig(vocab_size=7, context_length=5, num_layers=12, num_heads=2, embedding_dim=4))
    lines = repr(model).splitlines()
    assert lines[0].endswith(f" {model.num_parameters():,} parameters") and len(lines) < 40, (
        "equal blocks are shown once"
    )
    top = [line for line in lines if re.match("[├└]", line)]
    counts = [re.search(r"(?:(\d+) × )?([\d,]+)$", line).groups() for line in top]
    assert (
        sum(int(times or 1) * int(count.replace(",", "")) for times, count in counts)
        == model.num_parameters()
    )
    assert "transformer_blocks.0 … transformer_blocks.11: 12 × TransformerBlock" in repr(model)
    model.transformer_blocks[5].mlp.freeze()
    assert "transformer_blocks.0 … transformer_blocks.4: 5 ×" in repr(
        model
    ) and "├── transformer_blocks.5: Tr" in repr(model)


def test_tied_parameters_say_so() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model.layers[1].weights = model.layers[0].weights
    assert repr(model).count(", tied") == 1 and repr(model).splitlines()[0].endswith(" 9 parameters")


def test_settings_of_a_gpt_are_those_that_were_chosen() -> None:
    config = nn.GPTConfig(
        vocab_size=7, context_length=5, num_layers=1, num_heads=2, embedding_dim=4, positions="rotary"
    )
    assert repr(nn.GPT(config)).startswith(
        "GPT(vocab_size=7, context_length=5, num_layers=1, num_heads=2, embedding_dim=4, positions='rotary') "
    )


# ---------------------------------------------------------------- notebooks


class Checker(html.parser.HTMLParser):
    """Collects text and sees that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> list[str]:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    return checker.text


def test_a_notebook_shows_tables_of_tensors() -> None:
    assert parsed(Tensor([[1.0, 2.5], [-3.0, 4.0]])._repr_html_()) == [
        "Tensor, shape=(2, 2), dtype=float32",
        "1.",
        "2.5",
        "-3.",
        "4.",
    ]
    large = parsed(Tensor.arange(2000).reshape((40, 50))._repr_html_())
    assert len(large) == 1 + 7 * 7 and large[4] == "…" and large[-1] == "1999"
    assert "[[[0., 0.]]]" in parsed(Tensor.zeros((1, 1, 2))._repr_html_())[0]


class Odd(nn.ReLU):
    def _extra_repr(self) -> str:
        return "<b>&"


def test_a_notebook_shows_modules_that_fold() -> None:
    text = parsed(nn.Sequential(nn.Linear(2, 3), Odd())._repr_html_())
    assert (
        text[0] == "Sequential, 9 parameters"
        and "layers.1: Odd(<b>&)  [0]" in text
        and "bias  float32 (3,)  [3]" in text
    )


# ---------------------------------------------------------------- graphs


def test_dot_has_every_node_and_edge_once() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = x * 2.0
    lines = (y + y * x).to_dot().splitlines()
    assert lines[0] == "digraph {" and lines[-1] == "}"
    nodes = [line for line in lines if re.match(r"  n\w+ \[", line)]
    edges = [line for line in lines if "->" in line]
    assert sorted(re.search(r'label="(\w+)', line)[1] for line in nodes) == [
        "Add",
        "Mul",
        "Mul",
        "constant",
        "leaf",
    ]
    assert len(edges) == 6 == len(set(edges)), "Add has two, each Mul has two"
    declared = {line.split()[0] for line in nodes}
    assert all(end in declared for line in edges for end in re.findall(r"n\w+", line))


def test_labels_of_dot_are_escaped() -> None:
    odd = type(
        'Say "hi"\\n; }', (Operation,), {"forward": lambda self, x: x, "backward": lambda self, grad: grad}
    )
    text = apply_op(odd, Tensor([1.0], requires_grad=True)).to_dot()
    assert 'label="Say \\"hi\\"\\\\n; }\\nfloat32 (1,)"' in text
    assert re.sub(r'"(\\.|[^"\\])*"', "", text).count('"') == 0


def test_long_graphs_and_leaves_have_a_dot_too() -> None:
    x = Tensor([1.0], requires_grad=True)
    y = x
    for _ in range(5000):
        y = y + x
    assert y.to_dot().count("->") == 10_000
    assert Tensor([1]).to_dot().count("[shape=ellipse") == 1
