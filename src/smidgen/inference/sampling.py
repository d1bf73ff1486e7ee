"""The choice of the next token for a batch whose rows have different sampling parameters.

R rows of a batch, r of them in a group that is sampled by the same operations, V vocabulary, K candidates.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from smidgen.inference.processors import Filters, NGramHistory, draw, penalize_occurrence, penalize_repetition
from smidgen.runtime.errors import SmidgenError
from smidgen.runtime.sampling import SamplingParams

GREEDY_BELOW = 1e-6
"""Temperatures under this are greedy: dividing by them could overflow float32."""
_NOTHING_LEFT, _NOT_FINITE = -1, -2


class Choice(NamedTuple):
    """The next token of one row; None when the n-gram rule forbids every token."""

    token: int | None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass
class _Sequence:
    """What the sampler remembers of the request in a slot."""

    params: SamplingParams
    generator: random.Random
    ngrams: NGramHistory | None


class _Group:
    """Rows that are sampled by the same operations: all greedy, all by temperature, or all filtered too."""

    def __init__(self, rows: list[int], sequences: list[_Sequence], vocab_size: int, device: torch.device) -> None:
        params = [sequences[row].params for row in rows]
        all_rows = len(rows) == len(sequences)
        self.rows = slice(None) if all_rows else torch.tensor(rows, device=device)
        self.greedy = params[0].temperature < GREEDY_BELOW
        self._generators = [sequences[row].generator for row in rows]
        self._temperature = torch.tensor([[p.temperature] for p in params], device=device)
        self._filters = Filters.of(params, vocab_size, device) if _is_filtered(params[0]) else None

    def draw(self, logits: Tensor) -> Tensor:
        """Tokens [r] for penalised logits [r, V] (overwritten); not for greedy rows."""
        values, ids = self.process(logits)
        numbers = torch.tensor([generator.getrandbits(24) for generator in self._generators])
        index = draw(values, (numbers / 2**24).to(values.device))
        return index if ids is None else ids.gather(-1, index[:, None])[:, 0]

    def process(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """The logits to draw from [r, K] and their tokens (None: the vocabulary in order); `logits` is overwritten."""
        if self.greedy:
            return logits, None
        logits.div_(self._temperature)
        return (logits, None) if self._filters is None else self._filters.apply(logits)


class _Penalty:
    """The rows that have a repetition penalty."""

    def __init__(self, rows: list[int], slots: list[int], sequences: list[_Sequence], device: torch.device) -> None:
        self.rows = torch.tensor(rows, device=device)
        self.slots = torch.tensor([slots[row] for row in rows], device=device)
        self.values = torch.tensor([sequences[row].params.repetition_penalty for row in rows], device=device)


class _Occurrence:
    """The rows that have a frequency or presence penalty."""

    def __init__(self, rows: list[int], slots: list[int], sequences: list[_Sequence], device: torch.device) -> None:
        params = [sequences[row].params for row in rows]
        self.rows = torch.tensor(rows, device=device)
        self.slots = torch.tensor([slots[row] for row in rows], device=device)
        self.frequency = torch.tensor([[p.frequency_penalty] for p in params], device=device)
        self.presence = torch.tensor([[p.presence_penalty] for p in params], device=device)
        self.one = torch.ones((), device=device)


class _Bias:
    """The logits that have a bias."""

    def __init__(self, rows: list[int], sequences: list[_Sequence], device: torch.device) -> None:
        entries = [(row, token, value) for row in rows for token, value in sequences[row].params.logit_bias]
        self.rows = torch.tensor([row for row, _, _ in entries], device=device)
        self.tokens = torch.tensor([token for _, token, _ in entries], device=device)
        self.values = torch.tensor([value for _, _, value in entries], device=device)


@dataclass
class _Plan:
    """How to sample a list of slots; made anew only when the list, or the request in a slot, changes."""

    slots: list[int]
    sequences: list[_Sequence]
    groups: list[_Group]
    bias: _Bias | None
    penalty: _Penalty | None
    occurrence: _Occurrence | None
    ngrams: list[tuple[int, NGramHistory]]
    with_logprobs: list[int]


class Sampler:
    """Samples the rows of a batch of slots, each by the parameters of the request that holds the slot.

    Every request draws from a generator of its own, one number a token, so neither the other rows nor the device
    change its draws. (Python's Mersenne Twister: a torch.Generator a request would cost a kernel call a row.)
    """

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._sequences: dict[int, _Sequence] = {}
        self._num_slots = num_slots
        self._penalties: Tensor | None = None
        """[slots, V], once a request needs it: what divides or multiplies each logit, the penalty for tokens of prompt
        and answer, else 1."""
        self._counts: Tensor | None = None
        """[slots, V], once a request needs it: how often the answer holds each token."""
        self._plan: _Plan | None = None

    def assign(self, slot: int, params: SamplingParams, prompt: Sequence[int], answer: Sequence[int] = ()) -> None:
        """Give a slot to a request with these tokens; `answer`: what was generated of it already."""
        tokens = [*prompt, *answer]
        ngrams = NGramHistory(params.no_repeat_ngram_size, tokens) if params.no_repeat_ngram_size else None
        self._sequences[slot] = _Sequence(params, random.Random(params.seed), ngrams)
        if params.repetition_penalty != 1:
            if self._penalties is None:
                self._penalties = torch.ones(self._num_slots, self._vocab_size, device=self._device)
            self._penalties[slot] = 1.0
            self._penalties[slot, torch.tensor(tokens, device=self._device)] = params.repetition_penalty
        if _counts_occurrences(params):
            if self._counts is None:
                self._counts = torch.zeros(self._num_slots, self._vocab_size, device=self._device)
            self._counts[slot] = torch.bincount(
                torch.tensor(answer, dtype=torch.int64, device=self._device), minlength=self._vocab_size
            )
        self._plan = None

    def sample(self, logits: Tensor, slots: Sequence[int]) -> list[Choice]:
        """Choose a token for each of `slots` from its row of `logits`, float32 [R, V] (overwritten).

        Raises SmidgenError when the model gave NaN or infinity. It waits for the device once for the tokens, once
        for log-probabilities that are asked for, and once or more to see whether the candidates suffice.
        """
        plan = self._plan_for(slots)
        logprobs = logits[plan.with_logprobs].log_softmax(-1) if plan.with_logprobs else None
        self._penalize(logits, plan)
        largest, chosen = logits.max(-1)
        for group in plan.groups:
            if not group.greedy:
                chosen[group.rows] = group.draw(logits[group.rows])
        if plan.penalty is not None:
            assert self._penalties is not None
            self._penalties[plan.penalty.slots, chosen[plan.penalty.rows]] = plan.penalty.values
        if plan.occurrence is not None:
            assert self._counts is not None
            places = (plan.occurrence.slots, chosen[plan.occurrence.rows])
            self._counts.index_put_(places, plan.occurrence.one, accumulate=True)
        tokens = _tokens(largest, chosen)
        for row, ngrams in plan.ngrams:
            ngrams.append(tokens[row])
        choices = [Choice(None if token == _NOTHING_LEFT else token) for token in tokens]
        if logprobs is not None:
            self._add_logprobs(choices, logprobs, chosen, plan)
        return choices

    def processed(self, logits: Tensor, slots: Sequence[int]) -> Tensor:
        """The logits that `sample` would draw from, float32 [R, V], -inf for tokens that cannot be drawn.

        For greedy rows the penalised logits, whose largest is chosen. `logits` [R, V] is overwritten.
        """
        plan = self._plan_for(slots)
        self._penalize(logits, plan)
        result = torch.full_like(logits, -torch.inf)
        for group in plan.groups:
            values, ids = group.process(logits[group.rows])
            result[group.rows] = values if ids is None else result[group.rows].scatter(-1, ids, values)
        return result

    def _penalize(self, logits: Tensor, plan: _Plan) -> None:
        if plan.bias is not None:
            logits.index_put_((plan.bias.rows, plan.bias.tokens), plan.bias.values, accumulate=True)
        if plan.penalty is not None:
            assert self._penalties is not None
            rows = plan.penalty.rows
            logits[rows] = penalize_repetition(logits[rows], self._penalties[plan.penalty.slots])
        if plan.occurrence is not None:
            assert self._counts is not None
            own = plan.occurrence
            counts = self._counts[own.slots]
            logits[own.rows] = penalize_occurrence(logits[own.rows], counts, own.frequency, own.presence)
        forbidden = [(row, token) for row, ngrams in plan.ngrams for token in ngrams.forbidden()]
        if forbidden:
            rows, tokens = torch.tensor(forbidden, device=self._device).unbind(-1)
            logits[rows, tokens] = -torch.inf

    def _add_logprobs(self, choices: list[Choice], logprobs: Tensor, chosen: Tensor, plan: _Plan) -> None:
        rows = plan.with_logprobs
        counts = [min(plan.sequences[row].params.logprobs or 0, self._vocab_size) for row in rows]
        top_values, top_ids = (part.tolist() for part in logprobs.topk(max(counts), dim=-1))
        own = logprobs.gather(-1, chosen[rows][:, None])[:, 0].tolist()
        for i, row in enumerate(rows):
            if choices[row].token is not None:
                top = zip(top_ids[i][: counts[i]], top_values[i][: counts[i]], strict=True)
                choices[row] = Choice(choices[row].token, own[i], tuple(top))

    def _plan_for(self, slots: Sequence[int]) -> _Plan:
        if self._plan is None or self._plan.slots != slots:
            self._plan = self._make_plan(list(slots))
        return self._plan

    def _make_plan(self, slots: list[int]) -> _Plan:
        sequences = [self._sequences[slot] for slot in slots]
        kinds: dict[tuple[bool, bool], list[int]] = {}
        for row, sequence in enumerate(sequences):
            greedy = sequence.params.temperature < GREEDY_BELOW
            kinds.setdefault((greedy, not greedy and _is_filtered(sequence.params)), []).append(row)
        biased = [row for row, s in enumerate(sequences) if s.params.logit_bias]
        counted = [row for row, s in enumerate(sequences) if _counts_occurrences(s.params)]
        penalized = [row for row, s in enumerate(sequences) if s.params.repetition_penalty != 1]
        return _Plan(
            slots,
            sequences,
            groups=[_Group(rows, sequences, self._vocab_size, self._device) for rows in kinds.values()],
            bias=_Bias(biased, sequences, self._device) if biased else None,
            occurrence=_Occurrence(counted, slots, sequences, self._device) if counted else None,
            penalty=_Penalty(penalized, slots, sequences, self._device) if penalized else None,
            ngrams=[(row, s.ngrams) for row, s in enumerate(sequences) if s.ngrams is not None],
            with_logprobs=[row for row, s in enumerate(sequences) if s.params.logprobs is not None],
        )


def _counts_occurrences(params: SamplingParams) -> bool:
    return params.presence_penalty != 0 or params.frequency_penalty != 0


def _is_filtered(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1 or params.min_p > 0


def _tokens(largest: Tensor, chosen: Tensor) -> list[int]:
    """`chosen` [R] on the host; _NOTHING_LEFT for rows whose largest logit [R] is -inf."""
    problem = torch.where(largest == -torch.inf, _NOTHING_LEFT, _NOT_FINITE)
    tokens: list[int] = torch.where(largest.isfinite(), chosen, problem).tolist()
    if _NOT_FINITE in tokens:
        raise not_finite()
    return tokens


def not_finite() -> SmidgenError:
    """The error for logits that are NaN or infinite."""
    return SmidgenError(
        "the model's logits are not finite: its weights are damaged, or it overflows in this precision; try float32"
    )


def is_plainly_greedy(params: SamplingParams) -> bool:
    """Whether the likeliest token of the model's own logits is wanted, and nothing beside it."""
    return (
        params.temperature < GREEDY_BELOW
        and params.repetition_penalty == 1
        and not _counts_occurrences(params)
        and not params.logit_bias
        and not params.no_repeat_ngram_size
        and params.logprobs is None
    )
