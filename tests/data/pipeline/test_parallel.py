"""The same bytes however the work is divided: over processes, over machines, over shards of tokens."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.config import TokenizerConfig
from smidgen.data import Holdout, prepare
from smidgen.data.merging import merge_parts
from smidgen.data.pipeline.plan import Limits
from smidgen.data.prepare import prepare_part
from smidgen.runtime.errors import DataError

Contents = Callable[[Path], dict[str, bytes]]


def test_any_number_of_workers_gives_the_same_bytes(
    tmp_path: Path, tokenizer_config: TokenizerConfig, contents: Contents
) -> None:
    """With chunks as they are: worker processes know no patches."""
    path = tmp_path / "corpus.jsonl"
    line = json.dumps({"text": "word " * 500})
    path.write_text("\n".join(f'{{"text": "{number} {"word " * (number % 700)}"}}' for number in range(3_000)) + line)
    made = [
        contents(prepare([path], tmp_path / f"data{workers}", tokenizer_config, workers=workers).dataset.path)
        for workers in (1, 3)
    ]
    assert path.stat().st_size > 2 << 21
    assert made[0] == made[1]
    assert json.loads(made[0]["dataset.json"])["bad_input"]["broken JSON"]["examples"][0]["position"] == 3_000


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"holdout": Holdout(0.2, method="tail")},
        {"holdout": Holdout(documents=7)},
        {"limits": Limits(documents={"corpus.jsonl": 100})},
        {"weights": {"corpus.jsonl": 1, "other.txt": 2}},
        {"shard_tokens": 500},
    ],
)
@pytest.mark.parametrize("parts", [1, 3])
def test_parts_make_the_undivided_dataset(
    corpus: Path,
    tokenizer_config: TokenizerConfig,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    parts: int,
) -> None:
    monkeypatch.chdir(corpus.parent)
    Path("other.txt").write_text("One.\n\nTwo two.\n\ncaf\udce9\n\nThree.\n" * 60, errors="surrogateescape")
    sources = ["corpus.jsonl", "other.txt"]
    whole = prepare(sources, "whole", tokenizer_config, split_documents="blank", **options)
    for number in range(parts):
        part = Path(f"part-{number}")
        prepare_part(sources, part, tokenizer_config, (number, parts), split_documents="blank", **options)
    merged = merge_parts([f"part-{number}" for number in reversed(range(parts))], "merged")
    assert merged == whole.manifest
    assert contents(Path("merged")) == contents(Path("whole"))
    assert whole.manifest.bad_input["encoding"]["count"] == 60
    assert whole.manifest.bad_input["encoding"]["examples"][1]["position"] == 12


@pytest.mark.usefixtures("small_chunks")
def test_parts_that_do_not_make_a_whole(corpus: Path, tokenizer_config: TokenizerConfig, tmp_path: Path) -> None:
    parts = [tmp_path / f"part-{number}" for number in range(3)]
    for number, part in enumerate(parts):
        prepare_part([corpus], part, tokenizer_config, (number, 3))
    other = prepare_part([corpus], tmp_path / "other", tokenizer_config, (2, 3), seed=1).path

    def refused(folders: list[Path], message: str) -> None:
        with pytest.raises(DataError, match=message):
            merge_parts(folders, tmp_path / "merged")
        assert not (tmp_path / "merged").exists()

    refused(parts[:2], "part 3 of 3 is missing")
    refused([*parts, parts[0]], "is part 1, as .* is")
    refused([*parts[:2], other], "of another job")
    refused([corpus.parent], "no part of a dataset")
    tokens = parts[1] / "tokens.bin"
    data = bytearray(tokens.read_bytes())
    data[10] ^= 1
    tokens.write_bytes(data)
    refused(parts, r"tokens\.bin: damaged")


def test_a_part_needs_a_tokenizer(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--shard: all parts need one tokenizer"):
        prepare_part([corpus], tmp_path / "part", TokenizerConfig(), (0, 2))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("shard_tokens", [300, 1_000, 5_000])
def test_shards_are_bounded_and_hold_whole_documents(
    corpus: Path, tokenizer_config: TokenizerConfig, tmp_path: Path, shard_tokens: int
) -> None:
    one = prepare([corpus], tmp_path / "one", tokenizer_config).dataset
    many = prepare([corpus], tmp_path / "many", tokenizer_config, shard_tokens=shard_tokens)
    assert (many.dataset.train.tokens[:] == one.train.tokens[:]).all()
    assert np.array_equal(many.dataset.train.document_offsets, one.train.document_offsets)
    assert many.dataset.train.num_bytes == one.train.num_bytes
    records = many.manifest.splits["train"]
    assert len(records) > 1
    assert all(record.tokens <= shard_tokens or record.documents == 1 for record in records)
    assert sum(record.documents for record in records) == one.train.num_documents


@pytest.mark.usefixtures("small_chunks")
def test_a_document_longer_than_a_chunk_stays_one(tokenizer_config: TokenizerConfig, tmp_path: Path) -> None:
    long, short = tmp_path / "long.txt", tmp_path / "short.txt"
    long.write_text("".join(f"line {number} of many\n" for number in range(2_000)))
    short.write_text("short")
    made = prepare([long, short, tmp_path / "*.txt"], tmp_path / "data", tokenizer_config, shard_tokens=100)
    tokenizer = made.dataset.tokenizer()
    assert tokenizer is not None
    found = [
        tokenizer.decode(split.tokens[:].tolist(), skip_special=True)
        for split in (made.dataset.train, made.dataset.val)
    ]
    assert sorted(found) == [long.read_text(), "short"]


@pytest.mark.usefixtures("small_chunks")
def test_sources_have_their_shares(corpus: Path, tokenizer_config: TokenizerConfig, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("".join(f"Number {number} is here.\n" for number in range(300)))
    names = [str(corpus), str(other)]
    weights = dict(zip(names, (1.0, 3.0), strict=True))
    plain = prepare(names, tmp_path / "plain", tokenizer_config, split_documents="line").dataset
    made = prepare(names, tmp_path / "data", tokenizer_config, split_documents="line", weights=weights)
    first, second = made.manifest.mixture
    total = plain.train.num_tokens
    assert abs(made.dataset.train.num_tokens - total) < 100
    assert abs(first["taken"] - total / 4) < 100
    assert abs(second["taken"] - total * 3 / 4) < 100
    assert first["times"] < 1 < second["times"]
    assert made.dataset.val.num_tokens == plain.val.num_tokens
    assert first["taken"] + second["taken"] == made.dataset.train.num_tokens


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("limit", [1, 7, 100, 10_000])
def test_a_limit_takes_the_first_documents(
    corpus: Path, tokenizer_config: TokenizerConfig, tmp_path: Path, documents_of: Any, limit: int
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("".join(f"Number {number} is here.\n" for number in range(50)))
    limits = Limits(documents={str(corpus): limit})
    dataset = prepare(
        [corpus, other], tmp_path / "data", tokenizer_config, split_documents="line", limits=limits
    ).dataset
    found = {*documents_of(dataset), *documents_of(dataset, "val")}
    lines = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    assert found == {*lines[:limit], *other.read_text().splitlines()}


@pytest.mark.usefixtures("small_chunks")
def test_a_limit_of_bytes(corpus: Path, tokenizer_config: TokenizerConfig, tmp_path: Path) -> None:
    limits = Limits(bytes={str(corpus): 5_000})
    made = prepare([corpus], tmp_path / "data", tokenizer_config, limits=limits)
    assert 4_500 < made.manifest.sources[0].text_bytes <= 5_000


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("unit", ["file", "line", "blank"])
@pytest.mark.parametrize("packed", [False, True])
def test_bad_lines_are_named_by_their_number_in_the_file(
    tokenizer_config: TokenizerConfig, tmp_path: Path, unit: Any, packed: bool
) -> None:
    path = tmp_path / "corpus.txt"
    lines = [f"line number {number}\n".encode() + b"\n" * (number % 3) for number in range(400)]
    lines[300] = b"caf\xe9\n"
    data = b"".join(lines)
    path.write_bytes(gzip.compress(data) if packed else data)
    expected = 1 + b"".join(lines[:300]).count(b"\n")
    made = prepare([path], tmp_path / "data", tokenizer_config, split_documents=unit)
    assert made.manifest.bad_input["encoding"]["examples"][0]["position"] == expected
    with pytest.raises(DataError, match=f"line {expected}: byte 0xe9"):
        prepare([path], tmp_path / "strict", tokenizer_config, split_documents=unit, strict=True)
