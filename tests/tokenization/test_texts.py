"""Texts on their way to a trainer: whole, bounded, evenly thinned."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smidgen.tokenization.texts import thinned, training_chunks, training_lines

TEXTS = st.lists(st.text(alphabet="ab\n ", min_size=1), min_size=1)


@given(TEXTS, st.integers(1, 20))
def test_chunks_are_the_text(texts: list[str], limit: int) -> None:
    chunks = list(training_chunks(texts, limit))
    assert "".join(chunks) == "".join(texts)
    assert all(0 < len(chunk) <= limit for chunk in chunks)


def test_chunks_end_with_lines() -> None:
    assert list(training_chunks(["one\ntwo\nthree\n"], 9)) == ["one\ntwo\n", "three\n"]


@given(TEXTS, st.integers(1, 20))
def test_lines_are_the_text_without_line_feeds(texts: list[str], limit: int) -> None:
    lines = list(training_lines(texts, limit))
    assert "".join(lines) == "".join(texts).replace("\n", "")
    assert all(0 < len(line) <= limit for line in lines)


@given(st.lists(st.text(alphabet="a", min_size=1, max_size=9)), st.integers(1, 60))
def test_thinning_bounds_the_text_and_spreads_over_it(lines: list[str], limit: int) -> None:
    kept = thinned(lines, limit)
    assert sum(map(len, kept)) <= limit or len(kept) == 1
    steps = [lines[:: 2**power] for power in range(8)]
    assert kept in steps
    if sum(map(len, lines)) <= limit:
        assert kept == lines


def test_thinning_keeps_as_much_as_it_may() -> None:
    assert len(thinned(["x"] * 1000, 600)) == 500
