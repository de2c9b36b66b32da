"""What the reference backend does on lists of floats: rows, their products, and writing them back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core import DType
from tinygpt_core.buffer import rows
from tinygpt_core.buffer.python import PythonBuffer

NUMBERS = st.floats(-1e3, 1e3, width=32)


@st.composite
def two_matrices(draw):
    """Two lists of rows that are all of one length, on both sides of what one comprehension does."""
    width = draw(st.integers(0, 18))
    row = st.lists(NUMBERS, min_size=width, max_size=width)
    return draw(st.lists(row, min_size=1, max_size=7)), draw(st.lists(row, min_size=1, max_size=7))


@given(two_matrices(), st.booleans(), st.booleans())
def test_dots_are_those_of_each_pair_of_rows(matrices, single, has_bias):
    a, b = matrices
    bias = [float(i) for i in range(len(b))] if has_bias else None
    found = rows.dots(a, b, single, bias)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            exact = math.fsum([p * q for p, q in zip(x, y, strict=True)]) + (bias[j] if bias else 0.0)
            size = math.hypot(*x, 1.0) * max(math.hypot(*row, 1.0 + 7.0 * has_bias) for row in b)
            assert abs(found[i * len(b) + j] - exact) <= 1e-12 * size
    if not has_bias:
        assert rows.product_transposed(a, b, single) == rows.chunks(found, len(b))


def test_products_without_rows():
    assert rows.dots([], [(1.0, 2.0)]) == []
    assert rows.dots([(1.0, 2.0)], []) == []
    assert rows.product_transposed([(1.0, 2.0)], []) == [[]]


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=20), st.integers(1, 4))
def test_a_sum_of_products_takes_any_number_of_terms(pairs, width):
    a = [[x] * (width + 1) for x, _ in pairs]
    b = [[y] * width for _, y in pairs]
    found = rows.sum_of_products(a, [*b, [1.0] * width])  # as far as all of them go
    assert len(found) == (width if pairs else 0)
    for value in found:
        assert value == pytest.approx(math.fsum(x * y for x, y in pairs), rel=1e-9, abs=1e-6)


def test_rows_of_a_buffer():
    x = PythonBuffer([[1, 2, 3], [4, 5, 6]])
    assert x.rows() == [(1, 2, 3), (4, 5, 6)]
    assert x.transpose(0, 1).rows() == [(1, 4), (2, 5), (3, 6)]
    assert x.rows(2) == [(1, 2), (3, 4), (5, 6)]
    assert PythonBuffer.zeros((2, 0)).rows() == [(), ()]
    assert PythonBuffer.zeros((0, 2)).rows() == []


@pytest.mark.parametrize("dtype", [DType.float32, DType.float64])
def test_values_are_written_where_the_elements_lie(dtype):
    whole = PythonBuffer.zeros((3, 2), dtype)
    version = whole.version[0]
    whole[1].write_values([0.1, 0.2])
    assert whole.to_python() == [[0.0, 0.0], [dtype.cast(0.1), dtype.cast(0.2)], [0.0, 0.0]]
    whole.transpose(0, 1).write_values([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert whole.to_python() == [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
    assert whole.version[0] == version + 2
    whole[0].write_values([math.inf, -1e300])  # no float32 is as large
    assert whole[0].to_python() == [math.inf, -math.inf if dtype is DType.float32 else -1e300]


def test_values_are_not_written_into_a_broadcast_view():
    with pytest.raises(ValueError, match="copy"):
        PythonBuffer.zeros((1, 2)).expand((3, 2)).write_values([1.0] * 6)
