"""Text out of a stream of token ids: every piece is given out as soon as, and not before, it is final."""

from __future__ import annotations

import codecs
from typing import Protocol, runtime_checkable

from smidgen.runtime.errors import TokenizerError
from smidgen.runtime.protocols import Tokenizer

REPLACE_EACH_BYTE = "smidgen.replace_each_byte"
"""Decoding error handler: one U+FFFD for every byte that is no part of valid UTF-8, as SentencePiece has it. (Python's
own `replace` gives one for a whole truncated sequence.)"""


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\N{REPLACEMENT CHARACTER}" * (error.end - error.start), error.end


codecs.register_error(REPLACE_EACH_BYTE, _replace_each_byte)


@runtime_checkable
class ByteTokenizer(Protocol):
    """A tokenizer whose text is the bytes of its tokens, one after another."""

    invalid_bytes: str
    """Decoding error handler for bytes that are no valid UTF-8."""

    def token_bytes(self, token: int, first: bool = False) -> bytes:
        """The bytes that `token` adds to a text; `first`: at the beginning of it (some drop a leading space there)."""


def bytes_of(tokenizer: Tokenizer, token: int) -> bytes:
    """The bytes that one token adds to a text; none for an id that only the model has, whose vocabulary is padded."""
    try:
        if isinstance(tokenizer, ByteTokenizer):
            return tokenizer.token_bytes(token)
        return tokenizer.decode([token]).encode("utf-8")
    except TokenizerError:
        return b""


class Detokenizer:
    """Turns ids into text as they come.

    The strings that `push` and `finish` return, one after another, are `tokenizer.decode(ids, skip_special)`. No string
    ends within a character, and none is taken back. The work a token does not grow with the length of the answer. Ids
    that the tokenizer lacks, of a model whose vocabulary is larger, spell nothing.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = False) -> None:
        self._skipped = frozenset(tokenizer.special_tokens.values()) if skip_special else frozenset()
        self._stream = _ByteStream(tokenizer) if isinstance(tokenizer, ByteTokenizer) else _Window(tokenizer)

    def push(self, token: int) -> str:
        """Take one id; returns the text that became final by it, possibly empty."""
        return "" if token in self._skipped else self._stream.push(token)

    def finish(self) -> str:
        """End the text; returns the rest of it. An unfinished character becomes U+FFFD."""
        return self._stream.finish()


class _ByteStream:
    """Exact: an incremental UTF-8 decoder over the tokens' bytes."""

    def __init__(self, tokenizer: ByteTokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(tokenizer.invalid_bytes)
        self._first = True

    def push(self, token: int) -> str:
        try:
            data = self._token_bytes(token, self._first)
        except TokenizerError:
            return ""
        self._first = False
        return self._decoder.decode(data)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _Window:
    """For tokenizers of which only `decode` is known: the difference that new tokens make to those just before them."""

    CONTEXT = 4

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        self._pending.append(token)
        try:
            text = self._new_text()
        except TokenizerError:
            self._pending.pop()
            return ""
        # A character has at most four bytes, so an unfinished one lies within three tokens; a U+FFFD that stays after
        # that is part of the text.
        if text.endswith("\N{REPLACEMENT CHARACTER}") and len(self._pending) <= 3:
            return ""
        self._settle()
        return text

    def finish(self) -> str:
        text = self._new_text()
        self._settle()
        return text

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._pending)[len(before) :]

    def _settle(self) -> None:
        self._context = (self._context + self._pending)[-self.CONTEXT :]
        self._pending = []
