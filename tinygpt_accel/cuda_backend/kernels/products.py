"""Products that wait for the kernel that reads them, so that cuBLASLt can apply what that does; and gradients
of products that are had a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tinygpt_core.shape import Shape

from ..buffer import CudaBuffer, Epilogue, Promised, Waiting, format_of, matrix_layout
from ..sources import SIXTEEN_BIT

ALIGNED = 8  # 16-bit rows of a product begin at multiples of 16 bytes, or cuBLAS takes slower paths


class WaitingProduct(Waiting):
    """out = a b (+ bias), for matrices in one format, with the rows of `out` where cuBLAS is fast.

    cuBLASLt can apply what comes next while it has the product in registers: `launch_gelu`,
    `launch_gelu_gradient`. Where it knows no way for a shape, that is launched by itself.

    Args:
        a, b: the matrices.
        shape: of the Buffer, whose leading axes are the rows of the product.
        fast: whether float32 may be multiplied as TF32.
        bias: a row, or None.

    Source: Hendrycks, Gimpel, "Gaussian Error Linear Units (GELUs)", 2016.
    """

    def __init__(
        self, kind: type[CudaBuffer], a: Any, b: Any, shape: Shape, fast: bool, bias: Any = None
    ) -> None:
        self.a = a
        self.b = b
        self.fast = fast
        self.bias = bias
        fmt = format_of(a)
        self.gap = -shape[-1] % ALIGNED if fmt in SIXTEEN_BIT else 0
        self.promised = Promised.of(shape, fmt, self.gap)
        super().__init__(kind, self.promised)

    def empty(self, rows: int) -> Any:
        """Returns a matrix for so many rows of the product."""
        columns = self.b.shape[1]
        return self.kind.xp.empty((rows, columns + self.gap), self.a.dtype)[:, :columns]

    def _multiply(self, out: Any, epilogue: Epilogue | None = None) -> bool:
        return self.kind.product(self.a, self.b, out, self.fast, epilogue)

    def launch(self) -> Any:
        out = self.empty(len(self.a))
        if self.bias is None:
            self._multiply(out)
        elif not self._multiply(out, Epilogue("bias", self.bias)):
            self._multiply(out)
            rows, columns, stride = matrix_layout(out)
            size = rows * columns
            self.kind.launch_elementwise(
                "add_bias", format_of(out), size, out, self.bias, rows, columns, stride
            )
        return out.reshape(self.out.shape)

    def again(self) -> WaitingProduct:
        """Returns the same work, to be done once more: somebody has written over the result."""
        return WaitingProduct(self.kind, self.a, self.b, self.promised.shape, self.fast, self.bias)

    def rows(self, part: slice) -> Any:
        """Returns some rows of the product, without the bias, computed now and kept nowhere."""
        a = self.a[part]
        out = self.empty(len(a))
        self.kind.product(a, self.b, out, self.fast)
        return out

    def launch_gelu(self, y: Any) -> bool:
        """Launches the product and y = gelu of it, in the tanh form; returns whether it could.

        Source: Hendrycks, Gimpel, "Gaussian Error Linear Units (GELUs)", 2016.
        """
        product = self.empty(len(self.a))
        could = self._multiply(y.reshape(product.shape), Epilogue("gelu", self.bias, product))
        if could:
            self.finish(product.reshape(self.out.shape))
        return could

    def launch_gelu_gradient(self, x: Any, result: Any) -> bool:
        """Launches result = the product times the slope of gelu at x; returns whether it could.

        Source: Hendrycks, Gimpel, "Gaussian Error Linear Units (GELUs)", 2016.
        """
        shape = (len(self.a), self.b.shape[1])
        return self._multiply(result.reshape(shape), Epilogue("gelu_gradient", None, x.reshape(shape)))


class GradientInParts(Waiting):
    """The gradient of a product's result, which whoever wants what comes of it can have a few rows at a time,
    so that the whole never stands in memory.
    """

    def parts(self) -> Iterator[tuple[slice, Any]]:
        """Yields ranges of rows, which follow each other, with the gradient of these rows: a matrix, computed
        now.
        """
        raise NotImplementedError

    def launch(self) -> Any:
        out = self.kind.xp.empty(self.out.shape, self.out.dtype)
        matrix = out.reshape(-1, out.shape[-1])
        for rows, gradient in self.parts():
            matrix[rows] = gradient
        return out


def empty_gradient(kind: type[CudaBuffer], w: Any) -> Any:
    """Returns an empty float32 array of the shape of some weights, which lies as they do: C order or the
    reverse, as that of a tied head.
    """
    is_transposed = w.flags.f_contiguous and not w.flags.c_contiguous
    return kind.xp.empty(w.shape[::-1], "float32").T if is_transposed else kind.xp.empty(w.shape, "float32")


def multiply_into(kind: type[CudaBuffer], a: Any, b: Any, out: Any, fast: bool, add: bool = False) -> None:
    """Writes out = a b, or adds a b to it, whichever way the elements of `out` lie."""
    if out.flags.c_contiguous:
        kind.product(a, b, out, fast, add=add)
    else:
        kind.product(b.T, a.T, out.T, fast, add=add)
