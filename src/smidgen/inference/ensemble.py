"""Several decoders that answer as one: the next token is drawn from the mean of their distributions."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from smidgen.inference.frozen import frozen, head_product
from smidgen.inference.rows import Request
from smidgen.inference.sampling import Choice, Sampler
from smidgen.model import Decoder, count_parameters
from smidgen.runtime.errors import ContextLengthError, ModelFolderError, TokenizerError
from smidgen.runtime.protocols import EngineInfo, Event, FinishReason
from smidgen.runtime.sampling import SamplingParams


class EnsembleEngine:
    """Runs decoders of one vocabulary side by side: `p = mean of softmax(logits)`, then sampling as ever on `ln p`.

    Temperature, filters, penalties and reported log-probabilities apply to `ln p`. The members may differ in everything
    but the vocabulary; the context is the shortest one's, and an answer that does not fit it is refused (there is no
    sliding). Batching is that of TorchEngine's simplest form: every active request takes part in every step.
    """

    def __init__(self, models: Sequence[Decoder], eos_ids: Sequence[int] = (), max_batch_size: int = 8) -> None:
        vocab_size = models[0].config.vocab_size
        for model in models:
            if model.config.vocab_size != vocab_size:
                raise ModelFolderError(
                    f"--ensemble: vocab_size {model.config.vocab_size} beside {vocab_size}; use one tokenizer"
                )
        self._models = [frozen(model) for model in models]
        self._device = models[0].model.embed_tokens.device
        self._info = EngineInfo(
            engine="ensemble",
            vocab_size=vocab_size,
            max_seq_len=min(model.config.max_seq_len for model in models),
            eos_ids=tuple(eos_ids),
            num_parameters=sum(count_parameters(model.config) for model in models),
            max_batch_size=max_batch_size,
        )
        with torch.inference_mode():
            self._caches = [model.new_cache(max_batch_size, self._info.max_seq_len) for model in self._models]
            self._sampler = Sampler(max_batch_size, vocab_size, self._device)
        self._slots: list[Request | None] = [None] * max_batch_size
        self._fed = [0] * max_batch_size
        self._waiting: deque[Request] = deque()
        self._ended: list[Event] = []
        self._count = 0

    @property
    def info(self) -> EngineInfo:
        """Facts about the ensemble: parameters of all members together, the shortest context."""
        return self._info

    def submit(self, ids: Sequence[int], params: SamplingParams) -> int:
        """Queue a prompt; see TorchEngine. Raises ContextLengthError where prompt and answer exceed the context."""
        prompt = list(ids)
        if not prompt:
            raise TokenizerError("the prompt has no tokens; begin with the tokenizer's bos or eos token")
        for token in (min(prompt), max(prompt), *(token for token, _ in params.logit_bias)):
            if not 0 <= token < self._info.vocab_size:
                raise TokenizerError(f"token id {token} is outside the vocabulary of {self._info.vocab_size}")
        if len(prompt) + params.max_new_tokens > self._info.max_seq_len:
            raise ContextLengthError(
                f"{len(prompt)} prompt tokens + max_new_tokens = {params.max_new_tokens} exceed the ensemble's context "
                f"of {self._info.max_seq_len} tokens; shorten the prompt or lower max_new_tokens"
            )
        self._count += 1
        ends = frozenset((*(() if params.ignore_eos else self._info.eos_ids), *params.stop_token_ids))
        self._waiting.append(Request(self._count, prompt, params, ends, False))
        return self._count

    def cancel(self, request: int) -> None:
        """End a request; its last event comes with the next `step`."""
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
        """One token for every active request; a new one reads its whole prompt first."""
        events, self._ended = self._ended, []
        for slot, active in enumerate(self._slots):
            if active is None and self._waiting:
                request = self._slots[slot] = self._waiting.popleft()
                self._sampler.assign(slot, request.params, request.context)
                self._fed[slot] = 0
                for cache in self._caches:
                    cache.reset([slot])
        ready = [slot for slot, active in enumerate(self._slots) if active is not None]
        if ready:
            choices = self._sampler.sample(self._log_mean(ready), ready)
            events += [self._take(slot, choice) for slot, choice in zip(ready, choices, strict=True)]
        return events

    def _log_mean(self, ready: list[int]) -> Tensor:
        """Feed what is new of every request; `ln` of the members' mean probability, float32 [ready, V]."""
        fed = [[] if active is None else active.context[self._fed[i] :] for i, active in enumerate(self._slots)]
        length = max(map(len, fed))
        ids = torch.tensor([tokens + [0] * (length - len(tokens)) for tokens in fed], device=self._device)
        mask = torch.tensor([[1] * len(tokens) + [0] * (length - len(tokens)) for tokens in fed], device=self._device)
        last = [len(fed[slot]) - 1 for slot in ready]
        parts = []
        for model, cache in zip(self._models, self._caches, strict=True):
            hidden = model.hidden(ids, None if bool(mask.all()) else mask, cache=cache)[ready, last]
            parts.append(head_product(model, hidden).float().log_softmax(-1))
        for slot in ready:
            self._fed[slot] += len(fed[slot])
        return torch.stack(parts).logsumexp(0) - math.log(len(parts))

    def _take(self, slot: int, choice: Choice) -> Event:
        request = self._slots[slot]
        assert request is not None
        request.num_generated += 1
        finish: FinishReason | None = None
        if choice.token is None or choice.token in request.end_ids:
            finish = "stop"
        elif request.num_generated == request.params.max_new_tokens:
            finish = "length"
        if choice.token is not None:
            request.context.append(choice.token)
        if finish is not None:
            self._slots[slot] = None
        return Event(request.number, choice.token, finish, choice.logprob, choice.top_logprobs)
