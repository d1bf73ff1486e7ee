"""Folders of nanoGPT and llm.c, written here as those projects document their formats."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from smidgen.data import Dataset, Windows
from smidgen.runtime.errors import DataError

TRAIN, VAL = list(range(100, 150)), list(range(7))


def write_nanogpt(folder: Path, train: list[int] = TRAIN, val: list[int] = VAL) -> None:
    np.array(train, np.uint16).tofile(folder / "train.bin")
    np.array(val, np.uint16).tofile(folder / "val.bin")


def write_llm_c(path: Path, ids: list[int], magic: int = 20240520, version: int = 1, count: int | None = None) -> None:
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, len(ids) if count is None else count
    dtype = np.uint32 if magic == 20240801 else np.uint16
    path.write_bytes(header.tobytes() + np.array(ids, dtype).tobytes())


def test_nanogpt(tmp_path: Path) -> None:
    write_nanogpt(tmp_path)
    dataset = Dataset.open(tmp_path)
    assert dataset.train.tokens[:].tolist() == TRAIN
    assert dataset.val.tokens[:].tolist() == VAL
    assert dataset.dtype == np.uint16
    assert dataset.vocab_size is None
    assert dataset.tokenizer_fingerprint is None
    assert dataset.tokenizer() is None
    assert dataset.train.document_offsets is None
    assert dataset.train.num_bytes is None


def test_nanogpt_documents_end_with_gpt2s_end_of_text(tmp_path: Path) -> None:
    write_nanogpt(tmp_path, [5, 6, 50256, 7, 8, 9])
    batch = Windows(Dataset.open(tmp_path).train, 6).batch(0, 1)
    assert batch.document_ids is not None
    assert batch.document_ids[0, :5].tolist() == [0, 0, 0, 1, 1]
    assert batch.labels.tolist() == [[6, 50256, -100, 8, 9, -100]]


def test_nanogpt_with_its_own_vocabulary_is_one_document_and_its_pickle_stays_closed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "opened",))  # type: ignore[return-value]

    write_nanogpt(tmp_path)
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(Trap()))
    batch = Windows(Dataset.open(tmp_path).train, 6).batch(0, 1)
    assert batch.document_ids is None
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("magic", "version", "dtype", "separator"), [(20240520, 1, np.uint16, 50256), (20240801, 7, np.uint32, 128000)]
)
def test_llm_c_in_several_shards(tmp_path: Path, magic: int, version: int, dtype: type, separator: int) -> None:
    write_llm_c(tmp_path / "web_train_000002.bin", TRAIN[30:], magic, version)
    write_llm_c(tmp_path / "web_train_000001.bin", TRAIN[:30], magic, version)
    write_llm_c(tmp_path / "web_val_000000.bin", VAL, magic, version)
    dataset = Dataset.open(tmp_path)
    assert dataset.train.tokens[:].tolist() == TRAIN
    assert dataset.val.tokens[:].tolist() == VAL
    assert dataset.dtype == dtype
    assert dataset.train.eos_id == separator


def test_ids_are_checked_against_the_models_vocabulary(tmp_path: Path) -> None:
    write_nanogpt(tmp_path)
    split = Dataset.open(tmp_path).train
    split.check_vocab(150)
    with pytest.raises(DataError, match=r"train\.bin: token 149 at position 49"):
        split.check_vocab(149)


def test_the_fingerprint_follows_the_content_not_the_place(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in "abc")
    first.mkdir()
    write_nanogpt(first)
    shutil.copytree(first, second)
    third.mkdir()
    write_nanogpt(third, TRAIN[::-1])
    fingerprints = [Dataset.open(folder).fingerprint for folder in (first, second, third)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def damage_cut(folder: Path) -> None:
    path = folder / "web_train_0.bin"
    path.write_bytes(path.read_bytes()[:-2])


def damage_longer(folder: Path) -> None:
    path = folder / "web_train_0.bin"
    path.write_bytes(path.read_bytes() + b"\0\0")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_cut, r"web_train_0\.bin: truncated: 1,122 bytes where 50 tokens take 1,124"),
        (damage_longer, r"web_train_0\.bin: longer than recorded"),
        (lambda folder: (folder / "web_val_0.bin").unlink(), r"no \*val\*\.bin"),
        (lambda folder: (folder / "web_val_0.bin").write_bytes(b""), "no whole number of uint16"),
        (lambda folder: (folder / "web_val_0.bin").write_bytes(b"123"), "no whole number of uint16"),
        (lambda folder: (folder / "web_val_0.bin").write_bytes(b"1234"), "of another format than"),
        (lambda folder: write_llm_c(folder / "web_val_0.bin", VAL, version=9), "version 9"),
        (lambda folder: write_llm_c(folder / "web_val_0.bin", [], count=-1), "says -1 tokens"),
        (lambda folder: write_llm_c(folder / "web_val_0.bin", VAL, magic=20240522), "multiple-choice"),
        (shutil.rmtree, "no such folder"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "smidgen prepare"),
    ],
)
def test_damaged_folders_are_one_clear_error(tmp_path: Path, damage: object, message: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_llm_c(folder / "web_train_0.bin", TRAIN)
    write_llm_c(folder / "web_val_0.bin", VAL)
    Dataset.open(folder)
    damage(folder)  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as error:
        Dataset.open(folder)
    assert "\n" not in str(error.value)


def test_a_file_is_no_dataset(tmp_path: Path) -> None:
    write_nanogpt(tmp_path)
    with pytest.raises(DataError, match="is a file; name the folder"):
        Dataset.open(tmp_path / "train.bin")
