"""The reference backend's own kernels: the same formulas, fused over rows of Python floats.

A textbook kernel rounds to the dtype and packs an array after every elementary step. These unpack their
inputs once, do all their arithmetic in doubles on lists, and pack once. What they save for the backward are
lists too. A kernel that is not here (softmax, dropout, embedding, …) runs in its textbook version.

Importing this package registers them; the backend `python` does so when it is first asked for.
"""

from __future__ import annotations

from ...buffer.python import PythonBuffer
from ..activations import GELU, Relu
from ..attention import Attention, PackedAttention
from ..base import register
from ..convolution import Conv2d, MaxPool2d
from ..cross_entropy import CrossEntropy
from ..dense import Embedding, Linear
from ..normalization import LayerNorm, RMSNorm
from ..optimizer_steps import AdamWStep, NonzeroRows, PutRows
from .activations import PythonGELU, PythonRelu
from .attention import PythonAttention, PythonPackedAttention
from .convolution import PythonConv2d, PythonMaxPool2d
from .cross_entropy import PythonCrossEntropy
from .dense import PythonEmbedding, PythonLinear
from .normalization import PythonLayerNorm, PythonRMSNorm
from .optimizer_steps import PythonAdamWStep, PythonNonzeroRows, PythonPutRows


def python_backend(device: str) -> type[PythonBuffer]:
    """Returns the reference backend, as `backends.get("python")` does; raises ValueError for a device, of
    which it has none.
    """
    if device:
        raise ValueError(
            f"the python backend has no devices, so 'python:{device}' means nothing: use 'python'"
        )
    return PythonBuffer


register(Linear, PythonBuffer, PythonLinear)
register(Embedding, PythonBuffer, PythonEmbedding)
register(CrossEntropy, PythonBuffer, PythonCrossEntropy)
register(LayerNorm, PythonBuffer, PythonLayerNorm)
register(RMSNorm, PythonBuffer, PythonRMSNorm)
register(GELU, PythonBuffer, PythonGELU)
register(Relu, PythonBuffer, PythonRelu)
register(Attention, PythonBuffer, PythonAttention)
register(PackedAttention, PythonBuffer, PythonPackedAttention)
register(Conv2d, PythonBuffer, PythonConv2d)
register(MaxPool2d, PythonBuffer, PythonMaxPool2d)
register(AdamWStep, PythonBuffer, PythonAdamWStep)
register(NonzeroRows, PythonBuffer, PythonNonzeroRows)
register(PutRows, PythonBuffer, PythonPutRows)
