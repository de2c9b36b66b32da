"""Floor 5: a check for those who write operations."""

from __future__ import annotations

from collections.abc import Callable

from .dtype import DType
from .random import Generator
from .tape import no_grad
from .tensor import Tensor


def check_gradients(
    function: Callable[..., Tensor],
    *tensors: Tensor,
    step: float = 1e-6,
    rtol: float = 1e-4,
    atol: float = 1e-6,
) -> bool:
    """Compares the gradients of `function(*tensors)` with central differences, element by element.

    These are (f(x + h) - f(x - h)) / 2h, computed in float64, whatever the dtype of the tensors, on copies. A
    result that is not a scalar is weighted by fixed random numbers.

    Args:
        function: takes Tensors and returns one.
        tensors: where to compare; integer ones are passed through.
        step: h, relative to max(1, |x|).
        rtol, atol: the difference allowed, atol + rtol |numerical|.

    Returns:
        True.

    Raises:
        AssertionError: gradients differ; it names the first element where they do.
    """
    copies = [
        Tensor(t.buffer.cast(DType.float64), requires_grad=True)
        if t.dtype.kind == "f"
        else Tensor(t.buffer.copy())
        for t in tensors
    ]
    result = function(*copies)
    weights = Tensor(type(result.buffer).uniform(result.shape, 0.5, 1.5, DType.float64, Generator(0)))
    (result * weights).sum().backward()

    def value() -> float:
        with no_grad():
            return float((function(*copies) * weights).sum())

    for position, tensor in enumerate(copies):
        if not tensor.requires_grad:
            continue
        flat = tensor.buffer.reshape((tensor.numel,))  # a view: copies are contiguous
        analytic = tensor.grad.buffer.to_array() if tensor.grad is not None else [0.0] * tensor.numel
        for i in range(tensor.numel):
            x = float(flat[i])
            h = step * max(1.0, abs(x))
            flat[i] = x + h
            above = value()
            flat[i] = x - h
            below = value()
            flat[i] = x
            numerical = (above - below) / (2.0 * h)
            if not abs(analytic[i] - numerical) <= atol + rtol * abs(numerical):
                raise AssertionError(
                    f"gradient of input {position} (shape {tensor.shape}) at flat element {i}: "
                    f"backward says {analytic[i]:.10g}, central differences say {numerical:.10g}"
                )
    return True
