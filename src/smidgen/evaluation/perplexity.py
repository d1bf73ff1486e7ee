"""Loss, perplexity and bits per byte of a model on a dataset or a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from smidgen.data import IGNORE, Batch, Dataset, validation_windows
from smidgen.data.manifest import SplitName
from smidgen.model import Decoder
from smidgen.runtime.errors import DataError
from smidgen.runtime.protocols import Tokenizer
from smidgen.training.data import Sequences
from smidgen.training.evaluate import evaluate
from smidgen.training.objectives import LanguageModeling


@dataclass(frozen=True, slots=True)
class Perplexity:
    """How well a model predicts a text."""

    loss: float
    """Mean nats a token."""
    tokens: int
    """Tokens that were predicted."""
    bits_per_byte: float | None
    """Bits for each byte of text, comparable between tokenizers; None where the number of bytes is not known."""

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf


def evaluate_dataset(
    model: Decoder,
    dataset: Dataset,
    *,
    split: SplitName = "val",
    seq_len: int | None = None,
    max_tokens: int | None = None,
    batch_size: int = 8,
) -> Perplexity:
    """The loss on a split, in windows of `seq_len` tokens (the model's context if left out), documents apart.

    `max_tokens` reads about that many tokens, spread evenly over the split; None reads it all. Raises DataError when
    the split is empty or its ids lie outside the model's vocabulary.
    """
    tokens = dataset.train if split == "train" else dataset.val
    tokens.check_vocab(model.config.vocab_size)
    windows = validation_windows(tokens, seq_len or model.config.max_seq_len, max_tokens)
    bytes_per_token = tokens.num_bytes / tokens.num_tokens if tokens.num_bytes else None
    return _measure(model, windows, batch_size, bytes_per_token)


def evaluate_text(
    model: Decoder, tokenizer: Tokenizer, text: str, *, seq_len: int | None = None, batch_size: int = 8
) -> Perplexity:
    """The loss on a text as one document, in windows of `seq_len` tokens that follow each other.

    The first token is predicted from the token that stands before texts in training: begin-of-text where the
    tokenizer adds it, else end-of-text. Bits per
    byte are exact: all nats over all UTF-8 bytes. Raises DataError when the text is too short to predict anything.
    """
    opening = tokenizer.bos_id if tokenizer.adds_bos else tokenizer.eos_id
    ids = ([] if opening is None else [opening]) + tokenizer.encode(text)
    if len(ids) < 2:
        raise DataError(f"a text of {len(ids)} tokens: nothing to predict; give a longer one")
    windows = TextWindows(ids, seq_len or model.config.max_seq_len)
    return _measure(model, windows, batch_size, len(text.encode()) / (len(ids) - 1))


class TextWindows:
    """One token sequence cut into windows; every token but the first is a label once."""

    def __init__(self, ids: Sequence[int], seq_len: int) -> None:
        self.seq_len = min(seq_len, len(ids) - 1)
        self.per_epoch = -(-(len(ids) - 1) // self.seq_len)
        missing = self.per_epoch * self.seq_len + 1 - len(ids)
        self._ids = np.concatenate([np.asarray(ids, np.int64), np.zeros(missing, np.int64)])
        self._labels = self._ids.copy()
        self._labels[len(ids) :] = IGNORE

    def batch(self, start: int, count: int) -> Batch:
        """Windows number `start` to `start + count - 1`, int64 [count, seq_len]."""
        rows = slice(start * self.seq_len, (start + count) * self.seq_len)
        shape = (count, self.seq_len)
        return Batch(self._ids[:-1][rows].reshape(shape), self._labels[1:][rows].reshape(shape), None, None)


def _measure(model: Decoder, windows: Sequences, batch_size: int, bytes_per_token: float | None) -> Perplexity:
    device = next(model.parameters()).device
    with torch.inference_mode():
        result = evaluate(model, LanguageModeling(), windows, batch_size, device, bytes_per_token)
    assert result is not None, "nothing cancels this evaluation"
    return Perplexity(result.loss, int(result.weight), result.bits_per_byte)
