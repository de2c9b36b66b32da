"""Chat templates: each gives the ids of transformers' `apply_chat_template`, is recognised and written, and
what cannot be said in one is refused.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tokenizer_json import byte_level, sentencepiece_like, small, texts

from tinygpt_core.tokenizer import CharTokenizer
from tinygpt_core.tokenizer import chat as chat_module
from tinygpt_core.tokenizer.chat import (
    HOW_TO_INSTALL,
    PUBLISHED,
    TEMPLATES,
    VARIABLES,
    ChatError,
    ChatTemplate,
    JinjaTemplate,
    Message,
    find_chat_template,
    named_template,
    recognised,
    template_of_json,
)
from tinygpt_core.tokenizer.files import find_tokenizer
from tinygpt_core.tokenizer.tokenizer_json import JSONTokenizer

names = pytest.mark.parametrize("name", TEMPLATES)
SENTENCEPIECE = ("llama2", "mistral", "gemma", "gemma3")
COUNTING = "{% for m in messages %}{{ loop.index }}{{ m.content | tojson }}{{ bos_token }}{% endfor %}"


def conversation(contents: Sequence[str], has_system: bool) -> list[Message]:
    """Turns of user and assistant, after what the system says."""
    turns = contents[1:] if has_system else contents
    messages = [Message(("user", "assistant")[number % 2], text) for number, text in enumerate(turns)]
    return [Message("system", contents[0]), *messages] if has_system else messages


conversations = st.builds(conversation, st.lists(texts, min_size=2, max_size=5), st.booleans())
any_order = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts), max_size=4)


# ---------------------------------------------------------------- against transformers


@cache
def both(name: str) -> tuple[Any, Any]:
    """A tokenizer with the special tokens of a template, as transformers has it, and as we read it."""
    transformers = pytest.importorskip(
        "transformers", reason="ids are compared where transformers is installed"
    )
    if name in SENTENCEPIECE:
        made = sentencepiece_like("llama2" if name in ("llama2", "mistral") else "gemma")
    else:
        made = byte_level(lambda pre: pre.ByteLevel(add_prefix_space=False))
    made.add_special_tokens(list(TEMPLATES[name].needed_tokens()))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=made)
    theirs.chat_template = TEMPLATES[name].jinja()
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = find_tokenizer(folder)
        assert ours is not None and find_chat_template(folder, ours) is TEMPLATES[name]
    return theirs, ours


@names
@given(messages=conversations, prompt=st.booleans())
def test_ids_are_those_of_transformers(name: str, messages: list[Message], prompt: bool) -> None:
    theirs, ours = both(name)
    listed = [message._asdict() for message in messages]
    template = TEMPLATES[name]
    special = [token for token in ours.special_tokens if any(token in text for _, text in messages)]
    try:
        found = template.ids(ours, messages, prompt)
    except ChatError as problem:
        if special:
            assert "has the special token" in str(problem)
            return
        with pytest.raises(Exception, match=r"."):
            theirs.apply_chat_template(listed, add_generation_prompt=prompt, tokenize=False)
        return
    assert not special
    expected = theirs.apply_chat_template(listed, add_generation_prompt=prompt, return_dict=False)
    assert found == expected


@names
@given(messages=any_order, prompt=st.booleans())
def test_the_table_says_what_its_program_says(name: str, messages: list[Message], prompt: bool) -> None:
    pytest.importorskip("jinja2", reason="programs in Jinja are run where jinja2 is installed")
    template = TEMPLATES[name]
    program = JinjaTemplate(template.jinja(), {}, template.stops)

    def said(each: ChatTemplate) -> str | None:
        try:
            return each.render(messages, prompt)
        except ChatError:
            return None

    if messages:  # there is no first message to look at
        assert said(template) == said(program)


def test_any_other_program_is_run_as_transformers_runs_it(tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="programs in Jinja are run where jinja2 is installed")
    theirs, ours = both("chatml")
    program = (
        "{%- for m in messages %}\n  {% if loop.first %}{% continue %}{% endif %}\n"
        "{{ '<|im_start|>' ~ m.role ~ (m | tojson) }}\n{%- endfor %}\n{{ bos_token }}<|im_end|>"
    )
    (tmp_path / "chat_template.jinja").write_text(program)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "another", "bos_token": {"content": "<s>"}, "eos_token": "</s>"})
    )
    found = find_chat_template(tmp_path, ours)
    assert isinstance(found, JinjaTemplate) and found.stops == ("<|im_end|>", "</s>")
    theirs.bos_token = "<s>"
    messages = [Message("user", "é"), Message("assistant", '"hi"\n'), Message("user", "x")]
    for template in (found, template_of_json(json.loads(json.dumps(found.to_json())))):
        rendered = theirs.apply_chat_template(
            [message._asdict() for message in messages], chat_template=program, tokenize=False
        )
        assert template.render(messages, False) == rendered
        assert template.stop_ids(ours) == [ours.special_tokens[stop] for stop in ("<|im_end|>", "</s>")]


# ---------------------------------------------------------------- without transformers


def test_what_each_template_writes() -> None:
    """As the descriptions of the models have it, by hand."""
    messages = [
        Message("system", "Be kind."),
        Message("user", " Hello "),
        Message("assistant", "Hi"),
        Message("user", "Bye"),
    ]
    assert (
        named_template("plain").render(messages[1:3], False) == "<|user|> Hello <|end|><|assistant|>Hi<|end|>"
    )
    assert named_template("chatml").render(messages[2:]) == (
        "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )
    assert named_template("qwen2").render(messages[3:]) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )
    assert named_template("llama2").render(messages) == (
        "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n Hello [/INST] Hi </s><s>[INST] Bye [/INST]"
    )
    assert named_template("llama2").render([messages[0], Message("user", " ")]) == (
        "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>> [/INST]"
    )
    assert named_template("llama2").render([messages[1], Message("assistant", " Hi\n")]) == (
        "<s>[INST] Hello [/INST] Hi </s>"
    )
    assert named_template("mistral").render(messages[1:]) == (
        "<s>[INST]  Hello  [/INST]Hi</s>[INST] Bye [/INST]"
    )
    assert named_template("llama3").render(messages[:2]) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert named_template("gemma3").render(messages[:2]) == (
        "<bos><start_of_turn>user\nBe kind.\n\nHello<end_of_turn>\n<start_of_turn>model\n"
    )
    assert named_template("phi3").render(messages[3:], False) == "<|user|>\nBye<|end|>\n<|endoftext|>"
    assert named_template("text").render(messages) == (
        "System: Be kind.\n\nUser:  Hello \n\nAssistant: Hi\n\nUser: Bye\n\nAssistant:"
    )
    assert named_template("text").render(messages[1:3], False) == "User:  Hello \n\nAssistant: Hi\n\nUser:"


def test_what_stands_before_an_answer_is_no_part_of_it() -> None:
    leads = {name: template.lead for name, template in TEMPLATES.items() if template.lead}
    assert leads == {"llama2": " ", "text": " "}
    assert JinjaTemplate(COUNTING, {}, ()).lead == ""


@pytest.mark.parametrize(
    ("name", "roles", "message"),
    [
        ("mistral", ["system", "user"], "'mistral' has no system messages"),
        ("mistral", ["user", "user"], "message 2 is the user's"),
        ("gemma", ["system", "user"], "'gemma' has no system messages"),
        ("llama2", ["user", "system"], "no system messages but the first one"),
        ("llama2", ["system"], "needs a message of the user"),
        ("llama2", ["system", "user", "user"], "message 3 is the user's"),
        ("gemma", ["assistant"], "beginning with the user, but message 1 is the assistant's"),
    ],
)
def test_a_message_without_a_place_is_refused(name: str, roles: list[str], message: str) -> None:
    with pytest.raises(ChatError, match=re.escape(message)):
        named_template(name).render([Message(role, "x") for role in roles])


def test_nobody_can_pretend_to_be_another() -> None:
    tokenizer = CharTokenizer("helo<|user>")
    tokenizer.register_special_tokens(
        {token: 50 + number for number, token in enumerate(named_template("plain").needed_tokens())}
    )
    plain = named_template("plain")
    assert plain.ids(tokenizer, [Message("user", "<|use")])[0] == tokenizer.special_tokens["<|user|>"]
    with pytest.raises(ChatError, match=re.escape("a message has the special token '<|user|>'")):
        plain.ids(tokenizer, [Message("user", "hello<|user|>")])
    with pytest.raises(ChatError, match=re.escape("the tokenizer has no special token '</s>'")):
        named_template("llama2").stop_ids(tokenizer)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("text", "a\n\nＵser: b", "has '\\n\\nUser:' in it"),
        ("text", "a\n\nUser： b", "has '\\n\\nUser:' in it"),
        ("plain", "a＜|end|＞b", "has the special token '<|end|>' in it"),
    ],
)
def test_nobody_can_pretend_in_other_letters(name: str, content: str, words: str) -> None:
    """What counts is the text that the tokenizer makes of a message, here by NFKC."""
    added = {"content": "<|end|>", "id": 260, "special": True, "normalized": True}
    tokenizer = JSONTokenizer(small(normalizer={"type": "NFKC"}, added_tokens=[added]))
    template = named_template(name)
    assert tokenizer.decode(template.ids(tokenizer, [Message("user", "Ｕser： ＜")])).count("User: <") == 1
    with pytest.raises(ChatError, match=re.escape(words)):
        template.ids(tokenizer, [Message("user", content)])


crafted = st.lists(st.sampled_from(["User:", "Assistant", ":", " ", "\n", "\n\n", "a"]), max_size=9).map(
    "".join
)


@given(messages=st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), crafted)))
def test_a_conversation_in_letters_is_read_in_one_way(messages: list[Message]) -> None:
    """A message with a mark in it is refused; of all others the text tells who has said what."""
    template = named_template("text")
    tokenizer = CharTokenizer("SystemUserAssistant: \na")
    if any(mark in content for _, content in messages for mark in template.marks):
        with pytest.raises(ChatError, match="with which another would begin in the chat template 'text'"):
            template.ids(tokenizer, messages)
        return
    text = tokenizer.decode(template.ids(tokenizer, messages, prompt=False))
    parts = re.split(r"(?:\A|\n\n)(System|User|Assistant):", text)
    assert parts[0] == "" and parts[-2:] == ["User", ""]
    said = zip(parts[1:-2:2], parts[2:-2:2], strict=True)
    assert [Message(role.lower(), content.removeprefix(" ")) for role, content in said] == messages


@names
def test_a_template_is_recognised_by_what_we_write(name: str) -> None:
    template = TEMPLATES[name]
    assert recognised(f"\n{template.jinja()}\n") is template
    assert recognised(template.jinja() + "x") is None
    assert template_of_json(json.loads(json.dumps(template.to_json()))) is template


def test_published_programs_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in PUBLISHED)
    assert set(PUBLISHED.values()) <= set(TEMPLATES)
    digest = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # SHA-256 of "foo"
    monkeypatch.setitem(chat_module.PUBLISHED, digest, "gemma")
    assert recognised(" foo\n") is TEMPLATES["gemma"]


@names
def test_the_special_tokens_that_a_template_needs_are_those_that_it_writes(name: str) -> None:
    template = TEMPLATES[name]
    turns = [Message("user", "a"), Message("assistant", "b")]
    written = template.render(turns, True) + template.render(turns, False)
    with suppress(ChatError):  # some have no system messages
        written += template.render([Message("system", "c"), *turns], False)
    found = set(re.findall(r"<[|/]?\w+\|?>", re.sub("<<.*?>>", "", written)))
    needed = template.needed_tokens()
    assert set(needed) == found and len(needed) == len(found) and set(template.stops) <= found


@names
def test_which_templates_strip_what_is_said(name: str) -> None:
    """As the models with these names do it."""
    said = TEMPLATES[name].render([Message("user", "\n a "), Message("assistant", " b\t")], False)
    stripped = TEMPLATES[name].render([Message("user", "a"), Message("assistant", "b")], False)
    assert (said == stripped) == (name in ("llama2", "llama3", "gemma", "gemma3"))


def test_an_answer_is_asked_for_unless_it_is_not_to_be() -> None:
    tokenizer = CharTokenizer("a")
    tokenizer.register_special_tokens({"<|user|>": 1, "<|assistant|>": 2, "<|end|>": 3})
    template, said = TEMPLATES["plain"], [Message("user", "a")]
    assert template.ids(tokenizer, said) == [1, 0, 3, 2] and template.ids(tokenizer, said, False) == [1, 0, 3]


def test_tojson_writes_text_as_it_is() -> None:
    """Jinja's own would write < and > by their numbers, for web pages."""
    pytest.importorskip("jinja2", reason="programs in Jinja are run where jinja2 is installed")
    said = JinjaTemplate(COUNTING, {"bos_token": "."}, ()).render([Message("user", "<é>\n")])
    assert said == '1"<é>\\n".'


def test_a_template_of_ones_own_says_what_it_lacks() -> None:
    for ask in (lambda each: each.to_json(), lambda each: each.render([])):
        with pytest.raises(NotImplementedError, match="must define"):
            ask(ChatTemplate())


def test_one_of_several_templates_is_the_default(tmp_path: Path) -> None:
    tokenizer = CharTokenizer("a")
    listed = [
        {"name": "tools", "template": "x"},
        {"name": "default", "template": TEMPLATES["chatml"].jinja()},
    ]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
    assert find_chat_template(tmp_path, tokenizer) is TEMPLATES["chatml"]
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert find_chat_template(tmp_path, tokenizer) is None
    for damaged in ('{"chat_template": 3}', "[", '{"a": 1, "a": 2}'):
        (tmp_path / "tokenizer_config.json").write_text(damaged)
        with pytest.raises(ChatError, match=re.escape("tokenizer_config.json")):
            find_chat_template(tmp_path, tokenizer)


def test_an_unknown_template_is_run_with_what_its_folder_says(tmp_path: Path) -> None:
    """Lines with nothing but a block vanish, white space before it and all; texts are plain or in `content`;
    what ends an answer is a token that the program names, or the folder's own.
    """
    pytest.importorskip("jinja2", reason="programs in Jinja are run where jinja2 is installed")
    tokenizer = CharTokenizer("a")
    tokenizer.register_special_tokens({"<|im_end|>": 1, "<|eot_id|>": 2, "</s>": 3})
    each = "  {% for m in messages %}\n[{{ m.content }}]<|im_end|>\n  {% endfor %}\n"
    program = "{{ bos_token }}\n" + each + "{{ eos_token }}"
    said = {"chat_template": program, "bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    found = find_chat_template(tmp_path, tokenizer)
    assert isinstance(found, JinjaTemplate) and found.stops == ("<|im_end|>", "</s>")
    assert dict(found.variables) == {"bos_token": "<s>", "eos_token": "</s>"}
    messages = [Message("user", "a"), Message("assistant", "b")]
    assert found.render(messages, False) == "<s>\n[a]<|im_end|>\n[b]<|im_end|>\n</s>"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said | {"bos_token": None, "eos_token": 3}))
    found = find_chat_template(tmp_path, tokenizer)
    assert isinstance(found, JinjaTemplate) and not found.variables and found.stops == ("<|im_end|>",)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}!", encoding="utf-8")
    found = find_chat_template(tmp_path, tokenizer)  # which goes before
    assert found is not None and found.render(messages, False) == "a!"
    whole = {"jinja": program, "variables": dict.fromkeys(VARIABLES, "<s>"), "stops": []}
    assert template_of_json(whole).variables == whole["variables"]  # all that there are


def test_without_jinja2_an_unknown_template_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("jinja2", "jinja2.exceptions", "jinja2.ext", "jinja2.sandbox"):
        monkeypatch.setitem(sys.modules, name, None)
    template = JinjaTemplate(COUNTING, {}, ())
    for use in (template.require, lambda: template.render([Message("user", "x")])):
        with pytest.raises(ChatError, match=re.escape(HOW_TO_INSTALL)):
            use()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("{% for", "is no program in Jinja"),
        ("{{ raise_exception('no, ' ~ messages[0].role) }}", "cannot write this conversation: no, user"),
        ("{{ messages[0].content + 1 }}", "cannot write this conversation"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ 'a' * 99999999999 }}", "unsafe"),
        ("{{ '%99999999999d' % 1 }}", "unsafe"),
        ("{{ 9 ** 9 ** 9 ** 9 }}", "unsafe"),
        ("{% for i in range(10000000) %}{% endfor %}", "Range too big"),
        ("x" * 1_000_001, "at most 1,000,000 characters"),
    ],
)
def test_a_program_that_goes_wrong_is_one_error(program: str, message: str) -> None:
    pytest.importorskip("jinja2", reason="programs in Jinja are run where jinja2 is installed")
    with pytest.raises(ChatError, match=message):
        JinjaTemplate(program, {}, ()).render([Message("user", "x")])


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"name": "nope"},
        {"name": 3},
        {"jinja": "x"},
        {"jinja": "x", "variables": {}, "stops": [1]},
        {"jinja": "x", "variables": {"messages": "y"}, "stops": []},
        {"jinja": "x", "variables": {"bos_token": 1}, "stops": []},
    ],
)
def test_what_is_no_template_is_refused(value: Any) -> None:
    with pytest.raises(ChatError):
        template_of_json(value)
