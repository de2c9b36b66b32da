"""The first run on a GPU: one command, five minutes, and for each promise what to look at.

    python benchmarks/gpu_first.py [--seconds 300]

Nothing need be installed but CuPy, NumPy and, for the last lines, PyTorch: the plug-in is found where it
stands. Each check runs whatever became of those before it, and prints `ok` or `LOOK` with what was seen and
where the code for it is. The figures at the end are for a first impression; those that count come from
`benchmarks/gpu.py`. With `--backend numpy --quick` it runs without a GPU, which shows that it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import gpu  # beside this file; puts the repository on sys.path

from tinygpt_core import Tensor, backends, random
from tinygpt_core.kernels.precision import autocast
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.optimizers import AdamW
from tinygpt_core.tensor import no_grad
from tinygpt_core.training import as_tensors, training_step

SMALL = GPTConfig(vocab_size=61, context_length=32, num_layers=2, num_heads=2, embedding_dim=64, dropout=0.1)


class Skipped(Exception):
    """A check that has nothing to look at here."""


class FirstRun:
    """The checks, in the order in which they are of use.

    Args:
        kind: the Buffer class.
        quick: whether everything is tiny.
    """

    def __init__(self, kind: Any, quick: bool) -> None:
        self.kind = kind
        self.quick = quick
        self.steps = 3 if quick else 8
        self.is_cuda = hasattr(kind, "product")

    def _cuda_only(self) -> None:
        if not self.is_cuda:
            raise Skipped("not on this backend")

    def device(self) -> str:
        """Which GPU, driver and libraries: see plugin.probe where this fails."""
        self._cuda_only()
        from tinygpt_accel.cuda_backend import cublaslt

        free, total = self.kind.memory()
        version = cublaslt.load().library.cublasLtGetVersion()
        return (
            f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free, cuBLASLt {version}, "
            f"{self.kind.shared_memory >> 10} KiB of shared memory a block"
        )

    def kernels(self) -> str:
        """Every instance of every kernel is compiled and found: cupy_buffer._kernel."""
        self._cuda_only()
        from tinygpt_accel.cuda_backend import cupy_buffer, sources

        count = 0
        for instances in sources.INSTANCES.values():
            for name, all_types in instances.items():
                for types in all_types or ("",):
                    formats = [
                        fmt
                        for each in types.split(", ")
                        for fmt in sources.TYPES
                        if sources.TYPES[fmt] == each
                    ]
                    cupy_buffer._kernel(name, ",".join(formats))
                    count += 1
        return f"{count} instances"

    def products(self) -> str:
        """A product in each format against float64, and which epilogues cuBLASLt grants: cublaslt.py.

        What is refused is launched by itself, so the results are right and the step is slower.
        """
        import numpy as np

        self._cuda_only()
        from tinygpt_accel.cuda_backend.buffer import Epilogue

        r = np.random.default_rng(0)
        rows, inner, columns = 256, 64, 128
        a, b = r.normal(size=(rows, inner)), r.normal(size=(inner, columns))
        refused = []
        for fmt, rounding in (("float32", 1e-5), ("bfloat16", 2.0**-7), ("float16", 2.0**-9)):
            x, y = (self.kind(np.asarray(m, np.float32)).in_format(fmt) for m in (a, b))
            out, before = (self.kind.xp.empty((rows, columns), x.dtype) for _ in range(2))
            self.kind.product(x, y, out)
            found = np.array(self.kind.wrap(out, self.kind([1.0]).dtype).to_python())
            wrong = np.max(np.abs(found - a @ b)) / np.max(np.abs(a @ b))
            if not wrong < 2 * rounding:
                raise AssertionError(f"{fmt}: off by {wrong:.2e} of the largest")
            row, sums = self.kind.xp.zeros(columns, x.dtype), self.kind.xp.empty(columns, "float32")
            wide = self.kind.xp.empty((inner, columns), "float32")
            for given, epilogue in (
                ((x, y, out), Epilogue("bias", row)),
                ((x, y, out), Epilogue("gelu", row, before)),
                ((x, y, out), Epilogue("gelu_gradient", None, before)),
                ((x.T, out, wide), Epilogue("column_sums", sums)),
            ):
                if not self.kind.product(*given, False, epilogue):
                    refused.append(f"{epilogue.name} in {fmt}")
        return f"within roundings; epilogues refused: {', '.join(refused) or 'none'}"

    def step(self) -> str:
        """A step is one CUDA graph, and replays what is launched piece by piece bit for bit: step.py."""
        said = []
        for dtype in ("float32", "bfloat16") if self.is_cuda else ("float32",):
            eager, _ = self.losses(dtype, self.steps, graph=False)
            replayed, made = self.losses(dtype, self.steps)
            reason = getattr(made, "reason", "not on this backend")
            if self.is_cuda and (reason or made.recording is None):
                raise AssertionError(f"{dtype}: no graph: {reason or 'nothing was recorded'}")
            if eager != replayed:
                gap = max(abs(a - b) for a, b in zip(eager, replayed, strict=True))
                raise AssertionError(
                    f"{dtype}: losses differ by up to {gap:.2e}. If that is a rounding, cuBLASLt took "
                    "another algorithm while it was recorded; if it is more, something is overwritten"
                )
            said.append(f"{dtype} {replayed[-1]:.4f}")
        return f"losses after {self.steps} steps: {', '.join(said)}"

    def validation(self) -> str:
        """Validations and other lengths between two replays change nothing: buffer.py, rotary.py."""
        import numpy as np

        def between(model: GPT) -> None:
            model.eval()
            kept = random.default_generator().position
            with no_grad(), autocast("bfloat16" if self.is_cuda else "float32"):
                for length in (1, 7, 31):
                    model(Tensor(self.kind(np.zeros((2, length), np.int32)))).sum().item()
            random.default_generator().position = kept
            model.train()

        dtype = "bfloat16" if self.is_cuda else "float32"
        for positions in ("learned", "rotary"):
            config = replace(SMALL, positions=positions)
            expected, _ = self.losses(dtype, self.steps, graph=False, config=config)
            found, _ = self.losses(dtype, self.steps, between=between, config=config)
            if found != expected:
                raise AssertionError(f"{positions} positions: {found} instead of {expected}")
        return "learned and rotary positions"

    def logits(self) -> str:
        """Losses with the logits a few rows at a time are those with all of them: cross_entropy.py."""
        self._cuda_only()
        said = []
        for dtype, most in (("float32", 1e-5), ("bfloat16", 5e-3)):
            expected, _ = self.losses(dtype, self.steps)
            os.environ["TINYGPT_CUDA_LOGIT_ROWS"] = "50"
            try:
                found, made = self.losses(dtype, self.steps)
            finally:
                del os.environ["TINYGPT_CUDA_LOGIT_ROWS"]
            if made.reason:
                raise AssertionError(f"{dtype}: no graph: {made.reason}")
            gap = max(abs(a - b) / b for a, b in zip(found, expected, strict=True))
            if not gap < most:
                raise AssertionError(f"{dtype}: losses differ by {gap:.2e} of them: {found} and {expected}")
            said.append(f"{dtype} within {gap:.1e}")
        return ", ".join(said)

    def against_numpy(self) -> str:
        """Losses from the same weights, data and dropout masks as on NumPy."""
        with backends.use("numpy"):
            expected, _ = self.losses("float32", self.steps)
        found, _ = self.losses("float32", self.steps)
        gap = max(abs(a - b) / b for a, b in zip(found, expected, strict=True))
        if not gap < 1e-4:
            raise AssertionError(f"losses differ by {gap:.2e} of them: {found} and {expected}")
        return f"within {gap:.1e}"

    def losses(
        self, dtype: str, count: int, graph: bool = True, between: Any = None, config: GPTConfig = SMALL
    ) -> tuple[list[float], Any]:
        """Losses of a small model in training and its step; `between(model)` is called between two steps."""
        os.environ["TINYGPT_CUDA_GRAPH"] = str(int(graph))
        random.seed(5)
        model = GPT(config)
        made = training_step(model, AdamW(model, 1e-3), loss_of(model, dtype), 1.0, dtype)
        drawn = windows(config.vocab_size, config.context_length, 4)
        found = []
        for _ in range(count):
            found.append(made([next(drawn), next(drawn)]))
            if between is not None:
                between(model)
        return found, made

    def attention(self) -> str:
        """What computes attention in 16 bits: kernels/flash_attention.py says why it is not cuDNN."""
        self._cuda_only()
        used = gpu.attention_used()
        if used != "cuDNN":
            raise AssertionError(f"batched products, since {used}")
        return used

    def baby(self) -> str:
        """Time of a step of the baby GPT, as a graph and launched piece by piece."""
        return self.timing("baby", 64)

    def gpt2(self) -> str:
        """Time of a step of GPT-2 124M, 16 windows, and the peak of memory."""
        return self.timing("gpt2-124m", 16)

    def timing(self, preset: str, batch_size: int) -> str:
        """Returns the time of a step of a preset in words, as a graph and launched piece by piece."""
        said = []
        config = gpu.config_of(preset, 2 if self.quick else batch_size, self.quick)
        vocabulary = 65 if self.quick else gpu.VOCABULARIES[preset]
        dtype = "bfloat16" if self.is_cuda else "float32"
        for graph in (True, False):
            os.environ["TINYGPT_CUDA_GRAPH"] = str(int(graph))
            random.seed(1)
            model = GPT(config.model_config(vocabulary))
            made = training_step(model, AdamW(model, 1e-3), loss_of(model, dtype), 1.0, dtype)
            drawn = windows(vocabulary, config.context_length, config.batch_size)
            seconds = []
            for _ in range(4 if self.quick else 16):
                batch = next(drawn)
                started = time.perf_counter()
                made([batch])
                seconds.append(time.perf_counter() - started)
            taken = median(seconds[len(seconds) // 2 :])
            tokens = config.batch_size * config.context_length / taken
            said.append(f"{'graph' if graph else 'eager'} {1e3 * taken:.2f} ms ({tokens:,.0f} tokens/s)")
            del made, model
        peak = getattr(self.kind, "peak_memory", None)
        return ", ".join(said) + (f", pools hold {peak() / 2**30:.2f} GiB" if peak else "")


def loss_of(model: GPT, dtype: str) -> Callable[[Any], Tensor]:
    """Returns what gives the sum of the losses of a batch."""
    criterion = CrossEntropyLoss()

    def total_loss(batch: Any) -> Tensor:
        inputs, targets = as_tensors(batch)
        with autocast(dtype):
            return criterion(logits=model(inputs), labels=targets).sum()

    return total_loss


def windows(vocabulary: int, length: int, rows: int) -> Iterator[Any]:
    """Yields batches of ids that something can be learnt from."""
    import numpy as np

    from tinygpt_core.dataset import StreamBatches, TokenStream

    ids = [int(i) for i in np.random.default_rng(2).zipf(1.3, size=length * rows * 3) % vocabulary]
    batches = StreamBatches(TokenStream(ids, vocabulary), length, rows, random.Generator(4))
    while True:
        yield batches.next_batch()


CHECKS = (
    "device",
    "kernels",
    "products",
    "step",
    "validation",
    "logits",
    "against_numpy",
    "attention",
    "baby",
    "gpt2",
)


@contextmanager
def active(name: str) -> Iterator[Any]:
    """Makes a backend active that is found where it stands."""
    with tempfile.TemporaryDirectory() as work:
        sys.path[:0] = gpu.plugged_in(Path(work))
        with backends.use(name) as kind:
            yield kind


def main() -> int:
    """Runs all checks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--backend", default="cupy", help="what to look at (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes (default: the real ones)")
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="after which no check begins (default: %(default)s)"
    )
    options = parser.parse_args()
    started = time.monotonic()
    failed = 0
    with active(options.backend) as kind:
        run = FirstRun(kind, options.quick)
        for name in CHECKS:
            check = getattr(run, name)
            began = time.monotonic()
            if began - started > options.seconds:
                print(f"{name:<14} not begun: the time is over", flush=True)
                continue
            try:
                said = f"ok    {check()}"
            except Skipped as why:
                said = f"-     {why}"
            except Exception as problem:  # the other checks are still worth knowing
                failed += 1
                about = " ".join((check.__doc__ or "").split())
                said = f"LOOK  {type(problem).__name__}: {str(problem)[:600]}\n{'':<15}      {about}"
                traceback.print_exc(limit=-3)
            print(f"{name:<14} {said} [{time.monotonic() - began:.1f} s]", flush=True)
    print(f"{failed} of {len(CHECKS)} checks want a look" if failed else "nothing wants a look")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
