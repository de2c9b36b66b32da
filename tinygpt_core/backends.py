"""Floor 3: which backends there are, and which one is in use.

A backend is a subclass of Buffer. `python` is built in; others come from packages that name a light module
under the entry-point group `tinygpt.backends`, with a `factory` that imports the rest when the backend is
asked for and perhaps a `probe` that says beforehand why it cannot run. So neither `import tinygpt_core` nor
the list of backends ever imports NumPy.

Which backend is in use is a matter of the calling thread: `use` chooses for it alone. A thread that has
chosen none uses the process's default, $TINYGPT_BACKEND or `python`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from types import TracebackType
from typing import Any, NamedTuple

# A subclass of `buffer.Buffer`, which stands above this module and asks it for the active one
BufferClass = type[Any]

ENTRY_POINT_GROUP = "tinygpt.backends"
ENVIRONMENT_VARIABLE = "TINYGPT_BACKEND"


class BackendUnavailable(RuntimeError):
    """A backend that is known but cannot run here; the message says why and what to install."""


class BackendStatus(NamedTuple):
    """A line of `available()`.

    Attributes:
        name: of the backend.
        available: whether it can run here.
        reason: why it cannot, or "".
        description: what it is, in one line.
        preference: its rank in `fastest()`: the largest wins.
    """

    name: str
    available: bool
    reason: str
    description: str
    preference: int


class _Plugin:
    """What is known of a backend.

    An entry point names a module or an object with attributes of these names, all but `factory` optional.
    """

    def __init__(
        self,
        factory: Callable[[str], BufferClass],
        probe: Callable[[], str] | None,
        description: str,
        preference: int,
    ) -> None:
        self.factory = factory
        self.probe = probe
        self.description = description
        self.preference = preference


# Name -> a _Plugin, what an entry point has named, or an entry point that nobody has asked for yet
_plugins: dict[str, Any] = {}
_loaded: dict[str, BufferClass] = {}  # name, with the part behind ":" -> what the factory returned
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
        raise ValueError(f"a backend's name is not empty and has no ':', but got {name!r}")
    _plugins[name] = _Plugin(factory, probe, description, preference)
    for key in [key for key in _loaded if key.partition(":")[0] == name]:
        del _loaded[key]


def _plugin(name: str) -> Any:
    """Returns what is known of a backend, importing the light module that an entry point names.

    Raises:
        BackendUnavailable: that module cannot be imported.
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
        from importlib.metadata import entry_points  # 20 ms to import, so only when someone asks

        for point in entry_points(group=ENTRY_POINT_GROUP):
            _plugins.setdefault(point.name, point)
        _discovered = True  # last, since another thread that sees it looks for no plug-in


def available() -> list[BackendStatus]:
    """Returns every known backend with whether it can run and, if not, why. Imports no array library."""
    _discover()
    result = []
    for name in sorted(_plugins, key=lambda name: (name != "python", name)):
        plugin = None
        try:
            plugin = _plugin(name)
            probe = getattr(plugin, "probe", None)
            reason = str(probe()) if probe else ""
        except BackendUnavailable as problem:
            reason = str(problem)
        except Exception as problem:
            reason = f"its probe failed: {type(problem).__name__}: {problem}"
        description = getattr(plugin, "description", "")
        preference = getattr(plugin, "preference", 0)
        result.append(BackendStatus(name, not reason, reason, description, preference))
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
    """Returns the backend called `name` ("python", "numpy", "cupy"), importing it if needed.

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
            f"unknown backend {name!r}: known are {', '.join(sorted(_plugins))}; "
            "others come with `pip install . ./tinygpt_accel` in the project's folder"
        )
    try:
        plugin = _plugin(base)
        backend: BufferClass = getattr(plugin, "factory", plugin)(device)
    except ValueError:
        raise
    except Exception as problem:
        if isinstance(problem, BackendUnavailable):
            reason = str(problem)
        else:
            reason = f"its factory failed: {type(problem).__name__}: {problem}"
        raise BackendUnavailable(f"backend {name!r} is not available: {reason}") from problem
    if not hasattr(backend, "_from_array"):
        raise BackendUnavailable(
            f"backend {name!r} is not available: its factory returned {backend!r}, which is no Buffer class"
        )
    return _loaded.setdefault(
        name, backend
    )  # another thread may have been faster, and all get the same class


# The backends that `use` has chosen in this context and not given back yet, the one in use last
_chosen: ContextVar[tuple[BufferClass, ...]] = ContextVar("chosen backends", default=())


@cache
def _default() -> BufferClass:
    """Returns the backend of a thread that has chosen none: $TINYGPT_BACKEND, as at first use, or python."""
    return get(os.environ.get(ENVIRONMENT_VARIABLE) or "python")


def active() -> BufferClass:
    """Returns the backend on which new Buffers are made.

    It is the one that this thread has last chosen with `use`, else $TINYGPT_BACKEND, else python.
    """
    chosen = _chosen.get()
    return chosen[-1] if chosen else _default()


class use:
    """The choice of the backend on which new Buffers are made, for the calling thread only.

    `use("numpy")` chooses it from now on; `with use("numpy"):` chooses it for a block, and then what was in
    use before is in use again, also where blocks stand inside each other. (To be exact, the choice belongs to
    the calling context, see Python's `contextvars`: a new thread starts from the default, an asyncio task
    with what was in use where it was made.)

    Args:
        name: of the backend, see `get`.

    Raises:
        ValueError, BackendUnavailable: as `get`; then nothing changes.
    """

    def __init__(self, name: str) -> None:
        self._backend = get(name)
        self._before = _chosen.get()
        self._after = (*self._before[:-1], self._backend)
        _chosen.set(self._after)

    def __enter__(self) -> BufferClass:
        chosen = _chosen.get()
        if chosen is self._after:
            chosen = self._before  # the object was made by this very `with`: what was before shall come back
        _chosen.set((*chosen, self._backend))
        return self._backend

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _chosen.set(_chosen.get()[:-1])
