"""Any tokenizer.json, run by `tokenizers` itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from smidgen.runtime.detokenizer import REPLACE_EACH_BYTE
from smidgen.runtime.errors import TokenizerError
from smidgen.tokenization.base import BaseTokenizer, ByteTokensMixin, check_text
from smidgen.tokenization.byte_alphabet import is_bytes, to_bytes
from smidgen.tokenization.byte_bpe_files import Document, with_added_tokens
from smidgen.tokenization.files import IDS_END, TOKENIZER_JSON
from smidgen.tokenization.settings import TokenizerSettings

if TYPE_CHECKING:
    import tokenizers

_SPACE = "▁"
"""What SentencePiece, and vocabularies that come from it, write for a space."""

_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


class PretrainedTokenizer(BaseTokenizer):
    """A tokenizer.json of any make. Texts come back as `tokenizers` decodes them."""

    kind = "pretrained"

    def __init__(self, document: Document, settings: TokenizerSettings) -> None:
        from tokenizers import Tokenizer

        try:
            # tokenizers raises plain Exception for what it cannot read.
            self._engine: tokenizers.Tokenizer = Tokenizer.from_str(json.dumps(document))
        except BaseException as error:
            # It panics over merges that do not fit their prefix, which Python sees as no Exception.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            reason = " ".join(str(error).split())
            raise TokenizerError(f"{TOKENIZER_JSON}: `tokenizers` cannot read it: {reason}") from None
        if self.vocab_size > IDS_END:
            raise TokenizerError(f"{TOKENIZER_JSON}: has the id {self.vocab_size - 1}; ids must be below {IDS_END}")
        self._json = self._engine.to_str()
        self._engine.no_truncation()
        self._engine.no_padding()
        added = self._engine.get_added_tokens_decoder().items()
        super().__init__(settings, {token.content: number for number, token in added if token.special})

    @cached_property
    def _ordinary_engine(self) -> tokenizers.Tokenizer:
        """The same, but special tokens in a text are ordinary text; a switch on one engine would not be thread-safe."""
        from tokenizers import Tokenizer

        engine = Tokenizer.from_str(self._engine.to_str())
        engine.encode_special_tokens = True
        return engine

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included: every id is in [0, vocab_size)."""
        return max(self._engine.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def token_to_id(self, token: str) -> int | None:
        """The id of a token written as the vocabulary writes it."""
        found: int | None = self._engine.token_to_id(token)
        return found

    def id_to_token(self, token: int) -> str | None:
        """How the vocabulary writes a token; None for an id that is not used."""
        found: str | None = self._engine.id_to_token(token) if token >= 0 else None
        return found

    @cached_property
    def _prefix(self) -> list[int]:
        """What the file itself puts in front of every text."""
        ids: list[int] = self._engine.encode("", add_special_tokens=True).ids
        return ids

    @property
    def adds_bos(self) -> bool:
        """Whether the tokenizer's files ask for the bos token in front of every prompt (Llama-2, Gemma)."""
        if self._settings.adds_bos is None:
            return self.bos_id is not None and self._prefix[:1] == [self.bos_id]
        return super().adds_bos

    def _encode(self, text: str, special: bool) -> list[int]:
        engine = self._engine if special else self._ordinary_engine
        ids: list[int] = engine.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str], bos: bool = False, special: bool = False) -> list[list[int]]:
        """`encode` of each text, on all cores: by the library's own threads, as its `encode` keeps Python locked."""
        for text in texts:
            check_text(text)
        prefix = [self._required_bos()] if bos else []
        engine = self._engine if special else self._ordinary_engine
        encodings = engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [prefix + encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Text of `ids`, as `tokenizers` decodes them.

        skip_special: leave special tokens out. Raises TokenizerError for an id that is not in the vocabulary.
        """
        size = self.vocab_size
        for token in ids:
            if not 0 <= token < size:
                raise TokenizerError(f"id {token}: not in the vocabulary, whose ids are 0 to {size - 1}")
        text: str = self._engine.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def _extended(self, tokens: Mapping[str, int]) -> PretrainedTokenizer:
        return pretrained(with_added_tokens(json.loads(self._json), tokens), self._settings)

    def _identity(self) -> Any:
        document = json.loads(self._json)
        return [document[part] for part in ("added_tokens", "normalizer", "pre_tokenizer", "model")]

    def _files(self) -> dict[str, str | bytes]:
        return {**self._settings.files(), TOKENIZER_JSON: self._json}


class PretrainedByteTokenizer(ByteTokensMixin, PretrainedTokenizer):
    """One whose decoder gives every token certain bytes: byte-level BPE, or a converted SentencePiece model.

    Where `tokenizers` gives up a whole run of byte tokens that is no valid UTF-8, only the invalid bytes become U+FFFD
    here, as with SentencePiece.
    """

    def __init__(self, document: Document, settings: TokenizerSettings) -> None:
        super().__init__(document, settings)
        self._byte_level = document["decoder"]["type"] == "ByteLevel"
        self._strips_space = _strips_leading_space(document["decoder"])
        self.invalid_bytes = "replace" if self._byte_level else REPLACE_EACH_BYTE

    def _token_table(self) -> dict[int, bytes]:
        entries = self._engine.get_vocab(with_added_tokens=True)
        return {number: self._bytes_of(token) for token, number in entries.items()}

    def _bytes_of(self, token: str) -> bytes:
        if self._byte_level:
            return to_bytes(token) if is_bytes(token) else token.encode("utf-8")
        if _BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(token[3:5])
        return token.replace(_SPACE, " ").encode("utf-8")

    def _first_bytes(self, token: int) -> bytes:
        data = self._table[token]
        return data[1:] if self._strips_space and data.startswith(b" ") else data


def _strips_leading_space(decoder: Any) -> bool:
    return any(step["type"] == "Strip" for step in decoder.get("decoders", ()))


def _is_byte_decoder(decoder: Any) -> bool:
    """Whether `PretrainedByteTokenizer` does what the decoder of a tokenizer.json says."""
    match decoder:
        case {"type": "ByteLevel"}:
            return True
        case {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *rest,
            ],
        }:
            return rest == [] or rest == [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    return False


def pretrained(document: Document, settings: TokenizerSettings) -> PretrainedTokenizer:
    """The tokenizer in any tokenizer.json. Raises TokenizerError when `tokenizers` cannot read it."""
    kind = PretrainedByteTokenizer if _is_byte_decoder(document.get("decoder")) else PretrainedTokenizer
    return kind(document, settings)
