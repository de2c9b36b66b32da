"""Solutions of the exercises of chapter 12, what makes it fast. `python -m pytest tests/test_book.py -k
what_makes_it_fast` checks them.
"""

import math
from itertools import pairwise
from unittest import SkipTest

from tinygpt_core import backends


def numpy_or_skip():
    """NumPy, where its backend can run; the chapter is about it, so elsewhere there is nothing to check."""
    if why := backends.why_not("numpy"):
        raise SkipTest(f"chapter 12 is about the NumPy backend, and it is not here: {why}")
    import numpy

    return numpy


# 12.1 One axis has neighbours side by side. Along the other, lines must not overlap: a step is at least as
# long as a line.
#
# Hint: one of the two strides must be the size of an element, and the other at least a row long


def blas_reads(matrix):
    sizes, steps = matrix.shape, matrix.strides
    return any(
        steps[inner] == matrix.itemsize
        and steps[outer] >= sizes[inner] * matrix.itemsize
        and steps[outer] % matrix.itemsize == 0
        for inner, outer in ((1, 0), (0, 1))
    )


def test_12_1_what_blas_reads_where_it_lies():
    numpy = numpy_or_skip()
    a = numpy.zeros((6, 8), numpy.float32)
    packed = numpy.zeros((2, 5, 3, 4, 8), numpy.float32)
    readable = [a, a.T, a[1:4, 2:7], a[::2], a[::2].T, a[:, :1].T]
    readable += [
        heads[text, head]
        for heads in packed.transpose(2, 0, 3, 1, 4)
        for text in range(2)
        for head in range(4)
    ]
    assert all(blas_reads(matrix) for matrix in readable)
    assert not any(
        blas_reads(matrix) for matrix in (a[:, ::2], a[::-1], a[:, ::-1], numpy.broadcast_to(a[0], (6, 8)))
    )


# 12.2 Eight operations. Five have one array among their operands, two have two, and x ** 3 has one: 8 + 2
# arrays read, 8 written.
#
# Hint: __array_ufunc__(self, ufunc, method, *operands, **options) turns the operands into plain arrays, calls
# `getattr(ufunc, method)` on them, adds up each `nbytes`, and returns the result as one of its own class


def bytes_moved(function, x):
    """The bytes of all operands and results while a function runs on an array; in x + x, x is read twice."""
    import numpy

    class Counted(numpy.ndarray):
        moved = 0

        def __array_ufunc__(self, ufunc, method, *operands, **options):
            plain = [
                numpy.asarray(operand) if isinstance(operand, Counted) else operand for operand in operands
            ]
            result = getattr(ufunc, method)(*plain, **options)
            Counted.moved += sum(
                array.nbytes for array in (*plain, result) if isinstance(array, numpy.ndarray)
            )
            return result.view(Counted)

    function(x.view(Counted))
    return Counted.moved


def test_12_2_the_bytes_that_gelu_moves():
    numpy = numpy_or_skip()
    x = numpy.linspace(-3, 3, 1000, dtype=numpy.float32)

    def gelu(x):
        inner = 0.7978845608 * (x + 0.044715 * x**3)
        return 0.5 * x * (1 + numpy.tanh(inner))

    fused = 3 * x.nbytes  # reads x, writes y and the slope
    assert bytes_moved(gelu, x) == 18 * x.nbytes == 6 * fused
    assert bytes_moved(lambda x: x + x, x) == 3 * x.nbytes


# 12.3 A product of (n, k) and (k, m) is n k m multiply-adds. The forward has one of them; each gradient is a
# product of the same size.
#
# Hint: derive from `kernels.lookup(kernels.Linear, buffer_class)`; x of any shape and weights of (k, m) take
# x.numel · m multiply-adds, once in the forward and twice in the backward


def count_multiply_adds(step, buffer_class):
    """Calls `step()`, and returns the multiply-adds of all linear layers as {"forward": …, "backward": …}."""
    from tinygpt_core import kernels

    before, counts = kernels.lookup(kernels.Linear, buffer_class), {"forward": 0, "backward": 0}

    class CountedLinear(before):
        @staticmethod
        def forward(x, weight, bias=None):
            counts["forward"] += x.numel * weight.shape[1]
            y, saved = before.forward(x, weight, bias)
            return y, (saved, x.numel * weight.shape[1])

        @staticmethod
        def backward(saved, grad):
            inner, size = saved
            of_input, of_weight, of_bias = before.backward(inner, grad)

            def counted(gradient):
                def compute():
                    counts["backward"] += size
                    return gradient()

                return compute

            return counted(of_input), counted(of_weight), of_bias

    kernels.register(kernels.Linear, buffer_class, CountedLinear)
    try:
        step()
    finally:
        kernels.register(kernels.Linear, buffer_class, before)
    return counts


def test_12_3_six_operations_for_each_weight_and_token():
    numpy_or_skip()
    from tinygpt_core import Tensor, backends
    from tinygpt_core.nn import GPT, GPTConfig

    with backends.use("numpy"):
        model = GPT(
            GPTConfig(
                vocab_size=32, context_length=8, embedding_dim=16, num_heads=2, num_layers=2, dropout=0.0
            )
        )
        ids = Tensor([[i * j % 32 for i in range(8)] for j in (3, 5)])
        counts = count_multiply_adds(lambda: model(ids).sum().backward(), type(ids.buffer))
    matrices = {name: p.numel for name, p in model.named_parameters() if p.ndim == 2}
    # The token table counts once, as the tied head
    through = sum(size for name, size in matrices.items() if "position" not in name)
    assert counts["forward"] == through * ids.numel
    assert 2 * (counts["forward"] + counts["backward"]) == 6 * through * ids.numel


# 12.4 A block of queries from i up to j sees j keys: j - i rows of j scores. Small blocks mean many small
# products, and a call costs what it costs, however little there is to do.
#
# Hint: a block of queries that ends at e computes e scores for each of its queries


def computed_scores(ends):
    return sum((end - start) * end for start, end in pairwise([0, *ends]))


def test_12_4_scores_that_are_computed():
    for ends in ([1], [7], [3, 7], [1, 2, 3], [64, 100]):
        seen_by = [next(end for end in ends if query < end) for query in range(ends[-1])]
        assert computed_scores(ends) == sum(seen_by)
    for length in (64, 256, 1024):
        assert computed_scores(range(64, length + 1, 64)) == length**2 * (1 + 64 / length) / 2
    numpy_or_skip()
    from tinygpt_accel.numpy_backend.buffer import NumpyBuffer
    from tinygpt_accel.numpy_backend.kernels import NumpyAttention

    x = NumpyBuffer.ones((1, 1, 197, 2))
    probabilities = next(part for part in NumpyAttention.forward(x, x, x)[1] if isinstance(part, list))
    assert (
        sum(p.size for p in probabilities)
        == computed_scores([p.shape[-1] for p in probabilities])
        < 197**2 * 0.7
    )


# 12.5 Too large: exp overflows from a score of ln(3.4e38) = 88.7 on, and the sum is infinite. Too small: it
# is zero, or has lost digits to numbers below the smallest normal one.
#
# Hint: exp of all scores, the sum of each row, and then only the rows whose sum is not between `least` and
# `most` once more, from their scores less the largest


def softmax_in_two_speeds(scores, least=1e-20, most=1e30):
    """The softmax of each row of an array, and how many rows were done again: those whose sum is not between
    `least` and `most`.
    """
    import numpy

    with numpy.errstate(over="ignore", under="ignore"):
        exponentials = numpy.exp(scores)
        sums = exponentials.sum(axis=-1, keepdims=True)
    again = ~((sums > least) & (sums < most))[:, 0]
    careful = numpy.exp(scores[again] - scores[again].max(axis=-1, keepdims=True))
    exponentials[again], sums[again] = careful, careful.sum(axis=-1, keepdims=True)
    return exponentials / sums, int(again.sum())


def test_12_5_softmax_without_the_largest_score():
    numpy = numpy_or_skip()
    rows = numpy.array(
        [[0.5, 0.25, 0.0], [1000.0, 999.0, -1000.0], [-1000.0, -999.0, -1001.0], [80.0, 3.0, -5.0]],
        numpy.float32,
    )
    result, count = softmax_in_two_speeds(rows)
    shifted = [[score - max(row) for score in row] for row in rows.tolist()]
    exact = [[math.exp(score) / sum(map(math.exp, row)) for score in row] for row in shifted]
    assert result.dtype == numpy.float32 and numpy.allclose(result, exact, rtol=1e-5)
    assert count == 3
    assert softmax_in_two_speeds(rows[:1])[1] == 0
