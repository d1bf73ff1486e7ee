"""Documents: what one is in each kind of file, and every bad input as one clear error."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data import documents
from smidgen.data.documents import Piece, TextUnit, json_lines_documents, text_documents
from smidgen.runtime.errors import DataError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corpus.txt"


def texts(path: Path, unit: TextUnit) -> list[str]:
    return [piece.text for piece in text_documents(path, unit)]


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("file", ["a\nb\n\n\nc\n \nd"]),
        ("line", ["a", "b", "c", "d"]),
        ("blank", ["a\nb", "c", "d"]),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_units_of_text(path: Path, unit: TextUnit, expected: list[str], mark: bytes, newline: bytes) -> None:
    path.write_bytes(mark + b"a\nb\n\n\nc\n \nd".replace(b"\n", newline))
    assert texts(path, unit) == expected


@given(st.text(st.sampled_from("ab \n"), max_size=40), st.sampled_from(["file", "line", "blank"]))
def test_documents_with_their_separators_are_the_text(tmp_path_factory, text: str, unit: TextUnit) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text(text)
    pieces = list(text_documents(path, unit))
    joined = "".join(piece.text + piece.separator for piece in pieces)
    if unit == "line":
        assert joined == "".join(line for line in text.splitlines(keepends=True) if line.strip())
    elif unit == "blank":
        assert text.endswith(joined)
        assert not text.removesuffix(joined).strip()
    else:
        assert joined == (text if text.strip() else "")
    assert all(piece.text.strip() for piece in pieces)


def test_a_long_file_comes_in_pieces_cut_at_lines(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_PIECE_CHARACTERS", 100)
    text = "".join(f"line {number}\n" + "\n" * (number % 3) for number in range(100))
    path.write_text(text)
    pieces = list(text_documents(path, "file"))
    assert "".join(piece.text for piece in pieces) == text
    assert len(pieces) > 5
    assert [piece.begins for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    for piece in pieces[1:]:
        assert piece.text.startswith("line")
    assert all(piece.text.endswith("\n") and not piece.text.endswith("\n\n") for piece in pieces[:-1])


def test_a_file_of_one_endless_line_still_comes_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_PIECE_CHARACTERS", 100)
    path.write_text("é" * 1_000)
    pieces = list(text_documents(path, "file"))
    assert "".join(piece.text for piece in pieces) == "é" * 1_000
    assert max(len(piece.text) for piece in pieces) <= 300


def test_json_lines(path: Path) -> None:
    path.write_text('{"text": "one\\n\\ntwo", "id": 1}\r\n\n{"text": "  "}\n{"id": 2, "text": "\\u00e9\\ud83d\\ude00"}')
    assert list(json_lines_documents(path, "text")) == [
        Piece("one\n\ntwo", separator="\n"),
        Piece("é😀", separator="\n"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', r"line 2: no valid JSON \(Unterminated string.*repair or remove"),
        ("{", r"line 2: no valid JSON .*one whole object"),
        ('["a"]', r"line 2: \[\"a\"\] is no JSON object"),
        ('{"body": "a", "id": 1}', r"line 2: no field 'text' \(its fields: 'body', 'id'\); name one with --field"),
        ("{}", r"line 2: no field 'text' \(its fields: none\)"),
        ('{"text": 7}', r"line 2: field 'text' = 7 is no string"),
        ('{"text": null}', r"line 2: field 'text' = null is no string"),
        ('{"text": "\\ud800"}', r"line 2: field 'text' holds a lone surrogate \(\\ud800\)"),
        ("[" * 100_000, r"line 2: no valid JSON"),
        ("1" * 5_000, r"line 2: "),
    ],
)
def test_bad_json_lines(path: Path, line: str, message: str) -> None:
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(DataError, match=message) as error:
        list(json_lines_documents(path, "text"))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("fine\ncafé\n".encode("latin1"), r"line 2: byte 0xe9 \(the line's 4\.\) is no UTF-8.*iconv"),
        ("cut short é".encode()[:-1], r"line 1: byte 0xc3"),
        ("text".encode("utf-16"), "is UTF-16, not UTF-8; convert it with 'iconv"),
        (gzip.compress(b"text"), "is compressed; unpack it first"),
    ],
)
@pytest.mark.parametrize("unit", ["file", "line", "blank"])
def test_bytes_that_are_no_utf8(path: Path, content: bytes, message: str, unit: TextUnit) -> None:
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        texts(path, unit)
    with pytest.raises(DataError, match=r"no UTF-8|not UTF-8|compressed|no valid JSON"):
        list(json_lines_documents(path, "text"))


def test_a_file_that_vanished(path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        texts(path, "line")
