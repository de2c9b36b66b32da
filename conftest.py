"""Gives every test run `--backend NAME[,NAME…]` and the `backend` fixture of the specification.

It stands at the root because pytest reads options and `pytest_plugins` only from the topmost conftest.
"""

pytest_plugins = ["tests.spec.plugin"]
