"""Weights from elsewhere: checkpoints of many families as Hugging Face keeps them, TinyGPT's JSON, and runs
of our own.

A format is a table: for every module of ours the module or modules of theirs, and whether their matrices lie
transposed. Query, key and value are one matrix here; where they are three there, they stand side by side in
ours. A second table has the settings of a config.json. Everything else follows from the tables: loading,
saving, and what to say of a file that does not fit.

    gpt2     config.json, model.safetensors  of transformers' GPT2LMHeadModel; matrices (in, out), as ours
    llama    config.json, model.safetensors  of transformers' LlamaForCausalLM; matrices (out, in);
                                             heads rotated by halves, as ours. So are mistral, qwen2,
                                             qwen3, gemma, gemma2, gemma3_text, phi3, gpt_neox,
                                             starcoder2, and with experts mixtral, olmoe and
                                             qwen3_moe
    tinygpt  gpt_model.json, config.json     of TinyGPT's save_weights, whose files do not give num_heads;
                                             config.json is our addition
    native   what `tinygpt train` writes     see training/checkpoint
    peft     adapter_model.safetensors,      adapters (LoRA) alone, as the `peft` library keeps them; read
             adapter_config.json             together with the model that they are for

Files are hostile: names, shapes and dtypes are compared with what the config asks for before a tensor is read
or memory is taken. Weights are read, tensor by tensor, and never memory-mapped (`tensors` says why).

Reading order: `base` (what a table of tensors is), `configs` (and one of settings), `llama`, `gemma`, `phi3`,
`gpt_neox`, `starcoder2`, `experts`, `gpt2` and `tinygpt` (one or a few each), `families` (all of them),
`sources` (what a directory holds), `tensors` (what is in its files), `loading`, `saving`, `adapters`.
"""

from ..tokenizer.files import GPT2_TOKENIZER, TINYGPT_TOKENIZER, find_tokenizer
from .adapters import base_of, plan_adapters, save_adapters
from .base import FormatError, as_format_error
from .families import FORMATS
from .loading import load_pretrained
from .saving import data_of, refuse_existing, save_pretrained
from .sources import ADAPTERS, CONFIG, INDEX, MODEL, TINYGPT_MODEL, Source, find_source
from .tensors import Tensors
