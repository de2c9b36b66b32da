"""Do the backends agree, and how fast are they? One training step of one GPT, measured on each of them
against the python backend.

The step is that of `Trainer`: forward, backward, clipping, AdamW, from the weights of one seed on one batch
of real text. How far a backend may be away is derived, not chosen. Each operation in float32 rounds its
result by at most u = 2^-24 of it, and first-order error analysis adds up what the roundings of a chain do, so
n of them change a result by at most n u of what was added up. `roundings` counts the longest chain of this
step; what was added up is taken to be as large as the largest element of the tensor. (The reference sums in
doubles, so its own roundings are few.) AdamW's first step moves a weight by lr g / (|g| + eps), nearly the
sign of g, so how far a weight may be away depends on its gradient: see `weight_tolerance`.

Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2002, chapter 3
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple

from .. import backends
from ..dataset.batches import Batch
from ..module import Module
from ..optimizers import AdamW
from ..training.config import TrainingConfig
from ..training.data import prepare_data
from ..training.loop import Trainer
from ..training.presets import PRESETS

REFERENCE = "python"
UNIT = 2.0**-24  # half a unit in the last place of 1.0 in float32: the largest relative error of one rounding
# Steps before the timed ones, the compared one is the first: caches fill, kernels are compiled, CUDA graphs
# recorded
WARM_UP = 3
PATIENCE = 20.0  # seconds after which a backend's steps are not repeated any more
MOST_DEVICES = 16  # of a backend that are asked for


class Difference(NamedTuple):
    """How far one quantity of a backend ("loss", "gradients", "weights") is from the reference's.

    Attributes:
        largest: the largest difference of two elements.
        relative: the same in units of the quantity's largest element.
        share: the largest part of its tolerance that an element uses up; beyond 1 the backends disagree.
        where: the tensor in which it does.
    """

    quantity: str
    largest: float
    relative: float
    share: float
    where: str


class Measurement(NamedTuple):
    """What a backend computed, apart from python's, and the seconds of its timed steps; `problem` is the
    error, or "".
    """

    backend: str
    loss: float = math.nan
    differences: tuple[Difference, ...] = ()
    seconds: tuple[float, ...] = ()
    problem: str = ""

    @property
    def agrees(self) -> bool:
        """Whether it ran and every difference is within its tolerance."""
        return not self.problem and all(difference.share <= 1.0 for difference in self.differences)

    @property
    def median(self) -> float:
        """The median of the seconds of the timed steps."""
        return median(self.seconds)


class Comparison(NamedTuple):
    """What `compare` found: the step, the tolerances (relative), the measurements, reference first, and
    (name, why not) of the rest.
    """

    config: TrainingConfig
    num_parameters: int
    shape: tuple[int, ...]
    loss_tolerance: float
    gradient_tolerance: float
    measurements: list[Measurement]
    unavailable: list[tuple[str, str]]


Elements = dict[str, "array[float]"]  # of each tensor, by its name


class _Step(NamedTuple):
    """What a step leaves: loss, gradients before clipping and new weights by name, the seconds of the timed
    steps, and who made it.
    """

    loss: float
    gradients: Elements
    weights: Elements
    seconds: tuple[float, ...]
    model: Module
    optimizer: AdamW


def compare(
    names: Sequence[str] | None = None,
    preset: str = "identifiers",
    steps: int = 5,
    announce: Callable[[str], None] = lambda name: None,
) -> Comparison:
    """Measures one training step on the python backend and on others.

    Args:
        names: backends or devices of them ("numpy", "cupy"); default: every one that can run here.
        preset: whose sizes and settings the model has; the text is always the corpus `identifiers`, in
            characters.
        steps: how many are timed, fewer where they take longer than `PATIENCE`.
        announce: is called with a backend's name before it is measured.

    Returns:
        The measurements; an exception of a backend is its `problem`, and raised only where it is the
        reference's.

    Raises:
        ValueError: no such preset or backend, or no steps.
        BackendUnavailable: a backend that was named cannot run here.
        RuntimeError: a weight got no gradient from the reference.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: known are {', '.join(PRESETS)}")
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, not {steps}")
    unavailable: list[tuple[str, str]] = []
    if names is None:
        names, unavailable = _all_backends()
    for name in names:
        backends.get(name)  # raises where one that was named cannot run
    config = replace(PRESETS[preset].config, corpus="identifiers", data_file=None, tokenizer="characters")
    # A head that starts at zero, beside counting, would hide from the loss what the blocks compute
    config = replace(config, ngram_prior=0)
    data = prepare_data(config)
    batch = data.training_batches.next_batch()
    roundings_of_loss, roundings_of_gradient = roundings(config, data.tokenizer.vocab_size, batch.shape)
    loss_tolerance = roundings_of_loss * UNIT
    gradient_tolerance = roundings_of_gradient * UNIT

    announce(REFERENCE)
    reference = _run_step(REFERENCE, config, data, batch, steps)
    measurements = [Measurement(REFERENCE, reference.loss, (), reference.seconds)]
    for name in dict.fromkeys(names):  # each once
        if name == REFERENCE:
            continue
        announce(name)
        try:
            step = _run_step(name, config, data, batch, steps)
            found = _differences(step, reference, config.gradient_clip, loss_tolerance, gradient_tolerance)
            measurements.append(Measurement(name, step.loss, found, step.seconds))
        except Exception as problem:  # whatever a backend raises is what this is to find
            measurements.append(Measurement(name, problem=f"{type(problem).__name__}: {problem}"))
    return Comparison(
        config,
        reference.model.num_parameters(),
        batch.shape,
        loss_tolerance,
        gradient_tolerance,
        measurements,
        unavailable,
    )


def roundings(config: TrainingConfig, vocab_size: int, shape: Sequence[int]) -> tuple[int, int]:
    """Returns how many roundings lie on the longest way to the loss and to a gradient: two for each term of a
    sum, its product and its addition.

    With width d, heads of size d/h and T tokens in each of B rows, a block's forward sums over d in its two
    normalizations (mean and variance, so 4 d), d (query, key, value), d/h (scores), T (softmax), T (mixing
    values), d (projection), d and 4 d (MLP); then follow the last normalization (2 d), d (head), the
    vocabulary V (softmax) and the mean over the B T tokens. Its way back sums over as many, but over 3 d
    where query, key and value meet, and ends in the sum over the tokens that each weight has seen; it starts
    from what the forward kept, so the forward's roundings count there, too.

    Returns:
        The numbers for the loss and for a gradient.
    """
    rows, length = shape
    width = config.embedding_dim
    head_dim = width // config.num_heads
    after_the_blocks = 3 * width + vocab_size + rows * length
    forward = config.num_layers * (11 * width + head_dim + 2 * length) + after_the_blocks
    backward = config.num_layers * (13 * width + head_dim + 2 * length) + after_the_blocks
    return 2 * forward, 2 * (forward + backward)


def weight_tolerance(gradient: float, error: float, weight: float, optimizer: AdamW) -> float:
    """Returns the most by which a weight can differ after AdamW's first step, which moves it by lr s(g) with
    s(g) = g / (|g| + eps).

    s grows with g, so a gradient g that is off by e moves it by lr max(s(g + e) - s(g), s(g) - s(g - e)):
    nothing to speak of where g is larger than e, up to 2 lr where it is smaller and its sign is a matter of
    rounding. Roundings come on top: of the weight, 4 (the factor of its decay, the product with it, the
    subtraction, and the reference's own of the result); of lr s, 16 (10 operations, 6 constants), and those
    of the two betas, which count 1/(1 - b) times in 1 - b, half of it where the root is taken of that.

    Args:
        gradient, error, weight: g as it is after clipping, e, and the weight after the step.
        optimizer: before its first step or after it.
    """
    rate = optimizer.learning_rate
    beta1, beta2 = optimizer.betas

    def s(g: float) -> float:
        return g / (abs(g) + optimizer.eps)

    swing = max(s(gradient + error) - s(gradient), s(gradient) - s(gradient - error))
    roundings_of_weight = 4.0
    roundings_of_rate = 16.0 + 1.0 / (1.0 - beta1) + 0.5 / (1.0 - beta2)
    rounding = UNIT * (roundings_of_weight * (abs(weight) + rate) + roundings_of_rate * rate)
    return rate * swing + rounding


def _all_backends() -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the names of all backends and devices that can run, and the others with the reason."""
    names, unavailable = [], []
    for status in backends.available():
        if reason := status.reason or backends.why_not(status.name):
            unavailable.append((status.name, reason))
            continue
        names.append(status.name)
        seen = {backends.get(status.name)}
        for number in range(1, MOST_DEVICES):  # the backend's own name is its device 0
            name = f"{status.name}:{number}"
            if backends.why_not(name) or backends.get(name) in seen:
                break
            seen.add(backends.get(name))
            names.append(name)
    return names, unavailable


def _run_step(name: str, config: TrainingConfig, data: Any, batch: Batch, steps: int) -> _Step:
    """Returns what the first step on a backend leaves, and the times of some more."""
    # It touches no directory before it is saved.
    trainer = Trainer(replace(config, backend=name), "", data)
    with trainer.context():
        trainer.model.train()
        parameters = trainer.model.named_parameters()
        # Gradients of a pass of their own: the step clips them, and may keep them on a device.
        (trainer.total_loss(batch) / batch.num_targets).backward()
        gradients = {key: _elements(tensor.grad) for key, tensor in parameters}

        seconds: list[float] = []

        def timed_update() -> float:
            started = time.perf_counter()
            loss: float = trainer.update([batch])
            seconds.append(time.perf_counter() - started)
            return loss

        loss = timed_update()
        weights = {key: _elements(tensor) for key, tensor in parameters}
        while len(seconds) < WARM_UP + steps and sum(seconds) < PATIENCE:
            timed_update()
        timed = seconds[WARM_UP:] or seconds[-1:]
        assert isinstance(trainer.optimizer, AdamW)
        return _Step(loss, gradients, weights, tuple(timed), trainer.model, trainer.optimizer)


def _elements(tensor: Any) -> array[float]:
    if tensor is None:
        raise RuntimeError("a weight got no gradient")
    elements: array[float] = tensor.buffer.to_array()
    return elements


def _differences(
    step: _Step, reference: _Step, gradient_clip: float, loss_tolerance: float, gradient_tolerance: float
) -> tuple[Difference, ...]:
    """Returns how far loss, gradients and weights of a step are from the reference's.

    Args:
        loss_tolerance, gradient_tolerance: relative to the loss, and to each gradient's largest element.
    """
    loss = _difference(
        "loss",
        {"loss": [step.loss]},
        {"loss": [reference.loss]},
        {"loss": [loss_tolerance * abs(reference.loss)]},
    )

    errors = {
        name: gradient_tolerance * max(map(abs, gradient)) for name, gradient in reference.gradients.items()
    }
    gradient_tolerances = {
        name: [errors[name]] * len(gradient) for name, gradient in reference.gradients.items()
    }
    gradients = _difference("gradients", step.gradients, reference.gradients, gradient_tolerances)

    weight_tolerances = _weight_tolerances(reference, errors, gradient_clip)
    weights = _difference("weights", step.weights, reference.weights, weight_tolerances)
    return loss, gradients, weights


def _weight_tolerances(
    reference: _Step, errors: Mapping[str, float], gradient_clip: float
) -> dict[str, list[float]]:
    """Returns by how much each weight may differ, given by how much the gradient of each tensor may.

    Clipping multiplies by min(1, clip / norm); the norm may be off by the norm of all errors.
    """
    norm = math.sqrt(math.fsum(g * g for gradient in reference.gradients.values() for g in gradient))
    norm_of_errors = math.sqrt(
        math.fsum(errors[name] ** 2 * len(gradient) for name, gradient in reference.gradients.items())
    )
    clip = min(1.0, gradient_clip / norm)
    tolerances: dict[str, list[float]] = {}
    for name, gradient in reference.gradients.items():
        tolerances[name] = []
        for g, weight in zip(gradient, reference.weights[name], strict=True):
            error = clip * (errors[name] + abs(g) * norm_of_errors / norm)
            tolerances[name].append(weight_tolerance(clip * g, error, weight, reference.optimizer))
    return tolerances


def _difference(
    quantity: str,
    found: Mapping[str, Sequence[float]],
    expected: Mapping[str, Sequence[float]],
    tolerances: Mapping[str, Sequence[float]],
) -> Difference:
    """Returns how far the elements of some tensors are from those expected, each with its tolerance."""
    largest = 0.0
    share = 0.0
    where = next(iter(expected))
    for name in tolerances:
        for ours, theirs, tolerance in zip(found[name], expected[name], tolerances[name], strict=True):
            difference = abs(ours - theirs)
            if not difference < math.inf:  # also where one is NaN
                difference = math.inf
            largest = max(largest, difference)
            part = _part_of_tolerance(difference, tolerance)
            if part > share:
                share = part
                where = name
    scale = max(max(map(abs, elements)) for elements in expected.values())
    return Difference(quantity, largest, largest / scale if scale else largest, share, where)


def _part_of_tolerance(difference: float, tolerance: float) -> float:
    if tolerance:
        return difference / tolerance
    return math.inf if difference else 0.0
