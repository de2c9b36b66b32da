"""Solutions of the exercises of chapter 11, strided arrays. `python -m pytest tests/test_book.py -k
strided_arrays` checks them.
"""

from itertools import pairwise, product
from operator import mul

from tinygpt_core import Buffer
from tinygpt_core.shape import contiguous_strides, reshape_strides


def positions(shape, stride, offset=0):
    """The chapter's formula: the position of every element, in C order."""
    if not shape:
        return [offset]
    return [p for i in range(shape[0]) for p in positions(shape[1:], stride[1:], offset + i * stride[0])]


# 11.1 A step along the diagonal is a step down and a step to the right.
#
# Hint: one step along the diagonal is a step along both axes


def diagonal(buffer):
    """Shape and stride as tuples, and the offset."""
    return buffer.shape[:1], (sum(buffer.stride),), buffer.offset


def test_11_1_the_diagonal_is_a_view():
    square = Buffer.arange(25).reshape((5, 5))
    for view in (square, square.transpose(0, 1), square[1:4, 2:], square[::-1]):
        expected = [view[i, i].item() for i in range(view.shape[0])]
        assert [view.data[p] for p in positions(*diagonal(view))] == expected


# 11.2 To move the window is to move within the picture, and so is to move within the window: the strides come
# twice.
#
# Hint: moving the window down is a step of a whole row, as is moving down inside it


def windows(picture):
    """Shape and stride as tuples, and the offset, of the windows of a Buffer."""
    height, width = picture.shape
    return (height - 2, width - 2, 3, 3), picture.stride * 2, picture.offset


def test_11_2_windows_of_a_picture():
    picture = Buffer.arange(30).reshape((5, 6))
    for view in (picture, picture.transpose(0, 1), picture[:, ::-1]):
        shape, stride, offset = windows(view)
        expected = [
            view[y + i, x + j].item()
            for y, x, i, j in product(range(view.shape[0] - 2), range(view.shape[1] - 2), range(3), range(3))
        ]
        assert [view.data[p] for p in positions(shape, stride, offset)] == expected


# 11.3 Count the positions. Slices and permutations leave out or reorder what was distinct; expanding an axis
# of size 1 repeats it. The windows of 11.2 overlap too, without any stride 0: that is why the library offers
# no way to set strides by hand.
#
# Hint: list all positions, and count


def overlaps(shape, stride):
    found = positions(shape, stride)
    return len(set(found)) < len(found)


def test_11_3_which_views_overlap():
    b = Buffer.arange(24).reshape((2, 3, 4))
    for view in (
        b,
        b.permute((2, 0, 1)),
        b[:, ::-2, 1:],
        b[1],
        b[:, :0],
        b.reshape((2, 3, 1, 4)).expand((2, 3, 1, 4)),
    ):
        assert not overlaps(view.shape, view.stride)
    assert overlaps((5, 2, 3, 4), b.expand((5, 2, 3, 4)).stride)
    assert overlaps(*windows(Buffer.arange(16).reshape((4, 4)))[:2])


# 11.4 One comparison for each pair of neighbours, so n - 1: a step along an axis must be what all of the next
# axis spans.
#
# Hint: an axis of size 1 never takes a step, so its stride does not matter


def is_one_run(shape, stride):
    """Whether one axis, of any stride, can have the same elements in the same order without a copy. It always
    can where there is one element or none.
    """
    if 0 in shape:
        return True
    axes = [(size, step) for size, step in zip(shape, stride, strict=True) if size != 1]
    return all(step == next_size * next_step for (_, step), (next_size, next_step) in pairwise(axes))


def test_11_4_which_arrays_are_one_run():
    for shape in product(range(4), repeat=3):
        total = shape[0] * shape[1] * shape[2]
        for stride in product((-2, -1, 0, 1, 2, 3, 6), repeat=3):
            assert is_one_run(shape, stride) == (reshape_strides(shape, stride, (total,)) is not None), (
                shape,
                stride,
            )
    assert is_one_run((2, 3, 4), contiguous_strides((2, 3, 4)))


# 11.5 Row i of the first is a slice, column j of the second is a slice with steps.
#
# Hint: row i of a is a slice, column j of b is a slice with a step


def flat_product(a, b, n, k, m):
    """The product of a, of shape (n, k), and b, of shape (k, m), as a flat list."""
    return [sum(map(mul, a[i * k : (i + 1) * k], b[j::m])) for i in range(n) for j in range(m)]


def test_11_5_a_product_of_flat_lists():
    for n, k, m in ((1, 1, 1), (2, 3, 4), (4, 1, 2), (3, 5, 3)):
        a, b = list(range(n * k)), list(range(5, 5 + k * m))
        expected = Buffer(a).reshape((n, k)) @ Buffer(b).reshape((k, m))
        assert flat_product(a, b, n, k, m) == expected.to_array().tolist()
