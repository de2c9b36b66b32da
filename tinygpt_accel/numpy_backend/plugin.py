"""The entry point `tinygpt.backends: numpy`. Light: NumPy is imported by `factory` only."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tinygpt_core.backends import BackendUnavailable

from .memory import keep_freed_memory

description = "NumPy: BLAS products and fused kernels on the CPU"
preference = 10  # above the reference's 0, so that `tinygpt train` takes it where it can run


def probe() -> str:
    """Returns why the backend cannot run here, or ""."""
    return "" if find_spec("numpy") else "NumPy is not installed: pip install numpy"


def factory(device: str) -> Any:
    """Returns the Buffer class; raises BackendUnavailable where NumPy cannot be imported.

    Raises:
        ValueError: a device, of which NumPy has none.
    """
    if device:
        raise ValueError(f"the numpy backend has no devices, so 'numpy:{device}' means nothing: use 'numpy'")
    # After a product OpenBLAS's threads spin for milliseconds on the core that the next elementwise step
    # wants: 2^16 cycles will do. Without threadpoolctl they are woken for each small product of attention,
    # which would take three times as long if they had gone to sleep.
    if find_spec("threadpoolctl") is not None:
        os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")
    try:
        backend = import_module("tinygpt_accel.numpy_backend.buffer")
        import_module("tinygpt_accel.numpy_backend.kernels")  # registers them
    except ImportError as problem:
        raise BackendUnavailable(f"NumPy cannot be imported ({problem}): pip install numpy") from problem
    keep_freed_memory()
    return backend.NumpyBuffer
