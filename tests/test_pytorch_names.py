"""The list of names in docs/coming-from-pytorch.md: each is there, has a law and is PyTorch's, and none is
missing.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from spec.table import COVERED

import tinygpt_core
from tinygpt_core import Tensor
from tinygpt_core.tensor_methods.base import TensorMethods

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "coming-from-pytorch.md"
TEXT = PAGE.read_text(encoding="utf-8")


class Name(NamedTuple):
    """A row of the list."""

    theirs: str
    ours: str
    chapter: str
    defined_in: str

    def owner_and_name(self) -> tuple[object, str]:
        """Returns the module or class that has our name, and the last part of it."""
        first, _, rest = self.ours.partition(".")
        return (Tensor, rest) if first == "Tensor" and rest else (tinygpt_core, first)


NAMES = [
    Name(*found.groups())
    for found in re.finditer(
        r"^\| `([^`]+)` \| `([^`]+)` \| \[\d+\]\(([^)]+)\) \| \[`[^`]+`\]\(([^)]+)\) \|", TEXT, re.MULTILINE
    )
]
IDS = [name.theirs for name in NAMES]

# Members that compute nothing: what a Tensor is, and how it is shown, written and trained
NOT_LISTED = {
    "accumulate_gradient",
    "assign",
    "backend",
    "buffer",
    "compact_grad",
    "deserialize_tensor",
    "dtype",
    "explain",
    "grad",
    "grad_fn",
    "is_leaf",
    "ndim",
    "numel",
    "sparse_grad",
    "print_dag",
    "requires_grad",
    "retain_grad",
    "serialize_tensor",
    "shape",
    "to_dot",
    "validate_serialized_tensor",
    "zero_grad",
}


def test_the_list_is_found() -> None:
    assert len(NAMES) > 100 and len(set(IDS)) == len(IDS)


@pytest.mark.parametrize("name", NAMES, ids=IDS)
def test_our_name_is_there_and_where_the_list_says(name: Name) -> None:
    owner, last = name.owner_and_name()
    assert callable(getattr(owner, last)) or isinstance(vars(owner).get(last, getattr(owner, last)), property)
    assert (DOCS / name.chapter).is_file()
    text = (DOCS / name.defined_in).resolve().read_text(encoding="utf-8")
    assert re.search(rf"^ *(def|class) {last}\b|^ *{last} = |import .*\b{last}\b", text, re.MULTILINE), (
        f"{last} is not defined in {name.defined_in}"
    )


def test_every_method_that_computes_is_listed() -> None:
    public = {
        name
        for kind in Tensor.__mro__
        if kind is Tensor or issubclass(kind, TensorMethods)
        for name in vars(kind)
        if not name.startswith("_")
    }
    listed = {name.ours.removeprefix("Tensor.") for name in NAMES}
    missing = public - listed - NOT_LISTED
    assert not missing, f"not in the list of {PAGE.name}: {sorted(missing)}"


def test_every_listed_method_by_subject_has_a_law() -> None:
    """The methods of `tensor_methods`; those in tensor.py have rows under the names of their operations."""
    ours = [name for name in NAMES if "tensor_methods/" in name.defined_in]
    without = [name.ours for name in ours if not {name.ours, name.ours.removeprefix("Tensor.")} & COVERED]
    assert len(ours) > 40 and set(without) <= {"Tensor.__getitem__"}, without  # whose row is `index`


def test_their_names_are_pytorchs() -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed, so its names cannot be looked up")
    import torch

    missing = []
    for name in NAMES:
        found: object = torch
        for part in name.theirs.removeprefix("torch.").split("."):
            found = getattr(found, part, None)
        missing += [] if found is not None else [name.theirs]
    assert missing == []
