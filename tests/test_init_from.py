"""`train --init-from`: a run begins with the weights, the sizes and the tokenizer of another model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import TINY_WITHOUT_COUNTING as TINY
from small_runs import WORDS
from test_cli import assert_refused, tinygpt

from tinygpt_core import Tensor, backends, no_grad, random
from tinygpt_core.formats import load_pretrained, save_pretrained
from tinygpt_core.generation import generate_ids
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.tokenizer import TokenizerError, load_tokenizer, save_tokenizer
from tinygpt_core.training import BOUNDARY, PRESETS, SettingError, Trainer, TrainingConfig, load_model
from tinygpt_core.training.checkpoint import load_checkpoint
from tinygpt_core.training.origin import Origin, OriginError

OTHER = "".join(f"{a}_{b}{c}\n" for a in ("name", "size", "path") for b in ("is", "has") for c in "fedcba")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on words, and a folder of Llama's format that was made of it."""
    place = tmp_path_factory.mktemp("place")
    (place / "words.txt").write_text(WORDS)
    (place / "other.txt").write_text(OTHER)
    options = [*TINY, "--backend", "python", "--quiet"]
    done = tinygpt("train", "names", "--data", "words.txt", "--out", "first", *options, cwd=place)
    assert done.returncode == 0, done.stderr
    tokenizer = load_tokenizer(place / "first" / "tokenizer")
    with backends.use("python"):
        sizes = {"num_layers": 2, "num_heads": 2, "embedding_dim": 8, "context_length": 12, "bias": False}
        kind = {"normalization": "rms_norm", "positions": "rotary", "activation": "swiglu"}
        vocab_size = tokenizer.vocab_size
        model = GPT(GPTConfig(vocab_size=vocab_size, num_key_value_heads=1, hidden_dim=20, **sizes, **kind))
        save_pretrained(model, place / "llama", "llama")
    save_tokenizer(tokenizer, place / "llama" / "tokenizer")
    return place


def start(place: Path, *options: str, out: str) -> None:
    options = ("names", "--data", "other.txt", "--backend", "python", "--quiet", *options)
    done = tinygpt("train", *options, "--out", out, cwd=place)
    assert done.returncode == 0, done.stderr


def test_a_run_says_what_it_begins_with(place: Path) -> None:
    options = ["names", "--data", "other.txt", "--backend", "python", "--preset", "debug", "--steps", "1"]
    done = tinygpt("train", *options, "--init-from", "llama", "--out", "told", cwd=place)
    assert done.returncode == 0, done.stderr
    assert f"\nbegins as  {(place / 'llama').resolve()}\n" in done.stdout
    resumed = tinygpt("train", "--resume", "told", "--steps", "2", cwd=place)
    assert resumed.returncode == 0 and "begins as" not in resumed.stdout


def training(run: Path) -> dict[str, object]:
    return json.loads((run / "config.json").read_text())["training"]


@pytest.mark.parametrize("origin", ["first", "llama"])
def test_a_run_begins_with_the_weights_it_is_given(place: Path, origin: str) -> None:
    tiny = ["--preset", "debug", "--steps", "1", "--learning-rate", "1e-30", "--eval-batches", "1"]
    run = f"same-{origin}"
    start(place, "--init-from", origin, *tiny, "--context-length", "8", out=run)
    with backends.use("python"), no_grad():
        before, after = load_pretrained(place / origin), load_model(str(place / run), "python")[0]
        after.eval()
        assert replace(after.config, dropout=0.0) == replace(before.config, dropout=0.0)
        ids = Tensor([[1, 2, 3, 4]])
        assert before(ids).to_python() == after(ids).to_python()  # the step was too small for a float32
    first = json.loads((place / run / "log.jsonl").read_text().splitlines()[0])
    assert first["step"] == 1 and first["learning_rate"] == 1e-30
    assert load_checkpoint(place / run).state["step"] == 1
    found = training(place / run)
    assert found["init_from"] == str((place / origin).resolve())
    assert found["num_layers"] == before.config.num_layers and found["context_length"] == 8


def test_a_model_with_more_rows_than_tokens_writes_only_tokens(place: Path) -> None:
    """As Qwen2's, whose vocabulary is padded: it generates, and a run may begin with it, and go on."""
    tokenizer = load_tokenizer(place / "first" / "tokenizer")
    with backends.use("python"):
        sizes = {"num_layers": 1, "num_heads": 2, "embedding_dim": 8, "context_length": 12, "bias": False}
        kind = {"normalization": "rms_norm", "positions": "rotary", "activation": "swiglu"}
        model = GPT(GPTConfig(vocab_size=4 * tokenizer.vocab_size, hidden_dim=20, **sizes, **kind))
        save_pretrained(model, place / "padded", "llama", tokenizer)
        with pytest.raises(TokenizerError):  # most ids that it draws have no text
            tokenizer.decode(generate_ids(model, [1], tokens=40, generator=random.Generator(0)))
    done = tinygpt("convert", "padded", "padded-run", cwd=place)
    assert done.returncode == 0, done.stderr
    options = ["--tokens", "60", "--prompt", "is", "--temperature", "2", "--count", "2"]
    for run in ("padded-run", "tuned-padded"):
        done = tinygpt("generate", run, *options, cwd=place)
        assert done.returncode == 0 and done.stdout.startswith("is"), done.stderr
        if run == "padded-run":
            tiny = ["--preset", "debug", "--sample-every", "2"]
            start(place, "--init-from", "padded", *tiny, "--steps", "4", out="tuned-padded")
    assert load_model(str(place / "tuned-padded"), "python")[0].config.vocab_size == 4 * tokenizer.vocab_size
    again = tinygpt("train", "--resume", "tuned-padded", "--steps", "6", "--quiet", cwd=place)
    assert again.returncode == 0, again.stderr
    page = ("explain", "tuned-padded", "--prompt", "is", "--out", "page.html")
    assert tinygpt(*page, cwd=place).returncode == 0


def test_what_has_begun_elsewhere_is_resumed_to_the_bit(place: Path) -> None:
    options = ["--init-from", "llama", "--preset", "debug", "--dropout", "0.2", "--eval-every", "3"]
    start(place, *options, "--steps", "9", out="whole")
    start(place, *options, "--steps", "9", "--decay-steps", "9", "--checkpoint-every", "4", out="parts")
    (place / "llama").rename(place / "gone")  # it is not needed any more
    try:
        run = str(place / "parts2")
        config = TrainingConfig.from_dict(training(place / "parts"))
        with backends.use("python"):
            model = load_pretrained(place / "gone")
        tokenizer = load_tokenizer(place / "gone" / "tokenizer")
        origin = Origin(str(config.init_from), config.tokenizer, model, tokenizer)
        trainer = Trainer.start(config, run, origin=origin)
        for event in trainer.run():
            trainer.stop_requested = event.step >= 5
        again = tinygpt("train", "--resume", "parts2", "--quiet", cwd=place)
        assert again.returncode == 0, again.stderr
    finally:
        (place / "gone").rename(place / "llama")
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (place / "parts2" / name).read_bytes() == (place / "whole" / name).read_bytes()
    assert tinygpt("generate", "parts2", "--tokens", "3", cwd=place).returncode == 0


def test_a_fine_tuned_run_is_better_than_one_from_scratch(place: Path) -> None:
    (place / "long.txt").write_text(WORDS)
    options = ["--data", "long.txt", "names", *TINY, "--backend", "python", "--quiet"]
    first = [*options, "--steps", "120", "--learning-rate", "0.02", "--out", "long"]
    assert tinygpt("train", *first, cwd=place).returncode == 0
    losses = {}
    for name, more in (("scratch", []), ("tuned", ["--init-from", "long"])):
        start(place, *TINY, "--steps", "6", "--learning-rate", "0.015", *more, out=name)
        log = [json.loads(line) for line in (place / name / "log.jsonl").read_text().splitlines()]
        losses[name] = [line["val_loss"] for line in log if "val_loss" in line][-1]
    assert losses["tuned"] < losses["scratch"]


def test_its_settings_make_the_same_run(place: Path) -> None:
    options = ["--preset", "debug", "--steps", "2", "--init-from", "llama", "--context-length", "6"]
    data = ["names", "--data", "other.txt", "--backend", "python"]
    shown = tinygpt("train", *data, *options, "--show-config", cwd=place)
    assert re.search(r"^layers = 2 ", shown.stdout, re.MULTILINE), shown.stderr
    (place / "run.toml").write_text(shown.stdout)
    start(place, *options, out="one")
    done = tinygpt("train", "--config", "run.toml", "--out", "two", "--quiet", cwd=place)
    assert done.returncode == 0, done.stderr
    assert (place / "one" / "state.json").read_bytes() == (place / "two" / "state.json").read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--init-from", "nowhere"], ["there is no file or directory", "nowhere"]),
        (["--init-from", "empty"], ["empty has no config.json"]),
        (["--init-from", "bare"], ["there is no tokenizer in", "bare"]),
        (["--init-from", "first", "--layers", "3"], ["--layers is 3, but 1 for the model in"]),
        (["--init-from", "llama", "--activation", "gelu"], ["--activation is 'gelu', but 'swiglu'"]),
        (["--init-from", "first", "--tokenizer", "bpe"], ["--tokenizer is 'bpe', but"]),
        (["--init-from", "first", "--context-length", "99"], ["--context-length (99) is more than the 8"]),
        (
            ["--init-from", "first", "--experts-per-token", "3"],
            ["--experts-per-token is 3, but 2 for the model"],
        ),
        (["--init-from", "first", "--balance-loss", "0.1"], ["--balance-loss needs --experts"]),
        (["--init-from", "first", "--no-bias"], ["--bias is False, but True for the model in"]),
        (["--init-from", "large"], ["has 22 tokens, but the model", "was made for 3"]),
        (["--init-from", "first", "--data", "foreign.txt"], ["does not fit the corpus", "é"]),
        (["--init-from", "prose", "--data", "words.txt"], ["has no token <|endoftext|>", "--data FILE"]),
        (["--resume", "first", "--init-from", "llama"], ["--init-from cannot be given"]),
    ],
    ids=lambda value: " ".join(value)[:50],
)
def test_what_does_not_fit_gets_one_clear_line(place: Path, options: list[str], words: list[str]) -> None:
    (place / "empty").mkdir(exist_ok=True)
    (place / "foreign.txt").write_text("café\n" * 40)
    with backends.use("python"):
        sizes = {"context_length": 8, "num_layers": 1, "num_heads": 1, "embedding_dim": 4}
        kind = {"normalization": "rms_norm", "positions": "rotary", "activation": "swiglu", "bias": False}
        for name in ("bare", "large"):
            if not (place / name).exists():
                save_pretrained(GPT(GPTConfig(vocab_size=3, **sizes, **kind)), place / name, "llama")
    tokenizer = load_tokenizer(place / "first" / "tokenizer")
    save_tokenizer(tokenizer, place / "large" / "tokenizer")
    words = [word.replace("22", str(tokenizer.vocab_size)) for word in words]
    if "prose" in options and not (place / "prose").exists():
        done = tinygpt("train", "--data", "words.txt", *TINY, "--out", "prose", "--quiet", cwd=place)
        assert done.returncode == 0, done.stderr
    new = [] if "--resume" in options else ["names", "--backend", "python", "--preset", "debug"]
    if new and "--data" not in options:
        new += ["--data", "other.txt"]
    assert_refused(tinygpt("train", *new, *options, cwd=place), *words)
    assert not (place / "runs").exists() or not list((place / "runs").glob("names*"))


def test_a_run_that_is_to_begin_with_a_model_needs_it(place: Path, tmp_path: Path) -> None:
    data = {"corpus": "names", "data_file": str(place / "other.txt")}
    config = replace(PRESETS["debug"].config, init_from="/somewhere", **data)
    with pytest.raises(OriginError, match="is started with that model"):
        Trainer.start(config, str(tmp_path / "run"))
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "beginning.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(OriginError, match="begin it again, with --init-from /somewhere"):
        Trainer.resume(str(tmp_path / "killed"))


def test_a_shorter_context_is_no_contradiction(place: Path) -> None:
    with backends.use("python"):
        model = load_pretrained(place / "llama")
    tokenizer = load_tokenizer(place / "llama" / "tokenizer")
    assert BOUNDARY in tokenizer.special_tokens
    origin = Origin("/a", "/b", model, tokenizer)
    base = PRESETS["debug"].config
    assert origin.settings(base, ()).context_length == 12
    assert origin.settings(replace(base, context_length=5), {"context_length"}).context_length == 5
    assert origin.settings(replace(base, dropout=0.5), {"dropout"}).dropout == 0.5
    with pytest.raises(SettingError, match=r"^num_layers is 1, but 2 for the model in /a$"):
        origin.settings(base, {"num_layers"})
