"""Streamed text: the same as decoding at the end, never half a character, never taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.runtime.detokenizer import Detokenizer
from smidgen.tokenization import BaseTokenizer, train_tokenizer

CORPUS = ["the king went home, naïve café 日本語 😀 hello hello hello\n    indented\n"] * 20


def stream(tokenizer: BaseTokenizer, ids: Sequence[int], skip_special: bool = False) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special)
    return [*map(detokenizer.push, ids), detokenizer.finish()]


@pytest.fixture(scope="module")
def make() -> Callable[[str], BaseTokenizer]:
    made: dict[str, BaseTokenizer] = {}
    return lambda kind: made.setdefault(kind, train_tokenizer(kind, CORPUS, 320))


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece", "characters"])
@pytest.mark.parametrize("skip_special", [False, True])
def test_any_ids(make: Callable[[str], BaseTokenizer], kind: str, skip_special: bool) -> None:
    tokenizer = make(kind)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    def check(ids: list[int]) -> None:
        assert "".join(stream(tokenizer, ids, skip_special)) == tokenizer.decode(ids, skip_special)

    check()


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece"])
@given(text=st.text())
@settings(deadline=None)
def test_any_text(make: Callable[[str], BaseTokenizer], kind: str, text: str) -> None:
    tokenizer = make(kind)
    ids = tokenizer.encode(text)
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids) == text


def test_a_character_comes_when_its_last_byte_does(make: Callable[[str], BaseTokenizer]) -> None:
    tokenizer = make("byte_bpe")
    byte = {number: tokenizer.token_bytes(number) for number in range(260)}  # type: ignore[attr-defined]
    ids = [next(number for number, data in byte.items() if data == bytes([value])) for value in "a😀é".encode()]
    assert stream(tokenizer, ids) == ["a", "", "", "", "😀", "", "é", ""]
    assert stream(tokenizer, ids[:3]) == ["a", "", "", "\ufffd"]


def test_only_the_first_space_of_a_sentencepiece_text_is_dropped(make: Callable[[str], BaseTokenizer]) -> None:
    tokenizer = make("sentencepiece")
    ids = tokenizer.encode("hello hello")
    assert [piece for piece in stream(tokenizer, ids) if piece] == ["hello", " hello"]
    assert stream(tokenizer, [1, *ids], skip_special=True)[1:] == stream(tokenizer, ids)
    assert "".join(stream(tokenizer, [1, *ids])) == "<s> hello hello"


class OnlyDecode:
    """A tokenizer of another make, byte-level, of which only the contract is known."""

    def __init__(self, tokenizer: BaseTokenizer) -> None:
        self._tokenizer = tokenizer
        self.special_tokens = tokenizer.special_tokens
        self.longest = 0

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        self.longest = max(self.longest, len(ids))
        return self._tokenizer.decode(ids, skip_special)


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece", "characters"])
def test_tokenizers_of_which_only_decode_is_known(make: Callable[[str], BaseTokenizer], kind: str) -> None:
    tokenizer = OnlyDecode(make(kind))
    text = "the king went home, naïve café 日本語 😀\n\n  hello" * 20
    ids = make(kind).encode(text) if kind != "characters" else make(kind).encode("the king 日\n  went" * 20)
    pieces = stream(tokenizer, ids)  # type: ignore[arg-type]
    assert "".join(pieces) == make(kind).decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)
    # The work a token does not grow with the text.
    assert tokenizer.longest < 12
