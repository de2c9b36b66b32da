"""Trees of parameters: nested dicts, lists and tuples with leaves, and their flat form of dotted names.

A model's parameters are a tree such as

    {"layers": [{"weights": W0, "bias": b0}, {"weights": W1}]}

Files and optimizers want a flat list of names instead:

    [("layers.0.weights", W0), ("layers.0.bias", b0), ("layers.1.weights", W1)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Tree = Any  # a leaf, or a dict, list or tuple of trees
IsLeaf = Callable[[Any], bool]


def _is_container(tree: Tree, is_leaf: IsLeaf | None) -> bool:
    """Whether a tree is to be looked into."""
    return isinstance(tree, (dict, list, tuple)) and not (is_leaf is not None and is_leaf(tree))


def tree_flatten(tree: Tree, prefix: str = "", is_leaf: IsLeaf | None = None) -> list[tuple[str, Any]]:
    """Returns a tree's leaves, each with its dotted name: `{"a": {"b": [x]}}` gives `[("a.b.0", x)]`.

    Args:
        tree: nested dicts, lists and tuples. Empty containers have no leaves and leave no trace.
        prefix: a name to put before every name.
        is_leaf: says of a node whether it is a leaf although it is a container.

    Returns:
        Pairs of name and leaf, depth first, in the order of the containers. A tree that is one leaf has the
        name `prefix`.
    """
    if not _is_container(tree, is_leaf):
        return [(prefix, tree)]
    dot = prefix + "." if prefix else ""
    pairs = []
    for key, child in tree.items() if isinstance(tree, dict) else enumerate(tree):
        pairs += tree_flatten(child, f"{dot}{key}", is_leaf)
    return pairs


def tree_unflatten(pairs: Iterable[tuple[str, Any]] | Mapping[str, Any]) -> Tree:
    """Returns the tree that a flat list of dotted names describes: the inverse of `tree_flatten`.

    Names made of digits only become the places of a list; a place that no name mentions holds an empty dict.

    Args:
        pairs: pairs of dotted name and leaf, or a mapping of them.

    Returns:
        The tree; tuples of the original come back as lists.

    Raises:
        ValueError: a name occurs twice, or is both a leaf and the beginning of another name.
    """
    pairs = list(pairs.items() if isinstance(pairs, Mapping) else pairs)
    if len(pairs) == 1:
        name, leaf = pairs[0]
        if name == "":  # the flat form of a tree that is one leaf
            return leaf
    branches: dict[str, list[tuple[str, Any]]] = {}
    for name, leaf in pairs:
        key, _, rest = name.partition(".")
        branches.setdefault(key, []).append((rest, leaf))
    for key, branch in branches.items():
        if len(branch) > 1 and any(rest == "" for rest, _ in branch):
            raise ValueError(
                f"the name {key!r} occurs twice, or is both a leaf and the beginning of another name"
            )
    children = {key: tree_unflatten(branch) for key, branch in branches.items()}
    if children and all(key.isdecimal() for key in children):
        places = {int(key): child for key, child in children.items()}
        return [places.get(place, {}) for place in range(max(places) + 1)]
    return children


def tree_map(fn: Callable[..., Any], tree: Tree, *rest: Tree, is_leaf: IsLeaf | None = None) -> Tree:
    """Applies a function to every leaf of a tree, and to the leaves at the same places of further trees.

    Args:
        fn: called as `fn(leaf, *leaves_of_rest)`.
        tree: gives the structure of the result.
        rest: trees that have at least the places of `tree`; below a leaf of `tree` they may go on.
        is_leaf: says of a node whether it is a leaf although it is a container.

    Returns:
        A tree like `tree` with the results as leaves.

    Raises:
        ValueError: a tree of `rest` lacks a place of `tree`.
    """
    if not _is_container(tree, is_leaf):
        return fn(tree, *rest)

    def rest_at(key: Any) -> list[Tree]:
        try:
            return [other[key] for other in rest]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"tree_map: a further tree has no place {key!r}, which the first tree has"
            ) from error

    if isinstance(tree, dict):
        return {key: tree_map(fn, child, *rest_at(key), is_leaf=is_leaf) for key, child in tree.items()}
    mapped = [tree_map(fn, child, *rest_at(place), is_leaf=is_leaf) for place, child in enumerate(tree)]
    return mapped if isinstance(tree, list) else tuple(mapped)
