"""Records: what gives a document, and what is a bad record."""

from __future__ import annotations

from typing import Any

import pytest

from smidgen.data.documents import BadRecord, Piece, excerpt, text_record


@pytest.mark.parametrize("text", ["a", "é😀", " a "])
def test_a_text_is_a_document(text: str) -> None:
    assert text_record(text, 3) == Piece(text, separator="\n")


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (None, "null", "the text is null"),
        (7, "no string", r"of type int (7), no string"),
        (["a"], "no string", "of type list"),
        (b"\xff", "no string", "of type bytes"),
        ("\ud800", "lone surrogate", r"a lone surrogate (\ud800)"),
        ("", "empty", "empty"),
        (" \n", "empty", "empty"),
    ],
)
def test_what_is_no_text(value: Any, kind: str, message: str) -> None:
    record = text_record(value, 3, "row")
    assert isinstance(record, BadRecord)
    assert record.kind == kind
    assert message in record.message
    assert record.describe("file.csv").startswith("file.csv, row 3: ")


def test_a_description_is_one_short_line() -> None:
    assert excerpt("a\nb\x00\x1b[31m" + "c" * 100) == "a b [31m" + "c" * 49 + "..."
    assert BadRecord("archive", "cut short").describe("x.gz") == "x.gz: cut short"
    assert BadRecord("null", "null", 2).describe("x", 7) == "x, line 7: null"
