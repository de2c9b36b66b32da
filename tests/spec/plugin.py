"""The pytest plug-in of the specification: `--backend NAME[,NAME…]` and the `backend` fixture.

A test that takes `backend` runs once for each named backend, which is active meanwhile; `backend` is its
Buffer class. A backend that was asked for but cannot run is an error, never a skip. What a backend declares
it cannot do (capabilities) is printed at the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tinygpt_core import backends
from tinygpt_core.buffer import Buffer

NAME = "tinygpt-spec"

# The fixture only sets the active backend, which is the same for all examples of a test.
_common: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
settings.register_profile("quick", max_examples=20, derandomize=True, database=None, **_common)
settings.register_profile("thorough", max_examples=400, **_common)


def resolve(name: str) -> type[Buffer]:
    """Returns the backend `name`; "minimal" and "broken-…", which only the specification has, are registered
    on demand.
    """
    if name == "minimal":
        from . import minimal

        minimal.register()
    elif name.startswith("broken-"):
        from . import broken

        broken.register()
    return backends.get(name)


def names(config: pytest.Config) -> list[str]:
    """Returns the backends asked for: --backend, else $TINYGPT_BACKEND, else python."""
    text = config.getoption("--backend") or os.environ.get(backends.ENVIRONMENT_VARIABLE) or "python"
    return [name.strip() for name in text.split(",") if name.strip()]


class Specification:
    """The hooks and fixtures. An object, so that a plug-in loaded under two names (spec and tinygpt_spec)
    acts once.
    """

    def pytest_configure(self, config: pytest.Config) -> None:
        settings.load_profile(config.getoption("--laws"))
        for name in names(config):
            try:
                resolve(name)
            except (ValueError, backends.BackendUnavailable) as problem:
                raise pytest.UsageError(f"--backend {name}: {problem}") from None

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        """Says what no law has tried, because a backend declares (attribute `lacks`: capability -> reason)
        that it cannot do it.
        """
        for name in names(config):
            for capability, reason in getattr(resolve(name), "lacks", {}).items():
                terminalreporter.write_line(
                    f"not tried on {name}, which declares that it lacks {capability}: {reason}"
                )

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "backend" in metafunc.fixturenames:
            metafunc.parametrize("backend", names(metafunc.config), indirect=True)

    @pytest.fixture
    def backend(self, request: pytest.FixtureRequest) -> Iterator[type[Buffer]]:
        """The Buffer class of the backend under test, which is active during the test."""
        kind = resolve(request.param)
        with backends.use(request.param):
            yield kind


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    if pluginmanager.has_plugin(NAME):
        return
    group = parser.getgroup("tinygpt", "the specification of tinygpt")
    group.addoption(
        "--backend",
        metavar="NAME[,NAME…]",
        help="backends that tests with a `backend` run on (default: python)",
    )
    default = os.environ.get("TINYGPT_LAWS", "quick")
    group.addoption(
        "--laws",
        choices=["quick", "thorough"],
        default=default,
        help=f"how hard Hypothesis searches ({default})",
    )
    pluginmanager.register(Specification(), NAME)
