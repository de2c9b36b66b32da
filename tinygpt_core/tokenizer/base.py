"""What every tokenizer offers, and how tokens are shown."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from ..dtype import DType
from ..files.atomic import Path
from ..files.reading import FileTooLargeError, read_limited
from ..printable import replace_control_characters
from ..tensor import Tensor

Pair = tuple[int, int]  # two ids that stand side by side
MAXIMUM_FILE = 256_000_000  # bytes of a file that is read as a tokenizer


class TokenizerError(ValueError):
    """Text, ids or a file that a tokenizer cannot take; the message says what would work."""


def render_token(token: bytes) -> str:
    """Returns the bytes of a token as printable text."""
    return replace_control_characters(token.decode("utf-8", errors="replace"))


def joined_surrogates(text: str) -> str:
    """Returns a text that has bytes in UTF-8: halves of surrogate pairs that stand side by side become the
    character that they mean, and a lone half becomes U+FFFD, as tiktoken does.

    Such halves come from JSON that was cut, and from command lines that are no UTF-8.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def has_surrogates(text: str) -> bool:
    """Whether a text has half a surrogate pair in it, so that it has no bytes in UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in text)


class Tokenizer:
    """What every tokenizer offers: `encode`, `decode`, `vocab_size`, special tokens, and calling it on texts
    to get Tensors.

    A subclass defines `vocab_size`, `decode_bytes` and the methods whose names begin with an underscore.

    Attributes:
        special_tokens: texts that stand for one id each and never arise from ordinary text, such as
            "<|endoftext|>".
    """

    kind: ClassVar[str] = ""

    def __init__(self) -> None:
        self.special_tokens: dict[str, int] = {}

    # ---------------------------------------------------------------- what a subclass defines

    @property
    def vocab_size(self) -> int:
        """How many ids there are: all ids are below it."""
        raise NotImplementedError(f"{type(self).__name__} must define vocab_size")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes of the text of `ids` in UTF-8. Those of one token may end within a character.

        Raises:
            TokenizerError: an id that is not in the vocabulary.
        """
        raise NotImplementedError(f"{type(self).__name__} must define decode_bytes(self, ids)")

    def _encode_ordinary(self, text: str) -> list[int]:
        """Returns the ids of a text in which nothing is a special token."""
        raise NotImplementedError(f"{type(self).__name__} must define _encode_ordinary(self, text)")

    def _ordinary_ids(self) -> Collection[int]:
        """Returns the ids that are not those of special tokens."""
        raise NotImplementedError(f"{type(self).__name__} must define _ordinary_ids(self)")

    def _to_json(self) -> dict[str, Any]:
        """Returns the fields of its own in a file of `save_tokenizer`."""
        raise NotImplementedError(f"{type(self).__name__} must define _to_json(self)")

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> Tokenizer:
        """Returns the tokenizer of such fields, which may come from anywhere."""
        raise NotImplementedError(f"{cls.__name__} must define _from_json(cls, value)")

    # ---------------------------------------------------------------- what all of them do

    def unknown_ids(self, size: int) -> list[int]:
        """Returns the ids below `size` that are no token: a model may have more rows than there are tokens
        (Qwen2's are padded), and there may be holes between ids.
        """
        known = {*self._ordinary_ids(), *self.special_tokens.values()}
        return [idx for idx in range(size) if idx not in known]

    def has_the_tokens_of(self, other: Tokenizer) -> bool:
        """Whether each id means the same text in another tokenizer, and is special in both or in none. How
        they cut a text may differ.
        """
        ids = {*self._ordinary_ids()}
        return (
            self.special_tokens == other.special_tokens
            and ids == {*other._ordinary_ids()}
            and all(self.decode_bytes([idx]) == other.decode_bytes([idx]) for idx in ids)
        )

    def register_special_tokens(self, special_tokens: Mapping[str, int]) -> None:
        """Sets the special tokens, {text: id}; their ids are not those of ordinary tokens.

        Raises:
            TokenizerError: an empty text, one with half a surrogate pair, or an id that is taken or negative.
        """
        taken = self._ordinary_ids()
        used: set[int] = set()
        for text, idx in special_tokens.items():
            if not isinstance(text, str) or not text:
                raise TokenizerError(f"a special token is a string that is not empty, not {text!r:.80}")
            if has_surrogates(text):
                raise TokenizerError(
                    f"special token {text!r:.80} has half a surrogate pair, which is no character: "
                    "no text that is read has it"
                )
            if type(idx) is not int or not 0 <= idx < 1 << 31 or idx in taken or idx in used:
                raise TokenizerError(
                    f"special token {text!r:.80} needs an id of its own, "
                    f"such as {max(taken) + 1}, not {idx!r:.80}"
                )
            used.add(idx)
        self.special_tokens = dict(special_tokens)

    def encode(
        self, text: str, allowed_special: str | set[str] = "none_raise", visualise: bool = False
    ) -> list[int]:
        """Returns the ids of `text`.

        Args:
            text: any string; half a surrogate pair is read as U+FFFD.
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
        text = joined_surrogates(text)
        ids = self._encode_with(text, self._recognised(text, allowed_special))
        if visualise:
            self.visualise_tokens(ids)
        return ids

    def _encode_with(self, text: str, special: Mapping[str, int]) -> list[int]:
        """Returns the ids of a text in which these special tokens are one id each."""
        if not special:
            return self._encode_ordinary(text)
        ids: list[int] = []
        longest_first = sorted(special, key=len, reverse=True)
        for part in re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text):
            if part in special:
                ids.append(special[part])
            else:
                ids += self._encode_ordinary(part)
        return ids

    def _recognised(self, text: str, allowed_special: str | set[str]) -> dict[str, int]:
        """Returns the special tokens that `encode` looks for in `text`."""
        if allowed_special == "all":
            return self.special_tokens
        if allowed_special == "none":
            return {}
        if allowed_special == "none_raise":
            found = next((token for token in self.special_tokens if token in text), None)
            if found is not None:
                raise TokenizerError(
                    f"the text contains the special token {found!r}: pass allowed_special='all' "
                    f"to encode it as one id, or 'none' to encode it as ordinary text"
                )
            return {}
        if isinstance(allowed_special, (set, frozenset)):
            return {token: idx for token, idx in self.special_tokens.items() if token in allowed_special}
        raise ValueError(f"allowed_special is 'all', 'none', 'none_raise' or a set, not {allowed_special!r}")

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of `ids`; bytes that are not valid UTF-8 become U+FFFD.

        Raises:
            TokenizerError: an id that is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        padding_type: str = "none",
        padding_token: str | None = None,
        max_length: int | None = None,
        truncation: bool = False,
        return_attention_mask: bool = False,
        allowed_special: str | set[str] = "all",
        visualise: bool = False,
        *,
        texts: str | Sequence[str] | None = None,
    ) -> Any:
        """Encodes one text or several into an int32 Tensor.

        Args:
            text: one or a list of them.
            padding_type: "none", "max_length" (to `max_length`) or "longest" (to the longest of the texts).
            padding_token: the special token to pad with.
            max_length: what to pad or to cut to; None or -1 for none. Without either it does nothing, as in
                TinyGPT and Hugging Face's tokenizers: a longer text stays as long as it is.
            truncation: cut longer texts to `max_length`.
            return_attention_mask: also return an int32 Tensor with 1 for tokens and 0 for padding.
            allowed_special: as in `encode`; here, special tokens in the texts are recognised by default.
            visualise: also prints the texts with their tokens set apart.
            texts: another name for `text`.

        Shape:
            (texts, length); one text gives (1, length).

        Raises:
            TokenizerError: rows of different lengths, or no padding token.
            ValueError: another padding_type, or no max_length where one is needed.
            TypeError: no text.
        """
        text = texts if text is None else text
        all_texts = [text] if isinstance(text, str) else text
        is_list = isinstance(all_texts, Sequence) and all(isinstance(each, str) for each in all_texts)
        if all_texts is None or not is_list:
            raise TypeError(f"a tokenizer is called with a text, or a list of them, not {text!r:.80}")
        if padding_type not in ("none", "max_length", "longest"):
            raise ValueError(f"padding_type is 'none', 'max_length' or 'longest', not {padding_type!r}")
        if max_length == -1:
            max_length = None
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length is 1 or more, or -1 for no limit, not {max_length}")
        if max_length is None and (truncation or padding_type == "max_length"):
            what = "truncation=True" if truncation else "padding_type='max_length'"
            raise ValueError(f"{what} needs a max_length")
        rows = [self.encode(each, allowed_special, visualise) for each in all_texts]
        if truncation:
            rows = [row[:max_length] for row in rows]
        lengths = [len(row) for row in rows]
        if padding_type != "none":
            if padding_token not in self.special_tokens:
                raise TokenizerError(
                    f"a padding_token is one of the special tokens {list(self.special_tokens)}, "
                    f"not {padding_token!r}"
                )
            padding_id = self.special_tokens[padding_token]
            longest = max(lengths, default=0)
            width = max_length if padding_type == "max_length" and max_length is not None else longest
            rows = [row + [padding_id] * (width - len(row)) for row in rows]
        if len({len(row) for row in rows}) > 1:
            advice = "truncation=True" if padding_type != "none" else "padding_type='longest' or 'max_length'"
            raise TokenizerError(f"texts of {min(lengths)} to {max(lengths)} tokens need {advice}")
        ids = Tensor(rows, dtype=DType.int32)
        if not return_attention_mask:
            return ids
        masks = [[1] * length + [0] * (len(row) - length) for length, row in zip(lengths, rows, strict=True)]
        return ids, Tensor(masks, dtype=DType.int32)

    def visualise_tokens(self, ids: Iterable[int]) -> None:
        """Prints the text of ids with its tokens set apart by |."""
        print("|".join(render_token(self.decode_bytes([idx])) for idx in ids))

    def _visualise_tokens(self, ids: Iterable[int]) -> None:
        """Prints as `visualise_tokens` does, under TinyGPT's name."""
        self.visualise_tokens(ids)


def read_text_file(path: Path, maximum_bytes: int = MAXIMUM_FILE) -> str:
    """Returns the text of a UTF-8 file that may come from anywhere.

    Raises:
        TokenizerError: it is too large, or no UTF-8; the message names the line.
        OSError: it cannot be read.
    """
    try:
        data = read_limited(path, maximum_bytes)
    except FileTooLargeError as problem:
        raise TokenizerError(str(problem)) from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise TokenizerError(
            f"{os.fspath(path)}, line {line}: this is not UTF-8 ({problem.reason})"
        ) from None
