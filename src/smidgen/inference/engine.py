"""The PyTorch engine: continuous batching over the rows of one cache.

B rows, T tokens fed to a row in one pass (the longest; shorter ones are padded), D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from smidgen.inference.decoding import (
    NOT_FINITE,
    NOTHING_LEFT,
    DecodingStep,
    GraphedDecodingStep,
    Pending,
    ReplayedDecodingStep,
)
from smidgen.inference.frozen import frozen, head_product
from smidgen.inference.fused import fuse
from smidgen.inference.lookup import PromptLookup
from smidgen.inference.rows import Request, Rows
from smidgen.inference.sampling import Choice, Sampler, is_plainly_greedy, not_finite
from smidgen.inference.scoring import score
from smidgen.model import Cache, Decoder, count_parameters
from smidgen.model.cache import cache_bytes
from smidgen.runtime.errors import ContextLengthError, TokenizerError
from smidgen.runtime.memory import GIB, available_memory
from smidgen.runtime.protocols import EngineInfo, Event, FinishReason
from smidgen.runtime.sampling import SamplingError, SamplingParams
from smidgen.runtime.scoring import TokenScore

RING_SLACK = 64
"""Positions that sliding layers keep beyond their window: a prompt that leaves an earlier one so many tokens before its
end can still go on from it."""


_Result = TypeVar("_Result")


@dataclass
class _Flight:
    """A decoding step that was started before the tokens of the one before were read."""

    requests: list[Request]
    pending: Pending


class TorchEngine:
    """Runs a decoder for up to `max_batch_size` requests at once; more wait for a free row.

    In a step every active request takes part: with its next token, or with up to `prefill_chunk` tokens of its prompt
    (None: 512 on a processor, whole prompts of up to 8,192 on a GPU). Results are those of each request alone, up to
    the rounding of products of other shapes. Prompts that begin as an earlier one did go on from its cache
    (`reuse_prefixes`). `speculate`: greedy requests guess up to so many tokens from what followed the same words
    before and check them in one pass, which changes the speed and not the answer; 0 is off.

    The model computes in its `compute_dtype`; it is copied where that needs other weights (see `frozen`), and its
    projections are fused. `eos_ids` end an answer. `max_seq_len` is the context and sizes the cache (the model's if
    left out). `decoding` makes the step for single tokens (None: CUDA graphs on a GPU, direct calls elsewhere).
    One caller at a time: an engine is not safe to share between threads. Raises ContextLengthError where the cache does
    not fit the free memory.
    """

    def __init__(
        self,
        model: Decoder,
        eos_ids: Sequence[int] = (),
        max_batch_size: int = 8,
        max_seq_len: int | None = None,
        prefill_chunk: int | None = None,
        speculate: int = 0,
        reuse_prefixes: bool = True,
        decoding: Callable[[Decoder, Cache], DecodingStep] | None = None,
    ) -> None:
        context = model.config.max_seq_len
        if max_seq_len is not None and not 1 <= max_seq_len <= context:
            raise ContextLengthError(f"max_seq_len = {max_seq_len}: use 1 to the model's context of {context}")
        limits = (
            ("max_batch_size", max_batch_size, 1),
            ("prefill_chunk", prefill_chunk, 1),
            ("speculate", speculate, 0),
        )
        for name, value, least in limits:
            if value is not None and value < least:
                raise SamplingError(f"{name} = {value}: use {least} or more")
        self._device = model.model.embed_tokens.device
        is_gpu = self._device.type == "cuda"
        self._prefill_chunk = prefill_chunk or (8192 if is_gpu else 512)
        self._speculate = speculate
        self._model = fuse(frozen(model))
        self._info = EngineInfo(
            engine="torch",
            vocab_size=model.config.vocab_size,
            max_seq_len=context if max_seq_len is None else max_seq_len,
            eos_ids=tuple(eos_ids),
            num_parameters=count_parameters(model.config),
            max_batch_size=max_batch_size,
        )
        # Tensors of the inference mode cannot enter compiled functions; elsewhere it is a little faster.
        self._mode: Callable[[], torch.no_grad | torch.inference_mode]
        self._mode = torch.no_grad if is_gpu or decoding is not None else torch.inference_mode
        with self._mode():
            slack = max(RING_SLACK, speculate)
            self._check_memory(slack)
            cache = self._model.new_cache(max_batch_size, self._info.max_seq_len, ring_slack=slack)
            self._rows = Rows(cache, reuse_prefixes)
            self._sampler = Sampler(max_batch_size, self._info.vocab_size, self._device)
            make = decoding or (GraphedDecodingStep if is_gpu else ReplayedDecodingStep)
            self._decoding = make(self._model, cache)
        self._free_slots = list(range(max_batch_size))
        self._waiting: deque[Request] = deque()
        self._ended: list[Event] = []
        self._count = 0
        self._flight: _Flight | None = None
        self._loaded: list[Request] = []
        """Whose tokens and positions the decoding step has."""

    def _check_memory(self, ring_slack: int) -> None:
        """Raise ContextLengthError, with the sum, for a cache that does not fit the free memory."""
        rows, length = self._info.max_batch_size, self._info.max_seq_len
        shapes = [layer.self_attn.cache_shape() for layer in self._model.layers]
        dtype = self._model.compute_dtype or self._model.model.embed_tokens.dtype
        needed = cache_bytes(shapes, rows, length, dtype, ring_slack)
        free = torch.cuda.mem_get_info(self._device)[0] if self._device.type == "cuda" else available_memory()
        if needed > free:
            raise ContextLengthError(
                f"max_batch_size = {rows}, max_seq_len = {length}: a cache for so many tokens takes {needed / GIB:.1f} "
                f"GiB, and {free / GIB:.1f} GiB are free; lower one of them"
            )

    @property
    def info(self) -> EngineInfo:
        """Facts about the model and the limits of this engine."""
        return self._info

    def submit(self, ids: Sequence[int], params: SamplingParams) -> int:
        """Queue a prompt of at least one token; returns the request's number.

        Raises ContextLengthError when prompt and `max_new_tokens` exceed the context and `overflow` is "error",
        TokenizerError for an empty prompt or an id that the model does not have.
        """
        prompt = list(ids)
        if not prompt:
            raise TokenizerError("the prompt has no tokens; begin with the tokenizer's bos or eos token")
        self._check_ids(min(prompt), max(prompt), *(token for token, _ in params.logit_bias))
        if params.overflow == "error" and len(prompt) + params.max_new_tokens > self._info.max_seq_len:
            raise ContextLengthError(
                f"{len(prompt)} prompt tokens + max_new_tokens = {params.max_new_tokens} exceed the context of "
                f"{self._info.max_seq_len} tokens; shorten the prompt, lower max_new_tokens, or let the oldest tokens "
                "leave (overflow = slide)"
            )
        own_ends = () if params.ignore_eos else self._info.eos_ids
        self._count += 1
        ends = frozenset((*own_ends, *params.stop_token_ids))
        self._waiting.append(Request(self._count, prompt, params, ends, is_plainly_greedy(params)))
        return self._count

    def can_score(self) -> bool:
        """Always: scoring has a cache of its own."""
        return True

    def score(self, ids: Sequence[int], top: int) -> Generator[list[TokenScore]]:
        """The scores of `ids[1:]` in pieces; see `Scorer.score`."""
        if len(ids) > self._info.max_seq_len:
            raise ContextLengthError(
                f"{len(ids)} tokens exceed the context of {self._info.max_seq_len} tokens; score a shorter text"
            )
        self._check_ids(*ids)
        return score(self._model, ids, top, self._prefill_chunk, self._mode)

    def _check_ids(self, *ids: int) -> None:
        for token in ids:
            if not 0 <= token < self._info.vocab_size:
                raise TokenizerError(
                    f"token id {token} is outside the model's vocabulary of {self._info.vocab_size}; "
                    "use the tokenizer that the model was trained with"
                )

    def cancel(self, request: int) -> None:
        """End a request; its last event comes with the next `step`. Unknown or finished requests are ignored."""
        for waiting in self._waiting:
            if waiting.number == request:
                self._waiting.remove(waiting)
                self._ended.append(Event(request, None, "cancelled"))
                return
        for active in self._rows.running:
            if active.number == request and not active.is_finished:
                active.is_finished = True
                self._ended.append(Event(request, None, "cancelled"))

    def step(self) -> list[Event]:
        """One iteration over all active requests; at most one new token a request.

        Empty when nothing is active, or when all that was read were parts of prompts (`prefill_chunk` tokens of each).
        """
        with self._mode():
            events, self._ended = self._ended, []
            if self._flight is not None:
                events += self._land()
                if events:
                    return events
            self._release()
            self._admit()
            self._slide()
            events += self._advance()
            return events

    def _release(self) -> None:
        for request in self._rows.release_finished():
            self._free_slots.append(request.slot)
            self._loaded = []

    def _admit(self) -> None:
        """Give free rows to waiting requests."""
        while self._waiting and self._rows.has_room:
            request = self._waiting.popleft()
            request.slot = self._free_slots.pop()
            self._sampler.assign(request.slot, request.params, request.context)
            if len(request.context) > self._info.max_seq_len:
                request.context = self._newest(request.context)
            if self._speculate and request.is_plain:
                request.lookup = PromptLookup(request.context)
            self._rows.admit(request)
            self._loaded = []

    def _slide(self) -> None:
        """Where a context is full: its newest half stays, and is read anew as if it were the prompt."""
        for row, request in enumerate(self._rows.running):
            if len(request.context) > self._info.max_seq_len:
                request.context = self._newest(request.context)
                self._rows.restart(row)
                self._loaded = []

    def _newest(self, context: list[int]) -> list[int]:
        return context[-max(1, self._info.max_seq_len // 2) :]

    def _advance(self) -> list[Event]:
        """A new token for every request that is not within its prompt."""
        events = []
        decoding: list[int] = []
        feeding: list[tuple[int, list[int]]] = []
        drafted: list[tuple[int, list[int]]] = []
        for row, request in enumerate(self._rows.running):
            if request.ready:
                events.append(self._report(request, request.ready.popleft()))
                continue
            rest = request.context[self._rows.lengths[row] :]
            draft = self._draft(row, request) if len(rest) == 1 else []
            if draft:
                drafted.append((row, rest + draft))
            elif len(rest) == 1:
                decoding.append(row)
            else:
                feeding.append((row, rest[: self._prefill_chunk]))
        chosen: list[Tensor] = []
        choosing: list[Request] = []
        for group in self._groups(feeding):
            hidden = self._feed(group)
            # Those whose prompt is now read to its end.
            ends = [i for i, (row, _) in enumerate(group) if self._is_read(row)]
            if ends:
                last = [len(group[i][1]) - 1 for i in ends]
                chosen.append(self._logits(hidden[ends, last]))
                choosing += [self._rows.running[group[i][0]] for i in ends]
        for group in self._groups(drafted):
            events += self._verify(group)
        running = self._rows.running
        if decoding and all(running[row].is_plain for row in decoding):
            events += self._decode_plainly(decoding)
        elif decoding:
            logits = self._decode(decoding, self._decoding.logits)
            self._loaded = []
            chosen.append(logits if len(decoding) == len(logits) else logits[decoding])
            choosing += [running[row] for row in decoding]
        if choosing:
            logits = chosen[0] if len(chosen) == 1 else torch.cat(chosen)
            choices = self._sampler.sample(logits, [request.slot for request in choosing])
            for request, choice in zip(choosing, choices, strict=True):
                events.append(self._take(request, choice))
        return events

    # Single tokens.

    def _decode_plainly(self, rows: list[int]) -> list[Event]:
        pending = self._decode(rows, self._decoding.start)
        running = self._rows.running
        requests = [running[row] for row in rows]
        if len(rows) == len(running) and self._may_run_ahead(requests, given=1):
            # The device goes on while the host reads and reports.
            self._flight = self._take_off(requests, given=1)
        else:
            self._loaded = requests if len(rows) == len(running) else []
        tokens = pending.tokens()
        return [self._take(request, _choice(tokens[row])) for row, request in zip(rows, requests, strict=True)]

    def _decode(self, rows: list[int], step: Callable[[int, int], _Result]) -> _Result:
        """Run the decoding step for these rows, whose next token is the only one not in the cache."""
        running, lengths = self._rows.running, self._rows.lengths
        count = rows[-1] + 1
        requests = [running[row] for row in rows]
        if self._loaded != requests or len(rows) != len(running):
            active = set(rows)
            self._decoding.load(
                [running[row].context[-1] for row in range(count)],
                [lengths[row] if row in active else 0 for row in range(count)],
                [row in active for row in range(count)],
            )
        longest = max(lengths[row] for row in rows) + 1
        for row in rows:
            lengths[row] += 1
        return step(count, longest)

    def _may_run_ahead(self, requests: list[Request], given: int) -> bool:
        """Whether the next step will need nothing but the tokens of those before; `given` of them are not yet taken."""
        if not self._decoding.runs_ahead or self._waiting or self._ended or self._speculate:
            return False
        context = self._info.max_seq_len
        return all(
            not request.is_finished
            and request.num_generated + given < request.params.max_new_tokens
            and len(request.context) + given <= context
            for request in requests
        )

    def _take_off(self, requests: list[Request], given: int) -> _Flight:
        longest = max(len(request.context) for request in requests) + given
        return _Flight(requests, self._decoding.start(len(requests), longest))

    def _land(self) -> list[Event]:
        """Read a step that was started ahead; perhaps start the next one first."""
        flight, self._flight = self._flight, None
        assert flight is not None
        requests = flight.requests
        if self._may_run_ahead(requests, given=1):
            self._flight = self._take_off(requests, given=1)
        else:
            self._loaded = requests
        tokens = flight.pending.tokens()
        events = []
        for row, request in enumerate(requests):
            if not request.is_finished:
                self._rows.lengths[row] += 1
                events.append(self._take(request, _choice(tokens[row])))
        return events

    # Several tokens a row.

    def _groups(self, feeding: list[tuple[int, list[int]]]) -> Iterator[list[tuple[int, list[int]]]]:
        """Neighbouring rows that one pass can feed without much padding."""
        group: list[tuple[int, list[int]]] = []
        for row, tokens in feeding:
            if group:
                sizes = [len(own) for _, own in group] + [len(tokens)]
                is_fresh = (self._rows.lengths[row] == 0) == (self._rows.lengths[group[0][0]] == 0)
                if row != group[-1][0] + 1 or not is_fresh or max(sizes) > 2 * min(sizes) + 16:
                    yield group
                    group = []
            group.append((row, tokens))
        if group:
            yield group

    def _feed(self, group: list[tuple[int, list[int]]]) -> Tensor:
        """Append these tokens to their rows; returns the states [rows, T, D], meaningless behind the shorter ones."""
        first, last = group[0][0], group[-1][0]
        length = max(len(tokens) for _, tokens in group)
        padded = [tokens + [0] * (length - len(tokens)) for _, tokens in group]
        mask = None
        if any(len(tokens) < length for _, tokens in group):
            mask = torch.tensor([[1] * len(tokens) + [0] * (length - len(tokens)) for _, tokens in group])
        self._rows.sync()
        cache = self._rows.cache.rows(first, last + 1)
        hidden = self._model.hidden(torch.tensor(padded, device=self._device), mask, cache=cache)
        for row, tokens in group:
            self._rows.lengths[row] += len(tokens)
        self._loaded = []
        return hidden

    def _is_read(self, row: int) -> bool:
        return self._rows.lengths[row] == len(self._rows.running[row].context)

    def _logits(self, hidden: Tensor) -> Tensor:
        return head_product(self._model, hidden)

    def _draft(self, row: int, request: Request) -> list[int]:
        """What may follow the request's last token; nothing where that is not wanted or has no room."""
        if request.lookup is None:
            return []
        left = request.params.max_new_tokens - request.num_generated - 1
        room = self._info.max_seq_len - self._rows.lengths[row] - 1
        limit = min(self._speculate, left, room)
        return request.lookup.draft(limit) if limit > 0 else []

    def _verify(self, group: list[tuple[int, list[int]]]) -> list[Event]:
        """Feed a token and its drafts to each row; what the model itself would have said stays."""
        logits = self._logits(self._feed(group))
        largest, likeliest = logits.max(-1)
        choices: list[list[int]] = torch.where(largest.isfinite(), likeliest, NOT_FINITE).tolist()
        events = []
        for (row, fed), own in zip(group, choices, strict=True):
            request = self._rows.running[row]
            agreed = 0
            while agreed < len(fed) - 1 and own[agreed] == fed[agreed + 1] and own[agreed] not in request.end_ids:
                agreed += 1
            self._rows.lengths[row] -= len(fed) - 1 - agreed
            request.ready.extend(_choice(token) for token in own[: agreed + 1])
            for token in own[: agreed + 1]:
                self._extend(request, token)
            events.append(self._report(request, request.ready.popleft()))
        return events

    # What a request gets.

    def _take(self, request: Request, choice: Choice) -> Event:
        """Record the new token of a request."""
        if choice.token is not None:
            self._extend(request, choice.token)
        return self._report(request, choice)

    def _extend(self, request: Request, token: int) -> None:
        request.context.append(token)
        if request.lookup is not None:
            request.lookup.append(token)

    def _report(self, request: Request, choice: Choice) -> Event:
        """The event of a token, which may be the last."""
        request.num_generated += 1
        finish: FinishReason | None = None
        if choice.token is None or choice.token in request.end_ids:
            finish = "stop"
        elif request.num_generated == request.params.max_new_tokens:
            finish = "length"
        request.is_finished = finish is not None
        return Event(request.number, choice.token, finish, choice.logprob, choice.top_logprobs)


def _choice(token: int) -> Choice:
    if token == NOT_FINITE:
        raise not_finite()
    return Choice(None if token == NOTHING_LEFT else token)
