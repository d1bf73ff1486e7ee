"""Sources to tokens on disk to batches, and the built-in corpus. No torch: batches are numpy arrays."""

from smidgen.data.batch import IGNORE, Batch
from smidgen.data.dataset import Dataset, Split
from smidgen.data.holdout import Holdout
from smidgen.data.mixture import DatasetMixture, MixedSequences
from smidgen.data.packing import PackedDocuments
from smidgen.data.prefetch import Prefetched
from smidgen.data.prepare import Prepared, prepare
from smidgen.data.windows import ValidationWindows, Windows, validation_windows

__all__ = [
    "IGNORE",
    "Batch",
    "Dataset",
    "DatasetMixture",
    "Holdout",
    "MixedSequences",
    "PackedDocuments",
    "Prefetched",
    "Prepared",
    "Split",
    "ValidationWindows",
    "Windows",
    "prepare",
    "validation_windows",
]
