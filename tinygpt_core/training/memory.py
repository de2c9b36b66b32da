"""How much memory a run takes at least, to be said before it is taken.

What is counted must be there at one time, in whatever way a backend computes:

    parameters, their gradients, and Adam's two moments    4 numbers for each parameter
        with Muon, which has one momentum                  3 for each of the blocks' matrices
        with a running average of the weights              one more for each
        with adapters beside it, the model is frozen       1 for each, and nothing else
    activations that the backward pass reads               10 numbers for each token, channel and layer
    logits and their gradients                             2 numbers for each token and kind of token
    the objects that a layer consists of                   20,000 bytes for each

Attention's T² weights are left out, since some backends never have them all. So a run that is refused cannot
fit; one that is not refused may still be too large.
"""

from __future__ import annotations

import os
from contextlib import suppress

from .. import backends
from ..dataset.conversations import is_conversation_file
from .config import TrainingConfig, describe_sizes
from .settings import SettingError

NUMBER = 4  # bytes of a float32
OBJECTS = 20_000  # bytes of the Python objects of a layer


def least_memory(config: TrainingConfig, vocab_size: int = 1) -> int:
    """Returns how many bytes a run takes at least.

    Args:
        config: its settings.
        vocab_size: kinds of tokens, as far as it is known.
    """
    width = config.embedding_dim
    layers = config.num_layers
    embeddings = vocab_size * width * (1 if config.tied_head else 2)
    if config.positions == "learned":
        embeddings += config.context_length * width
    embeddings += sum(config.ngram_tables) * width
    embeddings += config.value_embeddings * vocab_size * width
    experts = config.num_experts or 1
    matrices = layers * (4 + 8 * experts) * width * width
    parameters = embeddings + matrices
    numbers = parameters * (5 if config.ema_decay else 4)
    if config.optimizer == "muon":
        numbers -= matrices
    if config.lora_rank:
        numbers = parameters
    # The text may be shorter than a context, but the rows of a batch are there
    tokens = config.batch_size * config.context_length
    if _has_short_rows(config):
        tokens = 2 * config.batch_size
    learning = 0 if config.lora_targets else layers  # a layer that none learns before may keep nothing
    activations = tokens * (learning * width * 10 + 2 * vocab_size)
    return (numbers + activations) * NUMBER + layers * OBJECTS


def _has_short_rows(config: TrainingConfig) -> bool:
    """Whether rows may be shorter than the context: those of documents are as long as the longest of them."""
    return config.corpus != "text" or is_conversation_file(config.data_file)


def memory_of_the_machine() -> int | None:
    """Returns how many bytes a process can have here at most; None where the system does not say."""
    limits = []
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError), open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
        limits.append(int(file.read()))  # of a container; "max" where there is no limit
    return min(limits, default=None)


def require_memory(config: TrainingConfig, vocab_size: int = 1) -> None:
    """Checks that a run can fit the memory of the machine, or of the backend's device.

    Raises:
        SettingError: it cannot; the message says how much it would take.
    """
    kind = backends.get(config.backend)
    device = getattr(kind, "memory", None)
    # Of a device, what is free: what others have taken of it they keep, and it cannot be swapped out
    available = (device()[0] if device is not None else 0) or memory_of_the_machine()
    needed = least_memory(config, vocab_size)
    if available is not None and needed > available:
        raise SettingError(
            "batch_size",
            f" {config.batch_size:,} with ",
            "context_length",
            f" {config.context_length:,} and {describe_sizes(config)} takes at least "
            f"{needed / 2**30:,.0f} GiB of memory, and there are {available / 2**30:,.0f}: "
            "make one of them smaller",
        )
