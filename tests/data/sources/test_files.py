"""Text and JSON Lines files: every document belongs to exactly one chunk, however long chunks are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data.documents import BadRecord, Piece, TextUnit
from smidgen.data.sources import base, files, parsing, ranges
from smidgen.data.sources.base import Item
from smidgen.data.sources.files import TextFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corpus.txt"


@pytest.fixture(params=[4, 7, 64, 1 << 21])
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    use_chunks_of(request.param, monkeypatch)
    size: int = request.param
    return size


def use_chunks_of(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (base, files, ranges):
        monkeypatch.setattr(module, "CHUNK_BYTES", size)


def items_of(path: Path, unit: TextUnit | None) -> Iterator[Item]:
    source = TextFile(path, str(path), path.stat().st_size, unit, "text")
    for chunk in source.chunks():
        reading = source.read(chunk)
        for item in reading.items:
            if isinstance(item, BadRecord) and item.position is not None:
                item = BadRecord(item.kind, item.message, item.position + source.lines_before(chunk))
            yield item


def pieces_of(path: Path, unit: TextUnit | None) -> list[Piece]:
    items = list(items_of(path, unit))
    assert all(isinstance(item, Piece) for item in items), items
    return [item for item in items if isinstance(item, Piece)]


def joined(pieces: list[Piece]) -> list[str]:
    """Documents, put together from their pieces."""
    texts: list[str] = []
    closed = True
    for piece in pieces:
        assert piece.begins == closed
        if piece.begins:
            texts.append("")
        texts[-1] += piece.text
        closed = piece.ends
    assert closed
    return texts


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
    assert joined(pieces_of(path, unit)) == expected


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.sampled_from("abé。 \u00a0\n"), max_size=40),
    st.sampled_from(["file", "line", "blank"]),
    st.integers(4, 12),
)
def test_documents_with_their_separators_are_the_text(
    tmp_path_factory: pytest.TempPathFactory, text: str, unit: Any, size: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text(text)
    whole = pieces_of(path, unit)
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_chunks_of(size, monkeypatch)
        pieces = pieces_of(path, unit)
    both = "".join(piece.text + piece.separator for piece in pieces)
    if unit == "line":
        assert both == "".join(line + "\n" for line in text.split("\n") if line.strip()).removesuffix("\n") + (
            "\n" if both.endswith("\n") else ""
        )
    elif unit == "blank":
        assert text.endswith(both)
        assert not text.removesuffix(both).strip()
    elif text.strip():
        assert both == text
    if unit != "file" or text.strip():
        assert joined(pieces) == joined(whole)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)), st.integers(1, 30))
def test_json_lines_are_the_same_in_any_chunks(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts))
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_chunks_of(size, monkeypatch)
        found = [item.text for item in items_of(path, None) if isinstance(item, Piece)]
    assert found == [text for text in texts if text.strip()]


def test_a_long_file_comes_in_pieces_cut_at_lines(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_chunks_of(100, monkeypatch)
    text = "".join(f"line {number}\n" + "\n" * (number % 3) for number in range(100))
    path.write_text(text)
    pieces = pieces_of(path, "file")
    assert joined(pieces) == [text]
    assert len(pieces) > 5
    for piece in pieces[1:]:
        assert piece.text.startswith("line")
    assert all(piece.text.endswith("\n") and not piece.text.endswith("\n\n") for piece in pieces[:-1])


@pytest.mark.parametrize("unit", ["file", "line", "blank"])
def test_one_endless_line(path: Path, monkeypatch: pytest.MonkeyPatch, unit: TextUnit) -> None:
    use_chunks_of(100, monkeypatch)
    monkeypatch.setattr(parsing, "MAX_PIECE_CHARACTERS", 100)
    path.write_text("é" * 1_000)
    pieces = pieces_of(path, unit)
    assert joined(pieces) == ["é" * 1_000]
    assert max(len(piece.text) for piece in pieces) <= 300


def test_json_lines(path: Path) -> None:
    path.write_text('{"text": "one\\n\\ntwo", "id": 1}\r\n\n{"text": "  "}\n{"id": 2, "text": "\\u00e9\\ud83d\\ude00"}')
    one, empty, two = items_of(path, None)
    assert (one, two) == (Piece("one\n\ntwo", separator="\n"), Piece("é😀", separator="\n"))
    assert isinstance(empty, BadRecord)
    assert (empty.kind, empty.position) == ("empty", 3)


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        (b'{"text": "cut', "broken JSON", "no valid JSON (Unterminated string"),
        (b"{", "broken JSON", "one whole object"),
        (b'["a"]', "no object", '["a"] is no JSON object'),
        (b'{"body": "a", "id": 1}', "missing field", "no field 'text' (its fields: 'body', 'id'); name one"),
        (b"{}", "missing field", "no field 'text' (its fields: none)"),
        (b'{"text": 7}', "no string", "int (7), no string"),
        (b'{"text": null}', "null", "the text is null"),
        (b'{"text": "\\ud800"}', "lone surrogate", r"a lone surrogate (\ud800)"),
        (b"[" * 100_000, "broken JSON", "no valid JSON"),
        (b"1" * 5_000, "broken JSON", ""),
        ('{"text": "café"}'.encode("latin1"), "encoding", "byte 0xe9 (the line's 14.) is no UTF-8"),
    ],
)
def test_a_bad_line_is_passed_over(
    path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, line: bytes, kind: str, message: str
) -> None:
    path.write_bytes(b'{"text": "fine"}\n' + line + b'\n{"text": "too"}\n')
    if len(line) > 1000:
        use_chunks_of(max(chunk_bytes, 1000), monkeypatch)
    fine, bad, too = items_of(path, None)
    assert (fine, too) == (Piece("fine", "\n"), Piece("too", "\n"))
    assert isinstance(bad, BadRecord)
    assert bad.kind == kind
    described = bad.describe("f.jsonl")
    assert described.startswith("f.jsonl, line 2: ")
    assert message in described
    assert "\n" not in described
    assert len(described) < 400


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("file", ["fine\n\nmore\n"]), ("line", ["fine", "more"]), ("blank", ["more"])],
)
def test_text_that_is_no_utf8(path: Path, unit: TextUnit, expected: list[str]) -> None:
    path.write_bytes(b"fine\ncaf\xe9\n\nmore\n")
    items = list(items_of(path, unit))
    assert joined([item for item in items if isinstance(item, Piece)]) == expected or unit == "blank"
    bad = [item for item in items if isinstance(item, BadRecord)]
    assert [record.describe("f") for record in bad] == [
        "f, line 2: byte 0xe9 (the line's 4.) is no UTF-8; convert the file, e.g. with 'iconv -f LATIN1 -t UTF-8'"
    ]


def test_utf16_is_told(path: Path) -> None:
    path.write_bytes("text".encode("utf-16"))
    (bad,) = items_of(path, "line")
    assert isinstance(bad, BadRecord)
    assert "is UTF-16, not UTF-8; convert it with 'iconv" in bad.message


def test_what_a_growing_file_gets_later_is_not_read(path: Path) -> None:
    path.write_text("one\ntwo\n")
    source = TextFile(path, str(path), path.stat().st_size, "line", "text")
    path.write_text("one\ntwo\nthree\n")
    texts = [item.text for chunk in source.chunks() for item in source.read(chunk).items if isinstance(item, Piece)]
    assert texts == ["one", "two"]
    assert source.state() != f"{source.size}:0"


def test_the_digest_is_that_of_the_chunks(path: Path, chunk_bytes: int) -> None:
    path.write_text("one\ntwo\n\nthree\n")
    source = TextFile(path, str(path), path.stat().st_size, "blank", "text")
    digest = base.Digest()
    for chunk in source.chunks():
        block = source.read(chunk).digest
        assert block is not None
        digest.add(block)
    assert digest.state == source.digest()
