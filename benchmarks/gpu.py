"""Everything that is claimed of the GPU, in one command: laws, correctness beside PyTorch, and all timings,
within nine minutes.

    python benchmarks/gpu.py [--out FOLDER] [--only PART[,PART]]

Writes gpu.json and gpu.md, with the device, versions and date, and gpu.log with all that was printed. Each
part runs in a process of its own with a time limit, one after the other, so that one failure or hang leaves
the others' results; what has failed is in the files with its reason. The files are written after each part,
and a later run into the same folder replaces the parts that it runs. Nothing need be installed but CuPy: the
plug-in is found where it stands. The sides train from the same weights on the same batches: forward,
backward, clipping, AdamW, the loss read every step. `--quick` makes everything tiny, and `--backend numpy`
runs it without a GPU: that shows that the script works, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import pairing  # beside this file; puts the repository on sys.path

from tinygpt_core.dataset import Batch
from tinygpt_core.training import PRESETS, TrainingConfig

BUDGET = 540.0  # seconds for all
# Of bf16 products without sparsity, by a part of the device's name
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
TINY = {"context_length": 16, "num_layers": 1, "num_heads": 2, "embedding_dim": 32, "batch_size": 2}
VOCABULARIES = {"gpt2-124m": 50257, "code-49m": 32768, "baby": 65}
BATCHES = {"gpt2-124m": 16, "code-49m": 20, "baby": 64}
# `tinygpt-eager` launches a step piece by piece, without a graph: a figure even if recording should fail.
# `torch-padded` has a vocabulary rounded up to a multiple of 64, as nanoGPT does, which is for timing only.
SIDES = ("tinygpt", "tinygpt-eager", "torch", "torch-padded", "torch-compiled")
# In the order in which they run: what the issue asks for first, and the laws, which take as long as they are
# given, near the end.
PARTS = ("tests", "baby", "gpt2-124m", "losses", "kernels", "code-49m", "laws", "shakespeare")
# Processes for the laws, where pytest-xdist is installed: most of their time goes into compiling small
# kernels
WORKERS = 8


def config_of(preset: str, batch_size: int, quick: bool) -> TrainingConfig:
    """The settings of a timing: those of the preset, without dropout, which the PyTorch model here does not
    have.
    """
    config = replace(PRESETS[preset][1], dropout=0.0, batch_size=batch_size, accumulation=1)
    return replace(config, **TINY) if quick else config


def batches(config: TrainingConfig, vocabulary: int) -> Iterator[Batch]:
    """Windows of a text whose bytes are spread over the vocabulary: the same for every side, and something to
    learn.
    """
    text = b"".join(path.read_bytes() for path in sorted((pairing.ROOT / "tinygpt_core").glob("*.py")))
    ids = array("i", (byte * 193 % vocabulary for byte in text))
    length, place = config.context_length, 0
    while True:
        starts = [(place + 7919 * i) % (len(ids) - length - 1) for i in range(config.batch_size)]
        place += 104729
        rows = [ids[start : start + length + 1] for start in starts]
        flat = [
            array("i", [token for row in rows for token in row[shift : shift + length]]) for shift in (0, 1)
        ]
        yield Batch(flat[0], flat[1], (config.batch_size, length))


# ---------------------------------------------------------------- the parts, each in a process of its own


def tinygpt_side(options: argparse.Namespace, config: TrainingConfig, vocabulary: int) -> dict[str, Any]:
    """Times steps of tinygpt."""
    from tinygpt_core import Tensor, backends, random
    from tinygpt_core.kernels.precision import autocast
    from tinygpt_core.losses import CrossEntropyLoss
    from tinygpt_core.nn import GPT
    from tinygpt_core.optimizers import AdamW
    from tinygpt_core.training import as_tensors, training_step

    if options.side == "tinygpt-eager":
        os.environ["TINYGPT_CUDA_GRAPH"] = "0"
    kind: Any = backends.get(options.backend)
    backends.use(options.backend)
    random.seed(config.seed)
    with undrawn(kind):
        model = GPT(config.model_config(vocabulary))
    model.load_weights(options.weights)
    optimizer = AdamW(
        model, config.learning_rate, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay
    )
    criterion = CrossEntropyLoss()

    def total_loss(batch: Any) -> Tensor:
        inputs, targets = as_tensors(batch)
        with autocast(options.dtype):
            return criterion(logits=model(inputs), labels=targets).sum()

    step = training_step(model, optimizer, total_loss, config.gradient_clip, options.dtype)
    result = timed(lambda batch: step([batch]), batches(config, vocabulary), options)
    result["parameters"] = model.num_parameters()
    result["no graph"] = getattr(step, "reason", "not on this backend")
    result["attention"] = attention_used()
    peak = getattr(backends.active(), "peak_memory", None)
    result["peak_bytes"] = peak() if peak else None
    return result


@contextmanager
def undrawn(kind: Any) -> Iterator[None]:
    """Within it, random numbers of a backend are zeros: for a model that gets its weights from a file."""
    drawing = "_random_normal", "_random_uniform"
    kept = {name: vars(kind).get(name) for name in drawing}

    def zeros(cls: Any, key: Any, shape: Any, dtype: Any, *numbers: Any) -> Any:
        return cls.zeros(shape, dtype)

    for name in drawing:
        setattr(kind, name, classmethod(zeros))
    try:
        yield
    finally:
        for name, own in kept.items():
            if own is None:
                delattr(kind, name)
            else:
                setattr(kind, name, own)


def attention_used() -> str:
    """What computed attention in 16 bits in this process, and why it was not cuDNN."""
    flash = sys.modules.get("tinygpt_accel.cuda_backend.kernels.flash_attention")
    return (
        "; ".join([flash.why_not(), *flash.refused]).strip("; ") or "cuDNN"
        if flash
        else "not on this backend"
    )


def torch_side(options: argparse.Namespace, config: TrainingConfig, vocabulary: int) -> dict[str, Any]:
    """Times steps of PyTorch, eager or compiled, with its flash attention and fused AdamW."""
    import pytorch_gpt
    import torch

    from tinygpt_core import backends
    from tinygpt_core.files.safetensors import load_safetensors

    device = "cuda" if torch.cuda.is_available() else "cpu"
    wide = -(-vocabulary // 64) * 64 if options.side == "torch-padded" else vocabulary
    with torch.device("meta"):  # without drawing numbers that the file replaces
        model = pytorch_gpt.GPT(config.model_config(wide))
    model = model.to_empty(device=device)
    with backends.use("python"):
        weights = load_safetensors(options.weights)
        if wide > vocabulary:
            table = weights["embedding_layer.embeddings"]
            rest = type(table).zeros((wide - vocabulary, table.shape[1]), table.dtype)
            weights["embedding_layer.embeddings"] = type(table).concatenate([table, rest], axis=0)
        model.load_tinygpt(weights)
    optimizer = pytorch_gpt.adamw(model, config)
    loss_of = torch.compile(model.loss) if options.side == "torch-compiled" else model.loss
    low = torch.bfloat16 if options.dtype == "bfloat16" else torch.float32

    def step(batch: Batch) -> float:
        ids, targets = (
            torch.frombuffer(x, dtype=torch.int32).view(batch.shape).to(device).long()
            for x in (batch.inputs, batch.targets)
        )
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
    """Runs steps, each of which ends with its loss on the host, and returns their times but for the first
    ones, and all losses.
    """
    seconds, losses = [], []
    for _ in range(options.warm_up + options.steps):
        batch = next(drawn)
        started = time.perf_counter()
        losses.append(step(batch))
        seconds.append(time.perf_counter() - started)
    return {
        "seconds": seconds[options.warm_up :],
        "losses": losses,
        "warm_up_seconds": sum(seconds[: options.warm_up]),
    }


def kernels_part(options: argparse.Namespace, config: TrainingConfig, vocabulary: int) -> dict[str, Any]:
    """Times what a step of GPT-2 124M is made of, in bfloat16: copies, products, attention and the kernels
    between them.
    """
    import cupy
    import numpy

    from tinygpt_accel.cuda_backend.buffer import Epilogue
    from tinygpt_accel.cuda_backend.kernels import flash_attention
    from tinygpt_accel.cuda_backend.kernels import optimizer_steps as cuda_steps
    from tinygpt_accel.cuda_backend.kernels.batched_attention import Batched, empty_like_heads
    from tinygpt_core import backends, kernels, random
    from tinygpt_core.kernels.precision import autocast

    kind: Any = backends.get(options.backend)
    backends.use(options.backend)
    batch, length, heads, size, width = (2, 32, 2, 8, 16) if options.quick else (16, 1024, 12, 64, 768)
    rows, classes = batch * length, 65 if options.quick else 50257
    found: dict[str, Any] = {}

    def made(*shape: int, low: bool = False) -> Any:
        buffer = kind.normal(shape)
        return kind.wrap(buffer.in_format("bfloat16"), buffer.dtype) if low else buffer

    def time_of(
        name: str, work: Callable[[], Any], bytes_moved: float = 0.0, operations: float = 0.0
    ) -> None:
        try:
            took = []
            for _ in range(3 if options.quick else 23):
                first, last = cupy.cuda.Event(), cupy.cuda.Event()
                first.record()
                work()
                last.record()
                last.synchronize()
                took.append(cupy.cuda.get_elapsed_time(first, last))
            milliseconds = median(took[3:] or took)
            found[name] = {"ms": round(milliseconds, 4)}
            found[name] |= {"TB/s": round(bytes_moved / milliseconds / 1e9, 3)} if bytes_moved else {}
            found[name] |= {"TFLOP/s": round(operations / milliseconds / 1e9, 1)} if operations else {}
        except Exception as problem:  # the other kernels are still worth knowing
            found[name] = {"failed": f"{type(problem).__name__}: {problem}"[:300]}

    def both_ways(name: str, kernel: Any, inputs: list[Any], grad: Any, read: int, **more: Any) -> None:
        """A kernel forward and backward; `read`: how many times it moves its input's bytes in 16 bits, each
        way.
        """
        registered = kernels.lookup(kernel, kind)
        moved = read * 2.0 * inputs[0].numel

        def forward() -> Any:
            with autocast("bfloat16"):
                return registered.forward(*inputs, **more)

        time_of(f"{name} forward", forward, moved)
        try:
            saved = forward()[1]
        except Exception:
            return
        time_of(
            f"{name} backward",
            lambda: [part() if callable(part) else part for part in registered.backward(saved, grad)],
            moved,
        )

    def rows_of_product(product: Any, epilogue: Any = None) -> Callable[[], Any]:
        return lambda: kind.product(*product, False, epilogue)

    x, low = made(rows, width), made(rows, 4 * width, low=True)
    other = cupy.empty_like(low.stored)
    time_of("copy", lambda: cupy.copyto(other, low.stored), 2.0 * low.stored.nbytes)
    for inputs, outputs in ((width, 4 * width), (4 * width, width), (width, classes)):
        a, b = (made(*shape, low=True).stored for shape in ((rows, inputs), (inputs, outputs)))
        out, before = (cupy.empty((rows, -(-outputs // 8) * 8), a.dtype)[:, :outputs] for _ in range(2))
        work = 2.0 * rows * inputs * outputs
        name = f"product {inputs} x {outputs}"
        time_of(name, rows_of_product((a, b, out)), operations=work)
        row = made(1, outputs, low=True).stored[0]
        sums = cupy.empty(outputs, "float32")
        wide = cupy.empty((inputs, outputs), "float32")
        for said, product, epilogue in (
            ("bias", (a, b, out), Epilogue("bias", row)),
            ("GELU and bias", (a, b, out), Epilogue("gelu", row, before)),
            ("GELU's slope", (a, b, out), Epilogue("gelu_gradient", None, before)),
            ("sums of columns, of the weights' gradient", (a.T, out, wide), Epilogue("column_sums", sums)),
        ):
            if outputs == classes:
                continue
            if kind.product(*product, False, epilogue):
                time_of(f"{name} with {said}", rows_of_product(product, epilogue), operations=work)
            else:
                found[f"{name} with {said}"] = {"failed": "refused by cuBLASLt, so launched by itself"}
    # PyTorch's, which uses the same epilogues
    if find_spec("torch"):
        import torch

        left, right, bias = (
            torch.randn(*shape).cuda().bfloat16()
            for shape in ((rows, width), (width, 4 * width), (4 * width,))
        )
        for name, by_torch in (
            ("product alone", lambda: torch.mm(left, right)),
            ("product with its bias", lambda: torch.addmm(bias, left, right)),
            ("product with bias and GELU", lambda: torch._addmm_activation(bias, left, right, use_gelu=True)),
        ):
            time_of(
                f"PyTorch's {name}, {width} x {4 * width}", by_torch, operations=8.0 * rows * width * width
            )
    both_ways("layer norm", kernels.LayerNorm, [x, made(width), made(width)], made(rows, width, low=True), 3)
    both_ways("gelu", kernels.GELU, [low], made(rows, 4 * width, low=True), 2)
    both_ways(
        "dropout",
        kernels.Dropout,
        [low],
        made(rows, 4 * width, low=True),
        2,
        probability=0.1,
        key=random.Key(1, 0, 0),
    )
    ids = kind(numpy.random.default_rng(0).integers(0, classes, size=rows).astype("int32"))
    both_ways("cross-entropy", kernels.CrossEntropy, [made(rows, classes, low=True), ids], made(rows), 1)
    for name, drawn in (("even", ids), ("one id", kind(numpy.zeros(rows, "int32")))):
        total, values = cupy.zeros((classes, width), "float32"), made(rows, width, low=True).stored
        time_of(
            f"embedding gradient, {name}",
            lambda drawn=drawn, total=total, values=values: kind.add_rows(total, drawn, values),
        )
    parameters = [made(width, 4 * width) for _ in range(4 if options.quick else 50)]
    state = [[kind.zeros(p.shape, p.dtype) for p in parameters] for _ in range(3)]
    scalars = cupy.asarray(cuda_steps.adamw_scalars(1e-3, (0.9, 0.95), 1e-8, 1), "float64")
    elements = 4.0 * sum(p.numel for p in parameters)
    time_of(
        "adamw",
        lambda: cuda_steps.adamw(kind, [parameters, *state], [0.1] * len(parameters), scalars),
        7 * elements,
    )
    time_of(
        "gradient norm", lambda: cuda_steps.gradient_norm(kind, [p.array for p in parameters], 1.0), elements
    )
    packed = made(batch, length, 3, heads, size, low=True).stored
    q, k, v = (packed[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    grad = made(batch, heads, length, size, low=True).stored
    work = 2.0 * batch * heads * length * length * size  # of both products, half of which a causal mask saves
    for name, implementation in (("cuDNN", flash_attention), ("batched", Batched)):
        kept: list[Any] = [None, None]

        def attend(implementation: Any = implementation, kept: list[Any] = kept) -> None:
            kept[:] = implementation.forward(kind, q, k, v, True, size**-0.5, False)

        def attend_back(implementation: Any = implementation, kept: list[Any] = kept) -> None:
            out = [empty_like_heads(kind, each) for each in (q, k, v)]
            implementation.backward(kind, q, k, v, kept[0], grad, True, size**-0.5, False, kept[1], out)

        time_of(f"attention by {name}, forward", attend, operations=work)
        if kept[0] is not None:
            time_of(f"attention by {name}, backward", attend_back, operations=2.5 * work)
    try:
        described = (
            tuple(map(flash_attention._layout, (q, k, v, grad, grad))),
            tuple(flash_attention._layout(each) for each in (q, k, v)),
        )
        sums = cupy.zeros((batch, heads, length, 1), "float32")
        results = [cupy.empty_like(packed)[:, :, i].transpose(0, 2, 1, 3) for i in range(3)]
        plan = flash_attention._backward_plan(
            "bfloat16",
            (*described[0], flash_attention._layout(sums)),
            described[1],
            True,
            size**-0.5,
            deterministic=False,
        )
        arrays = [q, k, v, grad, grad, sums, *results]
        time_of(
            "attention by cuDNN, backward in any order", lambda: plan.run(kind, arrays), operations=2.5 * work
        )
    except Exception as problem:
        found["attention by cuDNN, backward in any order"] = {
            "failed": f"{type(problem).__name__}: {problem}"[:300]
        }
    return {"kernels": found, "attention": attention_used()}


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
    part = {
        "weights": weights_part,
        "tinygpt": tinygpt_side,
        "tinygpt-eager": tinygpt_side,
        "kernels": kernels_part,
    }.get(options.side, torch_side)
    with tempfile.TemporaryDirectory() as work:
        sys.path[:0] = plugged_in(Path(work))  # also where this part is run by hand
        result = part(options, config, vocabulary)
    size = {"tokens": config.context_length * config.batch_size, "batch_size": config.batch_size}
    print(json.dumps({**result, **size, "flops_per_token": flops_per_token(config, vocabulary)}))
    return 0


# ---------------------------------------------------------------- the whole


class Report:
    """Runs parts within the budget and keeps what they say, in the files, after each."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.started, self.results = options, time.monotonic(), {}
        self.folder = Path(options.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.around = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*plugged_in(work), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        self.environment = environment(options)
        try:  # of an earlier run
            earlier = json.loads((self.folder / "gpu.json").read_text(encoding="utf-8"))
            if earlier["environment"] | {"date": ""} == self.environment | {"date": ""}:
                self.results = earlier["results"]
        except (OSError, ValueError, KeyError):
            pass

    def left(self) -> float:
        """Returns how many seconds of the budget are left."""
        return self.options.budget - (time.monotonic() - self.started)

    def run(self, name: str, command: list[str], limit: float, is_json: bool = True) -> dict[str, Any]:
        """Runs a command; returns (and keeps) its result, or {"failed": why}."""
        limit, began = min(limit, self.left()), time.monotonic()
        if limit < 5.0:
            result: dict[str, Any] = {"failed": "no time was left"}
        else:
            code, output, errors = self.finish(command, limit)
            with (self.folder / "gpu.log").open("a", encoding="utf-8") as log:
                log.write(
                    f"\n==== {name}: {' '.join(command)}\n{output[-200_000:]}\n---- "
                    f"errors\n{errors[-50_000:]}\n"
                )
            try:
                if code is None:
                    result = {
                        "failed": f"stopped after {limit:.0f} s",
                        "said": output.strip().splitlines()[-30:],
                    }
                elif code and is_json:
                    result = {
                        "failed": (errors.strip().splitlines() or ["no message"])[-1][:600],
                        "errors": errors.splitlines()[-30:],
                    }
                elif is_json:
                    result = json.loads(output.strip().splitlines()[-1])
                else:
                    result = {"exit": code, "said": output.strip().splitlines()[-30:]}
            except (ValueError, IndexError) as problem:
                result = {"failed": f"{type(problem).__name__}: {problem}"}
        result["wall_seconds"] = round(time.monotonic() - began, 1)
        self.results[name] = result
        print(f"{name:<32} {result.get('failed') or 'done'} ({result['wall_seconds']} s)", flush=True)
        self.write()
        return result

    def finish(self, command: list[str], limit: float) -> tuple[int | None, str, str]:
        """Returns a command's exit code, None where it was stopped with all that it had started, its output
        and its errors.
        """
        try:
            process = subprocess.Popen(
                command,
                cwd=pairing.ROOT,
                env=self.around,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as problem:
            return 1, "", str(problem)
        try:
            output, errors = process.communicate(timeout=limit)
            return process.returncode, output, errors
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            return None, output, errors

    def side(
        self, name: str, side: str, preset: str, batch_size: int, weights: str, limit: float, **more: Any
    ) -> dict[str, Any]:
        """Runs one side of a timing."""
        options = {
            "side": side,
            "preset": preset,
            "batch-size": batch_size,
            "weights": weights,
            "backend": self.options.backend,
            **more,
        }
        command = [
            sys.executable,
            __file__,
            *(word for key, value in options.items() for word in (f"--{key}", str(value))),
        ]
        return self.run(name, command + ["--quick"] * self.options.quick, limit)

    def write(self) -> None:
        """Writes what is known so far."""
        whole = {"environment": self.environment, "results": self.results}
        (self.folder / "gpu.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        (self.folder / "gpu.md").write_text(table(whole), encoding="utf-8")


def plugged_in(work: Path) -> list[str]:
    """Returns the folders in which Python finds the plug-in and its entry points, although nobody has
    installed it.
    """
    described = tomllib.loads(
        (pairing.ROOT / "tinygpt_accel" / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]
    about = work / "tinygpt_accel-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {described['name']}\nVersion: {described['version']}\n"
    )
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in points.items())
        for group, points in described["entry-points"].items()
    ]
    (about / "entry_points.txt").write_text("\n".join(groups))
    return [str(pairing.ROOT), str(work)]


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """Device, driver, versions, date; asks nvidia-smi, so that this process holds no part of the GPU."""
    wanted = "name,driver_version,memory.total"
    try:
        asked = subprocess.run(
            ["nvidia-smi", f"--query-gpu={wanted}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
        )
        device = asked.stdout.strip().splitlines()[0] if asked.returncode == 0 else "no GPU"
    except (OSError, IndexError, subprocess.TimeoutExpired):
        device = "no GPU"
    versions = {}
    for name in (
        "cupy-cuda12x",
        "cupy-cuda13x",
        "nvidia-cudnn-frontend",
        "nvidia-cudnn-cu12",
        "nvidia-cudnn-cu13",
        "torch",
        "numpy",
    ):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    date = time.strftime("%Y-%m-%d %H:%M")
    return {
        "device": device,
        "backend": options.backend,
        "quick": options.quick,
        "date": date,
        "versions": versions,
    }


def table(whole: dict[str, Any]) -> str:
    """Returns the Markdown report."""
    around, results = whole["environment"], whole["results"]
    lines = [f"Device: {around['device']}; backend {around['backend']}; {around['date']}."]
    lines += [", ".join(f"{name} {version}" for name, version in around["versions"].items()) + ".", ""]
    if around["quick"] or around["device"] == "no GPU":
        lines += ["**Not a measurement**: tiny sizes, or no GPU.", ""]
    lines += [
        "| work | side | tokens/s (median) | of tinygpt | model FLOP utilisation | peak memory |",
        "|---|---|---|---|---|---|",
    ]
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
            used = (
                f"{speed * result['flops_per_token'] / peak:.1%}"
                if peak and result.get("flops_per_token")
                else ""
            )
            memory = f"{result['peak_bytes'] / 2**30:.2f} GiB" if result.get("peak_bytes") else ""
            work = f"{preset}, batch {result['batch_size']}"
            lines.append(
                f"| {work} | {side} | {speed:,.0f} | {f'{own / speed:.2f}' if own else ''} | {used} | "
                f"{memory} |"
            )
    parts = results.get("kernels", {}).get("kernels", {})
    if parts:
        lines += ["", "| kernel, GPT-2 124M, batch 16, bfloat16 | ms | |", "|---|---|---|"]
        for name, said in parts.items():
            rest = ", ".join(
                f"{value} {unit}" for unit, value in said.items() if unit not in ("ms", "failed")
            )
            lines.append(f"| {name} | {said.get('ms', '')} | {said.get('failed', rest).replace('|', '/')} |")
    lines += ["", "| check | result |", "|---|---|"]
    for name, result in results.items():
        if "no graph" in result or "attention" in result:
            graph = f"graph: {result['no graph'] or 'yes'}; " if "no graph" in result else ""
            lines.append(f"| {name} | {graph}attention: {result.get('attention', '')} |".replace("\n", " "))
        if "failed" in result and not any(name.startswith(preset) for preset in BATCHES):
            lines.append(f"| {name} | {result['failed'].replace('|', '/')} |")
        elif "exit" in result:
            lines.append(
                f"| {name} | {'passed' if result['exit'] == 0 else 'FAILED'}: "
                f"{result['said'][-1] if result['said'] else ''} |"
            )
        elif "difference" in result:
            lines.append(f"| {name} | {result['difference']} |")
    return "\n".join(lines) + "\n"


def flops_per_token(config: TrainingConfig, vocabulary: int) -> float:
    """Forward and backward: 6 a parameter of a product and 12 L C T for attention (Chowdhery et al., "PaLM",
    2022, appendix B).
    """
    c, layers = config.embedding_dim, config.num_layers
    return 6.0 * (12 * layers * c * c + vocabulary * c) + 12.0 * layers * c * config.context_length


def timings(report: Report, folder: str, preset: str, limit: float) -> None:
    """One row of the issue's table for each side, at the largest batch that all can hold."""
    quick, batch_size = report.options.quick, BATCHES[preset]
    weights = weights_of(report, folder, preset)
    if not weights:
        return
    steps = {
        "warm-up": 2 if quick else 8,
        "steps": 2 if quick else 25,
        "dtype": "float32" if report.options.backend == "numpy" else "bfloat16",
    }
    while True:
        said = {
            side: report.side(f"{preset} {side}", side, preset, batch_size, weights, limit, **steps)
            for side in ("tinygpt", "torch")
        }
        out_of_memory = any(
            re.search("out of memory|OutOfMemory", result.get("failed", "")) for result in said.values()
        )
        if not out_of_memory or batch_size == 1:
            break
        batch_size //= 2
    if preset == "gpt2-124m":
        more = {"tinygpt-eager": 60.0, "torch-padded": 60.0} | ({} if quick else {"torch-compiled": 170.0})
        for side, most in more.items():
            report.side(f"{preset} {side}", side, preset, batch_size, weights, most, **steps)


def weights_of(report: Report, folder: str, preset: str) -> str:
    """Returns the file of the weights from which a preset's sides begin, or "" where it could not be made."""
    weights = f"{folder}/{preset}.safetensors"
    if not os.path.exists(weights) and "failed" in report.side(
        f"{preset} weights", "weights", preset, BATCHES[preset], weights, 90.0
    ):
        return ""
    return weights


def curves(report: Report, folder: str) -> None:
    """Losses over 100 steps from equal weights, of each side in each form, against PyTorch in float32."""
    quick = report.options.quick
    forms = ["float32"] if report.options.backend == "numpy" else ["float32", "bfloat16"]
    for preset, batch_size in (("baby", BATCHES["baby"]), ("gpt2-124m", 4)):
        weights = weights_of(report, folder, preset)
        if not weights:
            continue
        base: list[float] = []
        for form in forms:
            for side in ("torch", "tinygpt"):
                name = f"losses {preset} {side} {form}"
                count = {"steps": 3 if quick else 100, "dtype": form}
                result = report.side(name, side, preset, batch_size, weights, 60.0, **count)
                base = base or result.get("losses", [])
                if "losses" in result and base:
                    gaps = [abs(a - b) for a, b in zip(result["losses"], base, strict=True)]
                    result["difference"] = (
                        f"from PyTorch's in float32 at most {max(gaps):.2e}, on average "
                        f"{sum(gaps) / len(gaps):.2e} nats over {len(gaps)} steps"
                    )
    report.write()


def shakespeare(report: Report, folder: str, data: str) -> None:
    """The baby config with dropout on tinyshakespeare, 5,000 steps: its validation loss beside nanoGPT's
    1.4697.
    """
    command = [
        sys.executable,
        "-m",
        "tinygpt_core",
        "train",
        "--preset",
        "baby",
        "--data",
        data,
        "--backend",
        report.options.backend,
        "--dtype",
        "bfloat16",
        "--eval-every",
        "250",
        "--eval-batches",
        "50",
        "--checkpoint-every",
        "0",
        "--out",
        f"{folder}/shakespeare",
        "--quiet",
    ]
    result = report.run("tinyshakespeare, 5,000 steps", command, report.left() - 5.0, is_json=False)
    log = Path(folder) / "shakespeare" / "log.jsonl"
    events = (
        [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    )
    losses = [event["val_loss"] for event in events if "val_loss" in event]
    if losses:
        steps = max(event["step"] for event in events)
        result["difference"] = (
            f"best validation loss {min(losses):.4f} (nanoGPT: 1.4697) after {steps} steps, "
            f"{result['wall_seconds']} s"
        )
    report.write()


def run_whole_part(report: Report, part: str, folder: str) -> None:
    """Runs one of PARTS; some have nothing to show where everything is tiny, or without a GPU."""
    options = report.options
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--backend", options.backend]
    tests = [*pytest, "-v", "--tb=short"]
    if part in BATCHES:
        timings(report, folder, part, 120.0 if part == "gpt2-124m" else 60.0)
    elif part == "losses":
        curves(report, folder)
    elif part == "kernels" and options.backend.startswith("cupy"):
        report.side("kernels", "kernels", "gpt2-124m", 1, "", 90.0)
    elif part == "tests" and not options.quick:
        report.run("tests/gpu", [*tests, "tests/gpu"], 120.0, is_json=False)
    elif part == "laws" and not options.quick:
        workers = ["-n", str(WORKERS)] if find_spec("xdist") else []
        laws = [*pytest, "-q", *workers, "--profile", "thorough", "tests/spec"]
        report.run("laws", laws, 150.0, is_json=False)
    elif part == "shakespeare" and options.data:
        shakespeare(report, folder, os.path.abspath(options.data))


def main() -> int:
    """Runs everything, or one part of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--out",
        default="gpu-results",
        metavar="FOLDER",
        help="where gpu.json and gpu.md go (default: %(default)s)",
    )
    parser.add_argument(
        "--only", default="", metavar="PART[,PART]", help=f"of {', '.join(PARTS)} (default: all)"
    )
    parser.add_argument(
        "--backend", default="cupy", help="the backend that is measured (default: %(default)s)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes, to see that the script works (default: the real ones)",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=BUDGET,
        metavar="SECONDS",
        help="for everything (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        default="",
        metavar="FILE",
        help="tinyshakespeare, for the run of 5,000 steps (default: left out)",
    )
    parser.add_argument(
        "--side", default="", help=f"run one part: weights, kernels, {', '.join(SIDES)} (default: all)"
    )
    parser.add_argument("--preset", default="baby", help="of the part (default: %(default)s)")
    parser.add_argument("--weights", default="", help="file of the part's weights (default: none)")
    parser.add_argument("--dtype", default="float32", help="of the part's products (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=1, help="of the part (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=5, help="of the part that are timed (default: %(default)s)"
    )
    parser.add_argument(
        "--warm-up", type=int, default=0, help="steps of the part before those (default: %(default)s)"
    )
    options = parser.parse_args()
    if options.side:
        return run_part(options)
    unknown = set(options.only.split(",")) - {"", *PARTS}
    if unknown:
        parser.error(f"--only takes {', '.join(PARTS)}, unlike {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as folder:
        report = Report(options, Path(folder))
        wanted = [part for part in PARTS if not options.only or part in options.only.split(",")]
        for part in wanted:
            run_whole_part(report, part, folder)
    report.write()
    failed = [name for name, result in report.results.items() if "failed" in result or result.get("exit")]
    print((report.folder / "gpu.md").read_text(encoding="utf-8"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
