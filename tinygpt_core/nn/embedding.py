"""Rows of a table, looked up by token id, or by a hash of the last few."""

from __future__ import annotations

from collections.abc import Sequence

from .. import operations
from ..module import Module
from ..tensor import Tensor, apply_op
from .arguments import check_size
from .documents import one_a_row

SCALE = 8.0  # by which `NgramEmbedding` multiplies what its tables hold


class Embedding(Module):
    """A table of vectors, looked up by index: `y[..., :] = embeddings[indices[...], :]`.

    Args:
        num_embeddings: rows of the table; indices lie in [0, num_embeddings).
        embedding_dim: size of one vector.
        std: standard deviation of the normal distribution from which the table is initialised; with 0 it is
            zeros, and nothing is drawn.
        sparse: whether the gradient is kept as the rows that were looked up, and an optimizer leaves the
            others as they are (`Tensor.sparse_grad`, see `optimizers`): for tables of which a batch looks up
            few rows.

    Shape:
        int (...) -> (..., embedding_dim).

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, std: float = 1.0, sparse: bool = False
    ) -> None:
        super().__init__()
        self.num_embeddings = check_size("num_embeddings", num_embeddings)
        self.embedding_dim = check_size("embedding_dim", embedding_dim)
        shape = (num_embeddings, embedding_dim)
        if std == 0.0:
            self.embeddings = Tensor.zeros(shape, requires_grad=True)
        else:
            self.embeddings = Tensor.normal(shape, mean=0.0, std=std, requires_grad=True)
        self.embeddings.sparse_grad = sparse

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
        options = {"sparse": True} if self.embeddings.sparse_grad else {}
        return apply_op(operations.Embedding, self.embeddings, indices, **options)

    def as_linear(self, x: Tensor) -> Tensor:
        """Returns x E^T, of shape (..., num_embeddings): the head of a model that is tied to this table."""
        return apply_op(operations.Linear, x, self.embeddings.transpose(0, 1), None)

    def _extra_repr(self) -> str:
        sizes = f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}"
        return f"{sizes}, sparse=True" if self.embeddings.sparse_grad else sizes


class NgramEmbedding(Module):
    """Hashed n-gram embeddings: a vector for the last two tokens, plus one for the last three, and so on.

        y[b, t] = 8 (sum over k of table_k[row_k(token_(t-k-1), ..., token_t)])

    Each table has fewer rows than there are n-grams: a hash says which row one has (`kernels.ngrams`), and
    n-grams that share a row share its vector. The tables start at zero, and their gradients are sparse
    (`Embedding`): a model with a million numbers in tables takes hardly longer for a step than one without.
    Beside attention, which has to learn what to look at, they are a memory: what follows "th" is looked up.

    A step of Adam moves a weight by about the learning rate, and most rows are looked up a few times only in
    a whole run: the factor 8 lets what they hold grow as fast as that asks for.

    Args:
        table_sizes: the rows of each table: for two tokens, for three, ...
        embedding_dim: size of one vector.

    Shape:
        int (B, T) -> (B, T, embedding_dim).

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1, or no table.

    Source: Pagnoni et al. 2024, "Byte Latent Transformer", https://arxiv.org/abs/2412.09871, section 3.2.1
    """

    def __init__(self, table_sizes: Sequence[int], embedding_dim: int) -> None:
        super().__init__()
        if not table_sizes:
            raise ValueError("table_sizes must name the rows of a table at least, but it is empty")
        self.table_sizes = tuple(check_size("table_sizes", size) for size in table_sizes)
        self.embedding_dim = check_size("embedding_dim", embedding_dim)
        self.tables = [Embedding(size, embedding_dim, std=0.0, sparse=True) for size in self.table_sizes]

    def __call__(self, token_ids: Tensor, past: Tensor | None = None, places: Tensor | None = None) -> Tensor:
        """Returns the sum of the tables' vectors at each position.

        Args:
            token_ids: int (B, T).
            past: int (B, P), the tokens before them, of which the last few are looked at.
            places: int (B, T), where rows have several documents: at which place of its own each token is.
        """
        if places is not None:
            return self._sum(self._rows_of_documents(token_ids, places))
        length = token_ids.shape[1]
        seen = token_ids
        if past is not None:
            start = max(0, past.shape[1] - len(self.table_sizes))
            seen = Tensor.concatenate([past[:, start:], token_ids], 1)
        rows = apply_op(operations.HashNgrams, seen, table_sizes=self.table_sizes)
        first = seen.shape[1] - length
        return self._sum([rows[k, :, first:] for k in range(len(self.tables))])

    def _rows_of_documents(self, token_ids: Tensor, places: Tensor) -> list[Tensor]:
        """Returns, for each table, the rows (B, T) of n-grams that do not reach into another document."""
        apart, where = one_a_row(token_ids, places)
        rows = apply_op(operations.HashNgrams, apart, table_sizes=self.table_sizes).buffer
        flat = rows.reshape((len(self.table_sizes), apart.numel))
        return [Tensor(flat[k].take(where).reshape(token_ids.shape)) for k in range(len(self.table_sizes))]

    def _sum(self, rows: Sequence[Tensor]) -> Tensor:
        vectors = [table(each) for table, each in zip(self.tables, rows, strict=True)]
        total = vectors[0]
        for vector in vectors[1:]:
            total = total + vector
        return total * SCALE

    def _extra_repr(self) -> str:
        return f"table_sizes={self.table_sizes}, embedding_dim={self.embedding_dim}"
