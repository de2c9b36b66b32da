"""Conversations: what of them is learned, rows that hold several, and a run from a file to a chat."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rank_threads import run_ranks
from small_runs import COLOURS
from terminal import type_on_terminal
from test_cli import assert_refused, environment, tinygpt
from test_tokenizer_json import texts

from tinygpt_core import backends
from tinygpt_core.cli.chat import fitting
from tinygpt_core.dataset.batches import IGNORED_TARGET
from tinygpt_core.dataset.conversations import (
    Conversation,
    ConversationBatches,
    ConversationTokens,
    conversation_evaluation_batches,
    conversation_tokens,
    read_conversations,
)
from tinygpt_core.dataset.corpora import CorpusError
from tinygpt_core.formats import load_pretrained, save_pretrained
from tinygpt_core.nn import GPT, GPTConfig
from tinygpt_core.random import Generator
from tinygpt_core.tokenizer import BPETokenizer, CharTokenizer, RegexPatterns, save_tokenizer
from tinygpt_core.tokenizer.chat import TEMPLATES, ChatError, Message, find_chat_template
from tinygpt_core.tokenizer.files import find_tokenizer
from tinygpt_core.tokenizer.tokenizer_json import JSONTokenizer
from tinygpt_core.training import PRESETS, SettingError, Trainer, TrainingConfig, load_model, prepare_data
from tinygpt_core.training.checkpoint import load_checkpoint
from tinygpt_core.training.conversations import missing_characters, template_of
from tinygpt_core.training.runs import without_lead

PLAIN = TEMPLATES["plain"]


def line(*contents: str) -> str:
    """A conversation that the user begins, as a line of a file."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]
    return json.dumps({"messages": messages}) + "\n"


COLOUR_LINES = "".join(line(a, COLOURS[a], b, COLOURS[b]) for a, b in permutations(COLOURS, 2))
COLOUR_LINES += "".join(line(a, COLOURS[a]) for a in COLOURS)
USABLE = [each.name for each in backends.available() if each.available and each.name in ("python", "numpy")]


@cache
def bpe(name: str) -> BPETokenizer:
    """A small tokenizer with the special tokens of a template."""
    made = BPETokenizer(RegexPatterns.GPT2)
    made.train("the theory of the thesis\n\nassistant user system [INST] [/INST] " * 3, 280)
    specials = TEMPLATES[name].needed_tokens()
    made.register_special_tokens({token: 280 + number for number, token in enumerate(specials)})
    return made


# ---------------------------------------------------------------- what is learned


turns = st.lists(texts.filter(lambda text: "<|" not in text), min_size=2, max_size=5)


def tokens_of(lists: list[list[str]], name: str, context_length: int) -> ConversationTokens:
    made = [
        Conversation([Message(("user", "assistant")[n % 2], text) for n, text in enumerate(each)], 1)
        for each in lists
    ]
    return conversation_tokens(made, bpe(name), TEMPLATES[name], context_length, "file")


@pytest.mark.parametrize("name", ["plain", "chatml", "llama3", "mistral", "phi3"])
@given(contents=st.lists(st.text("ab the\n", max_size=12), min_size=2, max_size=5))
def test_what_counts_is_what_the_model_has_to_draw(name: str, contents: list[str]) -> None:
    """After the ids that ask for an answer come its targets, and they end with the token that ends it."""
    tokenizer, template = bpe(name), TEMPLATES[name]
    inputs, targets = tokens_of([contents], name, 10_000).row(0)
    assert list(inputs[1:]) == [
        idx if target == IGNORED_TARGET else target
        for idx, target in zip(inputs[1:], targets[:-1], strict=True)
    ]
    spans: list[list[int]] = []
    for place, target in enumerate(targets):
        if target == IGNORED_TARGET:
            continue
        if not spans or spans[-1][1] != place:
            spans.append([place, place])
        spans[-1][1] = place + 1
    messages = [Message(("user", "assistant")[n % 2], text) for n, text in enumerate(contents)]
    answers = [number for number, message in enumerate(messages) if message.role == "assistant"]
    assert len(spans) == len(answers)
    stops = template.stop_ids(tokenizer)
    for (start, end), number in zip(spans, answers, strict=True):
        asked = template.ids(tokenizer, messages[:number])
        drawn = list(targets[start:end])
        assert drawn[-1] in stops and not set(drawn[:-1]) & set(stops)
        shared = list(inputs[: start + 1])
        assert asked[: len(shared)] == shared  # or less, where a token was merged across the border
        text = tokenizer.decode(drawn[:-1])
        prompt = tokenizer.decode(asked[len(shared) :])
        assert text == prompt + (contents[number].strip() if template.strips else contents[number])


MARKS = "SystemUserAssistant: \n"  # the characters of the marks of the template `text`
in_letters = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text("ab U:\n"))


@pytest.mark.parametrize("kind", ["characters", "bpe"])
@given(messages=st.lists(in_letters, max_size=5))
def test_in_letters_an_answer_ends_with_the_next_mark(kind: str, messages: list[Message]) -> None:
    """What counts is what a model has to write after its prompt, and no token more."""
    messages = [*messages, Message("assistant", "a")]
    tokenizer: Any = CharTokenizer(MARKS + "b") if kind == "characters" else bpe("text")
    template = TEMPLATES["text"]
    tokens = conversation_tokens([Conversation(messages, 1)], tokenizer, template, 10_000, "file")
    ids = list(tokens.ids[0])
    expected = [0] * len(ids)
    following = [role for role, _ in messages[1:]] + ["user"]
    for number, (message, role) in enumerate(zip(messages, following, strict=True)):
        if message.role == "assistant":
            start = len(template.ids(tokenizer, messages[:number]))
            assert ids[:start] == template.ids(tokenizer, messages[:number])
            answer = f" {message.content}\n\n{role.capitalize()}:"
            lengths = range(len(answer) + 1)
            end = next(start + n for n in lengths if tokenizer.decode(ids[start : start + n]) == answer)
            expected[start:end] = [1] * (end - start)
    assert list(tokens.counted[0]) == expected


def test_a_mark_that_is_one_token_with_the_border_ends_no_answer() -> None:
    """Where no pattern splits, the prompt's mark may be of the first token that counts."""
    tokenizer, template = BPETokenizer(r"(?s:.+)"), TEMPLATES["text"]
    tokenizer.train("".join(f"User: {a}\n\nAssistant: {a}!\n\n" for a in "abcdefghijklmnopqrstuvwxyz"), 330)
    messages = [Message("user", "is it so?"), Message("assistant", "yes")]
    tokens = conversation_tokens([Conversation(messages, 1)], tokenizer, template, 10_000, "file")
    _, targets = tokens.row(0)
    drawn = [tokenizer.decode([idx]) for idx in targets if idx != IGNORED_TARGET]
    assert drawn == ["\n\nAssistant: ", "y", "e", "s", "\n\n", "User", ":"]


@given(lists=st.lists(turns, min_size=1, max_size=4), context_length=st.integers(1, 60))
def test_a_long_conversation_is_cut_at_the_end_of_a_row(lists: list[list[str]], context_length: int) -> None:
    whole = tokens_of(lists, "plain", 100_000)
    longer = [n for n in range(len(lists)) if whole.ids.length(n) > context_length + 1]
    beginnings = [whole.row(n)[1][:context_length] for n in range(len(lists))]
    seen = [n for n, row in enumerate(beginnings) if any(target != IGNORED_TARGET for target in row)]
    if not seen:
        with pytest.raises(CorpusError, match="a longer context"):
            tokens_of(lists, "plain", context_length)
        return
    cut = tokens_of(lists, "plain", context_length)
    assert list(cut.numbers) == seen
    assert (cut.num_cut, cut.num_left_out) == (len(longer), len(lists) - len(seen))
    for index, number in enumerate(seen):
        inputs, targets = whole.row(number)
        assert cut.row(index) == (inputs[:context_length], targets[:context_length])


# ---------------------------------------------------------------- batches


lengths = st.lists(st.integers(1, 9), min_size=1, max_size=9)


def tokens_with_lengths(lengths: list[int]) -> ConversationTokens:
    """Conversations with questions of so many characters, all one of their own."""
    contents = [chr(ord("a") + number) * length for number, length in enumerate(lengths)]
    return tokens_of([[text, "x"] for text in contents], "plain", 100)


@given(lengths=lengths, rows=st.integers(1, 4), packed=st.booleans(), seed=st.integers(0, 9), data=st.data())
def test_every_conversation_comes_once_an_epoch(
    lengths: list[int], rows: int, packed: bool, seed: int, data: st.DataObject
) -> None:
    tokens = tokens_with_lengths(lengths)
    longest = max(tokens.ids.length(n) - 1 for n in range(len(tokens)))
    context_length = data.draw(st.integers(longest, 30))

    def batches() -> ConversationBatches:
        return ConversationBatches(tokens, context_length, rows, Generator(seed, 1), packed)

    known = {bytes(tokens.row(n)[0]): n for n in range(len(tokens))}
    found: list[int] = []
    whole, parts, resumed = batches(), batches(), batches()
    for _ in range(4):
        resumed.set_state(json.loads(json.dumps(whole.get_state())))
        batch = whole.next_batch()
        assert resumed.next_batch() == batch
        assert batch.shape[0] == rows and batch.shape[1] <= context_length
        assert (batch.documents is None) == (not packed)
        for start in range(0, len(batch.inputs), batch.shape[1]):
            row = batch.inputs[start : start + batch.shape[1]]
            of = [0] * len(row)
            if packed:
                of = list(batch.documents[start : start + batch.shape[1]])
                assert of == sorted(of)
            for number in sorted(set(of)):
                ids = row[of.index(number) : of.index(number) + of.count(number)]
                match = [n for key, n in known.items() if bytes(ids)[: len(key)] == key]
                found += match[:1]
        shards = data.draw(st.integers(1, rows))
        cut = parts.next_shards(shards, range(shards))
        assert cut.num_targets == batch.num_targets == sum(b.num_targets for b in cut.batches.values())
    count = len(tokens)
    for epoch in range(len(found) // count):
        assert sorted(found[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(lengths=lengths, rows=st.integers(1, 3), count=st.integers(1, 4), packed=st.booleans())
def test_validation_is_of_conversations_once_each(
    lengths: list[int], rows: int, count: int, packed: bool
) -> None:
    tokens = tokens_with_lengths(lengths)
    batches = conversation_evaluation_batches(tokens, 20, rows, count, packed)
    assert 1 <= len(batches) <= count
    total = sum(batch.num_targets for batch in batches)
    everything = sum(tokens.num_targets(n) for n in range(len(tokens)))
    assert total <= everything
    if count * rows >= len(tokens):
        assert total == everything


# ---------------------------------------------------------------- training


def config_of(path: Path, **changes: Any) -> TrainingConfig:
    sizes = {"context_length": 24, "eval_batches": 1}
    data = {"corpus": "text", "data_file": str(path)}
    return replace(PRESETS["debug"].config, **(data | sizes | changes))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with conversations about colours."""
    place = tmp_path_factory.mktemp("place")
    (place / "colours.jsonl").write_text(COLOUR_LINES)
    return place


@pytest.mark.parametrize("on", USABLE)
def test_packed_or_not_the_loss_of_all_is_the_same(place: Path, tmp_path: Path, on: str) -> None:
    """Over all conversations; with tables of n-grams and learned positions, too."""
    options = {"backend": on, "batch_size": 30, "ngram_tables": (64, 64), "positions": "learned"}
    losses = []
    for packed in (False, True):
        config = config_of(place / "colours.jsonl", packing=packed, context_length=40, **options)
        trainer = Trainer.start(config, str(tmp_path / str(packed)))
        with trainer.context():
            conversations = trainer.data.conversations
            batches = conversation_evaluation_batches(conversations.tokens, 40, 30, 99, packed)
            total = sum(trainer.total_loss(batch).item() for batch in batches)
        losses.append(total / sum(batch.num_targets for batch in batches))
        assert sum(batch.num_targets for batch in batches) == conversations.counts.total()
    assert math.isclose(*losses, rel_tol=1e-5)


def test_the_mean_is_over_the_answers_of_all_shards(place: Path, tmp_path: Path) -> None:
    """Shards with few answers and with many weigh by their tokens: as one batch does."""
    path = tmp_path / "uneven.jsonl"
    path.write_text("".join(line("a", "b" * (1 + 7 * (n % 3))) for n in range(12)))
    losses = {}
    for shards in (1, 2, 3):
        config = config_of(path, batch_size=3, shards=shards, steps=3, backend="python")
        trainer = Trainer.start(config, str(tmp_path / f"shards{shards}"))
        losses[shards] = [event.loss for event in trainer.run() if hasattr(event, "loss")]
    for shards in (2, 3):
        assert losses[shards] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_two_ranks_compute_what_one_does(place: Path, tmp_path: Path, packed: bool) -> None:
    config = config_of(place / "colours.jsonl", batch_size=4, shards=2, steps=3, packing=packed)
    config = replace(config, backend="python")

    def train(communicator: Any = None) -> list[float]:
        options = {} if communicator is None else {"communicator": communicator}
        where = f"{packed}-{'one' if communicator is None else 'two'}"
        trainer = Trainer.start(config, str(tmp_path / where), **options)
        return [event.loss for event in trainer.run() if hasattr(event, "loss")]

    alone = train()
    assert run_ranks(2, train) == [alone, alone]


@pytest.mark.parametrize("packed", [False, True])
def test_a_run_goes_on_to_the_bit(place: Path, tmp_path: Path, packed: bool) -> None:
    config = config_of(place / "colours.jsonl", packing=packed, steps=9, eval_every=3, dropout=0.2)
    config = replace(config, checkpoint_every=4, backend="python", decay_steps=9)
    whole = Trainer.start(config, str(tmp_path / "whole"))
    for _ in whole.run():
        pass
    parts = Trainer.start(config, str(tmp_path / "parts"))
    for event in parts.run():
        parts.stop_requested = event.step >= 5
    for _ in Trainer.resume(str(tmp_path / "parts")).run():
        pass
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    (place / "other.jsonl").write_text(COLOUR_LINES + line("x", "y"))
    saved = load_checkpoint(tmp_path / "whole")
    with pytest.raises(ValueError, match="is not the text that the run began with"):
        changed = replace(config, data_file=str(place / "other.jsonl"))
        prepare_data(changed, saved.tokenizer, saved.config["data"]["sha256"])


def test_validation_is_by_conversation(place: Path) -> None:
    data = prepare_data(config_of(place / "colours.jsonl"))
    training, validation = data.conversations.split()
    assert len(training) + len(validation) == 25 and len(validation) == 2
    assert not set(training.numbers) & set(validation.numbers)
    assert [q[-1].role for q in data.conversations.questions(5)] == ["user", "user"]


# ---------------------------------------------------------------- lines that are none


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no conversation"),
        ("\n \n", "has no conversation"),
        ("{", "line 2 is not valid JSON"),
        ("[]", "line 2 is a JSON list, not an object"),
        ('{"messages": [], "messages": []}', "line 2: the key 'messages' stands twice"),
        ('{"text": "a"}', 'line 2: "messages" must be a list'),
        ('{"messages": []}', 'line 2: "messages" must be a list'),
        ('{"messages": ["a"]}', "line 2: the role of message 1 is None"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', "line 2: the role of message 1 is 'tool'"),
        ('{"messages": [{"role": ["user"], "content": "a"}]}', "line 2: the role of message 1"),
        ('{"messages": [{"role": "user"}]}', "line 2: the content of message 1 is None"),
        ('{"messages": [{"role": "user", "content": [{}]}]}', "line 2: the content of message 1"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "line 2: nothing is to be learned"),
        ('{"messages": [{"role": "user", "content": "a", "name": "b"}]}', "message 1 has 'name'"),
        ('{"messages": [{"role": "user", "content": "a"}], "tools": [1]}', 'line 2 has "tools"'),
        ("\u00ff".encode("latin-1"), "line 2 is not valid JSON"),
        ("[" * 100_000, "line 2 is not valid JSON"),
    ],
)
def test_a_line_that_is_no_conversation_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "x.jsonl"
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes((line("a", "b").encode() if data.strip() else b"") + data)
    with pytest.raises(CorpusError, match=r"x\.jsonl") as problem:
        read_conversations(path)
    assert message in str(problem.value) and "\n" not in str(problem.value)


def test_what_stands_beside_the_messages_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    other = (
        '{"id": 3, "messages": [{"role": "assistant", "content": "b", "tool_calls": null}], "tools": null}'
    )
    path.write_bytes(b"\xef\xbb\xbf" + line("a", "b").replace("\n", "\r\n\r\n").encode() + other.encode())
    assert read_conversations(path) == [
        Conversation([Message("user", "a"), Message("assistant", "b")], 1),
        Conversation([Message("assistant", "b")], 3),
    ]


# ---------------------------------------------------------------- what is forgotten


@given(
    contents=st.lists(st.text("ab", max_size=6), min_size=1, max_size=9),
    has_system=st.booleans(),
    room=st.integers(1, 60),
)
def test_the_oldest_turns_go_first(contents: list[str], has_system: bool, room: int) -> None:
    tokenizer = CharTokenizer("ab")
    tokenizer.register_special_tokens({token: 2 + n for n, token in enumerate(PLAIN.needed_tokens())})
    contents = contents if len(contents) % 2 else contents[1:] or ["a"]
    messages = [Message(("user", "assistant")[n % 2], text) for n, text in enumerate(contents[-9:])]
    messages = messages if len(messages) % 2 else messages[1:]
    if messages[0].role != "user":
        messages = messages[1:]
    system = [Message("system", "b")] if has_system else []
    kept, dropped = fitting(PLAIN, tokenizer, system + messages, room)
    assert kept == system + messages[dropped:] and kept[-1] == messages[-1]
    assert kept[len(system)].role == "user"
    fits = [n for n in range(0, len(messages), 2) if len(PLAIN.ids(tokenizer, system + messages[n:])) <= room]
    last = max(n for n in range(len(messages)) if messages[n].role == "user")
    assert dropped == (fits[0] if fits else last)


# ---------------------------------------------------------------- as real processes


OPTIONS = ["--preset", "debug", "--backend", "python", "--context-length", "32", "--learning-rate", "0.02"]


@pytest.fixture(scope="module")
def taught(place: Path) -> Path:
    """A model that has learned the colours, `run`, and what its training printed."""
    train = [
        "train",
        "--data",
        "colours.jsonl",
        *OPTIONS,
        "--steps",
        "250",
        "--batch-size",
        "2",
        "--eval-every",
        "0",
        "--out",
        "run",
    ]
    done = tinygpt(*train, cwd=place)
    assert done.returncode == 0, done.stderr
    (place / "printed.txt").write_text(done.stdout)
    return place


def chat(place: Path, text: str, *options: str) -> Any:
    return tinygpt("generate", "run", "--chat", "--temperature", "0", *options, cwd=place, input=text)


def test_a_model_answers_as_it_was_taught(taught: Path) -> None:
    done = chat(taught, "".join(f"{each}\n" for each in COLOURS))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == list(COLOURS.values())
    assert "(the context is full: the oldest 2 messages dropped)" in done.stderr
    printed = (taught / "printed.txt").read_text()
    assert "chat       25 conversations, " in printed and "template plain; one a row" in printed
    assert "generate run --chat" in printed and "answers at temperature" in printed


def test_a_draft_changes_no_answer(taught: Path) -> None:
    done = chat(taught, "sky\nsnow\n", "--draft", "run", "--draft-tokens", "2")
    assert done.returncode == 0 and done.stdout == "blue\nwhite\n", done.stderr
    assert "guesses of the draft were accepted" in done.stderr


def test_a_chat_in_json(taught: Path) -> None:
    done = chat(taught, "sky\n\nsnow\n", "--json")
    found = [json.loads(each) for each in done.stdout.splitlines()]
    assert found == [{"prompt": "sky", "text": "blue"}, {"prompt": "snow", "text": "white"}]


def test_a_chat_on_a_terminal(taught: Path) -> None:
    import sys

    command = [sys.executable, "-S", "-m", "tinygpt_core", "generate", "run", "--chat", "--temperature", "0"]
    typed = [b"sky\n", b"b!\n", b"snow\n", b"\x04"]
    written = type_on_terminal(command, taught, environment(), b"> ", typed).decode()
    parts = written.replace("\r\n", "\n").split("> ")
    assert "Ctrl-D ends the chat" in parts[0]
    assert [part.split("\n")[1] for part in parts[1:4]] == [
        "blue",
        "(the character '!' is not among those learned: abcdeghiklnorstuwy)",
        "white",
    ]


def test_the_same_template_travels_with_the_model(taught: Path) -> None:
    done = tinygpt("convert", "run", "again", cwd=taught)
    assert done.returncode == 0, done.stderr
    done = tinygpt("generate", "again", "--chat", "--temperature", "0", cwd=taught, input="sky\n")
    assert (done.returncode, done.stdout) == (0, "blue\n"), done.stderr


def test_a_chat_model_of_another_format_goes_there_and_back(tmp_path: Path) -> None:
    tokenizer = bpe("chatml")
    kind = {"normalization": "rms_norm", "positions": "rotary", "activation": "swiglu", "bias": False}
    sizes = {"context_length": 64, "num_layers": 1, "num_heads": 2, "embedding_dim": 8}
    with backends.use("python"):
        model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **sizes, **kind))
        save_pretrained(model, tmp_path / "llama", "llama", tokenizer, chat_template=TEMPLATES["chatml"])
    read = find_tokenizer(tmp_path / "llama")
    assert find_chat_template(tmp_path / "llama", read) is TEMPLATES["chatml"]
    said = [
        json.loads((tmp_path / "llama" / f"{name}.json").read_text())
        for name in ("config", "tokenizer_config")
    ]
    assert said[0]["eos_token_id"] == tokenizer.special_tokens["<|im_end|>"]  # where `generate` there stops
    assert said[1]["eos_token"] == "<|im_end|>"
    assert tinygpt("convert", "llama", "run", cwd=tmp_path).returncode == 0
    done = tinygpt("generate", "run", "--chat", "--tokens", "5", "--system", "the", cwd=tmp_path, input="a\n")
    assert done.returncode == 0, done.stderr
    (tmp_path / "c.jsonl").write_text(line("the", "thesis") * 4)
    train = ["train", "--data", "c.jsonl", "--init-from", "llama", "--steps", "2", "--preset", "debug"]
    done = tinygpt(*train, "--out", "tuned", cwd=tmp_path)
    assert done.returncode == 0 and "template chatml" in done.stdout, done.stderr
    assert load_model(str(tmp_path / "tuned"), "python")[2]["data"]["chat_template"] == {"name": "chatml"}
    wanted = tinygpt(*train, "--chat-template", "plain", "--out", "other", cwd=tmp_path)
    assert_refused(wanted, "has no token '<|system|>'", "--chat-template")
    path = tmp_path / "llama" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "chat_template": "{{ messages[0].content }}<|im_end|>"}))
    assert_refused(
        tinygpt(*train, "--out", "other", cwd=tmp_path), "jinja2", "pip install", "--chat-template"
    )
    assert tinygpt("convert", "llama", "unknown", cwd=tmp_path).returncode == 0  # the template is kept
    done = tinygpt("generate", "unknown", "--chat", cwd=tmp_path, input="a\n")
    assert_refused(done, "jinja2", "pip install")
    assert load_pretrained(tmp_path / "unknown").config.num_layers == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["generate", "run", "--chat", "--prompt", "sky"], ["--prompt is not for --chat"]),
        (["generate", "run", "--chat", "--count", "2"], ["--count is not for --chat"]),
        (["generate", "run", "--system", "x"], ["--system is for --chat"]),
        (["generate", "run", "--chat", "--chat-template", "gemma"], ["has no token '<bos>'", "'gemma'"]),
        (["generate", "run", "--chat", "--system", "!"], ["character '!'"]),
        (
            ["train", "--data", "words.txt", "--packing"],
            ["--packing is for conversations", "--data", ".jsonl"],
        ),
        (["train", "--data", "words.txt", "--chat-template", "gemma"], ["--chat-template is for conv"]),
        (["train", "--data", "colours.jsonl", "--chat-template", "x"], ["--chat-template", "chatml"]),
        (["train", "--data", "bad.jsonl"], ["bad.jsonl, line 2 is not valid JSON"]),
        (
            ["train", "--data", "system.jsonl", "--chat-template", "gemma"],
            ["system.jsonl, line 1", "'gemma'"],
        ),
        (["train", "--data", "mark.jsonl"], ["mark.jsonl, line 1", "special token '<|end|>'"]),
        (["train", "--data", "none.jsonl"], ["cannot read", "none.jsonl"]),
        (
            ["train", "--data", "one.jsonl"],
            ["one.jsonl has 1 conversation, and training", "add a second line"],
        ),
        (
            ["train", "--data", "long.jsonl", "--context-length", "9"],
            ["has 1 conversation with an answer within the context of 9 tokens", "(--context-length)"],
        ),
        (["train", "--data", "mark2.jsonl", "--chat-template", "text"], ["line 2", r"has '\n\nUser:' in it"]),
        (["train", "--data", "colours.jsonl", "--context-length", "4"], ["--context-length", "4 tokens"]),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_what_does_not_work_gets_one_clear_line(taught: Path, options: list[str], words: list[str]) -> None:
    (taught / "words.txt").write_text("words " * 100)
    (taught / "bad.jsonl").write_text(line("a", "b") + "{\n")
    (taught / "one.jsonl").write_text(line("a", "b"))
    (taught / "long.jsonl").write_text(line("a", "b") + line("a" * 9, "b"))
    (taught / "mark.jsonl").write_text(line("a", "b<|end|>"))
    (taught / "mark2.jsonl").write_text(line("a", "b") + line("a\n\nUser: no", "b"))
    system = {"messages": [{"role": role, "content": "a"} for role in ("system", "user", "assistant")]}
    (taught / "system.jsonl").write_text(json.dumps(system) + "\n")
    more = ["--backend", "python", "--preset", "debug", "--steps", "1"] if options[0] == "train" else []
    more = [each for each in more if each not in options]
    assert_refused(tinygpt(*options, *more, cwd=taught, input="sky\n"), *words)


def test_a_chat_needs_a_template(tmp_path: Path) -> None:
    tokenizer = CharTokenizer("ab")
    with backends.use("python"):
        sizes = {"context_length": 8, "num_layers": 1, "num_heads": 1, "embedding_dim": 4}
        save_pretrained(GPT(GPTConfig(vocab_size=2, **sizes)), tmp_path / "run", "native", tokenizer)
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    done = tinygpt("generate", "run", "--chat", "--backend", "python", cwd=tmp_path, input="a\n")
    assert_refused(done, "has no chat template", "train --data FILE.jsonl")


def test_a_vocabulary_has_room_for_the_marks(place: Path) -> None:
    config = config_of(place / "colours.jsonl", tokenizer="bpe", vocab_size=262)
    data = prepare_data(config)
    assert set(data.tokenizer.special_tokens) == set(PLAIN.needed_tokens())
    assert data.tokenizer.vocab_size <= 262
    with pytest.raises(SettingError, match="vocab_size must be at least 260 here"):
        prepare_data(replace(config, vocab_size=258))


# ---------------------------------------------------------------- a model that was trained on text


ALPHABET = "abcdefghijklmnopqrstuvwxyz"
TEXT = f"The user asks: what? Assistants say: {ALPHABET}.\n\nUsers ask. System: Assistant.\n" * 40
NO_MARKS = ALPHABET * 50


@pytest.fixture(scope="module", params=["characters", "bpe"])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on text, `read`, and one that went on with the colours, `tuned`."""
    place = tmp_path_factory.mktemp("reader")
    (place / "text.txt").write_text(TEXT)
    (place / "colours.jsonl").write_text("".join(line(a, COLOURS[a]) for a in COLOURS) * 4)
    small = ["--backend", "python", "--preset", "debug"]
    tokens = [
        "--context-length",
        "40",
        "--tokenizer",
        request.param,
        "--vocab-size",
        "275",
        "--embedding-dim",
        "12",
    ]
    done = tinygpt(
        "train", "--data", "text.txt", *small, *tokens, "--steps", "20", "--out", "read", cwd=place
    )
    assert done.returncode == 0, done.stderr
    tuned = ["--data", "colours.jsonl", "--init-from", "read", "--learning-rate", "0.03", "--steps", "110"]
    done = tinygpt("train", *small, *tuned, "--eval-every", "10", "--out", "tuned", cwd=place)
    assert done.returncode == 0, done.stderr
    (place / "printed.txt").write_text(done.stdout)
    return place


def test_a_model_that_has_read_text_is_taught_to_answer(reader: Path) -> None:
    """Without a special token: from text to conversations to a chat, by default."""
    printed = (reader / "printed.txt").read_text()
    assert "template text; one a row" in printed and "generate tuned --chat" in printed
    tokenizer, config = load_model(str(reader / "tuned"), "python")[1:]
    assert not tokenizer.special_tokens and config["data"]["chat_template"] == {"name": "text"}
    log = [json.loads(each) for each in (reader / "tuned" / "log.jsonl").read_text().splitlines()]
    losses = [each["val_loss"] for each in log if "val_loss" in each]
    assert losses[-1] < losses[0] / 5
    for asked, answer in list(COLOURS.items())[:3]:
        done = tinygpt("generate", "tuned", "--chat", "--temperature", "0", cwd=reader, input=f"{asked}\n")
        assert (done.returncode, done.stdout) == (0, f"{answer}\n"), done.stderr
    as_text = ["--prompt", "User: coal\n\nAssistant:", "--stop", "\n\nUser:", "--temperature", "0"]
    done = tinygpt("generate", "tuned", *as_text, cwd=reader)
    assert done.stdout == "User: coal\n\nAssistant: black\n"


def test_it_goes_on_and_travels_with_its_template(reader: Path) -> None:
    done = tinygpt("train", "--resume", "tuned", "--steps", "112", cwd=reader)
    assert done.returncode == 0 and "template text" in done.stdout, done.stderr
    done = tinygpt("convert", "tuned", "folder", "--to", "starcoder2", cwd=reader)
    assert done.returncode == 0, done.stderr
    done = tinygpt("generate", "folder", "--chat", "--temperature", "0", cwd=reader, input="snow\n")
    assert (done.returncode, done.stdout) == (0, "white\n"), done.stderr
    more = ["--init-from", "folder", "--data", "colours.jsonl", "--lora", "2", "--steps", "2"]
    done = tinygpt("train", *more, "--preset", "debug", "--out", "lora", cwd=reader)
    assert done.returncode == 0 and "template text" in done.stdout, done.stderr


def test_a_model_of_text_may_be_asked_as_it_is(reader: Path) -> None:
    assert_refused(tinygpt("generate", "read", "--chat", cwd=reader, input="sky\n"), "has no chat template")
    ask = ["--chat", "--chat-template", "text", "--json", "--tokens", "30", "--temperature", "2"]
    done = tinygpt("generate", "read", *ask, cwd=reader, input="sky\nsnow\n")
    assert done.returncode == 0, done.stderr
    for each in map(json.loads, done.stdout.splitlines()):
        assert not any(mark in each["text"] for mark in TEMPLATES["text"].marks)


def test_characters_that_the_marks_need_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(NO_MARKS)
    (tmp_path / "colours.jsonl").write_text(COLOUR_LINES)
    tiny = ["--preset", "debug", "--backend", "python", "--steps", "1"]
    assert tinygpt("train", "--data", "text.txt", *tiny, "--out", "read", cwd=tmp_path).returncode == 0
    told = tinygpt("train", "--data", "colours.jsonl", *tiny, "--init-from", "read", cwd=tmp_path)
    words = ["does not know 'U', ':', ' ', '\\n', 'A', which the chat template 'text' needs", "bpe"]
    assert_refused(told, *words)
    asked = tinygpt("generate", "read", "--chat", "--chat-template", "text", cwd=tmp_path, input="sky\n")
    assert_refused(asked, *words)
    # Letters are learned with the conversations where the run has no tokens yet
    fresh = ["--chat-template", "text", "--context-length", "64", *tiny, "--out", "fresh"]
    done = tinygpt("train", "--data", "colours.jsonl", *fresh, cwd=tmp_path)
    assert done.returncode == 0 and "template text" in done.stdout, done.stderr


def test_which_template_a_run_begins_with(tmp_path: Path) -> None:
    config = config_of(tmp_path / "x.jsonl")

    def name(tokenizer: Any, **changes: Any) -> str:
        return template_of(replace(config, **changes), str(tmp_path), tokenizer).name

    assert template_of(config, None, None) is PLAIN
    assert name(bpe("plain")) == "plain"
    assert name(bpe("text")) == name(CharTokenizer("a")) == "text"
    assert name(bpe("chatml"), chat_template="text") == "text"
    with pytest.raises(ChatError, match=r"of chatml, qwen2, qwen2\.5, smollm2: choose one of these, or text"):
        name(bpe("chatml"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATES["gemma"].jinja()}))
    assert name(bpe("chatml")) == "gemma"


def test_a_tokenizer_that_writes_other_letters_does_not_know_the_marks() -> None:
    class Lower(CharTokenizer):
        def _encode_ordinary(self, text: str) -> list[int]:
            return super()._encode_ordinary(text.lower())

    tokenizer = Lower(MARKS.lower())
    assert missing_characters(TEMPLATES["text"], tokenizer) == ["U", "A"]
    assert missing_characters(TEMPLATES["text"], CharTokenizer(MARKS)) == []
    assert missing_characters(PLAIN, CharTokenizer("a")) == []


def test_a_tokenizer_that_puts_a_space_first_knows_the_space_of_the_marks() -> None:
    """As Llama 2's newer form: the space that a text begins with is lost when it is decoded."""
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    vocab = {character: idx for idx, character in enumerate(dict.fromkeys(MARKS.replace(" ", "▁")))}
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    tokenizer = JSONTokenizer({"model": model, "pre_tokenizer": metaspace, "decoder": metaspace})
    assert missing_characters(TEMPLATES["text"], tokenizer) == []


@given(text=st.text("ab ", max_size=6), lead=st.text("a ", max_size=3), cuts=st.lists(st.integers(0, 6)))
def test_an_answer_loses_what_stands_before_it_wherever_it_is_cut(
    text: str, lead: str, cuts: list[int]
) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut <= len(text))})
    pieces = [text[start:end] for start, end in pairwise(places)]
    assert "".join(without_lead(pieces, lead)) == text.removeprefix(lead)
