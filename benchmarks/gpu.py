"""Everything that is claimed of the GPU, in one command: laws, correctness beside PyTorch, and all timings, within nine minutes.

    python benchmarks/gpu.py [--out FOLDER]

Writes gpu.json and gpu.md, with the device, versions and date. Each part runs in a process of its own with a time limit, one after the
other, so that one failure or hang leaves the others' results; what has failed is in the files with its reason. The sides train from the
same weights on the same batches: forward, backward, clipping, AdamW, the loss read every step. `--quick` makes everything tiny, and
`--backend numpy` runs it without a GPU: that shows that the script works, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import pairing  # beside this file; puts the repository on sys.path

from tinygpt_core.dataset import Batch
from tinygpt_core.training import PRESETS, TrainingConfig

BUDGET = 540.0  # seconds for all
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # of bf16 products without sparsity, by a part of the device's name
TINY = {"context_length": 16, "num_layers": 1, "num_heads": 2, "embedding_dim": 32, "batch_size": 2}
VOCABULARIES = {"gpt2-124m": 50257, "code-49m": 32768, "baby": 65}
BATCHES = {"gpt2-124m": 32, "code-49m": 20, "baby": 64}
SIDES = ("tinygpt", "torch", "torch-compiled")


def config_of(preset: str, batch_size: int, quick: bool) -> TrainingConfig:
    """The settings of a timing: those of the preset, without dropout, which the PyTorch model here does not have."""
    config = replace(PRESETS[preset][1], dropout=0.0, batch_size=batch_size, accumulation=1)
    return replace(config, **TINY) if quick else config


def batches(config: TrainingConfig, vocabulary: int) -> Iterator[Batch]:
    """Windows of a text whose bytes are spread over the vocabulary: the same for every side, and something to learn."""
    text = b"".join(path.read_bytes() for path in sorted((pairing.ROOT / "tinygpt_core").glob("*.py")))
    ids = array("i", (byte * 193 % vocabulary for byte in text))
    length, place = config.context_length, 0
    while True:
        starts = [(place + 7919 * i) % (len(ids) - length - 1) for i in range(config.batch_size)]
        place += 104729
        rows = [ids[start : start + length + 1] for start in starts]
        flat = [array("i", [token for row in rows for token in row[shift : shift + length]]) for shift in (0, 1)]
        yield Batch(flat[0], flat[1], (config.batch_size, length))


# ---------------------------------------------------------------- the parts, each in a process of its own


def tinygpt_side(options: argparse.Namespace, config: TrainingConfig, vocabulary: int) -> dict[str, Any]:
    """Times steps of tinygpt."""
    from tinygpt_core import Tensor, backends, random
    from tinygpt_core.losses import CrossEntropyLoss
    from tinygpt_core.nn import GPT
    from tinygpt_core.optimizers import AdamW
    from tinygpt_core.precision import autocast
    from tinygpt_core.stepping import as_tensors, training_step

    backends.use(options.backend)
    random.seed(config.seed)
    model = GPT(config.model_config(vocabulary))
    model.load_weights(options.weights)
    optimizer = AdamW(model, config.learning_rate, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay)
    criterion = CrossEntropyLoss()

    def total_loss(batch: Any) -> Tensor:
        inputs, targets = as_tensors(batch)
        with autocast(options.dtype):
            return criterion(logits=model(inputs), labels=targets).sum()

    step = training_step(model, optimizer, total_loss, config.gradient_clip, options.dtype)
    result = timed(lambda batch: step([batch]), batches(config, vocabulary), options)
    result["parameters"] = model.num_parameters()
    result["no graph"] = getattr(step, "reason", "not on this backend")
    peak = getattr(backends.active(), "peak_memory", None)
    result["peak_bytes"] = peak() if peak else None
    return result


def torch_side(options: argparse.Namespace, config: TrainingConfig, vocabulary: int) -> dict[str, Any]:
    """Times steps of PyTorch, eager or compiled, with its flash attention and fused AdamW."""
    import pytorch_gpt
    import torch

    from tinygpt_core import backends
    from tinygpt_core.serialization import load_safetensors

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = pytorch_gpt.GPT(config.model_config(vocabulary))
    with backends.use("python"):
        model.load_tinygpt(load_safetensors(options.weights))
    model = model.to(device)
    optimizer = pytorch_gpt.adamw(model, config)
    loss_of = torch.compile(model.loss) if options.side == "torch-compiled" else model.loss
    low = torch.bfloat16 if options.dtype == "bfloat16" else torch.float32

    def step(batch: Batch) -> float:
        ids, targets = (torch.frombuffer(x, dtype=torch.int32).view(batch.shape).to(device).long() for x in (batch.inputs, batch.targets))
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, low, enabled=low is not torch.float32):
            loss = loss_of(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        return float(loss.item())

    result = timed(step, batches(config, vocabulary), options)
    result["peak_bytes"] = torch.cuda.max_memory_reserved() if device == "cuda" else None
    return result


def timed(step: Any, drawn: Iterator[Batch], options: argparse.Namespace) -> dict[str, Any]:
    """Runs steps, each of which ends with its loss on the host, and returns their times but for the first ones, and all losses."""
    seconds, losses = [], []
    for _ in range(options.warm_up + options.steps):
        batch = next(drawn)
        started = time.perf_counter()
        losses.append(step(batch))
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds[options.warm_up :], "losses": losses, "warm_up_seconds": sum(seconds[: options.warm_up])}


def weights_part(options: argparse.Namespace, config: TrainingConfig, vocabulary: int) -> dict[str, Any]:
    """Writes the weights from which all sides begin."""
    from tinygpt_core import backends, random
    from tinygpt_core.nn import GPT

    backends.use(options.backend if options.quick else "numpy")
    random.seed(config.seed)
    GPT(config.model_config(vocabulary)).save_weights(options.weights)
    return {}


def run_part(options: argparse.Namespace) -> int:
    """Runs the part that was asked for; its result is the last line of the output."""
    config = config_of(options.preset, options.batch_size, options.quick)
    vocabulary = 65 if options.quick else VOCABULARIES[options.preset]
    part = {"weights": weights_part, "tinygpt": tinygpt_side}.get(options.side, torch_side)
    result = part(options, config, vocabulary)
    size = {"tokens": config.context_length * config.batch_size, "batch_size": config.batch_size}
    print(json.dumps({**result, **size, "flops_per_token": flops_per_token(config, vocabulary)}))
    return 0


# ---------------------------------------------------------------- the whole


class Report:
    """Runs parts within the budget and keeps what they say, in the files, after each."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.started, self.results = options, time.monotonic(), {}
        self.folder = Path(options.out)
        self.folder.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        return self.options.budget - (time.monotonic() - self.started)

    def run(self, name: str, command: list[str], limit: float, is_json: bool = True) -> dict[str, Any]:
        """Runs a command; returns (and keeps) its result, or {"failed": why}."""
        limit, began = min(limit, self.left()), time.monotonic()
        if limit < 5.0:
            result: dict[str, Any] = {"failed": "no time was left"}
        else:
            try:
                done = subprocess.run(command, cwd=pairing.ROOT, capture_output=True, text=True, timeout=limit)
                if done.returncode and is_json:
                    result = {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:600]}
                elif is_json:
                    result = json.loads(done.stdout.strip().splitlines()[-1])
                else:
                    result = {"exit": done.returncode, "said": done.stdout.strip().splitlines()[-30:]}
            except subprocess.TimeoutExpired:
                result = {"failed": f"stopped after {limit:.0f} s"}
            except (OSError, ValueError, IndexError) as problem:
                result = {"failed": f"{type(problem).__name__}: {problem}"}
        result["wall_seconds"] = round(time.monotonic() - began, 1)
        self.results[name] = result
        print(f"{name:<32} {result.get('failed') or 'done'} ({result['wall_seconds']} s)", flush=True)
        self.write()
        return result

    def side(self, name: str, side: str, preset: str, batch_size: int, weights: str, limit: float, **more: Any) -> dict[str, Any]:
        """Runs one side of a timing."""
        options = {"side": side, "preset": preset, "batch-size": batch_size, "weights": weights, "backend": self.options.backend, **more}
        command = [sys.executable, __file__, *(word for key, value in options.items() for word in (f"--{key}", str(value)))]
        return self.run(name, command + ["--quick"] * self.options.quick, limit)

    def write(self) -> None:
        whole = {"environment": environment(self.options), "results": self.results}
        (self.folder / "gpu.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        (self.folder / "gpu.md").write_text(table(whole), encoding="utf-8")


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """Device, driver, versions, date; asks nvidia-smi, so that this process holds no part of the GPU."""
    wanted = "name,driver_version,memory.total"
    try:
        asked = subprocess.run(["nvidia-smi", f"--query-gpu={wanted}", "--format=csv,noheader"], capture_output=True, text=True, timeout=20)
        device = asked.stdout.strip().splitlines()[0] if asked.returncode == 0 else "no GPU"
    except (OSError, IndexError, subprocess.TimeoutExpired):
        device = "no GPU"
    versions = {}
    for name in ("cupy-cuda12x", "cupy-cuda13x", "nvidia-cudnn-frontend", "torch", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    date = time.strftime("%Y-%m-%d %H:%M")
    return {"device": device, "backend": options.backend, "quick": options.quick, "date": date, "versions": versions}


def table(whole: dict[str, Any]) -> str:
    """Returns the Markdown report."""
    around, results = whole["environment"], whole["results"]
    lines = [f"Device: {around['device']}; backend {around['backend']}; {around['date']}."]
    lines += [", ".join(f"{name} {version}" for name, version in around["versions"].items()) + ".", ""]
    if around["quick"] or around["device"] == "no GPU":
        lines += ["**Not a measurement**: tiny sizes, or no GPU.", ""]
    lines += ["| work | side | tokens/s (median) | of tinygpt | model FLOP utilisation | peak memory |", "|---|---|---|---|---|---|"]
    for preset in BATCHES:
        ours = results.get(f"{preset} tinygpt", {})
        for side in SIDES:
            result = results.get(f"{preset} {side}")
            if result is None:
                continue
            if "failed" in result:
                lines.append(f"| {preset} | {side} | {result['failed'].replace('|', '/')} | | | |")
                continue
            speed = result["tokens"] / median(result["seconds"])
            own = ours["tokens"] / median(ours["seconds"]) if "seconds" in ours else None
            peak = next((flops for name, flops in PEAK_FLOPS.items() if name in around["device"]), None)
            used = f"{speed * result['flops_per_token'] / peak:.1%}" if peak and result.get("flops_per_token") else ""
            memory = f"{result['peak_bytes'] / 2**30:.2f} GiB" if result.get("peak_bytes") else ""
            work = f"{preset}, batch {result['batch_size']}"
            lines.append(f"| {work} | {side} | {speed:,.0f} | {f'{own / speed:.2f}' if own else ''} | {used} | {memory} |")
    lines += ["", "| check | result |", "|---|---|"]
    for name, result in results.items():
        if "exit" in result:
            lines.append(f"| {name} | {'passed' if result['exit'] == 0 else 'FAILED'}: {result['said'][-1] if result['said'] else ''} |")
        elif "difference" in result:
            lines.append(f"| {name} | {result['difference']} |")
    return "\n".join(lines) + "\n"


def flops_per_token(config: TrainingConfig, vocabulary: int) -> float:
    """Forward and backward: 6 a parameter of a product and 12 L C T for attention (Chowdhery et al., "PaLM", 2022, appendix B)."""
    c, layers = config.embedding_dim, config.num_layers
    return 6.0 * (12 * layers * c * c + vocabulary * c) + 12.0 * layers * c * config.context_length


def timings(report: Report, folder: str, preset: str, limit: float) -> None:
    """One row of the issue's table for each side, at the largest batch that all can hold."""
    quick, batch_size = report.options.quick, BATCHES[preset]
    weights = f"{folder}/{preset}.safetensors"
    if "failed" in report.side(f"{preset} weights", "weights", preset, batch_size, weights, limit):
        return
    steps = {
        "warm-up": 2 if quick else 8,
        "steps": 2 if quick else 25,
        "dtype": "float32" if report.options.backend == "numpy" else "bfloat16",
    }
    while True:
        said = {side: report.side(f"{preset} {side}", side, preset, batch_size, weights, limit, **steps) for side in SIDES[:2]}
        out_of_memory = any("memory" in result.get("failed", "") for result in said.values())
        if not out_of_memory or batch_size == 1:
            break
        batch_size //= 2
    if not quick:
        report.side(f"{preset} torch-compiled", "torch-compiled", preset, batch_size, weights, limit, **steps)


def curves(report: Report, folder: str) -> None:
    """Losses over 200 steps of the baby model: float32 and bf16 against PyTorch in float32."""
    quick = report.options.quick
    count, weights = 3 if quick else 200, f"{folder}/baby.safetensors"
    forms = ["float32"] if report.options.backend == "numpy" else ["float32", "bfloat16"]
    base = report.side("losses torch float32", "torch", "baby", BATCHES["baby"], weights, 60, steps=count, dtype="float32")
    for form in forms:
        ours = report.side(f"losses tinygpt {form}", "tinygpt", "baby", BATCHES["baby"], weights, 60, steps=count, dtype=form)
        if "losses" in ours and "losses" in base:
            gaps = [abs(a - b) for a, b in zip(ours["losses"], base["losses"], strict=True)]
            ours["difference"] = f"largest difference {max(gaps):.2e}, mean {sum(gaps) / len(gaps):.2e} nats over {len(gaps)} steps"
    report.write()


def shakespeare(report: Report, folder: str, data: str) -> None:
    """The baby config with dropout on tinyshakespeare, 5,000 steps: its validation loss beside nanoGPT's 1.4697."""
    command = [sys.executable, "-m", "tinygpt_core", "train", "--preset", "baby", "--data", data, "--backend", report.options.backend,
               "--dtype", "bfloat16", "--eval-every", "250", "--eval-batches", "50", "--checkpoint-every", "0",
               "--out", f"{folder}/shakespeare", "--quiet"]  # fmt: skip
    result = report.run("tinyshakespeare, 5,000 steps", command, report.left() - 5.0, is_json=False)
    log = Path(folder) / "shakespeare" / "log.jsonl"
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    losses = [event["val_loss"] for event in events if "val_loss" in event]
    if losses:
        steps = max(event["step"] for event in events)
        result["difference"] = f"best validation loss {min(losses):.4f} (nanoGPT: 1.4697) after {steps} steps, {result['wall_seconds']} s"
    report.write()


def main() -> int:
    """Runs everything, or one part of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--out", default="gpu-results", metavar="FOLDER", help="where gpu.json and gpu.md go (default: %(default)s)")
    parser.add_argument("--backend", default="cupy", help="the backend that is measured (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that the script works (default: the real ones)")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help="for everything (default: %(default)s)")
    parser.add_argument("--data", default="", metavar="FILE", help="tinyshakespeare, for the run of 5,000 steps (default: left out)")
    parser.add_argument("--side", default="", help="run one part: weights, tinygpt, torch or torch-compiled (default: all)")
    parser.add_argument("--preset", default="baby", help="of the part (default: %(default)s)")
    parser.add_argument("--weights", default="", help="file of the part's weights (default: none)")
    parser.add_argument("--dtype", default="float32", help="of the part's products (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=1, help="of the part (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="of the part that are timed (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=0, help="steps of the part before those (default: %(default)s)")
    options = parser.parse_args()
    if options.side:
        return run_part(options)
    report = Report(options)
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--backend", options.backend]
    with tempfile.TemporaryDirectory() as folder:
        for preset, limit in (("gpt2-124m", 120.0), ("baby", 60.0), ("code-49m", 60.0)):
            timings(report, folder, preset, limit)
        curves(report, folder)
        if not options.quick:
            report.run("tests/gpu", [*tests, "tests/gpu"], 90.0, is_json=False)
            report.run("laws", [*tests, "tests/spec"], 180.0, is_json=False)
        if options.data:
            shakespeare(report, folder, os.path.abspath(options.data))
    report.write()
    failed = [name for name, result in report.results.items() if "failed" in result or result.get("exit")]
    print((report.folder / "gpu.md").read_text(encoding="utf-8"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
