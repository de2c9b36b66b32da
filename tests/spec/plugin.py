"""The pytest plug-in of the specification: `--backend NAME[,NAME…]`, `--profile NAME`, and the `backend`
fixture.

A test that takes `backend` runs once for each backend, which is active meanwhile; `backend` is its Buffer
class. Without `--backend` (or $TINYGPT_BACKEND) these are `python` and every backend that is installed; one
of them that cannot run here is named at the end, with the reason. A backend that was asked for but cannot run
is an error, never a skip. What a backend declares it cannot do (capabilities) is printed at the end, too.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.errors import InvalidArgument

from tinygpt_core import backends
from tinygpt_core.buffer import Buffer

NAME = "tinygpt-spec"

# The fixture only sets the active backend, which is the same for all examples of a test.
_common: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
# What is drawn is the same in every run, but for the last.
PROFILES = {"quick": "the default", "thorough": "continuous integration", "nightly": "hours"}
settings.register_profile("quick", max_examples=3, derandomize=True, database=None, **_common)
settings.register_profile("thorough", max_examples=20, derandomize=True, database=None, **_common)
settings.register_profile("nightly", max_examples=400, **_common)


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


@cache
def installed() -> dict[str, str]:
    """Returns why each installed backend cannot run here, or "" where it can: python, and what entry points
    name.
    """
    others = {point.name for point in entry_points(group=backends.ENTRY_POINT_GROUP)} - {"python"}
    return {name: backends.why_not(name) for name in ["python", *sorted(others)]}


def asked_for(config: pytest.Config) -> list[str]:
    """Returns the backends of --backend, or else of $TINYGPT_BACKEND."""
    text = config.getoption("--backend") or os.environ.get(backends.ENVIRONMENT_VARIABLE) or ""
    return [name.strip() for name in text.split(",") if name.strip()]


def names(config: pytest.Config) -> list[str]:
    """Returns the backends of this run: those asked for, else python and what else is installed and runs."""
    return asked_for(config) or [name for name, reason in installed().items() if not reason]


class Specification:
    """The hooks and fixtures. An object, so that a plug-in loaded under two names (spec and tinygpt_spec)
    acts once.
    """

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line(
            "markers", "thorough(why): takes long, and is made with --profile thorough or nightly only"
        )
        try:
            settings.load_profile(config.getoption("--profile"))
        except InvalidArgument:
            raise pytest.UsageError(
                f"--profile must be one of {', '.join(PROFILES)}, not {config.getoption('--profile')}"
            ) from None
        for name in names(config):
            try:
                resolve(name)
            except (ValueError, backends.BackendUnavailable) as problem:
                raise pytest.UsageError(f"--backend {name}: {problem}") from None

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        """Says what no law has tried: on an installed backend that cannot run here, and what a backend
        declares (attribute `lacks`: capability -> reason) that it cannot do.
        """
        if not asked_for(config):
            for name, reason in installed().items():
                if reason:
                    terminalreporter.write_line(f"no law was tried on {name}: {reason}")
        for name in names(config):
            for capability, reason in getattr(resolve(name), "lacks", {}).items():
                terminalreporter.write_line(
                    f"not tried on {name}, which declares that it lacks {capability}: {reason}"
                )

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leaves out what is marked `thorough`, unless the profile asks for it, or its file was named."""
        if config.getoption("--profile") in ("thorough", "nightly"):
            return
        base = config.invocation_params.dir
        named = {(base / argument.partition("::")[0]).resolve() for argument in config.args}
        left_out = [
            item for item in items if item.get_closest_marker("thorough") and item.path.resolve() not in named
        ]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            gone = set(left_out)
            items[:] = [item for item in items if item not in gone]

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Iterator[None]:
        """Says of a law that fails what it states, and on what it was tried."""
        report = (yield).get_result()  # type: ignore[misc]
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if report.failed and "backend" in parameters:
            about = inspect.getdoc(getattr(item, "function", None)) or item.name.partition("[")[0]
            lines = [f"{name}: {value}" for name, value in parameters.items()]
            report.sections.append(("the law that fails", "\n".join([*lines, about])))

    def pytest_report_header(self, config: pytest.Config) -> str:
        profile = config.getoption("--profile")
        about = PROFILES.get(profile, "a profile of its own")
        return f"laws: profile {profile} ({about}), on {', '.join(names(config))}"

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
        help="backends that tests with a `backend` run on (default: every one that is installed and can run)",
    )
    group.addoption(
        "--profile",
        "--laws",  # its name before
        metavar="NAME",
        default="quick",
        help="how many cases the laws draw, and which tests are made: "
        + ", ".join(f"{name} ({about})" for name, about in PROFILES.items()),
    )
    pluginmanager.register(Specification(), NAME)
