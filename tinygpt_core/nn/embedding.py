"""Rows of a table, looked up by token id."""

from __future__ import annotations

from .. import operations
from ..module import Module
from ..tensor import Tensor, apply_op
from .arguments import check_size


class Embedding(Module):
    """A table of vectors, looked up by index: `y[..., :] = embeddings[indices[...], :]`.

    Args:
        num_embeddings: rows of the table; indices lie in [0, num_embeddings).
        embedding_dim: size of one vector.
        std: standard deviation of the normal distribution from which the table is initialised.

    Shape:
        int (...) -> (..., embedding_dim).

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, *, std: float = 1.0) -> None:
        super().__init__()
        self.num_embeddings = check_size("num_embeddings", num_embeddings)
        self.embedding_dim = check_size("embedding_dim", embedding_dim)
        self.embeddings = Tensor.normal(
            (num_embeddings, embedding_dim), mean=0.0, std=std, requires_grad=True
        )

    def __call__(self, indices: Tensor) -> Tensor:
        """Returns the rows of the table at some indices.

        Raises:
            TypeError: the indices are no Tensor.
            ValueError: their dtype is not an integer one.
            IndexError: one lies outside [0, num_embeddings).
        """
        if not isinstance(indices, Tensor):
            raise TypeError(f"indices must be a Tensor, but got a {type(indices).__name__}")
        if indices.dtype.kind != "i":
            raise ValueError(
                f"indices must be integers (int32 or int64), but their dtype is {indices.dtype.name}"
            )
        return apply_op(operations.Embedding, self.embeddings, indices)

    def _extra_repr(self) -> str:
        return f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}"
