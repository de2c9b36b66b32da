"""Sampling from a model that does not fit the processor's cache, with weights in float32, bfloat16 and int8:
tokens/s and memory of tinygpt on NumPy beside PyTorch, eager, in float32 and bfloat16.

    python benchmarks/quantized.py [--size small|medium|large] [--tokens 32] [--memory] [--check]

Needs the extra `bench`. Writes a GPT-2 of random weights to a temporary directory, in float32 and in
bfloat16, and reads it in a process a side: tinygpt by `load_pretrained(directory, dtype=...)`, PyTorch by
`safetensors.torch.load_file`. Then the sides take turns to continue a prompt, greedily, with a cache of keys
and values, one text at a time; what drawing from the logits takes is in it. Memory is the most that was
resident while a side loaded and sampled, pages of mapped files included, less what was before.

The checks: in float32 both libraries draw the same ids; bfloat16 weights draw the ids of a float32 model that
was made of them; int8 takes at most 0.35 of the size in float32, bfloat16 0.6, float32 1.3.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import loading  # beside this file, as are the next
import pairing

from tinygpt_core import backends
from tinygpt_core.generation import generate_ids

SIZES = {"tiny": (2, 64), "small": (12, 768), "medium": (24, 1024), "large": (36, 1280)}  # layers, width
PROMPT = [1, 2, 3, 5, 8, 13, 21, 34, 55]
OURS = {name: f"tinygpt, {name}" for name in ("float32", "bfloat16", "int8")}
THEIRS = {"float32": "PyTorch eager, float32", "bfloat16": "PyTorch eager, bfloat16"}
MOST = {"float32": 1.3, "bfloat16": 0.6, "int8": 0.35}  # of the size in float32


class Sampler:
    """A side: loads when it is made, and continues the prompt when it is asked."""

    def __init__(self) -> None:
        self.before = pairing.present_memory()  # with what the libraries take when they first compute

    def text(self, tokens: int) -> tuple[float, list[int]]:
        """Returns how many seconds a text took, and its ids."""
        start = time.perf_counter()
        ids = list(self.generate(PROMPT, tokens))
        return time.perf_counter() - start, ids

    def first_token(self, length: int) -> float:
        """Returns the seconds until the first token after a prompt of some length."""
        start = time.perf_counter()
        list(self.generate([7 * i % 97 for i in range(length)], 1))
        return time.perf_counter() - start

    def memory(self) -> int:
        """Returns the most bytes that were resident, less those before the model was loaded."""
        return pairing.peak_memory() - self.before

    def generate(self, prompt: list[int], tokens: int) -> Any:
        """Returns an iterator over ids, drawn greedily."""
        raise NotImplementedError


class TinyGPT(Sampler):
    """tinygpt on NumPy."""

    def __init__(self, directory: Path, dtype: str) -> None:
        from tinygpt_core.formats import load_pretrained
        from tinygpt_core.nn import GPT, GPTConfig
        from tinygpt_core.nn.quantized import quantize

        backends.use("numpy")
        warm_up = GPT(GPTConfig(97, 64, 1, 1, 64))
        self.model = warm_up if dtype == "float32" else quantize(warm_up, dtype)
        self.first_token(32), self.text(2)
        super().__init__()
        self.model = load_pretrained(directory, dtype=dtype)

    def generate(self, prompt: list[int], tokens: int) -> Any:
        """Yields the ids that are drawn, one after the other."""
        return generate_ids(self.model, prompt, tokens=tokens, temperature=0.0)


class PyTorch(Sampler):
    """PyTorch on the CPU, in the dtype of the file."""

    def __init__(self, directory: Path, threads: int, layers: int, width: int) -> None:
        import pytorch_gpt
        import torch
        from safetensors.torch import load_file

        from tinygpt_core.nn import GPTConfig

        torch.set_num_threads(threads)
        self.model = pytorch_gpt.GPT(GPTConfig(97, 64, 1, 1, 64)).eval()
        self.first_token(32), self.text(2)
        super().__init__()
        with torch.device("meta"):
            model = pytorch_gpt.GPT(GPTConfig(50257, 1024, layers, width // 64, width)).eval()
        tensors = load_file(directory / "model.safetensors")
        names = {"tokens": "wte", "positions": "wpe", "layer_norm": "ln_f"}
        parts = {"attn.query_key_value": "attn.c_attn", "attn.out": "attn.c_proj"}
        parts |= {"expand": "mlp.c_fc", "contract": "mlp.c_proj", "ln_1": "ln_1", "ln_2": "ln_2"}
        for i in range(layers):
            names |= {f"blocks.{i}.{ours}": f"h.{i}.{theirs}" for ours, theirs in parts.items()}
        for ours, theirs in names.items():
            module = model.get_submodule(ours)
            for leaf, _ in list(module.named_parameters()):
                tensor = tensors.pop(f"{theirs}.{leaf}")
                if isinstance(module, torch.nn.Linear) and leaf == "weight":
                    tensor = tensor.T.contiguous()
                setattr(module, leaf, torch.nn.Parameter(tensor, requires_grad=False))
        torch.set_default_dtype(model.tokens.weight.dtype)  # of the cache, too
        self.model = model

    def generate(self, prompt: list[int], tokens: int) -> Any:
        """Yields the ids that are drawn, one after the other."""
        return self.model.generate_cached(prompt, tokens, 0.0)


class Rounded:
    """A checkpoint in float32 whose numbers are those of one in bfloat16, and the ids that it draws."""

    def __init__(self, directory: Path) -> None:
        backends.use("numpy")
        self.directory = directory

    def ids(self, tokens: int) -> list[int]:
        """Returns the ids that follow the prompt."""
        from tinygpt_core.formats import load_pretrained

        model = load_pretrained(self.directory)  # which widens them
        return list(generate_ids(model, PROMPT, tokens=tokens, temperature=0.0))


def print_memory(folder: Path, size: int) -> int:
    """Prints what tinygpt takes in each dtype, a process each; returns 1 where it is too much."""
    promises = pairing.Promises()
    for dtype, most in MOST.items():
        side = pairing.Worker(TinyGPT, folder, dtype)
        side.call("text", 2)
        taken = side.call("memory") / size
        side.close()
        promises.say(taken <= most, f"{dtype} takes {taken:.2f} of the size in float32 (at most {most})")
    return int(promises.missed)


def main() -> int:
    """Prints a Markdown table; returns 1 where --check finds a missed promise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", choices=list(SIZES), default="small", help="of GPT-2's; small has 124M (default: small)"
    )
    parser.add_argument("--tokens", type=int, default=32, help="tokens in a text (default: 32)")
    parser.add_argument("--turns", type=int, default=5, help="texts of each side (default: 5)")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the long prompt (default: 256)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each library (default: 2)")
    parser.add_argument(
        "--memory", action="store_true", help="look only at the memory of tinygpt, reading bfloat16"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a promise is missed")
    arguments = parser.parse_args()
    pairing.limit_threads(arguments.threads)
    layers, width = SIZES[arguments.size]
    tokens, threads = arguments.tokens, arguments.threads
    with tempfile.TemporaryDirectory() as name:
        if arguments.memory:
            size = loading.write_checkpoint(Path(name), layers, "BF16", width)
            print(f"GPT-2 {arguments.size}: {size / 4e6:,.0f}M numbers, {size / 1e6:,.0f} MB in float32\n")
            return print_memory(Path(name), size)
        folders = {dtype: Path(name) / dtype for dtype in THEIRS}
        for dtype, folder in folders.items():
            folder.mkdir()
            size = loading.write_checkpoint(folder, layers, {"float32": "F32"}.get(dtype, "BF16"), width)
        rounded = pairing.Worker(Rounded, folders["bfloat16"])
        ids_of_rounded = rounded.call("ids", tokens)
        rounded.close()
        sides = {
            OURS["float32"]: pairing.Worker(TinyGPT, folders["float32"], "float32"),
            THEIRS["float32"]: pairing.Worker(PyTorch, folders["float32"], threads, layers, width),
            OURS["bfloat16"]: pairing.Worker(TinyGPT, folders["bfloat16"], "bfloat16"),
            THEIRS["bfloat16"]: pairing.Worker(PyTorch, folders["bfloat16"], threads, layers, width),
            OURS["int8"]: pairing.Worker(TinyGPT, folders["bfloat16"], "int8"),
        }
        try:
            ids = {name: side.call("text", tokens)[1] for name, side in sides.items()}  # warms up, too
            memory = {name: side.call("memory") / size for name, side in sides.items()}
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            first: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(arguments.turns):
                for name, side in sides.items():
                    time.sleep(pairing.PAUSE)
                    seconds[name].append(side.call("text", tokens)[0])
            for _ in range(3):
                for name, side in sides.items():
                    time.sleep(pairing.PAUSE)
                    first[name].append(side.call("first_token", arguments.prompt))
        finally:
            for side in sides.values():
                side.close()

    def faster(name: str, other: str) -> str:
        pairs = zip(seconds[name], seconds[other], strict=True)
        return f"{statistics.median(theirs / ours for ours, theirs in pairs):.2f}"

    print(f"{pairing.machine('numpy', 'torch')}, {threads} threads each")
    print(
        f"GPT-2 {arguments.size}: {layers} layers, {width} wide, {size / 4e6:,.0f}M numbers, "
        f"{size / 1e6:,.0f} MB in float32; {tokens} tokens after a prompt of {len(PROMPT)}, "
        f"{arguments.turns} texts of each side\n"
    )
    rows = []
    for name, values in seconds.items():
        low, middle, high = (tokens / value for value in pairing.quartiles(values))
        rows.append(
            [
                name,
                f"{middle:.1f}",
                f"{high:.1f} to {low:.1f}",
                faster(name, OURS["float32"]),
                faster(name, THEIRS["float32"]),
                faster(name, THEIRS["bfloat16"]),
                f"{memory[name]:.2f}",
                f"{1e3 * statistics.median(first[name]):,.0f}",
            ]
        )
    header = ["side", "median tokens/s", "quartiles", "times tinygpt, float32", "times PyTorch, float32"]
    header += [
        "times PyTorch, bfloat16",
        "memory / size in float32",
        f"ms for a prompt of {arguments.prompt}",
    ]
    print(pairing.table(header, rows) + "\n")
    promises = pairing.Promises()
    promises.say(ids[OURS["float32"]] == ids[THEIRS["float32"]], "float32 draws the ids of PyTorch")
    promises.say(
        ids[OURS["bfloat16"]] == ids_of_rounded, "bfloat16 draws the ids of the same numbers in float32"
    )
    for dtype, most in MOST.items():
        taken = memory[OURS[dtype]]
        promises.say(taken <= most, f"{dtype} takes {taken:.2f} of the size in float32 (at most {most})")
    pairing.write_json(
        arguments.json,
        {"size": arguments.size, "seconds": seconds, "first": first, "memory": memory, "ids": ids},
    )
    return int(arguments.check and promises.missed)


if __name__ == "__main__":
    sys.exit(main())
