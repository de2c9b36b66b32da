"""Gives every test run the specification's plug-in: `--backend NAME[,NAME…]`, `--laws` and the `backend`
fixture.

Here, and not in tests/spec, because pytest reads options from the topmost conftest of the folder it is given
(`testpaths`).
"""

from tinygpt_core import backends

pytest_plugins = ["spec.plugin"]


def _cuda_on_cpu(device: str) -> type:
    from cuda_on_cpu.backend import EmulatedBuffer  # imports NumPy and the plug-in

    return EmulatedBuffer


backends.register("cuda-on-cpu", _cuda_on_cpu, None, "the CUDA kernels compiled for the CPU, for tests", -1)
