"""How cuBLASLt is called: the module that calls it runs on a stand-in for the library, written in C, and its
numbers are compared with NVIDIA's header where that is installed. Needs no GPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu.backend import narrow, widened
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_accel.cuda_backend import cublaslt
from tinygpt_accel.cuda_backend.buffer import ARRAY_DTYPE, Epilogue

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="no g++ to compile the stand-in for cuBLASLt"
)
ROUNDING = {"float32": 2e-7, "float64": 1e-15, "bfloat16": 2.0**-8, "float16": 2.0**-11}
STREAM = 0x5EED  # which the stand-in asks for


class Kind:
    """What the module asks of a Buffer class."""

    @staticmethod
    def address_of(array: Any) -> int:
        return int(array.__array_interface__["data"][0])

    @staticmethod
    def stream_address() -> int:
        return STREAM


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> cublaslt.CublasLt:
    """The stand-in, loaded as the library is."""
    made = tmp_path_factory.mktemp("cublaslt") / "libcublasLt.so"
    source = Path(__file__).parent / "cuda_on_cpu" / "cublaslt.cpp"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-w"]
    subprocess.run(["g++", *flags, str(source), "-o", str(made)], check=True)
    return cublaslt.CublasLt(str(made))


ROOM = np.zeros(2 * cublaslt.WORKSPACE_BYTES, "uint8")
WORKSPACE = ROOM[: cublaslt.WORKSPACE_BYTES]  # to whose last byte the stand-in writes


def placed(values: np.ndarray, fmt: str, transposed: bool, gap: int, offset: int) -> np.ndarray:
    """A matrix (or n) in a format, whose rows or columns are dense and `gap` elements further apart than they
    need be, and which begins `offset` elements into its memory.
    """
    if transposed:
        return placed(values.swapaxes(-1, -2), fmt, False, gap, offset).swapaxes(-1, -2)
    *outer, rows, columns = values.shape
    wide = np.full((*outer, rows, columns + gap), 7.0)
    wide[..., :columns] = values
    room = np.zeros(wide.size + offset + 256, ARRAY_DTYPE[fmt])
    start = -room.__array_interface__["data"][0] % 256 // room.itemsize + offset
    flat = room[start : start + wide.size]
    narrow(wide.reshape(-1), flat)
    return flat.reshape(wide.shape)[..., :columns]


def beside(x: np.ndarray, gap: int) -> np.ndarray:
    """What lies between the rows of a matrix that `placed` made."""
    shape = (*x.shape[:-1], gap)
    return np.lib.stride_tricks.as_strided(x[..., -1:], (*shape[:-1], gap + 1), x.strides)[..., 1:]


layouts = st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 3))


@settings(max_examples=60, deadline=None)
@given(
    fmt=st.sampled_from(["float32", "float64", "bfloat16", "float16"]),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    count=st.integers(0, 3),
    layout_a=layouts,
    layout_b=layouts,
    gap=st.integers(0, 3),
    wide=st.booleans(),
    scale=st.sampled_from([1.0, 0.125]),
)
def test_products_of_every_layout(
    library: cublaslt.CublasLt,
    fmt: str,
    sizes: Any,
    count: int,
    layout_a: Any,
    layout_b: Any,
    gap: int,
    wide: bool,
    scale: float,
) -> None:
    """out = scale a b, of matrices or of several, as they lie: rows or columns dense, with gaps, anywhere."""
    rows, inner, columns = sizes
    r = np.random.default_rng(rows * 100 + inner * 10 + columns)
    outer = (count,) if count else ()
    a = placed(r.normal(size=(*outer, rows, inner)), fmt, *layout_a)
    b = placed(r.normal(size=(*outer, inner, columns)), fmt, *layout_b)
    form = "float32" if wide and fmt != "float64" else fmt
    out = placed(np.zeros((*outer, rows, columns)), form, False, gap, 0)
    assert cublaslt.is_operand(a) and cublaslt.is_operand(b)
    assert library.matmul(Kind, a, b, out, WORKSPACE, scale=scale)
    expected = scale * widened(a).astype(np.float64) @ widened(b).astype(np.float64)
    assert np.allclose(widened(out), expected, rtol=2 * ROUNDING[form], atol=1e-13)
    if gap:  # and nothing beside it is touched
        assert (widened(beside(out, gap)) == 7.0).all()


@pytest.mark.parametrize("fmt", ["float32", "float64", "bfloat16", "float16"])
def test_a_product_is_added_to_what_is_there(library: cublaslt.CublasLt, fmt: str) -> None:
    """Twice, so that nothing of the first call is kept in the plan; and without `add` it is not."""
    r = np.random.default_rng(1)
    a, b, out = (placed(r.integers(-3, 4, size=size), fmt, False, 0, 0) for size in ((5, 3), (3, 8), (5, 8)))
    product, expected = widened(a) @ widened(b), widened(out).copy()
    for _ in range(2):
        assert library.matmul(Kind, a, b, out, WORKSPACE, add=True)
        expected = expected + product
        assert np.array_equal(widened(out), expected)
    assert library.matmul(Kind, a, b, out, WORKSPACE)
    assert np.array_equal(widened(out), product)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["bias", "gelu", "gelu with bias", "gelu_gradient", "column_sums"]),
    fmt=st.sampled_from(["float32", "bfloat16", "float16"]),
    rows=st.integers(1, 9),
    inner=st.integers(1, 9),
    columns=st.sampled_from([8, 16, 24]),
    transposed=st.booleans(),
)
def test_epilogues(
    library: cublaslt.CublasLt, name: str, fmt: str, rows: int, inner: int, columns: int, transposed: bool
) -> None:
    """What is done to a product, against its definition."""
    from cuda_on_cpu.backend import multiply_with

    r = np.random.default_rng(rows + 10 * inner)
    a = placed(r.normal(size=(rows, inner)), fmt, transposed, 0, 0)
    b = placed(r.normal(size=(inner, columns)), fmt, not transposed, 0, 0)
    out, auxiliary = (placed(r.normal(size=(rows, columns)), fmt, False, 0, 0) for _ in range(2))
    vector = (
        placed(r.normal(size=(1, columns)), fmt, False, 0, 0)[0] if "bias" in name or "sums" in name else None
    )
    with_auxiliary = auxiliary if "gelu" in name else None
    epilogue = Epilogue(name.removesuffix(" with bias"), vector, with_auxiliary)
    wanted = [None if x is None else x.copy() for x in (out, vector, with_auxiliary)]
    multiply_with(epilogue.name, a, b, *wanted)
    assert library.matmul(Kind, a, b, out, WORKSPACE, epilogue=epilogue)
    for found, expected in zip((out, vector, with_auxiliary), wanted, strict=True):
        if found is not None:
            assert np.allclose(
                widened(found), widened(expected), rtol=4 * ROUNDING[fmt], atol=8 * ROUNDING[fmt]
            )


def test_one_plan_serves_other_arrays(library: cublaslt.CublasLt) -> None:
    """Each product has the bias, the auxiliary matrix and the sums of its own call, although the plan for all
    of one description was made for the first; and scratch stays within the workspace.
    """
    r = np.random.default_rng(3)

    def drawn(rows: int, offset: int = 0) -> np.ndarray:
        return placed(r.integers(-3, 4, size=(rows, 8)), "float32", False, 0, offset)

    # All there at a time, so that no two lie in one place; the last with a bias at no multiple of 16 bytes
    calls = [(drawn(8), drawn(8), drawn(8), drawn(1, offset)[0], drawn(8)) for offset in (0, 4, 1)]
    for a, b, out, row, auxiliary in calls:
        assert library.matmul(Kind, a, b, out, WORKSPACE, epilogue=Epilogue("bias", row))
        assert np.array_equal(out, a @ b + row)
        assert library.matmul(Kind, a, b, out, WORKSPACE, epilogue=Epilogue("gelu", row, auxiliary))
        assert np.array_equal(auxiliary, a @ b + row)
        assert library.matmul(Kind, a, b, out, WORKSPACE, epilogue=Epilogue("column_sums", row))
        assert np.array_equal(row, b.sum(0))
    assert WORKSPACE[-1] and not ROOM[cublaslt.WORKSPACE_BYTES :].any()


def test_what_the_library_refuses(library: cublaslt.CublasLt) -> None:
    """An epilogue for which it has no algorithm is answered with False, and nothing is written; a product
    that it cannot compute at all is an error, and so is one whose rows are not dense.
    """
    a, b = (placed(np.ones((8, 8)), "bfloat16", False, 0, 0) for _ in range(2))
    out, auxiliary = (placed(np.zeros((8, 8)), "bfloat16", False, 0, 0) for _ in range(2))
    library.library.stand_in_refuse(cublaslt.EPILOGUE["gelu"])
    try:
        assert not library.matmul(Kind, a, b, out, WORKSPACE, epilogue=Epilogue("gelu", None, auxiliary))
        assert not widened(out).any()
    finally:
        library.library.stand_in_refuse(0)
    ragged = placed(np.zeros((8, 5)), "bfloat16", False, 0, 0)  # an auxiliary matrix must be 8 numbers wide
    narrow_b = placed(np.ones((8, 5)), "bfloat16", False, 0, 0)
    assert not library.matmul(
        Kind, a, narrow_b, ragged.copy(), WORKSPACE, epilogue=Epilogue("gelu", None, ragged)
    )
    with pytest.raises(ValueError, match="rows of a product must be dense"):
        library.matmul(Kind, a, b, np.zeros((8, 8), "uint16").T[:, :], WORKSPACE)
    with pytest.raises(cublaslt.CublasError, match="no way to compute"):
        library.matmul(Kind, a, placed(np.ones((8, 8)), "float16", False, 0, 0), out, WORKSPACE)
    with pytest.raises(cublaslt.CublasError, match="unsupported value"):
        library.set(
            "cublasLtMatmulDescSetAttribute",
            library.make("cublasLtMatmulDescCreate", 68, 0),
            99,
            ctypes.c_int(1),
        )


def test_a_gpus_products_go_to_the_library(
    library: cublaslt.CublasLt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`CupyBuffer` leaves none to CuPy, whose products refuse to be recorded: whatever lies in a way that the
    library cannot be told of is copied, what has no elements is answered without it, and a recording has a
    workspace of its own.
    """
    pytest.importorskip(
        "cupy", reason='needs CuPy: pip install . "./tinygpt_accel[cuda-compile]"', exc_type=ImportError
    )
    from tinygpt_accel.cuda_backend import cupy_buffer

    kind = cupy_buffer.CupyBuffer
    # Of CuPy's functions there is one, which copies
    monkeypatch.setattr(cupy_buffer, "cupy", SimpleNamespace(ascontiguousarray=np.ascontiguousarray))
    monkeypatch.setattr(cublaslt, "load", lambda: library)
    monkeypatch.setattr(kind, "address_of", staticmethod(Kind.address_of))
    monkeypatch.setattr(kind, "stream_address", staticmethod(Kind.stream_address))
    monkeypatch.setattr(cupy_buffer, "_eager_workspace", lambda: WORKSPACE)
    r = np.random.default_rng(2)
    a, b, row = (r.integers(-3, 4, size=size).astype(np.float32) for size in ((8, 6), (6, 16), (16,)))
    wide = r.integers(-3, 4, size=(16, 12)).astype(np.float32)
    out = np.zeros((8, 16), np.float32)
    assert kind.product(a, b, out) and np.array_equal(out, a @ b)
    assert kind.product(wide[::2, ::2], b, out) and np.array_equal(out, wide[::2, ::2] @ b)
    assert kind.product(a, b, out, add=True) and np.array_equal(out, (a + wide[::2, ::2]) @ b)
    assert kind.product(a, b, out, False, Epilogue("bias", row)) and np.array_equal(out, a @ b + row)
    nothing = a[:, :0], b[:0]
    assert kind.product(*nothing, out, add=True) and out.any()
    assert not kind.product(*nothing, out, False, Epilogue("bias", row)) and out.any()
    assert kind.product(*nothing, out) and not out.any()
    assert kind.product(a[:0], b, out[:0]) and not kind.product(a[:0], b, out[:0], epilogue=Epilogue("bias"))
    first, second = (r.integers(-3, 4, size=size).astype(np.float32) for size in ((3, 8, 6), (3, 6, 16)))
    results = np.zeros((3, 8, 16), np.float32)
    for one, other in ((first, second), (first[::-1], second), (first, second[:, ::-1])):
        kind.batched_product(one, other, results, False, 0.5)
        assert np.array_equal(results, 0.5 * (one @ other))
    kind.batched_product(first[..., :0], second[:, :0], results)
    assert not results.any()
    assert cupy_buffer._workspace() is WORKSPACE
    own = SimpleNamespace(workspace=object())
    monkeypatch.setattr(cupy_buffer.GraphCapture, "current", own)
    assert cupy_buffer._workspace() is own.workspace


def headers() -> list[Path]:
    """Every cublasLt.h that is there: in the folders that TINYGPT_CUBLAS names, or installed by a package."""
    folders = [Path(part) for part in os.environ.get("TINYGPT_CUBLAS", "").split(os.pathsep) if part]
    if not folders and (found := importlib.util.find_spec("nvidia")) is not None:
        folders = [Path(part) for part in found.submodule_search_locations or ()]
    return sorted(path for folder in folders for path in folder.rglob("cublasLt.h"))


CHECK = """
#define __cdecl
#include "cublasLt.h"
#include <cstdio>
#include <cstddef>
#define SHOW(name) std::printf(#name " %lld\\n", (long long)(name))
int main() {
NUMBERS
    SHOW(sizeof(cublasLtMatmulHeuristicResult_t));
    SHOW(offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
    SHOW(offsetof(cublasLtMatmulHeuristicResult_t, state));
    SHOW(offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));
}
"""
NUMBERS = {
    "CUDA_R_32F": cublaslt.TYPE["float32"],
    "CUDA_R_64F": cublaslt.TYPE["float64"],
    "CUDA_R_16F": cublaslt.TYPE["float16"],
    "CUDA_R_16BF": cublaslt.TYPE["bfloat16"],
    "CUBLAS_OP_N": cublaslt.AS_IT_LIES,
    "CUBLAS_OP_T": cublaslt.TRANSPOSED,
    "CUBLAS_STATUS_NOT_SUPPORTED": cublaslt.STATUS_NOT_SUPPORTED,
    "CUBLAS_STATUS_INVALID_VALUE": cublaslt.STATUS_INVALID_VALUE,
    "CUBLASLT_EPILOGUE_DEFAULT": cublaslt.EPILOGUE[""],
    "CUBLASLT_EPILOGUE_BIAS": cublaslt.EPILOGUE["bias"],
    "CUBLASLT_EPILOGUE_GELU_AUX": cublaslt.EPILOGUE["gelu"],
    "CUBLASLT_EPILOGUE_GELU_AUX_BIAS": cublaslt.EPILOGUE["gelu with bias"],
    "CUBLASLT_EPILOGUE_DGELU": cublaslt.EPILOGUE["gelu_gradient"],
    "CUBLASLT_EPILOGUE_BGRADA": cublaslt.EPILOGUE["column_sums"],
} | {
    f"{prefix}_{name.partition('_')[2]}": value
    for start, prefix in (
        ("DESC_", "CUBLASLT_MATMUL_DESC"),
        ("LAYOUT_", "CUBLASLT_MATRIX_LAYOUT"),
        ("PREF_", "CUBLASLT_MATMUL_PREF"),
        ("COMPUTE_", "CUBLAS_COMPUTE"),
    )
    for name, value in vars(cublaslt).items()
    if name.startswith(start)
}


@pytest.mark.parametrize("header", headers() or [None], ids=str)
def test_the_numbers_are_those_of_nvidias_header(header: Path | None, tmp_path: Path) -> None:
    """Each enumerator and the layout of the one structure, by a small program that includes it; and the
    library beside it has every function that is called, with as many arguments as the header says.
    """
    if header is None:
        pytest.skip(
            "no cublasLt.h: install nvidia-cublas (half a gigabyte), or name folders in TINYGPT_CUBLAS"
        )
    includes = [
        header.parent,
        *(p.parent for p in Path("/usr/local").glob("cuda*/include/cuda_runtime_api.h")),
    ]
    if len(includes) == 1 and not (header.parent / "library_types.h").exists():
        pytest.skip("the header of cuBLAS includes that of CUDA's runtime, which is not installed")
    (tmp_path / "check.cpp").write_text(
        CHECK.replace("NUMBERS", "\n".join(f"    SHOW({name});" for name in NUMBERS))
    )
    flags = [f"-I{folder}" for folder in includes]
    subprocess.run(["g++", *flags, "check.cpp", "-o", "check"], cwd=tmp_path, check=True)
    shown = subprocess.run([tmp_path / "check"], capture_output=True, text=True, check=True).stdout
    found = {line.rpartition(" ")[0]: int(line.rpartition(" ")[2]) for line in shown.splitlines()}
    result = cublaslt._HeuristicResult
    assert {name: found[name] for name in NUMBERS} == NUMBERS
    assert found["sizeof(cublasLtMatmulHeuristicResult_t)"] == ctypes.sizeof(result)
    for field in ("workspaceSize", "state", "wavesCount"):
        assert found[f"offsetof(cublasLtMatmulHeuristicResult_t, {field})"] == getattr(result, field).offset
    library = next((path for path in header.parent.parent.rglob("libcublasLt.so*")), None)
    assert library is not None
    loaded = cublaslt.CublasLt(str(library))  # which looks every function up
    assert loaded.library.cublasLtGetVersion() >= 120000
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", header.read_text(encoding="utf-8"), flags=re.S)
    for name in re.findall(r"cublasLt\w+", Path(cublaslt.__file__).read_text(encoding="utf-8")):
        function = getattr(loaded.library, name, None) if not name.endswith("_t") else None
        if function is None or function.argtypes is None:
            continue
        declared = re.search(rf"\b{name}\(([^)]*)\);", text)
        assert declared is not None and declared[1].count(",") + 1 == len(function.argtypes), name
