"""What the report says that dataset.json does not record: lengths of documents and frequencies of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smidgen.data.dataset import Dataset, Split

_BLOCK = 1 << 22
"""Tokens counted at once, so that memory does not grow with the dataset."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Documents of `low` to `high` tokens, both included."""

    low: int
    high: int
    documents: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens a document, end-of-text tokens included."""

    bins: tuple[Bin, ...]
    median: int
    p90: int
    longest: int


def measure_lengths(dataset: Dataset) -> Lengths | None:
    """Lengths of the documents of both splits; None without documents."""
    offsets = [split.document_offsets for split in (dataset.train, dataset.val) if split.document_offsets is not None]
    lengths = np.concatenate([np.diff(each) for each in offsets]) if offsets else np.empty(0, np.int64)
    if len(lengths) == 0:
        return None
    median, p90 = np.quantile(lengths, [0.5, 0.9], method="inverted_cdf")
    return Lengths(_bins(lengths), int(median), int(p90), int(lengths.max()))


def _bins(lengths: NDArray[np.int64]) -> tuple[Bin, ...]:
    """Half-octaves: bounds at powers of the square root of two, from the shortest document to the longest."""
    first = int(np.floor(2 * np.log2(max(int(lengths.min()), 1))))
    last = int(np.floor(2 * np.log2(max(int(lengths.max()), 1)))) + 1
    bounds = np.unique(np.ceil(2 ** (np.arange(first, last + 1) / 2)).astype(np.int64))
    if bounds[-1] <= lengths.max():
        bounds = np.append(bounds, lengths.max() + 1)
    bounds[0] = min(bounds[0], lengths.min())
    counts, _ = np.histogram(lengths, [*bounds[:-1], bounds[-1] - 0.5])
    return tuple(
        Bin(int(low), int(high) - 1, int(count))
        for low, high, count in zip(bounds[:-1], bounds[1:], counts, strict=True)
    )


def count_tokens(dataset: Dataset) -> NDArray[np.int64]:
    """How often each id stands in both splits, shape [vocab_size] (or up to the highest id of foreign files)."""
    total = np.zeros(dataset.vocab_size or 0, np.int64)
    for split in (dataset.train, dataset.val):
        for counts in _counts(split):
            if len(counts) > len(total):
                total = np.concatenate([total, np.zeros(len(counts) - len(total), np.int64)])
            total[: len(counts)] += counts
    return total


def _counts(split: Split) -> Iterator[NDArray[np.int64]]:
    for start in range(0, split.num_tokens, _BLOCK):
        yield np.bincount(split.tokens[start : min(start + _BLOCK, split.num_tokens)])
