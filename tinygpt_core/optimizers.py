"""Optimizers: rules that change parameters by their gradients. No optimizer changes a gradient.

Symbols: p is a parameter, g its gradient, η the learning rate, λ the weight decay, and t the number of
updates, this one included.

Of a parameter with `sparse_grad`, such as the table of `Embedding(sparse=True)`, only the rows are updated
whose gradient is not zero in every element; the others, and what is remembered of them, stay as they are, to
the bit. So a row's moments do not fade while it is not looked up, its weights do not decay then, and t counts
all updates: this is "lazy" Adam, as PyTorch's SparseAdam is. There are two differences. A row that was looked
up and got a gradient of exactly zero, as those of padding do, counts as not looked up. And eps is added where
`Adam` adds it, to the corrected root; SparseAdam adds it to the root of v, where small gradients move a row
less. Which rows are updated depends on the values of the gradient alone, so it makes no difference whether
that is kept as rows or whole. Clipping counts all rows in the norm, and scales them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any, NamedTuple

from . import shape_errors
from .buffer.base import Buffer
from .dtype import DType
from .kernels.base import lookup
from .kernels.optimizer_steps import (
    NEWTON_SCHULZ_STEPS,
    AdamWStep,
    NonzeroRows,
    PutRows,
    SGDStep,
    moving_mean,
    orthogonalized,
)
from .module import Module, WeightFile, Weights, matching, named_tensors, write_tensors
from .operations import SparseGradient
from .shape_errors import ShapeError
from .tensor import Tensor, no_grad

Named = list[tuple[str, Tensor]]


class OptimizerState(dict[Any, Any]):
    """A dict in which `state[key]` makes an empty OptimizerState where there is none; `get` makes nothing."""

    def __missing__(self, key: Any) -> OptimizerState:
        self[key] = OptimizerState()
        return self[key]


class Operands(NamedTuple):
    """What a kernel's step is made with; the lists go side by side.

    Attributes:
        parameters: the Buffers to update, in place.
        gradients: of each, of its shape.
        slots: for each slot, what is remembered of each, of its shape.
        taken: tables, rows of theirs, and the copies of these rows that are updated.
    """

    parameters: list[Buffer]
    gradients: list[Buffer]
    slots: list[list[Buffer]]
    taken: list[tuple[Buffer, Buffer, Buffer]]

    def put_back(self) -> None:
        """Puts rows that were taken out of tables back into their places."""
        for table, rows, values in self.taken:
            lookup(PutRows, type(table)).forward(table, rows, values)


def rows_with_gradient(gradient: Buffer | SparseGradient) -> tuple[Buffer, Buffer]:
    """Returns the rows of a table with a gradient that is not 0, integers (n,), and their gradients."""
    rows = gradient.rows if isinstance(gradient, SparseGradient) else None
    values = gradient.values if isinstance(gradient, SparseGradient) else gradient
    places, _ = lookup(NonzeroRows, type(values)).forward(values)
    if places.numel == values.shape[0] and rows is not None:
        return rows, values
    return places if rows is None else rows.take(places), values.take(places)


class Optimizer:
    """Base class of optimizers.

    A subclass writes `apply_single`, which computes one new parameter:

        class PlainSGD(Optimizer):
            def apply_single(self, parameter, state):
                return parameter.detach() - 0.1 * parameter.grad

    Parameters that are frozen or have no gradient are left alone; tied weights are updated once.

    Args:
        module: the Module whose parameters to update.

    Attributes:
        state: for each parameter name an `OptimizerState` with what the rule remembers, such as momentum.
        step: how many updates were done.
    """

    # Names of what the optimizer remembers, each of a parameter's shape, where it is known
    slots: tuple[str, ...] = ()

    def __init__(self, module: Module) -> None:
        self.module = module
        self.state = OptimizerState()
        self.step = 0

    def update(self) -> None:
        """Changes the parameters, in place, by their gradients."""
        named = [
            (name, parameter)
            for name, parameter in self.module.named_parameters(trainable_only=True)
            if parameter.compact_grad is not None
        ]
        if not named:
            return
        self.step += 1
        with no_grad():
            if type(self).apply_single is Optimizer.apply_single:
                try:
                    self._update_all(named)
                except ShapeError:  # before anything was changed
                    self.step -= 1
                    raise
                return
            for name, parameter in named:
                parameter.assign(self.apply_single(parameter, self.state[name]))

    def apply_single(self, parameter: Tensor, state: OptimizerState) -> Tensor:
        """Returns the new value of a parameter, in its shape; a subclass defines it.

        Args:
            parameter: has a gradient in `parameter.grad`.
            state: what this method kept for this parameter; Tensors and numbers in it are saved by
                `save_state`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define apply_single(parameter, state)")

    def _update_all(self, named: Named) -> None:
        """Updates all parameters at once, by a kernel; for the optimizers of this module."""
        raise NotImplementedError(f"{type(self).__name__} must define apply_single(parameter, state)")

    def slots_of(self, name: str, parameter: Tensor) -> tuple[str, ...]:
        """Returns the names of what is remembered of a parameter, each of its shape; mostly `slots`."""
        return self.slots

    def slot_buffers(self, slot: str, named: Named) -> list[Buffer]:
        """Returns what is remembered in a slot for each of the parameters, in their shapes; zeros at first.

        Where the model has moved to another backend, what was remembered moves there, too.

        Raises:
            ShapeError: a parameter has another shape than what is remembered of it.
        """
        buffers = []
        for name, parameter in named:
            buffer = parameter.buffer
            kind = type(buffer)
            remembered = self.state[name]
            if slot not in remembered:
                remembered[slot] = Tensor(kind.zeros(buffer.shape, buffer.dtype))
            found = remembered[slot].buffer
            if type(found) is not kind or found.dtype is not buffer.dtype:
                remembered[slot] = matching(remembered[slot], parameter)
                found = remembered[slot].buffer
            if found.shape != buffer.shape:
                raise ShapeError(
                    f"{type(self).__name__}: the parameter {name!r} has shape {buffer.shape} now, but its "
                    f"{slot} is of shape {found.shape}, from when it had that shape: forget it "
                    f"with `del optimizer.state[{name!r}]`, or make a new optimizer"
                )
            buffers.append(found)
        return buffers

    def operands(self, named: Named, slots: tuple[str, ...]) -> Operands:
        """Returns what a kernel's step is made with: of each parameter, or of its rows that have a gradient.

        Args:
            named: the parameters, which have gradients.
            slots: the names of what is remembered of each.
        """
        found = Operands([], [], [[] for _ in slots], [])
        remembered = [self.slot_buffers(slot, named) for slot in slots]
        for (_, parameter), *slot_buffers in zip(named, *remembered, strict=True):
            gradient = parameter.compact_grad
            assert gradient is not None
            buffers = [parameter.buffer, *slot_buffers]
            if parameter.sparse_grad:
                rows, gradient = rows_with_gradient(gradient)
                if not rows.numel:
                    continue
                tables = buffers
                buffers = [table.take(rows) for table in tables]
                found.taken.extend(zip(tables, repeat(rows), buffers, strict=False))
            elif isinstance(gradient, SparseGradient):
                gradient = gradient.add_to(None)
            found.parameters.append(buffers[0])
            found.gradients.append(gradient)
            for slot, buffer in zip(found.slots, buffers[1:], strict=True):
                slot.append(buffer)
        return found

    def zero_grad(self) -> None:
        """Forgets the gradients of the module's parameters."""
        self.module.zero_grad()

    # -- keeping the state

    def state_dict(self) -> dict[str, Buffer]:
        """Returns all that the optimizer remembers, by name: `step`, and `SLOT.PARAMETER` for each parameter.

        `step` is a 0-d int64; the others mostly have the parameter's shape. The Buffers are the live ones: an
        update changes them.
        """
        for name, parameter in self.module.named_parameters(trainable_only=True):
            for slot in self.slots_of(name, parameter):
                self.slot_buffers(slot, [(name, parameter)])
        tensors = {"step": Buffer(self.step, DType.int64)}
        for name, remembered in self.state.items():
            for slot, value in remembered.items():
                if isinstance(value, (bool, int, float)):
                    dtype = DType.float64 if isinstance(value, float) else DType.int64
                    tensors[f"{slot}.{name}"] = Buffer(value, dtype)
                else:
                    tensors[f"{slot}.{name}"] = value.buffer
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor | Buffer], strict: bool = True) -> None:
        """Takes over what `state_dict` gave, as copies.

        Raises:
            ValueError: a name is unknown or missing (strict), or a shape is wrong. The state is then
                unchanged.
        """
        parameters = dict(self.module.named_parameters())
        state = OptimizerState()
        step = self.step
        unknown = []
        for key, value in tensors.items():
            buffer = value.buffer if isinstance(value, Tensor) else value
            slot, _, name = key.partition(".")
            if key == "step":
                if buffer.shape != () or buffer.dtype.kind != "i" or int(buffer.item()) < 0:
                    raise ValueError(
                        f"the entry 'step' must be one integer of at least 0, but it is {buffer!r}"
                    )
                step = int(buffer.item())
            elif name not in parameters or (self.slots and slot not in self.slots_of(name, parameters[name])):
                unknown.append(key)
            elif self.slots and buffer.shape != parameters[name].shape:
                raise ValueError(
                    shape_errors.wrong_shape(
                        key, "loaded state", buffer.shape, expected=parameters[name].shape, of="parameter"
                    )
                )
            elif buffer.ndim == 0 and parameters[name].ndim > 0:
                state[name][slot] = buffer.item()  # a number that apply_single keeps
            else:
                state[name][slot] = Tensor(buffer.copy())
        expected = ["step"]
        for name, parameter in parameters.items():
            if parameter.requires_grad:
                expected += [f"{slot}.{name}" for slot in self.slots_of(name, parameter)]
        missing = [key for key in expected if key not in tensors]
        optimizer = type(self).__name__
        if strict and unknown:
            names = ", ".join(sorted(unknown))
            raise ValueError(f"state that {optimizer} does not have for this module: {names:.400}")
        if strict and missing:
            raise ValueError(f"missing in the state of {optimizer}: {', '.join(missing):.400}")
        self.state = state
        self.step = step

    def save_state(self, file: WeightFile) -> None:
        """Writes `state_dict` to a `.safetensors` or `.json` file."""
        write_tensors(file, self.state_dict())

    def load_state(self, file_or_pairs: Weights, strict: bool = True) -> None:
        """Takes over the state in a file that `save_state` wrote, or in pairs of name and Tensor (or Buffer).

        Args:
            file_or_pairs: where the state is.
            strict: require exactly the names of this optimizer and module; otherwise only known ones are
                loaded.

        Raises:
            ValueError: as `load_state_dict`; the message names the file.
        """
        try:
            self.load_state_dict(named_tensors(file_or_pairs), strict)
        except ValueError as error:
            if isinstance(file_or_pairs, (str, os.PathLike)) and os.fspath(file_or_pairs) not in str(error):
                raise ValueError(f"{os.fspath(file_or_pairs)}: {error}") from error
            raise


def _check_range(name: str, value: float, below: float = math.inf) -> float:
    if not 0.0 <= value < below:
        raise ValueError(f"{name} must lie in [0, {below}), but got {value}")
    return value


class SGD(Optimizer):
    """Stochastic gradient descent with momentum μ and dampening τ.

        v = μ v + (1 - τ) (g + λ p)        (at the first update v = g + λ p)
        p = p - η v

    Nesterov's form moves by g + λ p + μ v instead of v. Without momentum v is g + λ p, and the decay still
    counts.

    Args:
        module: whose parameters to update.
        learning_rate: η; may be assigned later.
        momentum, weight_decay, dampening, nesterov: μ, λ, τ, and whether to use Nesterov's form.

    Raises:
        ValueError: a negative setting, or Nesterov's form without momentum or with dampening.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013,
    https://proceedings.mlr.press/v28/sutskever13.html
    """

    def __init__(
        self,
        module: Module,
        learning_rate: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(module)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(
                f"Nesterov momentum needs momentum > 0 and dampening 0, but got {momentum} and {dampening}"
            )
        self.learning_rate = _check_range("learning_rate", learning_rate)
        self.momentum = _check_range("momentum", momentum)
        self.weight_decay = _check_range("weight_decay", weight_decay)
        self.dampening = dampening
        self.nesterov = nesterov
        self.slots = ("velocity",) if momentum else ()

    def _update_all(self, named: Named) -> None:
        operands = self.operands(named, self.slots)
        lookup(SGDStep, type(named[0][1].buffer)).forward(
            operands.parameters,
            operands.gradients,
            operands.slots[0] if self.slots else None,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            dampening=self.dampening,
            nesterov=self.nesterov,
            weight_decays=[self.weight_decay] * len(operands.parameters),
            step=self.step,
        )
        operands.put_back()


class Adam(Optimizer):
    """Adam: steps of about η, whatever the scale of the gradients.

        m = β1 m + (1 - β1) g
        v = β2 v + (1 - β2) g²
        p = p - η (m / (1 - β1^t)) / (sqrt(v / (1 - β2^t)) + eps)

    Args:
        module: whose parameters to update.
        learning_rate: η; may be assigned later.
        betas: (β1, β2), how slowly the running means of g and g² forget.
        eps: keeps the division away from zero.

    Raises:
        ValueError: a negative setting, or a beta that is not below 1.

    Source: Kingma, Ba, "Adam: A Method for Stochastic Optimization", 2014, https://arxiv.org/abs/1412.6980
    """

    slots = ("first_moment", "second_moment")

    def __init__(
        self,
        module: Module,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(module)
        self.learning_rate = _check_range("learning_rate", learning_rate)
        self.betas = (_check_range("betas[0]", betas[0], 1.0), _check_range("betas[1]", betas[1], 1.0))
        self.eps = _check_range("eps", eps)
        self.weight_decay = 0.0

    def _update_all(self, named: Named) -> None:
        _adamw_step(self, self.operands(named, self.slots))


def _adamw_step(optimizer: Adam | Muon, operands: Operands) -> None:
    """Makes AdamW's step of those parameters that an optimizer moves by its rule; only matrices decay."""
    parameters = operands.parameters
    if parameters:
        lookup(AdamWStep, type(parameters[0])).forward(
            parameters,
            operands.gradients,
            *operands.slots,
            learning_rate=optimizer.learning_rate,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decays=[optimizer.weight_decay if p.ndim >= 2 else 0.0 for p in parameters],
            step=optimizer.step,
        )
    operands.put_back()


class AdamW(Adam):
    """Adam with decoupled weight decay: before Adam's step, `p = p - η λ p`.

    Only matrices (two axes or more) decay; biases and the scales of normalizations do not.

    Args:
        module, learning_rate, betas, eps: as for `Adam`.
        weight_decay: λ; may be assigned later.

    Raises:
        ValueError: a negative setting, or a beta that is not below 1.

    Source: Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 2017,
    https://arxiv.org/abs/1711.05101
    """

    def __init__(
        self,
        module: Module,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(module, learning_rate, betas, eps)
        self.weight_decay = _check_range("weight_decay", weight_decay)


class Muon(Optimizer):
    """Muon: matrices move by the nearest orthogonal matrix to their momentum; all else moves as with AdamW.

        m = μ m + (1 - μ) g,   u = μ m + (1 - μ) g                   (Nesterov's momentum)
        p = p - η λ p - η 0.2 sqrt(max(rows, columns)) O(u)

    O(u) keeps the singular vectors of u and makes its singular values about 1, by Newton and Schulz's
    iteration (`orthogonalized`), which is products of matrices only. So all directions of a matrix are
    learned at the same pace, where a gradient, and Adam's step, is nearly of low rank. An orthogonal matrix
    has elements of the size 1 / sqrt(max(rows, columns)); the factor makes them 0.2, about the size of Adam's
    steps, so that one η and one λ serve both parts.

    Args:
        module: whose parameters to update.
        learning_rate: η; may be assigned later.
        momentum: μ.
        betas, eps, weight_decay: of AdamW; the weight decay λ is Muon's, too.
        iterations: of Newton and Schulz.
        excluded: AdamW also updates the matrices that have one of these words among the parts of their name:
            embeddings and heads, whose rows are each of one token, as well as tables of sparse gradients.

    Raises:
        ValueError: a negative setting, a momentum or a beta that is not below 1, or no iteration.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
    https://kellerjordan.github.io/posts/muon/; the factor and the decay: Liu et al., "Muon is Scalable for
    LLM Training", 2025, https://arxiv.org/abs/2502.16982
    """

    slots = ("momentum", "first_moment", "second_moment")

    def __init__(
        self,
        module: Module,
        learning_rate: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        iterations: int = NEWTON_SCHULZ_STEPS,
        excluded: tuple[str, ...] = ("embeddings", "head"),
    ) -> None:
        super().__init__(module)
        self.learning_rate = _check_range("learning_rate", learning_rate)
        self.momentum = _check_range("momentum", momentum, 1.0)
        self.betas = (_check_range("betas[0]", betas[0], 1.0), _check_range("betas[1]", betas[1], 1.0))
        self.eps = _check_range("eps", eps)
        self.weight_decay = _check_range("weight_decay", weight_decay)
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, but got {iterations}")
        self.iterations = iterations
        self.excluded = tuple(excluded)

    def is_for(self, name: str, parameter: Tensor) -> bool:
        """Whether a parameter moves by Muon's rule, and not by AdamW's."""
        is_excluded = any(part in self.excluded for part in name.split("."))
        return parameter.ndim == 2 and not parameter.sparse_grad and not is_excluded

    def slots_of(self, name: str, parameter: Tensor) -> tuple[str, ...]:
        """Returns "momentum" for a matrix of Muon's, and the names of the two moments for what is AdamW's."""
        return self.slots[:1] if self.is_for(name, parameter) else self.slots[1:]

    def _update_all(self, named: Named) -> None:
        matrices = [pair for pair in named if self.is_for(*pair)]
        others = [pair for pair in named if not self.is_for(*pair)]
        # Both before anything is changed, since they complain of what does not fit
        muon = self.operands(matrices, self.slots[:1])
        adamw = self.operands(others, self.slots[1:])
        for p, g, m in zip(muon.parameters, muon.gradients, muon.slots[0], strict=True):
            m.assign(moving_mean(m, g, self.momentum))
            direction = orthogonalized(moving_mean(m, g, self.momentum), self.iterations)
            scale = 0.2 * math.sqrt(max(p.shape))
            decayed = p * (1.0 - self.learning_rate * self.weight_decay)
            p.assign(decayed - direction * (self.learning_rate * scale))
        _adamw_step(self, adamw)


def clip_gradients(parameters: Module | Iterable[Tensor], max_norm: float) -> float:
    """Scales all elements of all gradients by one factor, so that their global norm is at most max_norm.

    The global norm is `sqrt(sum of all g²)`, over the elements of all gradients together.

    Args:
        parameters: a Module, or Tensors; those without a gradient do not count.
        max_norm: positive; infinity only measures.

    Returns:
        The norm before scaling, summed in double precision. If it is not finite, the gradients are left as
        they are.

    Raises:
        ValueError: max_norm is not positive.

    Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", 2013,
    https://arxiv.org/abs/1211.5063
    """
    if not max_norm > 0.0:
        raise ValueError(f"max_norm must be positive, but got {max_norm}")
    if isinstance(parameters, Module):
        tensors: Iterable[Tensor] = [parameter for _, parameter in parameters.named_parameters()]
    else:
        tensors = parameters
    with_gradient = [(tensor, tensor.compact_grad) for tensor in tensors]
    # A tensor that stands twice, such as a tied weight, counts once.
    unique = {
        id(tensor): (tensor, gradient) for tensor, gradient in with_gradient if gradient is not None
    }.values()
    norm = math.sqrt(sum(gradient.sum_of_squares() for _, gradient in unique))
    scale_gradients((tensor for tensor, _ in unique), norm, max_norm)
    return norm


def scale_gradients(tensors: Iterable[Tensor], norm: float, max_norm: float) -> None:
    """Scales gradients whose global norm is `norm` to `max_norm` where that is smaller and the norm finite:
    g = g max_norm / norm, for gradients of any shape.

    Args:
        tensors: each once; those without a gradient stay without.
        norm, max_norm: as in `clip_gradients`.
    """
    if max_norm < norm < math.inf:
        factor = max_norm / norm
        for tensor in tensors:
            if (gradient := tensor.compact_grad) is not None:
                tensor.compact_grad = gradient * factor
