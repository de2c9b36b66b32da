"""Neural-network building blocks, from single layers up to a whole GPT."""

from ..module import Module
from . import initializers
from .activations import GLU, Sigmoid, Softmax, SwiGLU, Swish, Tanh
from .attention import CasualSelfAttention, CausalSelfAttention, KeyValueCache, RotaryEncoding, TransformerBlock
from .convolution import AvgPool2d, BatchNorm2d, Conv2d, Flatten, MaxPool2d
from .gpt import GPT, GPTConfig

from .layers import (  # isort: skip
    ACTIVATION_FUNCTIONS, GELU, MLP, Dropout, Embedding, FullyConnectedLayer, GatedMLP, LayerNorm, Linear, ReLU, RMSNorm, Sequential,
    SiLU
)  # fmt: skip
from .recurrent import GRU, LSTM, RNN, detach_state
