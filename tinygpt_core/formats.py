"""Weights from elsewhere: GPT-2 and Llama checkpoints as Hugging Face keeps them, TinyGPT's JSON, and runs of
our own.

A format is a table: for every module of ours the module or modules of theirs, and whether their matrices lie
transposed. Query, key and value are one matrix here; where they are three there, they stand side by side in
ours. Everything else follows from the table: loading, saving, and what to say of a file that does not fit.

    gpt2     config.json, model.safetensors     transformers' GPT2LMHeadModel; matrices (in, out), as ours
    llama    config.json, model.safetensors     transformers' LlamaForCausalLM; matrices (out, in); heads rotated by halves, as ours
    tinygpt  gpt_model.json, config.json        TinyGPT's save_weights (whose files do not tell num_heads; config.json is our addition)
    native   what `tinygpt train` writes        see checkpoint.py

TinyGPT divides attention scores by sqrt(embedding_dim) rather than by sqrt(head_dim), and puts a ReLU after
an MLP's last layer, too. So that its weights mean here what they mean there, the first goes into the query
weights (and out again when they are saved: to the bit where the number of heads is a power of 4), and the
second is `final_activation` in the config.

Files are hostile: names, shapes and dtypes are compared with what the config asks for before a tensor is read
or memory is taken. Weights in safetensors files are memory-mapped where they lie as the backend wants them:
copy-on-write, so training on changes no file.

Sources: https://github.com/huggingface/transformers (models gpt2 and llama),
https://github.com/isaacperez/tinygpt.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from . import backends, shape_errors
from .buffer.base import Buffer
from .dtype import DType
from .files.atomic import Path
from .files.json_objects import SerializationError, read_json_object, write_json
from .files.safetensors import (
    Entry,
    SafetensorsHeader,
    load_safetensors,
    read_safetensors_header,
    save_safetensors,
)
from .module import read_tensors, write_tensors
from .nn.gpt import GPT, GPTConfig
from .tensor import Tensor, uninitialized
from .tokenizer.base import Tokenizer
from .tokenizer.bpe import BPETokenizer
from .tokenizer.files import (  # noqa: F401 (some are looked for here, too)
    GPT2_TOKENIZER,
    TINYGPT_TOKENIZER,
    find_tokenizer,
    save_tokenizer,
)
from .tokenizer.patterns import TokenizerError
from .training import checkpoint
from .training.data import BOUNDARY
from .training.loop import load_model

FORMATS = ("native", "gpt2", "llama", "tinygpt")
CONFIG, MODEL, INDEX, TINYGPT_MODEL = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "gpt_model.json",
)
_MAPPABLE = {"F32": DType.float32, "F64": DType.float64}
_FLOATING = (*_MAPPABLE, "F16", "BF16")
_SHOWN = 5  # names that a message lists at most


class FormatError(SerializationError):
    """A checkpoint that cannot be read, or a model that a format cannot hold; the message says which part and
    what would work.
    """


# ---------------------------------------------------------------- the formats


class _Format(NamedTuple):
    modules: dict[str, tuple[str, ...]]  # ours -> theirs; {} stands for the number of a block
    leaves: dict[str, str]  # ours -> theirs
    transposed: frozenset[str]  # modules of ours whose weights they keep as (out, in)
    prefix: str  # which their names may lack
    ignored: re.Pattern[str]  # tensors of theirs that are no weights
    requires: dict[str, Any]  # fields of the config that have one value in this format
    read_config: Callable[[Mapping[str, Any]], GPTConfig]
    write_config: Callable[[GPTConfig], dict[str, Any]]


_HF_LEAVES = {"weights": "weight", "bias": "bias", "embeddings": "weight"}
_GPT2_ACTIVATIONS = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


def _short(value: Any) -> str:
    """The beginning of what a file says, for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"


def _expect(values: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises ValueError where a setting has a value that our GPT has no counterpart for."""
    for name, value in expected.items():
        if values.get(name, value) != value:
            raise ValueError(f"{name} is {_short(values[name])}; this GPT is built for {value!r}")


def _gpt2_config(values: Mapping[str, Any]) -> GPTConfig:
    _expect(
        values,
        {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    )
    activation = values.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in _GPT2_ACTIVATIONS:
        raise ValueError(
            f"activation_function is {_short(activation)}; known are {', '.join(_GPT2_ACTIVATIONS)}"
        )
    return GPTConfig(
        vocab_size=values["vocab_size"],
        context_length=values.get("n_positions", values.get("n_ctx")),
        num_layers=values["n_layer"],
        num_heads=values["n_head"],
        embedding_dim=values["n_embd"],
        hidden_dim=values.get("n_inner"),
        activation=_GPT2_ACTIVATIONS[activation],
        tied_head=values.get("tie_word_embeddings", True),
        dropout=values.get("resid_pdrop", 0.1),
        eps=values.get("layer_norm_epsilon", 1e-5),
    )


def _to_gpt2_config(config: GPTConfig) -> dict[str, Any]:
    activation = next(theirs for theirs, ours in _GPT2_ACTIVATIONS.items() if ours == config.activation)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": activation,
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "n_embd": config.embedding_dim,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.hidden_dim,
        "layer_norm_epsilon": config.eps,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _llama_config(values: Mapping[str, Any]) -> GPTConfig:
    _expect(values, {"hidden_act": "silu", "rope_scaling": None, "pretraining_tp": 1, "sliding_window": None})
    rope = values.get("rope_parameters") or {}  # transformers 5; before that, rope_theta stood by itself
    if not isinstance(rope, Mapping) or rope.get("rope_type", "default") != "default":
        raise ValueError(f"rope_parameters is {_short(rope)}; this GPT is built for the rope_type 'default'")
    config = GPTConfig(
        vocab_size=values["vocab_size"],
        context_length=values["max_position_embeddings"],
        num_layers=values["num_hidden_layers"],
        num_heads=values["num_attention_heads"],
        embedding_dim=values["hidden_size"],
        hidden_dim=values["intermediate_size"],
        normalization="rms_norm",
        positions="rotary",
        activation="swiglu",
        bias=values.get("mlp_bias", False),
        attention_bias=values.get("attention_bias", False),
        tied_head=values.get("tie_word_embeddings", False),
        eps=values.get("rms_norm_eps", 1e-6),
        num_key_value_heads=values.get("num_key_value_heads"),
        rotary_base=rope.get("rope_theta", values.get("rope_theta", 10000.0)),
    )
    if values.get("head_dim") not in (None, config.head_dim):
        raise ValueError(
            f"head_dim is {_short(values['head_dim'])}; this GPT is built for hidden_size / num_attention_heads = {config.head_dim}"
        )
    return config


def _to_llama_config(config: GPTConfig) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.embedding_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.eps,
        "rope_theta": config.rotary_base,
        "attention_bias": _effective(config)["attention_bias"],
        "mlp_bias": config.bias,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": None,
    }


_TINYGPT_REQUIRES: dict[str, Any] = {
    "normalization": "layer_norm",
    "positions": "learned",
    "activation": "relu",
    "final_activation": True,
    "bias": True,
    "attention_bias": False,
    "tied_head": False,
    "eps": 1e-5,
    "hidden_dim": None,
}


def _tinygpt_config(values: Mapping[str, Any]) -> GPTConfig:
    known = {
        name: values[name]
        for name in ("vocab_size", "context_length", "num_layers", "num_heads", "embedding_dim")
    }
    return GPTConfig(**known, **_TINYGPT_REQUIRES)


def _to_tinygpt_config(config: GPTConfig) -> dict[str, Any]:
    names = ("vocab_size", "context_length", "num_layers", "num_heads", "embedding_dim")
    return {"model_type": "tinygpt", **{name: getattr(config, name) for name in names}}


_BLOCK = "transformer_blocks.{}."
_TABLES: dict[str, _Format] = {
    "gpt2": _Format(
        modules={
            "embedding_layer": ("transformer.wte",),
            "position_embedding_layer": ("transformer.wpe",),
            _BLOCK + "ln_1": ("transformer.h.{}.ln_1",),
            _BLOCK + "attn.query_key_value": ("transformer.h.{}.attn.c_attn",),
            _BLOCK + "attn.out": ("transformer.h.{}.attn.c_proj",),
            _BLOCK + "ln_2": ("transformer.h.{}.ln_2",),
            _BLOCK + "mlp.layers.0": ("transformer.h.{}.mlp.c_fc",),
            _BLOCK + "mlp.layers.1": ("transformer.h.{}.mlp.c_proj",),
            "layer_norm": ("transformer.ln_f",),
            "head": ("lm_head",),
        },
        leaves=_HF_LEAVES,
        transposed=frozenset({"head"}),
        prefix="transformer.",
        ignored=re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)"),  # the causal mask
        requires={
            "normalization": "layer_norm",
            "positions": "learned",
            "bias": True,
            "attention_bias": True,
            "final_activation": False,
        },
        read_config=_gpt2_config,
        write_config=_to_gpt2_config,
    ),
    "llama": _Format(
        modules={
            "embedding_layer": ("model.embed_tokens",),
            _BLOCK + "ln_1": ("model.layers.{}.input_layernorm",),
            _BLOCK + "attn.query_key_value": tuple(
                f"model.layers.{{}}.self_attn.{part}_proj" for part in "qkv"
            ),
            _BLOCK + "attn.out": ("model.layers.{}.self_attn.o_proj",),
            _BLOCK + "ln_2": ("model.layers.{}.post_attention_layernorm",),
            **{
                _BLOCK + f"mlp.{part}": (f"model.layers.{{}}.mlp.{part}_proj",)
                for part in ("gate", "up", "down")
            },
            "layer_norm": ("model.norm",),
            "head": ("lm_head",),
        },
        leaves=_HF_LEAVES,
        prefix="model.",
        ignored=re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"),
        transposed=frozenset(
            {
                "head",
                *(
                    _BLOCK + name
                    for name in ("attn.query_key_value", "attn.out", "mlp.gate", "mlp.up", "mlp.down")
                ),
            }
        ),
        requires={"normalization": "rms_norm", "positions": "rotary", "activation": "swiglu"},
        read_config=_llama_config,
        write_config=_to_llama_config,
    ),
    "tinygpt": _Format(
        modules={
            **{
                name: (name,)
                for name in ("embedding_layer", "position_embedding_layer", "layer_norm", "head")
            },
            **{
                _BLOCK + name: (_BLOCK + name,)
                for name in ("ln_1", "attn.out", "ln_2", "mlp.layers.0", "mlp.layers.1")
            },
            _BLOCK + "attn.query_key_value": tuple(
                _BLOCK + f"attn.{part}" for part in ("query", "key", "value")
            ),
        },
        leaves={name: name for name in _HF_LEAVES},
        transposed=frozenset(),
        prefix="",
        ignored=re.compile(r"transformer_blocks\.\d+\.attn\.casual_(mask|value)"),
        requires=_TINYGPT_REQUIRES,
        read_config=_tinygpt_config,
        write_config=_to_tinygpt_config,
    ),
}


class _Piece(NamedTuple):
    """A tensor of theirs that holds columns of one of ours: `ours[..., start:stop] = theirs * scale`, theirs
    transposed if need be.
    """

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]
    transposed: bool
    scale: float


def _pieces(table: _Format, config: GPTConfig, name: str, shape: tuple[int, ...]) -> list[_Piece]:
    """Returns where the parameter of this name and shape lies in another format."""
    module, _, leaf = name.rpartition(".")
    block = re.match(r"transformer_blocks\.(\d+)\.", module)
    key = module if block is None else _BLOCK + module[block.end() :]
    theirs = table.modules[key]
    stops, scales = [shape[-1]], [1.0] * len(theirs)
    if len(theirs) == 3:
        queries, keys = config.embedding_dim, config.key_value_heads * config.head_dim
        stops = [queries, queries + keys, queries + 2 * keys]
        if table is _TABLES["tinygpt"]:  # which divides scores by sqrt(embedding_dim), not by sqrt(head_dim)
            scales[0] = 1.0 / math.sqrt(config.num_heads)
    pieces, start = [], 0
    for module, stop, scale in zip(theirs, stops, scales, strict=True):
        part = (*shape[:-1], stop - start)
        transposed = len(shape) == 2 and key in table.transposed
        pieces.append(
            _Piece(
                f"{module.format(block and block.group(1))}.{table.leaves[leaf]}",
                start,
                stop,
                part[::-1] if transposed else part,
                transposed,
                scale,
            )
        )
        start = stop
    return pieces


# ---------------------------------------------------------------- the files


class Tensors:
    """The tensors of safetensors files by name: the headers are read at once, and a tensor when it is asked
    for.

    Args:
        paths: the files; no name may stand in two of them.

    Attributes:
        entries: for each name what the header says.

    Raises:
        SerializationError: a file breaks a rule of the format.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.entries: dict[str, Entry] = {}
        self.headers: dict[str, SafetensorsHeader] = {}
        self._files: dict[str, str] = {}
        self._maps: dict[str, memoryview] = {}
        for path in paths:
            header = self.headers[path] = read_safetensors_header(path)
            if twice := self._files.keys() & header.entries.keys():
                name = min(twice)
                raise FormatError(
                    f"tensor {_short(name)} stands in two files, {self._files[name]} and {path}"
                )
            self.entries |= header.entries
            self._files |= dict.fromkeys(header.entries, path)

    def read(self, name: str) -> Buffer:
        """Returns a tensor, in its shape, on the active backend, over memory-mapped pages where the elements
        lie there as they are needed.

        Raises:
            FormatError: the file has changed since its header was read.
        """
        entry, path = self.entries[name], self._files[name]
        dtype, start = _MAPPABLE.get(entry.dtype_name), self.headers[path].data_start + entry.start
        if dtype is None or sys.byteorder == "big" or start % dtype.itemsize or entry.start == entry.stop:
            return load_safetensors(path, [name])[name]
        memory = self._map(path)[start : start + entry.stop - entry.start]
        return backends.active().from_memory(memory, entry.shape, dtype)

    def _map(self, path: str) -> memoryview:
        if path not in self._maps:
            header = self.headers[path]
            with open(path, "rb") as file:
                # What is written stays in this process
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            if len(mapped) != header.data_start + max(
                (entry.stop for entry in header.entries.values()), default=0
            ):
                raise FormatError(f"{path} was changed while it was read")
            self._maps[path] = memoryview(mapped)
        return self._maps[path]


class Source(NamedTuple):
    """A checkpoint that was found: its format, its directory, the files of its weights, and its config.json
    (empty where it has none).
    """

    format: str
    directory: str
    weights: list[str]
    config: dict[str, Any]


def find_source(path: Path) -> Source:
    """Returns what a file or directory holds, from names and config.json alone.

    Args:
        path: a directory with config.json and model.safetensors (or its index), a run of `tinygpt train`, a
            `.safetensors` file with config.json beside it, or a `.json` file of TinyGPT's weights.

    Raises:
        FormatError: it holds no checkpoint of a known format. OSError: it cannot be read.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FormatError(f"there is no file or directory {path}")
    is_directory = os.path.isdir(path)
    directory = path if is_directory else os.path.dirname(path) or "."

    def inside(name: str) -> str:
        return os.path.join(directory, name)

    config = read_json_object(inside(CONFIG)) if os.path.isfile(inside(CONFIG)) else {}
    if path.endswith(".json") and not is_directory:
        return Source("tinygpt", directory, [path], config if config.get("model_type") == "tinygpt" else {})
    if not is_directory and not path.endswith(".safetensors"):
        raise FormatError(f"{path} is neither a directory nor a .safetensors or .json file")
    if os.path.isfile(inside(checkpoint.STATE)):
        return Source("native", directory, [inside(checkpoint.MODEL)], config)
    if not config:
        raise FormatError(f"{directory} has no {CONFIG}, which tells how the weights are to be read")
    found = config.get("model_type")
    if not isinstance(found, str) or found not in _TABLES:
        raise FormatError(
            f"{inside(CONFIG)}: model_type is {_short(found)}; those that can be read are {', '.join(_TABLES)}"
        )
    if found == "tinygpt":
        return Source(found, directory, [inside(TINYGPT_MODEL)], config)
    if is_directory and os.path.isfile(inside(INDEX)) and not os.path.isfile(inside(MODEL)):
        return Source(found, directory, [inside(name) for name in _shards(inside(INDEX))], config)
    weights = inside(MODEL) if is_directory else path
    if not os.path.isfile(weights):
        raise FormatError(f"{directory} has neither {MODEL} nor {INDEX}: other files of weights are not read")
    return Source(found, directory, [weights], config)


def _shards(index: str) -> list[str]:
    """Returns the names of the files that an index lists; raises FormatError unless they are plain names."""
    names = read_json_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise FormatError(f"{index} has no weight_map of tensors and files")
    for name in names.values():
        if (
            not isinstance(name, str)
            or os.path.basename(name) != name
            or "\\" in name
            or not name.endswith(".safetensors")
        ):
            raise FormatError(
                f"{index} names the file {_short(name)}: a shard is a .safetensors file beside the index"
            )
    return sorted(set(names.values()))


def _list(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN:,} more" if len(ordered) > _SHOWN else ""
    return ", ".join(map(_short, ordered[:_SHOWN])) + more


# ---------------------------------------------------------------- loading


def load_pretrained(path: Path, *, num_heads: int | None = None) -> GPT:
    """Returns the GPT that a checkpoint describes, with its weights, on the active backend, out of training
    mode.

    Its logits are those of the library that wrote it. Halves (F16, BF16) become float32. Float32 weights in
    safetensors files are memory-mapped where the backend can use them in place; the file must then stay as it
    is while the model lives.

    Args:
        path: as for `find_source`.
        num_heads: attention heads, which TinyGPT's own files do not tell.

    Raises:
        FormatError: the config describes no GPT of ours, or the tensors do not fit it: names that are missing
            or unknown, or the tensor, the shape it has and the shape it should have.
    """
    source = find_source(path)
    if source.format == "native":
        model = load_model(source.directory, backends.active().backend)[0]
        model.eval()
        return model
    table = _TABLES[source.format]
    values = source.config
    if source.format == "tinygpt":
        found: Any = read_tensors(source.weights[0])
        shapes = {name: tensor.shape for name, tensor in found.items()}
        values = values or _infer_tinygpt(shapes, source.weights[0], num_heads)
        config_path = source.weights[0]

        def read(name: str) -> Buffer:
            return Tensor(found[name]).buffer
    else:
        files = Tensors(source.weights)
        shapes = {name: entry.shape for name, entry in files.entries.items()}
        read, config_path = files.read, os.path.join(source.directory, CONFIG)
        for name, entry in files.entries.items():
            if entry.dtype_name not in _FLOATING and not table.ignored.fullmatch(_full_name(table, name)):
                raise FormatError(
                    f"tensor {_short(name)} has dtype {entry.dtype_name}; weights are {', '.join(_FLOATING)}"
                )
    try:
        config = table.read_config(values)
        if num_heads not in (None, config.num_heads):
            raise ValueError(f"num_heads is {config.num_heads}, not {num_heads}")
        _check_sizes(config, shapes.values())
        with uninitialized():
            model = GPT(config)
    except KeyError as problem:
        raise FormatError(f"{config_path} lacks {problem}, which a {source.format} checkpoint has") from None
    except (TypeError, ValueError, OverflowError, MemoryError) as problem:
        raise FormatError(f"{config_path}: {str(problem)[:400]}") from None
    _fill(model, table, shapes, read, ", ".join(source.weights))
    model.eval()
    return model


def _check_sizes(config: GPTConfig, shapes: Collection[tuple[int, ...]]) -> None:
    """Raises ValueError where a model of the config's sizes cannot possibly lie in tensors of these shapes,
    before it is built.
    """
    if config.num_layers > len(shapes):
        raise ValueError(f"{config.num_layers:,} layers do not fit a file of {len(shapes):,} tensors")
    elements = sum(map(math.prod, shapes))
    sizes = {
        "vocab_size": config.vocab_size,
        "embedding_dim": config.embedding_dim,
        "hidden_dim": config.mlp_dim,
    }
    if config.positions == "learned":
        sizes["context_length"] = config.context_length
    for name, size in sizes.items():
        if size > elements:
            raise ValueError(f"{name} {size:,} does not fit a file of {elements:,} elements")


def _full_name(table: _Format, name: str) -> str:
    """The name with the prefix that files of the bare model, without its head, lack."""
    return name if name.startswith((table.prefix, "lm_head.")) else table.prefix + name


def _infer_tinygpt(shapes: Mapping[str, tuple[int, ...]], path: str, num_heads: int | None) -> dict[str, Any]:
    """Returns the sizes that the shapes in a file of TinyGPT's tell, and num_heads."""
    tables = [
        shapes.get(f"{name}.embeddings", ()) for name in ("embedding_layer", "position_embedding_layer")
    ]
    if any(len(shape) != 2 for shape in tables):
        raise FormatError(
            f"{path} holds no TinyGPT model: it has no matrices embedding_layer.embeddings and position_embedding_layer.embeddings"
        )
    if num_heads is None:
        raise FormatError(
            f"{path} does not tell how many attention heads the model has: say it (num_heads, or --heads N)"
        )
    blocks = {name.split(".")[1] for name in shapes if name.startswith("transformer_blocks.")}
    (vocab_size, embedding_dim), (context_length, _) = tables
    return {
        "vocab_size": vocab_size,
        "context_length": context_length,
        "num_layers": len(blocks),
        "num_heads": num_heads,
        "embedding_dim": embedding_dim,
    }


def _fill(
    model: GPT,
    table: _Format,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Buffer],
    where: str,
) -> None:
    """Gives the parameters of a model that was built without memory their buffers; checks every name and
    shape first.
    """
    parameters = {
        name: (tensor, _pieces(table, model.config, name, tensor.shape))
        for name, tensor in model.named_parameters()
    }
    actual = {_full_name(table, name): name for name in shapes}
    if len(actual) < len(shapes):
        both = [name for name in shapes if actual[_full_name(table, name)] != name]
        raise FormatError(
            f"{where}: these tensors stand twice, with {table.prefix!r} before the name and without: {_list(both)}"
        )
    expected = {piece.name: piece.shape for _, pieces in parameters.values() for piece in pieces}
    unknown = [actual[name] for name in actual.keys() - expected.keys() if not table.ignored.fullmatch(name)]
    if model.config.tied_head:
        unknown = [name for name in unknown if name != "lm_head.weight"]  # the embeddings again
    if missing := expected.keys() - actual.keys():
        raise FormatError(
            f"{where}: {len(missing):,} of {len(expected):,} tensors that the config asks for are missing: {_list(missing)}"
        )
    if unknown:
        raise FormatError(
            f"{where}: {len(unknown):,} tensors have no place in the model of the config: {_list(unknown)}"
        )
    for name, shape in expected.items():
        if shapes[actual[name]] != shape:
            said = f"{where}: tensor {actual[name]!r} has shape {shapes[actual[name]]}, but the config asks for {shape}"
            raise FormatError(
                shape_errors.wrong_shape(
                    "", "tensor", shapes[actual[name]], expected=shape, of="config", title=said
                )
            )
    for tensor, pieces in parameters.values():
        parts = []
        for piece in pieces:
            part = read(actual[piece.name])
            part = part.transpose(0, 1) if piece.transposed else part
            parts.append((part * piece.scale if piece.scale != 1.0 else part).as_dtype(tensor.dtype))
        tensor.buffer = (
            parts[0] if len(parts) == 1 else type(parts[0]).concatenate(parts, axis=tensor.ndim - 1)
        )


# ---------------------------------------------------------------- saving


def save_pretrained(
    model: GPT,
    path: Path,
    format: str = "gpt2",
    tokenizer: Tokenizer | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model to a directory, for the library whose format it is (or for `tinygpt generate`).

    Args:
        path: the directory, new or empty.
        format: "gpt2", "llama", "tinygpt" or "native".
        tokenizer: is written beside the weights; "native" needs one.
        data: for "native", what a run keeps of its corpus (`is_documents` and `opening`); deduced from the
            tokenizer by default.

    Raises:
        FormatError: the format cannot hold the model (the message names each field that differs), or the
            directory is in use.
        OSError: it cannot be written.
    """
    path = os.fspath(path)
    if format not in FORMATS:
        raise FormatError(f"there is no format {format!r}: expected one of {', '.join(FORMATS)}")
    refuse_existing(path)
    if format == "native":
        _save_native(model, path, tokenizer, data)
        return
    table, config = _TABLES[format], model.config
    _check_fits(config, format)
    tensors: dict[str, Buffer] = {}
    for name, tensor in model.named_parameters():
        for piece in _pieces(table, config, name, tensor.shape):
            part = tensor.buffer[..., piece.start : piece.stop]
            part = part if piece.scale == 1.0 else part * (1.0 / piece.scale)
            tensors[piece.name] = part.transpose(0, 1) if piece.transposed else part
    os.makedirs(path, exist_ok=True)
    if format == "tinygpt":
        _save_tinygpt(model, tensors, os.path.join(path, TINYGPT_MODEL))
    else:
        save_safetensors(os.path.join(path, MODEL), tensors, {"format": "pt"})
    write_json(os.path.join(path, CONFIG), table.write_config(config))
    beside = os.path.join(path, checkpoint.TOKENIZER)
    if format == "tinygpt" and isinstance(tokenizer, BPETokenizer):
        with suppress(TokenizerError):  # a vocabulary that TinyGPT's file cannot hold is kept in ours
            tokenizer.save(beside)
            return
    if tokenizer is not None:
        save_tokenizer(tokenizer, beside)


def refuse_existing(path: str) -> None:
    """Raises FormatError where `path` is anything but a new or empty directory."""
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise FormatError(f"{path} already exists and nothing is overwritten: choose another directory")


def _effective(config: GPTConfig) -> dict[str, Any]:
    values = config.to_dict()
    values["attention_bias"] = config.bias if config.attention_bias is None else config.attention_bias
    return values


def _check_fits(config: GPTConfig, format: str) -> None:
    values, wrong = _effective(config), []
    requires = dict(_TABLES[format].requires)
    if format != "llama":
        requires["num_key_value_heads"] = values["num_key_value_heads"] = config.num_heads
        wrong = (
            []
            if config.key_value_heads == config.num_heads
            else [f"num_key_value_heads is {config.key_value_heads}"]
        )
    if format == "tinygpt":
        requires["hidden_dim"], values["hidden_dim"] = 4 * config.embedding_dim, config.mlp_dim
    wrong += [
        f"{name} is {values[name]!r}, not {value!r}"
        for name, value in requires.items()
        if values[name] != value
    ]
    if format == "gpt2" and config.activation not in _GPT2_ACTIVATIONS.values():
        wrong.append(f"activation is {config.activation!r}")
    if wrong:
        raise FormatError(f"the {format} format cannot hold this model: {'; '.join(wrong)}")


def _save_tinygpt(model: GPT, tensors: Mapping[str, Buffer], path: str) -> None:
    """Writes weights as TinyGPT does: with the masks of its attention, which its strict loading asks for."""
    length = model.config.context_length
    texts: dict[str, Tensor] = {name: Tensor(buffer, requires_grad=True) for name, buffer in tensors.items()}
    mask = Tensor.ones((1, 1, length, length)).tril()
    hidden = Tensor(Buffer.where(mask.buffer == 0.0, -math.inf, Buffer.zeros(mask.shape)))
    for number in range(model.config.num_layers):
        texts |= {
            f"transformer_blocks.{number}.attn.casual_{name}": value
            for name, value in (("mask", mask), ("value", hidden))
        }
    write_tensors(path, texts)


def _save_native(model: GPT, path: str, tokenizer: Tokenizer | None, data: Mapping[str, Any] | None) -> None:
    if tokenizer is None:
        raise FormatError(
            "a native run needs a tokenizer: the checkpoint has none that can be read beside it"
        )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise FormatError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, but the model knows {model.config.vocab_size:,}"
        )
    if data is None:
        is_documents, beginnings = (
            BOUNDARY in tokenizer.special_tokens,
            ("\n", " ", *getattr(tokenizer, "characters", "")),
        )
        opening = (
            "" if is_documents else next((text for text in beginnings if _can_encode(tokenizer, text)), "")
        )
        data = {"is_documents": is_documents, "opening": opening}
    checkpoint.save_checkpoint(
        path,
        config={
            "training": {"backend": backends.active().backend},
            "model": model.config.to_dict(),
            "data": dict(data),
        },
        tokenizer=tokenizer,
        model_tensors={name: tensor.buffer for name, tensor in model.named_parameters()},
        optimizer_tensors={},
        state={"step": 0},
    )


def _can_encode(tokenizer: Tokenizer, text: str) -> bool:
    try:
        return bool(tokenizer.encode(text))
    except ValueError:
        return False
