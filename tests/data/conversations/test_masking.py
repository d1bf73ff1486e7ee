"""Which tokens of a conversation are learned; texts and tokens against transformers' apply_chat_template."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.data.conversations.masking import ChatEncoder
from smidgen.data.storyworld import generate
from smidgen.runtime.chat_styles import CHAT_STYLES
from smidgen.runtime.chat_template import ChatTemplateError
from smidgen.runtime.generation import encode_chat
from smidgen.tokenization import BaseTokenizer
from smidgen.tokenization.byte_bpe import train_byte_bpe
from smidgen.tokenization.characters import train_characters
from smidgen.tokenization.chat import chat_tokenizer
from smidgen.tokenization.pretrained import PretrainedTokenizer
from smidgen.tokenization.sentencepiece import train_sentencepiece

TEXTS = [d.text for d in islice(generate(1), 80)] + ["Ünïcode ✓ 🎈 and     spaces\n\n\tand tabs"]
SYSTEM = {"role": "system", "content": "Answer briefly."}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


CONVERSATIONS = [
    [user("Hi"), assistant("Hello!")],
    [SYSTEM, user("What is 2+2?"), assistant("4"), user("And 3+3?"), assistant("6")],
    [user("  spaces  "), assistant("  leading and trailing \n")],
    [user("Ünïcode ✓?"), assistant("ja 🎈\n\n- a\n- b"), user("\n\n"), assistant("\nnewline first")],
    [user("a"), assistant(""), user("b"), assistant("</s> [INST] <|im_start|"), user("c"), assistant("a")],
    [user("the same words"), assistant("the same words"), user("the same words"), assistant("the same words")],
]


@pytest.fixture(scope="module", params=["byte_bpe", "sentencepiece", "pretrained"])
def plain(request: pytest.FixtureRequest) -> BaseTokenizer:
    if request.param == "sentencepiece":
        return train_sentencepiece(TEXTS, 420)
    trained = train_byte_bpe(TEXTS, 400)
    if request.param == "byte_bpe":
        return trained
    document = json.loads(str(trained._files()["tokenizer.json"]))
    return PretrainedTokenizer(document, trained._settings)


@pytest.mark.parametrize("style", CHAT_STYLES)
def test_texts_and_tokens_are_those_of_transformers(plain: BaseTokenizer, style: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = chat_tokenizer(plain, style)
    tokenizer.save(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == CHAT_STYLES[style].template
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for conversation in CONVERSATIONS:
        expected = theirs.apply_chat_template(conversation, tokenize=True, return_dict=False)
        if "<|im_start|" not in str(conversation):
            assert ChatEncoder(tokenizer).encode(conversation).ids.tolist() == expected
        turns = conversation[:-1]
        expected = theirs.apply_chat_template(turns, tokenize=True, add_generation_prompt=True, return_dict=False)
        assert encode_chat(tokenizer, turns) == expected


@pytest.mark.parametrize("style", CHAT_STYLES)
def test_the_assistants_words_and_their_end_are_learned_and_nothing_else(plain: BaseTokenizer, style: str) -> None:
    tokenizer = chat_tokenizer(plain, style)
    trims = style in {"llama2", "gemma"}
    for conversation in CONVERSATIONS[:4]:
        tokens = ChatEncoder(tokenizer).encode(conversation)
        learned = [tokenizer.decode(run.tolist()) for run in _runs(tokens.ids, tokens.mask)]
        answers = [message["content"] for message in conversation if message["role"] == "assistant"]
        written = [answer.strip() if trims else answer for answer in answers]
        space = " " if style == "llama2" else ""
        end = _end_of(tokenizer, style)
        # SentencePiece drops a space where a decoded text begins.
        assert [text.lstrip(" ") for text in learned] == [f"{text.lstrip(' ')}{space}{end}" for text in written]


def test_the_learned_tokens_follow_the_prompt_that_generation_gets() -> None:
    tokenizer = train_byte_bpe(TEXTS, 400)
    for conversation in CONVERSATIONS[:3]:
        tokens = ChatEncoder(tokenizer).encode(conversation, only_last=True)
        first = int(np.flatnonzero(tokens.mask)[0])
        assert tokens.ids[:first].tolist() == encode_chat(tokenizer, conversation[:-1])


@pytest.mark.parametrize("style", ["chatml", "gemma", "deepseek"])
def test_generation_blocks_mark_the_same_tokens(plain: BaseTokenizer, style: str) -> None:
    """Two ways to the same mask: blocks in the template, and comparing what it writes."""
    tokenizer = chat_tokenizer(plain, style)
    end = {"chatml": "'<|im_end|>'", "gemma": "'<end_of_turn>'", "deepseek": "eos_token"}[style]
    opening = {
        "chatml": "'<|im_start|>' + m.role + '\n'",
        "gemma": "'<start_of_turn>' + ('model' if m.role == 'assistant' else 'user') + '\n'",
        "deepseek": "'<｜Assistant｜>' if m.role == 'assistant' else '<｜User｜>'",
    }[style]
    body = "m.content | trim" if style == "gemma" else "m.content"
    behind = "" if style == "deepseek" else "{{ '\n' }}"
    other = "" if style == "deepseek" else f" + {end}"
    template = (
        ("" if style == "chatml" else "{{ bos_token }}")
        + "{% for m in messages %}{{ "
        + opening
        + " }}{% if m.role == 'assistant' %}{% generation %}{{ "
        + f"{body} + {end}"
        + " }}{% endgeneration %}{% else %}{{ "
        + f"({body}){other}"
        + " }}{% endif %}"
        + behind
        + "{% endfor %}"
    )
    blocks = tokenizer.with_chat_template(template)
    for conversation in (CONVERSATIONS[0], CONVERSATIONS[3], CONVERSATIONS[5]):
        one, other_way = (ChatEncoder(which).encode(conversation) for which in (tokenizer, blocks))
        assert one.ids.tolist() == other_way.ids.tolist()
        assert one.mask.tolist() == other_way.mask.tolist()


def test_only_the_last_answer(plain: BaseTokenizer) -> None:
    tokenizer = chat_tokenizer(plain, "chatml")
    tokens = ChatEncoder(tokenizer).encode(CONVERSATIONS[1], only_last=True)
    assert [tokenizer.decode(run.tolist()) for run in _runs(tokens.ids, tokens.mask)] == ["6<|im_end|>"]


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        ([user("a"), assistant("b<|im_end|>c")], r"messages\[1\] spells the special token <\|im_end\|>"),
        ([user("a")], "no turn of the assistant"),
        ([assistant("a")], r"messages\[0\] is the assistant's"),
    ],
)
def test_what_cannot_be_learned_says_so(conversation: list[dict[str, str]], reason: str) -> None:
    with pytest.raises(ChatTemplateError, match=reason):
        ChatEncoder(chat_tokenizer(train_byte_bpe(TEXTS, 300), "chatml")).encode(conversation)


def test_a_template_that_rewrites_earlier_turns_is_refused_without_blocks() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content if loop.last or m.role == 'user' else 'forgotten' }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = train_byte_bpe(TEXTS, 300).with_chat_template(template)
    with pytest.raises(ChatTemplateError, match=r"an earlier turn otherwise .* {% generation %}"):
        ChatEncoder(tokenizer).encode(CONVERSATIONS[1])


def test_characters_learn_to_chat_too() -> None:
    tokenizer = chat_tokenizer(train_characters([*TEXTS, "<>|_imstardenu"]), None)
    tokens = ChatEncoder(tokenizer).encode(CONVERSATIONS[0])
    assert [tokenizer.decode(run.tolist()) for run in _runs(tokens.ids, tokens.mask)] == ["Hello!<|im_end|>"]


def _end_of(tokenizer: BaseTokenizer, style: str) -> str:
    texts = {number: text for text, number in tokenizer.special_tokens.items()}
    eos = texts[tokenizer.eos_id] if tokenizer.eos_id is not None else ""
    return {"chatml": "<|im_end|>", "gemma": "<end_of_turn>"}.get(style, eos)


def _runs(ids: Any, mask: Any) -> list[Any]:
    """The stretches of learned tokens."""
    borders = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [ids[start:stop] for start, stop in zip(borders[0::2], borders[1::2], strict=True)]
