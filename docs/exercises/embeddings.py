"""Solutions of the exercises of chapter 6, embeddings. `python -m pytest tests/test_book.py -k embeddings`
checks them.
"""

import math

from tinygpt_core import Module, Tensor, seed
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import Embedding, FullyConnectedLayer


class ThreeBack(Module):
    """The chapter's network, for any vocabulary and any number of letters back."""

    def __init__(self, vocab_size=8, size=2, back=3, hidden_dim=32):
        super().__init__()
        self.embedding = Embedding(vocab_size, size)
        self.hidden = FullyConnectedLayer(back * size, hidden_dim)
        self.scores = FullyConnectedLayer(hidden_dim, vocab_size)

    def __call__(self, contexts):
        x = self.embedding(contexts)
        return self.scores(self.hidden(x.reshape((x.shape[0], -1))).tanh())


def softmax(x):
    e = [math.exp(value - max(x)) for value in x]
    return [value / sum(e) for value in e]


# 6.1 Row i of the gradient is the sum of g over the places where i was looked up.
#
# Hint: start with rows of zeros, and add each g to the row of its id


def lookup(table, ids):
    return [table[i] for i in ids]


def lookup_backward(rows, ids, g):
    gradient = [[0.0] * len(g[0]) for _ in range(rows)]
    for i, row in zip(ids, g, strict=True):
        gradient[i] = [a + b for a, b in zip(gradient[i], row, strict=True)]
    return gradient


def test_6_1_one_hot():
    ids, g = [2, 0, 2, 3], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]
    seed(1)
    table = Tensor.normal((5, 2), requires_grad=True)
    result = table[Tensor(ids)]
    assert result.to_python() == lookup(table.to_python(), ids)
    result.backward(Tensor(g))
    assert table.grad.to_python() == lookup_backward(5, ids, g)


# 6.2 Each pair (a, b) adds p - y to row a, divided by the number of pairs. Summed over the pairs that begin
# with a, of which n_b go on with b: n p_b - n_b. That is 0 for p_b = n_b / n.
#
# Hint: each pair (a, b) adds p - y to row a


def gradient_of_scores(scores, pairs):
    """The gradient of the mean loss; a pair has the id of a letter, and that of the next one."""
    gradient = [[0.0] * len(scores) for _ in scores]
    for first, second in pairs:
        for j, p in enumerate(softmax(scores[first])):
            gradient[first][j] += (p - (j == second)) / len(pairs)
    return gradient


def test_6_2_counting_is_the_best():
    pairs = [(0, 1), (0, 1), (0, 2), (1, 0), (2, 2), (2, 0)]
    counts = [[pairs.count((a, b)) for b in range(3)] for a in range(3)]
    scores = Tensor([[0.5, -1.0, 2.0], [0.0, 0.3, 0.1], [1.0, 1.0, 0.0]], requires_grad=True)
    firsts, seconds = (Tensor(list(ids)) for ids in zip(*pairs, strict=True))
    CrossEntropyLoss(reduction="mean")(scores[firsts], seconds).backward()
    assert scores.grad.close_to(gradient_of_scores(scores.to_python(), pairs), atol=1e-6)
    best = [[math.log(max(count, 1e-12)) for count in row] for row in counts]
    assert all(abs(value) < 1e-9 for row in gradient_of_scores(best, pairs) for value in row)


# 6.3 V C for the table, (back C + 1) hidden for the first layer, (hidden + 1) V for the second. A table of
# two letters back has V² rows of V numbers, which is already more.
#
# Hint: count weights and biases of the table and of both layers


def parameters(V, C, back, hidden):
    return V * C + (back * C + 1) * hidden + (hidden + 1) * V


def test_6_3_how_many_numbers():
    for sizes in ((8, 2, 3, 32), (64, 16, 5, 128), (10, 1, 1, 1)):
        assert parameters(*sizes) == ThreeBack(*sizes).num_parameters()
    fewer = [back for back in range(1, 6) if parameters(64, 16, back, 128) < 64**back * 64]
    assert fewer == [2, 3, 4, 5]


# 6.4 With R the rotation, the table becomes E R. The next layer reads (E R) and has to undo that: its matrix
# becomes, for each of the three letters, Rᵀ times its rows. So nothing is special about the axes; only
# distances and angles between the places mean something.
#
# Hint: (E R)(Rᵀ W) = E W, where R = [[cos, sin], [-sin, cos]], and each of the three letters has two rows of
# W, which `Tensor.concatenate(parts, axis=0)` puts together again


def turn(model, angle):
    """Changes a ThreeBack: `parameter.assign(tensor)` replaces the numbers of a parameter."""
    c, s = math.cos(angle), math.sin(angle)
    rotation = Tensor([[c, s], [-s, c]])
    model.embedding.embeddings.assign(model.embedding.embeddings.detach() @ rotation)
    weights = model.hidden.weights.detach()
    parts = [rotation.transpose(0, 1) @ weights[2 * i : 2 * i + 2] for i in range(3)]
    model.hidden.weights.assign(Tensor.concatenate(parts, axis=0))


def test_6_4_turned():
    seed(3)
    model = ThreeBack()
    contexts = Tensor([[0, 1, 2], [3, 4, 5], [7, 7, 6]])
    before, table = model(contexts).to_python(), model.embedding.embeddings.to_python()
    turn(model, 0.7)
    assert model(contexts).close_to(before, atol=1e-5)
    assert not model.embedding.embeddings.close_to(table, atol=1e-3)
