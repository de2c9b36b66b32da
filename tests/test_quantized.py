"""Models in 16 and 8 bits from files: the same as quantized afterwards, in no more memory than they take; and
the command that samples from them.
"""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from small_runs import TINY_WITHOUT_COUNTING as TINY
from small_runs import WORDS

from tinygpt_core import Tensor, backends, no_grad, random
from tinygpt_core.buffer import Buffer
from tinygpt_core.cli.main import main
from tinygpt_core.files import safetensors
from tinygpt_core.files.json_objects import SerializationError
from tinygpt_core.files.safetensors import OpenSafetensors, load_safetensors, save_safetensors
from tinygpt_core.formats import FormatError, load_pretrained, save_pretrained
from tinygpt_core.losses import CrossEntropyLoss
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.nn.quantized import QuantizedEmbedding, QuantizedLinear, quantize
from tinygpt_core.tokenizer import CharTokenizer
from tinygpt_core.training.runs import load_model

DTYPES = ("bfloat16", "int8")
LLAMA: dict[str, Any] = {
    "normalization": "rms_norm",
    "positions": "rotary",
    "activation": "swiglu",
    "bias": False,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "llama": ("llama", {**LLAMA, "tied_head": False, "num_key_value_heads": 1}),
    "gemma": ("gemma", {**LLAMA, "activation": "geglu", "embedding_scale": 8**0.5, "eps": 1e-6}),
    "phi3": ("phi3", {**LLAMA, "tied_head": False}),
    "tinygpt": (
        "tinygpt",
        {"final_activation": True, "activation": "relu", "attention_bias": False, "tied_head": False},
    ),
    "native": ("native", {"ngram_tables": (5, 3)}),
}


def small(**options: Any) -> GPT:
    random.seed(3)
    model = GPT(GPTConfig(6, 8, 2, 2, 8, **options))
    for _, tensor in model.named_parameters():
        tensor.buffer = Tensor.normal(tensor.shape).buffer
    return model


def kept(model: GPT) -> dict[str, Any]:
    """All that a model computes with, by name."""
    found: dict[str, Any] = {name: tensor.to_python() for name, tensor in model.named_parameters()}
    for name, module in model.named_modules():
        if isinstance(module, (QuantizedLinear, QuantizedEmbedding)):
            matrix = module.matrix
            found[name] = (matrix.dtype, matrix.shape, matrix.values.tolist(), matrix.scales.tolist())
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_a_file_gives_what_its_model_is_quantized_to(
    name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    format, options = MODELS[name]
    save_pretrained(small(**options), tmp_path / "a", format, CharTokenizer("abcdef"))
    expected = quantize(load_pretrained(tmp_path / "a"), dtype)
    monkeypatch.setattr(safetensors, "PIECE", 17)  # rows come a few at a time
    found = load_pretrained(tmp_path / "a", dtype=dtype)
    assert kept(found) == kept(expected) and not found.training
    assert found(Tensor([[1, 5, 2]])).to_python() == expected(Tensor([[1, 5, 2]])).to_python()
    with pytest.raises(FormatError, match=f"cannot be saved: its weights are {dtype}"):
        save_pretrained(found, tmp_path / "b", format, CharTokenizer("abcdef"))
    with pytest.raises(ValueError, match="float32, bfloat16, int8, not in 'float16'"):
        load_pretrained(tmp_path / "a", dtype="float16")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", ["gpt2", "native"])
def test_weights_that_are_not_finite_are_named(format: str, dtype: str, tmp_path: Path) -> None:
    model = small()
    model.transformer_blocks[1].mlp.layers[0].weights.buffer[3, 2] = float("nan")
    save_pretrained(model, tmp_path / "a", format, CharTokenizer("abcdef"))
    with pytest.raises(
        ValueError, match=r"transformer_blocks\.1\.mlp\.layers\.0\.weights: weights must be finite"
    ):
        load_pretrained(tmp_path / "a", dtype=dtype)


@pytest.mark.skipif(bool(backends.why_not("numpy")), reason="memory that NumPy takes is counted")
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1.2), ("bfloat16", 0.7), ("int8", 0.45)])
@pytest.mark.parametrize("format", ["gpt2", "native"])
def test_loading_takes_the_memory_of_the_model(
    format: str, dtype: str, most: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the model a layer, or a part of a table, is in memory while its bits are taken away."""
    monkeypatch.setattr(safetensors, "PIECE", 1 << 14)
    with backends.use("numpy"):
        model = GPT(GPTConfig(20_000, 8, 4, 2, 64))
        size = 4 * model.num_parameters()
        save_pretrained(model, tmp_path / "a", format, CharTokenizer("abcdef"))
        del model
        load_pretrained(tmp_path / "a", dtype=dtype)  # what is imported and kept once is not counted
        tracemalloc.start()
        try:
            model = load_pretrained(tmp_path / "a", dtype=dtype)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert size > 4_000_000 and peak <= most * size, f"{peak / size:.2f} of the size in float32"
        del model


# ---------------------------------------------------------------- an open file


def test_an_open_file_gives_its_tensors_whole_and_in_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {
        "matrix": Tensor.normal((7, 3)).buffer,
        "long": Buffer([[2**40 + i] for i in range(5)]),
        "empty": Tensor.zeros((0, 3)).buffer,
        "narrow": Tensor.zeros((3, 0)).buffer,
        "flags": Buffer([True, False, True]),
    }
    save_safetensors(path, tensors)
    with OpenSafetensors(path) as found:
        save_safetensors(path, {"other": Buffer([1.0])})  # it was replaced, and stays what it was
        assert set(found) == set(tensors) and len(found) == 5
        for name, tensor in tensors.items():
            assert found[name].to_python() == tensor.to_python() and found[name].dtype is tensor.dtype
            for piece in (1, 4, 100):
                monkeypatch.setattr(safetensors, "PIECE", piece)
                parts = [rows.to_python() for rows in found.row_blocks(name)]
                assert sum(parts, []) == tensor.to_python()
        with pytest.raises(KeyError):
            found["nothing"]
    assert list(load_safetensors(path)) == ["other"]


def test_a_file_that_is_cut_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_safetensors(path, {"matrix": Tensor.normal((70, 30)).buffer})
    with OpenSafetensors(path) as found:
        os.truncate(path, os.path.getsize(path) - 4)
        with pytest.raises(SerializationError, match="the file ends within tensor 'matrix'"):
            found["matrix"]
        with pytest.raises(SerializationError, match="the file ends within tensor 'matrix'"):
            list(found.row_blocks("matrix"))


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run")
    (place / "words.txt").write_text(WORDS)
    words = ["names", "--data", str(place / "words.txt"), "--backend", "python"]
    assert main(["train", *words, "--out", str(place / "run"), *TINY]) == 0
    return place / "run"


@pytest.mark.parametrize("dtype", ["float32", *DTYPES])
def test_generate_samples_from_weights_in_few_bits(
    run: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "generate",
        str(run),
        "--seed",
        "1",
        "--tokens",
        "9",
        "--temperature",
        "0",
        "--prompt",
        "get_",
    ]
    assert main([*arguments, "--dtype", dtype]) == 0
    text = capsys.readouterr().out
    assert text.startswith("get_")
    model, _, config = load_model(str(run), None, dtype)
    layers = [each for each in model.modules() if isinstance(each, (QuantizedLinear, QuantizedEmbedding))]
    assert bool(layers) == (dtype != "float32") and config["training"]["backend"] == "python"
    if not layers:
        assert main(arguments) == 0 and capsys.readouterr().out == text


@pytest.mark.parametrize("dtype", ["float32", *DTYPES])
def test_generate_samples_from_a_checkpoint_as_it_lies(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is that of the run that it is converted to, and nothing is written."""
    monkeypatch.setenv("TINYGPT_BACKEND", "python")
    save_pretrained(small(), tmp_path / "there", "gpt2", CharTokenizer("abcdef"))
    before = sorted((tmp_path / "there").iterdir())
    assert main(["convert", str(tmp_path / "there"), str(tmp_path / "run")]) == 0
    capsys.readouterr()
    texts = []
    for place in ("there", "run"):
        command = ["generate", str(tmp_path / place), "--prompt", "abc", "--seed", "1", "--tokens", "6"]
        assert main([*command, "--dtype", dtype]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and texts[0].startswith("abc") and len(texts[0]) > 4
    assert sorted((tmp_path / "there").iterdir()) == before
    for left in (tmp_path / "there").iterdir():
        if "token" in left.name:
            left.unlink()
    assert main(["generate", str(tmp_path / "there")]) == 2
    assert "has no tokenizer that can be read beside its weights" in capsys.readouterr().err


def test_generate_refuses_another_dtype(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(run), "--dtype", "int4"]) == 2
    said = capsys.readouterr().err
    assert said == "tinygpt: error: weights are kept in float32, bfloat16, int8, not in 'int4'\n"


def test_training_does_not_begin_with_weights_in_few_bits() -> None:
    """A loss has no gradients, and says so; where parameters are to have some, the model does."""
    model = quantize(small())
    ids = Tensor([[1, 2, 3]])
    with pytest.raises(RuntimeError, match="none of what made this one does"):
        CrossEntropyLoss()(logits=model(ids), labels=ids).mean().backward()
    model.unfreeze()
    with pytest.raises(RuntimeError, match="int8 weights do not learn"):
        model(ids)
    with no_grad():
        assert model(ids).shape == (1, 3, 6)
