"""Chat templates render as in transformers, and fail in one line."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from smidgen.runtime.chat_template import DEFAULT_CHAT_TEMPLATE, ChatTemplateError, render_chat

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  What is <b>2 & 2</b>?\n"},
    {"role": "assistant", "content": "4", "reasoning": "2 and 2", "name": None},
]

TEMPLATES = {
    "default": DEFAULT_CHAT_TEMPLATE,
    "whitespace control": """
        {%- for message in messages %}
            {% if loop.index0 == 0 and message.role == 'system' %}
SYSTEM {{ message.content | trim }}
            {% elif message['role'] == 'assistant' %}
{{ bos_token }}{{ message.content }}{{ eos_token }}
                {%- if message.reasoning_content is defined %} because {{ message.reasoning_content }}{% endif %}

            {% else %}
                {% continue %}
            {% endif %}
        {% endfor %}
        {% if add_generation_prompt %}
> {% endif %}""",
    "json": "{{ messages | tojson }} {{ messages[1] | tojson(indent=2) }} {{ 'é<' | tojson(ensure_ascii=True) }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "generation": "{% for m in messages %}"
    "{% generation %}{% set x = 1 %}{{ m.content }}{% endgeneration %}{{ x }}{% endfor %}",
    "absent": "{{ tools }}{{ documents }}{{ unknown }}{{ messages[0].name }}{{ 'name' in messages[2] }}",
    "macro": "{% macro turn(m) %}[{{ m.role }}]{{ m.content }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{% endfor %}",
    "methods": "{{ messages[1].content.strip().split(' ') | join('|') }}{{ messages[0]['role'].upper() }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_the_text_is_that_of_transformers(template: str, add_generation_prompt: bool) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), bos_token="<s>", eos_token="</s>")
    expected = theirs.apply_chat_template(
        CHAT, chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    assert render_chat(template, CHAT, add_generation_prompt, bos_token="<s>", eos_token="</s>") == expected


def test_the_default_template() -> None:
    assert render_chat(DEFAULT_CHAT_TEMPLATE, CHAT[:2], add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n  What is <b>2 & 2</b>?\n<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_date() -> None:
    assert render_chat("{{ strftime_now('%Y') }}", CHAT) == datetime.now().strftime("%Y")


def test_messages_are_not_changed() -> None:
    before = json.dumps(CHAT)
    render_chat("{{ messages }}", CHAT)
    assert json.dumps(CHAT) == before


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ raise_exception('roles must\n alternate') }}",
            "the chat template refuses these messages: roles must alternate",
        ),
        ("{{ messages[0].content + 1 }}", "the chat template refuses these messages: can only concatenate str"),
        ("{{ messages[9].content.x }}", "the chat template refuses these messages: "),
        ("{{ 1 / 0 }}", "the chat template refuses these messages: division by zero"),
        ("{{ ''.__class__.__mro__ }}", "the chat template refuses these messages: access to attribute"),
        ("{{ messages.append(1) }}", "the chat template refuses these messages: access to attribute 'append'"),
        ("{% for i in range(10000000) %}{% endfor %}", "the chat template refuses these messages: Range too big"),
        ("a\n{% if %}", "the chat template is malformed: line 2: Expected an expression"),
        ("{% include 'x' %}", "the chat template refuses these messages: no loader"),
    ],
)
def test_a_template_that_fails_is_told_in_one_line(template: str, message: str) -> None:
    with pytest.raises(ChatTemplateError) as caught:
        render_chat(template, CHAT)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages: empty; a chat needs at least one message"),
        (["hello"], "messages[0] = 'hello': a message is a mapping with role and content"),
        ([{"role": "user", "content": object()}], "messages[0].content: object is no plain data; use text, numbers"),
        ([{"role": "user", "content": [{"text": b""}]}], "messages[0].content[0].text: bytes is no plain data"),
        ([{"role": "user"}], "the chat template refuses these messages: "),
    ],
)
def test_messages_that_are_none_are_told_in_one_line(messages: list[Any], message: str) -> None:
    with pytest.raises(ChatTemplateError) as caught:
        render_chat(DEFAULT_CHAT_TEMPLATE, messages)
    assert str(caught.value).startswith(message)
