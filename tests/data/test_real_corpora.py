"""Prepare with the real tokenizers, on real text where the machine has it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.config import TokenizerConfig
from smidgen.data import Dataset, Holdout, prepare
from smidgen.data.sources import base, files, ranges
from smidgen.tokenization import load_tokenizer

PLAY = "".join(f"Speaker {number}:\nWhat say you, sir? 'Tis {number * 37}.\n\n" for number in range(300))


@pytest.fixture
def stories(corpora: Path) -> Path:
    return corpora / "tinystories.jsonl"


def texts_of(dataset: Dataset) -> list[str]:
    """Every document of both splits, decoded, without the end-of-text token."""
    tokenizer = dataset.tokenizer()
    assert tokenizer is not None
    texts = []
    for split in (dataset.train, dataset.val):
        assert split.document_offsets is not None
        for start, stop in itertools.pairwise(split.document_offsets):
            ids = split.tokens[start:stop].tolist()
            assert ids.pop() == tokenizer.eos_id
            texts.append(tokenizer.decode(ids, skip_special=True))
    return texts


def test_tinyshakespeare_by_characters_is_nanogpts_split(corpora: Path, tmp_path: Path) -> None:
    path = corpora / "tinyshakespeare.txt"
    dataset = prepare([path], tmp_path / "data", TokenizerConfig(kind="characters")).dataset
    text = path.read_text()
    ids = {letter: number for number, letter in enumerate(sorted(set(text)))}
    stream = np.array([ids[letter] for letter in text], np.uint16)
    assert dataset.vocab_size == 65
    assert dataset.train.num_tokens == 1_003_854
    assert dataset.val.num_tokens == 111_540
    assert (dataset.train.tokens[:] == stream[: int(len(text) * 0.9)]).all()
    assert (dataset.val.tokens[:] == stream[int(len(text) * 0.9) :]).all()


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece"])
def test_tinystories(stories: Path, tmp_path: Path, kind: Any) -> None:
    config = TokenizerConfig(kind=kind, vocab_size=2048)
    dataset = prepare([stories], tmp_path / "data", config).dataset
    given = [json.loads(line)["text"] for line in stories.read_text().splitlines()]
    assert sorted(texts_of(dataset)) == sorted(given)
    assert dataset.vocab_size == 2048
    assert dataset.val.num_documents is not None
    assert 60 < dataset.val.num_documents < 170
    assert dataset.train.num_bytes is not None
    assert dataset.train.num_bytes / dataset.train.num_tokens > 3


def test_documents_begin_as_the_tokenizer_asks(corpora: Path, stories: Path, tmp_path: Path) -> None:
    path = str(corpora / "llama2/tokenizer.model")
    dataset = prepare([stories], tmp_path / "data", TokenizerConfig(kind="pretrained", path=path)).dataset
    split = dataset.val
    assert split.document_offsets is not None
    assert set(split.tokens[:][split.document_offsets[:-1]].tolist()) == {1}
    assert int((split.tokens[:] == 1).sum()) == split.num_documents


@pytest.fixture(params=["trained", "gpt2"])
def byte_bpe(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Path]:
    def folder() -> Path:
        if request.param == "gpt2":
            corpora: Path = request.getfixturevalue("corpora")
            return corpora / "gpt2"
        (tmp_path / "play.txt").write_text(PLAY)
        return prepare([tmp_path / "play.txt"], tmp_path / "first", TokenizerConfig(vocab_size=400)).dataset.path

    return folder


def test_a_file_cut_into_pieces_has_the_ids_of_the_whole(
    byte_bpe: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = byte_bpe()
    tokenizer = load_tokenizer(path / "tokenizer" if (path / "tokenizer").is_dir() else path)
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "text.txt").write_text(PLAY)
    for module in (base, files, ranges):
        monkeypatch.setattr(module, "CHUNK_BYTES", 500)
    config = TokenizerConfig(path=str(tmp_path / "tokenizer"))
    dataset = prepare([tmp_path / "text.txt"], tmp_path / "data", config, holdout=Holdout(0.01)).dataset
    cut = int(len(PLAY) * 0.99)
    assert dataset.train.tokens[:].tolist() == [*tokenizer.encode(PLAY[:cut]), tokenizer.eos_id]


def test_tokens_are_the_same_in_whatever_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "play.txt").write_text(PLAY)
    config = TokenizerConfig(vocab_size=400)
    fingerprints = set()
    for number, size in enumerate((100, 10_000_000)):
        for module in (base, files, ranges):
            monkeypatch.setattr(module, "CHUNK_BYTES", size)
        dataset = prepare([tmp_path / "play.txt"], tmp_path / str(number), config, split_documents="blank").dataset
        fingerprints.add(dataset.fingerprint)
    assert len(fingerprints) == 1
