"""The kernels of the NumPy backend: the textbook formulas of `tinygpt_core.kernels`, fused, and divided by
subject as those are. Importing this package registers them.

What makes them fast is the same in all: products go to BLAS as they lie, without a copy for a transpose; a
chain of elementwise steps runs once over the data (`loops`), on every core where there is enough of it
(`threads`); float32 stays float32; and what the backward needs is kept in the form in which it needs it (a
slope, not the steps that lead to it).

`saved` holds the operands that a backward reads again as Buffers, so that the engine notices when they are
changed in place, and everything else as bare arrays.
"""

from __future__ import annotations

from tinygpt_core.kernels.activations import GELU, Relu, SiLU
from tinygpt_core.kernels.attention import Attention, PackedAttention
from tinygpt_core.kernels.base import register
from tinygpt_core.kernels.convolution import AvgPool2d, Conv2d, MaxPool2d
from tinygpt_core.kernels.cross_entropy import CrossEntropy
from tinygpt_core.kernels.dense import Embedding, Linear
from tinygpt_core.kernels.dropout import Dropout
from tinygpt_core.kernels.halves import WidenHalves
from tinygpt_core.kernels.ngrams import HashNgrams
from tinygpt_core.kernels.normalization import LayerNorm, RMSNorm
from tinygpt_core.kernels.optimizer_steps import AdamWStep, NonzeroRows, PutRows
from tinygpt_core.kernels.quantized import Quantize, QuantizedEmbedding, QuantizedLinear
from tinygpt_core.kernels.softmax import LogSoftmax, Softmax

from ..buffer import NumpyBuffer
from .activations import NumpyGELU, NumpyRelu, NumpySiLU
from .attention import NumpyAttention, NumpyPackedAttention
from .convolution import NumpyAvgPool2d, NumpyConv2d, NumpyMaxPool2d
from .cross_entropy import NumpyCrossEntropy
from .dense import NumpyEmbedding, NumpyLinear
from .dropout import NumpyDropout
from .ngrams import NumpyHashNgrams
from .normalization import NumpyLayerNorm, NumpyRMSNorm
from .optimizer_steps import NumpyAdamWStep, NumpyNonzeroRows, NumpyPutRows
from .quantized import NumpyQuantize, NumpyQuantizedEmbedding, NumpyQuantizedLinear, NumpyWidenHalves
from .softmax import NumpyLogSoftmax, NumpySoftmax

register(Linear, NumpyBuffer, NumpyLinear)
register(Embedding, NumpyBuffer, NumpyEmbedding)
register(GELU, NumpyBuffer, NumpyGELU)
register(SiLU, NumpyBuffer, NumpySiLU)
register(Relu, NumpyBuffer, NumpyRelu)
register(LayerNorm, NumpyBuffer, NumpyLayerNorm)
register(RMSNorm, NumpyBuffer, NumpyRMSNorm)
register(Softmax, NumpyBuffer, NumpySoftmax)
register(LogSoftmax, NumpyBuffer, NumpyLogSoftmax)
register(CrossEntropy, NumpyBuffer, NumpyCrossEntropy)
register(Dropout, NumpyBuffer, NumpyDropout)
register(Attention, NumpyBuffer, NumpyAttention)
register(PackedAttention, NumpyBuffer, NumpyPackedAttention)
register(Conv2d, NumpyBuffer, NumpyConv2d)
register(MaxPool2d, NumpyBuffer, NumpyMaxPool2d)
register(AvgPool2d, NumpyBuffer, NumpyAvgPool2d)
register(AdamWStep, NumpyBuffer, NumpyAdamWStep)
register(NonzeroRows, NumpyBuffer, NumpyNonzeroRows)
register(PutRows, NumpyBuffer, NumpyPutRows)
register(HashNgrams, NumpyBuffer, NumpyHashNgrams)
register(Quantize, NumpyBuffer, NumpyQuantize)
register(QuantizedLinear, NumpyBuffer, NumpyQuantizedLinear)
register(QuantizedEmbedding, NumpyBuffer, NumpyQuantizedEmbedding)
register(WidenHalves, NumpyBuffer, NumpyWidenHalves)
