"""Whether each NVRTC compiles each CUDA kernel. Needs no GPU and no driver: NVRTC makes the code of any GPU.

    pip install --no-deps --target FOLDER/12.8 "nvidia-cuda-nvrtc-cu12==12.8.*"
    python benchmarks/nvrtc.py FOLDER

Each version of NVRTC that lies somewhere in the folders compiles every instance of every kernel to machine
code, for an A100 (sm_80) and an H100 (sm_90), with the options with which CuPy is asked to; a warning counts
as an error. With `--before FOLDER` the sources are those of another checkout.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = ("sm_80", "sm_90")


def package_of(library: str) -> str:
    """Returns the name and version of the package that brought a library, or else its file's name."""
    for folder in Path(library).parents:
        for about in folder.glob("nvidia_cuda_nvrtc*.dist-info"):
            name, _, version = about.name.removesuffix(".dist-info").partition("-")
            return f"{name.replace('_', '-')} {version}"
    return Path(library).name


def version_of(package: str) -> list[int]:
    """Returns the numbers of a version, to sort by."""
    return [int(number) for number in re.findall(r"\d+", package.rpartition(" ")[2])]


def compiled(nvrtc: Any, sources: Any, architecture: str) -> str:
    """Returns what a compiler makes of all sources: how many kernels and bytes, or the first line of what it
    says against them.
    """
    count = size = 0
    for file in sorted(sources.INSTANCES):
        options = [f"--gpu-architecture={architecture}", "--std=c++17"]
        status, log, code = nvrtc.compile(sources.text(file), file, sources.names(file), options)
        if status or "warning" in log:
            said = [line for line in log.splitlines() if "error" in line or "warning" in line]
            return f"**{file}: {(said or [log])[0]}**"
        count += len(sources.names(file))
        size += len(code)
    return f"{count} kernels, {size / 1e3:,.0f} kB"


def main() -> int:
    """Prints a line for each NVRTC; returns 1 where one of them refuses something, 2 where there is none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument(
        "folders", nargs="*", metavar="FOLDER", help="where to look (default: what is installed)"
    )
    parser.add_argument(
        "--before", metavar="FOLDER", help="another checkout, whose sources are compiled (default: this)"
    )
    options = parser.parse_args()
    sys.path[:0] = [options.before or str(ROOT), str(ROOT / "tests")]
    sources = importlib.import_module("tinygpt_accel.cuda_backend.sources")
    nvrtc = importlib.import_module("cuda_on_cpu.nvrtc")
    if options.folders:
        os.environ["TINYGPT_NVRTC"] = os.pathsep.join(options.folders)
    found = sorted((version_of(package_of(path)), path) for path in nvrtc.libraries())
    if not found:
        print("no NVRTC there: pip install nvidia-cuda-nvrtc, or name a folder", file=sys.stderr)
        return 2
    print(f"| compiler | {' | '.join(ARCHITECTURES)} | seconds |\n|---|{'---|' * len(ARCHITECTURES)}---|")
    refused = False
    for _, path in found:
        compiler, started = nvrtc.Nvrtc(path), time.perf_counter()
        said = [compiled(compiler, sources, architecture) for architecture in ARCHITECTURES]
        refused |= any("**" in cell for cell in said)
        print(
            f"| {package_of(path)} | {' | '.join(said)} | {time.perf_counter() - started:.0f} |", flush=True
        )
    return int(refused)


if __name__ == "__main__":
    sys.exit(main())
