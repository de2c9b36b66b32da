"""Layers whose weights are kept in 16 or 8 bits, and what makes them of the layers of a model.

    model = quantize(load_pretrained("../SmolLM-135M"), "int8")

Such a model computes, and learns no more. Activations, biases and normalizations stay float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ..buffer.base import Buffer
from ..dtype import DType
from ..kernels import quantized as kernels
from ..kernels.base import lookup
from ..kernels.quantized import TYPECODES, QuantizedMatrix, check_dtype
from ..module import Module
from ..tape import is_recording
from ..tensor import Tensor
from .embedding import Embedding
from .linear import FullyConnectedLayer

M = TypeVar("M", bound=Module)
NumbersOf = Callable[[str, Tensor], Iterable[Buffer]]
WEIGHT_DTYPES = ("float32", *TYPECODES)
"""In what the weights of a model that only computes may be kept."""
KEPT = ("position_embedding_layer",)
"""Tables that stay as they are: a GPT adds rows of this one as they lie, and it is small."""


class QuantizedLinear(Module):
    """A linear layer whose weights are kept in 16 or 8 bits: `y = x W^T + b`.

    Args:
        matrix: W, a row for each output.
        bias: b; None where nothing is added.

    Shape:
        (..., columns of W) -> (..., rows of W).

    Raises:
        RuntimeError: when it is called with what requires a gradient: it does not learn.

    Source: Dettmers et al. 2022, https://arxiv.org/abs/2208.07339 (a scale for each row of int8)
    """

    def __init__(self, matrix: QuantizedMatrix, bias: Tensor | None = None) -> None:
        super().__init__()
        self.matrix = matrix
        if bias is not None:
            self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        bias = self.bias.buffer if "bias" in self else None
        return _product(x, bias, self.matrix)

    def why_not_saved(self) -> str:
        """Returns why a file of parameters would not be all of it."""
        return _why_not_saved(self.matrix)

    def _extra_repr(self) -> str:
        output_dims, input_dims = self.matrix.shape
        sizes = f"input_dims={input_dims}, output_dims={output_dims}, bias={'bias' in self}"
        return f"{sizes}, dtype={self.matrix.dtype!r}"


class QuantizedEmbedding(Module):
    """A table of vectors that is kept in 16 or 8 bits: `y[..., :] = W[indices[...], :]`.

    Args:
        matrix: W, a row for each index.

    Shape:
        int (...) -> (..., columns of W).

    Raises:
        TypeError: when it is called: indices that are no integers.
        IndexError: when it is called: an index that is of no row.
        RuntimeError: when `as_linear` is called with what requires a gradient: it does not learn.

    Source: Dettmers et al. 2022, https://arxiv.org/abs/2208.07339 (a scale for each row of int8)
    """

    def __init__(self, matrix: QuantizedMatrix) -> None:
        super().__init__()
        self.matrix = matrix

    def __call__(self, indices: Tensor) -> Tensor:
        kernel = lookup(kernels.QuantizedEmbedding, type(indices.buffer))
        return Tensor(kernel.forward(indices.buffer, matrix=self.matrix)[0])

    def as_linear(self, x: Tensor) -> Tensor:
        """Returns x W^T, of shape (..., rows of W): the head of a model that is tied to this table."""
        return _product(x, None, self.matrix)

    def why_not_saved(self) -> str:
        """Returns why a file of parameters would not be all of it."""
        return _why_not_saved(self.matrix)

    def _extra_repr(self) -> str:
        num_embeddings, embedding_dim = self.matrix.shape
        sizes = f"num_embeddings={num_embeddings}, embedding_dim={embedding_dim}"
        return f"{sizes}, dtype={self.matrix.dtype!r}"


def _product(x: Tensor, bias: Buffer | None, matrix: QuantizedMatrix) -> Tensor:
    if x.requires_grad and is_recording():
        raise RuntimeError(
            f"{matrix.dtype} weights do not learn, and nothing learns through them: "
            "train the model before it is quantized, or compute inside no_grad()"
        )
    kernel = lookup(kernels.QuantizedLinear, type(x.buffer))
    return Tensor(kernel.forward(x.buffer, bias, matrix=matrix)[0])


def _why_not_saved(matrix: QuantizedMatrix) -> str:
    return f"its weights are {matrix.dtype}: save the model that it was made of"


def check_weight_dtype(name: str) -> str:
    """Returns the name of one of `WEIGHT_DTYPES`; raises ValueError for another."""
    if name not in WEIGHT_DTYPES:
        raise ValueError(f"weights are kept in {', '.join(WEIGHT_DTYPES)}, not in {name!r:.80}")
    return name


def quantize(model: M, dtype: str = "int8", numbers_of: NumbersOf | None = None) -> M:
    """Keeps the weights of all linear layers, and the tables of tokens, in 16 or 8 bits; returns the model,
    which then only computes.

    Its other parameters stay float32, and require gradients no more. Ties stay: a head that uses the
    embeddings' weights uses the quantized ones.

    Args:
        model: whose weights are float32; it is changed in place, and not at all where there is an error.
        dtype: "int8" with a scale for each output or vector, or "bfloat16"; see `kernels.quantized`.
        numbers_of: gives the rows of a parameter, given its name and itself, a few after the other: for
            weights that were not loaded. Rows are those of (outputs, inputs) or (ids, size).

    Raises:
        TypeError: weights that are not float32.
        ValueError: another dtype; or weights that are not finite, with the name of the parameter.

    Source: Dettmers et al. 2022, https://arxiv.org/abs/2208.07339
    """
    check_dtype(dtype)
    names = {id(module): name for name, module in model.named_modules()}
    made: dict[int, Module] = {}  # a layer that stands in two places stays one

    def quantized(layer: FullyConnectedLayer | Embedding) -> Module:
        name = names[id(layer)]
        if id(layer) not in made and name.rpartition(".")[2] not in KEPT:
            made[id(layer)] = _quantized(layer, f"{name}." if name else "", dtype, numbers_of or _rows_of)
        return made.get(id(layer), layer)

    layers = model.filter_and_map(Module.valid_child_filter, quantized, _is_layer)
    model.update_modules(layers)
    model.freeze()
    model.eval()
    return model


def _is_layer(module: Module, key: str, value: object) -> bool:
    return type(value) in (FullyConnectedLayer, Embedding)  # others may do more with their weights


def _quantized(
    layer: FullyConnectedLayer | Embedding, prefix: str, dtype: str, numbers_of: NumbersOf
) -> Module:
    if isinstance(layer, Embedding):
        return QuantizedEmbedding(_matrix(layer.embeddings, f"{prefix}embeddings", dtype, numbers_of))
    matrix = _matrix(layer.weights, f"{prefix}weights", dtype, numbers_of)
    return QuantizedLinear(matrix, getattr(layer, "bias", None))


def _matrix(weights: Tensor, name: str, dtype: str, numbers_of: NumbersOf) -> QuantizedMatrix:
    """Returns a parameter of this name in fewer bits."""
    if weights.dtype is not DType.float32:
        raise TypeError(f"{name} is {weights.dtype.name}; only float32 weights are quantized")
    rows, columns = weights.shape if _has_rows(name) else weights.shape[::-1]
    matrix = QuantizedMatrix(dtype, (rows, columns))
    first = 0
    try:
        for block in numbers_of(name, weights):
            lookup(kernels.Quantize, type(block)).forward(block, matrix, first)
            first += block.shape[0]
    except ValueError as problem:
        raise ValueError(f"{name}: {problem}") from None
    return matrix


def _has_rows(name: str) -> bool:
    """Whether the parameter of this name lies as it is kept: a table does, a linear layer's outputs are
    columns.
    """
    return name.endswith("embeddings")


def _rows_of(name: str, weights: Tensor) -> Iterator[Buffer]:
    """Yields a parameter as rows: those of a linear layer are its outputs."""
    yield weights.buffer if _has_rows(name) else weights.buffer.transpose(0, 1)
