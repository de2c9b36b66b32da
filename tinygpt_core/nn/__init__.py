"""Neural-network building blocks, from single layers up to a whole GPT."""

from ..module import Module
from . import initializers
from .activations import GLU, Sigmoid, Softmax, SwiGLU, Swish, Tanh
from .attention import CasualSelfAttention, CausalSelfAttention, KeyValueCache, RotaryEncoding, TransformerBlock
from .gpt import GPT, GPTConfig
from .layers import (
    ACTIVATION_FUNCTIONS,
    GELU,
    MLP,
    Dropout,
    Embedding,
    FullyConnectedLayer,
    GatedMLP,
    LayerNorm,
    Linear,
    ReLU,
    RMSNorm,
    Sequential,
    SiLU,
)
from .recurrent import GRU, LSTM, RNN, detach_state
