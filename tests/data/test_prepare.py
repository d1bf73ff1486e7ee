"""Prepare: the dataset folder it writes, what it refuses, and that nothing is ever half written."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.config import TokenizerConfig
from smidgen.data import Dataset, Holdout, Prepared, Windows, prepare
from smidgen.data.manifest import Manifest
from smidgen.data.storyworld import generate
from smidgen.runtime.errors import DataError, TokenizerError

pytestmark = pytest.mark.usefixtures("workshop")

EOS = 256
STORIES = [f"Story number {number}: the end." for number in range(50)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": story}) + "\n" for story in STORIES))
    return path


def run(source: Path | str, out: Path, tokenizer: dict[str, Any] | None = None, **options: Any) -> Prepared:
    return prepare([source], out, TokenizerConfig(**(tokenizer or {})), **options)


def documents_of(dataset: Dataset, split: str = "train") -> list[bytes]:
    tokens = getattr(dataset, split).tokens
    offsets = getattr(dataset, split).document_offsets
    documents = [tokens[start:stop].tolist() for start, stop in itertools.pairwise(offsets)]
    assert all(document[-1] == EOS for document in documents)
    return [bytes(document[:-1]) for document in documents]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_document_ends_with_end_of_text_in_one_split(corpus: Path, tmp_path: Path) -> None:
    dataset = run(corpus, tmp_path / "data").dataset
    train, val = documents_of(dataset), documents_of(dataset, "val")
    assert sorted(train + val) == sorted(story.encode() for story in STORIES)
    assert 0 < len(val) < len(train)
    assert train == [story.encode() for story in STORIES if story.encode() in train], "in the order of the source"
    assert dataset.train.num_bytes == sum(map(len, train))
    assert dataset.train.num_tokens == sum(map(len, train)) + len(train)
    assert dataset.train.num_documents == len(train)


def test_the_folder_is_as_designed(corpus: Path, tmp_path: Path) -> None:
    prepared = run(corpus, tmp_path / "data", holdout=Holdout(documents=3))
    folder = tmp_path / "data"
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset.json",
        "tokenizer",
        "train-00000.bin",
        "train-00000.offsets.npy",
        "val-00000.bin",
        "val-00000.offsets.npy",
    ]
    raw = np.fromfile(folder / "train-00000.bin", "<u2")
    assert raw.tolist() == prepared.dataset.train.tokens[:].tolist()
    offsets = np.load(folder / "val-00000.offsets.npy")
    assert offsets.dtype == np.int64
    assert len(offsets) == 4
    described = json.loads((folder / "dataset.json").read_text())
    assert described["dtype"] == "uint16"
    assert described["vocab_size"] == 259
    assert described["tokenizer_fingerprint"] == "bytes"
    assert described["splits"]["val"][0]["documents"] == 3
    assert described["sources"][0]["bytes"] == corpus.stat().st_size
    assert prepared.dataset.tokenizer() is not None


def test_a_tokenizer_is_trained_on_training_documents_only(corpus: Path, tmp_path: Path, workshop: Any) -> None:
    dataset = run(corpus, tmp_path / "data").dataset
    assert [text.encode() for text in workshop.trained_on] == documents_of(dataset)


def test_text_that_spells_a_special_token_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("say <|im_end|>\nand <|endoftext|>\n")
    dataset = run(path, tmp_path / "data", split_documents="line").dataset
    assert sorted(documents_of(dataset) + documents_of(dataset, "val")) == [b"and <|endoftext|>", b"say <|im_end|>"]


def test_characters_of_one_file_are_the_file(tmp_path: Path) -> None:
    text = "To be, or not to be.\n\nThat is the question:\n" * 10 + "z"
    path = tmp_path / "play.txt"
    path.write_text(text)
    dataset = run(path, tmp_path / "data", {"kind": "characters"}).dataset
    letters = sorted(set(text))
    cut = int(len(text) * 0.9)
    assert dataset.train.tokens[:].tolist() == [letters.index(letter) for letter in text[:cut]]
    assert dataset.val.tokens[:].tolist() == [letters.index(letter) for letter in text[cut:]]
    assert dataset.train.num_bytes == cut


@pytest.mark.parametrize("unit", ["line", "blank"])
def test_characters_keep_what_separated_documents(tmp_path: Path, unit: Any) -> None:
    text = "one\ntwo\n\nthree\nfour\n\n\nfive"
    path = tmp_path / "play.txt"
    path.write_text(text)
    dataset = run(
        path, tmp_path / "data", {"kind": "characters"}, split_documents=unit, holdout=Holdout(method="tail")
    ).dataset
    tokenizer = dataset.tokenizer()
    assert tokenizer is not None
    kept = text if unit == "blank" else text.replace("\n\n\n", "\n").replace("\n\n", "\n")
    assert tokenizer.decode(dataset.train.tokens[:]) + tokenizer.decode(dataset.val.tokens[:]) == kept


def test_a_large_vocabulary_takes_four_bytes_a_token(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workshop: Any
) -> None:
    monkeypatch.setattr(type(workshop.train("byte_bpe", [], 0)), "vocab_size", 65_537)
    dataset = run(corpus, tmp_path / "data").dataset
    assert dataset.dtype == np.uint32
    assert len(documents_of(dataset)) > 30


def test_the_same_input_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    first, second = (run(corpus, tmp_path / name, seed=5).dataset for name in ("one", "two"))
    assert contents(first.path) == contents(second.path)
    assert first.fingerprint == second.fingerprint
    assert run(corpus, tmp_path / "three", seed=6).dataset.fingerprint != first.fingerprint


def test_preparing_again_does_nothing_and_says_so(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    before = run(corpus, out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    corpus.rename(tmp_path / "renamed.jsonl")
    again = run(tmp_path / "renamed.jsonl", out)
    assert not before.already_prepared
    assert again.already_prepared
    assert again.dataset.fingerprint == before.dataset.fingerprint
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def change_source(corpus: Path) -> dict[str, Any]:
    corpus.write_text(corpus.read_text().replace("7", "8"))
    return {}


@pytest.mark.parametrize(
    "change",
    [
        change_source,
        lambda corpus: {"seed": 1},
        lambda corpus: {"holdout": Holdout(0.2)},
        lambda corpus: {"tokenizer": {"vocab_size": 300}},
    ],
)
def test_another_request_needs_overwrite(corpus: Path, tmp_path: Path, change: Any) -> None:
    out = tmp_path / "data"
    run(corpus, out)
    before = contents(out)
    options = change(corpus)
    with pytest.raises(DataError, match=r"--out .*data: holds a dataset of other sources or options; .*--overwrite"):
        run(corpus, out, **options)
    assert contents(out) == before
    assert not run(corpus, out, **options, overwrite=True).already_prepared
    assert contents(out) != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "data"]


def test_a_folder_with_other_things_is_never_replaced(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    run(corpus, out)
    (out / "notes.md").write_text("mine")
    with pytest.raises(DataError, match=r"holds 'notes\.md', which prepare did not write"):
        run(corpus, out, seed=1, overwrite=True)
    with pytest.raises(DataError, match="is a file; choose another --out"):
        run(corpus, corpus)
    assert (out / "notes.md").read_text() == "mine"


def test_an_empty_folder_is_filled(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "deep/data").mkdir(parents=True)
    assert len(documents_of(run(corpus, tmp_path / "deep/data").dataset)) > 30


class Interruption(BaseException):
    """Stands for Ctrl-C, a full disk, or anything else that ends the work."""


@pytest.mark.parametrize("stage", ["reading", "training the tokenizer", "encoding"])
@pytest.mark.parametrize("existing", [False, True])
def test_an_interruption_leaves_nothing_behind(corpus: Path, tmp_path: Path, stage: str, existing: bool) -> None:
    out = tmp_path / "data"
    if existing:
        run(corpus, out)
    before = contents(tmp_path)

    def interrupt(at: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        if at == stage and done > 500:
            raise Interruption

    with pytest.raises(Interruption):
        run(corpus, out, seed=1, overwrite=True, progress=interrupt)
    assert contents(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", *(["data"] if existing else [])]


def test_what_a_killed_process_left_is_cleared_away(corpus: Path, tmp_path: Path) -> None:
    partial = tmp_path / ".data.partial"
    (partial / "tokenizer").mkdir(parents=True)
    (partial / "train-00000.bin").write_bytes(b"half")
    run(corpus, tmp_path / "data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "data"]


def test_a_kill_between_the_two_renames_loses_nothing(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    run(corpus, out)
    before = contents(out)
    out.rename(tmp_path / ".data.replaced")

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "encoding":
            raise Interruption

    with pytest.raises(Interruption):
        run(corpus, out, seed=1, progress=interrupt)
    assert contents(out) == before
    assert run(corpus, out).already_prepared
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "data"]


def test_two_writers_of_one_folder(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / ".data.partial").mkdir()
    holder = os.open(tmp_path / ".data.partial", os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        with pytest.raises(DataError, match="another process is writing it"):
            run(corpus, tmp_path / "data")
    finally:
        os.close(holder)


def cut_tokens(folder: Path) -> None:
    path = folder / "train-00000.bin"
    path.write_bytes(path.read_bytes()[:-1])


def point_elsewhere(folder: Path) -> None:
    (folder / "val-00000.bin").rename(folder.parent / "elsewhere.bin")
    path = folder / "dataset.json"
    path.write_text(path.read_text().replace("val-00000.bin", "../elsewhere.bin"))


def edit_manifest(**changes: Any) -> Any:
    def edit(folder: Path) -> None:
        path = folder / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_tokens, r"train-00000\.bin: truncated"),
        (lambda folder: (folder / "val-00000.bin").unlink(), r"val-00000\.bin: this token file is missing"),
        (lambda folder: (folder / "val-00000.offsets.npy").write_bytes(b"x"), r"val-00000\.offsets\.npy: cannot be"),
        (
            lambda folder: np.save(folder / "val-00000.offsets.npy", np.arange(3)),
            r"val-00000\.offsets\.npy: does not match dataset\.json",
        ),
        (lambda folder: (folder / "dataset.json").write_text("{"), r"dataset\.json: damaged"),
        (lambda folder: (folder / "dataset.json").write_text("[]"), r"dataset\.json: damaged"),
        (point_elsewhere, r"dataset\.json: damaged .*'\.\./elsewhere\.bin' is no name of a file in the folder"),
        (edit_manifest(version=99), r"version = 99"),
        (edit_manifest(dtype="float64"), r"dataset\.json: damaged"),
        (edit_manifest(splits={"train": []}), r"dataset\.json: damaged"),
        (edit_manifest(splits={"train": [], "val": []}), r"dataset\.json: damaged"),
        (edit_manifest(splits={"train": [{"file": 1}], "val": []}), r"dataset\.json: damaged"),
    ],
)
def test_a_damaged_folder_is_one_clear_error(corpus: Path, tmp_path: Path, damage: Any, message: str) -> None:
    out = tmp_path / "data"
    run(corpus, out)
    damage(out)
    with pytest.raises(DataError, match=message) as error:
        Dataset.open(out)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="--overwrite"):
        run(corpus, out)
    assert len(documents_of(run(corpus, out, overwrite=True).dataset)) > 30


def test_another_tokenizer_in_the_folder_is_noticed(corpus: Path, tmp_path: Path) -> None:
    dataset = run(corpus, tmp_path / "data").dataset
    (tmp_path / "data/tokenizer/tokenizer.json").write_text('{"kind": "characters"}')
    (tmp_path / "data/tokenizer/letters.txt").write_text("abc")
    with pytest.raises(DataError, match="not the tokenizer that made these tokens"):
        dataset.tokenizer()


def test_a_dataset_in_several_shards_reads_as_one(corpus: Path, tmp_path: Path) -> None:
    whole = run(corpus, tmp_path / "data").dataset
    folder = tmp_path / "data"
    described = json.loads((folder / "dataset.json").read_text())
    offsets = whole.train.document_offsets
    assert offsets is not None
    records = []
    for number, (first, last) in enumerate([(0, 10), (10, 11), (11, len(offsets) - 1)]):
        start, stop = int(offsets[first]), int(offsets[last])
        name = f"train-1000{number}"
        whole.train.tokens[start:stop].tofile(folder / f"{name}.bin")
        np.save(folder / f"{name}.offsets.npy", offsets[first : last + 1] - start)
        records.append(
            {
                "file": f"{name}.bin",
                "offsets": f"{name}.offsets.npy",
                "tokens": stop - start,
                "documents": last - first,
                "bytes": 0,
                "sha256": "",
            }
        )
    described["splits"]["train"] = records
    (folder / "dataset.json").write_text(json.dumps(described))
    sharded = Dataset.open(folder)
    assert sharded.train.tokens[:].tolist() == whole.train.tokens[:].tolist()
    assert sharded.train.document_offsets is not None
    assert sharded.train.document_offsets.tolist() == offsets.tolist()
    ours, theirs = (Windows(split, 32).batch(5, 20) for split in (sharded.train, whole.train))
    assert (ours.labels == theirs.labels).all()


def test_a_vocabulary_larger_than_the_models_is_refused(corpus: Path, tmp_path: Path) -> None:
    split = run(corpus, tmp_path / "data").dataset.train
    split.check_vocab(259)
    with pytest.raises(DataError, match=r"model\.vocab_size = 258: the dataset's tokenizer has 259 ids"):
        split.check_vocab(258)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "sentencepiece"}, "tokenizer.kind = sentencepiece: .* is of kind byte_bpe"),
        ({"kind": "pretrained", "vocab_size": 300}, "tokenizer.vocab_size = 300: .* has 259 ids"),
    ],
)
def test_a_loaded_tokenizer_must_be_what_was_asked_for(
    corpus: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    first = run(corpus, tmp_path / "first").dataset
    path = str(first.path / "tokenizer")
    with pytest.raises(DataError, match=message):
        run(corpus, tmp_path / "second", {"path": path, **fields})
    second = run(corpus, tmp_path / "second", {"path": path}).dataset
    assert second.fingerprint == first.fingerprint


def test_a_tokenizers_refusal_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/tokenizer.json").write_text('{"kind": "characters"}')
    (tmp_path / "letters/letters.txt").write_text("ab")
    (tmp_path / "text.txt").write_text("abcabc")
    with pytest.raises(TokenizerError, match="unknown characters"):
        run(tmp_path / "text.txt", tmp_path / "data", {"path": str(tmp_path / "letters")})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters", "text.txt"]


@pytest.mark.parametrize("text", ["", "\n \n\n"])
def test_sources_without_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "empty.txt").write_text(text)
    with pytest.raises(DataError, match=r"empty\.txt: holds no text; name a source that does"):
        run(tmp_path / "empty.txt", tmp_path / "data")


def test_an_empty_file_among_others_is_a_warning(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "empty.txt").write_text("")
    prepare([corpus, tmp_path / "empty.txt"], tmp_path / "data", TokenizerConfig())
    assert "empty.txt: holds no text" in caplog.text


def test_a_manifest_survives_its_json(corpus: Path, tmp_path: Path) -> None:
    prepared = run(corpus, tmp_path / "data")
    assert Manifest.read(tmp_path / "data") == prepared.manifest


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range(corpus: Path, tmp_path: Path, seed: int) -> None:
    with pytest.raises(DataError, match=f"--seed {seed}: use"):
        run(corpus, tmp_path / "data", seed=seed)


def test_storyworld_brings_its_own_validation_documents(tmp_path: Path) -> None:
    dataset = run("storyworld", tmp_path / "data", documents=240, holdout=Holdout(0.25), seed=3).dataset
    drawn = {split: list(islice(generate(3, split), count)) for split, count in (("train", 240), ("val", 60))}
    for split, documents in drawn.items():
        plain = [document.text.encode() for document in documents if document.messages is None]
        tokens = getattr(dataset, split).tokens[:].tolist()
        assert tokens.count(EOS) == len(documents)
        written = bytes(token for token in tokens if token < EOS)
        assert all(text in written for text in plain)
        turns = sum(len(document.messages) for document in documents if document.messages is not None)
        assert turns > 0
        assert tokens.count(257) == tokens.count(258) == turns, "the markers of chats are special tokens"


def test_storyworld_beside_files(corpus: Path, tmp_path: Path) -> None:
    prepared = prepare(
        ["storyworld", corpus], tmp_path / "data", TokenizerConfig(), documents=20, holdout=Holdout(documents=5)
    )
    documents = {name: records[0].documents for name, records in prepared.manifest.splits.items()}
    assert documents == {"train": 20 + len(STORIES) - 5, "val": 5 + 5}
    assert [source.bytes for source in prepared.manifest.sources] == [corpus.stat().st_size, None]


def test_storyworld_is_prepared_once(tmp_path: Path) -> None:
    assert not run("storyworld", tmp_path / "data", documents=20).already_prepared
    assert run("storyworld", tmp_path / "data", documents=20).already_prepared
    with pytest.raises(DataError, match="--overwrite"):
        run("storyworld", tmp_path / "data", documents=21)
