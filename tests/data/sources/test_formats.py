"""Formats beside text and JSON Lines, compressed and not: documents, bad records, and what cannot be read at all."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from smidgen.data import Holdout
from smidgen.data.documents import Piece
from smidgen.data.sources import SourceOptions, base, open_sources, streams
from smidgen.runtime.errors import DataError, MissingDependencyError

TEXTS = ["one", "two\nlines", 'café, "quoted" — 😀', "x" * 300]


def read(name: str | Path, **options: Any) -> tuple[list[str], list[str]]:
    """Texts, and bad records described."""
    sources = open_sources([name], SourceOptions(**options), holdout=Holdout(), seed=0, spool=Path("spool"))
    texts: list[str] = []
    bad = []
    for source in sources:
        for chunk in source.chunks():
            for item in source.read(chunk).items:
                if isinstance(item, Piece):
                    if item.begins:
                        texts.append("")
                    texts[-1] += item.text
                else:
                    bad.append(item.describe(source.name))
    return texts, bad


def as_json_lines(texts: Sequence[Any]) -> bytes:
    return "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts).encode()


def as_csv(texts: Sequence[Any], delimiter: str = ",") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerows([["id", "text"], *([number, text] for number, text in enumerate(texts))])
    return file.getvalue().encode()


WRITERS: dict[str, Callable[[Sequence[Any]], bytes]] = {
    "a.jsonl": as_json_lines,
    "a.ndjson": as_json_lines,
    "array.json": lambda texts: json.dumps([{"text": text} for text in texts], indent=1).encode(),
    "objects.json": lambda texts: b" ".join(json.dumps({"text": text}).encode() for text in texts),
    "lines.json": as_json_lines,
    "a.csv": as_csv,
    "a.tsv": lambda texts: as_csv(texts, "\t"),
}


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", list(WRITERS))
@pytest.mark.parametrize("size", [1, 50, 1 << 21])
def test_every_format_gives_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, packed: str, size: int
) -> None:
    monkeypatch.setattr(streams, "CHUNK_BYTES", size)
    data = WRITERS[name](TEXTS)
    path = tmp_path / (name + packed)
    path.write_bytes(pack(data, packed))
    assert read(path) == (TEXTS, [])


def pack(data: bytes, packed: str) -> bytes:
    if packed == ".gz":
        return gzip.compress(data)
    if packed == ".zst":
        zstandard = pytest.importorskip("zstandard")
        half = len(data) // 2
        compress = zstandard.ZstdCompressor().compress
        both: bytes = compress(data[:half]) + compress(data[half:])
        return both
    return data


@pytest.mark.parametrize("unit", ["file", "line", "blank"])
@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_packed_text_is_read_as_plain_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: Any, packed: str
) -> None:
    monkeypatch.setattr(streams, "CHUNK_BYTES", 500)
    data = b"\xef\xbb\xbf" + "".join(f"line {number} é\n" + "\n" * (number % 3) for number in range(200)).encode()
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / f"b.txt{packed}").write_bytes(pack(data, packed))
    assert read(tmp_path / f"b.txt{packed}", split_documents=unit) == read(tmp_path / "a.txt", split_documents=unit)


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_an_archive_cut_short_gives_what_it_has(tmp_path: Path, packed: str) -> None:
    import random

    chance = random.Random(0)
    data = as_json_lines(["".join(chance.choices("abcdefgh ", k=200)) for _ in range(3_000)])
    path = tmp_path / f"a.jsonl{packed}"
    path.write_bytes(pack(data, packed)[:-1_000])
    texts, bad = read(path)
    assert 100 < len(texts) < 3_000
    assert len(bad) == 2, bad
    assert "no valid JSON" in bad[0]
    assert "the archive is cut short or damaged" in bad[1]


def test_what_is_no_archive_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b"\x1f\x8b" + b"rubbish" * 100)
    assert read(path)[0] == []
    assert "cut short or damaged" in read(path)[1][0]


@pytest.mark.parametrize(
    ("content", "texts", "bad"),
    [
        ('[{"text": "a"}, {"id": 1}, 7, {"text": null}, {"text": "b"}]', ["a", "b"], ["value 2", "value 3", "value 4"]),
        ('[{"text": "a"}, {"text": "b"', ["a"], ["value 2: no valid JSON"]),
        ('[{"text": "a"}, ', ["a"], ["value 2: the array is not closed"]),
        ('{"text": "a"}\n{"text": oh}\n{"text": "b"}', ["a", "b"], ["value 2: no valid JSON"]),
        ("", [], []),
        (" [ ] ", [], []),
    ],
)
def test_broken_json(tmp_path: Path, content: str, texts: list[str], bad: list[str]) -> None:
    (tmp_path / "a.json").write_text(content)
    found, described = read(tmp_path / "a.json")
    assert found == texts
    assert len(described) == len(bad)
    assert all(expected in line for expected, line in zip(bad, described, strict=True)), described


def test_json_that_is_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'[{"text": "a"}, {"text": "caf\xe9"}]')
    bad = read(tmp_path / "a.json")[1]
    assert len(bad) == 1
    assert "no UTF-8" in bad[0]


def test_broken_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id,text\n1,fine\n2\n\n3,caf\xe9\n4,\n5,good\n")
    texts, bad = read(tmp_path / "a.csv")
    assert texts == ["fine", "good"]
    assert [line.split(": ")[0].rsplit(", ")[-1] for line in bad] == ["row 3", "row 5", "row 6"]


def test_a_column_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(as_csv(TEXTS).replace(b"id,text", b"id,body", 1))
    assert read(tmp_path / "a.csv", field="body")[0] == TEXTS
    with pytest.raises(
        DataError, match=r"a\.csv: no column 'text' \(its columns: 'id', 'body'\); name one with --field"
    ):
        read(tmp_path / "a.csv")


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"text": [*TEXTS, None, ""], "number": range(len(TEXTS) + 2)})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    return tmp_path / "a.parquet"


def test_parquet(parquet: Path) -> None:
    texts, bad = read(parquet)
    assert texts == TEXTS
    assert [line.split(": ", 1)[0].rsplit(", ")[-1] for line in bad] == ["row 5", "row 6"]
    with pytest.raises(DataError, match="column 'number' is of type int64, no text"):
        read(parquet, field="number")
    with pytest.raises(DataError, match=r"no column 'body' \(its columns: 'text', 'number'\)"):
        read(parquet, field="body")


def test_damaged_parquet(parquet: Path) -> None:
    parquet.write_bytes(parquet.read_bytes()[:-10])
    texts, bad = read(parquet)
    assert texts == []
    assert "no whole Parquet file" in bad[0]


def test_a_folder_of_everything(tmp_path: Path, parquet: Path) -> None:
    for name, write in WRITERS.items():
        (tmp_path / name).write_bytes(write(TEXTS))
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(write(TEXTS)))
    assert sorted(read(tmp_path)[0]) == sorted(TEXTS * 15)


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"plain text\n", ["plain text\n"]),
        (as_json_lines(TEXTS), TEXTS),
        (gzip.compress(b"plain text\n", mtime=0), ["plain text\n"]),
        (json.dumps([{"text": "a"}]).encode(), ["a"]),
    ],
)
def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, texts: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert read("-")[0] == texts


def test_standard_input_of_a_stated_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(as_json_lines(TEXTS)))))
    assert read("-", format="jsonl")[0] == TEXTS


@pytest.mark.parametrize("saved", ["disk", "jsonl"])
def test_a_hugging_face_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: str) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "corpus"
    if saved == "disk":
        datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": [*TEXTS, None]})}).save_to_disk(folder)
    else:
        folder.mkdir()
        (folder / "train.jsonl").write_bytes(as_json_lines([*TEXTS, None]))
    texts, bad = read(f"hf:{folder}")
    assert texts == TEXTS
    assert len(bad) == 1
    assert "row 5: the text is null" in bad[0]
    with pytest.raises(DataError, match="no column 'body'"):
        read(f"hf:{folder}", field="body")
    with pytest.raises(DataError, match="split"):
        read(f"hf:{folder}::test")


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, name in (("pyarrow", "a.parquet"), ("zstandard", "a.txt.zst")):
        (tmp_path / name).write_bytes(b"PAR1" if package == "pyarrow" else b"\x28\xb5\x2f\xfd")
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingDependencyError, match=rf"'{package}': pip install 'smidgen\[data\]'"):
            read(tmp_path / name)


def test_chunks_of_a_stream_count_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "CHUNK_BYTES", 1_000)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(as_json_lines(["some text"] * 1_000)))
    (source,) = open_sources([path], SourceOptions(), holdout=Holdout(), seed=0, spool=Path("spool"))
    sizes = [chunk.size for chunk in source.chunks()]
    assert len(sizes) > 10
    assert sum(sizes) == path.stat().st_size
    assert source.digest() == base.digest_of_file(path)
