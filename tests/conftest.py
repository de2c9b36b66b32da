"""Gives every test run the specification's plug-in: `--backend NAME[,NAME…]`, `--laws` and the `backend` fixture.

Here, and not in tests/spec, because pytest reads options from the topmost conftest of the folder it is given (`testpaths`).
"""

pytest_plugins = ["spec.plugin"]
