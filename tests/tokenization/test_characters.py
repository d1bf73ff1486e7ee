"""Characters: nanoGPT's recipe, and clear words about characters that are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.runtime.errors import TokenizerError
from smidgen.tokenization import BaseTokenizer, load_tokenizer, train_tokenizer
from smidgen.tokenization.characters import train_characters

ALPHABET = "abc XYZ\n▁'日😀e\u0301"


@pytest.fixture(scope="module")
def tokenizer() -> BaseTokenizer:
    return train_tokenizer("characters", [ALPHABET[:4], ALPHABET[4:]])


def test_ids_are_the_sorted_characters(tokenizer: BaseTokenizer) -> None:
    characters = sorted(set(ALPHABET))
    assert tokenizer.vocab_size == len(characters)
    assert tokenizer.encode("".join(characters)) == list(range(len(characters)))
    assert [tokenizer.id_to_token(number) for number in range(len(characters))] == characters
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.special_tokens) == (None, None, None, {})
    assert tokenizer.chat_template is None


def test_tinyshakespeare_has_nanogpts_65(corpora: Path) -> None:
    text = (corpora / "tinyshakespeare.txt").read_text()
    tokenizer = train_tokenizer("characters", [text])
    assert tokenizer.vocab_size == 65
    ids = {character: number for number, character in enumerate(sorted(set(text)))}
    assert tokenizer.encode(text) == [ids[character] for character in text]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(alphabet=ALPHABET))
def test_texts_of_known_characters_come_back(tokenizer: BaseTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_unknown_character_is_named_with_its_position(tokenizer: BaseTokenizer) -> None:
    message = r"character 'ö' \(U\+00F6\) at position 4: not among the 14 characters"
    with pytest.raises(TokenizerError, match=message):
        tokenizer.encode("ab cö")
    with pytest.raises(TokenizerError, match="lone surrogate"):
        tokenizer.encode("\ud800")
    with pytest.raises(TokenizerError, match="bos = True: this tokenizer has no token that begins a text"):
        tokenizer.encode("a", bos=True)


def test_transformers_loads_the_folder(
    tokenizer: BaseTokenizer, auto_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    theirs = auto_tokenizer(tokenizer, tmp_path)
    assert len(theirs) == tokenizer.vocab_size

    @settings(deadline=None)
    @given(st.text(alphabet=ALPHABET))
    def check(text: str) -> None:
        assert theirs.encode(text) == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text

    check()
    with pytest.raises(Exception, match="UNK"):
        theirs.encode("ö")


def test_a_saved_folder_loads_again(tokenizer: BaseTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.kind == "characters"
    assert loaded.fingerprint == tokenizer.fingerprint
    with pytest.raises(TokenizerError, match="not among the 14 characters"):
        loaded.encode("ö")


def test_an_end_of_text_token_on_request(auto_tokenizer: Callable[..., Any], tmp_path: Path) -> None:
    tokenizer = train_characters(["abc"], eos_token="<|endoftext|>")
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (4, 3)
    assert tokenizer.encode("ab<|endoftext|>", special=True) == [0, 1, 3]
    with pytest.raises(TokenizerError, match="character '<'"):
        tokenizer.encode("ab<|endoftext|>")
    theirs = auto_tokenizer(tokenizer, tmp_path)
    assert theirs.eos_token_id == 3
    assert theirs.encode("ab<|endoftext|>") == [0, 1, 3]
    loaded = load_tokenizer(tmp_path)
    assert (loaded.kind, loaded.eos_id, loaded.fingerprint) == ("characters", 3, tokenizer.fingerprint)


def test_vocab_size_is_a_limit() -> None:
    assert train_tokenizer("characters", ["abc"], 4096).vocab_size == 3
    with pytest.raises(TokenizerError, match="vocab_size = 2: the texts have 3 different characters; use at least 3"):
        train_tokenizer("characters", ["abc"], 2)
