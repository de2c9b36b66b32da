"""The CUDA sources compiled for the CPU by g++, behind shim.h: the kernels' own code runs without a GPU, a
fiber for each thread.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy

from tinygpt_accel.cuda_backend import sources as cuda_sources

SHIM = Path(__file__).resolve().parent / "shim.h"
GRID_LIMITS = (2**31 - 1, 65_535, 65_535)  # blocks along x, y and z of a launch
BLOCK_LIMIT = 1024  # threads
FLAGS = ("-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-w")


def why_not() -> str:
    """Returns why the sources cannot be compiled for this CPU, or ""."""
    return "" if shutil.which("g++") else "no g++ to compile CUDA kernels for the CPU"


@cache
def library(file: str) -> tuple[ctypes.CDLL, dict[str, int]]:
    """Returns a source as a shared library, and the number of each kernel by its name without spaces."""
    names = cuda_sources.names(file)
    exports = "\n".join(f"EXPORT({number}, {name})" for number, name in enumerate(names))
    text = f'#include "{SHIM}"\n{cuda_sources.text(file)}\n{exports}\n'
    digest = hashlib.sha256((text + SHIM.read_text(encoding="utf-8") + " ".join(FLAGS)).encode()).hexdigest()[
        :24
    ]
    folder = Path(tempfile.gettempdir()) / f"tinygpt-cuda-on-cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    compiled = folder / f"{Path(file).stem}-{digest}.so"
    if not compiled.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            source = Path(work) / f"{Path(file).stem}.cpp"
            source.write_text(text, encoding="utf-8")
            made = subprocess.run(
                ["g++", *FLAGS, str(source), "-o", f"{work}/made.so"], capture_output=True, text=True
            )
            if made.returncode:
                raise RuntimeError(f"g++ does not compile {file}:\n{made.stderr[:4000]}")
            os.replace(f"{work}/made.so", compiled)
    return ctypes.CDLL(str(compiled)), {name.replace(" ", ""): number for number, name in enumerate(names)}


def check_launch(name: str, grid: tuple[int, ...], block: int) -> None:
    """Raises ValueError for what a device refuses: more blocks than an axis takes, or none; and for threads
    that are too many, or no whole warps.
    """
    for axis, count, most in zip("xyz", grid, GRID_LIMITS, strict=False):
        if not 1 <= count <= most:
            raise ValueError(f"{name}: {count} blocks along {axis}, where 1 to {most} can be launched")
    if block % 32 or not 32 <= block <= BLOCK_LIMIT:
        raise ValueError(f"{name}: a block of {block} threads")


def launch(name: str, types: str, grid: tuple[int, ...], block: int, arguments: tuple[Any, ...]) -> None:
    """Runs a kernel to its end: arrays go as addresses, ints as `long long`, floats as `double`, None as a
    null pointer.
    """
    loaded, numbers = library(cuda_sources.file_of(name))
    function = getattr(loaded, f"kernel_{numbers[f'{name}<{types}>'.replace(' ', '') if types else name]}")
    values: list[Any] = []
    for argument in arguments:
        if isinstance(argument, numpy.ndarray):
            values.append(ctypes.c_void_p(argument.__array_interface__["data"][0]))
        elif isinstance(argument, float):
            values.append(ctypes.c_double(argument))
        else:
            values.append(ctypes.c_longlong(0 if argument is None else argument))
    pointers = (ctypes.c_void_p * max(len(values), 1))(*(ctypes.addressof(value) for value in values))
    wanted = function(pointers, len(values), (ctypes.c_uint * 3)(*grid, *(1,) * (3 - len(grid))), block)
    if wanted >= 0:
        raise TypeError(f"{name} takes {wanted} arguments, not {len(values)}")


def types_of(formats: str) -> str:
    """Returns the C++ types of formats, as in an instance's name."""
    return ",".join(cuda_sources.TYPES[fmt] for fmt in formats.split(",")) if formats else ""
