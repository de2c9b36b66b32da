"""The array API namespace has the standard's names with the standard's signatures, and those who know no more
than the standard can use it.
"""

from __future__ import annotations

import inspect
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning
from hypothesis.extra.array_api import make_strategies_namespace

from tinygpt_core import array_api, backends
from tinygpt_core.buffer import Buffer
from tinygpt_core.dtype import DType

# What array-api-strict has beside the standard, or ahead of the version that is here
NOT_STANDARD = {
    "ArrayAPIStrictFlags",
    "Device",
    "ModuleType",
    "broadcast_shapes",
    "get_array_api_strict_flags",
    "reset_array_api_strict_flags",
    "set_array_api_strict_flags",
}


def test_it_has_the_standards_names_or_says_why_not() -> None:
    strict = pytest.importorskip(
        "array_api_strict", reason="array-api-strict is not installed, which has the list"
    )
    standard = {name for name in dir(strict) if not name.startswith("_")} - NOT_STANDARD
    missing = {name for name in standard if not hasattr(array_api, name)}
    assert missing == set(array_api.LEFT_OUT) - {"linalg", "fft"}
    assert all(len(reason.split()) > 4 for reason in array_api.LEFT_OUT.values())


def default_of(parameter: inspect.Parameter) -> object:
    """What an argument is by default. array-api-strict has a mark of its own for the standard's None where it
    wants to know whether anything was given.
    """
    is_mark = type(parameter.default).__module__.startswith("array_api_strict")
    return None if is_mark and type(parameter.default).__name__ == "Undef" else parameter.default


def test_signatures_and_defaults_are_the_standards() -> None:
    strict = pytest.importorskip(
        "array_api_strict", reason="array-api-strict is not installed, which has them"
    )
    compared = 0
    for name, theirs in vars(strict).items():
        ours = getattr(array_api, name, None)
        if name in NOT_STANDARD or not inspect.isfunction(theirs) or ours is None:
            continue
        expected, found = (
            [(p.name, p.kind, default_of(p)) for p in inspect.signature(function).parameters.values()]
            for function in (theirs, ours)
        )
        assert found == expected, name
        compared += 1
    assert compared > 100


def test_extensions_are_left_out() -> None:
    assert not hasattr(array_api, "linalg") and not hasattr(array_api, "fft")


def _strategies() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)  # it names the dtypes that are left out
        return make_strategies_namespace(array_api, api_version="2022.12")


@pytest.mark.parametrize("name", ["python", "numpy"])
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_library_that_knows_only_the_standard_can_use_it(name: str, data: st.DataObject) -> None:
    """Hypothesis draws arrays of any library of the standard, by its functions and nothing of ours."""
    with backends.use(name):
        xps = _strategies()
        dtypes = st.sampled_from([getattr(array_api, dtype.name) for dtype in DType.all])
        x = data.draw(xps.arrays(dtypes, xps.array_shapes()))  # type: ignore[attr-defined]
        assert isinstance(x, Buffer) and x.backend == name and x.__array_namespace__() is array_api
        assert x.size == len(x.to_array()) > 0
