"""LoRA in a run and in files: adapters alone are trained and a run with them goes on to the bit; they are
written and read as the `peft` library does; merged they are a folder of the base's family.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rank_threads import run_ranks
from small_runs import TINY_WITHOUT_COUNTING as TINY
from small_runs import WORDS, config_of_words
from test_cli import assert_refused, tinygpt
from test_families import IDS, MODELS, our_model, their_model
from test_init_from import OTHER

from tinygpt_core import Tensor, backends, no_grad, random
from tinygpt_core.files.safetensors import load_safetensors, save_safetensors
from tinygpt_core.formats import (
    FormatError,
    find_source,
    load_pretrained,
    plan_adapters,
    save_adapters,
    save_pretrained,
)
from tinygpt_core.live.protocol import Microscope, ProtocolError
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.nn.lora import LoRALinear, chosen_places, lora_config, places_in, put_adapters
from tinygpt_core.nn.quantized import QuantizedLinear, quantize
from tinygpt_core.tokenizer import CharTokenizer, load_tokenizer
from tinygpt_core.training import SettingError, Trainer, TrainingConfig, load_model
from tinygpt_core.training.checkpoint import CheckpointError, load_checkpoint
from tinygpt_core.training.data import BOUNDARY
from tinygpt_core.training.memory import least_memory
from tinygpt_core.training.origin import Origin

CHECKPOINT = ("config.json", "model.safetensors", "optimizer.safetensors", "state.json", "tokenizer")
TARGETS = {
    "gpt2": ["c_attn", "mlp.c_proj"],
    "gpt_neox": ["query_key_value", "dense_h_to_4h"],
    "phi3": ["qkv_proj", "gate_up_proj"],
    "starcoder2": ["k_proj", "c_fc"],
    "tinygpt": ["query_key_value", "mlp.layers.1"],
}  # of the others q_proj, v_proj and down_proj


def difference(first: Any, second: Any) -> float:
    with no_grad():
        return (Tensor(first) - Tensor(second)).abs().max().item()


def with_adapters(kind: str, rank: int = 3, targets: tuple[str, ...] = (), **options: Any) -> GPT:
    """A model of a family with adapters whose A and B are drawn."""
    model = our_model(kind)
    put_adapters(model, plan_adapters(model, kind, rank, targets=targets, **options))
    for _, tensor in model.named_parameters(trainable_only=True):
        tensor.buffer = Tensor.normal(tensor.shape, std=0.3).buffer
    return model


# ---------------------------------------------------------------- in files


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("targets", [(), ("all-linear",)], ids=["default", "all-linear"])
def test_adapters_alone_and_their_base_are_the_model(
    kind: str, targets: tuple[str, ...], tmp_path: Path
) -> None:
    save_pretrained(our_model(kind), tmp_path / "base", kind)
    model = with_adapters(kind, 2, targets, alpha=5.0, dropout=0.25, base=str(tmp_path / "base"))
    expected = model(Tensor(IDS))
    save_adapters(model, tmp_path / "alone")
    files = {path.name for path in (tmp_path / "alone").iterdir()}
    assert files == {"adapter_model.safetensors", "adapter_config.json"}
    stored = load_safetensors(tmp_path / "alone" / "adapter_model.safetensors")
    assert sum(tensor.numel for tensor in stored.values()) == model.num_parameters(trainable_only=True)
    assert all(re.fullmatch(r"base_model\.model\..+\.lora_[AB]\.weight", name) for name in stored)
    about = json.loads((tmp_path / "alone" / "adapter_config.json").read_text())
    assert about["peft_type"] == "LORA" and about["r"] == 2 and about["lora_alpha"] == 5
    assert about["base_model_name_or_path"] == str(tmp_path / "base")
    assert find_source(tmp_path / "alone").format == "peft"
    for base in (None, str(tmp_path / "base")):
        again = load_pretrained(tmp_path / "alone", base=base)
        assert lora_config(again) is None
        assert difference(again(Tensor(IDS)), expected) < 1e-5
    save_pretrained(again, tmp_path / "merged", kind)
    assert difference(load_pretrained(tmp_path / "merged")(Tensor(IDS)), expected) < 1e-5


PEFT_KINDS = {
    "GPT2": ("gpt2", {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 64}),
    "Llama": ("llama", {}),
    "Qwen3": ("qwen3", {"head_dim": 8}),
    "Gemma2": ("gemma2", {"sliding_window": 5, "head_dim": 8, "query_pre_attn_scalar": 12}),
    "Phi3": ("phi3", {}),
    "Starcoder2": ("starcoder2", {"sliding_window": 5}),
    "GPTNeoX": ("gpt_neox", {"hidden_size": 32}),
}


def peft_options(kind: str, **more: Any) -> dict[str, Any]:
    targets = TARGETS.get(kind, ["q_proj", "v_proj", "down_proj"])
    return {"target_modules": targets, "fan_in_fan_out": kind == "gpt2", "task_type": "CAUSAL_LM", **more}


@pytest.mark.parametrize("theirs", PEFT_KINDS)
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_reads_ours_and_we_read_its(theirs: str, rslora: bool, tmp_path: Path) -> None:
    """Logits of tiny models of transformers with adapters of the `peft` library."""
    torch = pytest.importorskip("torch", reason="peft needs PyTorch")
    peft = pytest.importorskip("peft", reason="compared with peft only where it is installed")
    kind, options = PEFT_KINDS[theirs]
    base = their_model(theirs, options)
    base.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=3, lora_alpha=7, use_rslora=rslora, **peft_options(kind))
    model = peft.get_peft_model(base, config).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        expected = model(torch.tensor(IDS)).logits
    ours = load_pretrained(tmp_path / "theirs", base=str(tmp_path / "base"))
    assert difference(ours(Tensor(IDS)), expected.tolist()) < 1e-4

    with_ours = load_pretrained(tmp_path / "base")
    plan = plan_adapters(with_ours, kind, 4, alpha=6.0, targets=TARGETS.get(kind, ()))
    put_adapters(with_ours, plan)
    for _, tensor in with_ours.named_parameters(trainable_only=True):
        tensor.buffer = Tensor.normal(tensor.shape, std=0.3).buffer
    save_adapters(with_ours, tmp_path / "ours")
    transformers = pytest.importorskip("transformers")
    fresh = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    read = peft.PeftModel.from_pretrained(fresh, tmp_path / "ours").eval()
    with torch.no_grad():
        logits = read(torch.tensor(IDS)).logits
    assert difference(with_ours(Tensor(IDS)), logits.tolist()) < 1e-4
    assert difference(load_pretrained(tmp_path / "base")(Tensor(IDS)), logits.tolist()) > 1e-2


def test_defaults_are_those_of_peft(tmp_path: Path) -> None:
    constants = pytest.importorskip("peft.utils.constants", reason="compared with peft where it is installed")
    known = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    compared = 0
    for kind in MODELS:
        if kind in known:
            plan = plan_adapters(our_model(kind), kind, 1)
            assert sorted({place.name.rpartition(".")[2] for place in plan.places}) == sorted(known[kind])
            compared += 1
    assert compared >= 8


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    """A folder of adapters for a Llama in the folder beside it."""
    save_pretrained(our_model("llama"), tmp_path / "base", "llama")
    save_adapters(with_adapters("llama", 2, base=str(tmp_path / "base")), tmp_path / "alone")
    return tmp_path / "alone"


def change_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**values, **changes}))

    return change


def change_tensors(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        tensors = load_safetensors(folder / "adapter_model.safetensors")
        change(tensors)
        save_safetensors(folder / "adapter_model.safetensors", tensors)

    return changed


def cut_off(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def enormous(folder: Path) -> None:
    """A header that promises more than any memory holds."""
    shape = [2**40, 8]
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 2**45]}
    header = json.dumps({"base_model.model.a.lora_A.weight": entry}).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


Q = "base_model.model.model.layers.0.self_attn.q_proj"
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "other adapters": (change_config(peft_type="IA3"), "peft_type is 'IA3', not 'LORA'"),
    "another rank": (change_config(r=3), r"lora_A of .*q_proj' has shape \(2, 8\), but .* ask for \(3, 8\)"),
    "no rank": (change_config(r="2"), "r is '2', not a rank"),
    "a huge rank": (change_config(r=2**60), "r is 1152921504606846976, not a rank"),
    "no alpha": (change_config(lora_alpha=None), "lora_alpha is None, not a number"),
    "an infinite alpha": (change_config(lora_alpha=float("inf")), "lora_alpha is inf, not a number"),
    "a bad dropout": (change_config(lora_dropout=2), "lora_dropout is 2"),
    "DoRA": (change_config(use_dora=True), "use_dora is True, which is not known here"),
    "ranks by layer": (change_config(rank_pattern={"q_proj": 4}), "rank_pattern is {'q_proj': 4}"),
    "what nobody knows": (change_config(new_thing=[1]), r"new_thing is \[1\], which is not known here"),
    "biases": (change_config(bias="all"), "bias is 'all', not 'none'"),
    "a changed base": (change_config(init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
    "no base": (change_config(base_model_name_or_path=None), "for a model in which it does not name: give"),
    "a base on the net": (
        change_config(base_model_name_or_path="meta-llama/Llama-3.2-1B"),
        "for a model in 'meta-llama/Llama-3.2-1B', which is not there: give the folder .* with --base",
    ),
    "no A": (change_tensors(lambda t: t.pop(f"{Q}.lora_A.weight")), "one of lora_A and lora_B is missing"),
    "nothing": (change_tensors(lambda t: t.clear()), "holds no adapters"),
    "another shape": (
        change_tensors(lambda t: t.update({f"{Q}.lora_B.weight": t[f"{Q}.lora_A.weight"]})),
        r"lora_B of 'model.layers.0.self_attn.q_proj' has shape \(2, 8\), but .* ask for \(24, 2\)",
    ),
    "whole weights": (
        change_tensors(lambda t: t.update({"lm_head.weight": t[f"{Q}.lora_A.weight"]})),
        "1 tensors are no adapters of linear layers, .*: 'lm_head.weight'",
    ),
    "other layers": (
        change_tensors(
            lambda t: t.update(
                {f"base_model.model.h.9.lora_{x}.weight": t[f"{Q}.lora_{x}.weight"] for x in "AB"}
            )
        ),
        "no linear layers for 1 of 5 adapters: 'h.9'",
    ),
    "integers": (
        change_tensors(lambda t: t.update({f"{Q}.lora_A.weight": Tensor([[1, 2]] * 2).buffer})),
        "has dtype I32|has dtype I64",
    ),
    "a cut file": (cut_off, "truncated or tampered"),
    "a huge file": (enormous, "truncated or tampered|is not 32 bits"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "but no adapter_model"),
    "no JSON": (lambda folder: (folder / "adapter_config.json").write_text("["), "is not valid JSON"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_adapters_that_do_not_fit_are_refused(name: str, adapters: Path) -> None:
    damage, words = BROKEN[name]
    damage(adapters)
    with pytest.raises(FormatError, match=words) as caught:
        load_pretrained(adapters)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900


def test_adapters_of_adapters_are_refused(adapters: Path) -> None:
    change_config(base_model_name_or_path=str(adapters))(adapters)
    with pytest.raises(FormatError, match="holds adapters itself"):
        load_pretrained(adapters)
    with pytest.raises(FormatError, match="the model has no adapters"):
        save_adapters(our_model("llama"), adapters / "out")
    with pytest.raises(FormatError, match="already exists"):
        save_adapters(with_adapters("llama"), adapters)


@pytest.mark.parametrize("said", ["gpt2", "gpt_neox", "native", "nothing"])
def test_adapters_of_another_format_than_they_say_are_not_written(said: str, tmp_path: Path) -> None:
    model = our_model("llama")
    plan = plan_adapters(model, "llama", 1)
    put_adapters(model, replace(plan, format=said))
    with pytest.raises(FormatError, match=f"for a model of the format '{said}', whose layers are others"):
        save_adapters(model, tmp_path / "out")


def test_halves_of_adapters_are_widened(adapters: Path) -> None:
    """As most that people have are."""
    path = adapters / "adapter_model.safetensors"
    tensors = load_safetensors(path)
    torch = pytest.importorskip("torch", reason="writes halves")
    files = pytest.importorskip("safetensors.torch", reason="writes halves")
    files.save_file({name: torch.tensor(t.to_python()).bfloat16() for name, t in tensors.items()}, path)
    full = load_pretrained(adapters)
    assert difference(full(Tensor(IDS)), with_adapters("llama", 2)(Tensor(IDS))) < 0.05


# ---------------------------------------------------------------- in a run


def origin_with_adapters(folder: Path, config: TrainingConfig, rank: int = 2) -> Origin:
    """The model that a run of no steps has, and which adapters another run puts onto it."""
    if not (folder / "first").exists():
        first = replace(config, init_from=None, lora_rank=0, lora_targets="", lora_dropout=0.0, ema_decay=0.0)
        Trainer.start(replace(first, shards=1), str(folder / "first"))
    place = str(folder / "first")
    with backends.use("python"):
        model = load_pretrained(place)
    targets = [name for name in config.lora_targets.split(",") if name]
    plan = plan_adapters(model, "native", rank, targets=targets, dropout=config.lora_dropout, base=place)
    return Origin(place, place, model, load_tokenizer(folder / "first" / "tokenizer"), plan)


def lora_settings(folder: Path, **changes: Any) -> TrainingConfig:
    config = config_of_words(folder, backend="python", batch_size=2, eval_batches=1)
    adapters = {"init_from": str(folder / "first"), "lora_rank": 2}
    return replace(config, **{**adapters, **changes})


def begun(folder: Path, name: str, config: TrainingConfig, **options: Any) -> Trainer:
    origin = origin_with_adapters(folder, config)
    return Trainer.start(origin.settings(config, ()), str(folder / name), origin=origin, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema_decay": 0.5, "keep_best": True},
        {"lora_dropout": 0.5, "dropout": 0.25, "lora_targets": "all-linear", "optimizer": "muon"},
        {"shards": 2, "lora_dropout": 0.5, "ema_decay": 0.9},
    ],
    ids=["plain", "average", "dropout", "shards"],
)
def test_a_run_with_adapters_is_resumed_to_the_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    config = lora_settings(tmp_path, steps=6, eval_every=2, checkpoint_every=2, **options)
    list(begun(tmp_path, "whole", config).run())
    trainer = begun(tmp_path, "parts", config)
    for event in trainer.run():
        trainer.stop_requested = event.step >= 3
    assert trainer.step == 3
    list(Trainer.resume(str(tmp_path / "parts")).run())
    for folder in ["", "best"] if options.get("keep_best") else [""]:
        for name in CHECKPOINT:
            whole, parts = (tmp_path / run / folder / name for run in ("whole", "parts"))
            assert parts.read_bytes() == whole.read_bytes(), name


def test_a_run_that_begins_with_transposed_matrices_is_resumed_to_the_bit(tmp_path: Path) -> None:
    """On NumPy a product rounds otherwise where a matrix lies otherwise; in a checkpoint all lie in order."""
    pytest.importorskip("numpy", reason="the plug-in is installed with NumPy")
    config = replace(lora_settings(tmp_path, steps=4, checkpoint_every=2), backend="numpy")
    tokenizer = CharTokenizer("".join(sorted({*WORDS} - {"\n"})))
    tokenizer.register_special_tokens({BOUNDARY: tokenizer.vocab_size})
    kinds = {"normalization": "rms_norm", "positions": "rotary", "activation": "swiglu"}
    with backends.use("numpy"):
        random.seed(3)
        sizes = GPTConfig(tokenizer.vocab_size, 32, 2, 2, 32, bias=False, num_experts=3, **kinds)
        save_pretrained(GPT(sizes), tmp_path / "mixtral", "mixtral", tokenizer)
        model = load_pretrained(tmp_path / "mixtral")
    assert not all(tensor.buffer.is_contiguous() for _, tensor in model.named_parameters())
    place = str(tmp_path / "mixtral")
    origin = Origin(place, place, model, tokenizer, plan_adapters(model, "mixtral", 2, base=place))
    config = origin.settings(replace(config, init_from=place), ())
    trainer = Trainer.start(config, str(tmp_path / "whole"), origin=origin)
    assert all(tensor.buffer.is_contiguous() for _, tensor in trainer.model.named_parameters())
    list(trainer.run())
    trainer = Trainer.start(config, str(tmp_path / "parts"), origin=origin)
    for event in trainer.run():
        trainer.stop_requested = event.step >= 2
    list(Trainer.resume(str(tmp_path / "parts")).run())
    for name in CHECKPOINT:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_what_a_run_with_adapters_keeps(tmp_path: Path) -> None:
    """The base as it was; moments of the adapters alone; and with an average the adapters in training."""
    config = lora_settings(tmp_path, steps=3, eval_every=0, ema_decay=0.5)
    trainer = begun(tmp_path, "run", config)
    assert trainer.model.num_parameters(trainable_only=True) < trainer.model.num_parameters() / 2
    list(trainer.run())
    saved = load_checkpoint(tmp_path / "run")
    base = load_checkpoint(tmp_path / "first").model_tensors
    where = "transformer_blocks.0.attn.query_key_value.adapters.0."
    learning = {f"{where}lora_A", f"{where}lora_B"}
    assert saved.model_tensors.keys() == base.keys() | learning
    assert all(saved.model_tensors[name].to_array() == base[name].to_array() for name in base)
    slots = {f"{slot}{name}" for slot in ("first_moment.", "second_moment.", "trained.") for name in learning}
    assert saved.optimizer_tensors.keys() == {"step", *slots}
    averages = {name: saved.model_tensors[name].to_array() for name in learning}
    assert all(saved.optimizer_tensors[f"trained.{name}"].to_array() != averages[name] for name in learning)
    model = load_model(str(tmp_path / "run"))[0]
    assert lora_config(model) == lora_config(trainer.model)
    assert {name for name, _ in model.named_parameters(trainable_only=True)} == learning
    ids = Tensor([[1, 2, 3]])
    merged = load_pretrained(tmp_path / "run")
    with backends.use("python"):
        assert difference(merged(ids), model(ids)) < 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_adapters_are_merged_before_weights_are_quantized(tmp_path: Path, dtype: str) -> None:
    """Of a run with adapters, and of a folder of adapters."""
    list(begun(tmp_path, "run", lora_settings(tmp_path, steps=3, eval_every=0)).run())
    save_pretrained(our_model("llama"), tmp_path / "base", "llama")
    save_adapters(with_adapters("llama", 2, base=str(tmp_path / "base")), tmp_path / "alone")
    with backends.use("python"):
        for folder in (tmp_path / "run", tmp_path / "alone"):
            expected = quantize(load_pretrained(folder), dtype)
            assert (
                expected(Tensor(IDS)).to_python()
                == load_pretrained(folder, dtype=dtype)(Tensor(IDS)).to_python()
            )
    found = load_model(str(tmp_path / "run"), "python", dtype)[0]
    assert any(isinstance(module, QuantizedLinear) for module in found.modules())
    assert not any(isinstance(module, LoRALinear) for module in found.modules())


@pytest.mark.parametrize("shard_optimizer", [False, True])
def test_the_number_of_processes_changes_no_bit(tmp_path: Path, shard_optimizer: bool) -> None:
    config = lora_settings(tmp_path, steps=2, eval_every=2, shards=2, lora_targets="all-linear")
    origin = origin_with_adapters(tmp_path, config)
    settings = origin.settings(config, ())

    for ranks, name in ((1, "one"), (2, "two")):

        def work(communicator: Any, name: str = name) -> None:
            options = {"communicator": communicator, "shard_optimizer": shard_optimizer, "origin": origin}
            list(Trainer.start(settings, str(tmp_path / name), **options).run())

        run_ranks(ranks, work)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_settings_of_adapters_need_what_they_are_for() -> None:
    with pytest.raises(SettingError, match="lora_rank needs init_from"):
        TrainingConfig(lora_rank=2)
    with pytest.raises(SettingError, match="lora_targets needs lora_rank"):
        TrainingConfig(lora_targets="out")
    assert not any(name.startswith("lora") for name in TrainingConfig().to_dict())
    config = TrainingConfig(init_from="/a", lora_rank=2, lora_alpha=4, lora_targets="out", lora_dropout=0.5)
    assert TrainingConfig.from_dict(config.to_dict()) == config
    assert (
        least_memory(config)
        < least_memory(replace(config, lora_targets=""))
        < least_memory(replace(config, lora_rank=0, lora_alpha=None, lora_targets="", lora_dropout=0.0))
    )


def test_a_description_in_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    list(begun(tmp_path, "run", lora_settings(tmp_path, steps=1, eval_every=0)).run())
    path = tmp_path / "run" / "config.json"
    whole = json.loads(path.read_text())
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    for changes, words in [
        ({"rank": 3}, "does not go with its weights"),
        ({"rank": 2**24}, "does not go with its weights"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"places": []}, "does not go with its weights"),
        ({"places": [["a", "transformer_blocks.0.attn.nothing", 0, 1]]}, "does not go with its weights"),
        ({"places": 5}, "what the checkpoint says of its adapters does not work"),
    ]:
        from hashlib import sha256

        text = json.dumps({**whole, "lora": {**whole["lora"], **changes}}).encode()
        path.write_bytes(text)
        state["files"]["config.json"] = {"size": len(text), "sha256": sha256(text).hexdigest()}
        (tmp_path / "run" / "state.json").write_text(json.dumps(state))
        for load in (load_model, Trainer.resume):
            with pytest.raises(CheckpointError, match=words):
                load(str(tmp_path / "run"))


# ---------------------------------------------------------------- from the command line


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and a folder of Llama's format with the same tokenizer."""
    place = tmp_path_factory.mktemp("place")
    (place / "words.txt").write_text(WORDS)
    (place / "other.txt").write_text(OTHER)
    kind = ["--activation", "relu", "--steps", "60", "--learning-rate", "0.02"]
    options = ["--data", "words.txt", *TINY, *kind, "--backend", "python", "--quiet", "--out", "first"]
    done = tinygpt("train", "names", *options, cwd=place)
    assert done.returncode == 0, done.stderr
    tokenizer = load_tokenizer(place / "first" / "tokenizer")
    with backends.use("python"):
        random.seed(2)
        sizes = {"num_layers": 1, "num_heads": 2, "embedding_dim": 8, "context_length": 12, "bias": False}
        kinds = {"normalization": "rms_norm", "positions": "rotary", "activation": "swiglu"}
        vocab_size = tokenizer.vocab_size
        model = GPT(GPTConfig(vocab_size=vocab_size, num_key_value_heads=1, hidden_dim=20, **sizes, **kinds))
        save_pretrained(model, place / "llama", "llama", tokenizer)
    return place


def test_from_a_pretrained_run_to_a_folder_that_transformers_reads(place: Path) -> None:
    """Train, tune with adapters on another text, generate, merge, and load what was written."""
    options = ["names", "--data", "other.txt", "--preset", "debug", "--backend", "python", "--steps", "60"]
    lora = ["--init-from", "llama", "--lora", "2", "--lora-alpha", "8", "--learning-rate", "0.05"]
    done = tinygpt("train", *options, *lora, "--eval-every", "20", "--out", "tuned", cwd=place)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^model      ([\d,]+) of ([\d,]+) parameters are trained", done.stdout, re.MULTILINE)
    assert found, done.stdout
    assert int(found[1].replace(",", "")) == 2 * (8 + 8) + 2 * (8 + 4)  # q_proj and v_proj
    losses = [float(loss) for loss in re.findall(r"validation loss ([\d.]+)$", done.stdout, re.MULTILINE)]
    assert losses[-1] < losses[0]
    assert "convert tuned DIR --merge" in done.stdout and "convert tuned DIR --to peft" in done.stdout
    done = tinygpt("generate", "tuned", "--prompt", "is", "--seed", "1", "--temperature", "0", cwd=place)
    assert done.returncode == 0 and done.stdout.startswith("is"), done.stderr
    written = done.stdout
    done = tinygpt("convert", "tuned", "merged", "--merge", cwd=place)
    assert done.returncode == 0 and done.stdout.startswith("native -> llama: "), done.stderr
    done = tinygpt("convert", "tuned", "alone", "--to", "peft", cwd=place)
    assert done.returncode == 0 and "56 parameters of adapters in alone" in done.stdout, done.stderr
    assert {path.name for path in (place / "merged").iterdir()} >= {"config.json", "tokenizer.json"}
    for source, out in (("alone", "again"), ("merged", "plain"), ("tuned", "native")):
        merge = [] if source == "merged" else ["--merge"]
        done = tinygpt("convert", source, out, "--to", "native", *merge, cwd=place)
        assert done.returncode == 0, done.stderr
        done = tinygpt("generate", out, "--prompt", "is", "--seed", "1", "--temperature", "0", cwd=place)
        assert done.stdout == written, done.stderr
    with backends.use("python"):
        model = load_model(str(place / "tuned"), "python")[0]
        tokenizer = load_tokenizer(place / "tuned" / "tokenizer")
        ids = tokenizer.encode("is_name")
        ours = model(Tensor([ids]))
        for folder in ("merged", "alone", "again"):
            assert difference(load_pretrained(place / folder)(Tensor([ids])), ours) < 1e-5
    transformers = pytest.importorskip("transformers", reason="reads what was written where it is installed")
    torch = pytest.importorskip("torch", reason="transformers needs PyTorch")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(place / "merged").eval()
    with torch.no_grad(), backends.use("python"):
        assert difference(theirs(torch.tensor([ids])).logits.tolist(), ours) < 1e-4
    assert transformers.AutoTokenizer.from_pretrained(place / "merged").encode("is_name") == ids


def test_a_run_of_our_own_is_tuned_goes_on_and_is_looked_into(place: Path) -> None:
    options = ["names", "--data", "other.txt", "--backend", "python", "--quiet", *TINY]
    options += ["--init-from", "first"]
    lora = ["--lora", "2", "--lora-targets", "query_key_value,mlp.layers.0", "--lora-dropout", "0.1"]
    shown = tinygpt("train", *options, *lora, "--show-config", cwd=place)
    for line in ("lora = 2 ", 'lora-targets = "query_key_value,mlp.layers.0"', "lora-dropout = 0.1"):
        assert f"\n{line}" in shown.stdout, shown.stdout
    (place / "run.toml").write_text(shown.stdout)
    done = tinygpt("train", "--config", "run.toml", "--out", "own", "--quiet", cwd=place)
    assert done.returncode == 0, done.stderr
    done = tinygpt("train", *options, *lora, "--out", "own2", cwd=place)
    assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "state.json"):
        assert (place / "own" / name).read_bytes() == (place / "own2" / name).read_bytes()
    done = tinygpt("train", "--resume", "own", "--steps", "8", "--quiet", cwd=place)
    assert done.returncode == 0, done.stderr
    for command in (
        ["explain", "own", "--out", "step.html"],
        ["explain", "own", "--prompt", "is", "--out", "text.html"],
        ["inspect", "own"],
        ["plot", "own"],
        ["find-learning-rate", *options, "--steps", "4", "--lora", "1"],
        ["convert", "own", "own-merged", "--merge"],
        ["convert", "own", "own-alone", "--to", "peft"],
    ):
        command = [word for word in command if word != "--quiet"]
        done = tinygpt(*command, cwd=place)
        assert done.returncode == 0, (command, done.stderr)
    names = load_safetensors(place / "own-alone" / "adapter_model.safetensors")
    assert "base_model.model.transformer_blocks.0.mlp.layers.0.lora_B.weight" in names
    done = tinygpt("train", *options[:-1], "own", "--lora", "1", "--out", "third", cwd=place)
    assert done.returncode == 0, done.stderr  # adapters on what others have made: these are merged
    alone = [*options[:-1], "own-alone", "--lora", "1", "--out", "fourth"]
    done = tinygpt("train", *alone, cwd=place)
    assert done.returncode == 0, done.stderr  # whose tokenizer lies beside their base


MISTAKES: list[tuple[list[str], list[str]]] = [
    (["train", "--lora", "2"], ["--lora needs --init-from", "adapters change a model"]),
    (["train", "--init-from", "llama", "--lora-alpha", "2"], ["--lora-alpha needs --lora"]),
    (["train", "--init-from", "llama", "--lora", "-1"], ["--lora must be from 0"]),
    (["train", "--init-from", "llama", "--lora", "9"], ["rank 9 is more than the 8 that", "q_proj can have"]),
    (
        ["train", "--init-from", "llama", "--lora", "1", "--lora-targets", "q_proj,c_attn"],
        ["no linear layer is called 'c_attn': there are q_proj, k_proj, v_proj"],
    ),
    (["train", "--resume", "first", "--lora", "2"], ["--lora cannot be given"]),
    (["convert", "first", "out", "--merge"], ["--merge is for adapters (LoRA), and first has none"]),
    (["convert", "first", "out", "--to", "peft"], ["--to peft is for adapters (LoRA), and first has none"]),
    (["convert", "first", "out", "--base", "llama"], ["--base is for a directory of adapters"]),
    (["convert", "lora", "out"], ["lora has adapters (LoRA): --merge writes one whole model"]),
    (["convert", "lora", "out", "--to", "llama"], ["lora has adapters (LoRA): --merge"]),
    (["convert", "lora", "out", "--merge", "--to", "gpt2"], ["the gpt2 format cannot hold this model"]),
    (["convert", "lora", "out", "--merge", "--to", "peft"], ["--to peft takes a run with adapters"]),
    (["convert", "lonely", "out"], ["lonely has adapters (LoRA): --merge"]),
    (["convert", "lonely", "out", "--merge"], ["which is not there", "--base"]),
    (["convert", "lonely", "out", "--merge", "--base", "nowhere"], ["'nowhere', which is not there"]),
    (["convert", "lonely", "out", "--merge", "--base", "first"], ["the base has no linear layers for"]),
    (["convert", "lonely", "out", "--to", "peft"], ["--to peft takes a run with adapters"]),
    (["generate", "lonely"], ["lonely holds adapters (LoRA) alone", "convert lonely DIR --merge"]),
    (["generate", "first", "--draft", "lonely"], ["lonely holds adapters (LoRA) alone"]),
    (
        ["train", "--init-from", "llama", "--lora", "1", "--lora-targets", "all-linear,c_attn"],
        ["no linear layer is called 'c_attn'"],
    ),
    (
        ["train", "--init-from", "llama", "--lora", "1", "--lora-targets", " ,"],
        ["--lora-targets names no layer: ' ,'"],
    ),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=lambda value: " ".join(value)[:50])
def test_mistakes_get_one_clear_line(place: Path, arguments: list[str], words: list[str]) -> None:
    if not (place / "lora").exists():
        lora = ["--init-from", "llama", "--lora", "2", "--preset", "debug", "--steps", "1", "--quiet"]
        options = ["names", "--data", "other.txt", "--backend", "python", "--out", "lora"]
        assert tinygpt("train", *options, *lora, cwd=place).returncode == 0
        save_adapters(load_model(str(place / "lora"), "python")[0], place / "lonely")
        change_config(base_model_name_or_path="gone/away")(place / "lonely")
    if arguments[0] == "train" and "--resume" not in arguments:
        data = ["names", "--data", "other.txt", "--backend", "python", "--preset", "debug"]
        arguments = [arguments[0], *data, *arguments[1:]]
    assert_refused(tinygpt(*arguments, cwd=place), *words)
    assert not (place / "out").exists()


def test_the_live_microscope_says_what_it_does_not_show(tmp_path: Path) -> None:
    begun(tmp_path, "run", lora_settings(tmp_path))
    with pytest.raises(ProtocolError, match=r"run 'run' has adapters \(LoRA\), which are not shown here"):
        Microscope({"run": str(tmp_path / "run")})


def test_statistics_of_what_is_frozen_say_no_change(tmp_path: Path) -> None:
    trainer = begun(tmp_path, "run", lora_settings(tmp_path, steps=2))
    event = next(iter(trainer.run()))
    entries = {entry["name"]: entry for entry in event.parameters}
    assert entries.keys() == {name for name, _ in trainer.model.named_parameters()}
    for name, tensor in trainer.model.named_parameters():
        assert tensor.requires_grad or entries[name]["ratio"] is entries[name]["gradient"] is None
    assert entries["transformer_blocks.0.attn.query_key_value.adapters.0.lora_B"]["gradient"] > 0.0


def test_all_linear_layers_and_one_more() -> None:
    model = GPT(GPTConfig(11, 8, 1, 2, 8, tied_head=False))
    places = places_in(model)
    without_head = chosen_places(places, ["all-linear"])
    assert {place.layer for place in places} == {place.layer for place in without_head} | {"head"}
    assert chosen_places(places, ["all-linear", "head"]) == tuple(places)
    with pytest.raises(ValueError, match="no linear layer is called 'nothing'"):
        chosen_places(places, ["all-linear", "nothing"])


def test_help_says_what_there_is(tmp_path: Path) -> None:
    text = " ".join(tinygpt("train", "--help", cwd=tmp_path).stdout.split())
    assert "--lora R" in text and "--lora-targets NAME,NAME,..." in text
    assert "--merge" in tinygpt("convert", "--help", cwd=tmp_path).stdout


def test_a_tokenizer_beside_adapters_is_not_needed(adapters: Path, tmp_path: Path) -> None:
    from tinygpt_core.tokenizer import save_tokenizer

    save_tokenizer(CharTokenizer("abcdefghijk"), adapters.parent / "base" / "tokenizer")
    done = tinygpt("convert", adapters, tmp_path / "run", "--merge", "--to", "native", cwd=tmp_path)
    assert done.returncode == 0 and "with its tokenizer" in done.stdout, done.stderr
    assert tinygpt("generate", tmp_path / "run", "--prompt", "abc", cwd=tmp_path).returncode == 0
