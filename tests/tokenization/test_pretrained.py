"""Any tokenizer.json, with the ids and texts of `tokenizers`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from smidgen.runtime.detokenizer import Detokenizer
from smidgen.runtime.errors import TokenizerError
from smidgen.tokenization import BaseTokenizer, load_tokenizer

SPECIAL = ["<unk>", "<bos>", "<eos>"]


def byte_level(corpus: list[str]) -> Tokenizer:
    """A pre-tokenizer that is not taken over by tiktoken's engine."""
    engine = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}{1,3}|\s+|[^\s\p{L}\p{N}]+"), "isolated")
    engine.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator(corpus, trainer)
    return engine


def byte_fallback(corpus: list[str]) -> Tokenizer:
    """As Gemma's: spaces are marked, unknown characters are spelled in bytes."""
    engine = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    engine.normalizer = normalizers.Replace(" ", "▁")
    engine.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    engine.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=tokens, limit_alphabet=40, show_progress=False)
    engine.train_from_iterator(corpus, trainer)
    document = json.loads(engine.to_str())
    # The bytes are entries of the vocabulary, not special tokens.
    document["added_tokens"] = document["added_tokens"][: len(SPECIAL)]
    return Tokenizer.from_str(json.dumps(document))


def unigram(corpus: list[str]) -> Tokenizer:
    """As T5's: a decoder that is not a matter of single tokens' bytes."""
    engine = Tokenizer(models.Unigram())
    engine.normalizer = normalizers.NFKC()
    engine.pre_tokenizer = pre_tokenizers.Metaspace()
    engine.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    engine.train_from_iterator(corpus, trainer)
    return engine


MAKERS = [byte_level, byte_fallback, unigram]


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def engine(request: pytest.FixtureRequest, corpus: list[str], tmp_path: Path) -> Tokenizer:
    made: Tokenizer = request.param(corpus)
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<bos>", "eos_token": {"content": "<eos>"}}')
    return made


def test_ids_and_texts_equal_those_of_tokenizers(
    engine: Tokenizer, texts: st.SearchStrategy[str], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.kind == "pretrained"
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, None)
    assert tokenizer.vocab_size == engine.get_vocab_size()
    ordinary = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ordinary.encode_special_tokens = True

    @settings(max_examples=200, deadline=None)
    @given(texts)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert ids == ordinary.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(f"{text}<eos>", special=True) == engine.encode(f"{text}<eos>").ids
        assert tokenizer.decode(ids) == engine.decode(ids, skip_special_tokens=False)

    check()
    assert tokenizer.encode_batch(["a b", "", "<eos>"], bos=True) == [
        tokenizer.encode(text, bos=True) for text in ("a b", "", "<eos>")
    ]
    with pytest.raises(TokenizerError, match=f"id {tokenizer.vocab_size}: not in the vocabulary"):
        tokenizer.decode([5, tokenizer.vocab_size])


def test_streams_give_the_same_text(engine: Tokenizer, texts: st.SearchStrategy[str], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tmp_path)

    @settings(max_examples=100, deadline=None)
    @given(texts)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        stream = Detokenizer(tokenizer)
        assert "".join([*map(stream.push, ids), stream.finish()]) == tokenizer.decode(ids)

    check()


def test_transformers_loads_the_folder_saved_again(
    engine: Tokenizer, auto_tokenizer: Callable[[BaseTokenizer, Path], Any], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tmp_path)
    theirs = auto_tokenizer(tokenizer, tmp_path / "saved")
    assert (theirs.bos_token_id, theirs.eos_token_id) == (1, 2)
    text = "the king's 240 geese, hello"
    assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert load_tokenizer(tmp_path / "saved").fingerprint == tokenizer.fingerprint


def test_only_invalid_bytes_are_lost(corpus: list[str], tmp_path: Path) -> None:
    byte_fallback(corpus).save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") or 0 for byte in "é".encode() + b"\xff\xe2\x82"]
    assert tokenizer.decode(ids) == "é\ufffd\ufffd\ufffd"


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["model"].update(dropout=0.1),
        lambda document: document.update(normalizer={"type": "NFC"}),
        lambda document: document["pre_tokenizer"].update(add_prefix_space=True),
        lambda document: document["model"]["merges"].reverse(),
        lambda document: document["model"]["merges"].pop(),
        lambda document: document["model"]["vocab"].update({"日": 600}),
        lambda document: document["added_tokens"][1].update(special=False),
        lambda document: document["added_tokens"][1].update(lstrip=True),
        lambda document: document["added_tokens"][1].update(normalized=True),
    ],
)
def test_what_tiktokens_engine_would_do_otherwise_stays_with_tokenizers(
    trained: Callable[[str], BaseTokenizer], tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    trained("byte_bpe").save(tmp_path)
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.kind == "pretrained"
    assert tokenizer.decode(tokenizer.encode("hello")).strip() == "hello"


def test_truncation_and_padding_in_the_file_are_not_applied(corpus: list[str], tmp_path: Path) -> None:
    engine = byte_level(corpus)
    engine.enable_truncation(3)
    engine.enable_padding(length=8)
    engine.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    text = "the king went home because it rained"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("declared", [None, True, False])
def test_whether_prompts_begin_with_bos(corpus: list[str], tmp_path: Path, declared: bool | None) -> None:
    engine = byte_level(corpus)
    engine.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    engine.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<bos>"} if declared is None else {"bos_token": "<bos>", "add_bos_token": declared}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.adds_bos is (declared is not False)
    assert tokenizer.encode("a", bos=True) == [1, *tokenizer.encode("a")]
    assert tokenizer.encode("a")[0] != 1


def test_added_tokens_that_are_not_special_are_always_found(corpus: list[str], tmp_path: Path) -> None:
    engine = byte_level(corpus)
    engine.add_tokens([AddedToken("[TOOL]", special=False)])
    engine.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("a[TOOL]")[-1] == tokenizer.vocab_size - 1
    assert "[TOOL]" not in tokenizer.special_tokens


def test_a_file_that_tokenizers_panics_over_is_refused(tmp_path: Path) -> None:
    model = {
        "type": "BPE",
        "vocab": {"a": 0, "b": 1, "ab": 2},
        "merges": ["a b"],
        "continuing_subword_prefix": "x" * 300,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
    with pytest.raises(TokenizerError, match="cannot read it") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_file_nested_too_deep_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / name).write_text('{"a":' * 3_000 + "1" + "}" * 3_000)
    with pytest.raises(TokenizerError, match="nested deeper"):
        load_tokenizer(tmp_path)
