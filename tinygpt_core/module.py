"""Module: a part of a model that knows its parameters and its submodules.

A module is an ordinary Python object. Its parameters are the Tensors among its attributes; its children are
the Modules among them; lists, tuples and dicts of either are looked into. Names that start with an underscore
are private and are neither.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from . import shape_errors
from .buffer.base import Buffer
from .contexts import CountedBlock
from .tensor import Tensor, no_grad
from .tree import tree_flatten

Filter = Callable[["Module", str, Any], bool]
Map = Callable[[Any], Any]
Found = dict[str, Any]
MAXIMUM_JSON = 1 << 30  # bytes of a JSON file of weights that is read
WeightFile = str | os.PathLike[str]
Weights = WeightFile | Mapping[str, Tensor | Buffer] | Iterable[tuple[str, Tensor | Buffer]]


def _contains(value: Any, *kinds: type) -> bool:
    """Whether a value is of one of these kinds, or a container with such a value somewhere inside."""
    if isinstance(value, (dict, list, tuple)):
        return any(isinstance(leaf, kinds) for _, leaf in tree_flatten(value))
    return isinstance(value, kinds)


def _is_module(module: Module, key: str, value: Any) -> bool:
    return isinstance(value, Module)


def _is_leaf_module(module: Module, key: str, value: Any) -> bool:
    return isinstance(value, Module) and not value.children()


def _public_attributes(module: Module) -> list[tuple[str, Any]]:
    """Returns the attributes in which parameters and submodules are looked for, in order of assignment."""
    return [item for item in vars(module).items() if not item[0].startswith("_")]


_open_evaluations = ContextVar("open evaluating blocks", default=0)


class evaluating(CountedBlock):
    """`with evaluating():` every module is out of training mode, whatever its flag is.

    Also decorates functions. Holds for the calling thread only: so one can sample from a model that another
    one trains.
    """

    open_blocks = _open_evaluations


class Module:
    """Base class of everything that has parameters: layers, models, losses.

    Write `__init__` (call `super().__init__()` first, then assign Tensors and Modules to attributes) and
    `__call__`.

    Attributes:
        training: whether the module is in training mode here and now; layers such as Dropout behave
            differently outside it. It is a flag that `train` and `eval` set, and False inside `evaluating`.
        statistics: names of attributes that are kept with the weights but never trained, such as a running
            mean.
    """

    statistics: tuple[str, ...] = ()
    __call__: Callable[..., Any]

    @property
    def training(self) -> bool:
        """Whether the module is in training mode here and now: False inside `evaluating`, else its flag."""
        return not _open_evaluations.get() and bool(self.__dict__.get("training", True))

    @training.setter
    def training(self, mode: bool) -> None:
        self.__dict__["training"] = mode

    # ---------------------------------------------------------------- what is in it

    def __contains__(self, key: str) -> bool:
        """Whether the module has an attribute of its own with this name: `"bias" in layer`."""
        return key in self.__dict__

    @staticmethod
    def valid_parameter_filter(module: Module, key: str, value: Any) -> bool:
        """Whether it is a Tensor, or something that Tensors can be found in, under a public name."""
        return not key.startswith("_") and _contains(value, Tensor, Module)

    @staticmethod
    def trainable_parameter_filter(module: Module, key: str, value: Any) -> bool:
        """Whether `valid_parameter_filter` keeps it, and it is no Tensor that requires no gradient."""
        is_frozen = isinstance(value, Tensor) and not value.requires_grad
        return not is_frozen and Module.valid_parameter_filter(module, key, value)

    @staticmethod
    def valid_child_filter(module: Module, key: str, value: Any) -> bool:
        """Whether it is a Module, or something that Modules can be found in, under a public name."""
        return not key.startswith("_") and _contains(value, Module)

    def filter_and_map(
        self, filter_fn: Filter, map_fn: Map | None = None, is_leaf_fn: Filter | None = None
    ) -> Found:
        """Selects from the module's contents, recursively, and maps what was selected.

        Args:
            filter_fn: called with the module, the name (`"layers.0"` inside a list) and the value; false
                leaves it out.
            map_fn: applied to every leaf; by default the leaf itself is kept.
            is_leaf_fn: called like `filter_fn`, says what is a leaf; by default all but Modules, dicts,
                lists and tuples.

        Returns:
            A tree of dicts, lists and tuples. Inside containers, `{}` stands where something was left out.
        """

        def mapped(leaf: Any) -> Any:
            return leaf if map_fn is None else map_fn(leaf)

        def visit(key: str, value: Any) -> Any:
            if is_leaf_fn is not None and is_leaf_fn(self, key, value):
                return mapped(value)
            if isinstance(value, Module):
                return value.filter_and_map(filter_fn, map_fn, is_leaf_fn)
            if isinstance(value, dict):
                return {place: visit_item(f"{key}.{place}", item) for place, item in value.items()}
            if isinstance(value, (list, tuple)):
                items = [visit_item(f"{key}.{place}", item) for place, item in enumerate(value)]
                return items if isinstance(value, list) else tuple(items)
            return mapped(value)

        def visit_item(key: str, value: Any) -> Any:
            return visit(key, value) if filter_fn(self, key, value) else {}

        return {key: visit(key, value) for key, value in vars(self).items() if filter_fn(self, key, value)}

    def parameters(self) -> dict[str, Any]:
        """Returns all parameters, as a tree of dicts and lists that mirrors the module."""
        return self.filter_and_map(Module.valid_parameter_filter)

    def trainable_parameters(self) -> dict[str, Any]:
        """Returns the parameters that require gradients, as a tree like that of `parameters`."""
        return self.filter_and_map(Module.trainable_parameter_filter)

    def named_parameters(self, trainable_only: bool = False) -> list[tuple[str, Tensor]]:
        """Returns the parameters, of any shape, with their dotted names; a tied Tensor, which has several,
        comes once, by the first.
        """
        found: dict[int, tuple[str, Tensor]] = {}  # by the identity of the Tensor

        # What flattening `parameters()` finds, in a third of the time.
        def visit(prefix: str, items: Iterable[tuple[Any, Any]]) -> None:
            for key, value in items:
                if isinstance(value, Tensor):
                    if not trainable_only or value.requires_grad:
                        found.setdefault(id(value), (f"{prefix}{key}", value))
                elif isinstance(value, Module):
                    visit(f"{prefix}{key}.", _public_attributes(value))
                elif isinstance(value, dict):
                    visit(f"{prefix}{key}.", value.items())
                elif isinstance(value, (list, tuple)):
                    visit(f"{prefix}{key}.", enumerate(value))

        visit("", _public_attributes(self))
        return list(found.values())

    def num_parameters(self, trainable_only: bool = False) -> int:
        """Returns how many numbers all parameters have; tied weights count once."""
        return sum(tensor.buffer.numel for _, tensor in self.named_parameters(trainable_only))

    def children(self) -> dict[str, Any]:
        """Returns the direct submodules, as a tree whose leaves are Modules."""
        return self.filter_and_map(Module.valid_child_filter, is_leaf_fn=_is_module)

    def leaf_modules(self) -> dict[str, Any]:
        """Returns the submodules, at any depth, that contain no further module."""
        return self.filter_and_map(Module.valid_child_filter, is_leaf_fn=_is_leaf_module)

    def named_modules(self, prefix: str = "") -> list[tuple[str, Module]]:
        """Returns pairs of dotted name and module for this module (named `prefix`) and every submodule,
        parents first.
        """
        pairs: list[tuple[str, Module]] = [(prefix, self)]
        for name, child in tree_flatten(self.children(), prefix):
            pairs += child.named_modules(name)
        return pairs

    def modules(self) -> list[Module]:
        """Returns this module and every submodule, parents first."""
        return [module for _, module in self.named_modules()]

    def apply_to_modules(self, apply_fn: Callable[[str, Module], Any]) -> None:
        """Calls `apply_fn(name, module)` for this module (its name is `""`) and every submodule, parents
        first.
        """
        for name, module in self.named_modules():
            apply_fn(name, module)

    # ---------------------------------------------------------------- changing it

    def update(self, parameters: dict[str, Any]) -> None:
        """Replaces parameters by those of a tree like that of `parameters`; places that the tree lacks stay
        as they are.

        Args:
            parameters: the tree; names that the module does not have are ignored.

        Raises:
            TypeError: something that is no Tensor stands at the place of a parameter.
        """
        _replace_leaves(self, parameters, Tensor, type(self).__name__)

    def update_modules(self, modules: dict[str, Any]) -> None:
        """Replaces submodules by those of a tree like that of `children`; other places stay as they are.

        Raises:
            TypeError: something that is no Module stands at the place of one.
        """
        _replace_leaves(self, modules, Module, type(self).__name__)

    def apply(self, map_fn: Callable[[Tensor], Tensor], filter_fn: Filter | None = None) -> None:
        """Replaces every parameter by what `map_fn` makes of it: `model.apply(lambda tensor:
        tensor.relu())`.

        The results are leaves that require gradients where the originals did, and tied weights stay tied.

        Args:
            map_fn: maps a Tensor to a Tensor, which may have another shape; runs without recording gradients.
            filter_fn: selects the parameters, as in `filter_and_map`; all of them by default.
        """
        results: dict[int, Tensor] = {}  # by the identity of the original

        def mapped(tensor: Tensor) -> Tensor:
            if id(tensor) not in results:
                result = map_fn(tensor)
                if isinstance(result, Tensor) and result is not tensor:
                    result.requires_grad = tensor.requires_grad and result.dtype.is_floating
                    result.sparse_grad = tensor.sparse_grad
                results[id(tensor)] = result
            return results[id(tensor)]

        with no_grad():
            self.update(self.filter_and_map(filter_fn or Module.valid_parameter_filter, mapped))

    def to(self, backend_name: str) -> Module:
        """Moves all parameters to a backend, such as `"numpy"` or `"cupy"`; returns the module itself."""
        self.apply(lambda tensor: tensor.to(backend_name))
        return self

    def _set_trainable(self, value: bool, recurse: bool, keys: str | list[str] | None, strict: bool) -> None:
        """Freezes or unfreezes parameters; arguments are those of `freeze`."""
        wanted: set[str] | None = None
        if keys is not None:
            wanted = {keys} if isinstance(keys, str) else set(keys)
        found: set[str] = set()
        for module in self.modules() if recurse else [self]:
            for key, attribute in _public_attributes(module):
                for name, leaf in tree_flatten(attribute, key):
                    # A list of parameters goes by its own name, and each in it by a longer one.
                    names = {key, name} if wanted is None else {key, name} & wanted
                    if names and isinstance(leaf, Tensor):
                        may_be_trained = leaf.dtype.is_floating and key not in module.statistics
                        leaf.requires_grad = value and may_be_trained
                        found |= names
        if strict and wanted is not None and (unknown := wanted - found):
            raise KeyError(f"{type(self).__name__} has no parameter named {', '.join(sorted(unknown)):.400}")

    def freeze(
        self, *, recurse: bool = True, keys: str | list[str] | None = None, strict: bool = False
    ) -> None:
        """Lets parameters stay as they are in training: they require no gradients any more.

        Args:
            recurse: also those of the submodules.
            keys: only the parameters with these names, such as `"bias"` or `["weights", "layers.0"]`; all
                by default.
            strict: whether a name that no module has is an error.

        Raises:
            KeyError: no module has a parameter of one of the names (strict).
        """
        self._set_trainable(False, recurse, keys, strict)

    def unfreeze(
        self, *, recurse: bool = True, keys: str | list[str] | None = None, strict: bool = False
    ) -> None:
        """Undoes `freeze`, for all parameters or for those named by `keys`; raises KeyError as that does."""
        self._set_trainable(True, recurse, keys, strict)

    def train(self, mode: bool = True) -> None:
        """Puts this module and its submodules into training mode, or out of it."""
        for module in self.modules():
            module.training = bool(mode)

    def eval(self) -> None:
        """Puts this module and its submodules out of training mode."""
        self.train(False)

    def evaluation(self) -> evaluating:
        """Returns a context manager: inside it modules are out of training mode, for the calling thread only.

        No flag is changed, so several threads can sample from one model while another trains it.
        """
        return evaluating()

    def zero_grad(self) -> None:
        """Forgets the gradients of all parameters."""
        for _, tensor in self.named_parameters():
            tensor.zero_grad()

    # ---------------------------------------------------------------- files and text

    def save_weights(self, file: WeightFile) -> None:
        """Writes all parameters to a file, each under its dotted name.

        Args:
            file: ends in `.safetensors` (binary, exact, fast) or `.json` (text of
                `Tensor.serialize_tensor`).

        Raises:
            ValueError: another kind of file, or the parameters are not all that the module computes with, as
                those of quantized layers.
        """
        self.require_savable()
        write_tensors(file, self._tensors_of_a_file())

    def _tensors_of_a_file(self) -> dict[str, Tensor | Buffer]:
        """Returns what `save_weights` writes: tied parameters under each of their names."""
        return {**dict(tree_flatten(self.parameters())), **self.named_extra_tensors()}

    def extra_tensors(self) -> dict[str, Buffer]:
        """Returns what a file of weights has to hold of this module besides its parameters, by name and of
        any shape; for layers that compute with other numbers, too. Nothing by default.
        """
        return {}

    def load_extra_tensors(self, tensors: Mapping[str, Buffer]) -> None:
        """Takes over what `extra_tensors` gave: all its names, in any shapes.

        Raises:
            ValueError: they are nothing that this module can compute with. It is then unchanged.
        """

    def named_extra_tensors(self) -> dict[str, Buffer]:
        """Returns the `extra_tensors` of this module and its submodules, of any shapes, by dotted names."""
        return {
            f"{prefix}.{name}" if prefix else name: buffer
            for prefix, module in self.named_modules()
            for name, buffer in module.extra_tensors().items()
        }

    def load_named_extra_tensors(self, tensors: Mapping[str, Tensor | Buffer], strict: bool = True) -> None:
        """Takes over the extra tensors, of any shapes, that are among some with dotted names.

        Args:
            tensors: as `named_extra_tensors` gave them, and others, which are ignored.
            strict: whether a module whose own are not all there is an error; otherwise it stays as it is.

        Raises:
            ValueError: one is missing (strict), or a module cannot compute with its own.
        """
        for prefix, module in self.named_modules():
            own = {name: f"{prefix}.{name}" if prefix else name for name in module.extra_tensors()}
            missing = [full_name for full_name in own.values() if full_name not in tensors]
            if missing and strict:
                raise ValueError(f"no weights for these parts of the model: {_some(missing)}")
            if own and not missing:
                module.load_extra_tensors({name: Tensor(tensors[own[name]]).buffer for name in own})

    def named_weights(self) -> dict[str, Buffer]:
        """Returns all that a file of weights has: the Buffers of the parameters, of any shape, by dotted
        name, and the extra tensors.
        """
        return {name: each.buffer for name, each in self.named_parameters()} | self.named_extra_tensors()

    def why_not_saved(self) -> str:
        """Returns why a file of this module's parameters would not be all of it; for layers that compute with
        more than these. "" where it would.
        """
        return ""

    def require_savable(self) -> None:
        """Raises ValueError unless this module and its submodules can be made again of their parameters."""
        for name, module in self.named_modules():
            if problem := module.why_not_saved():
                raise ValueError(f"{name or type(module).__name__} cannot be saved: {problem}")

    def load_weights(self, file_or_pairs: Weights, strict: bool = True) -> None:
        """Copies values into the parameters, in place: ties, dtypes, backends and `requires_grad` stay as
        they are.

        Args:
            file_or_pairs: a file that `save_weights` wrote, or pairs of dotted name and Tensor (or Buffer).
            strict: require exactly the model's names; otherwise only the names that the model has are loaded.

        Raises:
            ValueError: names are missing or unknown (strict), or a shape differs. The model is then
                unchanged.
        """
        loaded = named_tensors(file_or_pairs)
        parameters = dict(tree_flatten(self.parameters()))
        for name, parameter in parameters.items():  # a tied one is loaded by any of its names
            if name not in loaded:
                same = [other for other in loaded if parameters.get(other) is parameter]
                if same:
                    loaded[name] = loaded[same[0]]
        extra = self.named_extra_tensors()
        if strict and (unknown := loaded.keys() - parameters.keys() - extra.keys()):
            raise ValueError(f"weights for parameters that the model does not have: {_some(unknown)}")
        if strict and (missing := parameters.keys() - loaded.keys()):
            raise ValueError(f"no weights for these parameters of the model: {_some(missing)}")
        names = [name for name in parameters if name in loaded]
        for name in names:
            expected, actual = parameters[name].shape, loaded[name].shape
            if actual != expected:
                raise ValueError(
                    shape_errors.wrong_shape(name, "loaded weights", actual, expected=expected, of="model")
                )
        if extra:
            self.load_named_extra_tensors(loaded, strict)
        with no_grad():
            for name in names:
                parameters[name].assign(matching(loaded[name], parameters[name]))

    def _extra_repr(self) -> str:
        """Returns what to print between the parentheses of the module's name; for subclasses."""
        return ""

    def _contents(self) -> list[tuple[str, Any]]:
        """Returns the Tensors and Modules under public names, in the order in which they were assigned, with
        their dotted names.
        """
        contents = []
        for key, value in _public_attributes(self):
            for name, leaf in tree_flatten(value, key):
                if isinstance(leaf, (Tensor, Module)):
                    contents.append((name, leaf))
        return contents

    def __repr__(self) -> str:
        """Returns a tree of submodules with their settings, the shapes of their parameters and how many
        numbers these have.
        """
        from .module_text import module_text  # here, so that `import tinygpt_core` is quick

        return module_text(self)

    def _repr_html_(self) -> str:
        from .module_text import module_html

        return module_html(self)


def _replace_leaves(current: Any, new: Any, kind: type, name: str) -> Any:
    """Lays a tree over a module or container: what is of this kind (Tensor or Module) in both is replaced, in
    place.

    Returns what belongs in the place of `current`, called `name` in messages: for a leaf the new one, for a
    tuple a new tuple, for all else `current` itself.
    """
    if isinstance(current, kind) and isinstance(new, kind):
        return new
    if isinstance(new, (dict, list, tuple)):
        if isinstance(current, Module):
            _replace_items(vars(current), new, kind, name)
            return current
        if isinstance(current, dict):
            _replace_items(current, new, kind, name)
            return current
        if isinstance(current, (list, tuple)):
            items = list(current)
            _replace_items(items, new, kind, name)
            if isinstance(current, tuple):
                return tuple(items)
            current[:] = items
            return current
    # {} is what filter_and_map leaves where it kept nothing, so it may stand for anything.
    if isinstance(current, (kind, Module)) and not isinstance(new, dict):
        raise TypeError(
            f"{name}: expected a {kind.__name__} or a tree of them, but got a {type(new).__name__}"
        )
    return current


def _replace_items(
    items: dict[Any, Any] | list[Any],
    new: dict[Any, Any] | list[Any] | tuple[Any, ...],
    kind: type,
    name: str,
) -> None:
    """Lays each part of a tree over the item at its place; parts that have no such place are ignored."""
    for place, value in new.items() if isinstance(new, dict) else enumerate(new):
        if isinstance(items, dict):
            is_there = place in items
        else:
            is_there = isinstance(place, int) and place < len(items)
        if is_there:
            items[place] = _replace_leaves(items[place], value, kind, f"{name}.{place}")


# ---------------------------------------------------------------- named tensors in files


def matching(value: Tensor | Buffer, like: Tensor) -> Tensor:
    """Returns a value, its shape as it is, as a Tensor of the dtype and on the backend of another Tensor."""
    buffer = Tensor(value).buffer
    if type(buffer) is not type(like.buffer):
        buffer = buffer.to(like.buffer.backend)
    return Tensor(buffer, like.dtype)


def _some(names: Iterable[str]) -> str:
    """Returns names for a message, in order and as far as it is readable: a file may have millions."""
    text = ", ".join(sorted(names))
    return text if len(text) <= 2_000 else f"{text[:2_000]}…"


def named_tensors(source: Any) -> dict[str, Tensor | Buffer]:
    """Returns the tensors, of any shape, in a file, a mapping or pairs.

    Raises:
        ValueError: the file cannot be read as one of tensors, or a pair is not of a text and a Tensor or
            Buffer.
    """
    tensors = read_tensors(source) if isinstance(source, (str, os.PathLike)) else dict(source)
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, (Tensor, Buffer)):
            raise ValueError(
                f"expected pairs of name and Tensor, but got {name!r:.80} with a {type(value).__name__}"
            )
    return tensors


def _suffix(file: WeightFile) -> str:
    """Returns ".safetensors" or ".json", as a file's name ends; raises ValueError for another kind."""
    suffix = os.path.splitext(os.fspath(file))[1]
    if suffix not in (".safetensors", ".json"):
        raise ValueError(f"{os.fspath(file)}: unknown kind of file {suffix!r}; use '.safetensors' or '.json'")
    return suffix


def write_tensors(
    file: WeightFile, tensors: Mapping[str, Tensor | Buffer], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes named tensors of any shape to a `.safetensors` or `.json` file; an old one stays until the new
    one is whole.

    Args:
        metadata: free text for the header of a `.safetensors` file.

    Raises:
        ValueError: another kind of file, or a name that the format does not allow.
    """
    # Here, because most programs touch no file of weights, and `import tinygpt_core` shall be quick.
    import json

    from .files.atomic import atomic_write
    from .files.safetensors import save_safetensors

    as_tensors = {
        name: value if isinstance(value, Tensor) else Tensor(value) for name, value in tensors.items()
    }
    if _suffix(file) == ".safetensors":
        save_safetensors(file, {name: tensor.buffer for name, tensor in as_tensors.items()}, metadata)
    else:
        texts = {name: tensor.serialize_tensor() for name, tensor in as_tensors.items()}
        atomic_write(file, json.dumps(texts, indent=2).encode())


def read_tensors(file: WeightFile) -> dict[str, Tensor | Buffer]:
    """Returns the named tensors, in their shapes, of a `.safetensors` or `.json` file.

    Raises:
        ValueError: the file is no such file; the message names the file and the entry.
    """
    from .files.json_objects import read_json_object  # here, as above
    from .files.safetensors import load_safetensors

    if _suffix(file) == ".safetensors":
        return dict(load_safetensors(file))
    try:
        texts = read_json_object(file, MAXIMUM_JSON)
        return {name: Tensor.deserialize_tensor(text) for name, text in texts.items()}
    except ValueError as error:
        name = os.fspath(file)
        reason = str(error).removeprefix(f"{name}: ").replace(f"{name} ", "it ", 1)  # which names it once
        raise ValueError(f"{name} is no JSON object of names and tensors: {reason:.400}") from error
