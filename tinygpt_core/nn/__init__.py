"""Neural-network building blocks, from single layers up to a whole GPT."""

from ..module import Module
from . import initializers
from .activations import (
    ACTIVATION_FUNCTIONS,
    GELU,
    GLU,
    ReLU,
    ReLUSquared,
    Sigmoid,
    SiLU,
    Softmax,
    SwiGLU,
    Swish,
    Tanh,
)
from .attention import CasualSelfAttention, CausalSelfAttention
from .cache import KeyValueCache
from .convolution import AvgPool2d, BatchNorm2d, Conv2d, Flatten, MaxPool2d
from .dropout import Dropout
from .embedding import Embedding, NgramEmbedding
from .experts import MixtureOfExperts, Routing, recorded_routing
from .gpt import GPT, GPTConfig
from .linear import FullyConnectedLayer, Linear
from .lora import LoRA, LoRAConfig, LoRALinear, add_lora, merge_lora
from .mlp import MLP, GatedMLP
from .ngram_prior import NgramPrior
from .normalization import LayerNorm, RMSNorm
from .recurrent import GRU, LSTM, RNN, detach_state
from .rotary import RotaryEncoding, RotaryScaling
from .sequential import Sequential
from .transformer import TransformerBlock
