"""The page says what the folder holds, escapes what data says, and needs nothing from elsewhere."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from smidgen.config import TokenizerConfig
from smidgen.data import Dataset, prepare
from smidgen.data.report import write_report
from smidgen.data.report.measure import count_tokens, measure_lengths
from smidgen.runtime.errors import DataError

TEXTS = [f"Story {i} " + "tells of <b>lamps</b> & ships " * (i % 7 + 1) for i in range(40)]
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"
VOID = {"meta", "br", "line", "rect", "path"}


class Checker(HTMLParser):
    """Elements are closed in order; collects their names, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder whose manifest tells of drops, edits and bad input."""
    place = tmp_path_factory.mktemp("report")
    source = place / "stories <1>.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    out = place / "data <&>"
    prepare([source], out, TokenizerConfig(vocab_size=300), workers=1)
    manifest = json.loads((out / "dataset.json").read_text())
    sample = {"source": HOSTILE, "text": HOSTILE}
    manifest["cleaning"] = {
        "drops": {"language": {"documents": 60, "bytes": 12_345, "samples": [sample]}},
        "edits": {"whitespace": 7},
    }
    example = {"source": HOSTILE, "position": 1234, "unit": "line", "message": HOSTILE}
    manifest["bad_input"] = {"broken JSON": {"count": 5, "examples": [example]}}
    share = {"source": HOSTILE, "weight": 2.0, "tokens": 10, "times": 1.5, "taken": 15}
    manifest["mixture"] = [share]
    (out / "dataset.json").write_text(json.dumps(manifest))
    return out


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    target = folder.parent / "report.html"
    write_report(target, folder)
    assert [path.name for path in folder.parent.glob(".*")] == []
    return target.read_text(encoding="utf-8")


def test_numbers_are_those_of_the_folder(folder: Path, page: str) -> None:
    text = Checker(page).text
    dataset = Dataset.open(folder)
    tokens = dataset.train.num_tokens + dataset.val.num_tokens
    size = sum(len(text.encode()) for text in TEXTS)
    assert f"{tokens:,}tokens" in text
    assert f"{size / tokens:.2f}bytes a token" in text
    assert "Cleaning dropped 60 of 100 documents." in text
    assert "40.0%of documents kept" in text
    for told in ("language", "12.3 kB", "60.0%", "whitespace", "broken JSON", ", line 1,234: ", "1.5 ×"):
        assert told in text


def test_what_data_says_is_escaped_and_nothing_is_loaded(page: str) -> None:
    checker = Checker(page)
    assert not checker.seen & {"script", "img", "link", "iframe", "object"}
    assert HOSTILE in checker.text
    assert [name for name, _ in checker.attributes if name.startswith("on") or name in {"src", "href"}] == []
    assert "http" not in page
    assert "url(" not in page
    assert "prefers-color-scheme: dark" in page


def test_the_same_folder_gives_the_same_page(folder: Path, page: str, tmp_path: Path) -> None:
    write_report(tmp_path / "again.html", folder)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_lengths_and_frequencies_are_exact(folder: Path) -> None:
    dataset = Dataset.open(folder)
    ids = np.concatenate([split.tokens[0 : split.num_tokens] for split in (dataset.train, dataset.val)])
    assert count_tokens(dataset).tolist() == np.bincount(ids, minlength=dataset.vocab_size or 0).tolist()
    lengths = measure_lengths(dataset)
    assert lengths is not None
    assert sum(bin.documents for bin in lengths.bins) == 40
    exact = _lengths(dataset)
    assert (lengths.median, lengths.longest) == (exact[19], exact[-1])
    assert [bin.documents for bin in lengths.bins] == [
        sum(bin.low <= length <= bin.high for length in exact) for bin in lengths.bins
    ]
    assert all(before.high + 1 == after.low for before, after in zip(lengths.bins, lengths.bins[1:], strict=False))


def _lengths(dataset: Dataset) -> list[int]:
    lengths: list[int] = []
    for split in (dataset.train, dataset.val):
        assert split.document_offsets is not None
        lengths += np.diff(split.document_offsets).tolist()
    return sorted(lengths)


@pytest.mark.parametrize("text", ["ab", "one document\nof two lines"])
def test_the_smallest_datasets_have_a_page(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    prepare([tmp_path / "a.txt"], tmp_path / "data", TokenizerConfig(kind="characters"), workers=1)
    write_report(tmp_path / "report.html", tmp_path / "data")
    Checker((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_a_page_that_cannot_be_written_is_one_clear_message(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--report .*cannot be written"):
        write_report(tmp_path / "missing" / "report.html", folder)
