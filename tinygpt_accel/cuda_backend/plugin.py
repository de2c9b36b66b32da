"""The entry point `tinygpt.backends: cupy`. Light: CuPy is imported by `factory` only, and `probe` asks the
driver itself.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import distributions
from typing import Any

from tinygpt_core.backends import BackendUnavailable

description = "CuPy: CUDA kernels, cuBLAS and mixed precision on an NVIDIA GPU"
preference = 20  # above NumPy's 10

# The oldest driver interface (CUDA version, as cuDriverGetVersion counts) with which a CuPy built for a major
# version of CUDA runs.
_OLDEST = {"11": 11000, "12": 12000, "13": 13000}
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def _driver() -> Any:
    """Returns the driver's library, or None where there is none."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


@cache
def _installed() -> list[str]:
    """Returns the names of the installed distributions of CuPy, such as "cupy-cuda13x"."""
    names = {str(found.metadata["Name"]).lower() for found in distributions()}
    return sorted(name for name in names if name == "cupy" or name.startswith("cupy-cuda"))


def _count_devices(driver: Any) -> tuple[int, int]:
    """Returns the driver's error (0: none) and how many devices it sees."""
    count = ctypes.c_int()
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return int(error), count.value


def probe() -> str:
    """Returns why the backend cannot run here, or "". Imports no array library; the driver is asked through
    its own interface.
    """
    installed = _installed()
    driver = _driver()
    if not installed:
        return (
            'CuPy is not installed: pip install . "./tinygpt_accel[cuda13]" in the project\'s folder '
            "(or [cuda12], as the driver allows; nvidia-smi says which)"
        )
    if len(installed) > 1:
        names = " and ".join(installed)
        return f"{names} are installed and overwrite each other: pip uninstall all of them but one"
    if driver is None:
        return (
            f"{installed[0]} is installed, but there is no NVIDIA driver (libcuda.so.1): "
            "install one, or use --backend numpy"
        )
    error, count = _count_devices(driver)
    if error == _NO_DEVICE or (not error and not count):
        return "the NVIDIA driver sees no GPU: check nvidia-smi and $CUDA_VISIBLE_DEVICES"
    if error:
        return f"the NVIDIA driver does not start (CUDA error {error}): see nvidia-smi"
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    built_for = installed[0].removeprefix("cupy-cuda").removesuffix("x")
    if version.value < _OLDEST.get(built_for, 0):
        has = f"{version.value // 1000}.{version.value % 1000 // 10}"
        wanted = f"install cupy-cuda{has.split('.')[0]}x instead, or a newer driver"
        return f"{installed[0]} needs a driver for CUDA {built_for}, and this one knows CUDA {has}: {wanted}"
    return ""


def factory(device: str) -> Any:
    """Returns the Buffer class of the first device that CUDA_VISIBLE_DEVICES shows; `device` is "" or "0".

    Raises:
        ValueError: another device; the message says how to choose one.
        BackendUnavailable: there is no GPU, or CuPy cannot use it; the message says what to install.
    """
    if device not in ("", "0"):
        raise ValueError(
            f"the cupy backend has one device, 'cupy', and no 'cupy:{device}': the environment variable "
            "CUDA_VISIBLE_DEVICES says which GPU that is, as in CUDA_VISIBLE_DEVICES=1"
        )
    if reason := probe():
        raise BackendUnavailable(reason)
    try:
        backend = import_module("tinygpt_accel.cuda_backend.cupy_buffer")
        import_module("tinygpt_accel.cuda_backend.kernels")  # registers them
        import_module("tinygpt_accel.cuda_backend.step")  # and makes it the Buffer class's
        import_module("tinygpt_accel.cuda_backend.cublaslt").load()
    except ImportError as problem:
        raise BackendUnavailable(
            f"CuPy cannot be imported ({problem}): pip install --upgrade {_installed()[0]}[ctk]"
        ) from problem
    backend.prepare()
    return backend.CupyBuffer
