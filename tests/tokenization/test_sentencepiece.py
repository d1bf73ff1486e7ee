"""SentencePiece: ids and texts are those of its own library, in Smidgen and in transformers."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.runtime.errors import TokenizerError
from smidgen.tokenization import BaseTokenizer, load_tokenizer, train_tokenizer
from smidgen.tokenization.sentencepiece_model import PieceType, read_pieces, read_specification

Trained = Callable[[str], BaseTokenizer]


def library(tokenizer: BaseTokenizer, folder: Path) -> Any:
    """The saved model in SentencePiece itself."""
    tokenizer.save(folder)
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def check_against_library(tokenizer: BaseTokenizer, texts: st.SearchStrategy[str], folder: Path) -> None:
    theirs = library(tokenizer, folder)

    @settings(max_examples=300, deadline=None)
    @given(texts)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert ids == theirs.encode(text)
        assert tokenizer.decode(ids) == theirs.decode(ids)
        with_special = tokenizer.encode(text, special=True)
        assert tokenizer.decode(with_special) == tokenizer.decode(ids)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.integers(0, tokenizer.vocab_size - 1) | st.integers(3, 262), max_size=12))
    def check_any_ids(ids: list[int]) -> None:
        # The library leaves control pieces out, but lets them part the bytes of a character.
        ids = [token for token in ids if token not in tokenizer.special_tokens.values()]
        assert tokenizer.decode(ids) == theirs.decode(ids)
        assert tokenizer.decode([1, *ids, 2], skip_special=True) == theirs.decode([1, *ids, 2])

    check()
    check_any_ids()


def test_trained_model_against_the_library(trained: Trained, texts: st.SearchStrategy[str], tmp_path: Path) -> None:
    check_against_library(trained("sentencepiece"), texts, tmp_path)


def test_llama2_model_against_the_library(llama2: BaseTokenizer, texts: st.SearchStrategy[str], tmp_path: Path) -> None:
    check_against_library(llama2, texts, tmp_path)


def check_against_transformers(
    tokenizer: BaseTokenizer, load: Callable[..., Any], texts: st.SearchStrategy[str], folder: Path
) -> None:
    theirs = load(tokenizer, folder)
    assert len(theirs) == tokenizer.vocab_size

    @settings(max_examples=200, deadline=None)
    @given(texts)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert theirs.encode(text, add_special_tokens=False, split_special_tokens=True) == ids
        assert theirs.decode(ids) == tokenizer.decode(ids)
        if "<unk>" not in text:
            assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text, special=True)

    check()
    for length in range(100):
        for text in (" " * length, "x" + " " * length + "y", "\n" + " " * length, "a" * length):
            assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)


def test_transformers_loads_a_trained_folder(
    trained: Trained, auto_tokenizer: Callable[..., Any], texts: st.SearchStrategy[str], tmp_path: Path
) -> None:
    tokenizer = trained("sentencepiece")
    check_against_transformers(tokenizer, auto_tokenizer, texts, tmp_path)
    theirs = auto_tokenizer(tokenizer, tmp_path)
    assert (theirs.unk_token_id, theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 1, 2, 3)
    assert theirs.encode("the king") == tokenizer.encode("the king")
    assert theirs.chat_template == tokenizer.chat_template


def test_transformers_loads_a_llama2_folder(
    llama2: BaseTokenizer, auto_tokenizer: Callable[..., Any], texts: st.SearchStrategy[str], tmp_path: Path
) -> None:
    check_against_transformers(llama2, auto_tokenizer, texts, tmp_path)
    assert auto_tokenizer(llama2, tmp_path).encode("Hello") == llama2.encode("Hello", bos=True)


def test_merges_of_equal_priority_agree_with_transformers(
    llama2: BaseTokenizer, auto_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    """Repetitions, where a piece can be made in several ways and the leftmost must win."""
    theirs = auto_tokenizer(llama2, tmp_path)
    rng = random.Random(0)
    pieces = [llama2.id_to_token(number) or "" for number in range(259, 32000)]
    short = [piece for piece in pieces if len(piece) <= 3]
    for _ in range(1000):
        text = rng.choice(short) * rng.randint(1, 9) + rng.choice(short) * rng.randint(0, 5) + rng.choice(pieces)
        text = text.replace("▁", " ")
        assert theirs.encode(text, add_special_tokens=False) == llama2.encode(text)


def test_ids_of_a_trained_model(trained: Trained) -> None:
    tokenizer = trained("sentencepiece")
    assert tokenizer.vocab_size == 600
    assert [tokenizer.id_to_token(number) for number in range(7)] == [
        "<unk>",
        "<s>",
        "</s>",
        "<pad>",
        "<|im_start|>",
        "<|im_end|>",
        "<0x00>",
    ]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 3)
    assert tokenizer.special_tokens == {"<s>": 1, "</s>": 2, "<pad>": 3, "<|im_start|>": 4, "<|im_end|>": 5}
    assert tokenizer.decode(tokenizer.encode("\U0001f9ff unseen \x7f")) == "\U0001f9ff unseen \x7f"


def test_llama2(llama2: BaseTokenizer) -> None:
    assert (llama2.kind, llama2.vocab_size, llama2.bos_id, llama2.eos_id, llama2.pad_id) == (
        "sentencepiece",
        32000,
        1,
        2,
        None,
    )
    assert llama2.adds_bos
    assert llama2.encode("Hello this is a test", bos=True) == [1, 15043, 445, 338, 263, 1243]


def test_a_chat_comes_back_unchanged(trained: Trained) -> None:
    tokenizer = trained("sentencepiece")
    text = "<|im_start|>user\n hello<|im_end|>\n"
    ids = tokenizer.encode(text, special=True)
    assert ids[0] == 4
    assert 5 in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special=True) == "user\n hello\n"
    assert not {4, 5} & set(tokenizer.encode(text))


def test_training_is_deterministic_and_quiet(
    corpus: list[str], trained: Trained, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = trained("sentencepiece").fingerprint
    capfd.readouterr()
    assert train_tokenizer("sentencepiece", iter(corpus), 600).fingerprint == expected
    assert capfd.readouterr() == ("", "")


def test_a_saved_folder_loads_again(trained: Trained, tmp_path: Path) -> None:
    tokenizer = trained("sentencepiece")
    tokenizer.save(tmp_path / "a")
    loaded = load_tokenizer(tmp_path / "a")
    assert loaded.kind == "sentencepiece"
    assert loaded.fingerprint == tokenizer.fingerprint
    assert not loaded.adds_bos
    assert loaded.chat_template == tokenizer.chat_template
    loaded.save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_tokens_beyond_the_model(trained: Trained, tmp_path: Path, auto_tokenizer: Callable[..., Any]) -> None:
    """A fine-tuned folder in which the configuration adds tokens to the model's."""
    trained("sentencepiece").save(tmp_path / "base")
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes((tmp_path / "base" / "tokenizer.model").read_bytes())
    (folder / "tokenizer_config.json").write_text(
        '{"eos_token": "<|end|>", "added_tokens_decoder": {'
        '"2": {"content": "</s>", "special": true}, "600": {"content": "<|end|>", "special": true}, '
        '"601": {"content": "[TOOL]", "special": false}}}'
    )
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (602, 600)
    text = "the [TOOL] king<|end|>"
    assert 601 in tokenizer.encode(text)
    assert 600 not in tokenizer.encode(text)
    assert tokenizer.encode(text, special=True)[-1] == 600
    assert tokenizer.decode(tokenizer.encode(text)) == text
    theirs = auto_tokenizer(tokenizer, tmp_path / "saved")
    assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text, special=True)
    assert load_tokenizer(tmp_path / "saved").fingerprint == tokenizer.fingerprint


def test_a_vocabulary_too_small_for_the_text(corpus: list[str]) -> None:
    with pytest.raises(TokenizerError, match=r"vocab_size = 265: sentencepiece needs at least \d{3} for this text"):
        train_tokenizer("sentencepiece", corpus, 265)


def test_a_small_corpus_gives_a_smaller_vocabulary_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = train_tokenizer("sentencepiece", ["hello world"], 1000)
    assert 262 < tokenizer.vocab_size < 300
    assert caplog.messages == [
        f"vocab_size = 1000: the texts have pairs for {tokenizer.vocab_size} ids only; the tokenizer has that many"
    ]


def test_long_lines_count(corpus: list[str]) -> None:
    line = " ".join(corpus).replace("\n", " ")
    tokenizer = train_tokenizer("sentencepiece", [line * 20], 600)
    assert tokenizer.token_to_id("▁the") is not None


def test_lone_surrogates_are_refused(trained: Trained) -> None:
    with pytest.raises(TokenizerError, match="lone surrogate"):
        trained("sentencepiece").encode("\udc00")
    with pytest.raises(TokenizerError, match="lone surrogate"):
        train_tokenizer("sentencepiece", ["\udc00"], 400)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"])
def test_a_damaged_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(TokenizerError, match=str(tmp_path)):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("appended", [b"\x0a\x03\x0a\x01\xf8", b"\x12\x04\xe2\x02\x01\xf8"], ids=["piece", "surface"])
def test_a_model_whose_texts_are_none_is_refused(corpus: list[str], tmp_path: Path, appended: bytes) -> None:
    """The library takes such a model; it would fail at the first decoding."""
    (tmp_path / "tokenizer.model").write_bytes(make_model(corpus, vocab_size=200) + appended)
    with pytest.raises(TokenizerError, match=str(tmp_path)):
        load_tokenizer(tmp_path)


def make_model(corpus: list[str], **options: Any) -> bytes:
    model = io.BytesIO()
    lines = (text.replace("\n", " ") for text in corpus)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, minloglevel=2, **options)
    return model.getvalue()


@pytest.mark.parametrize(
    ("options", "is_bpe", "byte_fallback", "adds_dummy_prefix", "rewrites_text"),
    [
        ({"model_type": "unigram", "hard_vocab_limit": False}, False, False, True, True),
        ({"model_type": "bpe", "add_dummy_prefix": False}, True, False, False, True),
        (
            {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
            True,
            False,
            True,
            False,
        ),
        ({"model_type": "bpe", "byte_fallback": True}, True, True, True, True),
    ],
)
def test_the_models_specification(
    corpus: list[str],
    options: dict[str, Any],
    is_bpe: bool,
    byte_fallback: bool,
    adds_dummy_prefix: bool,
    rewrites_text: bool,
) -> None:
    found = read_specification(make_model(corpus, vocab_size=400, **options))
    assert (found.is_bpe, found.byte_fallback, found.adds_dummy_prefix, found.rewrites_text) == (
        is_bpe,
        byte_fallback,
        adds_dummy_prefix,
        rewrites_text,
    )


def test_the_models_pieces(corpora: Path) -> None:
    model = (corpora / "llama2" / "tokenizer.model").read_bytes()
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = read_pieces(model)
    assert [piece.text for piece in pieces] == [theirs.id_to_piece(number) for number in range(32000)]
    assert [piece.score for piece in pieces] == [theirs.get_score(number) for number in range(32000)]
    assert [piece.type == PieceType.BYTE for piece in pieces] == [theirs.is_byte(number) for number in range(32000)]


def test_a_model_that_has_no_exact_conversion_is_saved_alone(
    corpus: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "m.model").write_bytes(make_model(corpus, vocab_size=400, hard_vocab_limit=False))
    tokenizer = load_tokenizer(tmp_path / "m.model")
    tokenizer.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "tokenizer.json").exists()
    assert "normalises text or is no BPE" in caplog.text
    loaded = load_tokenizer(tmp_path / "saved")
    assert loaded.fingerprint == tokenizer.fingerprint
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    for text in ("  the  king", "ﬁne № 5 日", "\U0001f9ff"):
        assert loaded.encode(text) == theirs.encode(text)
        assert loaded.decode(loaded.encode(text)) == theirs.decode(theirs.encode(text))
