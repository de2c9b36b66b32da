"""Solutions of the exercises of chapter 2, the tape. `python -m pytest tests/test_book.py -k the_tape`
checks them.
"""

import math
from itertools import count

from tinygpt_core import GradientFunction, Operation, Tensor, apply_op, check_gradients
from tinygpt_core.nn import FullyConnectedLayer

numbers = count()


class Value:
    """The chapter's number that remembers, but a slope is a function that gives a Value."""

    def __init__(self, data, parents=()):
        # Parents: pairs of an input and a function that gives the slope for it
        self.data, self.parents = data, parents
        self.number = next(numbers)

    def __add__(self, other):
        one = Value(1.0)
        return Value(self.data + other.data, [(self, lambda: one), (other, lambda: one)])

    def __mul__(self, other):
        return Value(self.data * other.data, [(self, lambda: other), (other, lambda: self)])

    def tanh(self):
        y = Value(math.tanh(self.data))
        y.parents = [(self, lambda: Value(1.0) + Value(-1.0) * y * y)]
        return y


# 2.1 A value is done when all its parents are: push it again below them, and list it when it comes up the
# second time.
#
# Hint: keep a stack of pairs: a value, and whether its parents have been put on the stack already


def topological_order(result):
    """All that the result was made of, and itself, each value before its parents."""
    order, seen, stack = [], set(), [(result, False)]
    while stack:
        value, parents_done = stack.pop()
        if parents_done:
            order.append(value)
        elif value not in seen:
            seen.add(value)
            stack.append((value, True))
            stack += [(parent, False) for parent, _ in value.parents]
    return order[::-1]


# Given
def by_numbers(result):
    found, stack = {result}, [result]
    while stack:
        for parent, _ in stack.pop().parents:
            if parent not in found:
                found.add(parent)
                stack.append(parent)
    return sorted(found, key=lambda value: -value.number)


def test_2_1_topological_order():
    x, y = Value(0.5), Value(-2.0)
    a = x * y
    result = (a + x).tanh() * a + y * y
    for _ in range(5000):  # far beyond what recursion could follow
        result = result + result
    for order in (topological_order(result), by_numbers(result)):
        place = {value: i for i, value in enumerate(order)}
        assert all(place[value] < place[parent] for value in order for parent, _ in value.parents)
    assert set(topological_order(result)) == set(by_numbers(result))


# 2.2 ln(1 + eˣ) = max(x, 0) + ln(1 + e^-|x|), and the slope is sigmoid(x) = 1 - e^-y: all that the backward
# needs is y.
#
# Hint: ln(1 + eˣ) = max(x, 0) + ln(1 + e^-|x|), and its slope is 1 / (1 + e⁻ˣ), which the result
# alone can give


class Softplus(Operation):
    def forward(self, x):
        self.y = x.maximum(0.0) + ((-x.maximum(-x)).exp() + 1.0).log()
        return self.y

    def backward(self, grad):
        return grad * (1.0 - (-self.y).exp())


def test_2_2_softplus():
    assert check_gradients(lambda x: apply_op(Softplus, x), Tensor([-3.0, -0.1, 0.0, 0.7, 5.0]))
    x = Tensor([-1000.0, 0.0, 1000.0], requires_grad=True)
    y = apply_op(Softplus, x)
    assert len(y.grad_fn.kept) == 1
    y.sum().backward()
    assert y.close_to([0.0, math.log(2.0), 1000.0]) and x.grad.to_python() == [0.0, 0.5, 1.0]


# 2.3 The walk multiplies and adds Values, so the gradients are on the tape too.
#
# Hint: the walk of the chapter, `backward`, with a dict from values to their gradients, which are Values:
# the first is Value(1.0), and a parent's part is a product of two Values


def gradient(result, of):
    """The slope of the result for `of`, as a Value."""
    total = {result: Value(1.0)}
    for value in by_numbers(result):
        for parent, slope in value.parents:
            part = total[value] * slope()
            total[parent] = total[parent] + part if parent in total else part
    return total.get(of, Value(0.0))


def test_2_3_slopes_of_slopes():
    x = Value(2.0)
    first = gradient(x * x * x, x)
    second = gradient(first, x)
    assert (first.data, second.data, gradient(second, x).data) == (12.0, 12.0, 6.0)
    y = math.tanh(0.3)
    x = Value(0.3)
    assert abs(gradient(gradient(x.tanh(), x), x).data + 2 * y * (1 - y * y)) < 1e-15


# 2.4 The forward runs on Tensors that require nothing; the backward runs it again on Tensors that do, and
# takes their gradients. What is kept falls to the layers' inputs. The forward is computed twice, so a step
# costs four products where it cost three.
#
# Hint: in the backward, make leaves of the inputs, run the function with recording on, and go backward
# from its result


class Recomputed(Operation):
    """The function takes Tensors and returns one; the buffers are what it is applied to."""

    def forward(self, *buffers, function):
        self.buffers, self.function = buffers, function
        return function(*map(Tensor, buffers)).buffer

    def backward(self, grad):
        leaves = [Tensor(buffer, requires_grad=True) for buffer in self.buffers]
        self.function(*leaves).backward(grad)
        return tuple(leaf.grad.buffer for leaf in leaves)


# Given
def kept_numbers(tensor, parameters):
    """How many numbers the records of a result keep, besides the parameters."""
    sizes, stack, seen = {}, [tensor.grad_fn], set()
    while stack:
        record = stack.pop()
        if isinstance(record, GradientFunction) and record not in seen:
            seen.add(record)
            stack += record.parents
            sizes.update({id(buffer.version): buffer.numel for _, buffer, _ in record.kept})
    return sum(size for key, size in sizes.items() if key not in {id(p.buffer.version) for p in parameters})


def test_2_4_memory_for_time():
    layers = [(FullyConnectedLayer(8, 32), FullyConnectedLayer(32, 8)) for _ in range(8)]
    parameters = [p for pair in layers for layer in pair for p in (layer.weights, layer.bias)]

    def block(x, w1, b1, w2, b2):
        return x + (x @ w1 + b1).tanh() @ w2 + b2

    def run(apply):
        x = Tensor([[0.1 * i - 0.02 * j for i in range(8)] for j in range(16)])
        for k in range(8):
            x = apply(block, x, *parameters[4 * k : 4 * k + 4])
        kept = kept_numbers(x, parameters)
        for p in parameters:
            p.zero_grad()
        (x * x).sum().backward()
        return kept, [p.grad.to_python() for p in parameters]

    kept, expected = run(lambda function, *tensors: function(*tensors))
    less, found = run(lambda function, *tensors: apply_op(Recomputed, *tensors, function=function))
    assert found == expected
    assert kept == 8 * 16 * (8 + 32) and less == 8 * 16 * 8


# 2.5 The slope of the root at 0 is infinite. `where` gives it the gradient 0, and 0 / 0 is NaN: what is not
# chosen is still computed. So choose before the root, where the slope is finite.
#
# Hint: 0 times infinity is NaN: see to it that the square root never sees the zero


def safe_sqrt(x):
    positive = x > 0.0
    return Tensor.where(positive, Tensor.where(positive, x, 1.0).sqrt(), 0.0)


def test_2_5_a_gradient_that_was_never_asked_for():
    x = Tensor([0.0, 4.0, -1.0], requires_grad=True)
    Tensor.where(x > 0.0, x.sqrt(), 0.0).sum().backward()
    assert math.isnan(x.grad[0].item())
    x.zero_grad()
    y = safe_sqrt(x)
    y.sum().backward()
    assert y.to_python() == [0.0, 2.0, 0.0] and x.grad.to_python() == [0.0, 0.25, 0.0]
