"""A window that slides over texts, so that every token but the first few of a text is predicted with much context.

With `seq_len` L and `stride` s, window k holds the tokens from k·s to k·s + L (or to the end), and predicts what no
earlier window predicted. This is the loop of transformers' documentation ("Perplexity of fixed-length models"); sums
are weighted by the tokens that were predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smidgen.data import IGNORE, Batch, Dataset
from smidgen.data.manifest import SplitName
from smidgen.evaluation.bootstrap import Estimate, ratio_estimate
from smidgen.evaluation.likelihood import Logits, log_probabilities
from smidgen.runtime.errors import ConfigError, DataError
from smidgen.runtime.protocols import Tokenizer

Ids = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Block:
    """What a few windows that follow each other came to."""

    nats: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Perplexity:
    """How well a model predicts a text."""

    loss: float
    """Mean nats a token."""
    tokens: int
    """Tokens that were predicted."""
    bits_per_byte: float | None
    """Bits for each byte of text, comparable between tokenizers; None where the number of bytes is not known."""

    blocks: tuple[Block, ...] = ()
    """The parts of which the loss is the sum, in the order of the text."""

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bytes_per_token(self) -> float | None:
        """Of the tokens that were predicted."""
        return self.loss / math.log(2) / self.bits_per_byte if self.bits_per_byte else None


def loss_estimate(blocks: Sequence[Block]) -> Estimate:
    """Nats a token with its interval, blocks resampled."""
    return ratio_estimate([block.nats for block in blocks], [block.tokens for block in blocks])


class SlidingWindows:
    """Texts (ids, each predicted from its first token on) cut into overlapping windows.

    Rows are as long as the longest window; what lies behind a shorter one is padding without labels.
    """

    def __init__(self, texts: Sequence[Ids], seq_len: int, stride: int) -> None:
        if not 1 <= stride < seq_len:
            raise ConfigError(f"--stride = {stride}: use 1 to {seq_len - 1}, less than a window of {seq_len} tokens")
        self._texts = texts
        self._windows: list[tuple[int, int, int, int]] = []  # text, begin, first token to predict, end
        for number, text in enumerate(texts):
            predicted = 1
            for begin in range(0, len(text), stride):
                end = min(begin + seq_len, len(text))
                if end > predicted:
                    self._windows.append((number, begin, predicted, end))
                predicted = max(predicted, end)
                if end == len(text):
                    break
        if not self._windows:
            raise DataError("no text has two tokens: nothing to predict; give a longer one")
        self.seq_len = max(end - begin for _, begin, _, end in self._windows) - 1
        self.per_epoch = len(self._windows)

    def batch(self, start: int, count: int) -> Batch:
        """Windows number `start` to `start + count - 1`; fewer at the end."""
        chosen = self._windows[start : start + count]
        inputs = np.zeros((len(chosen), self.seq_len), np.int64)
        labels = np.full_like(inputs, IGNORE)
        for row, (number, begin, predicted, end) in enumerate(chosen):
            window = np.asarray(self._texts[number][begin:end], np.int64)
            inputs[row, : len(window) - 1] = window[:-1]
            labels[row, predicted - begin - 1 : len(window) - 1] = window[predicted - begin :]
        return Batch(inputs, labels, None, None)


def documents(dataset: Dataset, split: SplitName, max_tokens: int | None = None) -> list[Ids]:
    """The documents of a split, or some of them, spread evenly, that have about `max_tokens` tokens together.

    A split without known boundaries is one document.
    """
    tokens = dataset.train if split == "train" else dataset.val
    if tokens.document_offsets is None:
        return [tokens.tokens[:max_tokens]]
    offsets = np.asarray(tokens.document_offsets, np.int64)
    bounds = np.unique(np.concatenate([[0], offsets, [tokens.num_tokens]]))
    pairs = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    if max_tokens is not None and tokens.num_tokens > max_tokens:
        wanted = max(1, round(len(pairs) * max_tokens / tokens.num_tokens))
        pairs = [pairs[index * len(pairs) // wanted] for index in range(wanted)]
    return [tokens.tokens[begin:end] for begin, end in pairs]


def measure_logits(logits: Logits, windows: SlidingWindows) -> list[Block]:
    """The loss of each window under anything that gives logits, a window at a time."""
    blocks = []
    for number in range(windows.per_epoch):
        batch = windows.batch(number, 1)
        places = np.flatnonzero(batch.labels[0] != IGNORE)
        length = int(places[-1]) + 1
        (rows,) = logits.last_rows([batch.input_ids[0, :length].tolist()], [length - int(places[0])])
        logprobs = log_probabilities(rows, batch.labels[0, places])
        blocks.append(Block(-float(logprobs.sum()), len(places)))
    return blocks


def evaluate_logits(logits: Logits, windows: SlidingWindows, bytes_per_token: float | None) -> Perplexity:
    """The loss on windows under anything that gives logits."""
    return summary(measure_logits(logits, windows), bytes_per_token)


def text_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text behind begin-of-text where the tokenizer adds it, else end-of-text.

    Raises DataError when there is nothing to predict.
    """
    opening = tokenizer.bos_id if tokenizer.adds_bos else tokenizer.eos_id
    ids = ([] if opening is None else [opening]) + tokenizer.encode(text)
    if len(ids) < 2:
        raise DataError(f"a text of {len(ids)} tokens: nothing to predict; give a longer one")
    return ids


def summary(blocks: Sequence[Block], bytes_per_token: float | None) -> Perplexity:
    """The loss over all blocks."""
    tokens = sum(block.tokens for block in blocks)
    loss = math.fsum(block.nats for block in blocks) / tokens
    bits = None if bytes_per_token is None else loss / math.log(2) / bytes_per_token
    return Perplexity(loss, tokens, bits, tuple(blocks))
