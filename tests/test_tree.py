"""Laws of trees."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt_core.tree import tree_flatten, tree_map, tree_unflatten

leaves = st.integers() | st.none() | st.text(max_size=2)
names = st.text("abc_", min_size=1, max_size=3)
# No empty containers: they have no leaves, so the flat form cannot tell of them.
trees = st.recursive(
    leaves,
    lambda children: (
        st.lists(children, min_size=1, max_size=3) | st.dictionaries(names, children, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60)
@given(trees)
def test_unflatten_undoes_flatten(tree):
    assert tree_unflatten(tree_flatten(tree)) == tree
    assert tree_unflatten(dict(tree_flatten(tree))) == tree


@settings(max_examples=60)
@given(trees)
def test_map_goes_over_the_leaves_that_flatten_lists(tree):
    seen = []
    result = tree_map(lambda leaf: seen.append(leaf) or (leaf,), tree)
    assert seen == [leaf for _, leaf in tree_flatten(tree)]
    assert tree_flatten(result, is_leaf=lambda node: isinstance(node, tuple)) == [
        (name, (leaf,)) for name, leaf in tree_flatten(tree)
    ]


def test_names():
    assert tree_flatten({"a": {"b": [7, 8]}, "c": ()}) == [("a.b.0", 7), ("a.b.1", 8)]
    assert tree_flatten([1, (2,)], prefix="p") == [("p.0", 1), ("p.1.0", 2)]
    assert tree_flatten(5) == [("", 5)]
    assert tree_unflatten([]) == {}
    assert tree_unflatten([("x.2", 1)]) == {"x": [{}, {}, 1]}


def test_map_with_further_trees():
    assert tree_map(lambda a, b: a + b, {"x": [1, 2], "y": (3,)}, {"x": [10, 20], "y": (30,), "z": 0}) == {
        "x": [11, 22],
        "y": (33,),
    }
    with pytest.raises(ValueError, match="no place 'y'"):
        tree_map(lambda a, b: a, {"y": 1}, {"x": 1})


def test_names_that_contradict_each_other():
    for pairs in ([("a", 1), ("a", 2)], [("a", 1), ("a.b", 2)], [("c.a.b", 1), ("c.a", 2)]):
        with pytest.raises(ValueError, match="'a'"):
            tree_unflatten(pairs)
