"""Solutions of the exercises of chapter 15, writing a backend. `python -m pytest tests/test_book.py -k
writing_a_backend` checks them.
"""

import math
from collections import Counter
from importlib import util
from pathlib import Path

import tinygpt_core
from tinygpt_core import Buffer, DType, Tensor, backends, kernels, seed
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig


def minimal_backend():
    """The MinimalBuffer of tests/spec, from its file."""
    file = Path(tinygpt_core.__file__).parent.parent / "tests" / "spec" / "minimal.py"
    spec = util.spec_from_file_location("minimal", file)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MinimalBuffer


def same(a, b):
    """Whether two Buffers hold the same values, NaN and the sign of zeros included."""
    return [(math.isnan(x), math.copysign(1, x), x) if x == x else (True, 0, 0) for x in a.to_array()] == [
        (math.isnan(x), math.copysign(1, x), x) if x == x else (True, 0, 0) for x in b.to_array()
    ]


# 15.1 a + (-b) is a - b for all numbers: 0 - 0 is 0 and so is 0 + (-0); (-0) - (-0) is 0, and so is (-0) + 0.
# "b where a < b, else a" loses a NaN in b, since `<` is false wherever one of the two is NaN; a test for NaN
# repairs it. Of -0 and 0 it takes the first, the library always 0: that would be one more `where`. And the
# power 1/2 is no square root: (-inf)^0.5 is inf and (-0)^0.5 is 0, where the roots are NaN and -0; it is also
# slower, and not always rounded right.
#
# Hint: a - b = a + (-b), but what of maximum where one of them is NaN or both are zeros?

VALUES = [0.0, -0.0, 1.0, -2.5, math.inf, -math.inf, math.nan, 1e38]


def sub(a, b):
    """The difference of two Buffers, by `-x` and `x + y`."""
    return a + (-b)


def maximum_naive(a, b):
    """`<` and `Buffer.where`, once each: there are operands for which this is wrong."""
    return Buffer.where(a < b, b, a)


def maximum(a, b):
    """The same, put right for NaN."""
    return Buffer.where(b != b, b, maximum_naive(a, b))


def test_15_1_fewer_hooks():
    a, b = (
        Buffer([x for x in VALUES for _ in VALUES], DType.float64),
        Buffer(VALUES * len(VALUES), DType.float64),
    )
    assert same(sub(a, b), a - b)
    numbers = Buffer([1.0, math.nan, 2.0]), Buffer([3.0, 1.0, math.nan])
    assert not same(maximum_naive(*numbers), numbers[0].maximum(numbers[1]))
    assert same(maximum(*numbers), numbers[0].maximum(numbers[1]))
    roots, powers = Buffer([-math.inf, -0.0]).sqrt(), Buffer([-math.inf, -0.0]) ** 0.5
    assert not same(roots, powers)
    assert math.isnan(roots[0].item()) and powers[0].item() == math.inf


# 15.2 Make a view, write through it, and look at the original.
#
# Hint: the view is `super()._slice(index)`, and a hook `_copy` makes a copy of it


class Copying(minimal_backend()):
    __slots__ = ()
    backend = "copying"

    def _slice(self, index):
        return super()._slice(index)._copy()


# Given
def writes_through(kind):
    table = kind([[1, 2], [3, 4]])
    table[0].assign(kind([9, 9]))
    return table.to_python() == [[9, 9], [3, 4]]


def test_15_2_a_view_that_is_none():
    assert writes_through(backends.get("python")) and writes_through(minimal_backend())
    assert not writes_through(Copying)


# 15.3 The slope σ(x) (1 + x (1 - σ(x))) is computed while σ(x) is at hand, and kept: the backward is one
# multiplication.
#
# Hint: x σ(x) has the slope σ (1 + x (1 - σ)): keep it in the forward. `x.to_array()` has the numbers, and
# `type(x).from_array(x.dtype.pack(numbers), x.shape, x.dtype)` makes a Buffer of numbers


class OnePassSiLU(kernels.SiLU):
    @staticmethod
    def forward(x):
        """The result, by Python's arithmetic and no hook's, and what the backward needs."""
        if not x.dtype.is_floating:
            return kernels.SiLU.forward(x)
        values = x.to_array()
        logistic = [0.5 * math.tanh(0.5 * value) + 0.5 for value in values]
        slope = [s * (1.0 + value * (1.0 - s)) for value, s in zip(values, logistic, strict=True)]
        result = [value * s for value, s in zip(values, logistic, strict=True)]
        y, slope = (
            type(x).from_array(x.dtype.pack(numbers), x.shape, x.dtype) for numbers in (result, slope)
        )
        return y, slope

    @staticmethod
    def backward(saved, grad):
        """The gradients of all operands, here one, as a tuple."""
        return (grad * saved,)


# Given
def watched(base, hooks):
    """A subclass that counts the calls of these hooks in its attribute `calls`."""
    kind = type("Watched", (base,), {"__slots__": (), "backend": "watched", "calls": Counter()})

    def watch(name):
        inner = getattr(base, name)

        def counted(self, *arguments):
            kind.calls[name] += 1
            return inner(self, *arguments)

        setattr(kind, name, counted)

    for name in hooks:
        watch(name)
    return kind


def test_15_3_a_kernel():
    kind = watched(minimal_backend(), ["_neg", "_exp", "_tanh", "_add", "_sub", "_mul", "_div"])
    x = kind([[-3.0, 0.0, 0.5], [20.0, -20.0, 1.0]])
    grad = kind([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]])
    results, counts = [], []
    for kernel in (kernels.SiLU, OnePassSiLU):
        kind.calls.clear()
        y, saved = kernel.forward(x)
        gradient = kernel.backward(saved, grad)[0]
        results.append([*y.to_array(), *(gradient() if callable(gradient) else gradient).to_array()])
        counts.append(sum(kind.calls.values()))
    assert all(abs(a - b) < 1e-5 for a, b in zip(*results, strict=True))
    assert counts[1] == 1 < counts[0]
    kernels.register(kernels.SiLU, kind, OnePassSiLU)
    assert kernels.lookup(kernels.SiLU, kind) is OnePassSiLU
    assert kernels.lookup(kernels.SiLU, minimal_backend()) is kernels.SiLU


# 15.4 With C = embedding_dim, V = vocab_size, L layers and B T tokens: a layer's weights are 3 C^2 + C^2 + 8
# C^2 = 12 C^2, the head's are C V, and each takes one multiply-add a token in the forward and two in the
# backward. Attention multiplies T x T scores with C numbers for each text, twice: 2 B T^2 C, and again three
# times that with the backward. So twice the layers double all but the head, and twice the positions double
# everything but attention, which takes four times as much.
#
# Hint: run `counted_price` for a few sizes. A layer has 12 width² weights and the head width · vocabulary;
# attention has two products of its own; and a product takes two more of its size in the backward


def price(batch, length, layers, width, vocabulary):
    """A formula for what `counted_price` counts."""
    return 3 * (
        batch * length * (12 * layers * width**2 + width * vocabulary)
        + 2 * layers * batch * length**2 * width
    )


# Given
def counted_price(batch, length, layers, width, vocabulary):
    total = 0

    class Counting(minimal_backend()):
        __slots__ = ()
        backend = "counting"

        def _matmul(self, other, shape):
            nonlocal total
            total += self.shape[-1] * math.prod(shape)
            return super()._matmul(other, shape)

    known = dict(backends._plugins)
    backends.register("counting", lambda device: Counting)
    try:
        with backends.use("counting"):
            seed(0)
            model = GPT(
                GPTConfig(
                    vocab_size=vocabulary,
                    context_length=length,
                    num_layers=layers,
                    num_heads=2,
                    embedding_dim=width,
                )
            )
            ids = Tensor([[(i + 3 * row) % vocabulary for i in range(length)] for row in range(batch)])
            CrossEntropyLoss(reduction="mean")(model(ids), ids).backward()
    finally:
        backends._plugins.clear()
        backends._plugins.update(known)
        backends._loaded.pop("counting", None)
    return total


def test_15_4_the_price_of_a_step():
    for layers, length in ((1, 8), (2, 8), (1, 16)):
        assert counted_price(2, length, layers, 8, 12) == price(2, length, layers, 8, 12)
