"""An LSTM and a GPT of the same size learn to spell first names, on the same batches.

    python docs/examples/names_rnn_vs_gpt.py --backend numpy
    python docs/examples/names_rnn_vs_gpt.py --data names.txt --steps 200

The LSTM reads letter by letter and carries a state; the GPT sees all letters so far at once. Both give the
probabilities of the next letter, so one training loop serves both, and the loss on names that neither has
seen can be compared.
"""

import argparse
import time

from tinygpt_core import backends, no_grad, seed
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, LSTM, Embedding, GPTConfig, Linear, Module
from tinygpt_core.optimizers import AdamW, clip_gradients
from tinygpt_core.schedules import cosine_with_warmup
from tinygpt_core.training import TrainingConfig, as_tensors, prepare_data

CONTEXT = 16


class NameLSTM(Module):
    """Letters in, logits of the next letter out: an embedding, a recurrent layer, and a linear head."""

    def __init__(self, vocab_size, embedding_dim, hidden_dims):
        super().__init__()
        self.embedding = Embedding(vocab_size, embedding_dim, std=0.1)
        self.lstm = LSTM(embedding_dim, hidden_dims)
        self.head = Linear(hidden_dims, vocab_size)

    def __call__(self, token_ids):
        hidden, _ = self.lstm(self.embedding(token_ids))
        return self.head(hidden)


def make_models(vocab_size):
    """Returns both by name; their numbers of parameters differ by less than two per cent."""
    config = GPTConfig(vocab_size, CONTEXT, num_layers=1, num_heads=4, embedding_dim=32, tied_head=False)
    return {"LSTM": NameLSTM(vocab_size, embedding_dim=24, hidden_dims=46), "GPT": GPT(config)}


def validation_loss(model, batches):
    """The mean loss a letter, in nats, over batches that are never trained on."""
    total, count = 0.0, 0
    model.eval()
    with no_grad():
        for batch in batches:
            inputs, targets = as_tensors(batch)
            total += CrossEntropyLoss(reduction="sum")(model(inputs), targets).item()
            count += batch.num_targets
    model.train()
    return total / count


def train(model, data, steps):
    """One pass of the usual loop: loss, gradients, clipping, AdamW, with a learning rate that rises, then
    falls.
    """
    loss_function = CrossEntropyLoss(reduction="mean")
    optimizer = AdamW(model, 0.01, betas=(0.9, 0.99))
    schedule = cosine_with_warmup(0.01, total_steps=steps, warmup_steps=min(20, steps - 1), minimum=0.0005)
    for step in range(steps):
        inputs, targets = as_tensors(data.training_batches.next_batch())
        optimizer.zero_grad()
        loss_function(model(inputs), targets).backward()
        clip_gradients(model, 1.0)
        optimizer.learning_rate = schedule(step)
        optimizer.update()


def main(arguments=None):
    """Trains both and returns (name, parameters, validation loss) of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", metavar="FILE", help="names, one a line (default: fetched once and kept)")
    parser.add_argument("--steps", type=int, default=500, help="updates of each model (default: 500)")
    parser.add_argument("--backend", default="python", help="python or numpy (default: python)")
    options = parser.parse_args(arguments)

    config = TrainingConfig(
        corpus="names", data_file=options.data, context_length=CONTEXT, batch_size=32, eval_batches=8
    )
    rows = []
    with backends.use(options.backend):
        for name in ("LSTM", "GPT"):
            data = prepare_data(config)  # anew for each, so both see the same batches in the same order
            seed(42)
            model = make_models(data.tokenizer.vocab_size)[name]
            started = time.perf_counter()
            train(model, data, options.steps)
            seconds = time.perf_counter() - started
            rows.append(
                (name, model.num_parameters(), validation_loss(model, data.validation_batches), seconds)
            )
    print(
        f"after {options.steps} steps; a model that knows only how frequent each letter is has "
        f"{data.unigram_entropy:.3f}\n"
    )
    print("| model | parameters | validation loss (nats a letter) | seconds |\n|---|---|---|---|")
    for name, parameters, loss, seconds in rows:
        print(f"| {name} | {parameters:,} | {loss:.3f} | {seconds:.0f} |")
    return [row[:3] for row in rows]


if __name__ == "__main__":
    main()
