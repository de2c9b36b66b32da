"""Products that wait for the kernel that reads them, so that cuBLASLt can apply what that does."""

from __future__ import annotations

from typing import Any

from ..buffer import CudaBuffer, Epilogue, Waiting, format_of, matrix_layout


class WaitingProduct(Waiting):
    """out = a b (+ bias), for matrices.

    cuBLASLt can apply what comes next while it has the product in registers: `launch_gelu`,
    `launch_gelu_gradient`. Where it knows no way for a shape, that is launched by itself.

    Source: Hendrycks, Gimpel, "Gaussian Error Linear Units (GELUs)", 2016.
    """

    def __init__(
        self, kind: type[CudaBuffer], a: Any, b: Any, out: Any, shape: Any, fast: bool, bias: Any = None
    ) -> None:
        self.a = a
        self.b = b
        self.product = out  # the matrix of which `out` is a view with the shape of the Buffer
        self.fast = fast
        self.bias = bias
        super().__init__(kind, out.reshape(shape))

    def _multiply(self, out: Any, epilogue: Epilogue | None = None) -> bool:
        return self.kind.product(self.a, self.b, out, self.fast, epilogue)

    def launch(self) -> None:
        self.launch_into(self.product)

    def launch_into(self, out: Any) -> None:
        """Launches the product, with the bias, into a matrix."""
        if self.bias is None:
            self._multiply(out)
        elif not self._multiply(out, Epilogue("bias", self.bias)):
            self._multiply(out)
            rows, columns, stride = matrix_layout(out)
            size = rows * columns
            self.kind.launch_elementwise(
                "add_bias", format_of(out), size, out, self.bias, rows, columns, stride
            )

    def launch_gelu(self, y: Any) -> bool:
        """Launches the product and y = gelu of it, in the tanh form; returns whether it could.

        Source: Hendrycks, Gimpel, "Gaussian Error Linear Units (GELUs)", 2016.
        """
        matrix = y.reshape(self.product.shape)
        self.is_done = self._multiply(matrix, Epilogue("gelu", self.bias, self.product))
        return self.is_done

    def launch_gelu_gradient(self, x: Any, result: Any) -> bool:
        """Launches result = the product times the slope of gelu at x; returns whether it could.

        Source: Hendrycks, Gimpel, "Gaussian Error Linear Units (GELUs)", 2016.
        """
        matrix = result.reshape(self.product.shape)
        return self._multiply(matrix, Epilogue("gelu_gradient", None, x.reshape(self.product.shape)))


class ProductAgain(Waiting):
    """A product whose result somebody has written over: it is computed again, elsewhere."""

    def __init__(self, product: WaitingProduct) -> None:
        self.product = product
        super().__init__(product.kind, product.out)

    def launch(self) -> None:
        product = self.product
        rows, columns, stride = matrix_layout(product.product)
        out = self.kind.xp.empty((rows, stride), product.product.dtype)[:, :columns]
        product.launch_into(out)
        self.out = out.reshape(product.out.shape)
