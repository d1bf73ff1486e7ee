"""Edits of characters do what they say and no more."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.cleaning.characters import fold_whitespace, remove_control_characters, repair_encoding

SENTENCES = [
    "Das ist schön, über alles.",
    "C’est déjà l’été — “enfin”.",
    "naïve façade",
    "Привет, мир",
    "価格は¥100です",
]


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize("times", [1, 2])
def test_mojibake_is_undone(sentence: str, times: int) -> None:
    broken = sentence
    for _ in range(times):
        broken = broken.encode().decode("latin-1")
    assert repair_encoding(broken) == sentence


@pytest.mark.parametrize("text", [*SENTENCES, "“quotes” ﬁne &amp; ﾊﾝｶｸ", "plain", "a\r\nb\x07", "🙂 ½ №"])
def test_sound_text_is_left_alone(text: str) -> None:
    assert repair_encoding(text) == text


@given(st.text(st.characters()))
def test_control_characters_go_and_scripts_stay(text: str) -> None:
    result = remove_control_characters(text)
    assert not {c for c in result if unicodedata.category(c) in {"Cc", "Cs"}} - {"\n", "\t"}
    letters = [c for c in text if unicodedata.category(c)[0] in "LMNPS"]
    assert [c for c in result if unicodedata.category(c)[0] in "LMNPS"] == letters


def test_joiners_that_scripts_need_stay() -> None:
    kept = "می‌خواهم 👩‍🚀 \u200fשלום\ta\nb"
    assert remove_control_characters(kept) == kept
    assert remove_control_characters("a\r\nb\rc\u2028d\x0be") == "a\nb\nc\nd\ne"


@given(st.text(st.sampled_from("ab \t\n\u00a0\r")))
def test_folding_keeps_words_lines_and_indentation(text: str) -> None:
    result = fold_whitespace(text)
    assert result.split() == text.split()
    assert fold_whitespace(result) == result
    assert "\n\n\n" not in result
    assert [line for line in result.split("\n") if line != line.rstrip()] == []


def test_folding_by_example() -> None:
    assert fold_whitespace("\n\nif  x:\n    y  =\u00a01 \n\n\n\nz\n") == "if x:\n    y = 1\n\nz"
