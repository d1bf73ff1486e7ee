"""Byte-level BPE: every text comes back, and the ids are those of `tokenizers` and transformers."""

from __future__ import annotations

import json
import pickle
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from smidgen.runtime.errors import TokenizerError
from smidgen.tokenization import BaseTokenizer, load_tokenizer, train_tokenizer

Trained = Callable[[str], BaseTokenizer]


def reference(tokenizer: BaseTokenizer, folder: Path, special: bool = False) -> Reference:
    """The saved file in its own library."""
    tokenizer.save(folder)
    engine = Reference.from_file(str(folder / "tokenizer.json"))
    engine.encode_special_tokens = not special
    return engine


def test_every_text_comes_back_and_ids_equal_those_of_tokenizers(
    trained: Trained, texts: st.SearchStrategy[str], tmp_path: Path
) -> None:
    tokenizer = trained("byte_bpe")
    ordinary = reference(tokenizer, tmp_path)
    special = reference(tokenizer, tmp_path, special=True)

    @settings(max_examples=300, deadline=None)
    @given(texts)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not set(ids) & set(tokenizer.special_tokens.values())
        assert ids == ordinary.encode(text, add_special_tokens=False).ids
        with_special = tokenizer.encode(text, special=True)
        assert tokenizer.decode(with_special) == text
        assert with_special == special.encode(text, add_special_tokens=False).ids

    check()


def test_any_ids_decode_as_in_tokenizers(trained: Trained, tmp_path: Path) -> None:
    tokenizer = trained("byte_bpe")
    engine = reference(tokenizer, tmp_path)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20))
    def check(ids: list[int]) -> None:
        assert tokenizer.decode(ids) == engine.decode(ids, skip_special_tokens=False)
        assert tokenizer.decode(ids, skip_special=True) == engine.decode(ids, skip_special_tokens=True)

    check()


def test_special_tokens_come_first_and_hold_for_any_size(corpus: list[str]) -> None:
    expected = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "<|pad|>": 3}
    for size in (260, 300):
        tokenizer = train_tokenizer("byte_bpe", corpus, size)
        assert tokenizer.vocab_size == size
        assert tokenizer.special_tokens == expected
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 0, 3)
        assert not tokenizer.adds_bos


def test_text_that_spells_a_special_token_is_that_token_only_on_request(trained: Trained) -> None:
    tokenizer = trained("byte_bpe")
    text = "<|im_start|>user\nhi<|im_end|>"
    assert 1 not in tokenizer.encode(text)
    assert tokenizer.encode(text, special=True)[0] == 1
    assert tokenizer.decode(tokenizer.encode(text, special=True), skip_special=True) == "user\nhi"
    assert tokenizer.encode("a", bos=True) == [0, *tokenizer.encode("a")]


def test_training_is_deterministic_and_reads_an_iterator_once(corpus: list[str], trained: Trained) -> None:
    again = train_tokenizer("byte_bpe", iter(corpus), 600)
    assert again.fingerprint == trained("byte_bpe").fingerprint
    assert train_tokenizer("byte_bpe", corpus, 599).fingerprint != again.fingerprint


def test_a_small_corpus_gives_a_smaller_vocabulary_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = train_tokenizer("byte_bpe", ["hello hello"], 1000)
    assert 260 < tokenizer.vocab_size < 270
    assert caplog.messages == [
        f"vocab_size = 1000: the texts have pairs for {tokenizer.vocab_size} ids only; the tokenizer has that many"
    ]
    assert tokenizer.decode(tokenizer.encode("other text")) == "other text"


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(TokenizerError, match="vocab_size = 259: byte_bpe needs at least 260"):
        train_tokenizer("byte_bpe", ["text"], 259)


@pytest.mark.parametrize("length", [100_000, 300_000, 1_200_000])
def test_long_runs_of_whitespace(trained: Trained, tmp_path: Path, length: int) -> None:
    # tiktoken's engine panics on the longest of these.
    tokenizer = trained("byte_bpe")
    text = "a" + " " * length + "b"
    ids = tokenizer.encode(text)
    assert ids == reference(tokenizer, tmp_path).encode(text).ids
    assert tokenizer.decode(ids) == text


def test_lone_surrogates_are_refused(trained: Trained) -> None:
    message = "lone surrogate, U\\+D83D, at position 2"
    with pytest.raises(TokenizerError, match=message):
        trained("byte_bpe").encode("ab\ud83d")
    with pytest.raises(TokenizerError, match=message):
        trained("byte_bpe").encode_batch(["fine", "ab\ud83d"])
    with pytest.raises(TokenizerError, match=message):
        train_tokenizer("byte_bpe", ["ab\ud83d"], 300)


def test_ids_outside_the_vocabulary_are_refused(trained: Trained) -> None:
    tokenizer = trained("byte_bpe")
    for ids in ([5, 600], [-1], [600]):
        with pytest.raises(TokenizerError, match=r"id (600|-1): not in the vocabulary, whose ids are 0 to 599"):
            tokenizer.decode(ids)


def test_transformers_loads_the_folder(
    trained: Trained, auto_tokenizer: Callable[..., Any], texts: st.SearchStrategy[str], tmp_path: Path
) -> None:
    tokenizer = trained("byte_bpe")
    theirs = auto_tokenizer(tokenizer, tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 0, 3)
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.chat_template == tokenizer.chat_template

    @settings(max_examples=100, deadline=None)
    @given(texts)
    def check(text: str) -> None:
        assert tokenizer.encode(text, special=True) == theirs.encode(text)
        assert tokenizer.encode(text) == theirs.encode(text, split_special_tokens=True)
        assert theirs.decode(tokenizer.encode(text)) == text

    check()


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "deepseek_v3", "bitnet"])
def test_transformers_loads_it_beside_any_model(
    trained: Trained, auto_tokenizer: Callable[..., Any], tmp_path: Path, model_type: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    text = "  the king's 240 geese \n\n 日本"
    theirs = auto_tokenizer(trained("byte_bpe"), tmp_path)
    assert theirs.encode(text) == trained("byte_bpe").encode(text)


def test_a_saved_folder_loads_again(trained: Trained, tmp_path: Path) -> None:
    tokenizer = trained("byte_bpe")
    tokenizer.save(tmp_path / "a")
    loaded = load_tokenizer(tmp_path / "a")
    assert loaded.kind == "byte_bpe"
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.special_tokens == tokenizer.special_tokens
    loaded.save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_saved_again_by_transformers_it_is_the_same(
    trained: Trained, auto_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    tokenizer = trained("byte_bpe")
    auto_tokenizer(tokenizer, tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    loaded = load_tokenizer(tmp_path / "theirs")
    assert loaded.kind == "byte_bpe"
    assert loaded.fingerprint == tokenizer.fingerprint


def digits_tokenizer(corpus: list[str], folder: Path) -> Reference:
    """A tokenizer.json like SmolLM2's: digits stand alone, special tokens come first."""
    engine = Reference(BPE())
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=600, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator(corpus, trainer)
    folder.mkdir()
    engine.save(str(folder / "tokenizer.json"))
    return engine


def test_single_digits_are_taken_over_by_the_fast_engine(
    corpus: list[str], texts: st.SearchStrategy[str], tmp_path: Path
) -> None:
    engine = digits_tokenizer(corpus, tmp_path / "digits")
    engine.encode_special_tokens = True
    tokenizer = load_tokenizer(tmp_path / "digits")
    assert tokenizer.kind == "byte_bpe"
    assert tokenizer.eos_id == 0

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.sampled_from(["1", "23", " ", "   ", "\n", "٣", "Ⅷ", "²"]) | texts, max_size=6).map("".join))
    def check(text: str) -> None:
        assert tokenizer.encode(text) == engine.encode(text).ids

    check()


@pytest.mark.parametrize("split_digits", [False, True])
def test_every_character_is_split_as_in_tokenizers(
    trained: Trained, corpus: list[str], tmp_path: Path, split_digits: bool
) -> None:
    """The two engines bring Unicode tables of their own: they must put each character in the same class."""
    if split_digits:
        engine = digits_tokenizer(corpus, tmp_path / "digits")
        tokenizer = load_tokenizer(tmp_path / "digits")
    else:
        tokenizer = trained("byte_bpe")
        engine = reference(tokenizer, tmp_path)
    # Of the large blocks (ideographs, syllables, private use, not assigned) every hundredth will do.
    letters = {"Lo", "Co", "Cn"}
    characters = [
        chr(code)
        for code in range(0x110000)
        if not 0xD800 <= code < 0xE000 and (code % 101 == 0 or unicodedata.category(chr(code)) not in letters)
    ]
    for start in range(0, len(characters), 1024):
        text = "".join(f"a{c}1{c} {c}.  {c}" for c in characters[start : start + 1024])
        assert tokenizer.encode(text) == engine.encode(text).ids
    # Digits since Unicode 17.
    assert tokenizer.encode("a \U00011de3 \U00016ff5") == engine.encode("a \U00011de3 \U00016ff5").ids


def test_gpt2_files_give_the_ids_of_transformers(gpt2: BaseTokenizer, corpora: Path, texts: Any) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Tokenizer.from_pretrained(corpora / "gpt2")
    assert gpt2.kind == "byte_bpe"
    assert (gpt2.vocab_size, gpt2.eos_id, gpt2.bos_id) == (50257, 50256, 50256)
    assert gpt2.encode("Hello world <|endoftext|>", special=True) == [15496, 995, 220, 50256]

    @settings(max_examples=100, deadline=None)
    @given(texts)
    def check(text: str) -> None:
        assert gpt2.encode(text, special=True) == theirs.encode(text)
        assert gpt2.decode(gpt2.encode(text)) == text

    check()
    shakespeare = (corpora / "tinyshakespeare.txt").read_text()[:200_000]
    assert gpt2.encode(shakespeare) == theirs.encode(shakespeare)


def test_gpt2_files_save_to_a_folder_that_transformers_loads(
    gpt2: BaseTokenizer, auto_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    theirs = auto_tokenizer(gpt2, tmp_path)
    assert theirs.eos_token_id == 50256
    assert theirs.encode("Hello, 日本 <|endoftext|>") == gpt2.encode("Hello, 日本 <|endoftext|>", special=True)
    assert load_tokenizer(tmp_path).fingerprint == gpt2.fingerprint


def test_batches_equal_single_texts(trained: Trained) -> None:
    tokenizer = trained("byte_bpe")
    rng = random.Random(1)
    texts = ["".join(rng.choices("the king  \n日", k=rng.choice([0, 3, 500]))) for _ in range(800)]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(["a", ""], bos=True) == [tokenizer.encode("a", bos=True), [0]]
    assert tokenizer.encode_batch([]) == []


def test_a_tokenizer_can_be_sent_to_another_process() -> None:
    tokenizer: Any = train_tokenizer("byte_bpe", ["one two three"] * 3, 300)
    ids = tokenizer.encode("one, two")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("one, two") == ids
    assert copy.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("text", ["", "one two", "né 😀\n\n x", "<|endoftext|>", "a" + " " * (1 << 18) + "b"])
def test_an_array_holds_the_ids_of_the_list(text: str) -> None:
    tokenizer: Any = train_tokenizer("byte_bpe", ["one two three"] * 3, 300)
    assert tokenizer.encode_array(text).tolist() == tokenizer.encode(text)


def test_an_array_of_no_text_is_refused() -> None:
    tokenizer: Any = train_tokenizer("byte_bpe", ["one two three"] * 3, 300)
    with pytest.raises(TokenizerError, match="lone surrogate"):
        tokenizer.encode_array("\ud800")
