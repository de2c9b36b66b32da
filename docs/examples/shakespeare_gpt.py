"""Train a GPT on Shakespeare's plays and let it go on writing.

    python docs/examples/shakespeare_gpt.py                            # letters, pure Python, minutes
    python docs/examples/shakespeare_gpt.py --preset nanogpt-cpu --backend numpy
    python docs/examples/shakespeare_gpt.py --preset shakespeare-10m --backend cupy

Everything is kept in a directory, so a run that was stopped goes on with `tinygpt train --resume DIRECTORY`.
"""

import argparse
from dataclasses import replace

from tinygpt_core import backends
from tinygpt_core.generation import generate
from tinygpt_core.training import PRESETS, StepEvent, Trainer, ValidationEvent


def main(arguments=None):
    """Trains, prints a sample, and returns the last validation loss."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="shakespeare", help="sizes and schedule (default: shakespeare)")
    parser.add_argument("--data", metavar="FILE", help="the plays (default: fetched once and kept)")
    parser.add_argument("--steps", type=int, help="updates (default: the preset's)")
    parser.add_argument("--backend", default="python", help="python, numpy or cupy (default: python)")
    parser.add_argument(
        "--out", default="runs/shakespeare", help="directory of the run (default: runs/shakespeare)"
    )
    parser.add_argument("--tokens", type=int, default=300, help="length of the sample (default: 300)")
    options = parser.parse_args(arguments)

    config = replace(
        PRESETS[options.preset][1], corpus="shakespeare", data_file=options.data, backend=options.backend
    )
    if options.steps:
        config = replace(config, steps=options.steps, eval_every=max(1, options.steps // 4))
    trainer = Trainer.start(config, options.out)
    print(f"{trainer.model.num_parameters():,} parameters, {trainer.data.num_tokens:,} tokens of text")

    loss = 0.0
    # Each event is one thing that happened: an update, a validation, a checkpoint
    for event in trainer.run():
        if isinstance(event, StepEvent) and event.step % 50 == 0:
            print(
                f"step {event.step}  loss {event.loss:.3f}  {event.tokens / event.seconds:,.0f} tokens "
                f"a second"
            )
        if isinstance(event, ValidationEvent):
            loss = event.val_loss
            print(
                f"step {event.step}  validation loss {loss:.3f} (letters by frequency: "
                f"{trainer.data.unigram_entropy:.3f})"
            )

    with backends.use(options.backend):
        for text in generate(
            trainer.model,
            trainer.data.tokenizer,
            trainer.data.opening,
            tokens=options.tokens,
            temperature=0.8,
        ):
            print(text, end="", flush=True)
    print()
    return loss


if __name__ == "__main__":
    main()
