"""Cleaning within `prepare`: what is dropped is counted, whichever way the work is divided."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smidgen.config import CleaningConfig, DuplicatesConfig, TokenizerConfig
from smidgen.data import Holdout, prepare
from smidgen.data.merging import merge_parts
from smidgen.data.prepare import prepare_part
from smidgen.runtime.errors import DataError

pytestmark = pytest.mark.usefixtures("small_chunks")

Contents = Callable[[Path], dict[str, bytes]]

PARAGRAPHS = [f"Paragraph {number} says: " + "and so on and on again " * 3 for number in range(40)]
HOUSE = "All rights reserved by the house of words, in this and in every other year to come."


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """120 documents by lines of dashes: 40 texts, then the same again, then each with a paragraph of its own."""
    documents = [*PARAGRAPHS, *PARAGRAPHS, *(f"New {number}.\n\n{HOUSE}" for number in range(40))]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


@pytest.mark.parametrize(
    "holdout", [Holdout(), Holdout(0.25, method="tail"), Holdout(documents=10)], ids=["hash", "tail", "number"]
)
def test_duplicates_are_dropped_before_the_split(
    source: Path,
    tmp_path: Path,
    tokenizer_config: TokenizerConfig,
    documents_of: Any,
    contents: Contents,
    holdout: Holdout,
) -> None:
    cleaning = CleaningConfig(duplicates=DuplicatesConfig(documents=True, paragraphs=True))
    options: dict[str, Any] = {"cleaning": cleaning, "holdout": holdout}
    made = prepare([source], tmp_path / "data", tokenizer_config, **options)
    train, val = documents_of(made.dataset), documents_of(made.dataset, "val")
    expected = [*PARAGRAPHS, f"New 0.\n\n{HOUSE}", *(f"New {number}." for number in range(1, 40))]
    assert sorted(text.strip() for text in train + val) == sorted(text.strip() for text in expected)
    if holdout.method == "tail":
        assert val == expected[-len(val) :]
    if holdout.documents is not None:
        assert len(val) == holdout.documents
    drops = made.manifest.cleaning["drops"]
    assert sum(entry["documents"] for entry in drops.values()) == 40
    assert made.manifest.cleaning["edits"]
    for number in range(2):
        prepare_part([source], tmp_path / f"part{number}", tokenizer_config, (number, 2), **options)
    merge_parts([tmp_path / "part0", tmp_path / "part1"], tmp_path / "merged")
    assert contents(tmp_path / "merged") == contents(tmp_path / "data")


def test_a_tokenizer_is_trained_on_clean_text(source: Path, tmp_path: Path, documents_of: Any) -> None:
    cleaning = CleaningConfig(min_characters=30)
    made = prepare([source], tmp_path / "data", TokenizerConfig(kind="characters"), cleaning=cleaning)
    plain = prepare([source], tmp_path / "plain", TokenizerConfig(kind="characters"))
    assert made.manifest.vocab_size <= plain.manifest.vocab_size
    assert made.manifest.options != plain.manifest.options


def test_cleaning_that_leaves_nothing_is_told(source: Path, tmp_path: Path, tokenizer_config: TokenizerConfig) -> None:
    cleaning = CleaningConfig(min_characters=10_000)
    for config in (tokenizer_config, TokenizerConfig()):
        with pytest.raises(DataError, match="no document is left: cleaning dropped all 120"):
            prepare([source], tmp_path / "data", config, cleaning=cleaning)
    assert not (tmp_path / "data").exists()
