"""Several documents in one row: each position sees those of its own document only.

`documents` (B, T) says which document a position is of. With documents a and b in a row, attention's mask is
two triangles, so that b gets the numbers that it gets alone:

                   key  a  a  b  b  b
          query a     [ #  .  .  .  . ]     # a weight
                a     [ #  #  .  .  . ]     . 0
                b     [ .  .  #  .  . ]
                b     [ .  .  #  #  . ]
                b     [ .  .  #  #  # ]

Learned positions and n-grams begin anew with each document. Rotary positions go on: they only tell distances.

Source: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination",
https://arxiv.org/abs/2107.02027
"""

from __future__ import annotations

import math
from array import array

from ..buffer.base import Buffer
from ..dtype import DType
from ..kernels.attention import Attention, WindowedAttention
from ..shape import ShapeError
from ..tensor import Tensor


def check_documents(documents: Tensor, token_ids: Tensor) -> None:
    """Raises TypeError or ShapeError unless documents are integers of the shape of the ids."""
    if documents.dtype.kind != "i":
        raise TypeError(f"documents are integers, not {documents.dtype.name}")
    if documents.shape != token_ids.shape:
        raise ShapeError(f"documents of shape {documents.shape} do not fit ids of shape {token_ids.shape}")


def document_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Tensor,
    *,
    window: int | None = None,
    soft_cap: float | None = None,
    scale: float | None = None,
) -> Tensor:
    """Returns `softmax(c tanh(Q K^T scale / c) + M) V` for each head, with M[i, j] = 0 where j <= i, j is
    among the last `window` positions and of the same document as i, and -inf elsewhere.

    Composed of operations that every backend has; c is soft_cap, and without it the scores are Q K^T scale.

    Args:
        query, key, value: floats (B, H, T, D).
        documents: integers (B, T).
        window, soft_cap: None for none.
        scale: by which scores are multiplied; None means 1 / sqrt(D).

    Shape:
        (B, H, T, D).
    """
    scores = query @ key.transpose(2, 3) * Attention.scale_of(query.buffer, scale)
    if soft_cap is not None:
        scores = (scores * (1.0 / soft_cap)).tanh() * soft_cap
    batch_size, length = documents.shape
    later = WindowedAttention.is_hidden(scores.buffer, window)
    of_queries = documents.buffer.reshape((batch_size, 1, length, 1))
    of_keys = documents.buffer.reshape((batch_size, 1, 1, length))
    hidden = Buffer.where(of_queries == of_keys, later, True)
    return scores.masked_fill(Tensor(hidden), -math.inf).softmax(axis=3) @ value


def positions_in(documents: Tensor) -> Tensor:
    """Returns, for documents (B, T), at which place of its document each position is: int32 (B, T)."""
    flat = documents.buffer.to_array()
    length = documents.shape[1]
    places = array("i")
    for number, document in enumerate(flat):
        goes_on = number % length != 0 and flat[number - 1] == document
        places.append(places[-1] + 1 if goes_on else 0)
    kind = type(documents.buffer)
    return Tensor(kind.from_array(places, documents.shape, DType.int32))


def one_a_row(token_ids: Tensor, places: Tensor) -> tuple[Tensor, Buffer]:
    """Returns ids with a row for each document, padded at the end, and where each position of the packed
    rows lies there.

    Args:
        token_ids: integers (B, T).
        places: of `positions_in`.

    Returns:
        Integers (documents, longest), and flat int64 (B T).
    """
    ids = token_ids.buffer.to_array()
    flat = places.buffer.to_array()
    longest = max(flat, default=-1) + 1
    count = 0
    found = array("q")
    for place in flat:
        count += place == 0
        found.append((count - 1) * longest + place)
    apart = array("i", bytes(4 * count * longest))
    for idx, where in zip(ids, found, strict=True):
        apart[where] = idx
    kind = type(token_ids.buffer)
    rows = Tensor(kind.from_array(apart, (count, longest), DType.int32))
    return rows, kind.from_array(found, (len(found),), DType.int64)
