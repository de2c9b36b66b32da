"""Families of checkpoints: what transformers writes gives its logits and its text here, what is written here
gives them there, and a setting that is not understood is refused by its name.
"""

from __future__ import annotations

import json
import math
import re
import struct
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_cli import tinygpt

from tinygpt_core import DType, Tensor, backends, no_grad, random
from tinygpt_core.cli.main import main
from tinygpt_core.explain import Recorder
from tinygpt_core.files.json_objects import SerializationError
from tinygpt_core.files.safetensors import load_safetensors, save_safetensors
from tinygpt_core.formats import FormatError, Tensors, load_pretrained, save_pretrained
from tinygpt_core.formats.families import FAMILIES, why_not_elsewhere
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig, RotaryScaling, recorded_routing
from tinygpt_core.nn.activations import GATED_ACTIVATIONS
from tinygpt_core.tokenizer import CharTokenizer
from tinygpt_core.training import PRESETS

IDS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], [0, 10, 7, 7, 2, 8, 1, 9, 9, 9, 4, 4]]

# ---------------------------------------------------------------- transformers' own checkpoints

SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 500.0,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,
    "rope_theta": 500.0,
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
WINDOW = {"sliding_window": 5}
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": ("GPT2", {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 64}),
    "GPT-2, exact GELU": ("GPT2", {"n_embd": 24, "n_layer": 2, "n_head": 3, "activation_function": "gelu"}),
    "Llama": ("Llama", {}),
    "Llama, all heads": ("Llama", {"num_key_value_heads": 4}),
    "Llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "Llama, biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "Llama, a head size of its own": ("Llama", {"head_dim": 10}),
    "Llama 3.1, scaled": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "Llama, scaled linearly": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
    "Llama, YaRN": ("Llama", {"rope_parameters": YARN, "head_dim": 12}),
    "Qwen3, YaRN with scales": (
        "Qwen3",
        {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7, "truncate": False}, "head_dim": 8},
    ),
    "Mistral": ("Mistral", {"sliding_window": None}),
    "Mistral, a window": ("Mistral", {**WINDOW, "head_dim": 8}),
    "Qwen2": ("Qwen2", {}),
    "Qwen2, windows": ("Qwen2", QWEN_WINDOW),
    "Qwen3": ("Qwen3", {"head_dim": 8}),
    "Qwen3, windows, tied": ("Qwen3", {**QWEN_WINDOW, "head_dim": 8, "tie_word_embeddings": True}),
    "Gemma": ("Gemma", {"head_dim": 8}),
    "Gemma 2": ("Gemma2", {**WINDOW, "head_dim": 8, "query_pre_attn_scalar": 12}),
    "Gemma 2, low caps": (
        "Gemma2",
        {**WINDOW, "head_dim": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5},
    ),
    "Gemma 3": ("Gemma3Text", {**WINDOW, "head_dim": 8, "num_hidden_layers": 7, "query_pre_attn_scalar": 8}),
    "Gemma 3, scaled": (
        "Gemma3Text",
        {**WINDOW, "head_dim": 8, "num_hidden_layers": 7, "rope_parameters": GEMMA3_ROPE},
    ),
    "Phi-3": ("Phi3", {}),
    "Phi-3, a window": ("Phi3", WINDOW),
    "StarCoder2": ("Starcoder2", WINDOW),
    "Mixtral": ("Mixtral", {"num_local_experts": 4}),
    "Mixtral, a window, tied": (
        "Mixtral",
        {
            **WINDOW,
            "num_local_experts": 3,
            "num_experts_per_tok": 1,
            "head_dim": 8,
            "tie_word_embeddings": True,
        },
    ),
    "OLMoE": ("Olmoe", EXPERTS),
    "OLMoE, weights that add up to 1": (
        "Olmoe",
        {**EXPERTS, "num_experts_per_tok": 3, "norm_topk_prob": True, "attention_bias": True},
    ),
    "Qwen3 MoE": (
        "Qwen3Moe",
        {**EXPERTS, "head_dim": 8, "moe_intermediate_size": 12, "norm_topk_prob": True},
    ),
    "GPT-NeoX (Pythia)": ("GPTNeoX", {"hidden_size": 32}),
    "GPT-NeoX, one after the other, tied": (
        "GPTNeoX",
        {"hidden_size": 32, "use_parallel_residual": False, "tie_word_embeddings": True},
    ),
    "GPT-NeoX, all of a head turned": (
        "GPTNeoX",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}},
    ),
}


def their_model(kind: str, options: dict[str, Any]) -> Any:
    """A tiny model of transformers with drawn weights, none of them 0 or 1."""
    transformers = pytest.importorskip(
        "transformers", reason="compared with transformers only where it is installed"
    )
    torch = pytest.importorskip("torch", reason="transformers needs PyTorch")
    no_groups = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
    sizes = {"GPT2": {}, "GPTNeoX": no_groups}.get(kind, SIZES)
    config = getattr(transformers, f"{kind}Config")(**{"vocab_size": 61, **sizes, **options})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize(("kind", "options"), CASES.values(), ids=CASES.keys())
def test_logits_and_text_are_those_of_transformers(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    theirs = their_model(kind, options)
    torch = pytest.importorskip("torch")
    theirs.save_pretrained(tmp_path / "theirs")
    ids = torch.randint(3, 61, (2, 20), generator=torch.Generator().manual_seed(1))
    model_type = json.loads((tmp_path / "theirs" / "config.json").read_text())["model_type"]
    with torch.no_grad(), backends.use("numpy" if backends.why_not("numpy") is None else "python"):
        expected = theirs(ids).logits
        ours = load_pretrained(tmp_path / "theirs")
        assert (torch.tensor(ours(Tensor(ids.tolist())).to_python()) - expected).abs().max() < 1e-4
        text = theirs.generate(ids[:1, :6], max_new_tokens=20, do_sample=False, pad_token_id=0)
        assert ours.generate_greedy(Tensor(ids[:1, :6].tolist()), 20).to_python() == text.tolist()
        save_pretrained(ours, tmp_path / "ours", model_type)
        back = type(theirs).from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
        assert (back(ids).logits - expected).abs().max() < 1e-5


FUSED = [name for name, (kind, _) in CASES.items() if kind in ("Mixtral", "Olmoe", "Qwen3Moe")]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FUSED)
def test_experts_in_one_tensor_are_those_of_several(name: str, dtype: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    theirs = their_model(*CASES[name]).to(getattr(torch, dtype))
    for layout in (True, False):
        theirs.save_pretrained(tmp_path / str(layout), save_original_format=layout, max_shard_size="20KB")
    fused = Tensors([str(path) for path in (tmp_path / "False").glob("*.safetensors")]).entries
    assert "model.layers.0.mlp.experts.gate_up_proj" in fused
    separate, together = (load_pretrained(tmp_path / str(layout)) for layout in (True, False))
    assert together.config == separate.config
    assert together(Tensor(IDS)).to_python() == separate(Tensor(IDS)).to_python()


@pytest.mark.parametrize(
    ("kind", "name", "shape", "message"),
    [
        (
            "mixtral",
            "mlp.experts.gate_up_proj",
            (3, 9, 8),
            "no place in the model of the config: .*gate_up_proj'",
        ),
        ("mixtral", "mlp.experts.gate_up_proj", (3, 48, 8), "w1.weight' stands there by itself, and in"),
        ("mixtral", "mlp.gate.weight", (3, 8), "block_sparse_moe.gate.weight' stands there by itself"),
        ("olmoe", "mlp.experts.down_proj", (8, 3), "no place in the model of the config"),
        ("olmoe", "mlp.experts.down_proj", (3, 0, 8), "down_proj.weight' stands there by itself"),
        ("olmoe", "mlp.experts.down_proj", (2**20, 1, 1), "has 1,048,576 experts, which are too many"),
    ],
)
def test_experts_in_one_tensor_that_do_not_fit(
    kind: str, name: str, shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    save_pretrained(our_model(kind), tmp_path / "c", kind)
    tensors = load_safetensors(tmp_path / "c" / "model.safetensors")
    tensors[f"model.layers.1.{name}"] = Tensor.zeros(shape).buffer
    save_safetensors(tmp_path / "c" / "model.safetensors", tensors)
    with pytest.raises(FormatError, match=message):
        load_pretrained(tmp_path / "c")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_in_shards_are_widened(dtype: str, tmp_path: Path) -> None:
    theirs = their_model("Qwen3", {"head_dim": 8})
    torch = pytest.importorskip("torch")
    halves = theirs.to(getattr(torch, dtype))
    halves.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 1
    ids = torch.tensor(IDS)
    with torch.no_grad():
        expected = halves.float()(ids).logits
    assert (
        torch.tensor(load_pretrained(tmp_path / "theirs")(Tensor(IDS)).to_python()) - expected
    ).abs().max() < 1e-4


@pytest.mark.parametrize("place", ["python", "numpy"])
@pytest.mark.parametrize("dtype_name", ["F16", "BF16"])
def test_every_number_of_16_bits_is_widened(
    place: str, dtype_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a piece ends; by definition: sign, exponent and fraction."""
    if problem := backends.why_not(place):
        pytest.skip(problem)
    bits = {"F16": 10, "BF16": 7}[dtype_name]  # of the fraction
    bias = (1 << (14 - bits)) - 1

    def number(word: int) -> float:
        sign, exponent, fraction = word >> 15, word >> bits & 2 * bias + 1, word & (1 << bits) - 1
        if exponent == 2 * bias + 1:
            size = math.nan if fraction else math.inf
        else:
            size = (fraction + ((1 << bits) if exponent else 0)) * 2.0 ** (max(exponent, 1) - bias - bits)
        return -size if sign else size

    words = struct.pack("<65536H", *range(65536))
    entry = {"dtype": dtype_name, "shape": [256, 256], "data_offsets": [0, len(words)]}
    header = json.dumps({"x": entry}).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + words)
    expected = list(map(number, range(65536)))
    for piece in (1 << 20, 4098):
        monkeypatch.setattr("tinygpt_core.files.safetensors.PIECE", piece)
        with backends.use(place):
            tensors = Tensors([str(tmp_path / "x")])
            found = tensors.read("x")
            assert found.shape == (256, 256) and found.dtype is DType.float32
            for value, wanted in zip(found.to_array(), expected, strict=True):
                assert value == wanted or (math.isnan(value) and math.isnan(wanted))
                assert math.isnan(value) or math.copysign(1.0, value) == math.copysign(1.0, wanted)
    with open(tmp_path / "x", "r+b") as file:
        file.truncate(5000)
    with pytest.raises(SerializationError, match="the file ends within tensor 'x'"):
        tensors.read("x")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_widening_takes_little_more_memory_than_what_it_makes(dtype: str, tmp_path: Path) -> None:
    theirs = their_model("Llama", {"vocab_size": 8000, "hidden_size": 256, "intermediate_size": 1024})
    torch = pytest.importorskip("torch")
    if problem := backends.why_not("numpy"):
        pytest.skip(problem)
    theirs.to(getattr(torch, dtype)).save_pretrained(tmp_path / "theirs")
    with backends.use("numpy"):
        load_pretrained(tmp_path / "theirs")  # what is imported once
        tracemalloc.start()
        try:
            model = load_pretrained(tmp_path / "theirs")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert 1.0 < peak / (4 * model.num_parameters()) <= 1.3


# ---------------------------------------------------------------- there and back, without it

BASE = {"vocab_size": 11, "context_length": 16, "num_layers": 2, "num_heads": 4, "embedding_dim": 8}
RMS = {"normalization": "rms_norm", "positions": "rotary", "bias": False, "num_key_value_heads": 2}
SWIGLU = {**RMS, "activation": "swiglu", "attention_bias": False}
MIXTURE = {"num_experts": 3, "experts_per_token": 2}
GEGLU = {**RMS, "activation": "geglu", "attention_head_dim": 6, "embedding_scale": 8**0.5}
LOCAL = {"sliding_window": 3, "layer_types": ("sliding_attention", "full_attention")}
SCALING = RotaryScaling("llama3", 8.0, 1.0, 4.0, 8)
MODELS: dict[str, dict[str, Any]] = {
    "starcoder2": {"positions": "rotary", "num_key_value_heads": 2, "sliding_window": 3},
    "gpt2": {"activation": "gelu_exact"},
    "llama": {**SWIGLU, "rotary_scaling": SCALING, "attention_head_dim": 6, "tied_head": False},
    "mistral": {
        **SWIGLU,
        "sliding_window": 3,
        "attention_head_dim": 4,
        "rotary_scaling": RotaryScaling("yarn", 3.0, 0.5, 4.0, 9, 0.8, False),
    },
    "qwen2": {**SWIGLU, **LOCAL, "attention_bias": True, "attention_output_bias": False},
    "qwen3": {**SWIGLU, "attention_head_dim": 6, "query_key_norm": True},
    "gemma": {**GEGLU, "attention_bias": True},
    "gemma2": {
        **GEGLU,
        **LOCAL,
        "post_normalization": True,
        "attention_scale": 0.3,
        "attention_soft_cap": 2.0,
        "logit_soft_cap": 1.0,
    },
    "gemma3_text": {
        **GEGLU,
        **LOCAL,
        "post_normalization": True,
        "query_key_norm": True,
        "local_rotary_base": 100.0,
        "rotary_scaling": RotaryScaling("linear", 2.0),
    },
    "mixtral": {**SWIGLU, **MIXTURE, "sliding_window": 3, "attention_head_dim": 4},
    "olmoe": {
        **SWIGLU,
        **MIXTURE,
        "query_key_norm": True,
        "norm_across_heads": True,
        "normalized_expert_weights": False,
    },
    "qwen3_moe": {**SWIGLU, **MIXTURE, "attention_head_dim": 6, "query_key_norm": True, "hidden_dim": 5},
    "phi3": {**SWIGLU, "embedding_dim": 16, "rotary_dim": 2, "sliding_window": 4},
    "gpt_neox": {
        "positions": "rotary",
        "embedding_dim": 16,
        "rotary_dim": 2,
        "activation": "gelu_exact",
        "parallel_residual": True,
        "tied_head": False,
    },
    "tinygpt": {"activation": "relu", "final_activation": True, "attention_bias": False, "tied_head": False},
}


def our_model(kind: str) -> GPT:
    random.seed(7)
    model = GPT(GPTConfig(**{**BASE, **MODELS[kind]}))
    model.apply(lambda tensor: Tensor.normal(tensor.shape, std=0.4))
    model.eval()
    return model


def test_every_family_is_tried() -> None:
    assert MODELS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("kind", MODELS)
def test_there_and_back(kind: str, tmp_path: Path) -> None:
    model = our_model(kind)
    save_pretrained(model, tmp_path / "out", kind, CharTokenizer("abcdefghijk"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == kind
    again = load_pretrained(tmp_path / "out")
    logits, expected = (Tensor(each(Tensor(IDS)).to_python()) for each in (again, model))
    assert (logits - expected).abs().max().item() < 1e-5
    save_pretrained(again, tmp_path / "third", kind)
    for name in ("config.json", "gpt_model.json" if kind == "tinygpt" else "model.safetensors"):
        written, first = (tmp_path / folder / name for folder in ("third", "out"))
        # 1 is added to Gemma's norms, and taken away again
        assert written.read_bytes() == first.read_bytes() or (
            kind.startswith("gemma") and name != "config.json"
        )


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "tinygpt"])
def test_no_other_family_takes_it_for_its_own(kind: str, tmp_path: Path) -> None:
    """What a format cannot hold is named; what it can gives the same logits."""
    model = our_model(kind)
    expected = model(Tensor(IDS))
    held = []
    for other in MODELS:
        try:
            save_pretrained(model, tmp_path / other, other)
        except FormatError as problem:
            assert "cannot hold this model" in str(problem)
        else:
            held.append(other)
            assert (load_pretrained(tmp_path / other)(Tensor(IDS)) - expected).abs().max().item() < 1e-5
    assert kind in held


def test_what_says_nothing_without_experts_is_no_obstacle() -> None:
    llama = replace(our_model("llama").config, experts_per_token=5, normalized_expert_weights=False)
    assert FAMILIES["llama"].obstacles(llama) == []
    for kind in ("mixtral", "olmoe", "qwen3_moe"):
        plain = replace(our_model(kind).config, num_experts=None)
        assert "num_experts is None, not a number" in FAMILIES[kind].obstacles(plain)
        assert FAMILIES["llama"].obstacles(our_model(kind).config)


def test_layers_that_all_see_the_same_need_no_names() -> None:
    """Mistral says how large a window is, and not which layers have it."""
    mistral = our_model("mistral").config
    assert FAMILIES["mistral"].obstacles(replace(mistral, layer_types=("sliding_attention",) * 2)) == []
    assert FAMILIES["mistral"].obstacles(replace(mistral, layer_types=("full_attention",) * 2)) == []
    mixed = replace(mistral, layer_types=("sliding_attention", "full_attention"))
    (obstacle,) = FAMILIES["mistral"].obstacles(mixed)
    assert obstacle.startswith("layer_types is ('sliding_attention', 'full_attention')")


NO_FORMAT = "shakespeare-cpu"  # its parts are younger than the formats; a run says so at its start


@pytest.mark.parametrize("name", [name for name in PRESETS if name != NO_FORMAT])
def test_every_preset_can_be_exported_but_for_its_counts(name: str, tmp_path: Path) -> None:
    config = PRESETS[name].config.model_config(11)
    counts = [f"ngram_prior is {config.ngram_prior}, not 0"] if config.ngram_prior else []
    assert why_not_elsewhere(config) == counts
    small = replace(config, num_layers=1, embedding_dim=16, num_heads=2, context_length=8, ngram_prior=0)
    model = GPT(small)
    model.eval()
    formats = [kind for kind, family in FAMILIES.items() if not family.obstacles(small)]
    assert formats
    for kind in formats:
        save_pretrained(model, tmp_path / kind, kind)
        ids = Tensor([[1, 2, 3, 4]])
        assert (load_pretrained(tmp_path / kind)(ids) - model(ids)).abs().max().item() < 1e-5


def test_what_keeps_the_recipe_of_today_from_every_format() -> None:
    config = PRESETS[NO_FORMAT].config.model_config(11)
    assert set(why_not_elsewhere(config)) >= {
        "value_embeddings is 2, not 0",
        "query_key_norm is True, not False",
    }


def test_a_run_says_at_its_start_that_it_cannot_be_exported(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("ab\ncd\nabc\nbcd\n" * 4)
    command = ["train", "names", "--data", "words.txt", "--preset", "debug", "--steps", "1"]
    for tables, line in (("5,7", "format +tinygpt's own: ngram_tables is \\(5, 7\\)$"), ("none", None)):
        done = tinygpt(*command, "--ngram-tables", tables, "--out", f"run{tables[0]}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found = [each for each in done.stdout.splitlines() if each.startswith("format ")]
        assert len(found) == (line is not None) and (line is None or re.match(line, found[0]))
        to = ("convert", f"run{tables[0]}", f"out{tables[0]}", "--to", "starcoder2")
        assert (tinygpt(*to, cwd=tmp_path).returncode == 0) == (line is None)


@pytest.mark.parametrize(
    ("kind", "options"), [("mixtral", []), ("qwen3_moe", ["--query-key-norm", "--embedding-dim", "8"])]
)
def test_experts_that_are_trained_here_run_elsewhere(kind: str, options: list[str], tmp_path: Path) -> None:
    """Without biases, which no format holds: from `train` to transformers, with the logits of the run."""
    (tmp_path / "words.txt").write_text("ab\ncd\nabc\nbcd\n" * 40)
    command = [
        "train",
        "--data",
        "words.txt",
        "--preset",
        "debug",
        "--steps",
        "8",
        "--experts",
        "3",
        *options,
    ]
    command += ["--normalization", "rms_norm", "--activation", "swiglu"]
    done = tinygpt(*command, "--out", "with-biases", cwd=tmp_path)
    assert done.returncode == 0 and "\nformat     tinygpt's own: bias is True" in done.stdout
    done = tinygpt(*command, "--no-bias", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0 and "\nformat " not in done.stdout, done.stderr
    model = load_pretrained(tmp_path / "run")
    assert not model.config.bias and not any("bias" in name for name, _ in model.named_parameters())
    assert tinygpt("train", "--resume", "run", "--steps", "9", "--quiet", cwd=tmp_path).returncode == 0
    done = tinygpt("convert", "run", "there", "--to", kind, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    transformers = pytest.importorskip(
        "transformers", reason="compared with transformers only where it is installed"
    )
    torch = pytest.importorskip("torch", reason="transformers needs PyTorch")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "there").eval()
    ids = [[0, 1, 2, 3, 4, 1, 0, 2], [4, 3, 2, 1, 0, 0, 1, 2]]
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits
    found = torch.tensor(load_pretrained(tmp_path / "run")(Tensor(ids)).to_python())
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("kind", MODELS)
def test_what_a_family_holds_has_a_format(kind: str) -> None:
    config = our_model(kind).config
    assert why_not_elsewhere(config) == []
    assert "ngram_tables is (5,), not ()" in why_not_elsewhere(replace(config, ngram_tables=(5,)))
    if config.activation not in GATED_ACTIVATIONS and kind != "tinygpt":
        assert FAMILIES[kind].obstacles(replace(config, final_activation=True)) == [
            "final_activation is True, not False"
        ]


# ---------------------------------------------------------------- what is not understood

WRONG: list[tuple[str, dict[str, Any], str]] = [
    (
        "llama",
        {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
        "rope_scaling is .*'dynamic'.*knows",
    ),
    ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "has original_max_position_emb.*, too"),
    (
        "llama",
        {"rope_scaling": {**YARN, "mscale": "x", "mscale_all_dim": 1.0, "rope_theta": 10.0}},
        "'x' is no factor",
    ),
    ("llama", {"rope_scaling": {**YARN, "truncate": 1}}, "truncated must be True or False"),
    ("llama", {"rope_scaling": {**YARN, "attention_factor": 0.0}}, "attention_factor must lie above 0"),
    ("llama", {"rope_scaling": {**YARN, "rope_theta": 1.0}}, "rotary_base must be above 1"),
    ("llama", {"rope_scaling": {"rope_type": "linear"}}, "rope_scaling is .*factor, too"),
    ("llama", {"rope_scaling": {"rope_type": "linear", "factor": -1.0}}, "factor must lie above 0"),
    ("llama", {"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "factor must be a number"),
    ("llama", {"rope_scaling": {"rope_type": "default", "mscale": 2}}, "has no 'mscale' here"),
    ("llama", {"rope_scaling": [1]}, r"rope_scaling is \[1\], not an object"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"rope_type": "linear"}},
        "differ",
    ),
    ("llama", {"attention_multiplier": 0.1}, "attention_multiplier is 0.1, which is not known here"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is .*not known here"),
    ("llama", {"pretraining_tp": 2}, "pretraining_tp is 2"),
    ("llama", {"sliding_window": 4}, "sliding_window is 4, which is not known here"),
    ("llama", {"head_dim": -2}, "attention_head_dim must be at least 1"),
    (
        "llama",
        {"num_attention_heads": 10**15, "head_dim": 4, "num_key_value_heads": 1},
        "num_heads .* does not fit",
    ),
    ("mistral", {"sliding_window": 0}, "sliding_window must be at least 1"),
    ("mistral", {"sliding_window": "x"}, "sliding_window must be an int"),
    ("qwen2", {"layer_types": ["full_attention"]}, "layer_types names 1 layers, but num_layers is 2"),
    ("qwen2", {"layer_types": ["chunked_attention"] * 2}, "but got 'chunked_attention'"),
    ("qwen2", {"layer_types": 3}, "layer_types must be a tuple"),
    ("qwen2", {"use_sliding_window": 1}, "use_sliding_window is 1, not true or false"),
    ("qwen2", {"use_sliding_window": False}, "layer_types is .*there is no sliding window"),
    (
        "qwen2",
        {"use_sliding_window": False, "layer_types": ["linear_attention", "full_attention"]},
        "layer_types is .*linear_attention.*there is no sliding window",
    ),
    ("llama", {"is_causal": False}, "is_causal is False; this GPT is built for True"),
    ("gpt2", {"is_causal": None}, "is_causal is None; this GPT is built for True"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}, "rope_scaling": None},
        "rope_parameters is .*; this family rotates whole heads",
    ),
    (
        "gemma3_text",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default"},
                "sliding_attention": {"rope_type": "default", "partial_rotary_factor": 0.5},
            },
            "rope_scaling": None,
        },
        "sliding_attention of rope_parameters is .*; this family rotates whole heads",
    ),
    ("qwen3", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ("gemma", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
    ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
    ("gemma2", {"attn_logit_softcapping": -1.0}, "attention_soft_cap must lie above 0"),
    ("gemma2", {"layer_types": None, "num_hidden_layers": 10**15}, "no number of layers"),
    ("gemma3_text", {"layer_types": None, "sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
    (
        "gemma3_text",
        {"rope_scaling": {"full_attention": {}, "sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
        "sliding_attention of rope_scaling is .*not scaled here",
    ),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "longrope"),
    ("phi3", {"partial_rotary_factor": 2.0}, "share of a head that is rotated is 2.0"),
    ("phi3", {"num_attention_heads": 0, "partial_rotary_factor": 0.5}, "num_attention_heads is 16 / 0"),
    ("mixtral", {"num_local_experts": 10**15}, "experts in each of 2 layers do not fit a file of"),
    ("mixtral", {"num_experts_per_tok": 4}, r"experts_per_token \(4\) must be at most num_experts \(3\)"),
    ("mixtral", {"num_experts": 4}, "num_local_experts is 3, but num_experts is 4"),
    ("mixtral", {"num_local_experts": None}, "num_local_experts is None"),
    ("olmoe", {"clip_qkv": 8.0}, "clip_qkv is 8.0, which is not known here"),
    ("olmoe", {"norm_topk_prob": 1}, "normalized_expert_weights must be True or False"),
    ("qwen3_moe", {"mlp_only_layers": [0]}, r"mlp_only_layers is \[0\]"),
    ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
    ("qwen3_moe", {"use_sliding_window": 1}, "use_sliding_window is 1, not true or false"),
    ("gpt_neox", {"rotary_pct": "x"}, "share of a head"),
    ("gpt_neox", {"use_parallel_residual": 3}, "parallel_residual must be True or False"),
    ("gpt_neox", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
]


@pytest.mark.parametrize(("kind", "changes", "message"), WRONG, ids=lambda value: str(value)[:50])
def test_a_setting_that_is_not_understood_is_named(
    kind: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_pretrained(our_model(kind), tmp_path / "c", kind)
    path = tmp_path / "c" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(FormatError, match=message) as caught:
        load_pretrained(tmp_path / "c")
    assert "config.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"rope_type": "default"}},
        {"rope_scaling": {"type": "default"}, "rope_parameters": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"use_cache": True, "transformers_version": "5.0.0", "attention_dropout": 0.1, "_name_or_path": "x"},
        {"is_llama_config": True, "rope_interleaved": False, "quantization_config": None},  # SmolLM's
    ],
)
def test_what_changes_no_logits_is_fine(changes: dict[str, Any], tmp_path: Path) -> None:
    random.seed(7)
    model = GPT(GPTConfig(**{**BASE, **SWIGLU}))
    model.eval()
    save_pretrained(model, tmp_path / "c", "llama")
    path = tmp_path / "c" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert load_pretrained(tmp_path / "c")(Tensor(IDS)).to_python() == model(Tensor(IDS)).to_python()


JUNK = [None, True, False, 0, -1, 1, 2, 1.5, "x", [], [1], {}, {"rope_type": "x"}, 10**30, float("nan")]


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind not in ("tinygpt", "gpt2")])
def test_whatever_a_setting_says_is_loaded_or_refused(kind: str, tmp_path: Path) -> None:
    save_pretrained(our_model(kind), tmp_path / "c", kind)
    path = tmp_path / "c" / "config.json"
    config = json.loads(path.read_text())
    for number, name in enumerate(config):
        for value in JUNK[number % 3 :: 3]:
            path.write_text(json.dumps(config | {name: value}))
            try:
                load_pretrained(tmp_path / "c")
            except FormatError as problem:
                assert "config.json" in str(problem) or "model.safetensors" in str(problem)
                assert len(str(problem)) < 2000


def test_another_head_than_the_tied_one_is_kept(tmp_path: Path) -> None:
    model = our_model("qwen3")
    save_pretrained(model, tmp_path / "c", "qwen3")
    tensors = load_safetensors(tmp_path / "c" / "model.safetensors")
    head = tensors["model.embed_tokens.weight"] * 2.0
    save_safetensors(tmp_path / "c" / "model.safetensors", {**tensors, "lm_head.weight": head})
    with pytest.warns(RuntimeWarning, match=r"'lm_head\.weight' holds other weights"):
        again = load_pretrained(tmp_path / "c")
    assert (again(Tensor(IDS)) - model(Tensor(IDS)) * 2.0).abs().max().item() < 1e-5


@pytest.mark.parametrize(("kind", "part"), [("gemma3_text", "query_norm"), ("mixtral", "mlp.experts.2")])
def test_a_model_with_options_is_explained_and_generates(kind: str, part: str, tmp_path: Path) -> None:
    """The microscope shows a step of a model whose attention, or whose MLP, is composed."""
    model = our_model(kind)
    save_pretrained(model, tmp_path / "run", "native", CharTokenizer("abcdefghijk"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = str(tmp_path / "page.html")
        assert main(["explain", str(tmp_path / "run"), "--prompt", "abc", "--out", page]) == 0
        assert main(["generate", str(tmp_path / "run"), "--count", "1", "--prompt", "abc"]) == 0
        loss = CrossEntropyLoss()(logits=model(Tensor(IDS)), labels=Tensor(IDS)).mean()
        loss.explain(tmp_path / "step.html")
    assert part in (tmp_path / "page.html").read_text()
    assert "RMSNorm" in (tmp_path / "step.html").read_text()
    again = load_pretrained(tmp_path / "run")
    assert again.config == model.config


def test_the_microscope_shows_which_experts_a_token_is_sent_to() -> None:
    model = our_model("mixtral")
    with Recorder(sequence=1) as recorder, no_grad(), recorded_routing() as routings:
        model(Tensor(IDS))
    assert len(recorder.attention) == len(routings) == 2
    for entry, routing in zip(recorder.attention, routings, strict=True):
        assert [[expert for expert, _ in row] for row in entry["experts"]] == routing.experts.to_python()[12:]
        assert [[weight for _, weight in row] for row in entry["experts"]] == routing.weights.to_python()[12:]
        assert all(abs(sum(weight for _, weight in row) - 1.0) < 1e-6 for row in entry["experts"])


def test_the_microscope_shows_what_heads_with_a_window_look_at() -> None:
    model = our_model("gemma2")
    with Recorder() as recorder, no_grad():
        model(Tensor(IDS))
    local, full = (entry["heads"] for entry in recorder.attention)
    for heads, window in ((local, 3), (full, 12)):
        assert len(heads) == 4
        for row in (row for head in heads for row in head):
            assert abs(sum(row) - 1.0) < 1e-9
            assert [weight > 0.0 for weight in row] == [len(row) - j <= window for j in range(len(row))]
