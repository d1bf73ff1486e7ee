"""Several dataset folders as one stream of training sequences, each with its share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from smidgen.data.batch import Batch, Int64Array, SelectableSequences, Sequences, scatter
from smidgen.data.dataset import TOKENIZER_FOLDER, Dataset
from smidgen.data.interleaving import Interleaving, whole_parts
from smidgen.data.manifest import digest_of
from smidgen.runtime.errors import DataError
from smidgen.runtime.protocols import Tokenizer


@dataclass(frozen=True, slots=True)
class DatasetMixture:
    """Dataset folders of one tokenizer and their shares of the training sequences; a single one is a mixture too."""

    datasets: tuple[Dataset, ...]
    """In the order of their fingerprints, so that the order in which they were named decides nothing."""
    parts: tuple[int, ...]
    """Sequences of each in one period of the interleaving: shares as whole numbers."""

    @classmethod
    def open(cls, weights: Mapping[str, float]) -> DatasetMixture:
        """The folders that `weights` names; those of weight 0 are left out.

        Raises DataError where a folder cannot be read, and where tokenizers differ or folders are the same.
        """
        opened = [(Dataset.open(path), weight) for path, weight in weights.items() if weight]
        assert opened
        opened.sort(key=lambda pair: pair[0].fingerprint)
        datasets = tuple(dataset for dataset, _ in opened)
        _check_compatible(datasets)
        return cls(datasets, whole_parts([weight for _, weight in opened]))

    @property
    def shares(self) -> tuple[float, ...]:
        """What part of the training sequences each dataset gives."""
        return tuple(part / sum(self.parts) for part in self.parts)

    @property
    def names(self) -> str:
        """The folders, for messages."""
        return ", ".join(str(dataset.path) for dataset in self.datasets)

    @property
    def vocab_size(self) -> int | None:
        """Every id is below it; None for foreign files."""
        return self.datasets[0].vocab_size

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """Of the tokenizer that all share; None for foreign files."""
        return self.datasets[0].tokenizer_fingerprint

    @property
    def fingerprint(self) -> str:
        """Hex digest of the data and the shares: equal where sequences are."""
        if len(self.datasets) == 1:
            return self.datasets[0].fingerprint
        return digest_of([[data.fingerprint, part] for data, part in zip(self.datasets, self.parts, strict=True)])

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that made the ids; None for foreign files."""
        return self.datasets[0].tokenizer()

    def check_vocab(self, vocab_size: int) -> None:
        """Raise DataError unless every id is below `vocab_size`."""
        for dataset in self.datasets:
            dataset.train.check_vocab(vocab_size)
            dataset.val.check_vocab(vocab_size)


class MixedSequences:
    """An endless stream in which sources take turns by `Interleaving`, each giving its own sequences in their order.

    Among any first n sequences each source has its share of n, to less than one sequence. A source goes through all
    of its sequences before it repeats one, whenever that is: small sources of great weight repeat sooner.
    """

    def __init__(self, sources: Sequence[SelectableSequences], weights: Sequence[float]) -> None:
        assert len(sources) == len(weights)
        self._sources = list(sources)
        self._interleaving = Interleaving(weights)
        self.per_epoch = sum(source.per_epoch for source in sources)
        """As many sequences as all sources have; each source has its share of them, not each sequence once."""

    def batch(self, start: int, count: int) -> Batch:
        """Sequences number `start` to `start + count - 1`."""
        return self.select(np.arange(start, start + count, dtype=np.int64))

    def select(self, numbers: Int64Array) -> Batch:
        """The sequences of these numbers (int64 [B]), a row each."""
        sources, turns = self._interleaving(numbers)
        rows = [np.flatnonzero(sources == source) for source in np.unique(sources)]
        return scatter([self._sources[sources[row[0]]].select(turns[row]) for row in rows], rows)


class FirstSequences:
    """The first sequences of one epoch, as a fixed set."""

    def __init__(self, source: Sequences, count: int) -> None:
        self._source = source
        self.per_epoch = min(count, source.per_epoch)

    def batch(self, start: int, count: int) -> Batch:
        """Sequences number `start` to `start + count - 1`; fewer at the end of the set."""
        return self._source.batch(start, min(count, self.per_epoch - start))


class ChainedSequences:
    """A fixed set of sequences, the parts' one after another: `batch(start, count)` for start in [0, per_epoch)."""

    def __init__(self, parts: Sequence[Sequences]) -> None:
        self._parts = list(parts)
        self._ends = np.cumsum([part.per_epoch for part in parts]).tolist()
        self.per_epoch = int(self._ends[-1])

    def batch(self, start: int, count: int) -> Batch:
        """Sequences number `start` to `start + count - 1`; fewer at the end of the set."""
        stop = min(start + count, self.per_epoch)
        batches, rows = [], []
        for part, end in zip(self._parts, self._ends, strict=True):
            first, last = max(start, end - part.per_epoch), min(stop, end)
            if first < last:
                batches.append(part.batch(first - (end - part.per_epoch), last - first))
                rows.append(np.arange(first - start, last - start))
        return scatter(batches, rows)


def _check_compatible(datasets: Sequence[Dataset]) -> None:
    first = datasets[0]
    for before, dataset in pairwise(datasets):
        for folder in (first, dataset):
            if folder.tokenizer_fingerprint is None:
                raise DataError(
                    f"data.mixture: {folder.path} does not say which tokenizer made its tokens; "
                    "'smidgen prepare' its text to mix it with others"
                )
        if dataset.tokenizer_fingerprint != first.tokenizer_fingerprint:
            raise DataError(
                f"data.mixture: {first.path} and {dataset.path} were prepared with different tokenizers; "
                f"prepare one again with --tokenizer.path {first.path / TOKENIZER_FOLDER}"
            )
        if dataset.fingerprint == before.fingerprint:
            raise DataError(
                f"data.mixture: {before.path} and {dataset.path} hold the same tokens; name one, with both weights"
            )
