"""Holdout: which documents are held out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.documents import Piece
from smidgen.data.holdout import Holdout, Survey
from smidgen.runtime.errors import DataError


def routed(pieces: list[Piece], holdout: Holdout, seed: int = 0) -> list[Piece]:
    survey = Survey(holdout, seed)
    for piece in pieces:
        survey.add(piece)
    survey.check()
    return list(survey.route(pieces))


def held_out(texts: list[str], seed: int = 0, **options: Any) -> list[str]:
    pieces = routed([Piece(text) for text in texts], Holdout(**options), seed)
    assert [piece.text for piece in pieces] == texts, "routing keeps everything, in its order"
    return [piece.text for piece in pieces if piece.split == "val"]


TEXTS = [f"document {number}" for number in range(2_000)]


def test_a_fraction_is_held_out_by_hash() -> None:
    chosen = held_out(TEXTS, fraction=0.1)
    assert 140 < len(chosen) < 260
    assert chosen != held_out(TEXTS, seed=1, fraction=0.1)
    # Spread over the corpus.
    assert 40 < sum(text in chosen for text in TEXTS[:1_000]) < 160


def test_a_document_keeps_its_side_when_the_corpus_grows() -> None:
    assert set(held_out(TEXTS[:1_000])) == set(held_out(TEXTS)) & set(TEXTS[:1_000])


def test_equal_documents_stand_on_one_side() -> None:
    chosen = held_out(TEXTS * 2)
    assert all(chosen.count(text) == 2 for text in chosen)


@given(st.integers(2, 30), st.floats(0.01, 0.99), st.sampled_from(["hash", "tail"]))
def test_neither_side_is_ever_empty(count: int, fraction: float, method: Any) -> None:
    assert 0 < len(held_out(TEXTS[:count], fraction=fraction, method=method)) < count


@pytest.mark.parametrize("method", ["hash", "tail"])
@pytest.mark.parametrize("count", [1, 7, 1_999])
def test_a_number_of_documents(method: Any, count: int) -> None:
    assert len(held_out(TEXTS, documents=count, method=method)) == count


def test_the_tail_is_the_end() -> None:
    texts = [letter * 10 for letter in "abcdefghij"]
    assert held_out(texts, method="tail", fraction=0.3) == texts[7:]
    assert held_out(texts, method="tail", fraction=0.35) == texts[7:]
    assert held_out(texts, method="tail", documents=2) == texts[8:]
    assert held_out(["a", "b" * 99], method="tail") == ["b" * 99]


@pytest.mark.parametrize("method", ["hash", "tail"])
def test_a_single_document_is_cut(method: Any) -> None:
    train, val = routed([Piece("0123456789", "\n")], Holdout(0.1, method=method))
    assert (train.text, train.separator, train.split) == ("012345678", "", "train")
    assert (val.text, val.separator, val.split) == ("9", "\n", "val")


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.floats(0.01, 0.99))
def test_a_single_document_in_pieces_is_cut_anywhere(lengths: list[int], fraction: float) -> None:
    last = len(lengths) - 1
    pieces = [
        Piece(f"{number}" * length, begins=number == 0, ends=number == last) for number, length in enumerate(lengths)
    ]
    whole = "".join(piece.text for piece in pieces)
    if len(whole) < 2:
        return
    result = routed(pieces, Holdout(fraction))
    assert "".join(piece.text for piece in result) == whole
    cut = min(max(int(len(whole) * (1 - fraction)), 1), len(whole) - 1)
    for split, text in (("train", whole[:cut]), ("val", whole[cut:])):
        parts = [piece for piece in result if piece.split == split]
        assert "".join(piece.text for piece in parts) == text
        assert [piece.begins for piece in parts] == [True] + [False] * (len(parts) - 1)
        assert [piece.ends for piece in parts] == [False] * (len(parts) - 1) + [True]


def test_a_generators_own_split_stands() -> None:
    own = [Piece("a", split="train"), Piece("b", split="val")]
    for holdout in (Holdout(), Holdout(documents=1), Holdout(method="tail")):
        assert routed(own, holdout) == own
    mixed = routed([*own, Piece("0123456789")], Holdout(0.5))
    assert [(piece.text, piece.split) for piece in mixed] == [
        ("a", "train"),
        ("b", "val"),
        ("01234", "train"),
        ("56789", "val"),
    ]


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["one"], {"documents": 1}, "--val-documents 1: the sources hold one document"),
        (["one", "two"], {"documents": 2}, "--val-documents 2: the sources hold only 2"),
        (["x"], {}, "a single character"),
        (["same", "same"], {}, "the same text"),
        (["same", "same", "same"], {"documents": 1}, "the same text"),
    ],
)
def test_what_cannot_be_split(texts: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        held_out(texts, **options)


@pytest.mark.parametrize(("name", "value"), [("fraction", 0.0), ("fraction", 1.0), ("documents", 0)])
def test_amounts_out_of_range(name: str, value: float) -> None:
    with pytest.raises(DataError, match=f"--val-{name}"):
        Holdout(**{name: value})  # type: ignore[arg-type]
