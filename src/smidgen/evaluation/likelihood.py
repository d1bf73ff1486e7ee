"""Log-likelihoods of texts under whatever turns ids into logits: both engines, any function `ids -> [T, V]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from smidgen.model import Decoder

Forward = Callable[[Sequence[int]], NDArray[np.float32]]
"""Logits float32 [T, V] of T token ids."""


class Logits(Protocol):
    """A model as far as scoring texts needs it."""

    @property
    def max_seq_len(self) -> int:
        """Most ids a sequence may have."""

    def last_rows(self, sequences: Sequence[Sequence[int]], counts: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """For each sequence, in its order, the logits [counts[i], V] at its last `counts[i]` positions."""


@dataclass(frozen=True)
class ForwardLogits:
    """A function `ids -> float32 [T, V]`, such as the edge engine's `forward`, one sequence at a time."""

    forward: Forward
    max_seq_len: int

    def last_rows(self, sequences: Sequence[Sequence[int]], counts: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """As `Logits.last_rows`."""
        for ids, count in zip(sequences, counts, strict=True):
            yield np.asarray(self.forward(ids), np.float32)[len(ids) - count :]


class TorchLogits:
    """A decoder, `batch_size` sequences at once; only the rows that are asked for meet the vocabulary."""

    def __init__(self, model: Decoder, batch_size: int = 8, max_seq_len: int | None = None) -> None:
        self._model = model
        self._batch_size = batch_size
        self.max_seq_len = max_seq_len or model.config.max_seq_len

    def last_rows(self, sequences: Sequence[Sequence[int]], counts: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """As `Logits.last_rows`. Sequences are padded on the right, which a causal model does not see."""
        import torch

        device = self._model.head_weight.device
        for start in range(0, len(sequences), self._batch_size):
            batch = sequences[start : start + self._batch_size]
            length = max(map(len, batch))
            padded = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in batch], device=device)
            with torch.inference_mode():
                hidden = self._model.hidden(padded)
                for row, ids in enumerate(batch):
                    wanted = hidden[row, len(ids) - counts[start + row] : len(ids)]
                    yield self._model.logits(wanted).float().cpu().numpy()


@dataclass(frozen=True, slots=True)
class Continuation:
    """How a model finds a continuation."""

    logprobs: NDArray[np.float64]
    """Natural log-probability of each token of it."""
    greedy: bool
    """Whether each of its tokens is the most probable one."""

    @property
    def total(self) -> float:
        return float(self.logprobs.sum())


def score_continuations(
    logits: Logits, requests: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> Iterator[Continuation]:
    """The log-probability of each continuation after its context; (context, continuation) as ids, neither empty.

    A context that is too long loses its beginning, as in lm-evaluation-harness: of both together the last
    `max_seq_len + 1` ids count. Equal sequences are computed once where they follow each other.
    """
    sequences, counts = [], []
    for context, continuation in requests:
        assert len(context) > 0, "a context needs a token: the tokenizer's bos or eos"
        assert 0 < len(continuation) <= logits.max_seq_len, "a continuation must fit the context"
        sequences.append([*context, *continuation][-(logits.max_seq_len + 1) : -1])
        counts.append(len(continuation))
    rows = logits.last_rows(sequences, counts)
    for (_, continuation), own in zip(requests, rows, strict=True):
        ids = np.asarray(continuation, np.int64)
        yield Continuation(log_probabilities(own, ids), bool((own.argmax(-1) == ids).all()))


def log_probabilities(rows: NDArray[Any], ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Natural log-probability of `ids` [T] under logits [T, V], in float64."""
    exact = rows.astype(np.float64)
    peak = exact.max(-1, keepdims=True)
    normalizer = peak[:, 0] + np.log(np.exp(exact - peak).sum(-1))
    result: NDArray[np.float64] = exact[np.arange(len(ids)), ids] - normalizer
    return result
