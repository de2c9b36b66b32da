"""nanoGPT's README run on a CPU: 2,000 steps on tinyshakespeare by characters, by tinygpt and by PyTorch.

    python benchmarks/shakespeare_cpu.py --data tinyshakespeare.txt [--check]
                                        [--picture docs/pictures/shakespeare_cpu.svg]

Needs numpy and torch, and matplotlib for the picture; half a minute for each 250 steps of each side.
tinygpt's side is `Trainer` with the preset `nanogpt-cpu`, so its figure is what `tinygpt train shakespeare
--preset nanogpt-cpu --backend numpy` gives: 4 layers, 4 heads, 128 wide, length 64, batch 12, AdamW with
betas 0.9 and 0.99, decay 0.1 of matrices, learning rate 2e-3 falling to 1e-4 along a cosine after 100 steps
of warm-up (nanoGPT's 1e-3 gives 1.90), no dropout, clipping to norm 1. The first 90 % of the text are trained
on.

PyTorch begins from the same weights and sees the same batches, which it finds ready as tensors: drawing them
counts for tinygpt only. So does writing a checkpoint every 250 steps. Both sides validate on the same few
batches every 250 steps within their time. The sides take turns of 250 steps in processes of their own (see
pairing.py); the wall time of a side is the sum of its turns.

The validation loss that is promised is over the whole validation part: all its windows of 64 characters that
do not overlap, 1,742 of them, which is less noisy than the 20 random batches that nanoGPT's README run takes,
and the same on both sides.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pairing  # beside this file; puts the repository on sys.path
from training_sides import EVERYTHING, add_shakespeare, describe, shakespeare

from tinygpt_core import backends, schedules, training
from tinygpt_core.dataset import Batch
from tinygpt_core.files.safetensors import load_safetensors

LIMIT = 1.88
OURS, EAGER = "tinygpt, numpy", "PyTorch eager"


class Turn(NamedTuple):
    """What a side did between two validations."""

    seconds: float
    losses: list[float]
    validation_loss: float


def whole_validation(config: training.TrainingConfig) -> list[Batch]:
    """Returns the whole validation part in batches."""
    return training.prepare_data(replace(config, eval_batches=EVERYTHING)).validation_batches


class TinyGPT:
    """The library's own training loop."""

    def __init__(self, config: training.TrainingConfig, directory: str) -> None:
        self.trainer = training.Trainer.start(config, directory)
        self.events = self.trainer.run()

    def turn(self) -> Turn:
        """Trains up to the next checkpoint."""
        start, losses, validation_loss = time.perf_counter(), [], float("nan")
        for event in self.events:
            if isinstance(event, training.StepEvent):
                losses.append(event.loss)
            elif isinstance(event, training.ValidationEvent):
                validation_loss = event.val_loss
            else:
                break
        return Turn(time.perf_counter() - start, losses, validation_loss)

    def final_loss(self) -> float:
        """Returns the loss over the whole validation part."""
        self.trainer.data = self.trainer.data._replace(
            validation_batches=whole_validation(self.trainer.config)
        )
        with backends.use(self.trainer.config.backend):
            return self.trainer.validate()


class PyTorch:
    """The same run by a plain PyTorch loop."""

    def __init__(self, config: training.TrainingConfig, weights: str, threads: int) -> None:
        import pytorch_gpt
        import torch

        self.torch, self.config, self.step = torch, config, 0
        torch.set_num_threads(threads)
        self.data = training.prepare_data(config)
        self.model = pytorch_gpt.GPT(config.model_config(self.data.tokenizer.vocab_size))
        with backends.use("python"):
            self.model.load_tinygpt(load_safetensors(weights))
        self.optimizer = pytorch_gpt.adamw(self.model, config)
        self.schedule = schedules.cosine_with_warmup(
            config.learning_rate,
            total_steps=config.steps,
            warmup_steps=min(config.warmup_steps, config.steps - 1),
            minimum=config.minimum_learning_rate,
        )
        self.validation = [self.tensors(batch) for batch in self.data.validation_batches]

    def tensors(self, batch: Batch) -> Any:
        """Returns a batch as tensors."""
        return tuple(
            self.torch.frombuffer(ids, dtype=self.torch.int32).long().view(batch.shape)
            for ids in (batch.inputs, batch.targets)
        )

    def turn(self) -> Turn:
        """Trains up to the next validation, and validates."""
        count = min(self.config.eval_every, self.config.steps - self.step)
        batches = [self.tensors(self.data.training_batches.next_batch()) for _ in range(count)]
        start, losses = time.perf_counter(), []
        for inputs, targets in batches:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.model.loss(inputs, targets)
            loss.backward()
            self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule(self.step)
            self.optimizer.step()
            self.step += 1
            losses.append(loss.item())
        validation_loss = self.loss_over(self.validation)
        return Turn(time.perf_counter() - start, losses, validation_loss)

    def loss_over(self, batches: Any) -> float:
        """Returns the mean loss a token over batches."""
        with self.torch.inference_mode():
            parts = [
                (self.model.loss(inputs, targets).item() * targets.numel(), targets.numel())
                for inputs, targets in batches
            ]
        return sum(total for total, _ in parts) / sum(count for _, count in parts)

    def final_loss(self) -> float:
        """Returns the loss over the whole validation part."""
        return self.loss_over([self.tensors(batch) for batch in whole_validation(self.config)])


def run(config: training.TrainingConfig, threads: int) -> dict[str, Any]:
    """Runs both sides in turn; returns their turns and final losses."""
    turns: dict[str, list[Turn]] = {OURS: [], EAGER: []}
    with tempfile.TemporaryDirectory() as directory:
        ours = pairing.Worker(TinyGPT, config, os.path.join(directory, "run"))
        weights = os.path.join(directory, "weights.safetensors")
        shutil.copy(os.path.join(directory, "run", "model.safetensors"), weights)  # as they are after 0 steps
        sides = {OURS: ours, EAGER: pairing.Worker(PyTorch, config, weights, threads)}
        try:
            for number in range(-(-config.steps // config.eval_every)):
                for name, side in sides.items():
                    time.sleep(pairing.PAUSE)
                    turns[name].append(Turn(*side.call("turn")))
                report = ", ".join(
                    f"{name} {turns[name][-1].seconds:.1f} s, loss {turns[name][-1].validation_loss:.3f}"
                    for name in sides
                )
                print(
                    f"{min(config.steps, (number + 1) * config.eval_every)} steps: {report}",
                    file=sys.stderr,
                    flush=True,
                )
            final = {name: side.call("final_loss") for name, side in sides.items()}
        finally:
            for side in sides.values():
                side.close()
    return {"turns": turns, "final": final}


def draw(turns: dict[str, list[Turn]], path: Path, bin_size: int = 25) -> None:
    """Draws the losses of both sides against steps and against wall time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (by_step, by_time) = pyplot.subplots(1, 2, figsize=(9.5, 3.6), sharey=True)
    for (name, side), color, style in zip(turns.items(), ("#1f5fa8", "#c8641e"), ("-", "--"), strict=True):
        losses, clock, elapsed = [], [], 0.0
        for turn in side:
            losses += turn.losses
            clock += [elapsed + turn.seconds * (i + 1) / len(turn.losses) for i in range(len(turn.losses))]
            elapsed += turn.seconds
        bins = [slice(start, start + bin_size) for start in range(0, len(losses), bin_size)]
        means = [sum(losses[part]) / len(losses[part]) for part in bins]
        ends = [min(part.stop, len(losses)) for part in bins]
        validated = [len(turn.losses) * (number + 1) for number, turn in enumerate(side)]
        for panel, x, at in (
            (by_step, ends, validated),
            (
                by_time,
                [clock[end - 1] for end in ends],
                [clock[min(step, len(clock)) - 1] for step in validated],
            ),
        ):
            panel.plot(x, means, style, color=color, linewidth=1.2, label=f"{name}, training")
            panel.plot(
                at,
                [turn.validation_loss for turn in side],
                "o",
                color=color,
                markersize=4,
                label=f"{name}, validation",
            )
            panel.grid(True, color="#dddddd", linewidth=0.6)
    by_step.set_xlabel("step")
    by_time.set_xlabel("seconds of wall time")
    by_step.set_ylabel(f"loss, nats a character (means of {bin_size} steps)")
    by_step.legend(fontsize=8, frameon=False)
    pairing.save_picture(figure, path)


def main() -> int:
    """Prints a Markdown table; returns 1 where --check finds a missed promise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_shakespeare(parser)
    parser.add_argument(
        "--steps", type=int, help="updates; the promises are about all of them (default: the preset's 2,000)"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of each library (default: 2)")
    parser.add_argument(
        "--picture", metavar="FILE", help="draw the loss curves to FILE, an SVG (default: no picture)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a promise is missed")
    arguments = parser.parse_args()
    pairing.limit_threads(arguments.threads)
    config = shakespeare(arguments.data)
    if arguments.steps:
        every = min(config.eval_every, arguments.steps)
        config = replace(config, steps=arguments.steps, eval_every=every, checkpoint_every=every)
    machine = pairing.machine("numpy", "torch")  # before the load is our own
    result = run(config, arguments.threads)
    turns, final = result["turns"], result["final"]
    seconds = {name: sum(turn.seconds for turn in side) for name, side in turns.items()}
    paired = pairing.paired_ratio(
        [[turn.seconds] for turn in turns[OURS]], [[turn.seconds] for turn in turns[EAGER]]
    )
    print(f"{machine}, {arguments.threads} threads each\n{config.steps} steps of {describe(config)}\n")
    rows = [
        [
            name,
            f"{final[name]:.4f}",
            f"{seconds[name]:.0f} s",
            f"{1e3 * seconds[name] / config.steps:.1f}",
            f"{seconds[name] / seconds[EAGER]:.3f}",
        ]
        for name in turns
    ]
    print(
        pairing.table(["side", "validation loss", "wall time", "ms a step, all told", "ratio to eager"], rows)
        + "\n"
    )
    promises = pairing.Promises()
    promises.say(
        final[OURS] <= LIMIT,
        f"validation loss {final[OURS]:.4f} after {config.steps} steps (at most {LIMIT}; PyTorch's: "
        f"{final[EAGER]:.4f})",
    )
    promises.say(
        seconds[OURS] < seconds[EAGER],
        f"{seconds[OURS] / seconds[EAGER]:.3f} of PyTorch's wall time, median of turns {paired:.3f} "
        f"(below 1)",
    )
    if arguments.picture:
        draw(turns, Path(arguments.picture))
        print(f"\nThe picture is in {arguments.picture}.")
    pairing.write_json(arguments.json, {"seconds": seconds, "final": final, "turns": turns})
    return int(arguments.check and promises.missed)


if __name__ == "__main__":
    sys.exit(main())
