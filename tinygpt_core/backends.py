"""Floor 3: which backends there are, and which one is in use.

A backend is a subclass of Buffer. `python` is built in; others come from packages that name a light module
under the entry-point group `tinygpt.backends`, with a `factory` that imports the rest when the backend is
asked for and perhaps a `probe` that says beforehand why it cannot run. So neither `import tinygpt_core` nor
the list of backends ever imports NumPy.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

# A subclass of `buffer.Buffer`, which stands above this module and asks it for the active one
BufferClass = type[Any]

ENTRY_POINT_GROUP = "tinygpt.backends"
ENVIRONMENT_VARIABLE = "TINYGPT_BACKEND"


class BackendUnavailable(RuntimeError):
    """A backend that is known but cannot run here; the message says why and what to install."""


class BackendStatus(NamedTuple):
    """A line of `available()`: the backend's name, whether it can run, why not (or ""), what it is, and its
    rank in `fastest()`.
    """

    name: str
    available: bool
    reason: str
    description: str
    preference: int


class _Plugin(NamedTuple):
    """What is known of a backend. An entry point names a module (or object) with attributes of these names,
    all but `factory` optional.
    """

    factory: Callable[[str], BufferClass]
    probe: Callable[[], str] | None = None
    description: str = ""
    preference: int = 0


_plugins: dict[str, Any] = {}
_loaded: dict[str, BufferClass] = {}
_active: list[BufferClass] = []
_discovered = False


def register(
    name: str,
    factory: Callable[[str], BufferClass],
    probe: Callable[[], str] | None = None,
    description: str = "",
    preference: int = 0,
) -> None:
    """Makes a backend known under `name`, replacing one of that name.

    Args:
        factory: called with the part of the name behind ":" ("" without one) when the backend is first asked
            for; returns a subclass of Buffer, or raises BackendUnavailable.
        probe: returns why the backend cannot run here, or "" if it can; must be cheap and import nothing
            heavy.
        description: one line for people.
        preference: `fastest()` chooses the largest; the python backend has 0.

    Raises:
        ValueError: an empty name, or one with ":".
    """
    if not name or ":" in name:
        raise ValueError(f"a backend's name is not empty and has no ':', unlike {name!r}")
    _plugins[name] = _Plugin(factory, probe, description, preference)
    for key in [key for key in _loaded if key.partition(":")[0] == name]:
        del _loaded[key]


def _plugin(name: str) -> Any:
    """Returns what is known of a backend, importing the light module that an entry point names; raises
    BackendUnavailable.
    """
    plugin = _plugins[name]
    if hasattr(plugin, "load"):
        try:
            plugin = _plugins[name] = plugin.load()
        except Exception as problem:  # whatever a broken plug-in raises must not break the core
            message = f"its plug-in {plugin.value!r} cannot be imported: {type(problem).__name__}: {problem}"
            raise BackendUnavailable(message) from problem
    return plugin


def _discover() -> None:
    """Notes the entry points of installed plug-ins, without importing them."""
    global _discovered
    if not _discovered:
        _discovered = True
        from importlib.metadata import entry_points  # 20 ms to import, so only when someone asks

        for point in entry_points(group=ENTRY_POINT_GROUP):
            _plugins.setdefault(point.name, point)


def available() -> list[BackendStatus]:
    """Returns every known backend with whether it can run and, if not, why. Imports no array library."""
    _discover()
    result = []
    for name in sorted(_plugins, key=lambda name: (name != "python", name)):
        plugin = None
        try:
            plugin = _plugin(name)
            check = getattr(plugin, "probe", None)
            reason = str(check()) if check else ""
        except BackendUnavailable as problem:
            reason = str(problem)
        except Exception as problem:
            reason = f"its probe failed: {type(problem).__name__}: {problem}"
        about, preference = getattr(plugin, "description", ""), getattr(plugin, "preference", 0)
        result.append(BackendStatus(name, not reason, reason, about, preference))
    return result


def fastest() -> str:
    """Returns the name of the backend with the largest preference among those that can run."""
    ranked = sorted(available(), key=lambda status: -status.preference)
    return next(status.name for status in ranked if status.available and not why_not(status.name))


def why_not(name: str) -> str:
    """Returns why the backend called `name` cannot be used here, or "" where it can; imports it."""
    try:
        get(name)
    except (ValueError, BackendUnavailable) as problem:
        return str(problem)
    return ""


def get(name: str) -> BufferClass:
    """Returns the backend called `name` ("python", "numpy", "cupy:1"), importing it if needed.

    Raises:
        ValueError: no backend has that name, or it has no such device.
        BackendUnavailable: it cannot run here; the message says why.
    """
    if name in _loaded:
        return _loaded[name]
    base, _, device = name.partition(":")
    if base not in _plugins:
        _discover()
    if base not in _plugins:
        raise ValueError(
            f"unknown backend {name!r}: known are {', '.join(sorted(_plugins))}; others come with `pip install tinygpt-accel`"
        )
    try:
        plugin = _plugin(base)
        backend: BufferClass = getattr(plugin, "factory", plugin)(device)
    except ValueError:
        raise
    except Exception as problem:
        said = (
            str(problem)
            if isinstance(problem, BackendUnavailable)
            else f"its factory failed: {type(problem).__name__}: {problem}"
        )
        raise BackendUnavailable(f"backend {name!r} is not available: {said}") from problem
    if not hasattr(backend, "_from_array"):
        raise BackendUnavailable(
            f"backend {name!r} is not available: its factory returned {backend!r}, which is no Buffer class"
        )
    _loaded[name] = backend
    return backend


def active() -> BufferClass:
    """Returns the backend on which new Buffers are made: the one last chosen with `use`, else
    $TINYGPT_BACKEND, else python.
    """
    if not _active:
        _active.append(get(os.environ.get(ENVIRONMENT_VARIABLE) or "python"))
    return _active[-1]


class use:
    """Chooses the backend on which new Buffers are made: `use("numpy")` from now on, `with use("numpy"):` for
    a block.
    """

    def __init__(self, name: str) -> None:
        previous = active() if _active else None
        backend = get(name)
        self._previous = previous
        _active[:] = [backend]

    def __enter__(self) -> BufferClass:
        return _active[-1]

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _active[:] = [] if self._previous is None else [self._previous]
