"""Chat templates: how a conversation becomes one text, which a model continues with its next answer.

A model that was taught to chat knows where a message begins, who says it and where it ends by marks that its
template puts around it, most of them special tokens. ChatML's are

    <|im_start|>user
    Hello<|im_end|>
    <|im_start|>assistant

where the last line, the prompt, asks for an answer; the answer is whole when the model draws `<|im_end|>`.
Each template here is a row of a table, `TEMPLATES`: what stands before and behind a message of each role.
A model whose tokens were made for text has no such tokens; its template, `text`, has marks of letters:

    User: Hello

    Assistant: Hi there.

    User:

where an answer is whole when the model has written the mark with which the next message would begin.

Elsewhere a template is a program in Jinja (`chat_template` in a tokenizer_config.json, or
chat_template.jinja). One that is known to say what a row of the table says is recognised by its SHA-256; any
other is run by jinja2's sandbox, where that is installed.

Source: https://github.com/openai/openai-python/blob/v0.28.1/chatml.md (ChatML);
https://huggingface.co/docs/transformers/chat_templating; Touvron et al. 2023,
https://arxiv.org/abs/2307.09288, appendix A.3 (Llama 2)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple

from ..files.atomic import Path
from ..files.json_objects import SerializationError, read_json_object
from .base import Tokenizer, TokenizerError, read_text_file
from .pipelines import TOKENIZER_CONFIG

ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = "chat_template.jinja"
MAXIMUM_TEMPLATE = 1_000_000  # characters
MAXIMUM_CONFIG = 64_000_000  # bytes of a tokenizer_config.json; it may list thousands of tokens
ENDS_OF_ANSWERS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")  # besides the end of a text
VARIABLES = ("bos_token", "eos_token", "unk_token", "pad_token")  # that a program may ask for
HOW_TO_INSTALL = 'pip install ".[chat]" in the project\'s folder'


class ChatError(ValueError):
    """A conversation or a chat template that cannot be used; the message says what would work."""


class Message(NamedTuple):
    """What somebody says in a conversation.

    Attributes:
        role: one of `ROLES`.
        content: the text.
    """

    role: str
    content: str


class ChatTemplate:
    """How conversations become text.

    Attributes:
        name: by which messages call it.
        stops: special tokens, any of which ends an answer.
        marks: texts of ordinary tokens, any of which begins a message, and so ends an answer.
        lead: what stands between the prompt and an answer, and is no part of it.
        variables: texts that its program in Jinja asks for, by the names in `VARIABLES`.
    """

    name: str
    stops: tuple[str, ...]
    marks: tuple[str, ...] = ()
    lead: str = ""
    variables: Mapping[str, str]

    def render(self, messages: Sequence[Message], prompt: bool = True) -> str:
        """Returns the text of a conversation.

        Args:
            messages: from the first to the last.
            prompt: whether it ends with what asks for an answer.

        Raises:
            ChatError: the template has no place for a message.
        """
        raise NotImplementedError(f"{type(self).__name__} must define render(self, messages, prompt)")

    def jinja(self) -> str:
        """Returns the template as a program in Jinja, for other libraries."""
        raise NotImplementedError(f"{type(self).__name__} must define jinja(self)")

    def needed_tokens(self) -> tuple[str, ...]:
        """Returns the special tokens that it is known to need, each once."""
        return ()

    def require(self) -> None:
        """Checks that the template can be used here.

        Raises:
            ChatError: it needs jinja2, which is not installed, or is no program in Jinja.
        """

    def to_json(self) -> dict[str, Any]:
        """Returns what `template_of_json` makes the template of."""
        raise NotImplementedError(f"{type(self).__name__} must define to_json(self)")

    def ids(self, tokenizer: Tokenizer, messages: Sequence[Message], prompt: bool = True) -> list[int]:
        """Returns the ids of a conversation, as transformers' `apply_chat_template` gives them.

        Raises:
            ChatError: the template has no place for a message, or one has a special token or a mark in it,
                with which it could pretend to be another's.
            TokenizerError: a character that the tokenizer does not know.
        """
        self.check(tokenizer, messages)
        return self.encoded(tokenizer, messages, prompt)

    def encoded(self, tokenizer: Tokenizer, messages: Sequence[Message], prompt: bool = True) -> list[int]:
        """Returns what `ids` does, of messages that were looked through before.

        Raises:
            ChatError: the template has no place for a message.
            TokenizerError: a character that the tokenizer does not know.
        """
        return tokenizer.encode(self.render(messages, prompt), allowed_special="all")

    def check(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> None:
        """Looks through messages for what they could pretend with to be another's.

        Raises:
            ChatError: one has a special token or a mark in it.
            TokenizerError: a character that the tokenizer does not know.
        """
        for message in messages:
            # Also as the tokenizer reads it, which may normalize full-width letters, or lose characters
            alone = tokenizer.encode(message.content, allowed_special="all")
            special = tokenizer.special_tokens.items()
            if found := [token for token, idx in special if token in message.content or idx in alone]:
                raise ChatError(f"a message has the special token {found[0]!r:.80} in it, which no text may")
            read = tokenizer.decode(alone) if self.marks else ""
            if found := [mark for mark in self.marks if mark in message.content or mark in read]:
                raise ChatError(
                    f"a message has {found[0]!r} in it, with which another would begin in the chat template "
                    f"{self.name!r}"
                )

    def stop_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Returns the ids of the special tokens that end an answer; none where marks alone do.

        Raises:
            ChatError: the tokenizer has none of them.
        """
        found = [tokenizer.special_tokens[text] for text in self.stops if text in tokenizer.special_tokens]
        if not found and not self.marks:
            stops = " or ".join(map(repr, self.stops)) or "that its folder names"
            raise ChatError(
                f"the tokenizer has no special token {stops:.200}, with which an answer ends in the chat "
                f"template {self.name!r}"
            )
        return found


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class TableTemplate(ChatTemplate):
    """A template that puts something before and behind each message.

    Args:
        name: of the template.
        before, after: what stands before and behind a message, by its role; a role that is not there has no
            messages of its own.
        prompt: what asks for an answer.
        stop: the special token that ends an answer; "" where a mark does.
        special_tokens: the others that it needs.
        marks: texts of ordinary tokens that begin a message, in no message, and end an answer.
        begin: what stands before everything.
        end: what stands behind everything, where no answer is asked for.
        strips: whether messages lose white space at both ends.
        default_system: the first message where the conversation has none of the system.
        joins_system: what stands before and behind the system's message where that becomes the beginning of
            the first message of the user.
        strips_joined: whether that message is stripped with the system's, and not before.
        alternates: whether user and assistant must take turns, beginning with the user.
    """

    name: str
    before: Mapping[str, str]
    after: Mapping[str, str]
    prompt: str
    stop: str = ""
    special_tokens: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    begin: str = ""
    end: str = ""
    strips: bool = False
    default_system: str | None = None
    joins_system: tuple[str, str] | None = None
    strips_joined: bool = False
    alternates: bool = False
    stops: tuple[str, ...] = field(init=False)
    lead: str = field(init=False)
    variables: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stops", (self.stop,) if self.stop else ())
        object.__setattr__(self, "lead", self.before["assistant"].removeprefix(self.prompt))
        object.__setattr__(self, "variables", {})

    def render(self, messages: Sequence[Message], prompt: bool = True) -> str:
        """Returns the text of a conversation; arguments as for `ChatTemplate.render`.

        Raises:
            ChatError: there is no place for a message.
        """
        turns = list(messages)
        joined: str | None = None
        has_system = bool(turns) and turns[0].role == "system"
        if self.joins_system is not None and has_system:
            joined = turns.pop(0).content
        elif self.default_system is not None and not has_system:
            turns.insert(0, Message("system", self.default_system))
        self._check(turns, joined is not None)
        parts = [self.begin]
        for number, (role, content) in enumerate(turns):
            if joined is not None and number == 0:
                assert self.joins_system is not None
                before, after = self.joins_system
                if self.strips and not self.strips_joined:
                    content = before + joined + after + content.strip()
                else:
                    content = (before + joined + after + content).strip()
            elif self.strips:
                content = content.strip()
            parts.append(self.before[role] + content + self.after[role])
        parts.append(self.prompt if prompt else self.end)
        return "".join(parts)

    def _check(self, turns: Sequence[Message], has_joined: bool) -> None:
        """Raises ChatError where there is no place for a message."""
        if has_joined and not turns:
            raise ChatError(f"the chat template {self.name!r} needs a message of the user after the system's")
        for number, message in enumerate(turns):
            if message.role not in self.before:
                where = " but the first one" if self.joins_system is not None else ""
                raise ChatError(f"the chat template {self.name!r} has no {message.role} messages{where}")
            if self.alternates and (message.role == "user") != (number % 2 == 0):
                raise ChatError(
                    f"in the chat template {self.name!r} user and assistant take turns, "
                    f"beginning with the user, but message {number + 1 + has_joined} is the {message.role}'s"
                )

    def to_json(self) -> dict[str, Any]:
        """Returns what `template_of_json` makes the template of."""
        return {"name": self.name}

    def needed_tokens(self) -> tuple[str, ...]:
        """Returns the special tokens that it needs, each once, that which ends an answer among them."""
        return tuple(dict.fromkeys((*self.special_tokens, *self.stops)))

    def jinja(self) -> str:
        """Returns the template as a program in Jinja, for other libraries."""
        trim = " | trim" if self.strips else ""
        content = f"message['content']{trim}"
        parts = []
        turns = "messages"
        if self.joins_system is not None:
            before, after = self.joins_system
            joined = f"{_quoted(before)} + messages[0]['content'] + {_quoted(after)}"
            parts.append(
                "{% if messages[0]['role'] == 'system' %}{% if messages | length == 1 %}"
                "{{ raise_exception('a message of the user must follow the system\\'s') }}{% endif %}"
                f"{{% set start = {joined} %}}{{% set turns = messages[1:] %}}"
                "{% else %}{% set start = '' %}{% set turns = messages %}{% endif %}"
            )
            turns = "turns"
        parts.append(f"{{{{ {_quoted(self.begin)} }}}}" if self.begin else "")
        if self.default_system is not None:
            system = self.before["system"] + self.default_system + self.after["system"]
            parts.append(
                f"{{% if messages[0]['role'] != 'system' %}}{{{{ {_quoted(system)} }}}}{{% endif %}}"
            )
        parts.append(f"{{% for message in {turns} %}}")
        if self.alternates:
            parts.append(
                "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
                "{{ raise_exception('user and assistant take turns, beginning with the user') }}{% endif %}"
            )
        word = "if"
        for role in self.before:
            text = content
            if role == "user" and self.joins_system is not None:
                inner = f"(start + message['content']){trim}" if self.strips_joined else f"start + {content}"
                text = f"({inner} if loop.first else {content})"
            whole = f"{_quoted(self.before[role])} + {text} + {_quoted(self.after[role])}"
            parts.append(f"{{% {word} message['role'] == '{role}' %}}{{{{ {whole} }}}}")
            word = "elif"
        parts.append(
            "{% else %}{{ raise_exception('no messages of the role ' + message['role']) }}{% endif %}"
        )
        parts.append("{% endfor %}")
        otherwise = f"{{% else %}}{{{{ {_quoted(self.end)} }}}}" if self.end else ""
        if self.prompt or self.end:
            asked = f"{{{{ {_quoted(self.prompt)} }}}}" if self.prompt else ""
            parts.append(f"{{% if add_generation_prompt %}}{asked}{otherwise}{{% endif %}}")
        return "".join(parts)


def _quoted(text: str) -> str:
    """Returns a text as Jinja reads it."""
    return json.dumps(text, ensure_ascii=False)


def _same(before: str, after: str, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns what stands before and behind messages of all roles: {role} is the role's name."""
    names = names or {role: role for role in ROLES}
    return {
        "before": {role: before.replace("{role}", name) for role, name in names.items()},
        "after": dict.fromkeys(names, after),
    }


_CHATML: dict[str, Any] = {
    **_same("<|im_start|>{role}\n", "<|im_end|>\n"),
    "prompt": "<|im_start|>assistant\n",
    "stop": "<|im_end|>",
    "special_tokens": ("<|im_start|>",),
}
_GEMMA: dict[str, Any] = {
    **_same("<start_of_turn>{role}\n", "<end_of_turn>\n", {"user": "user", "assistant": "model"}),
    "prompt": "<start_of_turn>model\n",
    "stop": "<end_of_turn>",
    "special_tokens": ("<bos>", "<start_of_turn>"),
    "begin": "<bos>",
    "strips": True,
    "alternates": True,
}
_ALL = (
    TableTemplate(
        "plain",
        **_same("<|{role}|>", "<|end|>"),
        prompt="<|assistant|>",
        stop="<|end|>",
        special_tokens=("<|system|>", "<|user|>", "<|assistant|>"),
    ),
    TableTemplate("chatml", **_CHATML),
    TableTemplate("qwen2", **_CHATML, default_system="You are a helpful assistant."),
    TableTemplate(
        "qwen2.5",
        **_CHATML,
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ),
    TableTemplate(
        "smollm2",
        **_CHATML,
        default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    ),
    TableTemplate(
        "llama2",
        before={"user": "<s>[INST] ", "assistant": " "},
        after={"user": " [/INST]", "assistant": " </s>"},
        prompt="",
        stop="</s>",
        special_tokens=("<s>",),
        strips=True,
        joins_system=("<<SYS>>\n", "\n<</SYS>>\n\n"),
        strips_joined=True,
        alternates=True,
    ),
    TableTemplate(
        "llama3",
        **_same("<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"),
        prompt="<|start_header_id|>assistant<|end_header_id|>\n\n",
        stop="<|eot_id|>",
        special_tokens=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
        begin="<|begin_of_text|>",
        strips=True,
    ),
    TableTemplate(
        "mistral",
        before={"user": "[INST] ", "assistant": ""},
        after={"user": " [/INST]", "assistant": "</s>"},
        prompt="",
        stop="</s>",
        special_tokens=("<s>",),
        begin="<s>",
        alternates=True,
    ),
    TableTemplate("gemma", **_GEMMA),
    TableTemplate("gemma3", **_GEMMA, joins_system=("", "\n\n")),
    TableTemplate(
        "phi3",
        **_same("<|{role}|>\n", "<|end|>\n"),
        prompt="<|assistant|>\n",
        stop="<|end|>",
        special_tokens=("<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>"),
        end="<|endoftext|>",
    ),
    TableTemplate(
        "text",
        # What asks for an answer ends before the space: with it tokens of words begin, " Hi" and not "Hi".
        **_same("{role}: ", "\n\n", {role: role.capitalize() for role in ROLES}),
        prompt="Assistant:",
        marks=("\n\nUser:", "\n\nAssistant:", "\n\nSystem:"),
        end="User:",
    ),
)
TEMPLATES = {template.name: template for template in _ALL}
"""Those that need no template engine, by name."""


def named_template(name: str) -> TableTemplate:
    """Returns a template of the table.

    Raises:
        ChatError: there is none of that name.
    """
    if name not in TEMPLATES:
        raise ChatError(f"there is no chat template {name!r:.80}: choose one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


# ---------------------------------------------------------------- any other


@dataclass(frozen=True)
class JinjaTemplate(ChatTemplate):
    """A program in Jinja, which jinja2's sandbox runs.

    Args:
        text: the program.
        variables: texts that it may ask for, by the names in `VARIABLES`.
        stops: special tokens, any of which ends an answer.
    """

    text: str
    variables: Mapping[str, str]
    stops: tuple[str, ...]
    name: str = "jinja"

    @cached_property
    def _program(self) -> Any:
        return _compiled(self.text)

    def require(self) -> None:
        """Checks that the template can be used here; errors as for `ChatTemplate.require`."""
        assert self._program is not None

    def jinja(self) -> str:
        """Returns the program."""
        return self.text

    def render(self, messages: Sequence[Message], prompt: bool = True) -> str:
        """Returns the text of a conversation; arguments as for `ChatTemplate.render`.

        Raises:
            ChatError: the program fails, or jinja2 is not installed.
        """
        program = self._program
        try:
            rendered: str = program.render(
                messages=[message._asdict() for message in messages],
                add_generation_prompt=prompt,
                **self.variables,
            )
        except Exception as problem:  # the program is from anywhere, and may fail in any way
            raise ChatError(f"the chat template cannot write this conversation: {problem!s:.200}") from None
        return rendered

    def to_json(self) -> dict[str, Any]:
        """Returns what `template_of_json` makes the template of."""
        return {"jinja": self.text, "variables": dict(self.variables), "stops": list(self.stops)}


def _compiled(text: str) -> Any:
    """Returns a program in Jinja, with the options and functions that transformers gives it."""
    if len(text) > MAXIMUM_TEMPLATE:
        raise ChatError(
            f"a chat template has at most {MAXIMUM_TEMPLATE:,} characters, this one {len(text):,}"
        )
    try:
        from jinja2.exceptions import SecurityError, TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ChatError(
            "the chat template is none of those that are known here, and jinja2, which can run it, is not "
            f"installed: {HOW_TO_INSTALL}, or choose one with --chat-template"
        ) from None

    def raise_exception(message: object) -> None:
        raise TemplateError(str(message))

    class Sandbox(ImmutableSandboxedEnvironment):
        """jinja2's, in which a text cannot be repeated or padded until the memory is full."""

        intercepted_binops = frozenset({"*", "**", "%"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            are_numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
            if operator == "**" or not are_numbers:
                raise SecurityError(f"{operator} is for numbers here, and ** for none: unsafe")
            return super().call_binop(context, operator, left, right)

    def to_json(value: Any, indent: int | None = None, **others: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(text)
    except Exception as problem:  # whatever its parser says of a text from anywhere
        raise ChatError(f"the chat template is no program in Jinja: {problem!s:.200}") from None


PUBLISHED = {
    "fcf7a096fe99a48fd9ad2b250bf9237e96e8f48bffec1c7ea4d3f225176cd40e": "chatml",
    "153280e3ff55d19da1398bdb3914ee2a51b80429bfaedde11d7d216c39db80f3": "chatml",
    "58c1a1f04baa7adaeaba1f90267c3d57d9396f0c1f0129bdde9e76d3c6784af7": "chatml",
    "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788": "smollm2",
    "793202280c0910ab26bc6eb57c8212c2417324c6d8c4efd0d10d59092ab3e3eb": "qwen2",
    "26a59556925c987317ce5291811ba3b7f32ec4c647c400c6cc7e3a9993007ba7": "mistral",
    "e8d5b5a546d3f19df16a5320c614fab05bdc4edd50e850f1afd947b503ea41cf": "llama2",
    "ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122": "llama3",
    "ecd6ae513fe103f0eb62e8ab5bfa8d0fe45c1074fa398b089c93a7e70c15cfd6": "gemma",
    "dcaee66df77bfbb789ec541fe713218da30225a526f1db97138fc39ee6dc56aa": "phi3",
}
"""The SHA-256 of programs in Jinja that models are published with, without white space at their ends, and
the template that says the same.
"""


def recognised(text: str) -> TableTemplate | None:
    """Returns the template of the table that says what a program in Jinja says; None where none is known."""
    text = text.strip()
    name = PUBLISHED.get(sha256(text.encode("utf-8", "surrogatepass")).hexdigest())
    if name is not None:
        return TEMPLATES[name]
    return next((template for template in _ALL if template.jinja() == text), None)


def find_chat_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """Returns the chat template that lies in a folder of Hugging Face's; None where there is none.

    Raises:
        ChatError: it is damaged.
        OSError: a file cannot be read.
    """
    path = os.path.join(folder, TOKENIZER_CONFIG)
    try:
        config = read_json_object(path, MAXIMUM_CONFIG) if os.path.isfile(path) else {}
        text = config.get("chat_template")
        if isinstance(text, list):  # several, by name
            found = {each.get("name"): each.get("template") for each in text if isinstance(each, dict)}
            text = found.get("default")
        own = os.path.join(folder, CHAT_TEMPLATE)
        if os.path.isfile(own):
            path, text = own, read_text_file(own, 4 * MAXIMUM_TEMPLATE)
    except (SerializationError, TokenizerError) as problem:
        raise ChatError(str(problem)) from None
    if text is None:
        return None
    if not isinstance(text, str):
        raise ChatError(f"{path}: chat_template is {text!r:.80}, not a text")
    if (known := recognised(text)) is not None:
        return known
    variables = {}
    for name in VARIABLES:
        value = config.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            variables[name] = value
    ends = (*ENDS_OF_ANSWERS, variables.get("eos_token", ""))
    stops = tuple(end for end in ends if end in tokenizer.special_tokens and (end in text or end == ends[-1]))
    return JinjaTemplate(text, variables, stops)


def template_of_json(value: Any) -> ChatTemplate:
    """Returns the template that `to_json` gave, from a file that may come from anywhere.

    Raises:
        ChatError: it is none.
    """
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        return named_template(value["name"])
    if isinstance(value, dict) and isinstance(value.get("jinja"), str):
        variables, stops = value.get("variables"), value.get("stops")
        if isinstance(variables, dict) and isinstance(stops, list):
            are_texts = all(isinstance(each, str) for each in (*variables.values(), *stops))
            if are_texts and set(variables) <= set(VARIABLES):
                return JinjaTemplate(value["jinja"], variables, tuple(stops))
    raise ChatError(f"a chat template has a name, or a program in Jinja and its texts, not {value!r:.80}")
