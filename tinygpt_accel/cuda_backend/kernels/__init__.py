"""The kernels of a GPT's step on a CUDA device, divided by subject: products by cuBLASLt, what lies between
them by the sources in `cu`. Importing this package registers them.

Under autocast (`tinygpt_core.kernels.precision`) a product rounds its operands to 16 bits, adds up in float32
and leaves 16 bits; the kernels around it read and write that format, see `buffer`. `saved` holds operands as
Buffers, so that the engine notices when they change.
"""

from __future__ import annotations

from tinygpt_core.kernels.activations import GELU, SiLU
from tinygpt_core.kernels.attention import Attention, PackedAttention
from tinygpt_core.kernels.base import Kernel, register
from tinygpt_core.kernels.cross_entropy import CrossEntropy
from tinygpt_core.kernels.dense import Embedding, Linear
from tinygpt_core.kernels.dropout import Dropout
from tinygpt_core.kernels.normalization import LayerNorm, RMSNorm
from tinygpt_core.kernels.optimizer_steps import AdamWStep
from tinygpt_core.kernels.rotary import Rotary
from tinygpt_core.kernels.softmax import Softmax

from ..buffer import CudaBuffer
from .activations import CudaGELU, CudaSiLU
from .attention import CudaAttention, CudaPackedAttention
from .common import for_float32
from .cross_entropy import CudaCrossEntropy
from .dense import CudaEmbedding, CudaLinear
from .dropout import CudaDropout
from .normalization import CudaLayerNorm, CudaRMSNorm
from .optimizer_steps import CudaAdamWStep
from .rotary import CudaRotary
from .softmax import CudaSoftmax

KERNELS: dict[type[Kernel], type[Kernel]] = {
    Linear: CudaLinear,
    Embedding: CudaEmbedding,
    GELU: CudaGELU,
    SiLU: CudaSiLU,
    LayerNorm: CudaLayerNorm,
    RMSNorm: CudaRMSNorm,
    Softmax: CudaSoftmax,
    CrossEntropy: CudaCrossEntropy,
    Dropout: CudaDropout,
    Attention: CudaAttention,
    PackedAttention: CudaPackedAttention,
    Rotary: CudaRotary,
}
for kernel, implementation in KERNELS.items():
    register(kernel, CudaBuffer, for_float32(kernel, implementation))
register(AdamWStep, CudaBuffer, CudaAdamWStep)
