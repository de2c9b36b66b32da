"""Solutions of the exercises of chapter 10, training it well. `python -m pytest tests/test_book.py -k
training_it_well` checks them.
"""

import math
from itertools import combinations

from tinygpt_core import Tensor
from tinygpt_core.optimizers import clip_gradients
from tinygpt_core.random import Generator, normals
from tinygpt_core.schedules import linear

# 10.1 (step + 1) / (warmup + 1) of the rate at first, then the share of the steps that are left.
#
# Hint: two cases; the second is the share of steps that are left


def line(step, highest, total, warmup):
    if step < warmup:
        return highest * (step + 1) / (warmup + 1)
    return highest * max(0.0, (total - step) / (total - warmup))


def test_10_1_warm_up_and_a_line():
    schedule = linear(0.05, total_steps=150, warmup_steps=10, minimum=0.0)
    assert all(math.isclose(line(s, 0.05, 150, 10), schedule(s), abs_tol=1e-15) for s in range(160))


# 10.2 One factor for all of them, limit / length, where the length exceeds the limit.
#
# Hint: one length for all numbers together


def clipped(gradients, limit):
    length = math.sqrt(sum(value * value for row in gradients for value in row))
    factor = min(1.0, limit / length) if length else 1.0
    return [[value * factor for value in row] for row in gradients]


def test_10_2_clipping_by_hand():
    rows = [[3.0, 4.0], [12.0]]
    assert clipped(rows, 100.0) == rows and clipped([[0.0]], 1.0) == [[0.0]]
    assert all(math.isclose(a, b) for a, b in zip(clipped(rows, 6.5)[0], (1.5, 2.0), strict=True))
    leaves = [Tensor([1.0] * len(row), requires_grad=True) for row in rows]
    for leaf, row in zip(leaves, rows, strict=True):
        (leaf * Tensor(row)).sum().backward()
    clip_gradients(leaves, 6.5)
    for leaf, row in zip(leaves, clipped(rows, 6.5), strict=True):
        assert leaf.grad.close_to(row, rtol=1e-5)


# 10.3 It stops too soon where the loss rests for a while and then falls again, as after a learning rate that
# was lowered.
#
# Hint: remember the index of the best, and how long ago it was


def stop_at(losses, patience):
    best = 0
    for i, loss in enumerate(losses):
        if loss < losses[best]:
            best = i
        elif i - best >= patience:
            break
    return best


def test_10_3_when_to_stop():
    losses = [3.0, 2.0, 1.5, 1.6, 1.4, 1.7, 1.8, 1.9, 1.0]
    assert stop_at(losses, 3) == 4 and stop_at(losses, 1) == 2 and stop_at(losses, 100) == 8
    assert stop_at([1.0], 1) == 0 and stop_at([1.0, 2.0, 3.0], 2) == 0


# 10.4 The mean starts at 0, so after t steps it holds 1 - β^t of the weight: divide by that. What jumps to
# and fro adds up to nearly nothing.
#
# Hint: after t steps the mean holds 1 - β^t of the weight


def averaged(values, beta):
    mean, means = 0.0, []
    for t, value in enumerate(values, 1):
        mean = beta * mean + (1 - beta) * value
        means.append(mean / (1 - beta**t))
    return means


def test_10_4_averages_of_weights():
    assert all(math.isclose(mean, 2.5) for mean in averaged([2.5] * 10, 0.9))
    jumping = [1.0 + (0.5 if t % 2 else -0.5) for t in range(200)]
    assert abs(averaged(jumping, 0.95)[-1] - 1.0) < 0.02
    noise = normals(Generator(1).reserve(400), 400)
    assert max(map(abs, averaged(noise, 0.99)[-100:])) < 0.5 < max(map(abs, noise[-100:]))


# 10.5 If the setting made no difference, any way to deal the results is as likely as the one that happened.
#
# Hint: itertools.combinations deals the results in all ways; equal differences may differ in their last digit


def could_be_luck(first, second):
    results, n = [*first, *second], len(first)
    seen = abs(sum(first) - sum(second))
    deals = [sum(results[i] for i in chosen) for chosen in combinations(range(2 * n), n)]
    return sum(abs(2 * deal - sum(results)) >= seen - 1e-12 for deal in deals) / len(deals)


def test_10_5_is_it_a_difference():
    assert could_be_luck([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) == 2 / 20  # this deal, and its mirror image
    assert could_be_luck([1.0, 5.0], [2.0, 4.0]) == 1.0
    assert could_be_luck([1.0, 1.1, 1.2, 1.05], [1.5, 1.6, 1.55, 1.7]) == 2 / 70
