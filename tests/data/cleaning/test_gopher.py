"""Gopher's rules at their limits, and repeated n-grams against a plain count."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data.cleaning import gopher


def quality(text: str) -> list[str]:
    return list(gopher.quality_violations(text, text.split()))


def repetition(text: str) -> list[str]:
    return list(gopher.repetition_violations(text, text.split()))


def prose(count: int, word: str = "lamp") -> str:
    """`count` words, two of them stop words."""
    return " ".join(["the", "with", *[word] * (count - 2)])


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        (prose(50), []),
        (prose(49), ["gopher_word_count"]),
        (prose(100_001), ["gopher_word_count"]),
        (prose(60, "ab"), ["gopher_word_length"]),
        (prose(60, "lighthouses"), ["gopher_word_length"]),
        (prose(60) + " ####", []),
        (prose(60) + " #######", ["gopher_symbols"]),
        (prose(60) + " wait..." * 8 + " lamp", ["gopher_symbols"]),
        ("\n".join(["- the lamp with lamp lamp"] * 10), ["gopher_bullets"]),
        ("\n".join(["- the lamp with lamp lamp"] * 9 + ["the lamp with lamp lamp"]), []),
        ("\n".join(["the lamp with lamp lamp lamp lamp lamp lamp lamp lamp…"] * 5), ["gopher_ellipses"]),
        (prose(60) + " 1234" * 16, ["gopher_alphabetic"]),
        (" ".join(["The lamp,"] * 30), ["gopher_stop_words"]),
        (" ".join(["lamp"] * 58 + ["The", "(with)"]), []),
    ],
)
def test_quality_rules(text: str, broken: list[str]) -> None:
    assert quality(text) == broken


def test_duplicate_lines_and_paragraphs() -> None:
    different = [" ".join(f"word{i}{j}" for j in range(6)) for i in range(10)]
    assert repetition("\n".join(different)) == []
    lines = "\n".join(different[:6] + different[:3] + ["x"])
    assert "gopher_duplicate_lines" not in repetition(lines)  # 3 of 10 is not above 0.30
    assert "gopher_duplicate_line_characters" in repetition(lines)
    assert "gopher_duplicate_lines" in repetition("\n".join(different[:6] + different[:4]))
    paragraphs = repetition("\n\n".join(different[:6] + different[:4]))
    assert {"gopher_duplicate_paragraphs", "gopher_duplicate_paragraph_characters"} <= set(paragraphs)


def plain_ngram_violations(words: list[str]) -> list[str]:
    total = sum(map(len, words))
    broken = []
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(grams)
        most = max(counts.values(), default=0)
        if n <= 4:
            share = max((sum(map(len, gram)) * most for gram in counts if counts[gram] == most > 1), default=0)
            if share > gopher.MAX_TOP_NGRAM_CHARACTERS[n] * total:
                broken.append(f"gopher_top_{n}_gram")
        else:
            seen, covered = set(), set()
            for start, gram in enumerate(grams):
                if gram in seen:
                    covered.update(range(start, start + n))
                seen.add(gram)
            if sum(len(words[i]) for i in covered) > gopher.MAX_DUPLICATE_NGRAM_CHARACTERS[n] * total:
                broken.append(f"gopher_duplicate_{n}_grams")
    return broken


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", *(f"w{i}" for i in range(20))]), max_size=60),
    st.integers(0, 30),
)
def test_repeated_ngrams_are_those_of_a_plain_count(words: list[str], again: int) -> None:
    words = words + words[:again]
    found = [rule for rule in repetition(" ".join(words)) if "gram" in rule]
    assert found == plain_ngram_violations(words)


def test_every_rule_has_its_name_listed(story: str) -> None:
    assert quality(story) == []
    assert repetition(story) == []
    assert set(repetition("again and again " * 50)) <= set(gopher.REPETITION_RULES)
    assert set(quality("")) <= set(gopher.QUALITY_RULES)
