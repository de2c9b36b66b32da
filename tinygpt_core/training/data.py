"""From a corpus to batches: the text is read, a tokenizer chosen or trained, the tokens split and cut into
rows.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from .. import dataset, random, tokenizer
from ..dataset import corpora, token_folders
from ..tokenizer import encoders
from .config import TrainingConfig

BOUNDARY = "<|endoftext|>"  # stands before and after every document
# Random stream of the run's seed for the order of the data; stream 0 is for weights and dropout
DATA_STREAM = 1


class Data(NamedTuple):
    """What a corpus has become: a tokenizer, batches to train on, and fixed ones to validate on."""

    tokenizer: Any
    is_documents: bool
    training_batches: Any
    validation_batches: list[dataset.Batch]
    num_tokens: int
    unigram_entropy: float
    sha256: str
    documents: frozenset[str]  # to tell an invented one from one that was learned by heart
    opening: str  # what a text that nobody began begins with; documents begin after a boundary


def unigram_entropy(counts: dict[int, int]) -> float:
    """The loss, in nats a token, of the best model that ignores context: `-sum_i p_i log p_i` with p_i =
    count_i / total.
    """
    total = sum(counts.values())
    return -math.fsum(count / total * math.log(count / total) for count in counts.values() if count)


def prepare_data(config: TrainingConfig, trained_tokenizer: Any = None, sha256: str | None = None) -> Data:
    """Read the corpus, turn it into tokens and split it; nothing here depends on anything but the settings
    and the text.

    Args:
        config: the settings.
        trained_tokenizer: the tokenizer of the run that is resumed; default: one is trained on the corpus.
        sha256: of the text of the run that is resumed.

    Raises:
        ValueError: the corpus is unknown, empty, too short for the context length, or not the text that was
            expected.
        OSError: a file cannot be read.
    """
    import hashlib

    if token_folders.is_token_folder(config.data_file):
        return _token_data(config, trained_tokenizer, sha256)
    corpus = corpora.load_corpus(config.corpus, config.data_file)
    texts = [corpus.text or ""] if corpus.documents is None else corpus.documents
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    _require_same(config, sha256, digest.hexdigest())
    if trained_tokenizer is None:
        trained_tokenizer = _train_tokenizer(config, texts, boundaries=corpus.documents is not None)
    boundary = -1 if corpus.documents is None else trained_tokenizer.special_tokens[BOUNDARY]
    counts: Counter[int] = Counter()
    encode = encoders.ordinary_encoder(trained_tokenizer)

    def encoded() -> Iterator[array[int]]:
        for text in texts:
            ids = array("I", encode(text))
            counts.update(ids)
            yield ids

    generator, shape = (
        random.Generator(config.seed, stream=DATA_STREAM),
        (config.context_length, config.batch_size),
    )
    batches: dataset.DocumentBatches | dataset.StreamBatches
    is_documents = corpus.documents is not None
    if is_documents:
        store = dataset.DocumentStore(encoded(), trained_tokenizer.vocab_size)
        counts[boundary] = len(store)
        # Rows begin with their document, so of documents longer than the context only the beginning would
        # ever be seen.
        is_documents = sum(counts.values()) <= 2 * config.context_length * len(store)
    if is_documents:
        documents, validation = dataset.split_train_validation(store)
        validating = dataset.evaluation_batches(validation, *shape, config.eval_batches, boundary)
        batches = dataset.DocumentBatches(documents, *shape, generator, boundary)
    else:
        stream = (
            store.joined(boundary)
            if corpus.documents
            else dataset.TokenStream(next(encoded()), trained_tokenizer.vocab_size)
        )
        training, tail = dataset.split_train_validation(stream)
        # The shorter part, whose complaint fits both
        validating = dataset.evaluation_batches(tail, *shape, config.eval_batches)
        batches = dataset.StreamBatches(training, *shape, generator)
    return Data(
        tokenizer=trained_tokenizer,
        is_documents=is_documents,
        training_batches=batches,
        validation_batches=validating,
        num_tokens=sum(counts.values()),
        unigram_entropy=unigram_entropy(counts),
        sha256=digest.hexdigest(),
        documents=frozenset(texts if is_documents else ()),
        opening="" if is_documents else "\n" if "\n" in texts[0] else texts[0][0],
    )


def _require_same(config: TrainingConfig, expected: str | None, found: str) -> None:
    if expected not in (None, found):
        raise ValueError(
            f"the corpus {config.corpus!r} is not the text that the run began with (another file, or another version of Python?): "
            "resume with the same one, or begin a new run"
        )


def _token_data(config: TrainingConfig, trained_tokenizer: Any, sha256: str | None) -> Data:
    """What `prepare_data` does with a folder of token ids: they are one stream, which stays in its files."""
    folder = token_folders.open_token_folder(config.data_file or "", trained_tokenizer or config.tokenizer)
    _require_same(config, sha256, folder.sha256)
    fields = folder.fields(config, random.Generator(config.seed, stream=DATA_STREAM))
    return Data(
        is_documents=False, documents=frozenset(), unigram_entropy=unigram_entropy(folder.counts()), **fields
    )


def _train_tokenizer(config: TrainingConfig, texts: list[str], boundaries: bool) -> tokenizer.Tokenizer:
    trained: tokenizer.Tokenizer
    if config.tokenizer == "characters":
        trained = tokenizer.CharTokenizer.train("".join(texts))
    elif config.tokenizer != "bpe":
        trained = tokenizer.open_tokenizer(config.tokenizer)
    else:
        trained = tokenizer.BPETokenizer(tokenizer.RegexPatterns.GPT4)
        trained.train("\n".join(texts), config.vocab_size - boundaries)
    # In one long text it never occurs, but would be sampled now and then
    if boundaries and BOUNDARY not in trained.special_tokens:
        trained.register_special_tokens({**trained.special_tokens, BOUNDARY: trained.vocab_size})
    return trained
