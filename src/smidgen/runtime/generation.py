"""Text in, text out, over any engine: prompts to tokens, tokens to text as they come, stop strings."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smidgen.runtime.chat_template import ChatTemplateError, boundary_texts, render_chat
from smidgen.runtime.detokenizer import Detokenizer
from smidgen.runtime.errors import TokenizerError
from smidgen.runtime.protocols import Engine, Event, FinishReason, Tokenizer
from smidgen.runtime.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one new token adds to the answer to one prompt."""

    index: int
    """Which of the prompts."""
    text: str
    """Text to append; empty while characters are incomplete or may begin a stop string."""
    token: int | None
    """The new token, end tokens and those of a stop string included; None when the request ended without one."""
    finish_reason: FinishReason | None = None
    """Set on the last chunk of each prompt."""
    logprob: float | None = None
    """Log-probability of the token, if asked for."""
    top_logprobs: tuple[tuple[int, float], ...] = ()
    """The most probable tokens with their log-probabilities, if asked for."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished answer."""

    text: str
    """Without the prompt, end tokens and stop strings."""
    tokens: list[int]
    """Every token that was generated, the end token or those of a stop string included."""
    finish_reason: FinishReason
    num_prompt_tokens: int
    logprobs: list[float]
    """Log-probability of each token, if asked for; else empty."""
    top_logprobs: list[tuple[tuple[int, float], ...]]
    """The most probable tokens at each place with their log-probabilities, if asked for; else empty."""


class StopStrings:
    """Cuts a stream of text before the first stop string, whatever pieces the text comes in.

    The first is the one that is complete first; of two that end together, the longer. Text that may begin a stop
    string is held back until the following text decides.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that may be shown now; nothing more once a stop string was found."""
        if self.found:
            return ""
        text = self._held + text
        ends = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if ends:
            self.found = True
            self._held = ""
            return text[: min(ends)[1]]
        keep = len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[keep:]
        return text[:keep]

    def finish(self) -> str:
        """What is still held back, when no more text comes."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop` and is not all of it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class Answer:
    """The answer to one prompt on its way from tokens to text."""

    def __init__(self, index: int, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._index = index
        self._detokenizer = Detokenizer(tokenizer)
        self._stop = StopStrings(stop)
        if prompt and prompt[-1] not in tokenizer.special_tokens.values():
            # The answer goes on from the prompt: SentencePiece drops a leading space only where a text begins.
            self._detokenizer.push(prompt[-1])

    def advance(self, event: Event) -> Chunk:
        """The chunk for the engine's next event; it finishes with the request, or before it at a stop string."""
        finish = event.finish_reason
        text = ""
        if event.token is not None and finish != "stop":  # at "stop" it is an end token, which is no text
            text = self._stop.push(self._detokenizer.push(event.token))
        if finish is not None:
            text += self._stop.push(self._detokenizer.finish())
            text += self._stop.finish()
        if self._stop.found:
            finish = "stop"
        return Chunk(self._index, text, event.token, finish, event.logprob, event.top_logprobs)


def encode_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a prompt, after the beginning token where the tokenizer asks for one (Llama, Gemma).

    An empty prompt becomes the token that the model saw in front of a document: the beginning token where there is one
    in front of every prompt, else the end token of the document before. Text that spells a special token is plain text.
    """
    ids = tokenizer.encode(text, bos=tokenizer.adds_bos)
    if ids:
        return ids
    first = tokenizer.bos_id if tokenizer.eos_id is None else tokenizer.eos_id
    if first is None:
        raise TokenizerError("the prompt is empty and the tokenizer has no bos or eos token to begin with; give a text")
    return [first]


def default_length(context: int, prompts: Sequence[Sequence[int]]) -> int:
    """The `max_new_tokens` of somebody who names none: SamplingParams' own, or as many as fit behind the prompts."""
    space = context - max(map(len, prompts), default=0)
    return max(1, min(SamplingParams().max_new_tokens, space))


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Token ids of a conversation that is the assistant's turn to continue.

    The template alone decides what stands where, the beginning token too. Raises ChatTemplateError when the tokenizer
    has no template, or its template refuses the messages (each a mapping with `role` and `content`).
    """
    return tokenizer.encode(_render(tokenizer, messages, add_generation_prompt=True), special=True)


def end_of_turn_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The special token that the chat template puts behind the assistant's words, if it does: it ends an answer."""
    words = "an answer"
    messages = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": words}]
    behind = _render(tokenizer, messages, add_generation_prompt=False).rpartition(words)[2]
    ids = tokenizer.encode(behind.lstrip(), special=True)
    return tuple(token for token in ids[:1] if token in tokenizer.special_tokens.values())


def _render(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
    if tokenizer.chat_template is None:
        raise ChatTemplateError(
            "the tokenizer has no chat template, so the model was not made for chats; continue a text instead"
        )
    return render_chat(tokenizer.chat_template, messages, add_generation_prompt, *boundary_texts(tokenizer))


def stream(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    params: SamplingParams | Sequence[SamplingParams],
) -> Generator[Chunk]:
    """Answer all prompts at once; yields a chunk for every token of each, as they come.

    A prompt is text (see `encode_prompt`) or token ids; `params` serve all prompts, or are one for each. With a seed,
    equal prompts get equal answers. Closing the iterator, or an exception in its consumer, cancels what is unfinished.
    The engine must have no other user meanwhile. Raises with the first chunk what `engine.submit` raises.
    """
    if isinstance(params, SamplingParams):
        params = [params] * len(prompts)
    answers: dict[int, Answer] = {}
    try:
        for index, (prompt, own) in enumerate(zip(prompts, params, strict=True)):
            ids = encode_prompt(tokenizer, prompt) if isinstance(prompt, str) else prompt
            answers[engine.submit(ids, own)] = Answer(index, tokenizer, ids, own.stop)
        while answers:
            for event in engine.step():
                answer = answers.get(event.request)
                if answer is None:  # cancelled: by a stop string, or by the end of an earlier stream
                    continue
                chunk = answer.advance(event)
                if chunk.finish_reason is not None:
                    del answers[event.request]
                    if event.finish_reason is None:
                        engine.cancel(event.request)
                yield chunk
    finally:
        for request in answers:
            engine.cancel(request)


def generate_texts(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    params: SamplingParams | Sequence[SamplingParams],
) -> list[Completion]:
    """The whole answers to all prompts, in their order; arguments and errors as for `stream`."""
    ids = [encode_prompt(tokenizer, prompt) if isinstance(prompt, str) else list(prompt) for prompt in prompts]
    chunks: list[list[Chunk]] = [[] for _ in prompts]
    for chunk in stream(engine, tokenizer, ids, params):
        chunks[chunk.index].append(chunk)
    return [completion(own, len(prompt)) for own, prompt in zip(chunks, ids, strict=True)]


def completion(chunks: Sequence[Chunk], num_prompt_tokens: int) -> Completion:
    """The answer that all chunks of one prompt make."""
    finish = chunks[-1].finish_reason
    assert finish is not None
    return Completion(
        text="".join(chunk.text for chunk in chunks),
        tokens=[chunk.token for chunk in chunks if chunk.token is not None],
        finish_reason=finish,
        num_prompt_tokens=num_prompt_tokens,
        logprobs=[chunk.logprob for chunk in chunks if chunk.logprob is not None],
        top_logprobs=[chunk.top_logprobs for chunk in chunks if chunk.top_logprobs],
    )
