"""Two processes against one: tokens a second in pure Python and on NumPy, and against PyTorch's
DistributedDataParallel with gloo; what share of a step is communication, and what a divided optimizer saves.

    python benchmarks/parallel.py [--turns 5] [--check]

Needs mpi4py and an mpiexec (`pip install mpi4py mpich`), NumPy, and PyTorch for its part. Each side is a run
of its own, of the same model on the same text: `mpiexec -n 2 …` for two processes, each with one thread; one
process with as many threads as there are cores for NumPy. A side's turn is followed by the other's, so that a
machine that slows down slows both. A step is forward, backward, clipping and AdamW, through `Trainer`, of one
batch of the preset's size, whoever computes it: two processes have half a batch each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from statistics import median
from typing import Any

import pairing  # beside this file; puts the repository on sys.path

from tinygpt_core import random
from tinygpt_core.training import PRESETS, Trainer, TrainingConfig
from tinygpt_core.training.communicator import connect

SIZES: dict[str, TrainingConfig] = {
    "python": replace(PRESETS["text"].config, backend="python"),
    "numpy": replace(PRESETS["nanogpt-cpu"].config, backend="numpy"),
}
KINDS = 65  # of characters in the text, as in tinyshakespeare
WARM_UP = 4  # steps before those that are counted
PYTHON_LIMIT, DDP_LIMIT = 1.85, 0.9


# ---------------------------------------------------------------- a side, in a process of its own


def train(config: TrainingConfig, seconds: float, shard_optimizer: bool) -> dict[str, Any] | None:
    """Returns what steps of `Trainer` took, for about as long, on the first process."""
    communicator = connect(backend=config.backend)
    with tempfile.TemporaryDirectory() as directory:
        config = replace(config, steps=10**6, shards=communicator.size, eval_batches=1)
        trainer = Trainer.start(
            config, os.path.join(directory, "run"), communicator=communicator, shard_optimizer=shard_optimizer
        )
        update: Any = trainer.update
        times: list[float] = []
        waited: list[float] = []
        tokens = 0
        for number in range(10**6):
            if communicator.any(number >= WARM_UP + 3 and sum(times) > seconds):
                break
            before = getattr(update, "seconds", 0.0)
            started = time.perf_counter()
            event = trainer.train_step()
            if number >= WARM_UP:
                times.append(time.perf_counter() - started)
                waited.append(getattr(update, "seconds", 0.0) - before)
            tokens = event.tokens
        moments = sum(
            value.buffer.numel * value.dtype.itemsize
            for slots in trainer.optimizer.state.values()
            for value in slots.values()
        )
        communicator.close()
        if not communicator.is_first:
            return None
        return {
            "seconds": times,
            "communication": waited,
            "tokens": tokens,
            "moments": moments,
            "parameters": trainer.model.num_parameters(),
            "bytes_sent": getattr(update, "bytes_sent", 0) / max(1, trainer.step),
            "where": communicator.describe(),
        }


def train_pytorch(config: TrainingConfig, seconds: float) -> dict[str, Any] | None:
    """Returns the same of PyTorch's DistributedDataParallel with gloo, of which this is one process."""
    import pytorch_gpt
    import torch
    from training_sides import VOCABULARY, batches

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    size, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    torch.manual_seed(0)
    model = pytorch_gpt.GPT(config.model_config(VOCABULARY))
    optimizer = pytorch_gpt.adamw(model, config)

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: Any, targets: Any) -> Any:
            return self.model.loss(inputs, targets)

    loss_of = torch.nn.parallel.DistributedDataParallel(Loss())
    drawn = batches(replace(config, batch_size=config.batch_size // size, seed=config.seed + rank))
    times: list[float] = []
    tokens = 0
    for number in range(10**6):
        ends = torch.tensor([number >= WARM_UP + 3 and sum(times) > seconds], dtype=torch.int32)
        torch.distributed.broadcast(ends, 0)
        if ends.item():
            break
        started = time.perf_counter()
        batch = next(drawn)
        inputs, targets = (
            torch.frombuffer(ids, dtype=torch.int32).long().view(batch.shape)
            for ids in (batch.inputs, batch.targets)
        )
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        loss.item()
        if number >= WARM_UP:
            times.append(time.perf_counter() - started)
        tokens = batch.num_targets * size
    torch.distributed.destroy_process_group()
    return {"seconds": times, "tokens": tokens} if rank == 0 else None


# ---------------------------------------------------------------- sides, taking turns


def mpiexec() -> str:
    """Returns the mpiexec that came with mpi4py's MPI, or the system's."""
    found = shutil.which("mpiexec", path=sysconfig.get_path("scripts")) or shutil.which("mpiexec")
    if found is None or find_spec("mpi4py") is None:
        sys.exit("this needs mpi4py and an mpiexec: pip install mpi4py mpich")
    return found


def turn(side: str, processes: int, threads: int, text: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs a side once."""
    own = [sys.executable, __file__, "--side", side, "--text", text, "--seconds", str(arguments.seconds)]
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TINYGPT_THREADS"):
        environment[name] = str(threads)
    if side == "ddp":
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29500 + os.getpid() % 2000)}
        environment |= {"WORLD_SIZE": str(processes)}
        started = [
            subprocess.Popen(own, env=environment | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
            for rank in range(processes)
        ]
        said = next(process.communicate(timeout=600)[0] for process in started)
    else:
        command = own if processes == 1 else [mpiexec(), "-n", str(processes), *own]
        said = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, timeout=600, check=True
        ).stdout
    return json.loads(said.strip().splitlines()[-1])


def random_text() -> str:
    """Returns a text of as many kinds of characters as tinyshakespeare has."""
    letters = [chr(ord("0") + number) for number in range(KINDS - 1)] + ["\n"]
    words = random.words(random.Generator(1).reserve(60000), 60000)
    return "".join(letters[word % KINDS] for word in words)


def alone_beside_another(side: str, text: str, arguments: argparse.Namespace) -> list[float]:
    """Returns the step times of a process that knows no other, while another one does the same."""
    with ThreadPoolExecutor(2) as pool:
        turns = [pool.submit(turn, side, 1, 1, text, arguments) for _ in range(2)]
        return [second for each in turns for second in each.result()["seconds"]]


def measure(arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Returns what each side's turns gave."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sides = {
        "python, 1 process": ("python", 1, 1),
        "python, 2 processes": ("python", 2, 1),
        "python, 2 processes, divided optimizer": ("python-divided", 2, 1),
        f"numpy, 1 process, {cores} threads": ("numpy", 1, cores),
        "numpy, 2 processes": ("numpy", 2, 1),
        "numpy, 2 processes, divided optimizer": ("numpy-divided", 2, 1),
        "PyTorch DDP, 2 processes": ("ddp", 2, 1),
    }
    if arguments.only:
        sides = {name: side for name, side in sides.items() if side[0] in arguments.only}
    if find_spec("torch") is None:
        sides.pop("PyTorch DDP, 2 processes", None)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(random_text())
        file.flush()
        for _ in range(arguments.turns):
            for name, (side, processes, threads) in sides.items():
                found[name].append(turn(side, processes, threads, file.name, arguments))
    return found


def step_time(turns: list[dict[str, Any]]) -> float:
    """Returns the median time of a step, in seconds."""
    return median(second for each in turns for second in each["seconds"])


def of_pairs(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    """Returns the median over the turns of our median step time by theirs."""
    return median(median(a["seconds"]) / median(b["seconds"]) for a, b in zip(ours, theirs, strict=True))


def show(found: dict[str, list[dict[str, Any]]], promises: pairing.Promises) -> None:
    """Prints the table, and which promises were kept."""
    rows = []
    for name, turns in found.items():
        seconds = step_time(turns)
        share = ""
        if "2 processes" in name and "communication" in turns[0]:
            share = (
                f"{sum(sum(t['communication']) for t in turns) / sum(sum(t['seconds']) for t in turns):.1%}"
            )
        memory = f"{turns[0]['moments'] / 1e6:.2f}" if "moments" in turns[0] else ""
        sent = f"{turns[0]['bytes_sent'] / 1e6:.2f}" if turns[0].get("bytes_sent") else ""
        tokens = f"{turns[0]['tokens'] / seconds:,.0f}"
        rows.append([name, f"{1e3 * seconds:.1f}", tokens, share, sent, memory])
    header = [
        "side",
        "median ms a step",
        "tokens/s",
        "communication",
        "MB sent a step",
        "MB of moments a process",
    ]
    print(pairing.table(header, rows))
    print()
    names = list(found)

    def side(begin: str) -> list[dict[str, Any]] | None:
        return next((found[name] for name in names if name.startswith(begin)), None)

    if one := side("python, 1"):
        for name in names:
            if name.startswith("python, 2"):
                speed = 1 / of_pairs(found[name], one)
                promises.say(
                    speed >= PYTHON_LIMIT,
                    f"{name}: {speed:.2f} times the tokens/s of 1 process (at least {PYTHON_LIMIT})",
                )
    two = found.get("numpy, 2 processes")
    if two and (one := side("numpy, 1")):
        ratio = of_pairs(two, one)
        promises.say(
            ratio <= 1.0, f"NumPy: 2 processes take {ratio:.3f} of the time of 1 with all cores (at most 1)"
        )
    if two and (ddp := side("PyTorch")):
        ratio = of_pairs(two, ddp)
        promises.say(
            ratio <= DDP_LIMIT, f"NumPy: 2 processes take {ratio:.3f} of DDP's time (at most {DDP_LIMIT})"
        )
    if two and (divided := found.get("numpy, 2 processes, divided optimizer")):
        share = divided[0]["moments"] / two[0]["moments"]
        promises.say(
            share <= 0.52, f"a divided optimizer takes {share:.3f} of its memory at 2 (about a half)"
        )


def main() -> int:
    """Measures, and prints the tables; returns 1 where --check finds a missed promise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5, help="of each side")
    parser.add_argument("--seconds", type=float, default=3.0, help="of counted steps in a turn")
    parser.add_argument("--only", nargs="*", help="sides: python, python-divided, numpy, numpy-divided, ddp")
    parser.add_argument("--json", metavar="FILE", help="write every figure")
    parser.add_argument("--check", action="store_true", help="a promise that is not kept is an error")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--text", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        result = None
        if arguments.side == "ddp":
            result = train_pytorch(SIZES["numpy"], arguments.seconds)
        else:
            kind, _, how = arguments.side.partition("-")
            config = replace(SIZES[kind], corpus="text", data_file=os.path.abspath(arguments.text))
            if how == "half":
                config = replace(config, batch_size=config.batch_size // 2)
            result = train(config, arguments.seconds, how == "divided")
        if result is not None:
            print(json.dumps(result))
        return 0
    found = measure(arguments)
    promises = pairing.Promises()
    print(f"# Two processes against one\n\n{pairing.machine('numpy', 'mpi4py')}\n")
    show(found, promises)
    pairing.write_json(arguments.json, found)
    return int(arguments.check and promises.missed)


if __name__ == "__main__":
    sys.exit(main())
