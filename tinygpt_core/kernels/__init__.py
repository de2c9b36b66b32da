"""Floor 3: kernels, the compound computations that are worth writing as one.

Each is a forward and a backward over Buffers that belong together. The classes here are the textbook
versions, composed from the Buffer's own operations, so they run on every backend. A backend that knows a
faster way registers a subclass for its Buffer class (`python/` holds those of the reference); the textbook
version stays reachable as the class itself, and one law (fused equals composed) holds for all of them.
"""

from .activations import GELU, Relu, SiLU
from .attention import Attention, PackedAttention, WindowedAttention
from .base import Gradient, Kernel, lookup, register
from .convolution import AvgPool2d, Conv2d, MaxPool2d
from .cross_entropy import CrossEntropy
from .dense import Embedding, Linear
from .dropout import Dropout
from .einsum import Einsum
from .ngrams import HashNgrams
from .normalization import LayerNorm, RMSNorm
from .optimizer_steps import AdamWStep, NonzeroRows, PutRows, SGDStep
from .rotary import Rotary
from .softmax import LogSoftmax, Softmax
