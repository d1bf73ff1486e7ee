"""Mixtures: exact shares, nothing repeated before a source is through, one tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.config import TokenizerConfig
from smidgen.data import Batch, DatasetMixture, MixedSequences, prepare
from smidgen.data.mixture import ChainedSequences
from smidgen.runtime.errors import DataError


class Numbered:
    """Sequence n of source s is the row [s, n]."""

    def __init__(self, source: int, per_epoch: int) -> None:
        self.source, self.per_epoch = source, per_epoch

    def batch(self, start: int, count: int) -> Batch:
        return self.select(np.arange(start, start + count))

    def select(self, numbers: np.ndarray) -> Batch:
        rows = np.stack([np.full(len(numbers), self.source), numbers], axis=1)
        return Batch(rows, rows, rows, rows)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.lists(st.integers(1, 17), min_size=1, max_size=8))
def test_each_source_gives_its_share_in_its_own_order_whatever_the_batches(
    weights: list[int], batches: list[int]
) -> None:
    mixed = MixedSequences([Numbered(source, 10 + source) for source in range(len(weights))], weights)
    rows, start = [], 0
    for count in batches:
        rows.append(mixed.batch(start, count).input_ids)
        start += count
    sources, numbers = np.concatenate(rows).T
    for source, weight in enumerate(weights):
        assert abs((sources == source).sum() - start * weight / sum(weights)) < 1
        assert numbers[sources == source].tolist() == list(range((sources == source).sum()))
    assert mixed.per_epoch == sum(10 + source for source in range(len(weights)))


def test_chained_sequences_follow_each_other() -> None:
    chain = ChainedSequences([Numbered(0, 3), Numbered(1, 1), Numbered(2, 4)])
    expected = [[0, 0], [0, 1], [0, 2], [1, 0], [2, 0], [2, 1], [2, 2], [2, 3]]
    assert chain.per_epoch == 8
    assert chain.batch(0, 8).labels.tolist() == expected
    for start in range(8):
        assert chain.batch(start, 3).input_ids.tolist() == expected[start : start + 3]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets a and b of one tokenizer, c of another, a's copy, and a foreign one."""
    root = tmp_path_factory.mktemp("mixture")
    for name, text in {"a": "red cats\n", "b": "blue dogs\n", "c": "green birds\n"}.items():
        (root / f"{name}.txt").write_text("".join(f"{n} {text}" for n in range(60)))
    first = TokenizerConfig(kind="characters")
    (root / "alphabet.txt").write_text("0123456789 abcdefghijklmnopqrstuvwxyz\n")
    tokenizer = prepare([root / "alphabet.txt", root / "a.txt"], root / "alphabet", first).dataset.path / "tokenizer"
    shared = TokenizerConfig(kind="characters", path=str(tokenizer))
    for name, config in {"a": shared, "b": shared, "c": first}.items():
        prepare([root / f"{name}.txt"], root / name, config, split_documents="line")
    prepare([root / "a.txt"], root / "copy", shared, split_documents="line")
    (root / "foreign").mkdir()
    for name in ("train", "val"):
        np.arange(50, dtype=np.uint16).tofile(root / "foreign" / f"{name}.bin")
    return root


def test_the_order_and_scale_of_weights_decide_nothing(folders: Path) -> None:
    a, b = str(folders / "a"), str(folders / "b")
    one, other = DatasetMixture.open({a: 3, b: 1}), DatasetMixture.open({b: 0.25, a: 0.75})
    assert one.fingerprint == other.fingerprint
    assert one.shares == other.shares
    assert dict(zip([d.path.name for d in one.datasets], one.parts, strict=True)) == {"a": 3, "b": 1}
    assert DatasetMixture.open({a: 1, b: 1}).fingerprint != one.fingerprint
    alone = DatasetMixture.open({a: 2, b: 0})
    assert alone.fingerprint == alone.datasets[0].fingerprint
    assert alone.names == a


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("c", r"(a and .*c|c and .*a) were prepared with different tokenizers; .*--tokenizer.path .*tokenizer"),
        ("copy", r"(a and .*copy|copy and .*a) hold the same tokens"),
        ("foreign", r"foreign does not say which tokenizer"),
        ("nowhere", r"nowhere: no such folder"),
    ],
)
def test_folders_that_do_not_go_together_are_refused(folders: Path, second: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        DatasetMixture.open({str(folders / "a"): 1, str(folders / second): 1})


def test_one_foreign_folder_is_a_dataset_without_a_tokenizer(folders: Path) -> None:
    alone = DatasetMixture.open({str(folders / "foreign"): 1})
    assert alone.vocab_size is None
    assert alone.tokenizer() is None
    with pytest.raises(DataError, match=r"token 40 at position 40"):
        alone.check_vocab(40)
