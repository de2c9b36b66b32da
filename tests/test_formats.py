"""Weights from elsewhere: every format against its architecture written out in NumPy, against transformers
where that is installed, there and back byte for byte, and one clear error for each file that does not fit.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygpt_core import Buffer, DType, Tensor, backends, random
from tinygpt_core.files.safetensors import load_safetensors, read_safetensors_header, save_safetensors
from tinygpt_core.formats import FormatError, find_tokenizer, load_pretrained, save_pretrained
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.optimizers import AdamW
from tinygpt_core.tensor import uninitialized
from tinygpt_core.tokenizer import BPETokenizer, CharTokenizer, save_tokenizer
from tinygpt_core.training import load_model

np = pytest.importorskip("numpy", reason="the independent definitions are written in NumPy")

IDS = [[3, 1, 4, 1, 5, 9, 2, 6], [0, 10, 7, 7, 2, 8, 1, 9]]
TOLERANCE = 2e-5  # of logits of the order of 1, computed in float32 against float64
some = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(params=["python", "numpy"])
def on(request: pytest.FixtureRequest) -> Iterator[str]:
    """The backends that weights are loaded on."""
    status = {status.name: status for status in backends.available()}.get(request.param)
    if status is None or not status.available:
        pytest.skip(f"the {request.param} backend is not installed")
    with backends.use(request.param):
        yield request.param


# ---------------------------------------------------------------- the architectures, written out


def normal(rng: Any, *shape: int, std: float = 0.4) -> Any:
    return rng.normal(0.0, std, shape).astype(np.float32)


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def attend(q: Any, k: Any, v: Any, scale: float) -> Any:
    """(B, T, H, D) each."""
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) * scale
    scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    return np.einsum("bhqk,bkhd->bqhd", softmax(scores), v).reshape(*q.shape[:2], -1)


def gpt2_tensors(rng: Any, c: dict[str, Any], tied: bool = True) -> dict[str, Any]:
    C, hidden = c["n_embd"], c.get("n_inner") or 4 * c["n_embd"]
    made = {"wte.weight": normal(rng, c["vocab_size"], C), "wpe.weight": normal(rng, c["n_positions"], C)}
    for i in range(c["n_layer"]):
        for name, shape in {
            "attn.c_attn": (C, 3 * C),
            "attn.c_proj": (C, C),
            "mlp.c_fc": (C, hidden),
            "mlp.c_proj": (hidden, C),
        }.items():
            made |= {f"h.{i}.{name}.weight": normal(rng, *shape), f"h.{i}.{name}.bias": normal(rng, shape[1])}
        for name in ("ln_1", "ln_2"):
            made |= {f"h.{i}.{name}.weight": 1 + normal(rng, C), f"h.{i}.{name}.bias": normal(rng, C)}
    made |= {"ln_f.weight": 1 + normal(rng, C), "ln_f.bias": normal(rng, C)}
    return made if tied else made | {"lm_head.weight": normal(rng, c["vocab_size"], C)}


def gpt2_logits(w: dict[str, Any], c: dict[str, Any], ids: Any) -> Any:
    w = {name: value.astype(np.float64) for name, value in w.items()}
    eps, heads = c["layer_norm_epsilon"], c["n_head"]
    x = w["wte.weight"][ids] + w["wpe.weight"][: ids.shape[1]]
    for i in range(c["n_layer"]):
        p = f"h.{i}."
        h = (
            layer_norm(x, w[p + "ln_1.weight"], w[p + "ln_1.bias"], eps) @ w[p + "attn.c_attn.weight"]
            + w[p + "attn.c_attn.bias"]
        )
        q, k, v = (part.reshape(*ids.shape, heads, -1) for part in np.split(h, 3, axis=-1))
        x = x + attend(q, k, v, q.shape[-1] ** -0.5) @ w[p + "attn.c_proj.weight"] + w[p + "attn.c_proj.bias"]
        h = (
            layer_norm(x, w[p + "ln_2.weight"], w[p + "ln_2.bias"], eps) @ w[p + "mlp.c_fc.weight"]
            + w[p + "mlp.c_fc.bias"]
        )
        h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + h @ w[p + "mlp.c_proj.weight"] + w[p + "mlp.c_proj.bias"]
    return layer_norm(x, w["ln_f.weight"], w["ln_f.bias"], eps) @ w.get("lm_head.weight", w["wte.weight"]).T


def llama_tensors(rng: Any, c: dict[str, Any]) -> dict[str, Any]:
    C, hidden = c["hidden_size"], c["intermediate_size"]
    shared = C // c["num_attention_heads"] * c["num_key_value_heads"]
    made = {
        "model.embed_tokens.weight": normal(rng, c["vocab_size"], C),
        "model.norm.weight": 1 + normal(rng, C),
    }
    maps = {
        "self_attn.q_proj": (C, C),
        "self_attn.k_proj": (shared, C),
        "self_attn.v_proj": (shared, C),
        "self_attn.o_proj": (C, C),
        "mlp.gate_proj": (hidden, C),
        "mlp.up_proj": (hidden, C),
        "mlp.down_proj": (C, hidden),
    }
    for i in range(c["num_hidden_layers"]):
        for name, shape in maps.items():
            made[f"model.layers.{i}.{name}.weight"] = normal(rng, *shape)
            if c["attention_bias"] if "attn" in name else c["mlp_bias"]:
                made[f"model.layers.{i}.{name}.bias"] = normal(rng, shape[0])
        for name in ("input_layernorm", "post_attention_layernorm"):
            made[f"model.layers.{i}.{name}.weight"] = 1 + normal(rng, C)
    return made if c["tie_word_embeddings"] else made | {"lm_head.weight": normal(rng, c["vocab_size"], C)}


def llama_logits(w: dict[str, Any], c: dict[str, Any], ids: Any) -> Any:
    w = {name: value.astype(np.float64) for name, value in w.items()}
    heads, shared, eps = c["num_attention_heads"], c["num_key_value_heads"], c["rms_norm_eps"]
    size = c["hidden_size"] // heads

    def norm(x: Any, name: str) -> Any:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * w[name + ".weight"]

    def linear(x: Any, name: str) -> Any:
        return x @ w[name + ".weight"].T + w.get(name + ".bias", 0.0)

    angles = np.arange(ids.shape[1])[:, None] * c["rope_theta"] ** (-np.arange(0, size, 2) / size)
    turn = np.exp(1j * angles)[None, :, None, :]  # a pair (x_i, x_{i + size/2}) as a complex number, turned

    def rotate(x: Any) -> Any:
        turned = (x[..., : size // 2] + 1j * x[..., size // 2 :]) * turn
        return np.concatenate([turned.real, turned.imag], -1)

    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        h = norm(x, p + "input_layernorm")
        q = rotate(linear(h, p + "self_attn.q_proj").reshape(*ids.shape, heads, size))
        k = rotate(linear(h, p + "self_attn.k_proj").reshape(*ids.shape, shared, size))
        v = linear(h, p + "self_attn.v_proj").reshape(*ids.shape, shared, size)
        k, v = (np.repeat(each, heads // shared, axis=2) for each in (k, v))
        x = x + linear(attend(q, k, v, size**-0.5), p + "self_attn.o_proj")
        h = norm(x, p + "post_attention_layernorm")
        gate = linear(h, p + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, p + "mlp.up_proj"), p + "mlp.down_proj")
    return norm(x, "model.norm") @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def tinygpt_tensors(rng: Any, vocab: int, length: int, layers: int, C: int) -> dict[str, Any]:
    made = {
        "embedding_layer.embeddings": normal(rng, vocab, C),
        "position_embedding_layer.embeddings": normal(rng, length, C),
    }
    for i in range(layers):
        p = f"transformer_blocks.{i}."
        for name in ("ln_1", "ln_2"):
            made |= {f"{p}{name}.bias": normal(rng, C), f"{p}{name}.weights": 1 + normal(rng, C)}
        made |= {f"{p}attn.{name}.weights": normal(rng, C, C) for name in ("query", "key", "value", "out")}
        made[p + "attn.casual_mask"] = np.tril(np.ones((1, 1, length, length)))
        made[p + "attn.casual_value"] = np.triu(np.full((1, 1, length, length), -np.inf), 1)
        for layer, shape in enumerate(((C, 4 * C), (4 * C, C))):
            made |= {
                f"{p}mlp.layers.{layer}.weights": normal(rng, *shape),
                f"{p}mlp.layers.{layer}.bias": normal(rng, shape[1]),
            }
    return made | {
        "layer_norm.bias": normal(rng, C),
        "layer_norm.weights": 1 + normal(rng, C),
        "head.weights": normal(rng, C, vocab),
    }


def tinygpt_logits(w: dict[str, Any], heads: int, layers: int, ids: Any) -> Any:
    """As TinyGPT computes: scores divided by sqrt(C) whatever the heads, and a ReLU after the last layer of
    an MLP too.
    """
    w = {name: value.astype(np.float64) for name, value in w.items()}
    x = w["embedding_layer.embeddings"][ids] + w["position_embedding_layer.embeddings"][: ids.shape[1]]
    C = x.shape[-1]
    for i in range(layers):
        p = f"transformer_blocks.{i}."
        h = layer_norm(x, w[p + "ln_1.weights"], w[p + "ln_1.bias"], 1e-5)
        q, k, v = (
            (h @ w[f"{p}attn.{name}.weights"]).reshape(*ids.shape, heads, -1)
            for name in ("query", "key", "value")
        )
        x = x + attend(q, k, v, C**-0.5) @ w[p + "attn.out.weights"]
        h = layer_norm(x, w[p + "ln_2.weights"], w[p + "ln_2.bias"], 1e-5)
        for layer in range(2):
            h = np.maximum(h @ w[f"{p}mlp.layers.{layer}.weights"] + w[f"{p}mlp.layers.{layer}.bias"], 0.0)
        x = x + h
    return layer_norm(x, w["layer_norm.weights"], w["layer_norm.bias"], 1e-5) @ w["head.weights"]


# ---------------------------------------------------------------- files as others write them


def write_safetensors(path: Path, tensors: dict[str, Any]) -> None:
    buffers = {name: Buffer(value.tolist(), DType.float32) for name, value in tensors.items()}
    save_safetensors(path, buffers, {"format": "pt"})


def write_checkpoint(directory: Path, config: dict[str, Any], tensors: dict[str, Any]) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    write_safetensors(directory / "model.safetensors", tensors)
    return directory


def write_tinygpt(path: Path, tensors: dict[str, Any]) -> Path:
    texts = {
        name: f"Tensor(data={value.tolist()}, requires_grad={'casual' not in name})"
        for name, value in tensors.items()
    }
    path.write_text(json.dumps(texts, indent=2))
    return path


GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 11,
    "n_positions": 8,
    "n_ctx": 8,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 3,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "resid_pdrop": 0.1,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 11,
    "max_position_embeddings": 8,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}


@pytest.fixture
def rng() -> Any:
    return np.random.default_rng(5)


@pytest.fixture
def gpt2(tmp_path: Path, rng: Any) -> Path:
    return write_checkpoint(tmp_path / "gpt2", GPT2, gpt2_tensors(rng, GPT2))


@pytest.fixture
def llama(tmp_path: Path, rng: Any) -> Path:
    return write_checkpoint(tmp_path / "llama", LLAMA, llama_tensors(rng, LLAMA))


def worst(model: GPT, expected: Any) -> float:
    assert not model.training
    return float(np.abs(np.array(model(Tensor(IDS)).to_python()) - expected).max())


# ---------------------------------------------------------------- logits


@pytest.mark.parametrize("head", ["tied", "tied and written all the same", "its own"])
@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_gpt2_logits(on: str, prefix: str, head: str, tmp_path: Path, rng: Any) -> None:
    config = GPT2 | {"tie_word_embeddings": head != "its own"}
    tensors = gpt2_tensors(rng, config, tied=head != "its own")
    written = {
        name if name.startswith("lm_head") else prefix + name: value for name, value in tensors.items()
    }
    written[f"{prefix}h.0.attn.bias"] = np.tril(np.ones((1, 1, 8, 8)))  # a mask, which old files hold
    written[f"{prefix}h.1.attn.masked_bias"] = np.array(-1e4)
    if head == "tied and written all the same":
        written["lm_head.weight"] = tensors["wte.weight"]
    model = load_pretrained(write_checkpoint(tmp_path / "c", config, written))
    assert worst(model, gpt2_logits(tensors, config, np.array(IDS))) < TOLERANCE
    assert model.config.dropout == 0.1 and model.config.tied_head == (head != "its own")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 6, "tie_word_embeddings": True},
        {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True, "num_hidden_layers": 1},
    ],
    ids=["grouped", "all heads, tied", "one head, biases"],
)
def test_llama_logits(on: str, changes: dict[str, Any], tmp_path: Path, rng: Any) -> None:
    config = LLAMA | changes
    tensors = llama_tensors(rng, config)
    inverse = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2)}
    model = load_pretrained(write_checkpoint(tmp_path / "c", config, tensors | inverse))
    assert worst(model, llama_logits(tensors, config, np.array(IDS))) < TOLERANCE


@pytest.mark.parametrize(
    "theta", [{"rope_theta": 77.0}, {"rope_parameters": {"rope_theta": 77.0, "rope_type": "default"}}]
)
def test_where_llama_keeps_the_rotary_base(theta: dict[str, Any], tmp_path: Path, rng: Any) -> None:
    config = {name: value for name, value in LLAMA.items() if name != "rope_theta"} | theta
    assert (
        load_pretrained(
            write_checkpoint(tmp_path / "c", config, llama_tensors(rng, config))
        ).config.rotary_base
        == 77.0
    )


@pytest.mark.parametrize("heads", [1, 3, 4])
def test_tinygpt_logits(on: str, heads: int, tmp_path: Path, rng: Any) -> None:
    tensors = tinygpt_tensors(rng, 11, 8, 2, 12)
    model = load_pretrained(write_tinygpt(tmp_path / "gpt_model.json", tensors), num_heads=heads)
    assert worst(model, tinygpt_logits(tensors, heads, 2, np.array(IDS))) < TOLERANCE


def test_halves_are_widened(tmp_path: Path, rng: Any) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="writes the half-precision file")
    tensors = {name: value.astype(np.float16) for name, value in gpt2_tensors(rng, GPT2).items()}
    path = write_checkpoint(tmp_path / "c", GPT2, {})
    safetensors.save_file(tensors, path / "model.safetensors")
    assert worst(load_pretrained(path), gpt2_logits(tensors, GPT2, np.array(IDS))) < TOLERANCE


def test_a_cache_holds_only_the_shared_heads_and_gives_the_same_logits(on: str, llama: Path) -> None:
    model = load_pretrained(llama)
    cache = model.new_cache(2)
    assert {buffer.shape for buffer in cache.keys + cache.values} == {(2, 2, 8, 4)}
    whole = np.array(model(Tensor(IDS)).to_python())
    parts = [
        np.array(model(Tensor([row[a:b] for row in IDS]), cache).to_python())
        for a, b in ((0, 3), (3, 4), (4, 8))
    ]
    assert np.abs(np.concatenate(parts, axis=1) - whole).max() < TOLERANCE


def test_grouped_queries_equal_all_heads_with_repeated_weights() -> None:
    """Values and gradients: those of a shared head are the sums over its group."""
    config = GPTConfig(5, 6, 1, 4, 16, positions="rotary", num_key_value_heads=2)
    grouped, full = GPT(config), GPT(replace(config, num_key_value_heads=None))
    name = "transformer_blocks.0.attn.query_key_value"
    weights = {key: np.array(tensor.to_python()) for key, tensor in grouped.named_parameters()}

    def repeat(x: Any) -> Any:
        q, k, v = np.split(x, [16, 24], axis=-1)
        k, v = (
            np.repeat(each.reshape(*x.shape[:-1], 2, 4), 2, axis=-2).reshape(*x.shape[:-1], 16)
            for each in (k, v)
        )
        return np.concatenate([q, k, v], -1)

    repeated = weights | {f"{name}.{leaf}": repeat(weights[f"{name}.{leaf}"]) for leaf in ("weights", "bias")}
    full.load_weights({key: Tensor(value.tolist()) for key, value in repeated.items()})
    gradients = []
    for model in (grouped, full):
        logits = model(Tensor([[0, 1, 2, 3, 4, 0]]))
        CrossEntropyLoss()(logits=logits, labels=Tensor([[1, 2, 3, 4, 0, 1]])).mean().backward()
        attention = model.transformer_blocks[0].attn.query_key_value
        gradients.append((np.array(logits.to_python()), np.array(attention.weights.grad.to_python())))
    (logits, gradient), (full_logits, full_gradient) = gradients
    assert np.abs(logits - full_logits).max() < 1e-6
    q, k, v = np.split(full_gradient, 3, axis=-1)
    k, v = (each.reshape(16, 2, 2, 4).sum(2).reshape(16, 8) for each in (k, v))
    assert np.abs(gradient - np.concatenate([q, k, v], -1)).max() < 1e-6


@pytest.mark.parametrize("kind", ["gpt2", "llama", "llama tied"])
def test_transformers_agrees(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip(
        "transformers", reason="compared with transformers only where it is installed"
    )
    torch = pytest.importorskip("torch", reason="transformers needs PyTorch")
    if kind == "gpt2":
        settings_ = transformers.GPT2Config(vocab_size=61, n_positions=16, n_embd=24, n_layer=2, n_head=3)
        theirs = transformers.GPT2LMHeadModel(settings_)
    else:
        sizes = {
            "vocab_size": 61,
            "max_position_embeddings": 32,
            "hidden_size": 24,
            "intermediate_size": 56,
            "num_hidden_layers": 2,
        }
        heads = {
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "tie_word_embeddings": kind.endswith("tied"),
        }
        theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads))
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.eval().save_pretrained(tmp_path / "theirs")
    ids = torch.randint(0, 61, (2, 12))
    with torch.no_grad():
        expected = theirs(ids).logits
        ours = load_pretrained(tmp_path / "theirs")
        assert (torch.tensor(ours(Tensor(ids.tolist())).to_python()) - expected).abs().max() < TOLERANCE
        save_pretrained(ours, tmp_path / "ours", kind.partition(" ")[0])
        again = type(theirs).from_pretrained(tmp_path / "ours").eval()
        assert torch.equal(again(ids).logits, expected)


# ---------------------------------------------------------------- there and back


def test_files_come_back_byte_for_byte(on: str, gpt2: Path, llama: Path, tmp_path: Path) -> None:
    for path, prefix in ((gpt2, "transformer."), (llama, "")):
        kind = path.name
        save_pretrained(load_pretrained(path), tmp_path / "again", kind)
        before, after = (
            load_safetensors(path / "model.safetensors"),
            load_safetensors(tmp_path / "again" / "model.safetensors"),
        )
        assert {prefix + name: tensor.to_array() for name, tensor in before.items()} == {
            n: t.to_array() for n, t in after.items()
        }
        # Transformers insists
        assert read_safetensors_header(tmp_path / "again" / "model.safetensors").metadata == {"format": "pt"}
        written = json.loads((tmp_path / "again" / "config.json").read_text())
        given = json.loads((path / "config.json").read_text())
        assert {name: written[name] for name in given} == given
        save_pretrained(load_pretrained(tmp_path / "again"), tmp_path / "third", kind)
        for name in ("model.safetensors", "config.json"):
            assert (tmp_path / "third" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        for name in ("again", "third"):
            (tmp_path / name).rename(tmp_path / f"{kind}-{name}")


@pytest.mark.parametrize("heads", [1, 4, 3])
def test_tinygpt_files_come_back(heads: int, tmp_path: Path, rng: Any) -> None:
    tensors = tinygpt_tensors(rng, 11, 8, 2, 12)
    model = load_pretrained(write_tinygpt(tmp_path / "gpt_model.json", tensors), num_heads=heads)
    save_pretrained(model, tmp_path / "out", "tinygpt")
    before, after = (
        json.loads(path.read_text())
        for path in (tmp_path / "gpt_model.json", tmp_path / "out" / "gpt_model.json")
    )
    assert before.keys() == after.keys()
    for name, text in before.items():
        if heads == 3 and "query" in name:  # scaled by sqrt(3) and back
            pair = [np.array(Tensor.deserialize_tensor(each).to_python()) for each in (text, after[name])]
            assert np.allclose(*pair, rtol=3e-7, atol=0)
        else:
            assert after[name] == text, name
    again = load_pretrained(tmp_path / "out")  # config.json tells the heads
    assert again.config == model.config


architectures = st.builds(
    lambda kind, layers, heads, width, shared, tied: (
        kind,
        layers,
        heads * shared,
        2 * width * heads * shared,
        shared,
        tied,
    ),
    st.sampled_from(["gpt2", "llama", "tinygpt", "native"]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 2),
    st.booleans(),
)


@some
@given(architectures)
def test_any_model_that_a_format_can_hold_comes_back(
    tmp_path_factory: pytest.TempPathFactory, architecture: Any
) -> None:
    kind, layers, heads, width, shared, tied = architecture
    base: dict[str, Any] = {
        "vocab_size": 7,
        "context_length": 4,
        "num_layers": layers,
        "num_heads": heads,
        "embedding_dim": width,
    }
    fields = {
        "gpt2": {"tied_head": tied},
        "tinygpt": {
            "activation": "relu",
            "final_activation": True,
            "attention_bias": False,
            "tied_head": False,
        },
        "llama": {
            "normalization": "rms_norm",
            "positions": "rotary",
            "activation": "swiglu",
            "bias": tied,
            "num_key_value_heads": shared,
            "attention_bias": not tied,
            "tied_head": tied,
        },
        "native": {
            "positions": "none",
            "num_key_value_heads": shared,
            "activation": "silu",
            "final_activation": tied,
        },
    }
    random.seed(layers)
    model = GPT(GPTConfig(**base, **fields[kind]))
    model.eval()
    path = tmp_path_factory.mktemp("model") / "saved"
    save_pretrained(model, path, kind, CharTokenizer("abcdefg"))
    again = load_pretrained(path)
    assert dict(again.named_parameters()).keys() == dict(model.named_parameters()).keys()
    ids = Tensor([[1, 2, 3]])
    assert np.allclose(again(ids).to_python(), model(ids).to_python(), rtol=1e-5, atol=1e-7)
    assert all(
        tensor.requires_grad and tensor.shape == dict(model.named_parameters())[n].shape
        for n, tensor in again.named_parameters()
    )


def test_a_sharded_checkpoint(on: str, gpt2: Path, tmp_path: Path) -> None:
    tensors = load_safetensors(gpt2 / "model.safetensors")
    names = sorted(tensors)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in shards.items():
        save_safetensors(gpt2 / file, {name: tensors[name] for name in part})
    whole = load_pretrained(gpt2)(Tensor(IDS)).to_python()
    (gpt2 / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (gpt2 / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load_pretrained(gpt2)(Tensor(IDS)).to_python() == whole
    for bad in ("../x.safetensors", "/etc/passwd", "a\\b.safetensors", 7, ""):
        (gpt2 / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {names[0]: bad}}))
        with pytest.raises(FormatError, match="beside the index"):
            load_pretrained(gpt2)
    save_safetensors(gpt2 / "b.safetensors", {names[0]: tensors[names[0]]})
    first = next(iter(shards))
    (gpt2 / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "b.safetensors", "y": first}})
    )
    with pytest.raises(FormatError, match="stands in two files"):
        load_pretrained(gpt2)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_training_on_leaves_the_file_alone_and_goes_as_with_weights_of_its_own(
    on: str, kind: str, gpt2: Path, llama: Path
) -> None:
    """Weights, and the transposed views of them that Llama's matrices are, train like any others."""
    path = gpt2 if kind == "gpt2" else llama
    before = (path / "model.safetensors").read_bytes()
    model, twin = load_pretrained(path), load_pretrained(path)
    own = GPT(model.config)
    own.load_weights([(name, tensor.buffer.copy()) for name, tensor in model.named_parameters()])
    own.eval()
    untouched = twin(Tensor(IDS)).to_python()
    losses: list[list[float]] = [[], []]
    for each, kept in zip((model, own), losses, strict=True):
        optimizer = AdamW(each, learning_rate=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            loss = CrossEntropyLoss()(logits=each(Tensor(IDS)), labels=Tensor(IDS)).mean()
            loss.backward()
            optimizer.update()
            kept.append(loss.item())
    assert losses[0][-1] < losses[0][0] and np.allclose(losses[0], losses[1], rtol=1e-4)
    assert twin(Tensor(IDS)).to_python() == untouched
    assert (path / "model.safetensors").read_bytes() == before


def test_elements_that_lie_askew_are_copied(on: str, gpt2: Path) -> None:
    """A header of an odd length puts every tensor off its natural boundary."""
    path = gpt2 / "model.safetensors"
    expected = load_pretrained(gpt2)(Tensor(IDS)).to_python()
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    path.write_bytes(struct.pack("<Q", length + 1) + raw[8 : 8 + length] + b" " + raw[8 + length :])
    assert load_pretrained(gpt2)(Tensor(IDS)).to_python() == expected


def test_uninitialized_tensors_take_no_memory_and_no_random_numbers() -> None:
    state = random.default_generator().get_state()
    with uninitialized():
        model = GPT(
            GPTConfig(vocab_size=10**9, context_length=10**6, num_layers=2, num_heads=8, embedding_dim=2**20)
        )
    assert random.default_generator().get_state() == state
    assert model.num_parameters() > 10**15
    weight = model.embedding_layer.embeddings
    assert weight.buffer[5, 7].item() == 0.0 and model.layer_norm.weights.buffer[3].item() == 1.0
    with pytest.raises(ValueError, match="broadcast view"):
        weight.buffer.assign(1.0)
    assert Tensor.normal((2,), std=1.0).to_python() != [0.0, 0.0]


# ---------------------------------------------------------------- files that do not fit

BAD_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "another width": (
        {"n_embd": 24},
        r"'wte.weight' has shape \(11, 12\), but the config asks for \(11, 24\)",
    ),
    "another vocabulary": ({"vocab_size": 12}, r"wte.weight.*\(11, 12\).*\(12, 12\)"),
    "another context": ({"n_positions": 9}, r"wpe.weight.*\(8, 12\).*\(9, 12\)"),
    "another MLP": ({"n_inner": 13}, r"mlp.c_fc.*48.*13"),
    "more layers": (
        {"n_layer": 3},
        r"12 of 40 tensors that the config asks for are missing: "
        r"'transformer.h.2.attn.c_attn.bias'.* and 7 more",
    ),
    "fewer layers": (
        {"n_layer": 1},
        r"12 tensors have no place in the model of the config: 'h.1.attn.c_attn.bias'.* and 7 more",
    ),
    "layers without end": (
        {"n_layer": 10**15},
        r"1,000,000,000,000,000 layers do not fit a file of 28 tensors",
    ),
    "a width without end": (
        {"n_embd": 3 * 10**12},
        "embedding_dim 3,000,000,000,000 does not fit a file of 4,020 elements",
    ),
    "a width beyond": ({"n_embd": 3 * 10**30}, "embedding_dim 3,0.*,000 does not fit"),
    "a vocabulary without end": ({"vocab_size": 10**15}, "vocab_size .* does not fit"),
    "a context without end": ({"n_positions": 10**15}, "context_length .* does not fit"),
    "an MLP without end": ({"n_inner": 10**15}, "hidden_dim .* does not fit"),
    "an untied head": ({"tie_word_embeddings": False}, r"1 of 29 tensors .* missing: 'lm_head.weight'"),
    "heads that do not divide": (
        {"n_head": 5},
        r"config.json: embedding_dim \(12\) must be divisible by num_heads \(5\)",
    ),
    "a width of text": ({"n_embd": "12"}, r"config.json: embedding_dim must be an int, but got '12'"),
    "a negative width": ({"n_embd": -12}, r"config.json: embedding_dim must be at least 1"),
    "a quick GELU": (
        {"activation_function": "quick_gelu"},
        r"activation_function is 'quick_gelu'; known are gelu_new",
    ),
    "what nobody knows": ({"n_experts": 4}, r"config.json: n_experts is 4, which is not known here"),
    "an activation in a list": (
        {"activation_function": ["gelu_new"]},
        r"activation_function is \['gelu_new'\]",
    ),
    "another scale": (
        {"scale_attn_by_inverse_layer_idx": True},
        r"scale_attn_by_inverse_layer_idx is True; this GPT is built for False",
    ),
    "another model": (
        {"model_type": "bert"},
        r"model_type is 'bert'; those that can be read are gpt2, llama, mistral, .*tinygpt",
    ),
    "a model type in a list": ({"model_type": ["gpt2"]}, "model_type is"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_a_config_that_does_not_fit(on: str, changes: dict[str, Any], message: str, gpt2: Path) -> None:
    (gpt2 / "config.json").write_text(json.dumps(GPT2 | changes))
    with pytest.raises(FormatError, match=message):
        load_pretrained(gpt2)


@pytest.mark.parametrize("name", ["vocab_size", "n_embd", "n_layer", "n_head"])
def test_a_config_that_lacks_something(name: str, gpt2: Path) -> None:
    (gpt2 / "config.json").write_text(json.dumps({key: value for key, value in GPT2.items() if key != name}))
    with pytest.raises(FormatError, match=f"config.json lacks '{name}'"):
        load_pretrained(gpt2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_key_value_heads": 3},
            r"k_proj.weight' has shape \(8, 24\), but the config asks for \(12, 24\)",
        ),
        ({"num_key_value_heads": 4}, r"num_heads \(6\) must be divisible by num_key_value_heads \(4\)"),
        ({"num_key_value_heads": 0}, r"num_key_value_heads must be at least 1"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling is"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_type 'default'"),
        ({"rope_theta": 0.5}, "rotary_base must be a finite number of at least 1"),
        ({"head_dim": 8}, r"q_proj.weight' has shape \(24, 24\), but the config asks for \(48, 24\)"),
        ({"head_dim": 7}, "even head size, but attention_head_dim is 7"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, r"8 of 29 tensors .* missing"),
    ],
)
def test_a_llama_that_does_not_fit(changes: dict[str, Any], message: str, llama: Path) -> None:
    (llama / "config.json").write_text(json.dumps(LLAMA | changes))
    with pytest.raises(FormatError, match=message):
        load_pretrained(llama)


JUNK = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    1.5,
    "x",
    "",
    [],
    [1],
    {},
    {"rope_theta": "x"},
    10**30,
    float("nan"),
    float("inf"),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["gpt2", "llama"]), st.data())
def test_whatever_a_config_says_is_loaded_or_refused(
    gpt2: Path, llama: Path, kind: str, data: st.DataObject
) -> None:
    path, config = (
        (gpt2, GPT2)
        if kind == "gpt2"
        else (llama, LLAMA | {"rope_parameters": {}, "rope_scaling": None, "head_dim": 4})
    )
    names = data.draw(st.lists(st.sampled_from([*config, "n_inner", "resid_pdrop"]), min_size=1, max_size=3))
    (path / "config.json").write_text(
        json.dumps(config | {name: data.draw(st.sampled_from(JUNK)) for name in names})
    )
    try:
        model = load_pretrained(path)
    except FormatError as problem:
        assert str(path) in str(problem) and len(str(problem)) < 2000
    else:
        assert model.num_parameters() == sum(
            e.numel for n, e in load_safetensors(path / "model.safetensors").items()
        )


def test_tensors_that_do_not_fit(gpt2: Path, rng: Any) -> None:
    tensors = gpt2_tensors(rng, GPT2)
    write_safetensors(gpt2 / "model.safetensors", tensors | {"transformer.wte.weight": tensors["wte.weight"]})
    with pytest.raises(FormatError, match=r"stand twice.*wte\.weight"):
        load_pretrained(gpt2)
    save_safetensors(
        gpt2 / "model.safetensors",
        {name: Buffer(value.tolist(), DType.int32) for name, value in tensors.items()},
    )
    with pytest.raises(FormatError, match="has dtype I32; weights are F32, F64, F16, BF16"):
        load_pretrained(gpt2)


def test_messages_stay_short(gpt2: Path, rng: Any) -> None:
    """Whatever a file holds, what is said of it can be read."""
    tensors = gpt2_tensors(rng, GPT2)
    write_safetensors(
        gpt2 / "model.safetensors", tensors | {f"{number}{'x' * 100_000}": np.ones(1) for number in range(9)}
    )
    with pytest.raises(FormatError, match=r"9 tensors have no place .* and 4 more") as caught:
        load_pretrained(gpt2)
    assert len(str(caught.value)) < 2000
    for changes in (
        {"model_type": "x" * 10**6},
        {"activation_function": ["x"] * 10**5},
        {"scale_attn_weights": "x" * 10**6},
    ):
        (gpt2 / "config.json").write_text(json.dumps(GPT2 | changes))
        with pytest.raises(FormatError) as caught:
            load_pretrained(gpt2)
        assert len(str(caught.value)) < 2000


def test_places_that_hold_no_checkpoint(tmp_path: Path, gpt2: Path) -> None:
    cases = {
        tmp_path / "nothing": "there is no file or directory",
        tmp_path: "has no config.json",
        gpt2 / "config.txt": "neither a directory",
    }
    (gpt2 / "config.txt").write_text("x")
    for path, message in cases.items():
        with pytest.raises(FormatError, match=message):
            load_pretrained(path)
    (gpt2 / "model.safetensors").rename(gpt2 / "pytorch_model.bin")
    missing = r"neither model.safetensors nor model.safetensors.index.json.* is a pickle.*save_pretrained"
    with pytest.raises(FormatError, match=missing):
        load_pretrained(gpt2)


def test_tinygpt_files_that_do_not_fit(tmp_path: Path, rng: Any) -> None:
    tensors = tinygpt_tensors(rng, 11, 8, 1, 12)
    path = tmp_path / "gpt_model.json"
    with pytest.raises(FormatError, match="how many attention heads"):
        load_pretrained(write_tinygpt(path, tensors))
    with pytest.raises(FormatError, match=r"must be divisible by num_heads \(5\)"):
        load_pretrained(path, num_heads=5)
    with pytest.raises(
        FormatError, match=r"'head.weights' has shape \(12, 10\), but the config asks for \(12, 11\)"
    ):
        load_pretrained(write_tinygpt(path, tensors | {"head.weights": np.ones((12, 10))}), num_heads=3)
    with pytest.raises(FormatError, match=r"no place in the model.*'transformer_blocks.0.attn.colour'"):
        load_pretrained(
            write_tinygpt(path, tensors | {"transformer_blocks.0.attn.colour": np.ones(2)}), num_heads=3
        )
    with pytest.raises(FormatError, match="holds no TinyGPT model"):
        load_pretrained(write_tinygpt(path, {"x": np.ones(2)}), num_heads=3)
    path.write_text('{"x": "Tensor(data=__import__(\'os\'), requires_grad=True)"}')
    with pytest.raises(ValueError, match=r"gpt_model.json is no JSON object of names and tensors"):
        load_pretrained(path, num_heads=3)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "gpt2",
            {"positions": "rotary", "normalization": "rms_norm"},
            "normalization is 'rms_norm', not 'layer_norm'; positions is 'rotary'",
        ),
        ("gpt2", {"attention_bias": False}, "attention_bias is False, not True"),
        ("gpt2", {"num_key_value_heads": 1}, "num_key_value_heads is 1"),
        ("gpt2", {"activation": "swiglu"}, "activation is 'swiglu'"),
        ("llama", {}, "normalization is 'layer_norm'.*positions.*activation"),
        ("tinygpt", {}, "activation is 'gelu', not 'relu'"),
        ("tinygpt", {"hidden_dim": 5}, "hidden_dim is 5, not 16"),
        ("onnx", {}, "there is no format 'onnx'"),
        ("native", {}, "a native run needs a tokenizer"),
    ],
)
def test_models_that_a_format_cannot_hold(
    kind: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = GPT(replace(GPTConfig(7, 4, 1, 2, 4), **changes))
    with pytest.raises(FormatError, match=message):
        save_pretrained(model, tmp_path / "out", kind)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(gpt2: Path, tmp_path: Path) -> None:
    model = load_pretrained(gpt2)
    for path in (gpt2, gpt2 / "config.json"):
        with pytest.raises(FormatError, match="nothing is overwritten"):
            save_pretrained(model, path, "gpt2")


# ---------------------------------------------------------------- tokenizers, and runs


def test_a_native_run_is_usable_by_generate(gpt2: Path, tmp_path: Path) -> None:
    model = load_pretrained(gpt2)
    tokenizer = CharTokenizer("abcdefghij")
    tokenizer.register_special_tokens({"<|endoftext|>": 10})
    save_pretrained(model, tmp_path / "run", "native", tokenizer)
    again, found, config = load_model(str(tmp_path / "run"), "python")
    assert found.encode("cab") == [2, 0, 1] and config["data"] == {"is_documents": True, "opening": ""}
    again.eval()
    assert again(Tensor(IDS)).to_python() == model(Tensor(IDS)).to_python()
    with pytest.raises(FormatError, match="the tokenizer has 12 tokens, but the model knows 11"):
        save_pretrained(model, tmp_path / "other", "native", CharTokenizer("abcdefghijkl"))


def test_tokenizers_that_lie_beside_weights(tmp_path: Path) -> None:
    assert find_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00")  # sentencepiece's
    assert find_tokenizer(tmp_path) is None
    bpe = BPETokenizer()
    bpe.train("the theme of the thesis", 258)
    bpe.save(str(tmp_path / "tokenizer"))
    found = find_tokenizer(tmp_path)
    assert found is not None and found.encode("the thesis") == bpe.encode("the thesis")
    save_tokenizer(CharTokenizer("ab"), tmp_path / "tokenizer")
    assert isinstance(find_tokenizer(tmp_path), CharTokenizer)


@pytest.mark.parametrize("flag", [{}, {"tie_word_embeddings": True}])
def test_a_head_of_its_own_is_kept_whatever_the_config_says(
    on: str, flag: dict[str, Any], tmp_path: Path, rng: Any
) -> None:
    config = {name: value for name, value in GPT2.items() if name != "tie_word_embeddings"} | flag
    tensors = gpt2_tensors(rng, config, tied=False)
    with pytest.warns(RuntimeWarning, match=r"'lm_head\.weight' holds other weights"):
        model = load_pretrained(write_checkpoint(tmp_path / "gpt2", config, tensors))
    assert not model.config.tied_head
    assert worst(model, gpt2_logits(tensors, config, np.array(IDS))) < TOLERANCE
    config = LLAMA | flag
    tensors = llama_tensors(rng, config | {"tie_word_embeddings": False})
    if flag:  # without it, Llama's head is not tied
        with pytest.warns(RuntimeWarning, match="holds other weights"):
            model = load_pretrained(write_checkpoint(tmp_path / "llama", config, tensors))
        assert worst(model, llama_logits(tensors, config, np.array(IDS))) < TOLERANCE


def test_a_head_that_is_the_embeddings_in_another_width_is_tied(gpt2: Path, rng: Any) -> None:
    header = read_safetensors_header(gpt2 / "model.safetensors")
    assert "lm_head.weight" not in header.entries
    tensors = gpt2_tensors(rng, GPT2)
    tensors["wte.weight"] = tensors["wte.weight"].astype(np.float16)
    tensors["lm_head.weight"] = tensors["wte.weight"].astype(np.float32)
    write_safetensors(gpt2 / "model.safetensors", tensors)
    assert load_pretrained(gpt2).config.tied_head
    tensors["lm_head.weight"][3, 1] += 0.5
    write_safetensors(gpt2 / "model.safetensors", tensors)
    with pytest.warns(RuntimeWarning, match="holds other weights"):
        assert not load_pretrained(gpt2).config.tied_head


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": 1, "a": 2}', "\xff"])
def test_damaged_files_are_format_errors(text: str, gpt2: Path, tmp_path: Path) -> None:
    """`FormatError` is what the docstrings promise, whatever it is that is wrong."""
    config = (gpt2 / "config.json").read_bytes()
    (gpt2 / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError):
        load_pretrained(gpt2)
    (gpt2 / "config.json").write_bytes(config)
    (gpt2 / "model.safetensors").write_bytes(text.encode("latin-1") * 9)
    with pytest.raises(FormatError):
        load_pretrained(gpt2)
    (tmp_path / "gpt_model.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError):
        load_pretrained(tmp_path / "gpt_model.json", num_heads=1)


@pytest.mark.parametrize("heads", [1, 3, 4])
def test_load_weights_takes_tinygpts_file(on: str, heads: int, tmp_path: Path, rng: Any) -> None:
    tensors = tinygpt_tensors(rng, 11, 8, 2, 12)
    write_tinygpt(tmp_path / "gpt_model.json", tensors)
    model = GPT(max_seq_length=8, vocab_size=11, num_layers=2, num_heads=heads, embedding_dim=12)
    with pytest.warns(RuntimeWarning, match="ReLU after each MLP"):
        model.load_weights(tmp_path / "gpt_model.json")
    model.eval()
    assert model.config.final_activation
    assert worst(model, tinygpt_logits(tensors, heads, 2, np.array(IDS))) < TOLERANCE
    model.save_weights(tmp_path / "again.json")  # as a script that goes on another day does
    again = GPT(max_seq_length=8, vocab_size=11, num_layers=2, num_heads=heads, embedding_dim=12)
    with pytest.warns(RuntimeWarning, match="ReLU after each MLP"):
        again.load_weights(tmp_path / "again.json")
    model.save_weights(tmp_path / "again.safetensors")
    third = GPT(max_seq_length=8, vocab_size=11, num_layers=2, num_heads=heads, embedding_dim=12)
    with pytest.warns(RuntimeWarning, match="ReLU after each MLP"):
        third.load_weights(tmp_path / "again.safetensors")
    for other in (again, third, load_pretrained(tmp_path / "again.json", num_heads=heads)):
        other.eval()
        assert worst(other, tinygpt_logits(tensors, heads, 2, np.array(IDS))) < TOLERANCE


def test_load_weights_refuses_tinygpts_file_where_the_model_is_another(tmp_path: Path, rng: Any) -> None:
    tensors = tinygpt_tensors(rng, 11, 8, 2, 12)
    path = write_tinygpt(tmp_path / "gpt_model.json", tensors)
    config = GPTConfig(vocab_size=11, context_length=8, num_layers=2, num_heads=3, embedding_dim=12)
    model = GPT(config)
    before = model.head.weights.to_python() if not config.tied_head else None
    with pytest.raises(ValueError, match="built otherwise"):
        model.load_weights(path)
    assert before is None or model.head.weights.to_python() == before
    wrong = {name: value for name, value in tensors.items() if "key" not in name}
    model = GPT(max_seq_length=8, vocab_size=11, num_layers=2, num_heads=3, embedding_dim=12)
    with pytest.raises(ValueError, match="no weights for these"):
        model.load_weights(write_tinygpt(tmp_path / "wrong.json", wrong))
    assert not model.config.final_activation
    model = GPT(max_seq_length=8, vocab_size=11, num_layers=1, num_heads=3, embedding_dim=12)
    with pytest.raises(ValueError, match="does not have"):
        model.load_weights(path)


USES_A_CUT_FILE = """
import os, sys
from tinygpt_core import Tensor, backends
from tinygpt_core.formats import load_pretrained
with backends.use(sys.argv[2]):
    model = load_pretrained(sys.argv[1])
    ids = Tensor([[1, 2, 3]])
    before = model(ids).to_python()
    path = os.path.join(sys.argv[1], "model.safetensors")
    os.truncate(path, 0)
    assert model(ids).to_python() == before
    with open(path, "wb") as file:
        file.write(b"\\xff" * 100_000)
    assert model(ids).to_python() == before
    print("alive")
"""


def test_a_file_may_be_cut_while_its_model_lives(on: str, gpt2: Path) -> None:
    """Were it mapped into memory, SIGBUS would end the process."""
    command = [sys.executable, "-c", USES_A_CUT_FILE, str(gpt2), on]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr
