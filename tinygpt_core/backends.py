"""Floor 3: which backends there are, and which one is in use.

A backend is a subclass of Buffer. `python` is built in; others come from packages that name a factory under the entry-point group
`tinygpt.backends`. Such a package is imported only when its backend is asked for (a light `probe` may say beforehand why it cannot
run), so neither `import tinygpt_core` nor the list of backends ever imports NumPy.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .buffer.base import Buffer

ENTRY_POINT_GROUP = "tinygpt.backends"
ENVIRONMENT_VARIABLE = "TINYGPT_BACKEND"


class BackendUnavailable(RuntimeError):
    """A backend that is known but cannot run here; the message says why and what to install."""


class BackendStatus(NamedTuple):
    """A line of `available()`: the backend's name, whether it can run, why not (or ""), and what it is."""

    name: str
    available: bool
    reason: str
    description: str


class _Entry(NamedTuple):
    factory: Callable[[str], type[Buffer]]
    probe: Callable[[], str] | None
    description: str


def _python(device: str) -> type[Buffer]:
    if device:
        raise ValueError(f"the python backend has no devices, so 'python:{device}' means nothing: use 'python'")
    # A late import by name: the reference backend stands two rooms above this one, and importing it registers its kernels.
    backend: type[Buffer] = import_module("tinygpt_core.kernels.python").PythonBuffer
    return backend


_entries: dict[str, _Entry] = {"python": _Entry(_python, None, "the reference: pure Python, no dependencies")}
_loaded: dict[str, type[Buffer]] = {}
_active: list[type[Buffer]] = []
_discovered = False


def register(name: str, factory: Callable[[str], type[Buffer]], probe: Callable[[], str] | None = None, description: str = "") -> None:
    """Makes a backend known under `name`, replacing one of that name.

    Args:
        factory: called with the part of the name behind ":" ("" without one) when the backend is first asked for; returns a subclass
            of Buffer, or raises BackendUnavailable.
        probe: returns why the backend cannot run here, or "" if it can; must be cheap and import nothing heavy.
        description: one line for people.
    """
    if not name or ":" in name:
        raise ValueError(f"a backend's name is not empty and has no ':', unlike {name!r}")
    _entries[name] = _Entry(factory, probe, description)
    for key in [key for key in _loaded if key.partition(":")[0] == name]:
        del _loaded[key]


def _discover() -> None:
    """Notes the entry points of installed plug-ins, without importing them."""
    global _discovered
    if _discovered:
        return
    _discovered = True
    from importlib.metadata import entry_points  # 20 ms to import, so only when someone asks

    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name not in _entries:
            _entries[point.name] = _entry_from_plugin(point)


def _entry_from_plugin(point: Any) -> _Entry:
    """Wraps an entry point: it names a module or object with `factory(device)`, and optionally `probe()` and `description`."""

    def load(device: str) -> type[Buffer]:
        try:
            plugin = point.load()
        except Exception as problem:  # whatever a broken plug-in raises must not break the core
            raise BackendUnavailable(f"its plug-in {point.value!r} cannot be imported: {problem}") from problem
        backend: type[Buffer] = getattr(plugin, "factory", plugin)(device)
        return backend

    def probe() -> str:
        try:
            plugin = point.load()
            check = getattr(plugin, "probe", None)
            return str(check()) if check else ""
        except Exception as problem:
            return f"its plug-in {point.value!r} cannot be imported: {problem}"

    package = point.dist.name if point.dist else point.value
    return _Entry(load, probe, f"from the installed package {package}")


def available() -> list[BackendStatus]:
    """Returns every known backend with whether it can run and, if not, why. Imports no array library."""
    _discover()
    result = []
    for name, entry in sorted(_entries.items(), key=lambda item: (item[0] != "python", item[0])):
        try:
            reason = entry.probe() if entry.probe else ""
        except Exception as problem:
            reason = f"its probe failed: {problem}"
        result.append(BackendStatus(name, not reason, reason, entry.description))
    return result


def get(name: str) -> type[Buffer]:
    """Returns the backend called `name` ("python", "numpy", "cupy:1"), importing it if needed.

    Raises:
        ValueError: no backend has that name.
        BackendUnavailable: it cannot run here; the message says why.
    """
    if name in _loaded:
        return _loaded[name]
    base, _, device = name.partition(":")
    if base not in _entries:
        _discover()
    if base not in _entries:
        raise ValueError(f"unknown backend {name!r}: known are {', '.join(sorted(_entries))}; others come with `pip install tinygpt-accel`")
    try:
        backend = _entries[base].factory(device)
    except BackendUnavailable as problem:
        raise BackendUnavailable(f"backend {name!r} is not available: {problem}") from problem
    _loaded[name] = backend
    return backend


def active() -> type[Buffer]:
    """Returns the backend on which new Buffers are made: the one last chosen with `use`, else $TINYGPT_BACKEND, else python."""
    if not _active:
        _active.append(get(os.environ.get(ENVIRONMENT_VARIABLE) or "python"))
    return _active[-1]


class use:
    """Chooses the backend on which new Buffers are made: `use("numpy")` from now on, `with use("numpy"):` for a block."""

    def __init__(self, name: str) -> None:
        previous = active() if _active else None
        backend = get(name)
        self._previous = previous
        _active[:] = [backend]

    def __enter__(self) -> type[Buffer]:
        return _active[-1]

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        _active[:] = [] if self._previous is None else [self._previous]
