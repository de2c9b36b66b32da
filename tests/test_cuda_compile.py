"""The CUDA sources: NVRTC compiles every kernel for the GPUs that are meant, and every kernel that is there
is used. Needs no GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from cuda_on_cpu.nvrtc import Nvrtc, libraries

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
        named = re.findall(r"__global__ (?:__launch_bounds__\(\d+\) )?void (\w+)\(", source)
        assert sorted(named) == sorted(cuda_sources.INSTANCES[file])


@pytest.fixture(scope="session", params=libraries() or [""], ids=lambda path: path or "none")
def nvrtc(request: pytest.FixtureRequest) -> Nvrtc:
    """Each NVRTC there is."""
    if not request.param:
        pytest.skip('no NVRTC: pip install . "./tinygpt_accel[cuda-compile]", or folders in TINYGPT_NVRTC')
    return Nvrtc(request.param)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("file", FILES)
def test_nvrtc_compiles(nvrtc: Nvrtc, file: str, architecture: str) -> None:
    """To machine code, with no driver and no device, without a warning."""
    options = [f"--gpu-architecture={architecture}", "--std=c++17"]
    status, log, _ = nvrtc.compile(cuda_sources.text(file), file, cuda_sources.names(file), options)
    assert status == 0 and "warning" not in log, log


def test_nvrtc_refuses_what_older_ones_refuse(nvrtc: Nvrtc) -> None:
    """The compiler is asked for what went wrong once: a generic lambda, which only 13.2 and later take."""
    source = """
    template <typename F> __device__ void apply(float* x, F f) { *x = f(*x); }
    extern "C" __global__ void kernel(float* x) { apply(x, [](auto v) { return v + 1.0f; }); }
    """
    status, log, _ = nvrtc.compile(source, "lambda.cu", [], ["--gpu-architecture=sm_80", "--std=c++17"])
    assert (status == 0) == (nvrtc.version >= (13, 2)), log


@pytest.mark.parametrize("file", FILES)
def test_no_lambda_is_generic(file: str) -> None:
    """See `test_nvrtc_refuses_what_older_ones_refuse`."""
    lambdas = re.findall(r"\[[=&\w, ]*\]\(.*?\)", cuda_sources.text(file))
    assert not [text for text in lambdas if "auto" in text]


def test_the_backend_can_be_imported_without_a_gpu() -> None:
    """Its module and its class, which has all that the base asks of it."""
    pytest.importorskip(
        "cupy", reason='needs CuPy: pip install . "./tinygpt_accel[cuda-compile]"', exc_type=ImportError
    )
    from tinygpt_accel.cuda_backend import cupy_buffer as cupy_backend
    from tinygpt_accel.cuda_backend import step as cuda_step

    kind = cupy_backend.CupyBuffer
    assert kind.training_step is cuda_step.CudaTrainingStep
    wanted = (
        "launch",
        "product",
        "batched_product",
        "_add_at",
        "upload",
        "new_graph_capture",
        "why_not_recorded",
    )
    assert not [name for name in wanted if name not in vars(kind)]


def test_what_a_capture_refuses_is_known() -> None:
    """CUDA's nine errors of captures, and what CuPy raises by itself; nothing else is taken for one."""
    pytest.importorskip(
        "cupy", reason='needs CuPy: pip install . "./tinygpt_accel[cuda-compile]"', exc_type=ImportError
    )
    from cupy.cuda import driver, runtime

    from tinygpt_accel.cuda_backend import cupy_buffer as cupy_backend

    why = cupy_backend.CupyBuffer.why_not_recorded
    said = "calling cuBLAS API during stream capture is currently unsupported"
    assert (
        why(NotImplementedError(said)) == said
        and why(cupy_backend.OutOfMemoryWhileRecording("full")) == "full"
    )
    for problem in (
        RuntimeError(said),
        NotImplementedError("no such thing"),
        MemoryError("full"),
        ValueError(),
    ):
        assert why(problem) == ""

    # Calls of the runtime, and launches of kernels
    for error in (runtime.CUDARuntimeError, driver.CUDADriverError):
        for status in (2, 700, 900, 904, 908, 909):
            assert bool(why(error_of(error, status))) == (900 <= status <= 908), error


def error_of(error: Any, status: int) -> Exception:
    """An error of CUDA's, made without its own way to be made, which asks the driver for its words."""

    class Made(error):  # type: ignore[misc]
        def __init__(self, status: int) -> None:
            self.status = status

    return Made(status)


@pytest.mark.parametrize("is_recording", [False, True])
@pytest.mark.parametrize("refusals", [0, 1, 2])
def test_memory_for_a_recording_that_the_device_has_not(
    monkeypatch: pytest.MonkeyPatch, refusals: int, is_recording: bool
) -> None:
    """What the ordinary pool only keeps is given back first; then a launched step's pool hears of CUDA's
    error, on which it gives back its own and asks again, and a recording ends: its pool keeps what it has.
    """
    pytest.importorskip(
        "cupy", reason='needs CuPy: pip install . "./tinygpt_accel[cuda-compile]"', exc_type=ImportError
    )
    from cupy.cuda import runtime

    from tinygpt_accel.cuda_backend import cupy_buffer as cupy_backend

    said: list[str] = []

    def memory(size: int) -> int:
        said.append("memory")
        if said.count("memory") <= refusals:
            raise error_of(runtime.CUDARuntimeError, cupy_backend.OUT_OF_MEMORY)
        return size

    pool = SimpleNamespace(free_all_blocks=lambda: said.append("free"))
    cuda = SimpleNamespace(Memory=memory, MemoryPointer=lambda memory, offset: (memory, offset))
    fake = SimpleNamespace(cuda=cuda, get_default_memory_pool=lambda: pool)
    monkeypatch.setattr(cupy_backend, "cupy", fake)
    capture = object.__new__(cupy_backend.GraphCapture)
    capture.is_recording = is_recording
    if refusals == 2:
        expected = cupy_backend.OutOfMemoryWhileRecording if is_recording else runtime.CUDARuntimeError
        with pytest.raises(expected) as caught:
            capture._from_device(1 << 20)
        assert not is_recording or "1,048,576 bytes" in str(caught.value)
    else:
        assert capture._from_device(1 << 20) == (1 << 20, 0)
    assert said == ["memory", "free", "memory"][: 1 if not refusals else 3]


@pytest.mark.parametrize("status", [0, 2, 700])
def test_memory_for_the_graph_itself_that_the_device_has_not(status: int) -> None:
    """Where it lacks when a recording ends, that is a recording which cannot be, like one that ran out of
    memory halfway; any other error is raised as it is.
    """
    pytest.importorskip(
        "cupy", reason='needs CuPy: pip install . "./tinygpt_accel[cuda-compile]"', exc_type=ImportError
    )
    from cupy.cuda import runtime

    from tinygpt_accel.cuda_backend import cupy_buffer as cupy_backend

    def end() -> str:
        if status:
            raise error_of(runtime.CUDARuntimeError, status)
        return "graph"

    capture = object.__new__(cupy_backend.GraphCapture)
    capture.stream = SimpleNamespace(begin_capture=lambda mode: None, end_capture=end)
    if not status:
        assert capture.record(lambda: "result") == ("graph", "result")
        return
    with pytest.raises(RuntimeError) as caught:
        capture.record(lambda: "result")
    said = "no memory is left for the graph itself" if status == cupy_backend.OUT_OF_MEMORY else ""
    assert cupy_backend.CupyBuffer.why_not_recorded(caught.value) == said
    assert said or caught.type.__base__ is runtime.CUDARuntimeError


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
    from cupy.cuda import device, driver, runtime

    roots = {"xp": cupy, "cupy": cupy, "cupyx": cupyx, "device": device, "driver": driver, "runtime": runtime}
    found = names_called(roots)
    assert {"xp.empty", "cupy.cuda.Stream"} <= found
    for name in found:
        place: object = roots[name.partition(".")[0]]
        for part in name.split(".")[1:]:
            assert hasattr(place, part), f"CuPy has no {name}"
            place = getattr(place, part)


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
        assert fault == "none"
    for device in ("1", "first"):
        with pytest.raises(ValueError, match=f"no 'cupy:{device}'.*CUDA_VISIBLE_DEVICES"):
            cupy_plugin.factory(device)
