"""Gives every test run the specification's plug-in: `--backend NAME[,NAME…]`, `--profile NAME`, the mark
`thorough` and the `backend` fixture.

Here, and not in tests/spec, because pytest reads options from the topmost conftest of the folder it is given
(`testpaths`).
"""

import pytest

from tinygpt_core import backends

pytest_plugins = ["spec.plugin"]


def _cuda_on_cpu(device: str) -> type:
    from cuda_on_cpu.backend import EmulatedBuffer  # imports NumPy and the plug-in

    return EmulatedBuffer


backends.register("cuda-on-cpu", _cuda_on_cpu, None, "the CUDA kernels compiled for the CPU, for tests", -1)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tinygpt")
    group.addoption(
        "--fuzz-seconds", type=float, default=0.0, help="how long tests/fuzz looks for failures (default: 0)"
    )
    group.addoption("--fuzz-seed", type=int, default=0, help="where the long fuzzing begins (default: 0)")
