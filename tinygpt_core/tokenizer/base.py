"""What every tokenizer offers, and how tokens are shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from ..files.atomic import Path
from ..printable import replace_control_characters

Pair = tuple[int, int]  # two ids that stand side by side
MAXIMUM_FILE = 256_000_000  # bytes of a file that is read as a tokenizer


class TokenizerError(ValueError):
    """Text, ids or a file that a tokenizer cannot take; the message says what would work."""


def render_token(token: bytes) -> str:
    """Returns the bytes of a token as printable text."""
    return replace_control_characters(token.decode("utf-8", errors="replace"))


class Tokenizer:
    """What every tokenizer offers: `encode`, `decode`, `vocab_size`, special tokens, and calling it on texts
    to get Tensors.

    Attributes:
        special_tokens: texts that stand for one id each and never arise from ordinary text, such as
            "<|endoftext|>".
    """

    kind: ClassVar[str] = ""

    def __init__(self) -> None:
        self.special_tokens: dict[str, int] = {}

    @property
    def vocab_size(self) -> int:
        """How many ids there are: all ids are below it."""
        raise NotImplementedError

    def _missing(self, *arguments: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} is no complete tokenizer")

    # text -> ids; ids -> bytes; () -> the ids that are not special; () -> its JSON fields; JSON fields -> a
    # tokenizer (of the class)
    _encode_ordinary = _decode_bytes = _ordinary_ids = _to_json = _from_json = _missing

    def register_special_tokens(self, special_tokens: Mapping[str, int]) -> None:
        """Sets the special tokens, {text: id}; their ids are not those of ordinary tokens.

        Raises:
            TokenizerError: an empty text, or an id that is taken or negative.
        """
        taken = self._ordinary_ids()
        ids = list(special_tokens.values())
        for text, idx in special_tokens.items():
            if not isinstance(text, str) or not text:
                raise TokenizerError(f"a special token is a string that is not empty, not {text!r:.80}")
            if type(idx) is not int or not 0 <= idx < 1 << 31 or idx in taken or ids.count(idx) > 1:
                raise TokenizerError(
                    f"special token {text!r:.80} needs an id of its own, such as {max(taken) + 1}, not {idx!r:.80}"
                )
        self.special_tokens = dict(special_tokens)

    def encode(
        self, text: str, allowed_special: str | set[str] = "none_raise", visualise: bool = False
    ) -> list[int]:
        """Returns the ids of `text`.

        Args:
            text: any string.
            allowed_special: which special tokens to recognise in it: "all", "none" (they are ordinary text),
                "none_raise" (their presence is an error) or a set of them.
            visualise: also prints the text with its tokens set apart by |.

        Raises:
            TokenizerError: a special token with "none_raise", or text that this tokenizer cannot encode.
            TypeError: `text` is no string.
            ValueError: another `allowed_special`.
        """
        if not isinstance(text, str):
            raise TypeError(f"encode takes a string, not a {type(text).__name__}")
        if allowed_special == "all":
            special = self.special_tokens
        elif allowed_special in ("none", "none_raise"):
            special = {}
            if allowed_special == "none_raise":
                found = next((token for token in self.special_tokens if token in text), None)
                if found is not None:
                    raise TokenizerError(
                        f"the text contains the special token {found!r}: pass allowed_special='all' to encode it as one id, "
                        f"or 'none' to encode it as ordinary text"
                    )
        elif isinstance(allowed_special, (set, frozenset)):
            special = {token: idx for token, idx in self.special_tokens.items() if token in allowed_special}
        else:
            raise ValueError(
                f"allowed_special is 'all', 'none', 'none_raise' or a set, not {allowed_special!r}"
            )
        if not special:
            ids = self._encode_ordinary(text)
        else:
            ids = []
            longest_first = sorted(special, key=len, reverse=True)
            for part in re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text):
                ids.extend((special[part],) if part in special else self._encode_ordinary(part))
        if visualise:
            print("|".join(render_token(self._decode_bytes([idx])) for idx in ids))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of `ids`; bytes that are not valid UTF-8 become U+FFFD.

        Raises:
            TokenizerError: an id that is not in the vocabulary.
        """
        return self._decode_bytes(ids).decode("utf-8", errors="replace")

    def __call__(
        self,
        texts: str | Sequence[str],
        padding_type: str = "none",
        padding_token: str | None = None,
        max_length: int | None = None,
        truncation: bool = False,
        return_attention_mask: bool = False,
        allowed_special: str | set[str] = "none_raise",
    ) -> Any:
        """Encodes one text or several into int32 Tensors.

        Args:
            texts: a text gives a Tensor (length,); a list gives one Tensor (texts, length).
            padding_type: "none", "max_length" (to `max_length`) or "longest" (to the longest of the texts).
            padding_token: the special token to pad with.
            max_length: the longest allowed. truncation: cut longer texts instead of raising.
            return_attention_mask: also return an int32 Tensor with 1 for tokens and 0 for padding.

        Raises:
            TokenizerError: texts of different lengths without padding, no padding token, or a text too long.
            ValueError: another padding_type, or no max_length where one is needed.
        """
        from ..tensor import Tensor  # text and Tensors meet here only

        if padding_type not in ("none", "max_length", "longest"):
            raise ValueError(f"padding_type is 'none', 'max_length' or 'longest', not {padding_type!r}")
        if padding_type == "max_length" and max_length is None:
            raise ValueError("padding_type='max_length' needs a max_length")
        single = isinstance(texts, str)
        rows = [self.encode(text, allowed_special) for text in ([texts] if isinstance(texts, str) else texts)]
        if max_length is not None:
            if not truncation and any(len(row) > max_length for row in rows):
                longest = max(map(len, rows))
                raise TokenizerError(
                    f"a text has {longest} tokens, more than max_length={max_length}: pass truncation=True to cut it"
                )
            rows = [row[:max_length] for row in rows]
        lengths = list(map(len, rows))
        if padding_type != "none":
            if padding_token not in self.special_tokens:
                raise TokenizerError(
                    f"a padding_token is one of the special tokens {list(self.special_tokens)}, not {padding_token!r}"
                )
            width = max_length if padding_type == "max_length" else max(lengths, default=0)
            rows = [row + [self.special_tokens[padding_token]] * (width - len(row)) for row in rows]  # type: ignore[operator]
        elif len(set(lengths)) > 1:
            raise TokenizerError(
                f"texts of {min(lengths)} to {max(lengths)} tokens need padding_type='longest' or 'max_length'"
            )
        from ..dtype import DType

        ids = Tensor(rows[0] if single else rows, dtype=DType.int32)
        if not return_attention_mask:
            return ids
        masks = [[1] * n + [0] * (len(row) - n) for n, row in zip(lengths, rows, strict=True)]
        return ids, Tensor(masks[0] if single else masks, dtype=DType.int32)


def read_text_file(path: Path) -> str:
    """Returns the text of a UTF-8 file that may come from anywhere; raises TokenizerError where it is too
    large or no UTF-8.
    """
    size = os.path.getsize(path)
    if size > MAXIMUM_FILE:
        raise TokenizerError(
            f"{os.fspath(path)} has {size:,} bytes; a tokenizer has at most {MAXIMUM_FILE:,}"
        )
    with open(path, encoding="utf-8") as file:
        try:
            return file.read(size)  # so nothing from a device, which has no size and no end
        except UnicodeDecodeError as problem:
            raise TokenizerError(f"{os.fspath(path)} is not UTF-8: {problem}") from None
