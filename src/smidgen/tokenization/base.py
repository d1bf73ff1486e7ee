"""What all tokenizers share: special tokens, checks of texts and ids, batches, and text from the tokens' bytes."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from smidgen.runtime.errors import TokenizerError
from smidgen.tokenization.files import write_files
from smidgen.tokenization.parallel import map_texts
from smidgen.tokenization.settings import TokenizerSettings


class BaseTokenizer(ABC):
    """Implements `smidgen.runtime.Tokenizer` over an engine that a subclass provides."""

    kind: str

    def __init__(self, settings: TokenizerSettings, special_tokens: Mapping[str, int]) -> None:
        """special_tokens: text and id of each. `token_to_id` must know the tokens that the settings name."""
        self._settings = settings
        self._special_tokens = dict(special_tokens)

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, special tokens included: every id is in [0, vocab_size)."""

    @abstractmethod
    def token_to_id(self, token: str) -> int | None:
        """The id of a token written as the vocabulary writes it; None when there is none."""

    @abstractmethod
    def id_to_token(self, token: int) -> str | None:
        """How the vocabulary writes a token; None for an id that is not used."""

    @abstractmethod
    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are no valid UTF-8 become U+FFFD.

        skip_special: leave special tokens out. Raises TokenizerError for an id that is not in the vocabulary.
        """

    @abstractmethod
    def _encode(self, text: str, special: bool) -> list[int]:
        """Ids of a text without lone surrogates."""

    @abstractmethod
    def _identity(self) -> Any:
        """Everything that decides ids, as JSON values."""

    @abstractmethod
    def _files(self) -> dict[str, str | bytes]:
        """Names and contents of all files of the tokenizer's folder."""

    @property
    def special_tokens(self) -> dict[str, int]:
        """Text of every special token, with its id."""
        return dict(self._special_tokens)

    @cached_property
    def bos_id(self) -> int | None:
        """Token that begins a document, if the tokenizer has one."""
        return self._named_id("bos_token")

    @cached_property
    def eos_id(self) -> int | None:
        """Token that ends a document (end of text)."""
        return self._named_id("eos_token")

    @cached_property
    def pad_id(self) -> int | None:
        """Padding token. Padding is masked by position, never by this id."""
        token = self._settings.pad_token
        return None if token is None else self.token_to_id(token)

    @property
    def chat_template(self) -> str | None:
        """Jinja2 source that renders messages to text, if the tokenizer carries one."""
        return self._settings.chat_template

    @property
    def adds_bos(self) -> bool:
        """Whether the tokenizer's files ask for the bos token in front of every prompt (Llama-2, Gemma)."""
        return bool(self._settings.adds_bos) and self.bos_id is not None

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest over everything that decides ids: two tokenizers with equal fingerprints encode alike."""
        identity = [self._identity(), self._special_tokens, self.bos_id, self.eos_id]
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    def encode(self, text: str, bos: bool = False, special: bool = False) -> list[int]:
        """Token ids of `text`.

        bos: put the bos token in front. special: text that spells a special token becomes that token; without it, such
        text is ordinary text. Raises TokenizerError for lone surrogates, which no UTF-8 file can hold.
        """
        check_text(text)
        ids = self._encode(text, special)
        return [self._required_bos(), *ids] if bos else ids

    def encode_batch(self, texts: Sequence[str], bos: bool = False, special: bool = False) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        return map_texts(lambda text: self.encode(text, bos, special), texts)

    def with_chat_template(self, template: str | None) -> Self:
        """The same tokenizer with another chat template."""
        other = copy.copy(self)
        other._settings = dataclasses.replace(self._settings, chat_template=template)
        return other

    def with_special_tokens(self, tokens: Sequence[str]) -> BaseTokenizer:
        """The same tokenizer with special tokens of the next free ids; those that it has already stay as they are.

        All other text keeps its ids. Raises TokenizerError for a token that is ordinary in this vocabulary.
        """
        missing = [token for token in tokens if token not in self._special_tokens]
        if not missing:
            return self
        for token in missing:
            if self.token_to_id(token) is not None:
                raise TokenizerError(f"token {token!r}: is ordinary text in this vocabulary; choose another template")
        return self._extended({token: self.vocab_size + number for number, token in enumerate(missing)})

    @abstractmethod
    def _extended(self, tokens: Mapping[str, int]) -> BaseTokenizer:
        """A tokenizer with these special tokens too, whose ids follow the last."""

    def save(self, folder: str | Path) -> None:
        """Write the files that `load_tokenizer` and transformers' AutoTokenizer read.

        Files of another tokenizer in the folder are replaced or removed.
        """
        write_files(Path(folder), self._files())

    def _required_bos(self) -> int:
        if self.bos_id is None:
            raise TokenizerError("bos = True: this tokenizer has no token that begins a text; encode without it")
        return self.bos_id

    def _named_id(self, name: str) -> int | None:
        token = getattr(self._settings, name)
        if token is None:
            return None
        found = self.token_to_id(token)
        if found is None:
            raise TokenizerError(f"{name} = {token!r}: not in the vocabulary; correct it in tokenizer_config.json")
        return found


class ByteTokensMixin(BaseTokenizer):
    """Decoding for tokenizers in which every token stands for certain bytes, whatever its neighbours are."""

    invalid_bytes = "replace"
    """Decoding error handler for bytes that are no valid UTF-8."""

    @abstractmethod
    def _token_table(self) -> dict[int, bytes]:
        """The bytes of every id."""

    def _first_bytes(self, token: int) -> bytes:
        """The bytes of a token at the beginning of a text."""
        return self._table[token]

    @cached_property
    def _table(self) -> dict[int, bytes]:
        return self._token_table()

    def token_bytes(self, token: int, first: bool = False) -> bytes:
        """The bytes that `token` adds to a text; `first`: at the beginning of it (some drop a leading space there)."""
        try:
            return self._first_bytes(token) if first else self._table[token]
        except KeyError:
            raise self._unknown_id(token) from None

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are no valid UTF-8 become U+FFFD.

        skip_special: leave special tokens out. Raises TokenizerError for an id that is not in the vocabulary.
        """
        if skip_special:
            skipped = set(self._special_tokens.values())
            ids = [token for token in ids if token not in skipped]
        if len(ids) == 0:
            return ""
        try:
            data = self._first_bytes(ids[0]) + b"".join(map(self._table.__getitem__, ids[1:]))
        except KeyError as error:
            raise self._unknown_id(error.args[0]) from None
        return data.decode("utf-8", self.invalid_bytes)

    def _unknown_id(self, token: object) -> TokenizerError:
        return TokenizerError(f"id {token}: not in the vocabulary, whose ids are 0 to {self.vocab_size - 1}")


def check_text(text: str) -> None:
    """Raise TokenizerError unless `text` is a string that UTF-8 can hold."""
    if not isinstance(text, str):
        raise TokenizerError(f"a tokenizer encodes text; it was given {type(text).__name__}")
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text has a lone surrogate, U+{ord(text[error.start]):04X}, at position {error.start}: it was decoded "
            "wrongly; read it again as UTF-8 with errors='replace'"
        ) from None
