"""What makemore's first lectures do: count pairs of letters, learn them, then a network with a context.

    python docs/examples/like_makemore.py --backend numpy --steps 2000
    python docs/examples/like_makemore.py --data names.txt

The words are the names in Python's standard library, or the lines of a file. Indexing does most of the work:
`counts[a, b]`, `table[contexts]`, and `log_probabilities[rows, targets]` for the loss.
"""

import argparse
from pathlib import Path

from tinygpt_core import DType, Tensor, backends, no_grad, seed
from tinygpt_core.dataset.corpora import load_corpus
from tinygpt_core.random import Generator

END = "."  # before a word and behind it


def letters_of(words):
    """Returns the letters, the end first, and the number of each."""
    letters = [END, *sorted(set("".join(words)) - {END})]
    return letters, {letter: i for i, letter in enumerate(letters)}


def contexts_of(words, numbers, length):
    """Returns contexts (N, length) and the letter (N,) that follows each."""
    contexts, targets = [], []
    for word in words:
        context = [0] * length
        for letter in word + END:
            contexts.append(context)
            targets.append(numbers[letter])
            context = [*context[1:], numbers[letter]]
    return Tensor(contexts), Tensor(targets)


def counted(first, second, size):
    """Returns how probable each letter is behind each, from counts: P (size, size), rows that add up to 1."""
    pairs = first.one_hot(size, DType.float32).T @ second.one_hot(size, DType.float32)
    counts = pairs + 1.0  # no pair is impossible
    return counts / counts.sum(1, keepdim=True)


def mean_loss(log_probabilities, targets):
    """Returns the mean of -log P[target], in nats, of log-probabilities (N, size)."""
    return -log_probabilities[Tensor.arange(len(targets)), targets].mean()


def learned_pairs(first, second, size, steps):
    """Returns the loss of a single layer, one-hot letters times weights, which learns what is counted."""
    weights = Tensor.normal((size, size), std=0.1, requires_grad=True)
    for _ in range(steps):
        loss = mean_loss(weights[first].log_softmax(), second) + 0.001 * (weights**2).mean()
        weights.zero_grad()
        loss.backward()
        with no_grad():
            weights -= 20.0 * weights.grad
    return loss.item()


class Network:
    """Letters are embedded, joined, normalized over the batch, and a hidden layer gives logits (N, size)."""

    def __init__(self, size, length, embedding=8, hidden=64):
        self.table = Tensor.normal((size, embedding))
        self.hidden = Tensor.normal((length * embedding, hidden)) * ((5 / 3) / (length * embedding) ** 0.5)
        self.gain, self.bias = Tensor.ones((1, hidden)), Tensor.zeros((1, hidden))
        self.head, self.head_bias = Tensor.normal((hidden, size)) * 0.01, Tensor.zeros(size)
        self.mean, self.deviation = Tensor.zeros((1, hidden)), Tensor.ones((1, hidden))
        for parameter in self.parameters():
            parameter.requires_grad = True

    def parameters(self):
        """Returns what is learned."""
        return [self.table, self.hidden, self.gain, self.bias, self.head, self.head_bias]

    def __call__(self, contexts, training=True):
        x = self.table[contexts].flatten(1) @ self.hidden
        if training:
            mean, deviation = x.mean(0, keepdim=True), x.std(0, keepdim=True)
            self.mean.assign(self.mean * 0.99 + mean.detach() * 0.01)
            self.deviation.assign(self.deviation * 0.99 + deviation.detach() * 0.01)
        else:
            mean, deviation = self.mean, self.deviation
        x = self.gain * ((x - mean) / (deviation + 1e-5)) + self.bias
        return x.tanh() @ self.head + self.head_bias


def train(network, contexts, targets, steps, batch=32):
    """Returns the loss of every step."""
    losses = []
    for step in range(steps):
        chosen = (Tensor.uniform(batch) * len(targets)).floor().clamp(max=len(targets) - 1)
        rows = chosen.cast(targets.dtype)
        loss = mean_loss(network(contexts[rows]).log_softmax(), targets[rows])
        for parameter in network.parameters():
            parameter.zero_grad()
        loss.backward()
        rate = 0.1 if step < 0.75 * steps else 0.01
        with no_grad():
            for parameter in network.parameters():
                parameter -= rate * parameter.grad
        losses.append(loss.item())
    return losses


def sample(network, letters, length, generator, longest=20):
    """Returns a new word, drawn letter by letter: where a random number falls among the running sums."""
    context, word = [0] * length, ""
    with no_grad():
        while len(word) < longest:
            shares = network(Tensor([context]), training=False).softmax()[0].cumsum(0)
            number = int((shares < Tensor.uniform((), generator=generator)).sum().clamp(max=len(letters) - 1))
            if not number:
                break
            word += letters[number]
            context = [*context[1:], number]
    return word


def main(arguments=None):
    """Counts, learns, and prints the losses and some words; returns the three losses."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="words, one a line (default: names in the library)")
    parser.add_argument("--backend", default="python", help="python (default), numpy or cupy")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--words", type=int, default=2000, help="at most so many (default: 2000)")
    parser.add_argument("--context", type=int, default=3, help="letters that the network sees (default: 3)")
    options = parser.parse_args(arguments)
    corpus = load_corpus("identifiers" if options.data is None else "names", options.data)
    words = [word.strip().lower() for word in corpus.documents if word.strip()][: options.words]
    letters, numbers = letters_of(words)
    with backends.use(options.backend):
        seed(2147483647)
        first, second = contexts_of(words, numbers, 1)
        pairs = mean_loss(counted(first[:, 0], second, len(letters)).log()[first[:, 0]], second).item()
        learned = learned_pairs(first[:, 0], second, len(letters), options.steps // 10)
        contexts, targets = contexts_of(words, numbers, options.context)
        network = Network(len(letters), options.context)
        losses = train(network, contexts, targets, options.steps)
        with no_grad():
            of_all = mean_loss(network(contexts, training=False).log_softmax(), targets).item()
        print(
            f"pairs counted {pairs:.3f}, pairs learned {learned:.3f}, network {losses[0]:.3f} -> {of_all:.3f}"
        )
        generator = Generator(1)
        print(" ".join(sample(network, letters, options.context, generator) for _ in range(10)))
    return pairs, learned, of_all


if __name__ == "__main__":
    main()
