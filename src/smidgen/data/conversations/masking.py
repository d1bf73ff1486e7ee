"""A conversation's tokens, and which of them the assistant said: those that training is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.runtime.chat_template import (
    ChatTemplateError,
    boundary_texts,
    has_generation_blocks,
    render_chat,
    render_marked_chat,
)
from smidgen.runtime.protocols import Tokenizer

Message = Mapping[str, Any]
Span = tuple[int, int]

_REMEDY = "mark the assistant's words in it with {% generation %} … {% endgeneration %}"


@dataclass(frozen=True, slots=True)
class MaskedTokens:
    """The tokens of one conversation."""

    ids: NDArray[np.uint32]
    """[T], those of the text that the chat template writes."""
    mask: NDArray[np.bool_]
    """[T], true for the assistant's words and the token that ends them."""


class ChatEncoder:
    """Encodes conversations with a tokenizer that has a chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.chat_template is not None
        self._tokenizer = tokenizer
        self._template = tokenizer.chat_template
        self._texts = boundary_texts(tokenizer)
        self._special = tuple(tokenizer.special_tokens)
        self._marked = has_generation_blocks(self._template)

    def encode(self, messages: Sequence[Message], only_last: bool = False) -> MaskedTokens:
        """The conversation's tokens; the text is the template's, so they are those of `apply_chat_template`.

        only_last: of the assistant's turns only the last is marked.
        Raises ChatTemplateError where the template refuses the messages, a message spells a special token, or it cannot
        be told what of the text is the assistant's.
        """
        self._check_contents(messages)
        text, spans = self._marked_text(messages) if self._marked else self._compared_text(messages)
        if not spans:
            raise ChatTemplateError("no turn of the assistant: nothing to learn")
        ids = np.array(self._tokenizer.encode(text, special=True), np.uint32)
        return MaskedTokens(ids, self._mask(text, ids, spans[-1:] if only_last else spans))

    def _check_contents(self, messages: Sequence[Message]) -> None:
        for number, message in enumerate(messages):
            for value in message.values():
                found = next((token for token in self._special if isinstance(value, str) and token in value), None)
                if found is not None:
                    raise ChatTemplateError(f"messages[{number}] spells the special token {found}")

    def _marked_text(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        text, spans = render_marked_chat(self._template, messages, *self._texts)
        return text, [span for span in spans if span[0] < span[1]]

    def _compared_text(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """Where the assistant's turns stand, found by rendering the conversation up to each and beyond it."""
        text = self._render(messages)
        spans = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            through = self._render(messages[: number + 1]) if number + 1 < len(messages) else text
            before = self._prompt(messages[:number], through)
            stop = len(before) + self._end_of_turn(through[len(before) :], message)
            if text[:stop] != through[:stop]:
                raise ChatTemplateError(
                    f"the chat template writes an earlier turn otherwise once another follows; {_REMEDY}"
                )
            spans.append((len(before), stop))
        return text, spans

    def _prompt(self, messages: Sequence[Message], through: str) -> str:
        """What the model sees before it begins its turn."""
        if messages:
            for opened in (True, False):
                before = self._render(messages, opened)
                if through.startswith(before):
                    return before
        raise ChatTemplateError(
            f"the chat template writes an assistant's turn that does not go on from its prompt; {_REMEDY}"
            if messages
            else "messages[0] is the assistant's: begin with the user's or the system's"
        )

    def _end_of_turn(self, turn: str, message: Message) -> int:
        """Characters of a turn up to the end of the special token behind the assistant's words."""
        content = str(message.get("content") or "").strip()
        at = turn.find(content) + len(content) if content in turn else 0
        ends = [(found, -len(token)) for token in self._special if (found := turn.find(token, at)) >= 0]
        if not ends:
            raise ChatTemplateError("the chat template ends the assistant's turn with no special token")
        start, negative_length = min(ends)
        return start - negative_length

    def _mask(self, text: str, ids: NDArray[np.uint32], spans: Sequence[Span]) -> NDArray[np.bool_]:
        """True for the tokens of the spans; a token that begins before one is the prompt's."""
        starts = self._starts(text, ids)
        mask = np.zeros(len(ids), np.bool_)
        for span in spans:
            if starts is None:
                first, last = (self._common(text[:border], ids) for border in span)
            else:
                first, last = np.searchsorted(starts, [len(text[:border].encode()) for border in span]).tolist()
            mask[first:last] = True
        return mask

    def _starts(self, text: str, ids: NDArray[np.uint32]) -> NDArray[np.int64] | None:
        """The byte of the text at which each token begins, int64 [T]; None where tokens do not spell the text."""
        token_bytes = getattr(self._tokenizer, "token_bytes", None)
        if token_bytes is None:
            return None
        parts = [token_bytes(token, first=number == 0) for number, token in enumerate(ids.tolist())]
        if b"".join(parts) != text.encode():
            return None
        return np.cumsum([0, *(len(part) for part in parts[:-1])], dtype=np.int64)

    def _common(self, beginning: str, ids: NDArray[np.uint32]) -> int:
        """How many of the text's tokens are those of its beginning too."""
        own = np.array(self._tokenizer.encode(beginning, special=True), np.uint32)[: len(ids)]
        differ = np.flatnonzero(own != ids[: len(own)])
        return int(differ[0]) if len(differ) else len(own)

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        return render_chat(self._template, messages, add_generation_prompt, *self._texts)
