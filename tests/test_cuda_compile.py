"""The CUDA sources: NVRTC compiles every kernel for the GPUs that are meant, and every kernel that is there
is used. Needs no GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest

from tinygpt_accel.cuda_backend import plugin as cupy_plugin
from tinygpt_accel.cuda_backend import sources as cuda_sources
from tinygpt_core.backends import BackendUnavailable

FILES = sorted(cuda_sources.INSTANCES)
CODE = cuda_sources.FOLDER.parent
SHARED = ("array_buffer", "convolution", "philox")  # modules beside it that run on CuPy's arrays, too


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
    cupy = pytest.importorskip(
        "cupy", reason='needs CuPy: pip install . "./tinygpt_accel[cuda-compile]"', exc_type=ImportError
    )
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


def test_the_backend_can_be_imported_without_a_gpu() -> None:
    """Its module, its class and that of a second device; and asking for it says why it cannot run."""
    pytest.importorskip(
        "cupy", reason='needs CuPy: pip install . "./tinygpt_accel[cuda-compile]"', exc_type=ImportError
    )
    from tinygpt_accel.cuda_backend import cupy_buffer as cupy_backend
    from tinygpt_accel.cuda_backend import step as cuda_step

    first, second = cupy_backend.on_device(0), cupy_backend.on_device(1)
    assert issubclass(second, first) and (second.backend, second.device_id) == ("cupy:1", 1)
    assert first.training_step is cuda_step.CudaTrainingStep
    missing = [
        name
        for name in ("launch", "product", "batched_product", "_add_at", "upload", "new_graph_capture")
        if name not in vars(first)
    ]
    assert not missing


def names_called(roots: Iterable[str]) -> set[str]:
    """The dotted names in the plug-in's sources that begin with one of `roots`."""
    # Not plugin.py, which imports no CuPy and calls a string `device`
    files = [path for path in CODE.rglob("*.py") if path.stem != "plugin"]
    files += [CODE.parent / f"{name}.py" for name in SHARED]
    texts = [file.read_text(encoding="utf-8") for file in files]
    return {
        name for text in texts for name in re.findall(rf"(?<![\w.])(?:{'|'.join(roots)})(?:\.\w+)+", text)
    }


def test_every_name_of_cupys_exists() -> None:
    """What the plug-in calls of CuPy's, by its full name or as `xp`, is there, although nothing can call it
    here.
    """
    cupy = pytest.importorskip(
        "cupy", reason='needs CuPy: pip install . "./tinygpt_accel[cuda-compile]"', exc_type=ImportError
    )
    import cupyx
    from cupy.cuda import device, runtime

    roots = {"xp": cupy, "cupy": cupy, "cupyx": cupyx, "device": device, "runtime": runtime}
    found = names_called(roots)
    assert {"xp.empty", "cupy.cuda.Stream"} <= found
    for name in found:
        place: object = roots[name.partition(".")[0]]
        for part in name.split(".")[1:]:
            assert hasattr(place, part), f"CuPy has no {name}"
            place = getattr(place, part)


def test_every_name_of_cublas_exists_and_takes_as_many_arguments() -> None:
    """Those that CuPy has compiled; its library, of half a gigabyte, must be there to import them."""
    libs = pytest.importorskip("cupy_backends.cuda.libs", reason="needs CuPy", exc_type=ImportError)
    try:
        cublas = libs.cublas
    except ImportError as problem:
        pytest.skip(f"CuPy finds no cuBLAS: {problem}")
    found = {name.removeprefix("libs.cublas.") for name in names_called(["libs"]) - {"libs.cublas"}}
    assert "gemmEx" in found
    assert not [name for name in found if not hasattr(cublas, name)]
    # Compiled, so all they say of themselves is this line
    for name, arguments in (("gemmEx", 19), ("gemmStridedBatchedEx", 23)):
        assert getattr(cublas, name).__doc__.splitlines()[0].count(",") == arguments - 1


@pytest.mark.parametrize("fault", ["nothing", "two", "driver", "device", "start", "old", "none"])
def test_the_probe_says_what_is_wrong(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reason names what to install or to look at; a driver is imitated, since none is needed to ask."""

    class Driver:
        def cuInit(self, flags: int) -> int:
            return {"device": 100, "start": 999}.get(fault, 0)

        def cuDeviceGetCount(self, count: Any) -> int:
            count._obj.value = 2
            return 0

        def cuDriverGetVersion(self, version: Any) -> int:
            version._obj.value = 12040 if fault == "old" else 13000
            return 0

    installed = {"nothing": [], "two": ["cupy-cuda12x", "cupy-cuda13x"]}.get(fault, ["cupy-cuda13x"])
    monkeypatch.setattr(cupy_plugin, "_installed", lambda: installed)
    monkeypatch.setattr(cupy_plugin, "_driver", lambda: None if fault == "driver" else Driver())
    expected = {
        "nothing": ("not installed", "[cuda13]"),
        "two": ("cupy-cuda12x and cupy-cuda13x", "uninstall"),
        "driver": ("no NVIDIA driver", "numpy"),
        "device": ("sees no GPU", "CUDA_VISIBLE_DEVICES"),
        "start": ("does not start", "999"),
        "old": ("CUDA 12.4", "cupy-cuda12x"),
        "none": (),
    }[fault]
    reason = cupy_plugin.probe()
    assert all(part in reason for part in expected) and bool(reason) == bool(expected)
    if reason:
        with pytest.raises(BackendUnavailable) as caught:
            cupy_plugin.factory("")
        assert str(caught.value) == reason
    else:
        with pytest.raises(ValueError, match="there is no cupy:2: the driver sees 2 GPUs"):
            cupy_plugin.factory("2")
    with pytest.raises(ValueError, match="cupy:first"):
        cupy_plugin.factory("first")
