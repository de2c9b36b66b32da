"""What a training step launches and moves on a GPU, counted from its recording. Needs no GPU: nothing is
computed.

    python benchmarks/gpu_plan.py [--before FOLDER] [--kernels] [--dtype float32] [--attention batched]
        [--logit-rows 2048]

The step is recorded on the arena of tests/cuda_on_cpu, whose memory takes room only where it is written to,
so a GPT-2 of 124 million parameters fits. A launch is a kernel of ours, one of CuPy's, a product or an
attention; what cuBLASLt and cuDNN make of theirs is their affair, and counted as one. Bytes are those of the
arrays that a launch reads and writes, each once: what it must move at least. `--before` counts the same for
the code in another folder, with the recorder that is here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Preset, vocabulary and windows of a batch
WORK = {"baby": (65, 64), "gpt2-124m": (50257, 16)}
PHASES = ("forward", "backward", "optimizer")
H100_SHARED_MEMORY = 226 << 10
FILLS = ("memset", "fill")


def moved_bytes(piece: Any, parameters: int) -> float:
    """How many bytes a piece of recorded work moves at least."""
    sizes = [touched(x) for x in piece.arrays]
    if piece.name == "adamw":  # p, m and v are read and written, g is read; the table has their addresses
        low = 2 if len(piece.details[0].split(",")) == 1 and piece.details[0] != "float32" else 0
        return parameters * (7.0 * 4 + low)
    if piece.name == "squares":
        return parameters * 4.0
    if piece.name == "rescale_rows":  # which looks at the gradients of the losses, and then has nothing to do
        return sizes[1]
    if piece.name in ("add_rows", "join_rows"):  # rows of the total, not all of it
        total, values = piece.arrays[0], piece.arrays[1]
        rows = min(len(values), len(total)) if piece.name == "add_rows" else 0
        return sum(sizes[1:]) + 2.0 * rows * total.shape[1] * total.itemsize
    if piece.name == "take":
        return 2.0 * sizes[0] + sizes[2]
    if piece.name == "product":
        return sum(sizes) + (sizes[2] if piece.details else 0.0)  # which may be added to what is there
    twice = {"cross_entropy_both": 1, "add_bias": 1}.get(piece.name, 0)
    return float(sum(sizes) + sum(sizes[:twice]))


def touched(x: Any) -> float:
    """How many bytes an array takes up, with an element that stands in many places counted once."""
    size = float(getattr(x, "itemsize", 0))
    for count, step in zip(getattr(x, "shape", ()), getattr(x, "strides", ()), strict=True):
        size *= count if step else 1
    return size


def plan(preset: str, dtype: str, attention: str) -> dict[str, Any]:
    """Records a step of a preset and counts what is in it."""
    import numpy
    from cuda_on_cpu.backend import EmulatedBuffer
    from cuda_on_cpu.device import Device

    from tinygpt_accel.cuda_backend.kernels import flash_attention
    from tinygpt_core import Tensor, backends, random
    from tinygpt_core.dataset import Batch
    from tinygpt_core.kernels.precision import autocast
    from tinygpt_core.losses import CrossEntropyLoss
    from tinygpt_core.nn import GPT
    from tinygpt_core.optimizers import AdamW
    from tinygpt_core.training import PRESETS, as_tensors, training_step

    class Planned(EmulatedBuffer):
        """The emulation with a GPU's launches, which draws no numbers."""

        __slots__ = ()
        threads, blocks, ids_chunk, rows_piece = 256, 1 << 16, 1024, 64
        shared_memory = H100_SHARED_MEMORY

        @classmethod
        def _random_normal(cls, key: Any, shape: Any, dtype: Any, mean: float, std: float) -> Any:
            return cls.wrap(cls.xp.empty(shape, cls.dtypes[dtype]), dtype)

        _random_uniform = _random_normal

    def nothing(*arrays: Any) -> None:
        """Is never run."""

    def flash_forward(kind: Any, q: Any, k: Any, v: Any, *options: Any) -> Any:
        batch, heads, length, size = q.shape
        y = kind.xp.empty((batch, length, heads, size), q.dtype).transpose(0, 2, 1, 3)
        stats = kind.xp.empty((batch, heads, length, 1), "float32")
        Device.do("flash attention", nothing, (q, k, v, y, stats))
        return y, stats

    def flash_backward(kind: Any, q: Any, k: Any, v: Any, y: Any, g: Any, *options: Any) -> None:
        Device.do("flash attention's backward", nothing, (q, k, v, y, g, options[-2], *options[-1]))

    flash_attention.can = lambda kind, fmt, *rest: attention == "cudnn" and fmt in ("bfloat16", "float16")
    flash_attention.forward, flash_attention.backward = flash_forward, flash_backward
    backends.register("planned", lambda device: Planned, None, "", -1)
    vocabulary, batch_size = WORK[preset]
    config = replace(PRESETS[preset][1], dropout=0.0, batch_size=batch_size, accumulation=1)
    Device.is_dry = True
    ends: list[tuple[int, str]] = []

    def mark(phase: str) -> None:
        if Device.graph is not None:
            ends.append((len(Device.graph.work), phase))

    with backends.use("planned"):
        random.seed(0)
        model = GPT(config.model_config(vocabulary))
        criterion = CrossEntropyLoss()

        def total_loss(batch: Any) -> Tensor:
            inputs, targets = as_tensors(batch)
            with autocast(dtype):
                loss = criterion(logits=model(inputs), labels=targets).sum()
            mark("forward")
            return loss

        backward = Tensor.backward

        def marked(self: Tensor, *arguments: Any, **options: Any) -> None:
            backward(self, *arguments, **options)
            mark("backward")

        Tensor.backward = marked  # type: ignore[method-assign]
        step: Any = training_step(model, AdamW(model, 1e-3), total_loss, 1.0, dtype)
        length = config.context_length
        ids = array("i", numpy.arange(batch_size * length, dtype=numpy.int32) % vocabulary)
        batch = Batch(ids, ids, (batch_size, length))
        for _ in range(3):
            step([batch])
        Tensor.backward = backward  # type: ignore[method-assign]
        parameters = model.num_parameters()
    if step.recording is None:
        raise SystemExit(f"the step was not recorded: {step.reason}")
    work = step.recording.graph.work
    ends.append((len(work), "optimizer"))
    phases, start = {}, 0
    kernels: Counter[str] = Counter()
    of_kernels: Counter[str] = Counter()
    for end, phase in ends:
        part = work[start:end]
        start = end
        phases[phase] = {
            "launches": sum(piece.name not in FILLS for piece in part),
            "memsets": sum(piece.name in FILLS for piece in part),
            "MB": sum(moved_bytes(piece, parameters) for piece in part) / 1e6,
        }
        for piece in part:
            kernels[piece.name] += 1
            of_kernels[piece.name] += moved_bytes(piece, parameters)
    return {
        "preset": preset,
        "parameters": parameters,
        "tokens": batch_size * length,
        "phases": phases,
        "kernels": {name: [kernels[name], of_kernels[name] / 1e6] for name in kernels},
        "pool_MB": step.capture.pool.peak_bytes / 1e6,
    }


def table(plans: dict[str, dict[str, Any]]) -> Iterable[str]:
    """The counts of one preset for each state of the code, as Markdown."""
    first = next(iter(plans.values()))
    yield f"{first['preset']}: {first['parameters']:,} parameters, {first['tokens']:,} tokens a step"
    yield ""
    heads = " | ".join(f"{name}: launches | memsets | MB" for name in plans)
    yield f"| phase | {heads} |"
    yield "|---|" + "---|" * (3 * len(plans))
    for phase in (*PHASES, "whole step"):
        cells = []
        for found in plans.values():
            chosen = [found["phases"][phase]] if phase in PHASES else list(found["phases"].values())
            for count in ("launches", "memsets", "MB"):
                cells.append(f"{sum(part[count] for part in chosen):,.0f}")
        yield f"| {phase} | {' | '.join(cells)} |"
    held = ", ".join(f"{name} {found['pool_MB']:,.0f} MB" for name, found in plans.items())
    yield ""
    yield f"Memory of the recorded step, without weights: {held}"


def kernels_table(name: str, found: dict[str, Any]) -> Iterable[str]:
    """What is launched how often, the most bytes first."""
    yield f"| {name} | launches | MB |"
    yield "|---|---|---|"
    for kernel, (count, size) in sorted(found["kernels"].items(), key=lambda item: -item[1][1]):
        yield f"| {kernel} | {count} | {size:,.0f} |"


def main() -> int:
    """Counts, for the code here and for that of another folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--before", metavar="FOLDER", help="another checkout to count, too (default: none)")
    parser.add_argument("--kernels", action="store_true", help="also list what is launched (default: no)")
    parser.add_argument("--dtype", default="bfloat16", help="for products (default: %(default)s)")
    parser.add_argument(
        "--attention", default="cudnn", choices=("cudnn", "batched"), help="(default: %(default)s)"
    )
    parser.add_argument("--tree", default=str(ROOT), help=argparse.SUPPRESS)
    parser.add_argument("--preset", default="", help=argparse.SUPPRESS)
    parser.add_argument(
        "--logit-rows", type=int, default=0, help="in memory at a time (default: 0, which is all)"
    )
    options = parser.parse_args()
    if options.preset:
        sys.path[:0] = [options.tree, str(ROOT / "tests")]
        print(json.dumps(plan(options.preset, options.dtype, options.attention)))
        return 0
    trees = {"before": options.before} if options.before else {}
    trees["now"] = options.tree
    for preset in WORK:
        plans = {}
        for name, tree in trees.items():
            command = [sys.executable, __file__, "--preset", preset, "--tree", tree, "--dtype", options.dtype]
            done = subprocess.run(
                [*command, "--attention", options.attention],
                capture_output=True,
                text=True,
                cwd=tree,
                env={**os.environ, "TINYGPT_CUDA_LOGIT_ROWS": str(options.logit_rows)},
            )
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr.strip()[-2000:]}")
            plans[name] = json.loads(done.stdout.splitlines()[-1])
        print("\n".join(table(plans)), end="\n\n")
        if options.kernels:
            for name, found in plans.items():
                print("\n".join(kernels_table(f"{preset}, {name}", found)), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
