"""Sources: what files, folders and globs stand for, and options that nothing would obey."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from smidgen.data import Holdout
from smidgen.data.sources import Source, SourceOptions, find_files, open_sources
from smidgen.runtime.errors import DataError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.txt", "a.md", "code.py", "sub/c.jsonl", "sub/.hidden.txt", ".git/d.txt", "made/dataset.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "made/merges.txt").write_text("not a text of the user's")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*names: str) -> list[str]:
    return [str(path) for path in find_files(names)]


def test_a_folder_is_its_text_files_sorted(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert found(".") == ["a.md", "b.txt", "sub/c.jsonl"]
    assert ".py (1)" in caplog.text


def test_globs_and_files_name_anything(tree: Path) -> None:
    assert found("**/*.py", "b.txt") == ["code.py", "b.txt"]
    assert found("sub/*") == ["sub/c.jsonl"]


def test_a_file_named_twice_is_read_once(tree: Path) -> None:
    os.symlink("b.txt", "link.txt")
    assert found("b.txt", ".", "./b.txt") == ["b.txt", "a.md", "sub/c.jsonl"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.txt", r"absent\.txt: no such file or folder.*storyworld"),
        ("*.csv", r"\*\.csv: matches no file"),
        ("made", r"made: no file that ends in .*\.txt"),
    ],
)
def test_names_that_stand_for_nothing(tree: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_files([name])


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, "name a file"),
        (["b.txt"], {"field": "body"}, "--field body: none of the sources is JSON Lines or a table"),
        (["sub/c.jsonl"], {"split_documents": "line"}, "--split-documents line: none of the sources is a text file"),
        (["storyworld"], {"format": "csv"}, "--format csv: none of the sources is a file"),
        (["b.txt"], {"documents": 5}, "--documents 5: counts documents of the source 'storyworld'"),
        (["storyworld"], {"documents": 0}, "--documents 0: use at least 1"),
    ],
)
def test_options_that_nothing_would_obey(tree: Path, names: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(names, **options)


def opened(names: list[str], **options: Any) -> list[Source]:
    return open_sources(names, SourceOptions(**options), holdout=Holdout(), seed=0, spool=Path("spool"))


def test_a_digest_follows_the_content_not_the_name(tree: Path) -> None:
    (tree / "copy.txt").write_text((tree / "b.txt").read_text())

    def digest(name: str) -> str:
        return opened([name])[0].digest()

    assert digest("b.txt") == digest("copy.txt")
    (tree / "copy.txt").write_text("[]")
    assert digest("b.txt") != digest("copy.txt")
