"""Module: a part of a model that knows its parameters and its submodules.

A module is an ordinary Python object. Its parameters are the Tensors among its attributes; its children are
the Modules among them; lists, tuples and dicts of either are looked into. Names that start with an underscore
are private and are neither.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import shape_errors
from .buffer.base import Buffer
from .module_text import module_html, module_text
from .tensor import Tensor, no_grad
from .tree import tree_flatten

Filter = Callable[["Module", str, Any], bool]
Map = Callable[[Any], Any]
Found = dict[str, Any]
MAXIMUM_JSON = 1 << 30  # bytes of a JSON file of weights that is read
WeightFile = str | os.PathLike[str]
Weights = WeightFile | Mapping[str, Tensor | Buffer] | Iterable[tuple[str, Tensor | Buffer]]


def _holds(value: Any, *kinds: type) -> bool:
    """Whether a value is of one of these kinds, or a container with such a value somewhere inside."""
    if not isinstance(value, (dict, list, tuple)):
        return isinstance(value, kinds)
    return any(isinstance(leaf, kinds) for _, leaf in tree_flatten(value))


def _is_leaf_module(module: Module, key: str, value: Any) -> bool:
    return isinstance(value, Module) and not value.children()


class Module:
    """Base class of everything that has parameters: layers, models, losses.

    Write ``__init__`` (call ``super().__init__()`` first, then assign Tensors and Modules to attributes) and
    ``__call__``.

    Attributes:
        training: whether the module is in training mode; layers such as Dropout behave differently outside
            it.
        statistics: names of attributes that are kept with the weights but never trained, such as a running
            mean.
    """

    training: bool = True
    statistics: tuple[str, ...] = ()
    __call__: Callable[..., Any]

    # -- what is in it
    # -------------------------------------------------------------------------------------------------

    def __contains__(self, key: str) -> bool:
        """Whether the module has an attribute of its own with this name: ``"bias" in layer``."""
        return key in self.__dict__

    @staticmethod
    def valid_parameter_filter(module: Module, key: str, value: Any) -> bool:
        """True for Tensors, and for whatever Tensors can be found in, under public names."""
        return not key.startswith("_") and _holds(value, Tensor, Module)

    @staticmethod
    def trainable_parameter_filter(module: Module, key: str, value: Any) -> bool:
        """True for what `valid_parameter_filter` keeps, less the Tensors that require no gradient."""
        frozen = isinstance(value, Tensor) and not value.requires_grad
        return not frozen and Module.valid_parameter_filter(module, key, value)

    @staticmethod
    def valid_child_filter(module: Module, key: str, value: Any) -> bool:
        """True for Modules, and for whatever Modules can be found in, under public names."""
        return not key.startswith("_") and _holds(value, Module)

    def filter_and_map(
        self, filter_fn: Filter, map_fn: Map | None = None, is_leaf_fn: Filter | None = None
    ) -> Found:
        """Select from the module's contents, recursively, and map what was selected.

        Args:
            filter_fn: called with the module, the name (``"layers.0"`` inside a list) and the value; false
                leaves it out.
            map_fn: applied to every leaf; by default the leaf itself is kept.
            is_leaf_fn: called like ``filter_fn``, says what is a leaf; by default all but Modules, dicts,
                lists and tuples.

        Returns:
            A tree of dicts, lists and tuples. Inside containers, ``{}`` stands where something was left out.
        """

        def visit(key: str, value: Any) -> Any:
            if is_leaf_fn is not None and is_leaf_fn(self, key, value):
                return value if map_fn is None else map_fn(value)
            if isinstance(value, Module):
                return value.filter_and_map(filter_fn, map_fn, is_leaf_fn)
            if not isinstance(value, (dict, list, tuple)):
                return value if map_fn is None else map_fn(value)
            kept = {}
            for place, item in value.items() if isinstance(value, dict) else enumerate(value):
                name = f"{key}.{place}"
                kept[place] = visit(name, item) if filter_fn(self, name, item) else {}
            items = kept.values()
            return (
                kept if isinstance(value, dict) else list(items) if isinstance(value, list) else tuple(items)
            )

        return {key: visit(key, value) for key, value in vars(self).items() if filter_fn(self, key, value)}

    def parameters(self) -> dict[str, Any]:
        """All parameters, as a tree of dicts and lists that mirrors the module."""
        return self.filter_and_map(Module.valid_parameter_filter)

    def trainable_parameters(self) -> dict[str, Any]:
        """The parameters that require gradients, as a tree like that of `parameters`."""
        return self.filter_and_map(Module.trainable_parameter_filter)

    def named_parameters(self, trainable_only: bool = False) -> list[tuple[str, Tensor]]:
        """List the parameters, of any shape, with their dotted names; a tied Tensor, which has several, comes
        once, by the first.
        """
        unique: dict[int, tuple[str, Tensor]] = {}

        # What flattening `parameters()` finds, in a third of the time
        def visit(prefix: str, items: Iterable[tuple[Any, Any]]) -> None:
            for key, value in items:
                if isinstance(value, Tensor):
                    if value.requires_grad or not trainable_only:
                        unique.setdefault(id(value), (f"{prefix}{key}", value))
                elif isinstance(value, Module):
                    visit(f"{prefix}{key}.", [item for item in vars(value).items() if item[0][0] != "_"])
                elif isinstance(value, (dict, list, tuple)):
                    visit(f"{prefix}{key}.", value.items() if isinstance(value, dict) else enumerate(value))

        visit("", [item for item in vars(self).items() if item[0][0] != "_"])
        return list(unique.values())

    def num_parameters(self, trainable_only: bool = False) -> int:
        """Count the numbers in all parameters; tied weights count once."""
        return sum(tensor.buffer.numel for _, tensor in self.named_parameters(trainable_only))

    def children(self) -> dict[str, Any]:
        """The direct submodules, as a tree whose leaves are Modules."""
        return self.filter_and_map(
            Module.valid_child_filter, is_leaf_fn=lambda m, k, value: isinstance(value, Module)
        )

    def leaf_modules(self) -> dict[str, Any]:
        """The submodules, at any depth, that contain no further module."""
        return self.filter_and_map(Module.valid_child_filter, None, _is_leaf_module)

    def named_modules(self, prefix: str = "") -> list[tuple[str, Module]]:
        """Pairs of dotted name and module for this module (named ``prefix``) and every submodule, parents
        first.
        """
        children = tree_flatten(self.children(), prefix)
        return [(prefix, self), *(pair for name, child in children for pair in child.named_modules(name))]

    def modules(self) -> list[Module]:
        """This module and every submodule, parents first."""
        return [module for _, module in self.named_modules()]

    def apply_to_modules(self, apply_fn: Callable[[str, Module], Any]) -> None:
        """Call ``apply_fn(name, module)`` for this module (its name is ``""``) and every submodule, parents
        first.
        """
        for name, module in self.named_modules():
            apply_fn(name, module)

    # -- changing it
    # ---------------------------------------------------------------------------------------------------

    def update(self, parameters: dict[str, Any]) -> None:
        """Replace parameters by those of a tree like that of `parameters`; places that the tree lacks stay as
        they are.

        Args:
            parameters: the tree; names that the module does not have are ignored.

        Raises:
            TypeError: something that is no Tensor stands at the place of a parameter.
        """
        _merge(self, parameters, Tensor, type(self).__name__)

    def update_modules(self, modules: dict[str, Any]) -> None:
        """Replace submodules by those of a tree like that of `children`; other places stay as they are.

        Raises:
            TypeError: something that is no Module stands at the place of one.
        """
        _merge(self, modules, Module, type(self).__name__)

    def apply(self, map_fn: Callable[[Tensor], Tensor], filter_fn: Filter | None = None) -> None:
        """Replace every parameter by what ``map_fn`` makes of it: ``model.apply(lambda tensor:
        tensor.relu())``.

        The results are leaves that require gradients where the originals did, and tied weights stay tied.

        Args:
            map_fn: maps a Tensor to a Tensor, which may have another shape; runs without recording gradients.
            filter_fn: selects the parameters, as in `filter_and_map`; all of them by default.
        """
        results: dict[int, Tensor] = {}

        def mapped(tensor: Tensor) -> Tensor:
            if id(tensor) not in results:
                result = results[id(tensor)] = map_fn(tensor)
                if isinstance(result, Tensor) and result is not tensor:
                    result.requires_grad = tensor.requires_grad and result.dtype.is_floating
            return results[id(tensor)]

        with no_grad():
            self.update(self.filter_and_map(filter_fn or Module.valid_parameter_filter, mapped))

    def to(self, backend_name: str) -> Module:
        """Move all parameters to a backend, such as ``"numpy"`` or ``"cupy:1"``; returns the module itself."""
        self.apply(lambda tensor: tensor.to(backend_name))
        return self

    def _set_trainable(self, value: bool, recurse: bool, keys: str | list[str] | None, strict: bool) -> None:
        wanted = None if keys is None else {keys} if isinstance(keys, str) else set(keys)
        found: set[str] = set()
        for module in self.modules() if recurse else [self]:
            for key, attribute in vars(module).items():
                for name, leaf in tree_flatten(attribute, key):
                    matches = {key, name} if wanted is None else {key, name} & wanted
                    if matches and not key.startswith("_") and isinstance(leaf, Tensor):
                        leaf.requires_grad = value and leaf.dtype.is_floating and key not in module.statistics
                        found |= matches
        if strict and wanted is not None and (unknown := wanted - found):
            raise KeyError(f"{type(self).__name__} has no parameter named {', '.join(sorted(unknown))}")

    def freeze(
        self, *, recurse: bool = True, keys: str | list[str] | None = None, strict: bool = False
    ) -> None:
        """Let parameters stay as they are in training: they require no gradients any more.

        Args:
            recurse: also those of the submodules.
            keys: only the parameters with these names, such as ``"bias"`` or ``["weights", "layers.0"]``; all
                by default.
            strict: raise a KeyError for a name that no module has.
        """
        self._set_trainable(False, recurse, keys, strict)

    def unfreeze(
        self, *, recurse: bool = True, keys: str | list[str] | None = None, strict: bool = False
    ) -> None:
        """Undo `freeze`, for all parameters or for those named by ``keys``; raises KeyError as that does."""
        self._set_trainable(True, recurse, keys, strict)

    def train(self, mode: bool = True) -> None:
        """Put this module and its submodules into training mode, or out of it."""
        for module in self.modules():
            module.training = bool(mode)

    def eval(self) -> None:
        """Put this module and its submodules out of training mode."""
        self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for _, tensor in self.named_parameters():
            tensor.zero_grad()

    # -- files and text
    # ------------------------------------------------------------------------------------------------

    def save_weights(self, file: WeightFile) -> None:
        """Write all parameters to a file, each under its dotted name.

        Args:
            file: ends in ``.safetensors`` (binary, exact, fast) or ``.json`` (text of
                `Tensor.serialize_tensor`).
        """
        write_tensors(file, dict(tree_flatten(self.parameters())))

    def load_weights(self, file_or_pairs: Weights, strict: bool = True) -> None:
        """Copy values into the parameters, in place: ties, dtypes, backends and ``requires_grad`` stay as
        they are.

        Args:
            file_or_pairs: a file that `save_weights` wrote, or pairs of dotted name and Tensor (or Buffer).
            strict: require exactly the model's names; otherwise only the names that the model has are loaded.

        Raises:
            ValueError: names are missing or unknown (strict), or a shape differs. The model is then
                unchanged.
        """
        weights = named_tensors(file_or_pairs)
        parameters = dict(tree_flatten(self.parameters()))
        if strict and (unknown := weights.keys() - parameters.keys()):
            raise ValueError(
                f"weights for parameters that the model does not have: {', '.join(sorted(unknown))}"
            )
        if strict and (missing := parameters.keys() - weights.keys()):
            raise ValueError(f"no weights for these parameters of the model: {', '.join(sorted(missing))}")
        common = [(parameters[name], weights[name], name) for name in parameters if name in weights]
        for parameter, weight, name in common:
            if parameter.shape != weight.shape:
                raise ValueError(
                    shape_errors.wrong_shape(
                        name, "loaded weights", weight.shape, expected=parameter.shape, of="model"
                    )
                )
        with no_grad():
            for parameter, weight, _ in common:
                parameter.assign(matching(weight, parameter))

    def _extra_repr(self) -> str:
        """What to print between the parentheses of the module's name; for subclasses."""
        return ""

    def _contents(self) -> list[tuple[str, Any]]:
        """The Tensors and Modules under public names, in the order in which they were assigned, with their
        dotted names.
        """
        leaves = [
            pair
            for key, value in vars(self).items()
            if not key.startswith("_")
            for pair in tree_flatten(value, key)
        ]
        return [(name, leaf) for name, leaf in leaves if isinstance(leaf, (Tensor, Module))]

    def __repr__(self) -> str:
        """A tree of submodules with their settings, the shapes of their parameters and how many numbers these
        hold.
        """
        return module_text(self)

    def _repr_html_(self) -> str:
        return module_html(self)


def _merge(current: Any, new: Any, kind: type, name: str) -> Any:
    """Lay a tree over a module or container: what is of this kind (Tensor or Module) in both is replaced, in
    place.
    """
    if isinstance(current, kind) and isinstance(new, kind):
        return new
    if isinstance(current, (Module, dict, list, tuple)) and isinstance(new, (dict, list, tuple)):
        old: Any = (
            current
            if isinstance(current, dict)
            else vars(current)
            if isinstance(current, Module)
            else list(current)
        )
        for place, value in new.items() if isinstance(new, dict) else enumerate(new):
            if place in old if isinstance(old, dict) else isinstance(place, int) and place < len(old):
                old[place] = _merge(old[place], value, kind, f"{name}.{place}")
        if isinstance(current, list):
            current[:] = old
        return tuple(old) if isinstance(current, tuple) else current
    # {} is what filter_and_map leaves where it kept nothing
    if isinstance(current, (kind, Module)) and not isinstance(new, dict):
        raise TypeError(
            f"{name}: expected a {kind.__name__} or a tree of them, but got a {type(new).__name__}"
        )
    return current


def matching(value: Tensor | Buffer, like: Tensor) -> Tensor:
    """The value, its shape as it is, as a Tensor of the dtype and on the backend of another Tensor."""
    buffer = Tensor(value).buffer
    if type(buffer) is not type(like.buffer):
        buffer = buffer.to(like.buffer.backend)
    return Tensor(buffer, like.dtype)


def named_tensors(source: Any) -> dict[str, Tensor | Buffer]:
    """Read tensors of any shape from a file, a mapping or pairs.

    Raises:
        ValueError: the file cannot be read as one of tensors, or a pair is not of a text and a Tensor or
            Buffer.
    """
    tensors = read_tensors(source) if isinstance(source, (str, os.PathLike)) else dict(source)
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, (Tensor, Buffer)):
            raise ValueError(
                f"expected pairs of name and Tensor, but got {name!r} with a {type(value).__name__}"
            )
    return tensors


def _suffix(file: WeightFile) -> str:
    suffix = os.path.splitext(os.fspath(file))[1]
    if suffix not in (".safetensors", ".json"):
        raise ValueError(f"{os.fspath(file)}: unknown kind of file {suffix!r}; use '.safetensors' or '.json'")
    return suffix


# The safetensors format lives two floors up, because checkpoints need it beside the tokenizer and the
# dataset. Users expect `model.save_weights(file)` all the same, so these two functions reach up, at call time
# only: the one exception that the import contract in pyproject.toml lists.


def write_tensors(file: WeightFile, tensors: Mapping[str, Tensor | Buffer]) -> None:
    """Write named tensors of any shape to a ``.safetensors`` or ``.json`` file; an old one stays until the
    new is whole.

    Raises:
        ValueError: another kind of file, or a name that the format does not allow.
    """
    from .files.atomic import atomic_write
    from .files.safetensors import save_safetensors

    values = {name: value if isinstance(value, Tensor) else Tensor(value) for name, value in tensors.items()}
    if _suffix(file) == ".safetensors":
        save_safetensors(file, {name: value.buffer for name, value in values.items()})
    else:
        texts = {name: value.serialize_tensor() for name, value in values.items()}
        atomic_write(file, json.dumps(texts, indent=2).encode())


def read_tensors(file: WeightFile) -> dict[str, Tensor | Buffer]:
    """Read named tensors, in their shapes, from a ``.safetensors`` or ``.json`` file.

    Raises:
        ValueError: the file is no such file; the message names the file and the entry.
    """
    from .files.json_objects import read_json_object
    from .files.safetensors import load_safetensors

    if _suffix(file) == ".safetensors":
        return dict(load_safetensors(file))
    try:
        return {
            name: Tensor.deserialize_tensor(text)
            for name, text in read_json_object(file, MAXIMUM_JSON).items()
        }
    except ValueError as error:
        raise ValueError(f"{os.fspath(file)} is no JSON object of names and tensors: {error}") from error
