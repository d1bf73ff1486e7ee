"""What the base thinks of each answer, computed once and kept beside the pairs."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from smidgen.data.dataset import Split
from smidgen.folders.resolve import resolve
from smidgen.model import Decoder
from smidgen.runtime.errors import ModelFolderError
from smidgen.training.objectives import to_device
from smidgen.tuning.pairs import PairSequences
from smidgen.tuning.preference import answer_log_probabilities

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 16


def base_fingerprint(base: str) -> str:
    """sha256 (hex) of the files that hold the model MODEL: its configuration and weights.

    Raises ModelFolderError for a preset, whose random weights are no reference.
    """
    folder = resolve(base).folder
    if folder is None:
        raise ModelFolderError(f"tuning.base = {base}: a preset has random weights; name a trained model")
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors" or path.name == "config.json":
            with path.open("rb") as file:
                digest.update(path.name.encode())
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def reference_log_probabilities(
    folder: Path, split: Split, seq_len: int, fingerprint: str, base: Callable[[], Decoder], device: torch.device
) -> NDArray[np.float32]:
    """The log-probability of every document's answer under the base, float32 [documents], in nats.

    Kept in `folder` as reference-<base>-<seq_len>-<split>.npy and read from there the next time. Of several processes
    that ask for the same, one computes. Products are float32, whatever the training's precision.
    """
    path = folder / f"reference-{fingerprint[:16]}_{seq_len}-{split.name}.npy"
    documents = split.num_documents or 0
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.is_file():
            kept: NDArray[np.float32] = np.load(path, allow_pickle=False)
            if kept.shape == (documents,) and kept.dtype == np.float32:
                return kept
        values = _compute(split, seq_len, base().to(device).eval(), device)
        partial = path.with_name(f".{path.name}")
        with partial.open("wb") as file:
            np.save(file, values)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        return values
    finally:
        os.close(lock)


@torch.no_grad()
def _compute(split: Split, seq_len: int, model: Decoder, device: torch.device) -> NDArray[np.float32]:
    pairs = PairSequences(split, seq_len)
    documents = split.num_documents or 0
    logger.info("log-probabilities of %d answers under the base", documents)
    values = []
    for start in range(0, documents, _ROWS_AT_ONCE):
        numbers = np.arange(start, min(start + _ROWS_AT_ONCE, documents), dtype=np.int64)
        batch = to_device(pairs.rows(numbers), device)
        values.append(answer_log_probabilities(model, batch).float().cpu().numpy())
    return np.concatenate(values)
