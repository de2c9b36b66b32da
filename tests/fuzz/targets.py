"""The readers, each with small valid files and the errors that it documents."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import shutil
import struct
from array import array
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from tinygpt_core import Buffer, Tensor
from tinygpt_core.cli.main import main
from tinygpt_core.cli.plotting.curves import read_run
from tinygpt_core.dataset.corpora import CorpusError
from tinygpt_core.dataset.images import read_idx
from tinygpt_core.dataset.token_folders import open_token_folder
from tinygpt_core.explain.history import read_log
from tinygpt_core.explain.writing import explain
from tinygpt_core.files.json_objects import SerializationError, read_json_object
from tinygpt_core.files.safetensors import load_safetensors, save_safetensors
from tinygpt_core.formats import FormatError, load_pretrained, save_pretrained
from tinygpt_core.module import read_tensors, write_tensors
from tinygpt_core.nn import GPT, GPTConfig, RotaryScaling
from tinygpt_core.optimizers import AdamW
from tinygpt_core.tokenizer import (
    BPETokenizer,
    CharTokenizer,
    RegexPatterns,
    TokenizerError,
    find_tokenizer,
    load_tokenizer,
    save_tokenizer,
)
from tinygpt_core.tokenizer.base import Tokenizer
from tinygpt_core.tokenizer.chat import ChatError, Message, find_chat_template
from tinygpt_core.tokenizer.describing import describe
from tinygpt_core.tokenizer.vocabularies import byte_characters
from tinygpt_core.training.checkpoint import FILES, CheckpointError, _state_digest
from tinygpt_core.training.config import TrainingConfig
from tinygpt_core.training.conversations import saved_template
from tinygpt_core.training.data import prepare_data
from tinygpt_core.training.loop import Trainer
from tinygpt_core.training.runs import load_model, settings_of_a_beginning

from . import command_lines

RUN = Path(__file__).parents[1] / "fixtures" / "runs" / "bpe" / "run"
TEXT = "the theme of the thesis: 1234 😀 it's\n\n  "


class Target(NamedTuple):
    """A reader.

    Attributes:
        write: writes its valid files into an empty folder.
        damaged: which of them are damaged, one at a time.
        read: reads what is in the folder, and uses it a little.
        errors: what it may raise, besides OSError.
    """

    write: Callable[[Path], None]
    damaged: tuple[str, ...]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]


def tokenizer() -> BPETokenizer:
    """Returns a small tokenizer with a special token."""
    made = BPETokenizer(RegexPatterns.GPT2)
    made.train(TEXT * 3, 270)
    made.register_special_tokens({"<|endoftext|>": 270, "[PAD]": 271})
    return made


def use(found: Tokenizer | None) -> None:
    """Encodes and decodes with a tokenizer that was read."""
    if found is not None:
        with contextlib.suppress(TokenizerError):  # characters that it does not have
            found.decode(found.encode(TEXT + "a" * 300 + " " * 300, "all")[:100])
        with contextlib.suppress(TokenizerError):
            found.decode([0, 255, 270, 2**31])


def write_safetensors(folder: Path) -> None:
    tensors = {"a": Buffer([[1.0, 2.0], [3.0, 4.0]]), "b": Buffer([True, False]), "c.d": Buffer([1, 2, 3])}
    save_safetensors(folder / "x.safetensors", tensors, {"step": "7"})


def write_json_weights(folder: Path) -> None:
    tensors = {
        "a.weights": Tensor([[1.5, -2.0]], requires_grad=True),
        "b": Tensor([1, 2]),
        "c": Tensor([True]),
    }
    write_tensors(folder / "w.json", tensors)


def write_json(folder: Path) -> None:
    (folder / "x.json").write_text(json.dumps({"a": [1, 2.5, None, {"b": "c"}], "d": "é😀"}))


def write_bpe(folder: Path) -> None:
    save_tokenizer(tokenizer(), folder / "tokenizer")


def write_characters(folder: Path) -> None:
    made = CharTokenizer(TEXT)
    made.register_special_tokens({"<end>": made.vocab_size})
    save_tokenizer(made, folder / "tokenizer")


def write_model(folder: Path) -> None:
    tokenizer().save(str(folder / "t"))


def write_verbose_model(folder: Path) -> None:
    pattern = "\n (?i:ll|ve)|  # contractions\n [^\\w]?\\w+|\n \\s+\n"
    (folder / "t.model").write_text(f"{pattern!r}\n1\n[PAD] 258\n104 101\n256 121\n")


def read_model(folder: Path) -> None:
    found = BPETokenizer()
    found.load(folder / "t.model")
    use(found)


def write_gpt2(folder: Path) -> None:
    made = tokenizer()
    letters = {byte: character for character, byte in byte_characters().items()}
    tokens = {idx: "".join(letters[byte] for byte in token) for idx, token in made.vocab.items()}
    ids = {text: idx for idx, text in tokens.items()} | {"<|endoftext|>": 270}
    (folder / "vocab.json").write_text(json.dumps(ids))
    lines = [f"{tokens[a]} {tokens[b]}" for a, b in made.merges]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    split = {"type": "Split", "pattern": {"Regex": r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"}}
    last = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    value = {
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{**split, "behavior": "Isolated", "invert": False}, last],
        },
        "model": {"type": "BPE", "dropout": None},
        "added_tokens": [{"id": 271, "content": "[PAD]", "special": True}],
    }
    (folder / "tokenizer.json").write_text(json.dumps(value))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')


def write_tokenizer_json(folder: Path) -> None:
    """Byte-level, with every kind of step."""
    described = describe(tokenizer())
    assert described is not None
    steps = [
        {"type": "Split", "pattern": {"Regex": r"\p{L}+"}, "behavior": "MergedWithNext", "invert": False},
        {"type": "Digits", "individual_digits": True},
        described["pre_tokenizer"],
    ]
    described["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    described["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
    described["added_tokens"].append({"id": 272, "content": "the", "normalized": True, "lstrip": True})
    (folder / "tokenizer.json").write_text(json.dumps(described))


def write_sentencepiece_json(folder: Path) -> None:
    """SentencePiece-like, with byte fallback."""
    texts = ["<unk>", "▁", "t", "h", "e", "th", "the", "▁the", *(f"<0x{byte:02X}>" for byte in range(256))]
    end = [
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    described = {
        "added_tokens": [{"id": 0, "content": "<unk>", "special": True}],
        "normalizer": {"type": "Prepend", "prepend": "▁"},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
        "decoder": {"type": "Sequence", "decoders": [space, *end]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {text: idx for idx, text in enumerate(texts)},
            "merges": [["t", "h"], "th e", ["▁", "the"]],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(described))


def write_ranks(folder: Path) -> None:
    lines = [f"{base64.b64encode(token).decode()} {idx}" for idx, token in tokenizer().vocab.items()]
    (folder / "x.tiktoken").write_text("\n".join(lines) + "\n")


def read_rank_file(folder: Path) -> None:
    use(BPETokenizer.from_tiktoken(folder / "x.tiktoken", RegexPatterns.CL100K, {"<end>": 270}))


def write_idx(folder: Path) -> None:
    import gzip

    data = struct.pack(">HBBIII", 0, 8, 3, 2, 3, 4) + bytes(range(24))
    (folder / "x.idx").write_bytes(data)
    (folder / "x.idx.gz").write_bytes(gzip.compress(data))


def read_both_idx(folder: Path) -> None:
    with contextlib.suppress(CorpusError):
        read_idx(folder / "x.idx")
    read_idx(folder / "x.idx.gz")


def write_token_folder(folder: Path) -> None:
    write_characters(folder)
    ids = CharTokenizer(TEXT).encode(TEXT * 3)
    (folder / "train.bin").write_bytes(array("H", ids).tobytes())
    (folder / "val.bin").write_bytes(array("H", ids[:30]).tobytes())
    (folder / "meta.json").write_text('{"dtype": "uint16"}')


def read_token_folder(folder: Path) -> None:
    found = open_token_folder(folder, "characters")
    list(found.training)
    list(found.validation)
    found.counts()


def write_log(folder: Path) -> None:
    lines = (RUN / "log.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "log.jsonl").write_bytes(b"".join(lines[:3]))


def read_logs(folder: Path) -> None:
    read_log(str(folder / "log.jsonl"))
    read_run(str(folder / "log.jsonl"))


def write_run(folder: Path) -> None:
    for file in RUN.iterdir():
        shutil.copyfile(file, folder / file.name)


def read_checkpoint(folder: Path) -> None:
    load_model(str(folder), "python")


def write_pretrained(format: str) -> Callable[[Path], None]:
    """Returns a function that writes a checkpoint of another library."""
    sizes = {"vocab_size": 11, "context_length": 8, "num_layers": 1, "num_heads": 2, "embedding_dim": 4}

    def write(folder: Path) -> None:
        changes: dict[str, dict[str, Any]] = {
            "gpt2": {},
            "llama": {
                "normalization": "rms_norm",
                "positions": "rotary",
                "activation": "swiglu",
                "bias": False,
            },
            "gemma3_text": {
                "normalization": "rms_norm",
                "positions": "rotary",
                "activation": "geglu",
                "bias": False,
                "post_normalization": True,
                "query_key_norm": True,
                "embedding_scale": 2.0,
                "sliding_window": 3,
                "local_rotary_base": 100.0,
                "rotary_scaling": RotaryScaling("llama3", 8.0, 1.0, 4.0, 8),
            },
            "gpt_neox": {
                "positions": "rotary",
                "activation": "gelu_exact",
                "parallel_residual": True,
                "rotary_dim": 2,
            },
            "tinygpt": {
                "activation": "relu",
                "final_activation": True,
                "attention_bias": False,
                "tied_head": False,
            },
        }
        model = GPT(GPTConfig(**sizes, **changes[format]))
        save_pretrained(model, folder / "x", format)
        for file in (folder / "x").iterdir():
            shutil.move(file, folder / file.name)
        (folder / "x").rmdir()

    return write


def seal(folder: Path) -> None:
    """Makes the digests in state.json those of the files beside it, as one who means harm can."""
    path = folder / "state.json"
    with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError, KeyError):
        value = json.loads(path.read_bytes())
        for name in FILES:
            data = (folder / name).read_bytes()
            value["files"][name] = {"size": len(data), "sha256": sha256(data).hexdigest()}
        value["state_sha256"] = _state_digest(value["state"])
        path.write_text(json.dumps(value))


def write_own_run(folder: Path, **changes: Any) -> None:
    """Writes a run of two steps, of few numbers, with its corpus."""
    (folder / "text.txt").write_text(TEXT * 20)
    tokens = folder / "bpe"
    save_tokenizer(tokenizer(), tokens)
    sizes: dict[str, Any] = {"context_length": 4, "num_heads": 1, "embedding_dim": 2, "batch_size": 2}
    config = TrainingConfig(
        corpus="text",
        data_file=str(folder / "text.txt"),
        tokenizer=str(tokens),
        steps=2,
        eval_batches=1,
        **sizes,
        **changes,
    )
    trainer = Trainer.start(config, str(folder / "run"))
    for _ in trainer.run():
        pass
    for file in (folder / "run").iterdir():
        shutil.move(file, folder / file.name)
    (folder / "run").rmdir()


def write_run_that_counts(folder: Path) -> None:
    write_own_run(folder, ngram_prior=2)


def read_sealed(folder: Path) -> None:
    """Loads a run whose digests are right, whatever its files hold, and lets it write."""
    seal(folder)
    model, its_tokenizer, config = load_model(str(folder), "python")
    opening = config["data"]["opening"]
    with contextlib.suppress(TokenizerError):
        ids = its_tokenizer.encode(opening)
        if ids:
            model.generate_greedy(Tensor([ids[:2]]), 2)


def resume_sealed(folder: Path) -> None:
    """Goes on with such a run for a step."""
    seal(folder)
    trainer = Trainer.resume(str(folder), steps=3, backend="python")
    if trainer.step < 3 and trainer.config.batch_size * trainer.config.accumulation < 100:
        with contextlib.suppress(ArithmeticError):  # numbers that are not finite
            trainer.train_step()


def explain_sealed(folder: Path) -> None:
    seal(folder)
    explain(str(folder), folder / "page.html", backend="python")


def write_settings(folder: Path) -> None:
    config = TrainingConfig()
    (folder / "beginning.json").write_text(json.dumps(config.to_dict()))
    (folder / "model.json").write_text(json.dumps(config.model_config(300).to_dict()))


def read_settings(folder: Path) -> None:
    settings_of_a_beginning(str(folder))
    GPTConfig.from_dict(read_json_object(folder / "model.json"))


PATTERNS = {name: value for name, value in vars(RegexPatterns).items() if name.isupper()}


def write_patterns(folder: Path) -> None:
    for name, pattern in PATTERNS.items():
        (folder / name).write_text(pattern, encoding="utf-8")
    slow = r"(?:ab)+c?|[^\W\d]{2,9}+|(?<=a)\s+(?!\S)|(?i:'s)|\p{Lu}?\p{Ll}*"
    (folder / "slow").write_text(slow, encoding="utf-8")


def read_pattern(folder: Path) -> None:
    for name in (*PATTERNS, "slow"):
        path = folder / name
        text = path.read_bytes().decode("utf-8", "replace")
        if name == "slow" or text != PATTERNS[name]:
            made = BPETokenizer(text)
            made.train(TEXT * 2 + "a" * 200, 258)
            use(made)


def write_optimizer(folder: Path) -> None:
    model = small_model()
    optimizer = AdamW(model, 0.1)
    model(Tensor([[1, 2]])).sum().backward()
    optimizer.update()
    optimizer.save_state(str(folder / "x.json"))


def small_model() -> GPT:
    sizes = {"vocab_size": 11, "context_length": 8, "num_layers": 1, "num_heads": 2, "embedding_dim": 4}
    return GPT(GPTConfig(**sizes))


def read_optimizer(folder: Path) -> None:
    model = small_model()
    optimizer = AdamW(model, 0.1)
    optimizer.load_state(str(folder / "x.json"))
    model(Tensor([[1, 2]])).sum().backward()
    with contextlib.suppress(ArithmeticError):
        optimizer.update()


def write_tensor_text(folder: Path) -> None:
    (folder / "x.txt").write_text(
        Tensor([[1.5, -2e-8], [float("inf"), 4.0]], requires_grad=True).serialize_tensor()
    )


def read_tensor_text(folder: Path) -> None:
    text = (folder / "x.txt").read_bytes().decode("utf-8", "replace")
    if Tensor.validate_serialized_tensor(text):
        Tensor.deserialize_tensor(text)


def write_shards(folder: Path) -> None:
    write_pretrained("gpt2")(folder)
    tensors = load_safetensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"model-{1 + i % 2}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        save_safetensors(folder / file, {name: tensors[name] for name in tensors if files[name] == file})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def write_corpus(folder: Path) -> None:
    (folder / "corpus").mkdir()
    (folder / "a.txt").write_text(TEXT * 20)


def read_corpus(folder: Path) -> None:
    config = TrainingConfig(
        corpus="text",
        data_file=str(folder / "a.txt"),
        context_length=4,
        batch_size=2,
        embedding_dim=2,
        num_heads=1,
    )
    data = prepare_data(config)
    data.training_batches.next_batch()


def write_conversations(folder: Path) -> None:
    roles = ("system", "user", "assistant")
    messages = [{"role": role, "content": TEXT[:20]} for role in roles]
    lines = [json.dumps({"messages": messages[start:], "id": start}) for start in range(3)]
    (folder / "x.jsonl").write_text("\n".join(lines) + "\n\n")


def read_conversation_file(folder: Path) -> None:
    sizes = {"context_length": 80, "batch_size": 2, "embedding_dim": 2, "num_heads": 1}
    config = TrainingConfig(corpus="text", data_file=str(folder / "x.jsonl"), packing=True, **sizes)
    data = prepare_data(config)
    data.training_batches.next_batch()


def write_chat_template(folder: Path) -> None:
    program = "{% for m in messages %}{{ m['role'] }}: {{ m.content | trim }}<end>{% endfor %}{{ bos_token }}"
    config = {"chat_template": program, "bos_token": {"content": "<s>"}, "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "saved.json").write_text(json.dumps({"data": {"chat_template": {"name": "gemma3"}}}))


def read_chat_templates(folder: Path) -> None:
    made = CharTokenizer(TEXT)
    made.register_special_tokens({"<end>": made.vocab_size})
    messages = [Message(role, "theme") for role in ("system", "user", "assistant")]
    for find in (
        lambda: find_chat_template(folder, made),
        lambda: saved_template(read_json_object(folder / "saved.json")),
    ):
        with contextlib.suppress(ChatError, SerializationError):
            found = find()
            if found is not None:
                found.render(messages)


def write_what_commands_take(folder: Path) -> None:
    write_own_run(folder)
    write_safetensors(folder)
    script = "from tinygpt_core import Tensor\n(Tensor(2.0, requires_grad=True) * 3).backward()\n"
    (folder / "script.py").write_text(script)
    (folder / "empty").mkdir()
    (folder / "words").write_text("what is drawn depends on this")


def run_drawn_command(folder: Path) -> None:
    command_lines.run(folder, command_lines.drawn(random.Random((folder / "words").read_bytes())))


def inspect(folder: Path) -> None:
    """Lists whatever lies in the folder as a person would; an exit code is all that may come of it."""
    for file in sorted(folder.iterdir()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = main(["inspect", str(file)])
        if code not in (0, 1, 2) or "Traceback" in printed.getvalue() or "\x1b" in printed.getvalue():
            raise AssertionError(f"inspect ended with {code}: {printed.getvalue()[-2000:]}")


TARGETS = {
    "safetensors": Target(
        write_safetensors,
        ("x.safetensors",),
        lambda folder: load_safetensors(folder / "x.safetensors"),
        (SerializationError,),
    ),
    "JSON object": Target(
        write_json, ("x.json",), lambda folder: read_json_object(folder / "x.json"), (SerializationError,)
    ),
    "JSON weights": Target(
        write_json_weights, ("w.json",), lambda folder: read_tensors(folder / "w.json"), (ValueError,)
    ),
    "inspect safetensors": Target(write_safetensors, ("x.safetensors",), inspect, ()),
    "inspect JSON": Target(write_json_weights, ("w.json",), inspect, ()),
    "tokenizer": Target(
        write_bpe, ("tokenizer",), lambda folder: use(load_tokenizer(folder / "tokenizer")), (TokenizerError,)
    ),
    "characters": Target(
        write_characters,
        ("tokenizer",),
        lambda folder: use(load_tokenizer(folder / "tokenizer")),
        (TokenizerError,),
    ),
    ".model": Target(write_model, ("t.model",), read_model, (TokenizerError,)),
    "TinyGPT's .model": Target(write_verbose_model, ("t.model",), read_model, (TokenizerError,)),
    "vocab and merges": Target(
        write_gpt2,
        ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"),
        lambda folder: use(find_tokenizer(folder)),
        (TokenizerError,),
    ),
    "tokenizer.json": Target(
        write_tokenizer_json, ("tokenizer.json",), lambda f: use(find_tokenizer(f)), (TokenizerError,)
    ),
    "SentencePiece-like tokenizer.json": Target(
        write_sentencepiece_json, ("tokenizer.json",), lambda f: use(find_tokenizer(f)), (TokenizerError,)
    ),
    "ranks": Target(write_ranks, ("x.tiktoken",), read_rank_file, (TokenizerError,)),
    "IDX": Target(write_idx, ("x.idx", "x.idx.gz"), read_both_idx, (CorpusError,)),
    "token folder": Target(
        write_token_folder,
        ("train.bin", "val.bin", "tokenizer", "meta.json"),
        read_token_folder,
        (ValueError,),
    ),
    "log": Target(write_log, ("log.jsonl",), read_logs, (ValueError,)),
    "checkpoint": Target(
        write_run,
        ("config.json", "state.json", "tokenizer", "model.safetensors", "optimizer.safetensors"),
        read_checkpoint,
        (CheckpointError,),
    ),
    "sealed run": Target(
        write_own_run,
        ("config.json", "state.json", "tokenizer", "model.safetensors"),
        read_sealed,
        (CheckpointError,),
    ),
    "sealed run that is resumed": Target(
        write_own_run,
        ("config.json", "state.json", "tokenizer", "model.safetensors", "optimizer.safetensors", "text.txt"),
        resume_sealed,
        (ValueError,),
    ),
    "sealed run that counts": Target(
        write_run_that_counts, ("config.json", "model.safetensors"), read_sealed, (CheckpointError,)
    ),
    "sealed run that counts and is resumed": Target(
        write_run_that_counts, ("config.json", "model.safetensors"), resume_sealed, (ValueError,)
    ),
    "sealed run that is explained": Target(
        write_own_run,
        ("config.json", "log.jsonl", "state.json", "tokenizer", "model.safetensors"),
        explain_sealed,
        (ValueError,),
    ),
    "settings": Target(
        write_settings, ("beginning.json", "model.json"), read_settings, (ValueError, TypeError)
    ),
    "patterns": Target(write_patterns, (*PATTERNS, "slow"), read_pattern, (TokenizerError,)),
    "optimizer": Target(write_optimizer, ("x.json",), read_optimizer, (ValueError,)),
    "text of a Tensor": Target(write_tensor_text, ("x.txt",), read_tensor_text, (ValueError,)),
    "corpus": Target(write_corpus, ("a.txt",), read_corpus, (ValueError,)),
    "conversations": Target(write_conversations, ("x.jsonl",), read_conversation_file, (ValueError,)),
    "chat template": Target(
        write_chat_template, ("tokenizer_config.json", "saved.json"), read_chat_templates, ()
    ),
    "shards": Target(
        write_shards,
        ("model.safetensors.index.json", "model-1.safetensors", "config.json"),
        load_pretrained,
        (FormatError,),
    ),
    "command line": Target(write_what_commands_take, ("words",), run_drawn_command, ()),
    "gpt2": Target(
        write_pretrained("gpt2"), ("config.json", "model.safetensors"), load_pretrained, (FormatError,)
    ),
    "llama": Target(
        write_pretrained("llama"), ("config.json", "model.safetensors"), load_pretrained, (FormatError,)
    ),
    "gemma3_text": Target(
        write_pretrained("gemma3_text"), ("config.json", "model.safetensors"), load_pretrained, (FormatError,)
    ),
    "gpt_neox": Target(
        write_pretrained("gpt_neox"), ("config.json", "model.safetensors"), load_pretrained, (FormatError,)
    ),
    "tinygpt": Target(
        write_pretrained("tinygpt"), ("config.json", "gpt_model.json"), load_pretrained, (FormatError,)
    ),
}
