"""A corpus of many small chunks, and a real tokenizer."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smidgen.config import TokenizerConfig
from smidgen.data.sources import base, files, generated, ranges, streams
from smidgen.tokenization import train_tokenizer

WORDS = "the a small quick brown café fox dog jumps sleeps over under lazy 12 345 … — naïve".split()


def texts(count: int, seed: int = 0) -> list[str]:
    """Sentences of words."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, 60))) + "." for _ in range(count)]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 1,000 bytes, so that little text makes many."""
    for module in (base, files, ranges, streams, generated):
        monkeypatch.setattr(module, "CHUNK_BYTES", 1_000)


@pytest.fixture(scope="session")
def tokenizer_config(tmp_path_factory: pytest.TempPathFactory) -> TokenizerConfig:
    """An existing tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer("byte_bpe", texts(200), 400).save(folder)
    return TokenizerConfig(path=str(folder))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """JSON Lines of 400 documents."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(400)))
    return path


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """The files of a folder by their names."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read


@pytest.fixture
def documents_of() -> Callable[[Any], list[str]]:
    """The texts of a split, decoded."""

    def read(dataset: Any, split: str = "train") -> list[str]:
        part = getattr(dataset, split)
        tokenizer = dataset.tokenizer()
        offsets = part.document_offsets.tolist()
        pairs = itertools.pairwise(offsets)
        return [tokenizer.decode(part.tokens[start : stop - 1].tolist()) for start, stop in pairs]

    return read
