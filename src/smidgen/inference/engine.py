"""The PyTorch engine: continuous batching over the slots of one cache.

B slots, T tokens fed to a slot in one pass (the longest; shorter ones are padded), D hidden size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from smidgen.inference.frozen import frozen, product
from smidgen.inference.sampling import Choice, Sampler
from smidgen.model import Decoder, count_parameters
from smidgen.runtime.errors import ContextLengthError, TokenizerError
from smidgen.runtime.protocols import EngineInfo, Event, FinishReason
from smidgen.runtime.sampling import SamplingError, SamplingParams


@dataclass
class _Request:
    """One prompt on its way: first its tokens are fed in chunks, then every new token."""

    number: int
    prompt: list[int]
    params: SamplingParams
    end_ids: frozenset[int]
    prompt_fed: int = 0
    num_generated: int = 0


class TorchEngine:
    """Runs a decoder for up to `max_batch_size` requests at once; more wait for a free slot.

    A step is one forward pass in which every active request takes part: with its next token, or with up to
    `prefill_chunk` tokens of its prompt. Results are those of each request alone, up to the rounding of products of
    other shapes.

    The model computes in its `compute_dtype`; it is copied where that needs other weights (see `frozen`).
    `eos_ids` end an answer. `max_seq_len` bounds prompt plus answer and sizes the cache (the model's context if left
    out). One caller at a time: an engine is not safe to share between threads.
    """

    def __init__(
        self,
        model: Decoder,
        eos_ids: Sequence[int] = (),
        max_batch_size: int = 8,
        max_seq_len: int | None = None,
        prefill_chunk: int = 512,
    ) -> None:
        context = model.config.max_seq_len
        if max_seq_len is not None and not 1 <= max_seq_len <= context:
            raise ContextLengthError(f"max_seq_len = {max_seq_len}: use 1 to the model's context of {context}")
        if max_batch_size < 1 or prefill_chunk < 1:
            raise SamplingError(
                f"max_batch_size = {max_batch_size}, prefill_chunk = {prefill_chunk}: use at least 1 for both"
            )
        self._model = frozen(model)
        self._device = model.head_weight.device
        self._prefill_chunk = prefill_chunk
        self._info = EngineInfo(
            engine="torch",
            vocab_size=model.config.vocab_size,
            max_seq_len=context if max_seq_len is None else max_seq_len,
            eos_ids=tuple(eos_ids),
            num_parameters=count_parameters(model.config),
            max_batch_size=max_batch_size,
        )
        with torch.inference_mode():
            self._cache = self._model.new_cache(max_batch_size, self._info.max_seq_len)
            self._sampler = Sampler(max_batch_size, self._info.vocab_size, self._device)
        self._slots: list[_Request | None] = [None] * max_batch_size
        self._next_tokens = [0] * max_batch_size
        self._waiting: deque[_Request] = deque()
        self._ended: list[Event] = []
        self._count = 0

    @property
    def info(self) -> EngineInfo:
        """Facts about the model and the limits of this engine."""
        return self._info

    def submit(self, ids: Sequence[int], params: SamplingParams) -> int:
        """Queue a prompt of at least one token; returns the request's number.

        Raises ContextLengthError when prompt and `max_new_tokens` exceed the context, TokenizerError for an empty
        prompt or an id that the model does not have.
        """
        prompt = list(ids)
        if not prompt:
            raise TokenizerError("the prompt has no tokens; begin with the tokenizer's bos or eos token")
        for token in (min(prompt), max(prompt)):
            if not 0 <= token < self._info.vocab_size:
                raise TokenizerError(
                    f"token id {token} is outside the model's vocabulary of {self._info.vocab_size}; "
                    "use the tokenizer that the model was trained with"
                )
        if len(prompt) + params.max_new_tokens > self._info.max_seq_len:
            raise ContextLengthError(
                f"{len(prompt)} prompt tokens + max_new_tokens = {params.max_new_tokens} exceed the context of "
                f"{self._info.max_seq_len} tokens; shorten the prompt or lower max_new_tokens"
            )
        own_ends = () if params.ignore_eos else self._info.eos_ids
        self._count += 1
        self._waiting.append(_Request(self._count, prompt, params, frozenset((*own_ends, *params.stop_token_ids))))
        return self._count

    def cancel(self, request: int) -> None:
        """End a request; its last event comes with the next `step`. Unknown or finished requests are ignored."""
        for waiting in self._waiting:
            if waiting.number == request:
                self._waiting.remove(waiting)
                self._ended.append(Event(request, None, "cancelled"))
                return
        for slot, active in enumerate(self._slots):
            if active is not None and active.number == request:
                self._slots[slot] = None
                self._ended.append(Event(request, None, "cancelled"))

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One iteration over all active requests; at most one new token a request. Empty when nothing is active."""
        events, self._ended = self._ended, []
        self._admit()
        ready, hidden = self._forward()
        if ready:
            choices = self._sampler.sample(product(hidden, self._model.head_weight).float(), ready)
            events.extend(self._advance(slot, choice) for slot, choice in zip(ready, choices, strict=True))
        return events

    def _admit(self) -> None:
        """Give free slots to waiting requests."""
        if not self._waiting:
            return
        admitted = []
        for slot, active in enumerate(self._slots):
            if active is None and self._waiting:
                request = self._waiting.popleft()
                self._slots[slot] = request
                self._sampler.assign(slot, request.params, request.prompt)
                admitted.append(slot)
        self._cache.reset(admitted)

    def _forward(self) -> tuple[list[int], torch.Tensor]:
        """Feed every active slot; returns the slots that get a new token and their last states [ready, D]."""
        fed: list[list[int]] = []
        ready = []
        for slot, request in enumerate(self._slots):
            tokens: list[int] = []
            if request is not None:
                if request.num_generated:
                    tokens = [self._next_tokens[slot]]
                else:
                    tokens = request.prompt[request.prompt_fed : request.prompt_fed + self._prefill_chunk]
                    request.prompt_fed += len(tokens)
                if request.prompt_fed == len(request.prompt):
                    ready.append(slot)
            fed.append(tokens)
        length = max(map(len, fed))
        if length == 0:
            return [], torch.empty(0)
        padded = [tokens + [0] * (length - len(tokens)) for tokens in fed]
        mask = None
        if any(len(tokens) < length for tokens in fed):
            rows = [[1] * len(tokens) + [0] * (length - len(tokens)) for tokens in fed]
            mask = torch.tensor(rows, device=self._device)
        hidden = self._model.hidden(torch.tensor(padded, device=self._device), mask, cache=self._cache)
        last = [len(fed[slot]) - 1 for slot in ready]
        return ready, hidden[ready, last]

    def _advance(self, slot: int, choice: Choice) -> Event:
        """Record the new token of a slot; frees the slot when its request ends."""
        request = self._slots[slot]
        assert request is not None
        request.num_generated += 1
        finish: FinishReason | None = None
        if choice.token is None or choice.token in request.end_ids:
            finish = "stop"
        elif request.num_generated == request.params.max_new_tokens:
            finish = "length"
        if finish is None:
            assert choice.token is not None
            self._next_tokens[slot] = choice.token
        else:
            self._slots[slot] = None
        return Event(request.number, choice.token, finish, choice.logprob, choice.top_logprobs)
