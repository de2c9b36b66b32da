"""tinygpt: a deep-learning framework that shows how it works, in pure Python with no dependencies.

Read it bottom-up: `dtype` and `shape`, `random`, `buffer` and `kernels`, `operations`, `tensor`, `module`,
`nn`; then `tokenizer`, `dataset`, `training` and `generation`. Backends (`backends`) replace the arrays
underneath and nothing else.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  before anything is imported that older versions cannot read
    _MESSAGE = "tinygpt needs Python 3.11 or newer, but this is {}.{}.{}".format(*sys.version_info[:3])
    if sys.argv[:1] == ["-m"]:  # python -m tinygpt_core
        sys.exit("tinygpt: error: " + _MESSAGE)
    raise ImportError(_MESSAGE)

from . import backends, moved
from .buffer.base import Buffer
from .checks import check_gradients
from .dtype import DType
from .module import Module
from .operations import Operation
from .random import seed
from .tape import GradientFunction, no_grad
from .tensor import Tensor, apply_op

__version__ = "0.1.0"


def _python(device: str) -> type[Buffer]:
    """Returns the reference backend; its kernels are imported when it is asked for, like any backend's."""
    from .kernels.python import python_backend

    return python_backend(device)


backends.register("python", _python, description="the reference: pure Python, no dependencies")

moved.OldNames(__name__, moved.MOVED).install()

einsum = Tensor.einsum

__all__ = [
    "Buffer",
    "DType",
    "GradientFunction",
    "Module",
    "Operation",
    "Tensor",
    "__version__",
    "apply_op",
    "backends",
    "check_gradients",
    "einsum",
    "no_grad",
    "seed",
]
