"""What the loop asks of training data."""

from __future__ import annotations

from dataclasses import dataclass

from smidgen.data.batch import Sequences

__all__ = ["Sequences", "TrainingData"]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Training and validation sequences, and what identifies them."""

    train: Sequences
    validation: Sequences | None
    """The sequences of one evaluation; None where the data has none."""
    fingerprint: str
    """Digest of the data's identity: a run goes on only with the data it began with."""
    train_bytes_per_token: float | None
    """Bytes of text for each label; None where the number of bytes is not known."""
    validation_bytes_per_token: float | None
    rows_per_sequence: int = 1
    """Rows of a batch that one sequence makes: two for pairs."""
