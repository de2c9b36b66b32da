"""Sampling text from a model, one token at a time.

A language model gives, for every prefix, a probability to each token that could come next. Generating is then
a loop: ask for the logits, draw a token, append it, ask again. Two things make it practical: a key/value
cache, so that each turn of the loop runs only the newest position, and a window that moves on once the
context is full.

The loop is `continue_ids`. `generate_ids` and `generate` here, and TinyGPT's methods of `nn.GPT`, differ in
how a token is drawn and in what they make of it.
"""

from __future__ import annotations

import codecs
import heapq
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from . import random
from .buffer.base import Buffer
from .dtype import DType
from .module import Module, evaluating
from .tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


def check_sampling(
    tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
) -> None:
    """Refuses settings of `generate` that have no meaning.

    Raises:
        ValueError: names the setting and the values it may have.
    """
    if tokens < 0:
        raise ValueError(f"tokens must be 0 or more, not {tokens}")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature must be a finite number, 0 (greedy) or more, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be 1 or more, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, not {top_p}")
    if min_p is not None and not 0 < min_p <= 1:
        raise ValueError(f"min_p must be above 0 and at most 1, not {min_p}")
    if not (math.isfinite(repetition_penalty) and repetition_penalty > 0):
        raise ValueError(
            f"repetition_penalty must be a finite number above 0 (1: none), not {repetition_penalty}"
        )


# ---------------------------------------------------------------- drawing one token


def most_probable(logits: Sequence[float]) -> int:
    """Returns the index of the largest logit, the first of equals."""
    return logits.index(max(logits))


def relative_probabilities(logits: Sequence[float], temperature: float) -> list[float]:
    """Returns exp((logit_i - max) / temperature) of each logit: the softmax but for its division by the sum.

    The largest is 1, so none overflows.
    """
    largest = max(logits)
    return [math.exp((logit - largest) / temperature) for logit in logits]


def sample_index(
    logits: Sequence[float],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    generator: random.Generator | None = None,
) -> int:
    """Draws an index from the distribution that the logits describe.

        p_i = exp((logit_i - max) / temperature) / sum_j exp((logit_j - max) / temperature)

    Args:
        logits: one number a token.
        temperature: below 1 sharpens the distribution, above 1 flattens it; 0 takes the first of the largest
            logits.
        top_k: only the k most probable tokens may be drawn.
        top_p: only the smallest set of most probable tokens whose probabilities reach top_p may be drawn
            ("nucleus sampling").
        min_p: only tokens at least min_p times as probable as the most probable one may be drawn.
        generator: where the randomness comes from; default: the process-wide generator.

    Returns:
        An index into `logits`.

    Raises:
        ValueError: a setting is out of range, there are no logits, or they are not numbers (NaN).

    Source: Holtzman et al. 2020, https://arxiv.org/abs/1904.09751 (nucleus sampling); Nguyen et al. 2024,
    https://arxiv.org/abs/2407.01082 (min-p)
    """
    candidates, weights = sampling_candidates(
        logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )
    if temperature == 0:
        return candidates[0]
    generator = generator or random.default_generator()
    return candidates[generator.choice(weights)]


def sampling_candidates(
    logits: Sequence[float],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> tuple[list[int], list[float]]:
    """Returns the indices that `sample_index` draws from, most probable first, and their relative weights.

    The weights are `exp((logit_i - max) / temperature)`. The arguments and errors are those of
    `sample_index`; at temperature 0 there is one candidate.

    Raises:
        ValueError: a setting is out of range.
    """
    check_sampling(0, temperature, top_k, top_p, min_p)
    if not logits:
        raise ValueError("cannot draw from an empty list of logits")
    # A sum is NaN where a logit is, or where inf stands beside -inf; -inf alone is a token that is excluded
    if math.isnan(sum(logits)) or math.isinf(max(logits)):
        raise ValueError("the model's logits are not finite (nan or inf): its weights have diverged")
    if temperature == 0:
        return [most_probable(logits)], [1.0]

    probabilities = relative_probabilities(logits, temperature)
    # Equally probable tokens stay in the order of their indices.
    indices, probability = range(len(probabilities)), probabilities.__getitem__
    if top_k is None:
        candidates = sorted(indices, key=probability, reverse=True)
    else:  # a few of many are found sooner without sorting the others
        candidates = heapq.nlargest(top_k, indices, key=probability)
    if top_p is not None:
        candidates = _nucleus(candidates, probabilities, top_p)
    if min_p is not None:  # the most probable one has 1
        candidates = [index for index in candidates if probabilities[index] >= min_p]
    return candidates, [probabilities[index] for index in candidates]


def _nucleus(candidates: list[int], probabilities: Sequence[float], top_p: float) -> list[int]:
    """Returns the first candidates, most probable first, that together have a share of top_p of all."""
    enough = top_p * math.fsum(probabilities[index] for index in candidates)
    reached = 0.0
    count = 0
    while count < len(candidates) and reached < enough:
        reached += probabilities[candidates[count]]
        count += 1
    return candidates[:count]


def penalized(logits: Sequence[float], seen: Iterable[int], penalty: float) -> list[float]:
    """Returns logits of which those of tokens that were there before are made smaller.

        logit / penalty    where it is above 0,    logit * penalty    elsewhere

    Args:
        logits: one number a token.
        seen: the ids of these tokens.
        penalty: above 1 against repetitions, below 1 for them; 1 changes nothing.

    Source: Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable Generation", 2019,
    https://arxiv.org/abs/1909.05858, section 4.1
    """
    result = list(logits)
    for token in set(seen):
        logit = result[token]
        result[token] = logit / penalty if logit > 0 else logit * penalty
    return result


def without(logits: Sequence[float], excluded: Iterable[int]) -> list[float]:
    """Returns logits of which those of some tokens are -inf, so that they are never drawn."""
    result = list(logits)
    for token in excluded:
        result[token] = -math.inf
    return result


# ---------------------------------------------------------------- drawing one token after another


def continue_ids(
    model: Any,
    prompt_ids: Sequence[int],
    draw: Callable[[Sequence[float]], int],
    *,
    tokens: int,
    keep: int,
    stop_id: int | None = None,
    like: Buffer | None = None,
) -> Iterator[int]:
    """Yields the ids that follow `prompt_ids`, as they are drawn: the loop that all generating is.

    The cache keeps the keys and values of the positions seen so far. Those of a full context cannot be moved
    along, since they were computed with what falls out of sight, so the cache is filled anew.

    Args:
        model: a GPT. It computes as out of training mode; its flag stays, for others may be training it.
        prompt_ids: at least one id; of more than the context holds, the last ones are seen.
        draw: gives the id of the next token, given the logits of all.
        tokens: how many to draw at most.
        keep: the number of last positions with which a full context is filled anew, from 1 to its length. The
            fewer they are, the fewer are run again.
        stop_id: ends the sequence and is not yielded.
        like: integers of any shape, on whose backend and in whose dtype the model gets its ids; default:
            int32 on the backend of the model's parameters, whichever is in use.
    """
    context_length = model.config.context_length
    history = list(prompt_ids)
    pending = history[-context_length:]  # the positions the cache has not seen
    if like is None:
        backend, dtype = backend_of(model), DType.int32
    else:
        backend, dtype = type(like), like.dtype
    cache = model.new_cache(batch_size=1)
    for _ in range(tokens):
        if cache.length + len(pending) > context_length:
            cache.reset()
            pending = history[-keep:]
        ids = Tensor(backend([pending], dtype))
        with evaluating():  # closed before the yield: who waits here may train the model meanwhile
            logits = model(ids, cache=cache)
        drawn = draw(logits.buffer[0, -1].to_python())
        if drawn == stop_id:
            return
        yield drawn
        history.append(drawn)
        pending = [drawn]


def continue_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    draws: Sequence[Callable[[Sequence[float]], int]],
    *,
    tokens: int,
    keep: int,
    stop_id: int | None = None,
) -> list[list[int]]:
    """Returns the ids that follow each of several prompts: those that `continue_ids` yields for each, whose
    arguments these are; but the model runs all at once.

    All rows begin together and are as long as the shortest prompt at first. Then each turn of the loop adds
    one token to every row: the next one of its prompt, as long as there is one, and what is drawn after that.
    So nothing is padded, and the cache has one length for all. A row that has ended goes along, unread.
    """
    if not prompts:
        return []
    context_length = model.config.context_length
    rows = [list(prompt)[-context_length:] for prompt in prompts]
    drawn: list[list[int]] = [[] for _ in rows]
    is_open = [tokens > 0] * len(rows)
    seen = min(map(len, rows))  # positions of each row that the model has seen, or is about to
    pending = [row[:seen] for row in rows]
    cache = model.new_cache(batch_size=len(rows))
    backend = backend_of(model)
    while any(is_open):
        if cache.length + len(pending[0]) > context_length:
            cache.reset()
            pending = [row[seen - keep : seen] for row in rows]
        with evaluating():
            logits = model(Tensor(backend(pending, DType.int32)), cache=cache).buffer[:, -1]
        for number, row in enumerate(rows):
            if seen < len(row):  # its prompt goes on
                continue
            token = 0  # of a row that has ended, whatever it is
            if is_open[number]:
                token = draws[number](logits[number].to_python())
                is_open[number] = token != stop_id
                if is_open[number]:
                    drawn[number].append(token)
                    is_open[number] = len(drawn[number]) < tokens
                else:
                    token = 0
            row.append(token)
        seen += 1
        pending = [row[seen - 1 : seen] for row in rows]
    return drawn


def backend_of(model: Any) -> type[Buffer]:
    """Returns the Buffer class of a model's parameters; of what has none, the one in use."""
    parameters = model.named_parameters() if isinstance(model, Module) else []
    return type(parameters[0][1].buffer) if parameters else Buffer


def generate_ids(
    model: Any,
    prompt_ids: Sequence[int],
    *,
    tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    generator: random.Generator | None = None,
    stop_id: int | None = None,
    excluded: Sequence[int] = (),
) -> Iterator[int]:
    """Yields the ids that follow `prompt_ids`, as they are drawn, none of them one of `excluded`.

    When the context is full it is filled anew from its last half, so the cost of a long text stays one
    position a token, with one longer run now and then. `stop_id` ends the sequence and is not yielded.
    Arguments are as in `generate`.

    Raises:
        ValueError: a setting is out of range, or there is no token to start from.
    """
    options = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    check_sampling(tokens, *options)
    if not prompt_ids:
        raise ValueError("generating needs at least one token to start from")
    draw = drawing(options, prompt_ids, generator, excluded)
    half = max(1, model.config.context_length // 2)
    yield from continue_ids(model, prompt_ids, draw, tokens=tokens, keep=half, stop_id=stop_id)


class Sampling(NamedTuple):
    """How a token is drawn, see `sample_index` and `penalized`."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0


def drawing(
    options: Sampling,
    prompt_ids: Sequence[int],
    generator: random.Generator | None,
    excluded: Sequence[int] = (),
) -> Callable[[Sequence[float]], int]:
    """Returns what draws one token after another that follow a prompt, none of them one of `excluded`."""
    seen = set(prompt_ids)

    def draw(logits: Sequence[float]) -> int:
        if excluded:
            logits = without(logits, excluded)
        if options.repetition_penalty != 1.0:
            logits = penalized(logits, seen, options.repetition_penalty)
        drawn = sample_index(
            logits,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            generator=generator,
        )
        seen.add(drawn)
        return drawn

    return draw


def generate(
    model: Any,
    tokenizer: Any,
    prompt: str,
    *,
    tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    generator: random.Generator | None = None,
    stop_id: int | None = None,
    stop: Sequence[str] = (),
    special_tokens: bool = False,
    sampler: Callable[..., Iterator[int]] = generate_ids,
) -> Iterator[str]:
    """Continues a text, yielding pieces of it as they are sampled.

    Args:
        model: a GPT with the tokenizer's vocabulary; ids beyond it, which some models have, are never drawn.
        tokenizer: turns the prompt into ids and the ids drawn into text.
        prompt: the text to continue; it is not part of what is yielded.
        tokens: how many tokens to draw at most.
        temperature: 0 is greedy, 1 samples from the model's own distribution.
        top_k: keep only the k most probable tokens.
        top_p: keep only the most probable tokens that together reach this probability.
        min_p: keep only tokens at least this many times as probable as the most probable one.
        repetition_penalty: makes tokens that were there before less probable, see `penalized`.
        generator: where the randomness comes from; the same state gives the same text.
        stop_id: the boundary between documents. When given, the prompt is the beginning of a document (it is
            put after a boundary) and the text ends where the model draws the next one.
        stop: texts before the first of which the text ends.
        special_tokens: whether the texts of special tokens in the prompt stand for them; otherwise they are
            refused, so that a stranger's prompt cannot smuggle them in.
        sampler: what draws the ids, `generate_ids` or what has its arguments, such as a
            `speculative.SpeculativeDecoding`.

    Yields:
        Text. A character that takes several tokens is yielded when it is whole.

    Raises:
        ValueError: a setting is out of range, or the prompt has characters that the tokenizer does not know.
    """
    start = [] if stop_id is None else [stop_id]
    prompt_ids = (
        tokenizer.encode(prompt, allowed_special="all") if special_tokens else tokenizer.encode(prompt)
    )
    ids = sampler(
        model,
        start + list(prompt_ids),
        tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        generator=generator,
        stop_id=stop_id,
        excluded=tokenizer.unknown_ids(model.config.vocab_size),
    )
    yield from until(pieces_of(tokenizer, ids), stop)


def generate_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    tokens: int,
    generators: Sequence[random.Generator],
    stop_id: int | None = None,
    stop: Sequence[str] = (),
    special_tokens: bool = False,
    **sampling: Any,
) -> list[str]:
    """Continues several texts at once, and returns what follows each: what `generate` makes of it with its
    generator, up to roundings of the model.

    Args:
        prompts: the texts.
        generators: for each text, where its randomness comes from.
        sampling: temperature, top_k, top_p, min_p and repetition_penalty; these and the other arguments as of
            `generate`.

    Raises:
        ValueError: as `generate`.
    """
    options = Sampling(**sampling)
    check_sampling(tokens, *options)
    allowed = "all" if special_tokens else "none_raise"
    start = [] if stop_id is None else [stop_id]
    ids = [start + list(tokenizer.encode(prompt, allowed_special=allowed)) for prompt in prompts]
    if not all(ids):
        raise ValueError("generating needs at least one token to start from")
    excluded = tokenizer.unknown_ids(model.config.vocab_size)
    draws = [
        drawing(options, row, generator, excluded) for row, generator in zip(ids, generators, strict=True)
    ]
    half = max(1, model.config.context_length // 2)
    found = continue_batch(model, ids, draws, tokens=tokens, keep=half, stop_id=stop_id)
    return ["".join(until(pieces_of(tokenizer, row), stop)) for row in found]


def pieces_of(tokenizer: Any, ids: Iterable[int]) -> Iterator[str]:
    """Yields the text of ids as they come."""
    # Byte-level tokens may end within a character; this decoder keeps the bytes of one until the rest of it
    # has come.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in ids:
        if text := decoder.decode(tokenizer.decode_bytes([token])):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def until(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """Yields pieces of a text up to where the first of some texts begins, which may lie across pieces.

    What may be the beginning of one of them is kept back until it is known.

    Args:
        pieces: of the text.
        stop: none of them empty; of several the one that ends first counts, and of those the longest.

    Raises:
        ValueError: one of them is empty.
    """
    if "" in stop:
        raise ValueError("a text to stop at must not be empty")
    kept = ""
    for piece in pieces:
        for character in piece:
            kept += character
            ends = [text for text in stop if kept.endswith(text)]
            if ends:
                if found := kept[: -max(map(len, ends))]:
                    yield found
                return
        may_begin = 0  # characters at the end that may be the beginning of one
        for text in stop:
            lengths = range(min(len(text) - 1, len(kept)), 0, -1)
            may_begin = max(may_begin, next((n for n in lengths if kept.endswith(text[:n])), 0))
        if ready := kept[: len(kept) - may_begin]:
            yield ready
        kept = kept[len(kept) - may_begin :]
    if kept:
        yield kept
