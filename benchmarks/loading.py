"""How fast, and in how much memory, a 124M-parameter GPT-2 checkpoint becomes a model: tinygpt on NumPy
beside PyTorch.

    python benchmarks/loading.py [--rounds N] [--layers N] [--dtype F32|F16|BF16]

Writes a file of random weights of GPT-2's shapes to a temporary directory, in float32 or in 16 bits, which
become float32 here, then loads it in fresh processes, by turns:

    tinygpt            load_pretrained(directory): config, model, and the weights
    torch, copied      load_state_dict(safetensors.torch.load_file(file)), into a model that is there already
    torch, assigned    the same with assign=True, into a model without storage: its shortest way

Reports the time to load, and to load and add up all weights (pages that are mapped cost nothing until they
are read; tinygpt maps none), the ratios of medians, and the memory after that: the highest resident size,
file pages included, less the size before loading, as a multiple of the size of the weights in float32.
PyTorch's model is built before the clock starts and before the size is taken; ours is built within. Exits
with 1 where tinygpt needs more than 1.3 times that size, or, of a file of float32, more time than PyTorch's
copying into a model.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
MEMORY_LIMIT, TIME_LIMIT = 1.3, 1.0
WAYS = {"tinygpt": "tinygpt", "copied": "torch, copied", "assigned": "torch, assigned"}


def write_checkpoint(directory: Path, layers: int, dtype: str, width: int = 768) -> int:
    """Writes GPT-2's shapes with random numbers; returns their size in float32."""
    import numpy
    import torch
    from safetensors.torch import save_file

    generator = numpy.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (50257, width), "wpe.weight": (1024, width)}
    for i in range(layers):
        for name, shape in {
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, 4 * width),
            "mlp.c_proj": (4 * width, width),
        }.items():
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[1:]}
        shapes |= {
            f"h.{i}.{name}.{leaf}": (width,) for name in ("ln_1", "ln_2") for leaf in ("weight", "bias")
        }
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    tensors = {
        name: torch.from_numpy(generator.standard_normal(shape, numpy.float32) * numpy.float32(0.02)).to(kind)
        for name, shape in shapes.items()
    }
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    config = {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": width,
        "n_layer": layers,
        "n_head": width // 64,
    }
    (directory / "config.json").write_text(json.dumps(config))
    return 4 * sum(math.prod(shape) for shape in shapes.values())


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


# ---------------------------------------------------------------- in a process of its own


def torch_model(layers: int) -> Any:
    """A torch Module with GPT-2's parameters under the names of the file, not initialised: building it costs
    nothing of what is timed.
    """
    import torch
    from torch import nn

    class Weights(nn.Module):
        def __init__(self, **shapes: tuple[int, ...]) -> None:
            super().__init__()
            for name, shape in shapes.items():
                setattr(self, name, nn.Parameter(torch.empty(shape)))

    def linear(inputs: int, outputs: int) -> Weights:
        return Weights(weight=(inputs, outputs), bias=(outputs,))

    def norm() -> Weights:
        return Weights(weight=(768,), bias=(768,))

    def block() -> nn.Module:
        attention = nn.ModuleDict({"c_attn": linear(768, 3 * 768), "c_proj": linear(768, 768)})
        mlp = nn.ModuleDict({"c_fc": linear(768, 4 * 768), "c_proj": linear(4 * 768, 768)})
        return nn.ModuleDict({"ln_1": norm(), "attn": attention, "ln_2": norm(), "mlp": mlp})

    model: dict[str, nn.Module] = {"wte": Weights(weight=(50257, 768)), "wpe": Weights(weight=(1024, 768))}
    return nn.ModuleDict({**model, "h": nn.ModuleList(block() for _ in range(layers)), "ln_f": norm()})


def prepare(way: str, directory: Path, layers: int) -> tuple[Callable[[], Any], Callable[[Any], float]]:
    """Imports what a way needs; returns how to load a model, and how to read every weight of it once (their
    sum).
    """
    if way == "tinygpt":
        from tinygpt_core import backends
        from tinygpt_core.formats import load_pretrained

        backends.use("numpy").__enter__()
        return lambda: load_pretrained(directory), lambda model: sum(
            p.buffer.sum().item() for _, p in model.named_parameters()
        )
    import torch
    from safetensors.torch import load_file

    with torch.device("meta" if way == "assigned" else "cpu"):
        built = torch_model(layers)

    def load() -> Any:
        built.load_state_dict(load_file(directory / "model.safetensors"), assign=way == "assigned")
        return built

    def read(model: Any) -> float:
        torch.set_num_threads(1)  # as NumPy adds up
        return sum(p.detach().sum().item() for p in model.parameters())

    return load, read


def child(way: str, directory: Path, layers: int) -> None:
    """Loads once and prints the measurements as JSON."""
    load, read = prepare(way, directory, layers)
    before = resident("VmRSS")
    start = time.perf_counter()
    model = load()
    loaded = time.perf_counter()
    total = read(model)
    done = time.perf_counter()
    print(
        json.dumps(
            {
                "load": loaded - start,
                "total": done - start,
                "memory": resident("VmHWM") - before,
                "sum": total,
            }
        )
    )


# ---------------------------------------------------------------- side by side


def main() -> int:
    """Prints the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="times each way is measured (default: 5)")
    parser.add_argument(
        "--layers", type=int, default=12, help="layers of the model; 12 make GPT-2 small (default: 12)"
    )
    parser.add_argument("--dtype", choices=("F32", "F16", "BF16"), default="F32", help="of the file")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "DIR"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]), arguments.layers)
        return 0
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        size = write_checkpoint(directory, arguments.layers, arguments.dtype)
        print(
            f"{arguments.dtype} weights, {size:,} bytes in float32; {arguments.rounds} rounds in fresh "
            f"processes, {os.cpu_count()} cores"
        )
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, "--layers", str(arguments.layers), "--child", way, name]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                runs[way].append(json.loads(done.stdout))
    sums = [run["sum"] for measured in runs.values() for run in measured]
    # Of 124 million numbers of size 0.02, whose sum has a standard deviation of 223
    if max(sums) - min(sums) > 1.0:
        print(
            f"the weights that were loaded have different sums: {min(sums)} to {max(sums)}", file=sys.stderr
        )
        return 1
    print("| | load | load and read every weight | memory |\n|---|---|---|---|")
    median = {
        way: {key: statistics.median(run[key] for run in measured) for key in ("load", "total", "memory")}
        for way, measured in runs.items()
    }
    for way, m in median.items():
        print(
            f"| {WAYS[way]} | {m['load'] * 1e3:,.1f} ms | {m['total'] * 1e3:,.0f} ms | "
            f"{m['memory'] / size:.2f} of float32 |"
        )
    ours, memory = median["tinygpt"], max(run["memory"] for run in runs["tinygpt"]) / size
    for way in ("copied", "assigned"):
        ratios = (
            f"{ours[key] / median[way][key]:.3f} {what}"
            for key, what in (("load", "to load"), ("total", "with reading"))
        )
        print(f"time of tinygpt / {WAYS[way]}: {', '.join(ratios)}")
    print(f"memory of tinygpt: at most {memory:.2f} of the weights in float32 (limit {MEMORY_LIMIT})")
    is_fast = arguments.dtype != "F32" or all(
        ours[key] < TIME_LIMIT * median["copied"][key] for key in ("load", "total")
    )
    return 0 if memory <= MEMORY_LIMIT and is_fast else 1


if __name__ == "__main__":
    sys.exit(main())
