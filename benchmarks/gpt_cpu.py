"""A training step of a GPT on the CPU: tinygpt on its NumPy backend against PyTorch, eager and compiled, and
against the GEMMs alone.

    python benchmarks/gpt_cpu.py [--config both] [--compile] [--check]

Needs numpy and torch. float32, the same initial weights and the same batches on both sides; a step is
forward, backward, clipping to norm 1 and AdamW. Two sizes: nanoGPT's for a CPU, and its baby GPT with batch
8.

The sides take turns in processes of their own with a pause in between (see pairing.py). `--one-process` lets
them share one, `--pause 0` leaves out the pause. Processes are the default because they are the fairer:
neither library's pool of threads, allocator or loaded code can touch the other's, and each side's peak memory
is its own. Measured on two cores that others used too, the ratio of pairs repeated within 1 % with processes
and the pause, while three runs in one process gave ratios from 0.8 to 1.8.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from typing import Any

import pairing  # beside this file; puts the repository on sys.path
from training_sides import SIZES, Products, PyTorch, TinyGPT, WeightsFile, describe

LIMIT, AIM, TOLERANCE = 0.90, 0.80, 1e-3
OURS, EAGER, COMPILED, FLOOR = "tinygpt, numpy", "PyTorch eager", "torch.compile", "the GEMMs alone"
STEPS = {"nanogpt-cpu": 15, "baby": 2}  # counted in a turn, so that a turn takes about half a second or more


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns for each side its times, losses and memory."""
    config, threads = SIZES[name], arguments.threads
    make = pairing.Local if arguments.one_process else pairing.Worker
    result: dict[str, Any] = {"config": name, "sides": {}}
    with tempfile.TemporaryDirectory() as directory:
        weights = os.path.join(directory, "weights.safetensors")
        pairing.Worker(WeightsFile, config, weights).close()
        sides = {
            EAGER: make(PyTorch, config, weights, threads),
            OURS: make(TinyGPT, config, "numpy", weights),
        }
        if arguments.compile:
            try:
                sides[COMPILED] = make(PyTorch, config, weights, threads, True)
                sides[COMPILED].call("steps", 1)  # compiles
            except Exception as problem:  # there may be no compiler, or no support for this Python
                sides.pop(COMPILED).close() if COMPILED in sides else None
                result["compile_failed"] = str(problem).strip().splitlines()[-1]
        sides[FLOOR] = make(Products, config)
        try:
            turns = pairing.alternate(
                sides, arguments.turns, arguments.steps or STEPS[name], pause=arguments.pause
            )
            for side, worker in sides.items():
                seconds = [[step.seconds for step in turn] for turn in turns[side]]
                entry: dict[str, Any] = {
                    "seconds": seconds,
                    "values": [step.value for turn in turns[side] for step in turn],
                }
                entry["processor_seconds"] = [step.processor_seconds for turn in turns[side] for step in turn]
                if side != FLOOR and not arguments.one_process:
                    entry["peak_memory"], entry["memory_before"] = worker.call("memory")
                result["sides"][side] = entry
            if arguments.profile:
                result["profile"] = sides[OURS].call("profile", arguments.steps or STEPS[name])
        finally:
            for worker in sides.values():
                worker.close()
    eager = result["sides"][EAGER]
    for entry in result["sides"].values():
        entry["ratio"] = (
            pairing.quartiles(pairing.flat(entry["seconds"]))[1]
            / pairing.quartiles(pairing.flat(eager["seconds"]))[1]
        )
        entry["paired_ratio"] = pairing.paired_ratio(entry["seconds"], eager["seconds"])
        entry["fastest_ratio"] = min(pairing.flat(entry["seconds"])) / min(pairing.flat(eager["seconds"]))
    # The compiled side has made a step more, the one that compiled it, so its losses are not compared.
    result["loss_difference"] = max(
        abs(a - b) for a, b in zip(result["sides"][OURS]["values"], eager["values"], strict=True)
    )
    result["last_loss"] = eager["values"][-1]
    return result


def show(result: dict[str, Any], promises: pairing.Promises) -> None:
    """Prints one size's table and its promises."""
    name, sides = result["config"], result["sides"]
    print(f"## {name}: {describe(SIZES[name])}\n")
    rows = []
    for side, entry in sides.items():
        memory = ["", ""]
        if "peak_memory" in entry:
            memory = [
                f"{entry['peak_memory'] / 2**20:.0f}",
                f"{(entry['peak_memory'] - entry['memory_before']) / 2**20:.0f}",
            ]
        ratios = [f"{entry[kind]:.3f}" for kind in ("ratio", "paired_ratio", "fastest_ratio")]
        processor, _ = pairing.milliseconds(entry["processor_seconds"])
        rows.append(
            [side, *pairing.milliseconds(pairing.flat(entry["seconds"])), *ratios, processor, *memory]
        )
    if "compile_failed" in result:
        rows.append([COMPILED, "failed: " + result["compile_failed"].replace("|", "/"), *[""] * 7])
    header = [
        "side",
        "median ms a step",
        "quartiles",
        "ratio to eager",
        "of pairs",
        "of fastest steps",
        "processor ms",
        "peak MiB",
        "of it the model's",
    ]
    print(pairing.table(header, rows))
    floor = sides[FLOOR]
    rate = floor["values"][0] / pairing.quartiles(pairing.flat(floor["seconds"]))[1] / 1e9
    count, ours = len(sides[OURS]["values"]), sides[OURS]
    print(
        f"\nMedians of {count} steps in {len(ours['seconds'])} turns. The products do "
        f"{floor['values'][0] / 1e9:.1f} GFLOP at ",
        end="",
    )
    print(
        f"{rate:.0f} GFLOP/s; the step takes {ours['ratio'] / floor['ratio']:.2f} times as long as they do.\n"
    )
    text = f"{ours['paired_ratio']:.3f} of PyTorch eager's time (at most {LIMIT:.2f}, aiming at {AIM:.2f})"
    promises.say(ours["paired_ratio"] <= LIMIT, text)
    if COMPILED in sides:
        ratio = pairing.paired_ratio(ours["seconds"], sides[COMPILED]["seconds"])
        promises.say(ratio <= 1.0, f"{ratio:.3f} of torch.compile's time (at most 1)")
    difference = result["loss_difference"]
    promises.say(
        difference <= TOLERANCE,
        f"the losses differ by at most {difference:.1e} (limit {TOLERANCE:.0e}); the last: "
        f"{result['last_loss']:.3f}",
    )
    if name == "baby" and "peak_memory" in ours:
        ours_peak, peak = ours["peak_memory"] / 2**20, sides[EAGER]["peak_memory"] / 2**20
        promises.say(ours_peak <= peak, f"peak memory {ours_peak:.0f} MiB (PyTorch: {peak:.0f} MiB)")
    if "profile" in result:
        print(f"\n```text\n{result['profile']}\n```")
    print(flush=True)


def main() -> int:
    """Prints a Markdown table a size; returns 1 where --check finds a missed promise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", choices=[*SIZES, "both"], default="both", help="which size (default: both)"
    )
    parser.add_argument("--turns", type=int, default=8, help="turns of each side (default: 8)")
    steps = ", ".join(f"{name} {count}" for name, count in STEPS.items())
    parser.add_argument(
        "--steps", type=int, help=f"counted steps in a turn, after one that is not (default: {steps})"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of each library (default: 2)")
    parser.add_argument(
        "--compile", action="store_true", help="measure torch.compile too, which takes a minute to compile"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--processes", action="store_true", help="a process for each side (this is the default)")
    how.add_argument(
        "--one-process", action="store_true", help="both sides in this process; memory is then not measured"
    )
    text = f"seconds between turns, in which the other side's threads fall asleep (default: {pairing.PAUSE})"
    parser.add_argument("--pause", type=float, default=pairing.PAUSE, help=text)
    parser.add_argument("--profile", action="store_true", help="show where tinygpt's time goes, by cProfile")
    parser.add_argument("--json", metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a promise is missed")
    arguments = parser.parse_args()
    pairing.limit_threads(arguments.threads)
    promises = pairing.Promises()
    print(f"{pairing.machine('numpy', 'torch')}, {arguments.threads} threads each\n")
    results = []
    for name in SIZES if arguments.config == "both" else [arguments.config]:
        results.append(measure(name, arguments))
        show(results[-1], promises)
    pairing.write_json(arguments.json, results)
    return int(arguments.check and promises.missed)


if __name__ == "__main__":
    sys.exit(main())
