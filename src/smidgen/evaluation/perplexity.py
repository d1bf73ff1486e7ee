"""Loss, perplexity and bits per byte of a model on a dataset or a text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from smidgen.data import IGNORE, Batch, Dataset, validation_windows
from smidgen.data.manifest import SplitName
from smidgen.evaluation.sliding import Block, Perplexity, SlidingWindows, documents, summary, text_ids
from smidgen.model import Decoder
from smidgen.runtime.protocols import Tokenizer
from smidgen.training.data import Sequences
from smidgen.training.objectives import LanguageModeling, to_device


def evaluate_dataset(
    model: Decoder,
    dataset: Dataset,
    *,
    split: SplitName = "val",
    seq_len: int | None = None,
    max_tokens: int | None = None,
    batch_size: int = 8,
    stride: int | None = None,
) -> Perplexity:
    """The loss on a split, in windows of `seq_len` tokens (the model's context if left out), documents apart.

    `max_tokens` reads about that many tokens, spread evenly over the split; None reads it all. With `stride`, windows
    slide over each document on its own (see `sliding`). Raises DataError when the split is empty or its ids lie outside
    the model's vocabulary.
    """
    tokens = dataset.train if split == "train" else dataset.val
    tokens.check_vocab(model.config.vocab_size)
    length = seq_len or model.config.max_seq_len
    windows: Sequences = (
        validation_windows(tokens, length, max_tokens)
        if stride is None
        else SlidingWindows(documents(dataset, split, max_tokens), length, stride)
    )
    bytes_per_token = tokens.num_bytes / tokens.num_tokens if tokens.num_bytes else None
    return _measure(model, windows, batch_size, bytes_per_token)


def evaluate_text(
    model: Decoder,
    tokenizer: Tokenizer,
    text: str,
    *,
    seq_len: int | None = None,
    batch_size: int = 8,
    stride: int | None = None,
) -> Perplexity:
    """The loss on a text as one document, in windows of `seq_len` tokens that with `stride` overlap.

    The first token is predicted from the token before texts in training (see `text_ids`). Bits per byte are exact:
    all nats over all UTF-8 bytes. Raises DataError when the text is too short to predict anything.
    """
    ids = text_ids(tokenizer, text)
    length = seq_len or model.config.max_seq_len
    windows = TextWindows(ids, length) if stride is None else SlidingWindows([np.asarray(ids)], length, stride)
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
    blocks = []
    model.eval()
    with torch.inference_mode():
        for start in range(0, windows.per_epoch, batch_size):
            batch = windows.batch(start, min(batch_size, windows.per_epoch - start))
            total, weight, _ = LanguageModeling().loss(model, to_device(batch, device))
            blocks.append(Block(float(total), int(weight)))
    return summary(blocks, bytes_per_token)
