"""From a corpus to batches, in three steps.

1.  The corpus is read: documents, or one long text.
2.  A tokenizer is chosen, or trained on the text.
3.  The tokens become `Documents`, each of which is a row of a batch, or a `Stream`, from which rows are cut.

A folder of token ids has the first two steps behind it: it is a `Stream`. A file of conversations becomes
`Conversations`, by a chat template, see `conversations`.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..dataset.batches import (
    IGNORED_TARGET,
    Batch,
    DocumentBatches,
    StreamBatches,
    evaluation_batches,
    split_train_validation,
)
from ..dataset.conversations import (
    conversation_tokens,
    conversations_digest,
    is_conversation_file,
    read_conversations,
)
from ..dataset.corpora import Corpus, CorpusError, load_corpus
from ..dataset.datasets import DocumentStore
from ..dataset.token_folders import TokenFolder, is_token_folder, open_token_folder
from ..dataset.tokens import TokenStream
from ..random import Generator
from ..tokenizer.base import Tokenizer, TokenizerError
from ..tokenizer.bpe import BPETokenizer
from ..tokenizer.characters import CharTokenizer
from ..tokenizer.chat import ChatTemplate
from ..tokenizer.encoders import ordinary_encoder
from ..tokenizer.files import open_tokenizer
from ..tokenizer.patterns import RegexPatterns
from .config import TrainingConfig
from .conversations import CHAT_TEMPLATE, DATA_STREAM, Conversations, template_of
from .settings import SettingError

BOUNDARY = "<|endoftext|>"  # stands before and after every document


class Data(NamedTuple):
    """What a corpus has become: a tokenizer, batches to train on, and fixed ones to validate on."""

    tokenizer: Any
    is_documents: bool
    training_batches: Any
    validation_batches: list[Batch]
    num_tokens: int
    unigram_entropy: float
    sha256: str
    documents: frozenset[str]  # to tell an invented one from one that was learned by heart
    opening: str  # what a text that nobody began begins with; documents begin after a boundary
    ids_dtype: str | None = None  # how the ids of a token folder were read; None for a corpus of text
    conversations: Conversations | None = None

    def facts(self) -> dict[str, Any]:
        """Returns what a run keeps of its data, as JSON values."""
        kept = {"is_documents": self.is_documents, "opening": self.opening, "sha256": self.sha256}
        if self.conversations is not None:
            kept[CHAT_TEMPLATE] = self.conversations.template.to_json()
        return kept


def prepare_data(
    config: TrainingConfig,
    trained_tokenizer: Any = None,
    sha256: str | None = None,
    template: ChatTemplate | None = None,
) -> Data:
    """Returns the data of a run. It depends on nothing but the settings and the corpus.

    Args:
        config: the settings.
        trained_tokenizer: the tokenizer of the run that is resumed; default: one is chosen or trained.
        sha256: of the corpus of the run that is resumed.
        template: of conversations; default: the one that the settings name, or `plain`.

    Raises:
        ChatError: the template needs jinja2, which is not installed.
        ValueError: the corpus is unknown, empty, too short for the context length, or not the one that was
            expected.
        OSError: a file cannot be read.
    """
    if config.data_file is not None and is_token_folder(config.data_file):
        folder = open_token_folder(config.data_file, trained_tokenizer or config.tokenizer)
        _require_same_corpus(config, sha256, folder.sha256)
        return _data(config, folder.tokenizer, stream_of_folder(folder), folder.sha256, folder.dtype)
    if config.data_file is not None and is_conversation_file(config.data_file):
        return _data_of_conversations(config, config.data_file, trained_tokenizer, sha256, template)
    corpus = load_corpus(config.corpus, config.data_file)
    return data_of_corpus(config, corpus, trained_tokenizer, sha256)


def data_of_corpus(
    config: TrainingConfig, corpus: Corpus, trained_tokenizer: Any = None, sha256: str | None = None
) -> Data:
    """Returns the data of a run on a corpus that is read already; arguments as `prepare_data`.

    Raises:
        ValueError: as `prepare_data`: another corpus than the run's, or one that is too small.
    """
    digest = corpus_digest(corpus)
    _require_same_corpus(config, sha256, digest)
    tokenizer = trained_tokenizer
    if tokenizer is None:
        tokenizer = choose_tokenizer(config, corpus)
    tokens = tokenize(corpus, tokenizer, config.context_length)
    return _data(config, tokenizer, tokens, digest)


def _data_of_conversations(
    config: TrainingConfig, path: str, tokenizer: Any, sha256: str | None, template: ChatTemplate | None
) -> Data:
    """Returns the data of a run on a file of conversations; arguments as `prepare_data`."""
    conversations = read_conversations(path)
    digest = conversations_digest(conversations)
    _require_same_corpus(config, sha256, digest)
    template = template or template_of(config, None, None)
    template.require()
    messages = [conversation.messages for conversation in conversations]
    if tokenizer is None:
        if template.marks:  # which are learned with the text
            texts = [template.render(each, prompt=False) for each in messages]
        else:
            texts = [message.content for each in messages for message in each]
        corpus = Corpus(config.corpus, texts, None)
        tokenizer = choose_tokenizer(config, corpus, template.needed_tokens())
    tokens = conversation_tokens(conversations, tokenizer, template, config.context_length, path)
    if len(tokens) < 2:
        which, advice = "", "add a second line"
        if tokens.num_left_out:
            which = f" with an answer within the context of {config.context_length} tokens"
            advice = "a longer context (--context-length) takes in more"
        raise CorpusError(
            f"{path} has 1 conversation{which}, and training needs 2, one of them for validation: {advice}"
        )
    return _data(config, tokenizer, Conversations(tokens, messages, template), digest)


def _data(
    config: TrainingConfig,
    tokenizer: Any,
    tokens: Documents | Stream | Conversations,
    digest: str,
    ids_dtype: str | None = None,
) -> Data:
    training_batches, validation_batches = tokens.batches(config)
    return Data(
        tokenizer=tokenizer,
        is_documents=isinstance(tokens, Documents),
        training_batches=training_batches,
        validation_batches=validation_batches,
        num_tokens=tokens.num_tokens,
        unigram_entropy=unigram_entropy(tokens.counts),
        sha256=digest,
        documents=frozenset(tokens.texts),
        opening=tokens.opening,
        ids_dtype=ids_dtype,
        conversations=tokens if isinstance(tokens, Conversations) else None,
    )


# ---- the corpus, and a tokenizer for it


def corpus_digest(corpus: Corpus) -> str:
    """Returns the SHA-256 by which a run that is resumed knows its corpus."""
    digest = hashlib.sha256()
    for text in _texts(corpus):
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _texts(corpus: Corpus) -> list[str]:
    return [corpus.text or ""] if corpus.documents is None else corpus.documents


def _require_same_corpus(config: TrainingConfig, expected: str | None, found: str) -> None:
    if expected is not None and expected != found:
        raise ValueError(
            f"the corpus {config.corpus!r} is not the text that the run began with "
            "(another file, or another version of Python?): resume with the same one, or begin a new run"
        )


def choose_tokenizer(
    config: TrainingConfig, corpus: Corpus, special_tokens: Sequence[str] | None = None
) -> Tokenizer:
    """Returns the tokenizer that the settings ask for, trained on the corpus unless it is one that is there.

    Args:
        special_tokens: that it needs; default: what stands between documents, where there are any.

    Raises:
        TokenizerError: there is none where `config.tokenizer` says.
        SettingError: the vocabulary has no room for the special tokens.
    """
    texts = _texts(corpus)
    if special_tokens is None:
        special_tokens = () if corpus.documents is None else (BOUNDARY,)
    tokenizer: Tokenizer
    if config.tokenizer == "characters":
        tokenizer = CharTokenizer.train("".join(texts))
    elif config.tokenizer == "bpe":
        tokenizer = BPETokenizer(RegexPatterns.GPT4)
        room = config.vocab_size - len(special_tokens)
        if room < 256:
            raise SettingError(
                "vocab_size", f" must be at least {256 + len(special_tokens)} here, not {config.vocab_size}"
            )
        tokenizer.train("\n".join(texts), room)
    else:
        tokenizer = open_tokenizer(config.tokenizer)
    # One long text has no boundary in it: a token for it would only be sampled now and then.
    for token in special_tokens:
        if token not in tokenizer.special_tokens:
            tokenizer.register_special_tokens({**tokenizer.special_tokens, token: tokenizer.vocab_size})
    return tokenizer


# ---- its tokens, and the batches that are made of them


def tokenize(corpus: Corpus, tokenizer: Tokenizer, context_length: int) -> Documents | Stream:
    """Returns the tokens of a corpus: as a `Stream` where it is one text, or documents too long for a row."""
    counts: Counter[int] = Counter()
    encode = ordinary_encoder(tokenizer)

    def encoded() -> Iterator[array[int]]:
        for text in _texts(corpus):
            ids = array("I", encode(text))
            counts.update(ids)
            yield ids

    if corpus.documents is None:
        stream = TokenStream(next(encoded()), tokenizer.vocab_size)
        return Stream.split(stream, counts, _opening(corpus))
    boundary_id = tokenizer.special_tokens[BOUNDARY]
    store = DocumentStore(encoded(), tokenizer.vocab_size)
    counts[boundary_id] = len(store)
    mean_is_short = sum(counts.values()) <= 2 * context_length * len(store)
    if mean_is_short:
        return Documents(store, boundary_id, counts, corpus.documents)
    # A row begins with its document, so of documents longer than a row only the beginning would be seen.
    return Stream.split(store.joined(boundary_id), counts, _opening(corpus))


def _opening(corpus: Corpus) -> str:
    """Returns what a text begins with that is to read like one of a corpus."""
    first = _texts(corpus)[0]
    return "\n" if "\n" in first else first[0]


def stream_of_folder(folder: TokenFolder) -> Stream:
    """Returns the tokens of a folder of ids, which stay in its files."""
    try:
        folder.tokenizer.encode("\n")
        opening = "\n"
    except TokenizerError:  # characters without line breaks
        opening = folder.tokenizer.decode(folder.training[:1])
    num_tokens = len(folder.training) + len(folder.validation)
    return Stream(folder.training, folder.validation, folder.counts(), num_tokens, opening)


@dataclass(frozen=True)
class Documents:
    """Short texts, each a row of a batch.

    Attributes:
        store: their tokens.
        boundary_id: of the token before and after each.
        counts: how often each token occurs, the boundary as often as there are documents.
        texts: what they were before they became tokens.
        opening: what a text begins with that nobody began: nothing, since a boundary stands there.
    """

    store: DocumentStore
    boundary_id: int
    counts: Counter[int]
    texts: list[str]
    opening: str = ""

    @property
    def num_tokens(self) -> int:
        """How many tokens there are."""
        return sum(self.counts.values())

    def batches(self, config: TrainingConfig) -> tuple[DocumentBatches, list[Batch]]:
        """Returns the batches to train on, which draw their order, and the fixed ones to validate on.

        Raises:
            ValueError: there are fewer than two documents.
        """
        training, validation = split_train_validation(self.store)
        length = config.context_length
        rows = config.batch_size
        validation_batches = evaluation_batches(
            validation, length, rows, config.eval_batches, self.boundary_id
        )
        generator = Generator(config.seed, stream=DATA_STREAM)
        return DocumentBatches(training, length, rows, generator, self.boundary_id), validation_batches


@dataclass(frozen=True)
class Stream:
    """One long row of tokens, of which a row of a batch is a window.

    Attributes:
        training, validation: the tokens to learn from, and those to validate on.
        counts: how often each token occurs; of a very long stream, of a sample of it.
        num_tokens: how many tokens there are.
        opening: what a text begins with that nobody began.
        texts: nothing, as there are no documents.
    """

    training: TokenStream
    validation: TokenStream
    counts: Counter[int]
    num_tokens: int
    opening: str
    texts: tuple[str, ...] = ()

    @classmethod
    def split(cls, stream: TokenStream, counts: Counter[int], opening: str) -> Stream:
        """Returns a stream whose tail is for validation.

        Raises:
            ValueError: it has fewer than two tokens.
        """
        training, validation = split_train_validation(stream)
        return cls(training, validation, counts, sum(counts.values()), opening)

    def batches(self, config: TrainingConfig) -> tuple[StreamBatches, list[Batch]]:
        """Returns the batches to train on, which draw their places, and the fixed ones to validate on.

        Raises:
            ValueError: a part is shorter than a row.
        """
        length = config.context_length
        rows = config.batch_size
        # The shorter part first: what it complains of is true of both.
        validation_batches = evaluation_batches(self.validation, length, rows, config.eval_batches)
        generator = Generator(config.seed, stream=DATA_STREAM)
        return StreamBatches(self.training, length, rows, generator), validation_batches


def unigram_entropy(counts: dict[int, int]) -> float:
    """Returns the loss, in nats a token, of the best model that ignores context.

    With the shares p_i = count_i / total it is `-sum_i p_i log p_i`.
    """
    total = sum(counts.values())
    return -math.fsum(count / total * math.log(count / total) for count in counts.values() if count)


def bits_per_byte(data: Data, val_loss: float) -> float | None:
    """Returns the loss on the validation batches in bits for each byte of their text, which can be compared
    between tokenizers.

        bits = val_loss N / (B ln 2)    for N tokens that stand for B bytes of UTF-8

    Special tokens, such as what stands between documents, count with their loss, and stand for no byte.

    Args:
        data: of the run.
        val_loss: in nats a token.

    Returns:
        None where the text has no bytes.
    """
    counts: Counter[int] = Counter()
    for batch in data.validation_batches:
        counts.update(batch.targets)
    del counts[IGNORED_TARGET]
    special = set(data.tokenizer.special_tokens.values())
    num_bytes = sum(
        count * len(data.tokenizer.decode_bytes([token]))
        for token, count in counts.items()
        if token not in special
    )
    return val_loss * counts.total() / (num_bytes * math.log(2.0)) if num_bytes else None
