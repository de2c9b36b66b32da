"""The CUDA sources: NVRTC compiles every kernel for the GPUs that are meant, and every kernel that is there is used. Needs no GPU."""

from __future__ import annotations

import re

import pytest

from tinygpt_accel import cuda_sources

FILES = sorted(cuda_sources.INSTANCES)


def test_every_kernel_of_every_source_is_listed() -> None:
    """So that none is left out of what is compiled."""
    assert sorted(path.name for path in cuda_sources.FOLDER.glob("*.cu")) == FILES
    for file in FILES:
        source = (cuda_sources.FOLDER / file).read_text(encoding="utf-8")
        assert sorted(re.findall(r"__global__ void (\w+)\(", source)) == sorted(cuda_sources.INSTANCES[file])


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("file", FILES)
def test_nvrtc_compiles(file: str, architecture: str) -> None:
    """To machine code, with no driver and no device, without a warning."""
    cupy = pytest.importorskip("cupy", reason='needs CuPy: pip install "tinygpt-accel[cuda-compile]"', exc_type=ImportError)
    nvrtc = cupy.cuda.nvrtc
    try:
        nvrtc.getVersion()
    except RuntimeError as problem:
        pytest.skip(f"CuPy finds no NVRTC: {problem}")
    program = nvrtc.createProgram(cuda_sources.text(file), file, [], [])
    for name in cuda_sources.names(file):
        nvrtc.addNameExpression(program, name)
    try:
        nvrtc.compileProgram(program, [f"--gpu-architecture={architecture}", "--std=c++17"])
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    assert "warning" not in nvrtc.getProgramLog(program)
    machine_code = nvrtc.getCUBIN(program)
    for name in cuda_sources.names(file):
        assert nvrtc.getLoweredName(program, name).encode() in machine_code
    nvrtc.destroyProgram(program)
