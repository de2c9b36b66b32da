"""A GPT that writes Python: 49 million parameters, GPT-2's architecture, trained on the standard library of
your own Python.

    python docs/examples/code_model.py --preset stdlib --backend numpy     # a small one, to see it work
    python docs/examples/code_model.py --backend cupy                      # the 49M model; wants a GPU

The sources are split into tokens of several letters by byte-pair encoding, which is trained first.
"""

import argparse
from dataclasses import replace

from tinygpt_core import backends
from tinygpt_core.generation import generate
from tinygpt_core.training import BOUNDARY, PRESETS, StepEvent, Trainer, ValidationEvent


def main(arguments=None):
    """Trains, completes a prompt, and returns the last validation loss."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="code-49m", help="sizes and schedule (default: code-49m)")
    parser.add_argument(
        "--data", metavar="FILE", help="a file of source code to learn instead of the standard library"
    )
    parser.add_argument("--steps", type=int, help="updates (default: the preset's)")
    parser.add_argument("--vocab-size", type=int, help="tokens to learn (default: the preset's)")
    parser.add_argument("--backend", default="python", help="python, numpy or cupy (default: python)")
    parser.add_argument("--out", default="runs/code", help="directory of the run (default: runs/code)")
    parser.add_argument("--prompt", default="def read(self, size):\n", help="what to continue")
    parser.add_argument("--tokens", type=int, default=200, help="length of the sample (default: 200)")
    options = parser.parse_args(arguments)

    config = replace(PRESETS[options.preset][1], backend=options.backend)
    if options.data:
        config = replace(config, corpus="text", data_file=options.data)
    if options.steps:
        config = replace(config, steps=options.steps, eval_every=max(1, options.steps // 4))
    if options.vocab_size:
        config = replace(config, vocab_size=options.vocab_size)
    trainer = Trainer.start(config, options.out)
    print(f"{trainer.model.num_parameters():,} parameters, {trainer.data.num_tokens:,} tokens of source code")

    loss = 0.0
    for event in trainer.run():
        if isinstance(event, StepEvent) and event.step % 50 == 0:
            print(
                f"step {event.step}  loss {event.loss:.3f}  {event.tokens / event.seconds:,.0f} tokens "
                f"a second"
            )
        if isinstance(event, ValidationEvent):
            loss = event.val_loss
            print(
                f"step {event.step}  validation loss {loss:.3f} (tokens by frequency: "
                f"{trainer.data.unigram_entropy:.3f})"
            )

    print(options.prompt, end="")
    tokenizer = trainer.data.tokenizer
    end = tokenizer.special_tokens.get(BOUNDARY)  # of a file, where the corpus has several
    with backends.use(options.backend):
        for text in generate(
            trainer.model, tokenizer, options.prompt, tokens=options.tokens, temperature=0.8, stop_id=end
        ):
            print(text, end="", flush=True)
    print()
    return loss


if __name__ == "__main__":
    main()
