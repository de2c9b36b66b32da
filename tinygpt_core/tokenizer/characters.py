"""A number for each character."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..printable import replace_control_characters
from .base import Tokenizer, TokenizerError, joined_surrogates


class CharTokenizer(Tokenizer):
    """One id for each character, in the order of their code points.

    Args:
        characters: the characters that can be encoded; repeats are ignored.

    Attributes:
        characters: those that can be encoded; the place of each is its id.

    Raises:
        TokenizerError: no characters, or one that is not a string of length 1, or is half a surrogate pair.
    """

    kind = "characters"

    def __init__(self, characters: Iterable[str]) -> None:
        super().__init__()
        self.characters: list[str] = sorted(set(characters))
        if any(not isinstance(c, str) or len(c) != 1 for c in self.characters):
            raise TokenizerError("characters are strings of length 1")
        if any("\ud800" <= character <= "\udfff" for character in self.characters):
            raise TokenizerError("half a surrogate pair is no character: `train` reads it as U+FFFD")
        if not self.characters:
            raise TokenizerError("a CharTokenizer needs at least one character: the text is empty")
        self._ids = {character: idx for idx, character in enumerate(self.characters)}

    @classmethod
    def train(cls, text: str) -> CharTokenizer:
        """Returns a tokenizer for the characters of `text`; half a surrogate pair is read as U+FFFD."""
        return cls(joined_surrogates(text))

    @property
    def vocab_size(self) -> int:
        """The characters and the special tokens."""
        return max([len(self.characters) - 1, *self.special_tokens.values()]) + 1

    def _ordinary_ids(self) -> range:
        return range(len(self.characters))

    def _encode_ordinary(self, text: str) -> list[int]:
        try:
            return list(map(self._ids.__getitem__, text))
        except KeyError as problem:
            known = replace_control_characters("".join(self.characters[:100]))
            raise TokenizerError(
                f"the character {problem.args[0]!r} is not among those learned: {known}"
            ) from None

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Returns the characters in UTF-8.

        Raises:
            TokenizerError: an id that is not in the vocabulary.
        """
        special = {idx: text for text, idx in self.special_tokens.items()}
        result = []
        for idx in ids:
            if 0 <= idx < len(self.characters):
                result.append(self.characters[idx])
            elif idx in special:
                result.append(special[idx])
            else:
                raise TokenizerError(f"id {idx} is not in the vocabulary of {self.vocab_size} tokens")
        return "".join(result).encode("utf-8")

    def _to_json(self) -> dict[str, Any]:
        return {"characters": "".join(self.characters)}

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> CharTokenizer:
        characters = value.get("characters")
        if not isinstance(characters, str) or list(characters) != sorted(set(characters)):
            raise TokenizerError("'characters' is a string of different characters in order")
        return cls(characters)
