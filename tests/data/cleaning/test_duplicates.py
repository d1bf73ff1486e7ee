"""Decisions about duplicates against plain dictionaries, and what the filter leaves behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smidgen.config import DuplicatesConfig
from smidgen.data.cleaning import Cleaner, DuplicateFilter, Keys, Verdict, remove_paragraphs, split_paragraphs
from smidgen.data.cleaning.minhash import MinHash
from smidgen.runtime.errors import DataError

CleanerOf = Callable[..., Cleaner]
ALL = DuplicatesConfig(documents=True, paragraphs=True, min_paragraph_words=1, near=True)


def decide(cleaner: Cleaner, config: DuplicatesConfig, texts: Sequence[str], folder: Path) -> list[Verdict]:
    with DuplicateFilter(config, folder) as duplicates:
        verdicts = []
        for text in texts:
            keys = cleaner.keys(text)
            assert keys is not None
            verdicts.append(duplicates(Keys.from_bytes(keys.to_bytes())))
        return verdicts


def test_decisions_are_those_of_plain_sets(cleaner_of: CleanerOf, tmp_path: Path) -> None:
    cleaner = cleaner_of(duplicates={"documents": True, "paragraphs": True, "min_paragraph_words": 2})
    config = DuplicatesConfig(documents=True, paragraphs=True, min_paragraph_words=2)
    paragraph = st.sampled_from(["a b", "c d", "e f g", "h", "i"])
    document = st.lists(paragraph, min_size=1, max_size=4).map("\n\n".join)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(document, max_size=8))
    def check(texts: list[str]) -> None:
        expected, documents, paragraphs = [], set[str](), set[str]()
        for text in texts:
            if text in documents:
                expected.append(Verdict("duplicate_document"))
                continue
            parts, seen, repeated = text.split("\n\n"), set(paragraphs), []
            for number, part in enumerate(parts):
                if part in seen:
                    repeated.append(number)
                if len(part.split()) >= 2:
                    seen.add(part)
            if len(repeated) == len(parts):
                expected.append(Verdict("duplicate_paragraphs"))
                continue
            documents.add(text)
            paragraphs = seen
            expected.append(Verdict(None, tuple(repeated)))
        assert decide(cleaner, config, texts, tmp_path) == expected

    check()


def test_near_duplicates_are_dropped_as_the_estimate_says(cleaner_of: CleanerOf, tmp_path: Path) -> None:
    config = DuplicatesConfig(near=True, near_threshold=0.7, near_ngram=2, permutations=64)
    cleaner = cleaner_of(duplicates=config.model_dump())
    words = [f"w{i}" for i in range(60)]
    texts = [" ".join(words[:cut] + [f"x{cut}{i}" for i in range(60 - cut)]) for cut in range(60, 20, -2)] * 2
    verdicts = decide(cleaner, config, texts, tmp_path)
    signatures = [MinHash(64, 2).signature(text) for text in texts]
    kept: list[int] = []
    for number, verdict in enumerate(verdicts):
        near = any(np.mean(signatures[number] == signatures[other]) >= 0.7 for other in kept)
        assert (verdict.rule == "near_duplicate") == near, number
        if not near:
            kept.append(number)
    assert 1 < len(kept) < len(texts) // 2


def test_a_chain_of_small_changes_is_not_swallowed(cleaner_of: CleanerOf, tmp_path: Path) -> None:
    config = DuplicatesConfig(near=True)
    words = [f"w{i}" for i in range(400)]
    chain = [" ".join(words[start : start + 200]) for start in range(0, 200, 5)]
    kept = [v.rule is None for v in decide(cleaner_of(duplicates={"near": True}), config, chain, tmp_path)]
    assert kept[0]
    assert 5 <= sum(kept) <= 20


def test_the_first_of_equal_documents_stays_whatever_the_rule(
    cleaner_of: CleanerOf, tmp_path: Path, story: str
) -> None:
    cleaner = cleaner_of(duplicates=ALL.model_dump())
    rules = [v.rule for v in decide(cleaner, ALL, [story, story, story.upper(), "Else."], tmp_path)]
    assert rules == [None, "duplicate_document", "near_duplicate", None]


def test_texts_without_words_are_no_near_duplicates(cleaner_of: CleanerOf, tmp_path: Path) -> None:
    config = DuplicatesConfig(near=True)
    assert [v.rule for v in decide(cleaner_of(duplicates={"near": True}), config, ["...", "!!!"], tmp_path)] == [
        None
    ] * 2


def test_the_index_is_removed_and_leftovers_are_replaced(cleaner_of: CleanerOf, tmp_path: Path) -> None:
    cleaner = cleaner_of(duplicates=ALL.model_dump())
    keys = cleaner.keys("Some text.")
    assert keys is not None
    interrupted = DuplicateFilter(ALL, tmp_path)
    assert interrupted(keys).rule is None
    assert decide(cleaner, ALL, ["Some text."], tmp_path) == [Verdict()]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(b"x" * 16, np.empty(0, np.uint64), np.zeros(128, np.uint32))
    with DuplicateFilter(ALL, tmp_path) as duplicates:
        monkeypatch.setattr("os.pwrite", lambda *args: 0)
        with pytest.raises(DataError, match="make room"):
            duplicates(keys)
        monkeypatch.undo()
        monkeypatch.setattr(duplicates, "_decide", _full)
        with pytest.raises(DataError, match="database or disk is full"):
            duplicates(keys)


def _full(keys: Keys) -> Verdict:
    raise sqlite3.OperationalError("database or disk is full")


@given(st.text(st.sampled_from("ab \n\t")), st.sets(st.integers(0, 5)))
def test_removing_paragraphs_keeps_the_others(text: str, numbers: set[int]) -> None:
    parts = split_paragraphs(text)
    assert remove_paragraphs(text, ()) == text
    kept = [part for number, part in enumerate(parts) if number not in numbers]
    if numbers:
        assert remove_paragraphs(text, numbers) == "\n\n".join(kept)
