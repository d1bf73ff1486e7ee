"""What a path may name, what the files beside the vocabulary say, and how mistakes are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smidgen.runtime import Tokenizer, TokenizerError
from smidgen.runtime.chat_template import DEFAULT_CHAT_TEMPLATE
from smidgen.tokenization import BaseTokenizer, load_tokenizer, train_tokenizer

KINDS = ["byte_bpe", "sentencepiece", "characters"]


@pytest.fixture
def folder(trained: Callable[[str], BaseTokenizer], tmp_path: Path) -> Path:
    trained("byte_bpe").save(tmp_path)
    return tmp_path


def edit(folder: Path, **entries: Any) -> None:
    path = folder / "tokenizer_config.json"
    config = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_the_contract(trained: Callable[[str], BaseTokenizer], kind: str) -> None:
    assert isinstance(trained(kind), Tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_files_and_folders_are_the_same(trained: Callable[[str], BaseTokenizer], tmp_path: Path, kind: str) -> None:
    trained(kind).save(tmp_path)
    expected = load_tokenizer(tmp_path).fingerprint
    name = "tokenizer.model" if kind == "sentencepiece" else "tokenizer.json"
    assert load_tokenizer(tmp_path / name).fingerprint == expected
    assert load_tokenizer(str(tmp_path)).fingerprint == expected


def test_a_lone_tokenizer_json_has_the_end_of_text_token(folder: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone"
    lone.mkdir()
    (folder / "tokenizer.json").rename(lone / "any.json")
    tokenizer = load_tokenizer(lone / "any.json")
    assert (tokenizer.kind, tokenizer.eos_id, tokenizer.chat_template) == ("byte_bpe", 0, None)


def test_tokens_come_from_the_configuration(folder: Path) -> None:
    edit(folder, eos_token={"content": "<|im_end|>", "lstrip": False}, pad_token="[nowhere]")
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id) == (2, 0, None)


def test_tokens_come_from_an_older_file_too(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<|im_end|>"}')
    assert load_tokenizer(folder).eos_id == 2


def test_a_named_token_must_exist(folder: Path) -> None:
    edit(folder, eos_token="</s>")
    with pytest.raises(TokenizerError, match="eos_token = '</s>': not in the vocabulary"):
        load_tokenizer(folder)


def test_where_the_chat_template_is_found(folder: Path) -> None:
    assert load_tokenizer(folder).chat_template == DEFAULT_CHAT_TEMPLATE
    edit(folder, chat_template="inline")
    assert load_tokenizer(folder).chat_template == DEFAULT_CHAT_TEMPLATE
    (folder / "chat_template.jinja").unlink()
    assert load_tokenizer(folder).chat_template == "inline"
    edit(folder, chat_template=[{"name": "rag", "template": "x"}, {"name": "default", "template": "plain"}])
    assert load_tokenizer(folder).chat_template == "plain"
    edit(folder, chat_template=3)
    with pytest.raises(TokenizerError, match="chat_template is no text"):
        load_tokenizer(folder)


def test_what_is_not_understood_is_kept_when_saved_again(folder: Path, tmp_path: Path) -> None:
    edit(folder, padding_side="left", model_max_length=77, chat_template="inline", clean_up_tokenization_spaces=True)
    (folder / "chat_template.jinja").unlink()
    load_tokenizer(folder).save(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert config["padding_side"] == "left"
    assert config["clean_up_tokenization_spaces"] is False
    assert not {"model_max_length", "chat_template"} & config.keys()
    assert (tmp_path / "again" / "chat_template.jinja").read_text() == "inline"


def test_saving_over_another_tokenizer_leaves_nothing_of_it(
    trained: Callable[[str], BaseTokenizer], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    trained("sentencepiece").save(tmp_path)
    trained("characters").save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert load_tokenizer(tmp_path).kind == "characters"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", "tokenizer.json: no JSON at line 1"),
        ("tokenizer.json", "[]", "holds a JSON list where an object is expected"),
        ("tokenizer.json", "{}", "it has no entry 'model'"),
        ("tokenizer.json", '{"model": 3}', "`tokenizers` cannot read it"),
        ("tokenizer.json", '{"model": {"type": "BPE"}, "decoder": {"type": "ByteLevel"}}', "cannot read it"),
        ("tokenizer.json", b"\xff", "no UTF-8 at byte 0"),
        ("vocab.json", '{"a": "b"}', "expected an object from tokens to ids"),
        ("vocab.json", '{"a": 0}', "merges.txt: cannot be read: No such file"),
        ("notes.txt", "", "no tokenizer here; expected tokenizer.json, tokenizer.model, or vocab.json with merges.txt"),
    ],
)
def test_damaged_and_missing_files(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [2**24, 2**31, 2**40, 2**70])
def test_an_id_beyond_all_vocabularies_is_refused(folder: Path, number: int) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.__getitem__)] = number
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(TokenizerError):
        load_tokenizer(folder).encode("once")


def test_malformed_merges_are_told_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\na b c\n")
    with pytest.raises(TokenizerError, match="line 3: expected two tokens with a space between them"):
        load_tokenizer(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no such file or folder"):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], iter(())])
def test_an_empty_corpus_is_refused(kind: str, texts: Any) -> None:
    with pytest.raises(TokenizerError, match="the corpus is empty"):
        train_tokenizer(kind, texts, 500)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_the_source_comes_through(kind: str) -> None:
    def texts() -> Any:
        yield "some text"
        raise TokenizerError("the source broke")

    with pytest.raises(TokenizerError, match=r"^the source broke$"):
        train_tokenizer(kind, texts(), 500)


def test_wrong_arguments_of_training() -> None:
    with pytest.raises(TokenizerError, match="'bpe': unknown; use one of byte_bpe, sentencepiece, characters"):
        train_tokenizer("bpe", ["text"], 500)
    with pytest.raises(TokenizerError, match="is loaded, not trained"):
        train_tokenizer("pretrained", ["text"], 500)
    with pytest.raises(TokenizerError, match="vocab_size is missing"):
        train_tokenizer("byte_bpe", ["text"])
    with pytest.raises(TokenizerError, match="expected many texts, found one string"):
        train_tokenizer("byte_bpe", "text", 500)
    with pytest.raises(TokenizerError, match="encodes text; it was given int"):
        train_tokenizer("byte_bpe", [3], 500)  # type: ignore[list-item]


def test_fingerprints_tell_tokenizers_apart(corpus: list[str], folder: Path) -> None:
    first = load_tokenizer(folder).fingerprint
    edit(folder, eos_token="<|im_end|>")
    assert load_tokenizer(folder).fingerprint != first
    edit(folder, eos_token="<|endoftext|>", chat_template="other", pad_token=None)
    assert load_tokenizer(folder).fingerprint == first
    assert train_tokenizer("byte_bpe", corpus[:100], 600).fingerprint != first


def test_a_dataset_folder_stands_for_its_tokenizer(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("byte_bpe", ["one two one two"], 300)
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "dataset.json").write_text("{}")
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
