"""Logits processors, vectorised over rows that each have their own parameters.

Each is what transformers defines, and they apply in the order of its `generate`: logit bias, repetition penalty,
no-repeat n-grams, temperature, top-k, top-p, min-p; OpenAI's frequency and presence penalties follow the repetition
penalty. The last three keep a prefix of the tokens sorted by logit, so they work on the most probable candidates
instead of the vocabulary: sorting 49,152 logits takes 3 ms on a CPU core, finding the largest 256 takes 0.1 ms. For the
same reason they overwrite where they can: memory for a temporary of this size comes from the system page by page, which
costs more than the arithmetic.

R rows, V vocabulary, K candidates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.runtime.sampling import SamplingParams

FIRST_CANDIDATES = 256
"""Candidates looked at first; if a row may keep more, 16 times as many, and so on."""


class NGramHistory:
    """The n-grams of one sequence. A token costs the same however long the sequence is."""

    def __init__(self, size: int, tokens: Iterable[int]) -> None:
        self._size = size
        self._suffix: tuple[int, ...] = ()
        self._followers: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        if len(self._suffix) == self._size - 1:
            self._followers[self._suffix].add(token)
        self._suffix = (*self._suffix, token)[-(self._size - 1) :] if self._size > 1 else ()

    def forbidden(self) -> AbstractSet[int]:
        """Tokens that would complete an n-gram for the second time."""
        return self._followers.get(self._suffix, frozenset())


def penalize_repetition(logits: Tensor, factors: Tensor) -> Tensor:
    """Divide positive and multiply negative logits by the tokens' factors (CTRL, Keskar et al., 2019).

    `logits` (overwritten) and `factors` float32 [R, V]; a factor is the penalty for tokens of prompt and answer, 1 for
    others.
    """
    # One of the terms is always 0. torch.where would take ten times as long on a CPU.
    positive = logits.clamp(min=0).div_(factors)
    return positive.add_(logits.clamp_(max=0).mul_(factors))


def penalize_occurrence(logits: Tensor, counts: Tensor, frequency: Tensor, presence: Tensor) -> Tensor:
    """`logits - counts · frequency - (counts > 0) · presence` (OpenAI's API reference).

    `logits` and `counts` (how often the answer holds each token) float32 [R, V]; the penalties float32 [R, 1].
    """
    return logits - counts * frequency - (counts > 0) * presence


@dataclass(frozen=True)
class Filters:
    """Top-k, top-p and min-p of R rows; None where no row uses it."""

    top_k: Tensor | None
    """int64 [R]; V in rows without it."""
    top_p: Tensor | None
    """float32 [R]; infinity in rows without it."""
    min_p: Tensor | None
    """float32 [R]; 0 in rows without it."""
    unlimited: bool
    """Whether a row is without top-k."""
    first_candidates: int

    @staticmethod
    def of(params: Sequence[SamplingParams], vocab_size: int, device: torch.device) -> Filters:
        top_k = [p.top_k if 0 < p.top_k < vocab_size else vocab_size for p in params]
        top_p = [p.top_p if p.top_p < 1 else torch.inf for p in params]
        min_p = [p.min_p for p in params]
        largest = max((k for k in top_k if k < vocab_size), default=0)
        return Filters(
            torch.tensor(top_k, device=device) if largest else None,
            torch.tensor(top_p, device=device) if min(top_p) < 1 else None,
            torch.tensor(min_p, device=device) if max(min_p) > 0 else None,
            unlimited=vocab_size in top_k,
            first_candidates=max(FIRST_CANDIDATES, 2 * largest),
        )

    def apply(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that the filters keep, most probable first.

        `logits` float32 [R, V], divided by the temperature. Returns logits float32 [R, K], -inf where a row keeps
        fewer than K, and their token ids int64 [R, K]. Ties are in descending order of id, because transformers'
        ascending sort for top-p drops the lower id first; ties at the edge of top-k are all kept. A row's kept
        tokens and their order do not depend on K, so neither does a draw on the other rows of the batch.
        """
        vocab_size = logits.shape[-1]
        size = self.first_candidates
        while True:
            size = min(size, vocab_size)
            values, ids = _sorted_candidates(logits, size)
            kept = self._keep(logits, values)
            # If the last candidate is kept, or ties with the last one kept, tokens outside may belong to the set.
            last_kept = values.masked_fill(~kept, torch.inf).amin(-1)
            if size == vocab_size or bool((last_kept > values[:, -1]).all()):
                return values.masked_fill(~kept, -torch.inf), ids
            size *= 16

    def _keep(self, logits: Tensor, values: Tensor) -> Tensor:
        """Which of the sorted candidates `values` [R, K] each row keeps, bool [R, K]."""
        largest = values[:, :1]
        kept = values > -torch.inf
        if self.top_k is not None:
            last = values.gather(-1, (self.top_k - 1).clamp(max=values.shape[-1] - 1)[:, None])
            kept &= (values >= last) | (self.top_k == logits.shape[-1])[:, None]
        weights = (values - largest).exp() * kept
        if self.top_p is not None:
            # Sequential sums: candidates beyond those of top-k add zeros and cannot change a bit of them.
            sums = weights.cumsum(-1)
            total = sums[:, -1:]
            if self.unlimited:
                whole = (logits - largest).exp_().sum(-1, keepdim=True)
                total = (
                    whole if self.top_k is None else torch.where(self.top_k[:, None] < logits.shape[-1], total, whole)
                )
            before = torch.nn.functional.pad(sums[:, :-1], (1, 0))
            kept &= before < self.top_p[:, None] * total
        if self.min_p is not None:
            kept &= weights >= self.min_p[:, None]
        return kept


def _sorted_candidates(logits: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The `size` largest logits of each row and their ids, in descending order of (logit, id)."""
    vocab_size = logits.shape[-1]
    if size < vocab_size:
        ids = logits.topk(size, dim=-1, sorted=False).indices.sort(dim=-1, descending=True).values
        values, order = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
        return values, ids.gather(-1, order)
    values, order = logits.flip(-1).sort(dim=-1, descending=True, stable=True)
    return values, vocab_size - 1 - order


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Index of one draw from softmax(logits) a row: the inverse of its distribution function at `uniform`.

    `logits` float32 [R, K], `uniform` float32 [R]: multiples of 2**-24 below 1, for which `uniform · total` rounds to
    less than the total, so that an index of no probability is never drawn. Returns int64 [R]; a row without a finite
    logit gets any index.
    """
    # Unnormalised and summed in order, so that trailing candidates which a row does not keep change nothing.
    sums = (logits - logits.amax(-1, keepdim=True)).exp_().cumsum_(-1)
    index = torch.searchsorted(sums, uniform[:, None] * sums[:, -1:], right=True)[:, 0]
    return index.clamp(max=logits.shape[-1] - 1)
