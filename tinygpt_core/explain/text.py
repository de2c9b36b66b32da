"""Tokens: what the model expected at each position, and how the tokenizer made them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Any

from ..buffer.base import Buffer
from ..printable import is_printable
from ..tokenizer.base import Tokenizer, render_token
from ..tokenizer.bpe import BPETokenizer, merge_steps
from ..tokenizer.characters import CharTokenizer

TOP = 10
MOST_CHARACTERS = 300  # of a text whose merges are shown


def token_text(tokenizer: Tokenizer | None, idx: int) -> str:
    """Returns a token as text that can be shown; its number where no tokenizer knows it."""
    if tokenizer is None:
        return str(idx)
    try:
        data = tokenizer.decode_bytes([idx])
    except ValueError:
        return str(idx)
    text = data.decode("utf-8", errors="replace")
    return text if is_printable(text, keep="\n\t") else render_token(data)


def plain_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Returns the text of ids, without special tokens; ids that are not in the vocabulary are left out."""
    special = set(tokenizer.special_tokens.values())
    return tokenizer.decode([idx for idx in ids if idx not in special and 0 <= idx < tokenizer.vocab_size])


def predictions(
    tokenizer: Tokenizer | None,
    ids: Sequence[int],
    logits: Buffer,
    targets: Sequence[int],
    ignore_index: int = -1,
    counted: Buffer | None = None,
) -> dict[str, Any]:
    """Returns, for each position, the most probable next tokens, and how probable the one was that came.

    Args:
        tokenizer: gives tokens their texts, where it is known.
        ids: the T tokens that were read.
        logits: floats (T, V).
        targets: the T tokens that came next, `ignore_index` where none did.
        ignore_index: see `targets`.
        counted: floats (T, V), the log-probabilities of a model that counts, which the network builds on:
            then each token also has the probability that counting gives it.
    """
    positions = []
    log_p = [None] * len(targets) if counted is None else counted.to_python()
    for row, target, counts in zip(logits.to_python(), targets, log_p, strict=True):
        total = log_sum_exp(row)
        best = heapq.nlargest(TOP, range(len(row)), key=row.__getitem__)
        entry: dict[str, Any] = {
            "target": None,
            "loss": None,
            "top": [
                [token_text(tokenizer, i), _share(math.exp(row[i] - total)), i, _counted(counts, i)]
                for i in best
            ],
        }
        if target != ignore_index:
            own = row[target]
            rank = 1 + sum(value > own for value in row)
            shown = {
                "text": token_text(tokenizer, target),
                "id": target,
                "probability": _share(math.exp(own - total)),
                "rank": rank,
                "counted": _counted(counts, target),
            }
            entry |= {"target": shown, "loss": _share(total - own)}
        positions.append(entry)
    vocabulary = logits.shape[-1]
    texts = [token_text(tokenizer, idx) for idx in ids]
    return {
        "texts": texts,
        "positions": positions,
        "vocabulary": vocabulary,
        "uniform": _share(math.log(vocabulary)),
        "prompt_length": None,
        "has_counting": counted is not None,
    }


def _counted(log_probabilities: Sequence[float] | None, idx: int) -> float | None:
    return None if log_probabilities is None else _share(math.exp(log_probabilities[idx]))


def log_sum_exp(row: Sequence[float]) -> float:
    """Returns the logarithm of the sum of exp(x) over a row, in doubles, without overflow."""
    largest = max(row)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in row))


def loss_of(logits: Sequence[float], target: int) -> float:
    """Returns the loss of a target in nats: -log of the probability that softmax gives it."""
    return log_sum_exp(logits) - logits[target]


def _share(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def merges(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    """Returns how a tokenizer turns `text` into tokens, merge by merge.

    Returns:
        `kind`, `note`, the `vocabulary` where that is characters, and `chunks` of `pieces` (texts), `ids` and
        `steps` (place, id and text of what two neighbours become).
    """
    text = text[:MOST_CHARACTERS]
    if not isinstance(tokenizer, BPETokenizer):
        known = tokenizer.characters if isinstance(tokenizer, CharTokenizer) else []
        ids = [*range(min(len(known), MOST_CHARACTERS)), *tokenizer.special_tokens.values()]
        return {
            "kind": tokenizer.kind,
            "note": "This tokenizer gives every character a number of its own: there is nothing to merge.",
            "chunks": [
                {"pieces": [token_text(tokenizer, i)], "ids": [i], "steps": []}
                for i in tokenizer.encode(text, "none")
            ],
            "vocabulary": [[token_text(tokenizer, i), i] for i in ids] if known else None,
        }
    chunks = []
    for chunk in tokenizer.chunks(text):
        first = tokenizer.byte_ids(chunk)
        steps = [
            [place, idx, token_text(tokenizer, idx)]
            for place, idx in merge_steps(list(first), tokenizer.merged_id)
        ]
        chunks.append({"pieces": [token_text(tokenizer, idx) for idx in first], "ids": first, "steps": steps})
    note = (
        "The text is first split into pieces, which never merge with each other. "
        "In each piece every byte is a token; then the pair of neighbours that was learned first "
        "becomes one token, again and again, until no neighbours are a known pair."
    )
    return {"kind": "bpe", "note": note, "chunks": chunks, "vocabulary": None}
