"""Streaming over a scripted engine: what text comes out of which tokens, and when."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.runtime import EngineInfo, Event, FinishReason, SamplingParams, TokenizerError
from smidgen.runtime.chat_template import ChatTemplateError
from smidgen.runtime.generation import (
    Chunk,
    StopStrings,
    encode_chat,
    encode_prompt,
    end_of_turn_ids,
    generate_texts,
    stream,
)

BOS, EOS, THE = 256, 257, 258


class Bytes:
    """A token a byte, and one that, like SentencePiece's, drops its leading space where a text begins."""

    kind = "byte_bpe"
    vocab_size = 259
    bos_id: int | None = BOS
    adds_bos = True
    eos_id: int | None = EOS
    pad_id = None
    special_tokens = {"<s>": BOS, "</s>": EOS}  # noqa: RUF012
    chat_template: str | None = None
    fingerprint = "bytes"
    invalid_bytes = "replace"

    def token_bytes(self, token: int, first: bool = False) -> bytes:
        if token == THE:
            return b"the" if first else b" the"
        return {BOS: b"<s>", EOS: b"</s>"}.get(token) or bytes([token])

    def encode(self, text: str, bos: bool = False, special: bool = False) -> list[int]:
        return [BOS] * bos + list(text.encode())

    def encode_batch(self, texts: Sequence[str], bos: bool = False, special: bool = False) -> list[list[int]]:
        return [self.encode(text, bos, special) for text in texts]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        return b"".join(self.token_bytes(token, i == 0) for i, token in enumerate(ids)).decode(errors="replace")

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


class Scripted:
    """Gives every prompt the next of the scripted answers, a token a step; EOS ends an answer."""

    info = EngineInfo("scripted", 259, 100, (EOS,), 0, 8)

    def __init__(self, *answers: str | Sequence[int]) -> None:
        self.answers = [list(answer.encode()) if isinstance(answer, str) else list(answer) for answer in answers]
        self.prompts: list[list[int]] = []
        self.active: dict[int, tuple[list[int], int]] = {}
        self.cancelled: list[int] = []

    def submit(self, ids: Sequence[int], params: SamplingParams) -> int:
        if len(ids) > 50:
            raise ValueError("too long")
        request = len(self.prompts)
        self.prompts.append(list(ids))
        self.active[request] = (self.answers[request], params.max_new_tokens)
        return request

    def step(self) -> list[Event]:
        events = [Event(request, None, "cancelled") for request in self.cancelled]
        self.cancelled = []
        for request, (tokens, left) in list(self.active.items()):
            token, *rest = tokens
            finish: FinishReason | None = "stop" if token == EOS else "length" if left == 1 else None
            if finish:
                del self.active[request]
            else:
                self.active[request] = (rest, left - 1)
            events.append(Event(request, token, finish, logprob=-float(left)))
        return events

    def cancel(self, request: int) -> None:
        if self.active.pop(request, None):
            self.cancelled.append(request)


def pieces(stop: Sequence[str], texts: Sequence[str]) -> list[str]:
    """What may be shown after each text, and at the end."""
    stops = StopStrings(stop)
    return [*(stops.push(text) for text in texts), stops.finish()]


def test_stop_strings_hold_back_what_may_become_one() -> None:
    assert pieces(["END"], ["a", "bE", "N", "c", "E"]) == ["a", "b", "", "ENc", "", "E"]
    assert pieces(["END"], ["abEN", "D more", "x"]) == ["ab", "", "", ""]
    assert pieces(["\n\n"], ["a\n", "b\n", "\n", "c"]) == ["a", "\nb", "", "", ""]
    assert pieces([], ["a", "b"]) == ["a", "b", ""]


def test_stop_strings_that_repeat_or_contain_each_other() -> None:
    assert pieces(["aab"], list("aaaab")) == ["", "", "a", "a", "", ""]
    # "b" is complete before "abc" could be; ending together, the longer one counts.
    assert "".join(pieces(["abc", "b"], ["xabcd"])) == "xa"
    assert "".join(pieces(["bc", "abc"], ["xabcd"])) == "x"


@settings(max_examples=300, deadline=None)
@given(
    st.text("ab", max_size=20),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 20), max_size=6),
)
def test_stop_strings_do_not_depend_on_the_pieces(text: str, stop: list[str], cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown = "".join(pieces(stop, [text[a:b] for a, b in itertools.pairwise(bounds)]))
    first = next((text[:n] for n in range(len(text) + 1) if text[:n].endswith(tuple(stop))), None) if stop else None
    if first is None:
        assert shown == text
    else:
        assert shown == first[: -max(len(s) for s in stop if first.endswith(s))]


def test_stream_of_one_prompt() -> None:
    engine = Scripted("né!")
    chunks = list(stream(engine, Bytes(), ["Hi"], SamplingParams(max_new_tokens=4)))
    assert engine.prompts == [[BOS, *b"Hi"]]
    assert [chunk.text for chunk in chunks] == ["n", "", "é", "!"]
    assert [chunk.token for chunk in chunks] == list("né!".encode())
    assert [chunk.finish_reason for chunk in chunks] == [None, None, None, "length"]


def test_an_unfinished_character_comes_with_the_last_chunk() -> None:
    chunks = list(stream(Scripted("é"), Bytes(), ["x"], SamplingParams(max_new_tokens=1)))
    assert chunks == [Chunk(0, "�", 0xC3, "length", -1.0)]


def test_end_tokens_end_the_answer_and_are_not_shown() -> None:
    [completion] = generate_texts(Scripted([*b"ab", EOS]), Bytes(), ["x"], SamplingParams(max_new_tokens=9))
    assert (completion.text, completion.finish_reason) == ("ab", "stop")
    assert completion.tokens == [*b"ab", EOS]


def test_stop_string_cuts_and_cancels() -> None:
    engine = Scripted("one two three four", "1\n2\n3\n4\n5\n6\n7\n8\n9\n")
    params = SamplingParams(max_new_tokens=18, stop=("thr", "zzz"))
    first, second = generate_texts(engine, Bytes(), ["x", "y"], params)
    assert (first.text, first.finish_reason) == ("one two ", "stop")
    assert bytes(first.tokens) == b"one two thr"
    assert (second.text, second.finish_reason) == ("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "length")
    assert not engine.active


def test_text_held_for_a_stop_string_is_released_at_the_end() -> None:
    [completion] = generate_texts(Scripted("ab"), Bytes(), ["x"], SamplingParams(max_new_tokens=2, stop=("bc",)))
    assert (completion.text, completion.finish_reason) == ("ab", "length")
    [completion] = generate_texts(
        Scripted([*b"ab", EOS]), Bytes(), ["x"], SamplingParams(max_new_tokens=9, stop=("bc",))
    )
    assert (completion.text, completion.finish_reason) == ("ab", "stop")


def test_the_answer_goes_on_from_the_prompt() -> None:
    """A word's leading space is part of the answer, unless the answer is the beginning of the text."""
    engine = Scripted([THE, EOS], [THE, EOS], [THE, EOS])
    prompts = ["in", "", [BOS]]
    assert [c.text for c in generate_texts(engine, Bytes(), prompts, SamplingParams())] == [" the", "the", "the"]


def test_each_prompt_can_have_its_own_parameters() -> None:
    params = [SamplingParams(max_new_tokens=1), SamplingParams(max_new_tokens=3, stop=("c",))]
    first, second = generate_texts(Scripted("abc", "abc"), Bytes(), ["x", [1, 2]], params)
    assert (first.text, first.num_prompt_tokens) == ("a", 2)
    assert (second.text, second.num_prompt_tokens) == ("ab", 2)
    assert second.logprobs == [-3.0, -2.0, -1.0]
    assert generate_texts(Scripted(), Bytes(), [], SamplingParams()) == []


def test_leaving_a_stream_cancels_what_is_unfinished() -> None:
    engine = Scripted("abcdef", "abcdef", "xy")
    chunks = stream(engine, Bytes(), ["x", "y"], SamplingParams(max_new_tokens=6))
    next(chunks)
    chunks.close()
    assert not engine.active
    # The engine's notices of it do not disturb the next stream.
    [completion] = generate_texts(engine, Bytes(), ["z"], SamplingParams(max_new_tokens=2))
    assert completion.text == "xy"


def test_a_refused_prompt_leaves_nothing_behind() -> None:
    engine = Scripted("abc", "abc")
    with pytest.raises(ValueError, match="too long"):
        list(stream(engine, Bytes(), ["x", "y" * 60], SamplingParams()))
    assert not engine.active


def test_prompts_to_tokens() -> None:
    tokenizer = Bytes()
    assert encode_prompt(tokenizer, "a") == [BOS, 97]
    assert encode_prompt(tokenizer, "") == [BOS]
    tokenizer.bos_id, tokenizer.adds_bos = None, False
    assert encode_prompt(tokenizer, "a") == [97]
    assert encode_prompt(tokenizer, "") == [EOS]
    tokenizer.eos_id = None
    with pytest.raises(TokenizerError, match="prompt is empty"):
        encode_prompt(tokenizer, "")


def test_a_tokenizer_may_say_that_prompts_need_no_bos() -> None:
    tokenizer = Bytes()
    tokenizer.adds_bos = False
    assert encode_prompt(tokenizer, "a") == [97]
    assert encode_prompt(tokenizer, "") == [EOS]
    tokenizer.eos_id = None
    assert encode_prompt(tokenizer, "") == [BOS]


def test_chats_to_tokens() -> None:
    tokenizer = Bytes()
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(ChatTemplateError, match="no chat template"):
        encode_chat(tokenizer, messages)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}"
    assert encode_chat(tokenizer, messages) == list(b"<s>[hi]")
    assert end_of_turn_ids(tokenizer) == ()


@pytest.mark.parametrize(
    ("behind", "expected"),
    [("{{ eos_token }}", (EOS,)), (" </s>\n", (EOS,)), ("\n", ()), ("", ()), ("\n### ", ())],
)
def test_the_token_behind_the_assistants_words_ends_its_turn(behind: str, expected: tuple[int, ...]) -> None:
    class Special(Bytes):
        chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}" + behind + "{% endfor %}"

        def encode(self, text: str, bos: bool = False, special: bool = False) -> list[int]:
            assert special
            return [EOS, *text[4:].encode()] if text.startswith("</s>") else list(text.encode())

    assert end_of_turn_ids(Special()) == expected
