"""Chat templates: Jinja2 source that turns messages into a prompt, rendered as transformers renders it.

Templates come with downloaded models, so they are untrusted code: they run in Jinja2's immutable sandbox and see
nothing but plain data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from smidgen.runtime.errors import SmidgenError

if TYPE_CHECKING:
    from jinja2 import Template

    from smidgen.runtime.protocols import Tokenizer

DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML: the template of tokenizers trained here, which reserve its two markers. A turn ends with `<|im_end|>`."""

_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Names under which a message's reasoning is passed; templates read the first, some the second."""


_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
"""Around generation blocks while their places are sought: two of Unicode's noncharacters, which no text may hold."""


class ChatTemplateError(SmidgenError):
    """A chat template is malformed, refuses the messages, or fails on them."""


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool = False,
    bos_token: str = "",
    eos_token: str = "",
) -> str:
    """The text of a conversation, equal to transformers' `apply_chat_template(…, tokenize=False)`.

    messages: mappings with `role` and `content`, of plain data (str, int, float, bool, None, lists, mappings).
    add_generation_prompt: end with what opens the assistant's next turn.
    Encode the result with `special=True`: the template's markers are special tokens.
    Raises ChatTemplateError.
    """
    return _rendered(_compiled(template), messages, add_generation_prompt, bos_token, eos_token)


def render_marked_chat(
    template: str, messages: Sequence[Mapping[str, Any]], bos_token: str = "", eos_token: str = ""
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation, and the parts [start, stop) of it that the template puts between
    `{% generation %}` and `{% endgeneration %}`. Raises ChatTemplateError.
    """
    marked = _rendered(_compiled(template, marks=True), messages, False, bos_token, eos_token)
    text, spans, length, start = [], [], 0, None
    for part in re.split(f"({_OPEN}|{_CLOSE})", marked):
        if part == _OPEN:
            start = length
        elif part == _CLOSE and start is not None:
            spans.append((start, length))
            start = None
        else:
            text.append(part)
            length += len(part)
    plain = "".join(text)
    if plain != render_chat(template, messages, False, bos_token, eos_token):
        raise ChatTemplateError("the chat template changes what stands between generation and endgeneration afterwards")
    return plain, spans


def boundary_texts(tokenizer: Tokenizer) -> tuple[str, str]:
    """Texts of the tokens that begin and end a document, as templates write them; empty where there is none."""
    texts = {token: text for text, token in tokenizer.special_tokens.items()}
    bos, eos = ("" if token is None else texts.get(token, "") for token in (tokenizer.bos_id, tokenizer.eos_id))
    return bos, eos


def has_generation_blocks(template: str) -> bool:
    """Whether a template marks the assistant's words itself."""
    return re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None


def _rendered(
    compiled: Template,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
    bos_token: str,
    eos_token: str,
) -> str:
    conversation = _conversation(messages)
    try:
        return compiled.render(
            messages=conversation,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            bos_token=bos_token,
            eos_token=eos_token,
        )
    # The template is a program of somebody else: it may raise whatever Python can.
    except Exception as error:
        raise ChatTemplateError(f"the chat template refuses these messages: {_one_line(error)}") from None


@lru_cache(maxsize=16)
def _compiled(template: str, marks: bool = False) -> Template:
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_extension(marks), loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    try:
        return environment.from_string(template)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise ChatTemplateError(f"the chat template is malformed: line {line}: {_one_line(error)}") from None


@lru_cache(maxsize=2)
def _generation_extension(marks: bool) -> Any:
    """`{% generation %} … {% endgeneration %}` marks the assistant's words for training; in rendering it is nothing.

    With `marks` it puts two characters around them that no text has."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 (Jinja2's own declaration)

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            if marks:
                ends = [nodes.Output([nodes.TemplateData(mark)]) for mark in (_OPEN, _CLOSE)]
                body = [ends[0], *body, ends[1]]
            # A block of its own, as in transformers: what is set inside stays inside.
            return nodes.Scope(body).set_lineno(line)

    return Generation


def _conversation(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if not messages:
        raise ChatTemplateError("messages: empty; a chat needs at least one message")
    conversation = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ChatTemplateError(
                f"messages[{number}] = {message!r:.60}: a message is a mapping with role and content"
            )
        # Interfaces send absent fields as null; templates ask whether the key is there.
        plain = {key: _plain(value, f"messages[{number}].{key}") for key, value in message.items() if value is not None}
        reasoning = next((plain[name] for name in _REASONING_FIELDS if name in plain), None)
        if reasoning is not None:
            plain = {"thinking": reasoning, **plain, "reasoning_content": reasoning}
        conversation.append(plain)
    return conversation


def _plain(value: Any, name: str) -> Any:
    """A copy made of plain types only: methods of richer objects would be open to the template."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain(key, name): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{number}]") for number, item in enumerate(value)]
    raise ChatTemplateError(f"{name}: {type(value).__name__} is no plain data; use text, numbers, lists and mappings")


def _raise_exception(message: object) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja2's own filter escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
