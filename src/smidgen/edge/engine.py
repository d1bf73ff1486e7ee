"""The Engine over the native model: continuous batching over slots, prefix reuse, text in and out."""

from __future__ import annotations

import ctypes as c
import os
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from smidgen.edge.config import EdgeModelConfig
from smidgen.edge.counts import count_parameters
from smidgen.edge.library import Choice, EdgeError, Sampling, last_error, library
from smidgen.edge.safetensors import MappedWeights
from smidgen.runtime.errors import ContextLengthError, SmidgenError, TokenizerError
from smidgen.runtime.protocols import EngineInfo, Event, FinishReason, Tokenizer
from smidgen.runtime.sampling import SamplingParams

if TYPE_CHECKING:
    import numpy as np

    from smidgen.runtime.scoring import TokenScore

_FORBIDDEN, _NOT_FINITE = -1, -2
_NOT_FINITE_MESSAGE = "the model's logits are not finite: its weights are damaged, or it overflows in this precision"


class NativeModel:
    """The handle of a native model and the files that it reads rows of the embedding from."""

    def __init__(self, handle: int, mapped: MappedWeights) -> None:
        self.handle = handle
        self._mapped = mapped
        self._destroy = library().edge_destroy

    def close(self) -> None:
        """Free everything; the model cannot be used after this."""
        if self.handle:
            self._destroy(self.handle)
            self.handle = 0
            self._mapped.close()

    def __del__(self) -> None:
        self.close()


@dataclass
class _Request:
    """One prompt on its way: first its tokens are fed in chunks, then every new token."""

    number: int
    prompt: list[int]
    params: SamplingParams
    end_ids: frozenset[int]
    fed: int = 0
    num_generated: int = 0
    next_token: int = 0


@dataclass
class _Slot:
    """One sequence's place in the cache."""

    request: _Request | None = None
    tokens: list[int] = field(default_factory=list)
    """What the cache holds, also after the request has ended: a later prompt that begins alike goes on from there."""
    is_scoring: bool = False
    """Whether a text is being scored in it."""

    @property
    def is_free(self) -> bool:
        return self.request is None and not self.is_scoring


class EdgeEngine:
    """Runs a small decoder on the CPU by native code, for up to `max_batch_size` requests at once; more wait.

    A step is one native call: a forward pass in which every active request takes part, with its next token or with a
    chunk of its prompt, and the choice of the new tokens. A prompt that begins like what a free slot still holds skips
    that beginning. One caller at a time; several engines may run side by side.
    """

    def __init__(
        self,
        native: NativeModel,
        folder: Path,
        config: EdgeModelConfig,
        max_seq_len: int,
        max_batch_size: int,
        chunk: int,
    ) -> None:
        self._native, self._library, self._folder, self.config = native, library(), folder, config
        self._chunk = min(chunk, max_seq_len)
        self._info = EngineInfo(
            engine="edge",
            vocab_size=config.vocab_size,
            max_seq_len=max_seq_len,
            eos_ids=config.eos_ids,
            num_parameters=count_parameters(config),
            max_batch_size=max_batch_size,
        )
        most = max(self._chunk, max_batch_size) + max_batch_size
        self._ids, self._slot_ids = (c.c_int32 * most)(), (c.c_int32 * most)()
        self._wanted, self._choices = (c.c_uint8 * most)(), (Choice * max_batch_size)()
        self._slots = [_Slot() for _ in range(max_batch_size)]
        self._waiting: deque[_Request] = deque()
        self._ended: list[Event] = []
        self._count = 0
        self._tokenizer: Tokenizer | None = None

    @property
    def info(self) -> EngineInfo:
        """Facts about the model and the limits of this engine."""
        return self._info

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one decoding step reads."""
        return int(self._library.edge_weight_bytes(self._native.handle))

    @property
    def cache_bytes(self) -> int:
        """Bytes of the key/value cache of all slots."""
        return int(self._library.edge_cache_bytes(self._native.handle))

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model's folder, loaded when first asked for. Raises TokenizerError without one."""
        if self._tokenizer is None:
            from smidgen.tokenization import load_tokenizer

            self._tokenizer = load_tokenizer(self._folder)
        return self._tokenizer

    def close(self) -> None:
        """Free the model; the engine cannot be used after this."""
        self._native.close()

    @overload
    def generate(self, prompt: str, **sampling: Any) -> str: ...
    @overload
    def generate(self, prompt: Sequence[str], **sampling: Any) -> list[str]: ...
    def generate(self, prompt: str | Sequence[str], **sampling: Any) -> str | list[str]:
        """Continue a prompt, or several; returns the continuations. `sampling`: the fields of SamplingParams."""
        from smidgen.runtime.generation import encode_prompt, generate_texts

        for name in ("stop", "stop_token_ids"):
            if name in sampling:
                value = sampling[name]
                sampling[name] = (value,) if isinstance(value, str | int) else tuple(value)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        ids = [encode_prompt(self.tokenizer, text) for text in prompts]
        space = self._info.max_seq_len - max(map(len, ids), default=0)
        default = max(1, min(SamplingParams().max_new_tokens, space))
        params = SamplingParams(**{"max_new_tokens": default, **sampling})
        texts = [completion.text for completion in generate_texts(self, self.tokenizer, ids, params)]
        return texts[0] if isinstance(prompt, str) else texts

    def forward(self, ids: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Logits, float32 [T, vocab_size], of a sequence of T tokens. No request may be active.

        Raises ContextLengthError, TokenizerError.
        """
        import numpy as np

        tokens = list(ids)
        self._check_prompt(tokens)
        if len(tokens) > self._info.max_seq_len:
            raise ContextLengthError(f"{len(tokens)} tokens exceed the context of {self._info.max_seq_len}")
        if not all(slot.is_free for slot in self._slots):
            raise EdgeError("forward: requests are active; finish or cancel them first")
        result = np.empty((len(tokens), self._info.vocab_size), np.float32)
        self._truncate(0, 0)
        for start in range(0, len(tokens), self._chunk):
            self._forward_part(0, tokens[start : start + self._chunk], result[start:])
        return result

    def _forward_part(self, slot: int, part: list[int], out: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        """Feed up to a chunk of tokens to a slot; writes the logits at each, [T, V], to the beginning of `out`."""
        for index, token in enumerate(part):
            self._ids[index], self._slot_ids[index], self._wanted[index] = token, slot, 1
        pointer = out.ctypes.data_as(c.POINTER(c.c_float))
        self._check(
            self._library.edge_forward(self._handle, len(part), self._ids, self._slot_ids, self._wanted, pointer)
        )
        self._slots[slot].tokens += part

    def can_score(self) -> bool:
        """Whether a slot is free."""
        return any(slot.is_free for slot in self._slots)

    def score(self, ids: Sequence[int], top: int) -> Generator[list[TokenScore]]:
        """The scores of `ids[1:]` in pieces, in a slot that is free; see `Scorer.score`."""
        import numpy as np

        from smidgen.runtime.scoring import score_rows

        tokens = list(ids)
        self._check_prompt(tokens)
        if len(tokens) > self._info.max_seq_len:
            raise ContextLengthError(f"{len(tokens)} tokens exceed the context of {self._info.max_seq_len}")
        free = [index for index, slot in enumerate(self._slots) if slot.is_free]
        if not free:
            raise EdgeError("score: every slot runs a request; take some steps first")
        index = min(free, key=lambda i: len(self._slots[i].tokens))  # others may begin as later prompts do
        self._slots[index].is_scoring = True
        try:
            self._truncate(index, 0)
            out = np.empty((self._chunk, self._info.vocab_size), np.float32)
            for start in range(0, len(tokens) - 1, self._chunk):
                part = tokens[start : min(start + self._chunk, len(tokens) - 1)]
                self._forward_part(index, part, out)
                yield score_rows(out[: len(part)], tokens[start + 1 : start + 1 + len(part)], top)
        finally:
            self._slots[index].is_scoring = False

    def submit(self, ids: Sequence[int], params: SamplingParams) -> int:
        """Queue a prompt of at least one token; returns the request's number.

        Raises ContextLengthError when prompt and `max_new_tokens` exceed the context and `overflow` is "error",
        TokenizerError for an empty prompt or an id that the model does not have.
        """
        prompt = list(ids)
        self._check_prompt([*prompt, *(token for token, _ in params.logit_bias)] if prompt else prompt)
        limit = self._info.max_seq_len
        if params.overflow == "error" and len(prompt) + params.max_new_tokens > limit:
            raise ContextLengthError(
                f"{len(prompt)} prompt tokens + max_new_tokens = {params.max_new_tokens} exceed the context of "
                f"{limit} tokens; shorten the prompt, lower max_new_tokens, or let the oldest tokens leave "
                "(overflow = slide)"
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
        for slot in self._slots:
            if slot.request is not None and slot.request.number == request:
                slot.request = None
                self._ended.append(Event(request, None, "cancelled"))

    def step(self) -> list[Event]:
        """One pass in which all active requests take part; at most one new token a request.

        Empty when nothing is active, or when all that was read were parts of prompts: a pass takes 128 tokens of them
        at most, so that what is cancelled ends soon.
        """
        events, self._ended = self._ended, []
        if self._waiting:
            self._admit()
        count, ready = self._plan()
        if count:
            self._check(
                self._library.edge_step(self._handle, count, self._ids, self._slot_ids, self._wanted, self._choices)
            )
        return events + [self._advance(row, index) for row, index in enumerate(ready)]

    @property
    def _handle(self) -> int:
        if not self._native.handle:
            raise EdgeError("this engine is closed; load the model again")
        return self._native.handle

    def _check(self, status: int) -> None:
        if status:
            raise EdgeError(f"{self._folder}: {last_error()}")

    def _check_prompt(self, prompt: Sequence[int]) -> None:
        if not prompt:
            raise TokenizerError("the prompt has no tokens; begin with the tokenizer's bos or eos token")
        for token in (min(prompt), max(prompt)):
            if not 0 <= token < self._info.vocab_size:
                raise TokenizerError(
                    f"token id {token} is outside the model's vocabulary of {self._info.vocab_size}; "
                    "use the tokenizer that the model was trained with"
                )

    def _truncate(self, index: int, length: int) -> int:
        kept = int(self._library.edge_truncate(self._handle, index, length))
        slot = self._slots[index]
        slot.tokens = slot.tokens[:kept]
        return kept

    def _admit(self) -> None:
        """Give free slots to waiting requests, each the one that holds most of its beginning."""
        free = [index for index, slot in enumerate(self._slots) if slot.is_free]
        while free and self._waiting:
            request = self._waiting.popleft()
            history = request.prompt
            if len(history) > self._info.max_seq_len:
                request.prompt = self._newest(history)
            shared = {index: _common_length(self._slots[index].tokens, request.prompt) for index in free}
            index = max(free, key=lambda i: (shared[i], -len(self._slots[i].tokens)))
            free.remove(index)
            # The last token is fed in any case: its logits are wanted.
            request.fed = self._truncate(index, min(shared[index], len(request.prompt) - 1))
            self._slots[index].request = request
            self._assign(index, request.params, history)

    def _assign(self, index: int, params: SamplingParams, history: Sequence[int]) -> None:
        native = native_sampling(params, self._info.vocab_size)
        tokens = (c.c_int32 * len(history))(*history)
        self._check(self._library.edge_assign(self._handle, index, native, len(history), tokens))

    def _newest(self, context: list[int]) -> list[int]:
        """What stays of a context that is full."""
        return context[-max(1, self._info.max_seq_len // 2) :]

    def _plan(self) -> tuple[int, list[int]]:
        """Fill the arrays of the next pass; returns its tokens and the slots that get a new token, in order.

        Every request that writes gets its token; prompts share what is left of a chunk, so that long ones do not hold
        up the others.
        """
        count, ready = 0, []
        space = self._chunk
        for index, slot in enumerate(self._slots):
            request = slot.request
            if request is None:
                continue
            is_writing = request.fed == len(request.prompt)
            if is_writing and len(slot.tokens) == self._info.max_seq_len:
                self._slide(index, request)
                is_writing = False
            if is_writing:
                part = [request.next_token]
            else:
                part = request.prompt[request.fed : request.fed + space]
                if not part:
                    continue
                space -= len(part)
                request.fed += len(part)
            for token in part:
                self._ids[count], self._slot_ids[count], self._wanted[count] = token, index, 0
                count += 1
            slot.tokens += part
            if request.fed == len(request.prompt):
                self._wanted[count - 1] = 1
                ready.append(index)
        return count, ready

    def _slide(self, index: int, request: _Request) -> None:
        """The context is full: its newest half is read again from the start, as if it were the prompt."""
        request.prompt = self._newest([*self._slots[index].tokens, request.next_token])
        request.fed = self._truncate(index, 0)

    def _advance(self, row: int, index: int) -> Event:
        """Record the new token of a slot; frees the slot when its request ends."""
        slot, choice = self._slots[index], self._choices[row]
        request = slot.request
        assert request is not None
        if choice.token == _NOT_FINITE:
            slot.request = None
            slot.tokens = slot.tokens[: self._truncate(index, 0)]
            raise SmidgenError(_NOT_FINITE_MESSAGE)
        token = None if choice.token == _FORBIDDEN else choice.token
        request.num_generated += 1
        finish: FinishReason | None = None
        if token is None or token in request.end_ids:
            finish = "stop"
        elif request.num_generated == request.params.max_new_tokens:
            finish = "length"
        logprob: float | None = None
        top: tuple[tuple[int, float], ...] = ()
        if request.params.logprobs is not None and token is not None:
            logprob, top = choice.logprob, self._top_logprobs(row, request.params.logprobs)
        if finish is None:
            assert token is not None
            request.next_token = token
        else:
            slot.request = None
        return Event(request.number, token, finish, logprob, top)

    def _top_logprobs(self, row: int, k: int) -> tuple[tuple[int, float], ...]:
        k = min(k, self._info.vocab_size)
        ids, values = (c.c_int32 * max(k, 1))(), (c.c_float * max(k, 1))()
        self._check(self._library.edge_top_logprobs(self._handle, row, k, ids, values))
        return tuple(zip(ids[:k], values[:k], strict=True))


def native_sampling(params: SamplingParams, vocab_size: int) -> Sampling:
    """The parameters as the native sampler takes them; a seed is drawn where there is none."""
    bias = params.logit_bias
    return Sampling(
        temperature=params.temperature,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        top_k=min(params.top_k, vocab_size),
        no_repeat_ngram_size=min(params.no_repeat_ngram_size, 1 << 30),
        num_bias=len(bias),
        logprobs=-1 if params.logprobs is None else min(params.logprobs, vocab_size),
        seed=int.from_bytes(os.urandom(8)) if params.seed is None else params.seed & (1 << 64) - 1,
        bias_ids=(c.c_int32 * len(bias))(*(min(token, (1 << 31) - 1) for token, _ in bias)),
        bias_values=(c.c_float * len(bias))(*(value for _, value in bias)),
    )


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
