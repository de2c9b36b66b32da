"""Products by cuBLASLt, NVIDIA's library of matrix products that takes the stream and its room for scratch
with each call, so that a CUDA graph can record them, and that does small things to a product while it still
has it in registers (*epilogues*).

It is called through ctypes: CuPy's own calls of cuBLAS refuse to be recorded, and bring no epilogues. The
library is C with opaque handles, so what can go wrong is a number or the type of an argument;
tests/test_cublas compares the numbers with NVIDIA's header where it is installed, and runs this module on a
stand-in for the library that is written in C.

cuBLASLt counts down columns. A matrix whose rows lie one after the other is, read that way, its transpose, so
out = a b is computed as out^T = b^T a^T: `b` is the library's first operand, and the columns of `out` are its
rows.

Source: "cuBLAS: the cuBLASLt API", NVIDIA.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

from .buffer import Epilogue, format_of

# cudaDataType_t
TYPE = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
# cublasComputeType_t
COMPUTE_32F = 68
COMPUTE_64F = 70
COMPUTE_32F_FAST_TF32 = 77
# cublasOperation_t
AS_IT_LIES = 0
TRANSPOSED = 1
# cublasLtMatmulDescAttributes_t
DESC_TRANSA = 3
DESC_TRANSB = 4
DESC_EPILOGUE = 7
DESC_BIAS_POINTER = 8
DESC_EPILOGUE_AUX_POINTER = 11
DESC_EPILOGUE_AUX_LD = 12
# cublasLtMatrixLayoutAttribute_t
LAYOUT_BATCH_COUNT = 5
LAYOUT_STRIDED_BATCH_OFFSET = 6
# cublasLtMatmulPreferenceAttributes_t
PREF_MAX_WORKSPACE_BYTES = 1
PREF_MIN_ALIGNMENT_A_BYTES = 5
PREF_MIN_ALIGNMENT_B_BYTES = 6
PREF_MIN_ALIGNMENT_C_BYTES = 7
PREF_MIN_ALIGNMENT_D_BYTES = 8
# cublasLtEpilogue_t
EPILOGUE = {
    "": 1,  # DEFAULT
    "bias": 4,  # BIAS
    "gelu": 32 | 128,  # GELU_AUX
    "gelu with bias": 32 | 128 | 4,  # GELU_AUX_BIAS
    "gelu_gradient": 64 | 128,  # DGELU
    "column_sums": 256,  # BGRADA
}
STATUS_NOT_SUPPORTED = 15
STATUS_INVALID_VALUE = 7

WORKSPACE_BYTES = 32 << 20  # what NVIDIA recommends for a Hopper
BEST_ALIGNMENT = 256  # bytes, which the library assumes where it is told nothing


class Operand(NamedTuple):
    """A matrix (or n equal ones) as the library is told of it.

    Attributes:
        operation: AS_IT_LIES or TRANSPOSED.
        rows, columns, leading: as it counts them, of what lies there.
        fmt: of the numbers.
        number, distance: of the matrices, in elements.
        alignment: a power of two that divides all addresses where a matrix begins, at most BEST_ALIGNMENT.
    """

    operation: int
    rows: int
    columns: int
    leading: int
    fmt: str
    number: int
    distance: int
    alignment: int


class _HeuristicResult(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algo", ctypes.c_uint64 * 8),
        ("workspaceSize", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("wavesCount", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


class CublasError(RuntimeError):
    """The library reports an error."""


class CublasLt:
    """The library, loaded.

    Args:
        path: of its file.
    """

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)
        void = ctypes.c_void_p
        size = ctypes.c_size_t
        attribute = ctypes.c_int
        out = ctypes.POINTER(ctypes.c_void_p)
        setter = [void, attribute, void, size]
        for name, arguments in {
            "cublasLtCreate": [out],
            "cublasLtMatmulDescCreate": [out, ctypes.c_int, ctypes.c_int],
            "cublasLtMatmulDescSetAttribute": setter,
            "cublasLtMatrixLayoutCreate": [
                out,
                ctypes.c_int,
                ctypes.c_uint64,
                ctypes.c_uint64,
                ctypes.c_int64,
            ],
            "cublasLtMatrixLayoutSetAttribute": setter,
            "cublasLtMatmulPreferenceCreate": [out],
            "cublasLtMatmulPreferenceSetAttribute": setter,
            "cublasLtMatmulPreferenceDestroy": [void],
            "cublasLtMatmulAlgoGetHeuristic": [*[void] * 7, ctypes.c_int, void, ctypes.POINTER(ctypes.c_int)],
            "cublasLtMatmul": [*[void] * 14, size, void],
        }.items():
            function = getattr(self.library, name)
            function.argtypes = arguments
            function.restype = ctypes.c_int
        self.library.cublasLtGetStatusString.restype = ctypes.c_char_p
        self.library.cublasLtGetVersion.restype = ctypes.c_size_t
        self._handle: ctypes.c_void_p | None = None
        self._plans: dict[Any, Plan | None] = {}

    @property
    def handle(self) -> ctypes.c_void_p:
        """The library's handle, made on the first use."""
        if self._handle is None:
            self._handle = self.make("cublasLtCreate")
        return self._handle

    def check(self, status: int, what: str) -> None:
        """Raises CublasError unless a call went well."""
        if status:
            said = self.library.cublasLtGetStatusString(status)
            raise CublasError(f"{what}: {said.decode() if said else status}")

    def make(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """Returns what one of the library's functions creates; raises CublasError where it does not."""
        made = ctypes.c_void_p()
        self.check(getattr(self.library, name)(ctypes.byref(made), *arguments), name)
        return made

    def set(self, name: str, place: Any, attribute: int, value: Any) -> None:
        """Sets an attribute to a value of one of ctypes' types; raises CublasError where it is refused."""
        status = getattr(self.library, name)(place, attribute, ctypes.byref(value), ctypes.sizeof(value))
        self.check(status, f"{name} {attribute}")

    def matmul(
        self,
        kind: Any,
        a: Any,
        b: Any,
        out: Any,
        workspace: Any,
        fast: bool = False,
        scale: float = 1.0,
        epilogue: Epilogue | None = None,
        add: bool = False,
    ) -> bool:
        """Launches out = scale a b, for matrices or for n of them (n, rows, columns), on the current stream;
        with `add` it is added to `out`.

        Returns:
            Whether it could: False where the library knows no way to do the epilogue, and nothing is
            launched.

        Args:
            kind: the Buffer class, which knows addresses and the stream.
            a, b, out: arrays whose matrices have one dense axis each.
            workspace: an array of bytes that nothing else uses meanwhile.
            fast: whether float32 may be multiplied as TF32.

        Raises:
            CublasError: a product without epilogue that the library cannot compute, or an error of its own.
            ValueError: the rows of `out` are not dense.
        """
        fmt = format_of(a)
        first, second, result = (operand_of(kind, x) for x in (b, a, out))
        if result.operation != AS_IT_LIES:
            raise ValueError(f"the rows of a product must be dense, but have the strides {out.strides}")
        compute = COMPUTE_64F if fmt == "float64" else COMPUTE_32F_FAST_TF32 if fast else COMPUTE_32F
        extra = epilogue or Epilogue("")
        name = extra.name + (" with bias" if extra.name == "gelu" and extra.vector is not None else "")
        vector, auxiliary = (
            0 if x is None else int(kind.address_of(x)) for x in (extra.vector, extra.auxiliary)
        )
        leading = 0 if extra.auxiliary is None else operand_of(kind, extra.auxiliary).leading
        described = (first, second, result, compute, name, leading)
        key = (*described, (vector | auxiliary) % 16)
        if key not in self._plans:
            self._plans[key] = Plan.find(self, *described, vector, auxiliary)
        plan = self._plans[key]
        if plan is None:
            if extra.name:
                return False
            raise CublasError(f"cuBLASLt knows no way to compute {described}")
        addresses = [kind.address_of(x) for x in (b, a, out)]
        plan.run(self, addresses, vector, auxiliary, scale, float(add), workspace, kind)
        return True


class Plan:
    """How products of one description are computed: the library's descriptors, and the algorithm it chose."""

    def __init__(
        self, compute: int, descriptor: Any, layouts: list[Any], algorithm: _HeuristicResult
    ) -> None:
        self.descriptor = descriptor
        self.layouts = layouts
        self.algorithm = algorithm
        self.number = ctypes.c_double if compute == COMPUTE_64F else ctypes.c_float

    @classmethod
    def find(
        cls,
        lt: CublasLt,
        first: Operand,
        second: Operand,
        result: Operand,
        compute: int,
        epilogue: str,
        leading: int,
        vector: int,
        auxiliary: int,
    ) -> Plan | None:
        """Returns the plan that the library's heuristic thinks best, or None where it has none."""
        scale = TYPE["float64" if compute == COMPUTE_64F else "float32"]
        descriptor = lt.make("cublasLtMatmulDescCreate", compute, scale)
        for attribute, value in (
            (DESC_TRANSA, ctypes.c_int32(first.operation)),
            (DESC_TRANSB, ctypes.c_int32(second.operation)),
            (DESC_EPILOGUE, ctypes.c_uint32(EPILOGUE[epilogue])),
            (DESC_BIAS_POINTER, ctypes.c_void_p(vector)),
            (DESC_EPILOGUE_AUX_POINTER, ctypes.c_void_p(auxiliary)),
            (DESC_EPILOGUE_AUX_LD, ctypes.c_int64(leading)),
        ):
            if attribute < DESC_BIAS_POINTER or value.value:
                lt.set("cublasLtMatmulDescSetAttribute", descriptor, attribute, value)
        layouts = []
        for operand in (first, second, result):
            layout = lt.make(
                "cublasLtMatrixLayoutCreate",
                TYPE[operand.fmt],
                operand.rows,
                operand.columns,
                operand.leading,
            )
            if operand.number > 1:
                set_layout = "cublasLtMatrixLayoutSetAttribute"
                lt.set(set_layout, layout, LAYOUT_BATCH_COUNT, ctypes.c_int32(operand.number))
                lt.set(set_layout, layout, LAYOUT_STRIDED_BATCH_OFFSET, ctypes.c_int64(operand.distance))
            layouts.append(layout)
        preference = lt.make("cublasLtMatmulPreferenceCreate")
        set_preference = "cublasLtMatmulPreferenceSetAttribute"
        lt.set(set_preference, preference, PREF_MAX_WORKSPACE_BYTES, ctypes.c_uint64(WORKSPACE_BYTES))
        for attribute, operand in (
            (PREF_MIN_ALIGNMENT_A_BYTES, first),
            (PREF_MIN_ALIGNMENT_B_BYTES, second),
            (PREF_MIN_ALIGNMENT_C_BYTES, result),
            (PREF_MIN_ALIGNMENT_D_BYTES, result),
        ):
            lt.set(set_preference, preference, attribute, ctypes.c_uint32(operand.alignment))
        found = _HeuristicResult()
        count = ctypes.c_int()
        status = lt.library.cublasLtMatmulAlgoGetHeuristic(
            lt.handle,
            descriptor,
            *layouts,
            layouts[2],
            preference,
            1,
            ctypes.byref(found),
            ctypes.byref(count),
        )
        lt.check(lt.library.cublasLtMatmulPreferenceDestroy(preference), "cublasLtMatmulPreferenceDestroy")
        if status in (STATUS_NOT_SUPPORTED, STATUS_INVALID_VALUE) or (not status and not count.value):
            return None
        lt.check(status, "cublasLtMatmulAlgoGetHeuristic")
        return None if found.state else cls(compute, descriptor, layouts, found)

    def run(
        self,
        lt: CublasLt,
        addresses: list[int],
        vector: int,
        auxiliary: int,
        scale: float,
        kept: float,
        workspace: Any,
        kind: Any,
    ) -> None:
        """Launches result = scale times the product + kept times the result; `addresses` are those of the two
        operands and the result.
        """
        for attribute, address in ((DESC_BIAS_POINTER, vector), (DESC_EPILOGUE_AUX_POINTER, auxiliary)):
            if address:
                pointer = ctypes.c_void_p(address)
                lt.set("cublasLtMatmulDescSetAttribute", self.descriptor, attribute, pointer)
        first, second, result = addresses
        status = lt.library.cublasLtMatmul(
            lt.handle,
            self.descriptor,
            ctypes.byref(self.number(scale)),
            first,
            self.layouts[0],
            second,
            self.layouts[1],
            ctypes.byref(self.number(kept)),
            result,
            self.layouts[2],
            result,
            self.layouts[2],
            ctypes.byref(self.algorithm),
            kind.address_of(workspace),
            WORKSPACE_BYTES,
            kind.stream_address(),
        )
        lt.check(status, "cublasLtMatmul")


def operand_of(kind: Any, x: Any) -> Operand:
    """Returns how the library is told of an array whose matrices have one dense axis; see `is_operand`."""
    rows, columns = x.shape[-2:]
    down = x.strides[-2] // x.itemsize
    along = x.strides[-1] // x.itemsize
    count = x.shape[0] if x.ndim == 3 else 1
    distance = x.strides[0] // x.itemsize if count > 1 else 0
    address = int(kind.address_of(x)) | distance * x.itemsize | BEST_ALIGNMENT
    alignment = address & -address
    if (along == 1 or columns == 1) and (down >= columns or rows == 1):
        leading = down if rows > 1 else columns
        return Operand(AS_IT_LIES, columns, rows, leading, format_of(x), count, distance, alignment)
    leading = along if columns > 1 else rows
    return Operand(TRANSPOSED, rows, columns, leading, format_of(x), count, distance, alignment)


def is_operand(x: Any) -> bool:
    """Whether the library can be told of an array where it lies: rows or columns that are dense, and of
    several matrices each behind the one before.
    """
    rows, columns = x.shape[-2:]
    down = x.strides[-2] // x.itemsize
    along = x.strides[-1] // x.itemsize
    is_dense_along = (along == 1 or columns == 1) and (down >= columns or rows == 1)
    is_dense_down = (down == 1 or rows == 1) and (along >= rows or columns == 1)
    is_ascending = x.ndim == 2 or x.strides[0] >= 0
    return is_ascending and (is_dense_along or is_dense_down)


@cache
def load() -> CublasLt:
    """Returns the library that `cuda.pathfinder` finds, which CuPy brings along.

    Raises:
        ImportError: there is none.
    """
    from cuda import pathfinder

    try:
        found = pathfinder.load_nvidia_dynamic_lib("cublasLt")
    except pathfinder.DynamicLibNotFoundError as problem:
        raise ImportError(f"cuBLASLt cannot be found: {str(problem).splitlines()[0]}") from problem
    return CublasLt(str(found.abs_path))
