"""`tinygpt convert` and `tinygpt inspect`, as a person types them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygpt_core import Buffer, Tensor, backends, random
from tinygpt_core.cli import main
from tinygpt_core.cli.inspect import _entry_of_text
from tinygpt_core.files.safetensors import save_safetensors
from tinygpt_core.formats import find_tokenizer, load_pretrained, save_pretrained
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.tokenizer import BPETokenizer, CharTokenizer
from tinygpt_core.training.runs import backend_of

ROOT = Path(__file__).resolve().parent.parent
GPT2_FILES = ROOT.parent / "shared" / "data" / "gpt2"
TINYGPT: dict[str, Any] = {
    "activation": "relu",
    "final_activation": True,
    "attention_bias": False,
    "tied_head": False,
}
CONFIG = GPTConfig(5, 6, 1, 2, 4)


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    random.seed(1)
    save_pretrained(GPT(CONFIG), tmp_path / "gpt2", "gpt2", CharTokenizer("abcde"))
    return tmp_path / "gpt2"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a refused command leaves."""
    code = main(list(map(str, arguments)))
    printed = capsys.readouterr()
    assert (
        code == 2
        and printed.out == ""
        and printed.err.startswith("tinygpt: error: ")
        and printed.err.count("\n") == 1
    )
    return printed.err


def test_a_checkpoint_becomes_a_run_that_generates_with_nothing_installed(gpt2: Path, tmp_path: Path) -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TINYGPT_", "PYTHON"))}

    def tinygpt(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-m", "tinygpt_core", *arguments]
        environment = kept | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=60
        )

    done = tinygpt("convert", "gpt2", "run")
    assert (
        done.returncode == 0 and done.stdout == "gpt2 -> native: 296 parameters in run, with its tokenizer\n"
    ), done.stderr
    sampled = tinygpt("generate", "run", "--prompt", "ab", "--tokens", "8", "--seed", "1")
    assert sampled.returncode == 0 and len(sampled.stdout) == 11 and set(sampled.stdout) <= set("abcde\n"), (
        sampled.stderr
    )
    resumed = tinygpt("train", "--resume", "run")
    assert (
        resumed.returncode == 2
        and "not go with its weights" in resumed.stderr
        and resumed.stderr.count("\n") == 1
    )


@pytest.mark.parametrize("kind", ["gpt2", "llama", "tinygpt"])
def test_from_a_run_to_each_format_and_back(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields: dict[str, Any] = {
        "gpt2": {"tied_head": False},
        "llama": {
            "normalization": "rms_norm",
            "positions": "rotary",
            "activation": "swiglu",
            "bias": False,
            "num_key_value_heads": 1,
        },
        "tinygpt": TINYGPT,
    }
    tokenizer = BPETokenizer()
    tokenizer.train("the theme of the thesis", 258)
    model = GPT(GPTConfig(258, 6, 1, 4, 8, **fields[kind]))
    save_pretrained(model, tmp_path / "run", "native", tokenizer, {"is_documents": False, "opening": "the"})
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "there"), "--to", kind]) == 0
    assert main(["convert", str(tmp_path / "there"), str(tmp_path / "back")]) == 0
    assert "with its tokenizer" in capsys.readouterr().out
    ids = Tensor([tokenizer.encode("thesis")])
    model.eval()
    assert load_pretrained(tmp_path / "back")(ids).to_python() == model(ids).to_python()
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "again"), "--to", "native"]) == 0
    assert json.loads((tmp_path / "again" / "config.json").read_text())["data"]["opening"] == "the"


def test_a_converted_run_computes_on_the_fastest_backend(gpt2: Path, tmp_path: Path) -> None:
    """As `generate` does with the checkpoint itself: it was trained nowhere here."""
    assert main(["convert", str(gpt2), str(tmp_path / "run")]) == 0
    assert backend_of(str(tmp_path / "run")) == backends.fastest()


def test_tinygpt_files_need_their_heads_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = GPT(GPTConfig(5, 6, 1, 2, 4, **TINYGPT))
    save_pretrained(model, tmp_path / "theirs", "tinygpt")
    (tmp_path / "theirs" / "config.json").unlink()
    source = tmp_path / "theirs" / "gpt_model.json"
    assert "--heads N" in refused(capsys, "convert", source, tmp_path / "out", "--to", "tinygpt")
    assert main(["convert", str(source), str(tmp_path / "out"), "--to", "tinygpt", "--heads", "2"]) == 0
    assert "without a tokenizer" in capsys.readouterr().out
    assert load_pretrained(tmp_path / "out").config.num_heads == 2


def test_gpt2s_own_tokenizer_files_travel_along(gpt2: Path, tmp_path: Path) -> None:
    (gpt2 / "vocab.json").write_text("{}")  # which nobody reads: the run's own `tokenizer` goes first
    (gpt2 / "merges.txt").write_text("#version\n")
    assert main(["convert", str(gpt2), str(tmp_path / "out"), "--to", "gpt2"]) == 0
    assert (tmp_path / "out" / "vocab.json").read_text() == "{}" and (
        tmp_path / "out" / "merges.txt"
    ).read_text() == "#version\n"


def test_gpt2s_real_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint with GPT-2's vocabulary becomes a run that samples text, on nothing but its own files."""
    if not GPT2_FILES.is_dir():
        pytest.skip(f"GPT-2's vocab.json and merges.txt are not in {GPT2_FILES}")
    save_pretrained(GPT(GPTConfig(50257, 4, 1, 1, 2)), tmp_path / "gpt2", "gpt2")
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(GPT2_FILES / name, tmp_path / "gpt2" / name)
    assert main(["convert", str(tmp_path / "gpt2"), str(tmp_path / "run")]) == 0
    assert find_tokenizer(tmp_path / "run").encode("Hello world!") == [15496, 995, 0]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"] == {
        "is_documents": True,
        "opening": "",
    }
    assert main(["generate", str(tmp_path / "run"), "--prompt", "Hello", "--tokens", "3"]) == 0
    assert "Hello" in capsys.readouterr().out
    for kind in ("gpt2", "tinygpt"):
        model = (
            load_pretrained(tmp_path / "gpt2")
            if kind == "gpt2"
            else GPT(GPTConfig(50257, 4, 1, 1, 2, **TINYGPT))
        )
        save_pretrained(model, tmp_path / kind / "out", kind, find_tokenizer(tmp_path / "run"))
        assert find_tokenizer(tmp_path / kind / "out").encode("Hello world!") == [15496, 995, 0]


def test_refused_conversions(gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing is overwritten" in refused(capsys, "convert", gpt2, gpt2)
    assert "--to must be one of native, gpt2, llama, mistral" in refused(
        capsys, "convert", gpt2, tmp_path / "out", "--to", "onnx"
    )
    assert "there is no file or directory" in refused(
        capsys, "convert", tmp_path / "nothing", tmp_path / "out"
    )
    assert "the llama format cannot hold this model: normalization" in refused(
        capsys, "convert", gpt2, tmp_path / "out", "--to", "llama"
    )
    assert "num_heads is 2, not 4" in refused(capsys, "convert", gpt2, tmp_path / "out", "--heads", "4")
    for name in ("tokenizer", "tokenizer.json"):  # either says it alone
        (gpt2 / name).unlink()
    assert "a native run needs a tokenizer" in refused(capsys, "convert", gpt2, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- inspect


def test_inspect_prints_a_table(gpt2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(gpt2)]) == 0
    lines = capsys.readouterr().out.splitlines()
    size = (gpt2 / "model.safetensors").stat().st_size
    assert lines[0] == f"{gpt2 / 'model.safetensors'} (safetensors, {size:,} bytes)"
    assert any(
        line.split() == ["transformer.wte.weight", "F32", "5", "x", "4", "80", "bytes"] for line in lines
    )
    assert lines[-2:] == ["  metadata format = pt", "16 tensors, 296 elements, 1,184 bytes"]


def test_inspect_reads_no_more_than_the_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sparse file of a terabyte: only who stays in the header finishes."""
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [1 << 19, 1 << 19], "data_offsets": [0, 1 << 40]}}
    ).encode()
    with open(tmp_path / "large.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 40))
    assert main(["inspect", str(tmp_path / "large.safetensors"), "--json"]) == 0
    (listing,) = json.loads(capsys.readouterr().out)["files"]
    assert listing["tensors"] == [
        {"name": "w", "dtype": "F32", "shape": [1 << 19, 1 << 19], "bytes": 1 << 40}
    ]
    assert listing["totals"] == {"tensors": 1, "elements": 1 << 38, "bytes": 1 << 40}


def test_inspect_lists_both_files_of_a_run_and_json_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_pretrained(GPT(CONFIG), tmp_path / "run", "native", CharTokenizer("abcde"))
    assert main(["inspect", str(tmp_path / "run"), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert [os.path.basename(file["path"]) for file in files] == [
        "model.safetensors",
        "optimizer.safetensors",
    ]
    model = GPT(CONFIG)
    model.save_weights(tmp_path / "w.json")
    assert main(["inspect", str(tmp_path / "w.json"), "--json"]) == 0
    (listing,) = json.loads(capsys.readouterr().out)["files"]
    assert {t["name"]: tuple(t["shape"]) for t in listing["tensors"]} == {
        n: t.shape for n, t in model.named_parameters()
    }
    assert {t["dtype"] for t in listing["tensors"]} == {"F32"} and listing["totals"]["elements"] == 296


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 3), max_size=4), st.sampled_from([1.5, 2, True, float("-inf"), 1e-30, False]))
def test_shapes_of_text_are_those_of_the_tensors(shape: list[int], value: Any) -> None:
    if 0 in shape:
        shape = shape[: shape.index(0) + 1]  # nothing tells what would lie inside of nothing
    tensor = Tensor(Buffer.full(tuple(shape), value))
    entry = _entry_of_text("x", tensor.serialize_tensor(), "f")
    expected = (
        {"float32": "F32", "int32": "I32", "bool": "BOOL"}[tensor.dtype.name] if 0 not in shape else "F32"
    )
    assert (entry.shape, entry.dtype_name) == (tuple(shape), expected)


def test_names_from_files_move_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_safetensors(tmp_path / "t.safetensors", {"a\x1b[2J\n": Buffer([1.0])}, {"k\r": "v\x07"})
    assert main(["inspect", str(tmp_path / "t.safetensors")]) == 0
    printed = capsys.readouterr().out
    assert (
        all(c.isprintable() or c == "\n" for c in printed)
        and r"a\x1b[2J\n" in printed
        and r"k\r = v\x07" in printed
    )


def test_refused_inspections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no .safetensors file" in refused(capsys, "inspect", tmp_path)
    assert "No such file" in refused(capsys, "inspect", tmp_path / "nothing")
    (tmp_path / "t.safetensors").write_bytes(b"nonsense")
    assert "is truncated or no safetensors file" in refused(capsys, "inspect", tmp_path / "t.safetensors")
    (tmp_path / "t.json").write_text('{"a": [1, 2]}')
    assert "'a' is not a tensor in TinyGPT's form" in refused(capsys, "inspect", tmp_path / "t.json")


@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_help_names_every_default(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert {"convert": "(default: native)", "inspect": "(default: a table)"}[command] in printed


def test_inspect_moves_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a\x1b[2Jb.safetensors"
    header = {"x\x07": {"dtype": "F\x1b[1m", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    assert main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable() and "a\\x1b[2Jb.safetensors" in printed
