"""Solutions of the exercises of chapter 16, the laws. `python -m pytest tests/test_book.py -k the_laws`
checks them.
"""

import math
import random
import struct
from itertools import product

from tinygpt_core import Buffer, DType, kernels

# 16.1 What broadcasting means, element by element: count the axes from the back, and an axis of size 1 has
# the index 0. Only shapes that fit are drawn: some axes of a common shape become 1, and some at the front are
# dropped.
#
# Hint: go through the axes from the back, and read an axis of size 1 always at 0


# Given
def element(nested, index):
    for i in index:
        nested = nested[i]
    return nested


def at(nested, shape, index):
    """The element of a broadcast array that stands at an index of the result."""
    own = index[len(index) - len(shape) :]
    return element(nested, [0 if size == 1 else i for i, size in zip(own, shape, strict=True)])


# Given
def draw_broadcast(chance):
    common = [chance.randint(1, 3) for _ in range(chance.randint(0, 3))]
    shapes = [
        tuple(chance.choice((1, size)) for size in common[chance.randint(0, len(common)) :]) for _ in range(2)
    ]
    return [(shape, [chance.randint(-9, 9) for _ in range(math.prod(shape))]) for shape in shapes]


def addition_holds(add, case):
    """Whether `add` is right for a case of `draw_broadcast`: two pairs of a shape and a flat list. It is not
    where it raises a ValueError.
    """
    (a_shape, a), (b_shape, b) = case
    ndim = max(len(a_shape), len(b_shape))
    sizes = [[1] * (ndim - len(shape)) + list(shape) for shape in (a_shape, b_shape)]
    shape = tuple(map(max, *sizes)) if ndim else ()
    first, second = Buffer(a).reshape(a_shape), Buffer(b).reshape(b_shape)
    nested = first.to_python(), second.to_python()
    expected = [
        at(nested[0], a_shape, index) + at(nested[1], b_shape, index) for index in product(*map(range, shape))
    ]
    try:
        result = add(first, second)
    except ValueError:
        return False
    return result.shape == shape and result.to_array().tolist() == expected


# Given
def adds_from_the_front(a, b):
    ndim = max(a.ndim, b.ndim)
    return a.reshape((*a.shape, *[1] * (ndim - a.ndim))) + b.reshape((*b.shape, *[1] * (ndim - b.ndim)))


def test_16_1_a_law_for_broadcasting():
    chance = random.Random(0)
    cases = [draw_broadcast(chance) for _ in range(100)]
    assert all(addition_holds(lambda a, b: a + b, case) for case in cases)
    assert not all(addition_holds(adds_from_the_front, case) for case in cases)


# 16.2 Try to leave out each element, then to replace each number by one nearer to zero: zero itself, half,
# one less. "Two numbers more than 10 apart" ends as [0, 11] or [0, -11], or as two others that are just 11
# apart on both sides of zero: with one number at a time no smaller pair can be reached from those. A shrinker
# finds a local minimum, and does not promise more.
#
# Hint: try all smaller lists, and begin anew with the first that still fails


def shrink(numbers, fails):
    """Elements are left out first, and what is left is brought nearer to zero."""

    def simpler():
        for i, number in enumerate(numbers):
            yield numbers[:i] + numbers[i + 1 :]
            for nearer in (0, int(number / 2), number - 1 if number > 0 else number + 1):
                if abs(nearer) < abs(number):
                    yield [*numbers[:i], nearer, *numbers[i + 1 :]]

    while smaller := next((candidate for candidate in simpler() if fails(candidate)), None):
        numbers = smaller
    return numbers


def test_16_2_a_shrinker():
    def far_apart(numbers):
        return bool(numbers) and max(numbers) - min(numbers) > 10

    chance = random.Random(0)
    for _ in range(50):
        numbers = [chance.randint(-100, 100) for _ in range(20)]
        if far_apart(numbers):
            smallest = shrink(numbers, far_apart)
            assert (
                len(smallest) == 2
                and max(smallest) - min(smallest) == 11
                and min(smallest) <= 0 <= max(smallest)
            )
    assert shrink([5, 300, -7], lambda numbers: sum(numbers) >= 100) == [100]
    assert shrink([1, 2, 3], lambda numbers: len(numbers) > 1) == [0, 0]


# 16.3 It holds while eps is small beside a^2 var(x). For a^2 var(x) near eps it fails, and must: eps is in
# the definition, y = (x - mean) / sqrt(var + eps). The law is one of the normalization, not of the layer;
# with eps scaled by a^2 it is exact again.
#
# Hint: where is ε no longer small beside the variance of a x?


# Given
def layer_norm(numbers, eps=1e-5):
    return kernels.LayerNorm.forward(Buffer([numbers], DType.float64), eps=eps)[0].to_array()


def farthest(a, b):
    """The largest distance between two lists, place by place."""
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def test_16_3_a_metamorphic_law():
    numbers = [0.5, -1.0, 2.0, 0.25]
    for a, b in ((2.0, 0.0), (10.0, 5.0), (1.0, -3.0)):
        assert farthest(layer_norm([a * x + b for x in numbers]), layer_norm(numbers)) < 1e-4
    small = [1e-3 * x for x in numbers]
    assert farthest(layer_norm(small), layer_norm(numbers)) > 0.1
    assert farthest(layer_norm(small, eps=1e-5 * 1e-6), layer_norm(numbers)) < 1e-9


# 16.4 With one pass, two numbers near mean^2 are subtracted: the condition number is about mean^2 / variance,
# which a law reaches as soon as it draws numbers with a large mean. A variance does not change when all
# numbers move by a constant: that is the metamorphic law, and in float32 the first formula breaks it for a
# mean of some thousand standard deviations. (The numbers here are integers, which stay exact.)
#
# Hint: draw integers, which stay exact, and add a constant, sometimes a large one; the square of a `single`
# needs a `single` again


# Given
def single(x):
    return struct.unpack("f", struct.pack("f", x))[0]


# Given
def mean(numbers):
    total = 0.0
    for number in numbers:
        total = single(total + number)
    return single(total / len(numbers))


def one_pass(numbers):
    """Rounded to float32 after every operation, as `mean` is."""
    average = mean(numbers)
    return single(mean([single(x * x) for x in numbers]) - single(average * average))


def two_passes(numbers):
    """Rounded likewise."""
    average = mean(numbers)
    return mean([single(single(x - average) ** 2) for x in numbers])


def does_not_see_a_shift(variance, chance):
    """Draws numbers and a constant from `chance`, a random.Random: is their `variance`, to rounding, the same
    with the constant added to each?
    """
    numbers, shift = [float(chance.randint(-4, 4)) for _ in range(8)], float(chance.choice((0, 1, 100, 8192)))
    return math.isclose(variance([x + shift for x in numbers]), variance(numbers), rel_tol=1e-5, abs_tol=1e-5)


def test_16_4_two_formulas_for_a_variance():
    for variance, right in ((two_passes, True), (one_pass, False)):
        chance = random.Random(3)
        assert all(does_not_see_a_shift(variance, chance) for _ in range(50)) == right


# 16.5 All n miss it with probability (1 - p)^n, which must be at most 1 - c. For a small p that is about
# -ln(1 - c) / p: 3 / p for 95 %.
#
# Hint: all n miss it with probability (1 - p)^n


def cases_needed(share, confidence):
    return math.ceil(math.log(1 - confidence) / math.log(1 - share))


def test_16_5_how_many_cases():
    assert cases_needed(0.5, 0.9) == 4  # 1 - 2^-4 = 0.94, and 1 - 2^-3 = 0.875 is too little
    for share, confidence in ((0.1, 0.95), (0.003, 0.99)):
        n = cases_needed(share, confidence)
        assert (1 - share) ** n <= 1 - confidence < (1 - share) ** (n - 1)
    assert abs(cases_needed(0.001, 0.95) - 3000) < 10
