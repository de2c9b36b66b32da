"""LoRA: low-rank adapters beside linear layers that stay as they are, for fine-tuning.

A trained W changes little in fine-tuning, and the change is of low rank. So W is frozen, and what is learned
is a product of two thin matrices beside it,

    y = x W + b + (alpha / R) (x A^T) B^T        A (R, in), B (out, R), of rank R

B begins at zero, so at first nothing changes. Only A and B have gradients, and the optimizer remembers
nothing of W. Afterwards W + (alpha / R) A^T B^T is a matrix like W, and the model is as fast as before.

    add_lora(model, rank=8)         the layers become LoRALinear, all else is frozen
    merge_lora(model)               they become plain layers again, with what was learned

Which layers, is said as in the `peft` library: by the last parts of their names. A format of checkpoints may
have other names, and three matrices where there is one here: `Place` says which columns of which layer of
ours a name stands for.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021,
https://arxiv.org/abs/2106.09685
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from .. import operations
from ..module import Module
from ..tensor import Tensor, apply_op, no_grad, uninitialized
from .arguments import check_size
from .dropout import Dropout
from .linear import FullyConnectedLayer

ALL_LINEAR = "all-linear"
"""A target that means every linear layer but the head, as in the `peft` library."""
ATTENTION = "query_key_value"
"""The layer of the attention whose queries and values get adapters where nothing else is said."""
NATIVE = "native"
"""The format whose names are our own."""
LARGEST_RANK = 2**24
MOST_NAMES = 8  # that a message lists


class Place(NamedTuple):
    """Where an adapter may stand.

    Attributes:
        name: what targets are compared with, such as "model.layers.0.self_attn.q_proj". Places of one name
            are parts of one matrix: their adapters share A.
        layer: the dotted name of our linear layer.
        start, stop: the columns of its output that the name stands for.
    """

    name: str
    layer: str
    start: int
    stop: int


@dataclass(frozen=True)
class LoRAConfig:
    """Which adapters a model has.

    Args:
        rank: R.
        alpha: what is added is multiplied by alpha / R.
        dropout: probability of dropping an element of an adapter's input in training.
        places: where they stand.
        format: whose names `places` have: that of the checkpoint that the model comes from.
        base: where that was; None where nobody knows.

    Raises:
        TypeError, ValueError: a field has the wrong type, or a value that does not work.
    """

    rank: int
    alpha: float
    dropout: float
    places: tuple[Place, ...]
    format: str = NATIVE
    base: str | None = None

    def __post_init__(self) -> None:
        check_size("rank", self.rank)
        if self.rank > LARGEST_RANK:
            raise ValueError(f"rank must be at most {LARGEST_RANK:,}, but got {self.rank:,}")
        for name in ("alpha", "dropout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, but got {value!r:.80}")
        if not -1e30 <= self.alpha <= 1e30:
            raise ValueError(f"alpha must be a number of at most 1e30, but got {self.alpha!r:.80}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), but got {self.dropout!r:.80}")
        if not isinstance(self.format, str) or not isinstance(self.base, (str, type(None))):
            raise TypeError(f"format and base are texts, not {self.format!r:.80} and {self.base!r:.80}")
        object.__setattr__(self, "places", tuple(map(_place, self.places)))

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields by name, ready for JSON."""
        return {**asdict(self), "places": [list(place) for place in self.places]}

    @classmethod
    def from_dict(cls, values: Any) -> LoRAConfig:
        """Returns the config that `to_dict` gave.

        Raises:
            TypeError: it is no mapping, or a value has the wrong type.
            ValueError: a name is unknown or missing, or a value does not work.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping):
            raise TypeError(f"what describes adapters is a mapping, not a {type(values).__name__}")
        if values.keys() != names:
            wrong = ", ".join(sorted(map(str, values.keys() ^ names)))
            raise ValueError(f"unknown or missing in what describes adapters: {wrong:.400}")
        return cls(**values)


def _place(value: Any) -> Place:
    """Returns the place that a list of JSON says, or a Place; raises TypeError or ValueError otherwise."""
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        raise TypeError(f"a place is a name, a layer and two numbers of columns, not {value!r:.80}")
    place = Place(*value)
    are_texts = isinstance(place.name, str) and isinstance(place.layer, str)
    if not are_texts or type(place.start) is not int or type(place.stop) is not int:
        raise TypeError(f"a place is a name, a layer and two numbers of columns, not {value!r:.80}")
    return place


class LoRA(Module):
    """A map of low rank, which begins at zero: `y = (alpha / R) (x A^T) B^T`, in training with dropout of x.

    Args:
        input_dims, output_dims: sizes of the last axis of x and of y.
        rank: R.
        alpha: see above; R when None, so that the factor is 1.
        dropout: probability of dropping an element of x.

    Attributes:
        lora_A: A, (R, input_dims); uniform between ±sqrt(1 / input_dims) at first, as in the authors' code.
        lora_B: B, (output_dims, R); zeros at first.

    Shape:
        (..., input_dims) -> (..., output_dims).

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1, or a probability outside [0, 1).

    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685
    """

    def __init__(
        self, input_dims: int, output_dims: int, rank: int, alpha: float | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_size("input_dims", input_dims)
        check_size("output_dims", output_dims)
        check_size("rank", rank)
        limit = math.sqrt(1.0 / input_dims)
        self.lora_A = Tensor.uniform((rank, input_dims), low=-limit, high=limit, requires_grad=True)
        self.lora_B = Tensor.zeros((output_dims, rank), requires_grad=True)
        self.scale = 1.0 if alpha is None else alpha / rank
        self.dropout = Dropout(dropout)

    def __call__(self, x: Tensor) -> Tensor:
        narrow = apply_op(operations.Linear, self.dropout(x), self.lora_A.transpose(0, 1), None)
        if self.scale != 1.0:
            narrow = narrow * self.scale
        return apply_op(operations.Linear, narrow, self.lora_B.transpose(0, 1), None)

    def matrix(self) -> Tensor:
        """Returns (alpha / R) A^T B^T, (input_dims, output_dims): what x is multiplied by without dropout."""
        return (self.lora_A.transpose(0, 1) * self.scale) @ self.lora_B.transpose(0, 1)

    def _extra_repr(self) -> str:
        return f"rank={self.lora_A.shape[0]}, scale={self.scale:g}"


class LoRALinear(FullyConnectedLayer):
    """A linear layer that is frozen, with adapters beside it: `y = x W + b + (alpha / R) (x A^T) B^T`.

    Args:
        layer: whose W and b it takes, which require no gradients from then on.
        rank, alpha, dropout: as for `LoRA`.
        columns: those of the output that get an adapter each, as ascending (start, stop); one for all of them
            when None. The other columns stay as they were.

    Attributes:
        weights, bias: W (in, out) and b (out,), the layer's own Tensors.
        adapters: the `LoRA` of each range of columns.
        is_merged: whether W has what they add in it.

    Shape:
        (..., in) -> (..., out).

    Raises:
        TypeError: a size that is no int.
        ValueError: a size below 1, columns that are none of the layer's, that overlap or are out of order.

    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685
    """

    def __init__(
        self,
        layer: FullyConnectedLayer,
        rank: int,
        alpha: float | None = None,
        dropout: float = 0.0,
        columns: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        Module.__init__(self)  # W and b are there already
        self.weights = layer.weights
        if "bias" in layer:
            self.bias = layer.bias
        input_dims, output_dims = self.weights.shape
        self._columns = ((0, output_dims),) if columns is None else tuple(columns)
        _check_columns(self._columns, output_dims)
        self.freeze()
        self.adapters = [
            LoRA(input_dims, stop - start, rank, alpha, dropout) for start, stop in self._columns
        ]
        self.is_merged = False
        self.train(_is_training(layer))

    def __call__(self, x: Tensor) -> Tensor:
        y = super().__call__(x)
        return y if self.is_merged else y + self._side_by_side([adapter(x) for adapter in self.adapters])

    def _side_by_side(self, parts: Sequence[Tensor]) -> Tensor:
        """Returns (..., out), given what belongs in the columns of each adapter; zeros in the others."""
        first = parts[0]
        pieces = []
        end = 0

        def add_zeros(width: int) -> None:
            if width:
                shape = (*first.shape[:-1], width)
                pieces.append(Tensor(type(first.buffer).zeros(shape, first.dtype)))

        for part, (start, stop) in zip(parts, self._columns, strict=True):
            add_zeros(start - end)
            pieces.append(part)
            end = stop
        add_zeros(self.weights.shape[1] - end)
        return pieces[0] if len(pieces) == 1 else Tensor.concatenate(pieces, axis=first.ndim - 1)

    def merge(self) -> None:
        """Adds to W what the adapters add to x W, W = W + (alpha / R) A^T B^T, in place; the layer then costs
        what it did without them. Where they are merged, nothing happens.
        """
        self._add(1.0, is_merged=True)

    def unmerge(self) -> None:
        """Undoes `merge`, up to rounding."""
        self._add(-1.0, is_merged=False)

    def _add(self, sign: float, is_merged: bool) -> None:
        if self.is_merged is not is_merged:
            with no_grad():
                self.weights.assign(self.weights + self.change() * sign)
            self.is_merged = is_merged

    def change(self) -> Tensor:
        """Returns what `merge` adds to W, (in, out)."""
        return self._side_by_side([adapter.matrix() for adapter in self.adapters])

    def merged(self) -> FullyConnectedLayer:
        """Returns a plain layer, with gradients, that computes what this one does outside training."""
        input_dims, output_dims = self.weights.shape
        with uninitialized():
            layer = FullyConnectedLayer(input_dims, output_dims, bias="bias" in self)
        with no_grad():
            weights = self.weights if self.is_merged else self.weights + self.change()
        layer.weights = Tensor(weights.buffer, requires_grad=True)
        if "bias" in self:
            layer.bias = Tensor(self.bias.buffer, requires_grad=True)
        layer.train(_is_training(self))
        return layer


def _check_columns(columns: Sequence[tuple[int, int]], width: int) -> None:
    """Raises ValueError unless ranges of columns follow each other within a width."""
    end = 0
    for start, stop in columns:
        if not end <= start < stop <= width:
            raise ValueError(
                f"columns {start} to {stop} of {width} cannot have an adapter of their own, after {end}"
            )
        end = stop


def _is_training(layer: Module) -> bool:
    """Returns the flag of a module, whatever `evaluating` says here and now."""
    return bool(vars(layer).get("training", True))


# ---------------------------------------------------------------- which layers


def places_in(model: Module) -> list[Place]:
    """Returns where adapters may stand in a model, by our own names: all of each linear layer."""
    return [
        Place(name, name, 0, module.weights.shape[1])
        for name, module in model.named_modules()
        if isinstance(module, FullyConnectedLayer)
    ]


def chosen_places(places: Iterable[Place], targets: Collection[str] = ()) -> tuple[Place, ...]:
    """Returns those of some places that are meant.

    Args:
        places: where adapters may stand.
        targets: names, each of which means every place that has it, or whose name ends with a point and it;
            or "all-linear". Where there are none, those of the attention's queries and values are meant, as
            the authors of LoRA chose, or of its packed layer.

    Raises:
        ValueError: a target means no place; or there are none, and no attention.
    """
    places = tuple(places)
    if not targets:
        return _default_places(places)
    for target in targets:
        if target != ALL_LINEAR and not any(_means(target, place.name) for place in places):
            known = dict.fromkeys(_last_part(place.name) for place in places)
            more = ", …" if len(known) > MOST_NAMES else ""
            raise ValueError(
                f"no linear layer is called {target!r:.80}: there are "
                f"{', '.join(list(known)[:MOST_NAMES])}{more}, or {ALL_LINEAR}"
            )
    takes_all = ALL_LINEAR in targets
    return tuple(
        place
        for place in places
        if (takes_all and place.layer != "head") or any(_means(target, place.name) for target in targets)
    )


def _means(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _last_part(name: str) -> str:
    """Returns what a layer is called in its block: of the layers of an `MLP`, which are numbered, the word
    before as well.
    """
    before, _, last = name.rpartition(".")
    return f"{before.rpartition('.')[2]}.{last}" if last.isdecimal() else last


def _default_places(places: Sequence[Place]) -> tuple[Place, ...]:
    """Returns the places of the attention's queries and values; raises ValueError where there is none."""
    by_layer: dict[str, list[Place]] = {}
    for place in places:
        if place.layer.rpartition(".")[2] == ATTENTION:
            by_layer.setdefault(place.layer, []).append(place)
    if not by_layer:
        raise ValueError(f"the model has no attention ({ATTENTION}): say which layers get adapters")
    found = []
    for parts in by_layer.values():
        found += parts if len(parts) == 1 else [parts[0], parts[-1]]  # of query, key and value
    return tuple(found)


# ---------------------------------------------------------------- models with adapters


def add_lora(
    model: Module,
    rank: int,
    *,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: Collection[str] = (),
    places: Iterable[Place] | None = None,
) -> LoRAConfig:
    """Freezes a model and puts adapters onto its linear layers, which alone are trained from then on.

    What the model computes stays the same until they have learned something.

    Args:
        model: with linear layers; it is changed.
        rank: R of the adapters.
        alpha: what they add is multiplied by alpha / R; R when None.
        dropout: of their inputs, in training.
        targets: which layers, see `chosen_places`; by default queries and values.
        places: where adapters may stand, if not as `places_in` says.

    Returns:
        Which adapters it has now; also as `lora_config(model)`.

    Raises:
        ValueError: a target that no layer is called, a rank above what a layer's matrix can have, or a model
            that has adapters already.

    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685
    """
    found = chosen_places(places_in(model) if places is None else places, targets)
    config = LoRAConfig(rank, float(rank if alpha is None else alpha), dropout, found)
    require_rank(model, config)
    put_adapters(model, config)
    return config


def require_rank(model: Module, config: LoRAConfig) -> None:
    """Raises ValueError where the rank is more than a matrix of that size can have."""
    layers = _linear_layers(model)
    for place in config.places:
        rows = layers[place.layer].weights.shape[0]
        columns = sum(other.stop - other.start for other in config.places if other.name == place.name)
        if config.rank > min(rows, columns):
            raise ValueError(
                f"rank {config.rank:,} is more than the {min(rows, columns):,} that {place.name} can have, "
                f"a matrix of {rows:,} × {columns:,}"
            )


def put_adapters(model: Module, config: LoRAConfig) -> None:
    """Freezes a model and puts the adapters that a config describes onto it.

    Raises:
        ValueError: a place is none of the model, or it has adapters already. It is then unchanged.
    """
    if lora_config(model) is not None:
        raise ValueError("the model has adapters already: merge_lora makes it a plain one")
    layers = _linear_layers(model)
    by_layer: dict[str, list[Place]] = {}
    for place in config.places:
        if place.layer not in layers:
            raise ValueError(f"the model has no linear layer {place.layer!r:.80} for an adapter")
        by_layer.setdefault(place.layer, []).append(place)
    for name, places in by_layer.items():
        _check_columns([(place.start, place.stop) for place in places], layers[name].weights.shape[1])
    model.freeze()
    shared: dict[str, Tensor] = {}  # A, by name
    for name, places in by_layer.items():
        columns = [(place.start, place.stop) for place in places]
        layer = LoRALinear(layers[name], config.rank, config.alpha, config.dropout, columns)
        for place, adapter in zip(places, layer.adapters, strict=True):
            adapter.lora_A = shared.setdefault(place.name, adapter.lora_A)
        _replace(model, name, layer)
    vars(model)["lora"] = config


def lora_config(model: Module) -> LoRAConfig | None:
    """Returns which adapters a model has; None where it has none."""
    found: LoRAConfig | None = vars(model).get("lora")
    return found


def adapters_by_place(model: Module) -> list[tuple[Place, LoRA]]:
    """Returns the adapters of a model, each with where it stands; none where it has none."""
    config = lora_config(model)
    layers = _linear_layers(model)
    taken: dict[str, int] = {}
    found = []
    for place in () if config is None else config.places:
        layer = layers[place.layer]
        assert isinstance(layer, LoRALinear)
        number = taken.get(place.layer, 0)
        taken[place.layer] = number + 1
        found.append((place, layer.adapters[number]))
    return found


def merge_lora(model: Module) -> None:
    """Makes the layers of a model that have adapters plain ones, with what these have learned in their
    weights; all parameters require gradients then. A model without adapters stays as it is.
    """
    if lora_config(model) is None:
        return
    for name, layer in _linear_layers(model).items():
        if isinstance(layer, LoRALinear):
            _replace(model, name, layer.merged())
    model.unfreeze()
    del vars(model)["lora"]


def _linear_layers(model: Module) -> dict[str, FullyConnectedLayer]:
    return {name: each for name, each in model.named_modules() if isinstance(each, FullyConnectedLayer)}


def _replace(model: Module, name: str, layer: Module) -> None:
    """Puts a layer in the place of the one with this dotted name."""
    tree: Any = layer
    for key in reversed(name.split(".")):
        tree = {int(key) if key.isdecimal() else key: tree}
    model.update_modules(tree)
