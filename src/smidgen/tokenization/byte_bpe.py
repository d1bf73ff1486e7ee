"""Byte-level byte-pair encoding: trained with `tokenizers`, encoded by tiktoken's engine, several times faster.

The ids are those of `tokenizers`: `merge_order` says when the two agree, and a tokenizer.json for which that is not
proven (another pre-tokenizer, a normaliser, an edited merge list) stays with `tokenizers`, as kind `pretrained`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smidgen.runtime.chat_template import DEFAULT_CHAT_TEMPLATE
from smidgen.runtime.errors import TokenizerError
from smidgen.tokenization.base import ByteTokensMixin, check_text
from smidgen.tokenization.byte_alphabet import to_bytes
from smidgen.tokenization.byte_bpe_files import Document, document_of, first_added_token, parse, with_added_tokens
from smidgen.tokenization.files import TOKENIZER_JSON
from smidgen.tokenization.settings import END_OF_TEXT, PADDING, TURN_END, TURN_START, TokenizerSettings
from smidgen.tokenization.special import TokenFinder
from smidgen.tokenization.texts import training_chunks

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = {token: number for number, token in enumerate((END_OF_TEXT, TURN_START, TURN_END, PADDING))}
"""Special tokens of trained tokenizers. They come first, so that their ids do not depend on the vocabulary's size;
chat tuning finds its markers there and needs no change of vocabulary."""

MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)

_LONG_WHITESPACE = 1 << 17
"""tiktoken's regular expressions fail on runs of whitespace somewhere above 600,000 characters."""

_TRAINING_CHUNK = 1 << 16
"""Characters. The trainer takes 256 texts at a time, so this bounds its memory."""


class ByteBPETokenizer(ByteTokensMixin):
    """Every text has ids and comes back unchanged: the vocabulary holds all 256 bytes."""

    kind = "byte_bpe"

    def __init__(self, document: Document, settings: TokenizerSettings) -> None:
        """`document`: a tokenizer.json. Raises UnprovenEngine where tiktoken may give other ids."""
        self._document = document
        self._parts = parts = parse(document)
        super().__init__(settings, parts.special_tokens)
        self._finder = TokenFinder(parts.special_tokens)

    def __getstate__(self) -> dict[str, Any]:
        """Without the engines, which another process makes for itself; the rest is much faster sent than loaded."""
        return {name: value for name, value in self.__dict__.items() if name not in {"_engine", "_slow_engine"}}

    @property
    def adds_bos(self) -> bool:
        """Whether the tokenizer's files ask for the bos token in front of every prompt."""
        if self._settings.adds_bos is None and self._settings.bos_token is not None:
            return first_added_token(self._document) == self._settings.bos_token
        return super().adds_bos

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included: every id is in [0, vocab_size)."""
        return max([*self._parts.vocabulary.values(), *self._parts.special_tokens.values()]) + 1

    def token_to_id(self, token: str) -> int | None:
        """The id of a token written in byte characters, or of a special token."""
        return self._special_tokens.get(token, self._parts.vocabulary.get(token))

    def id_to_token(self, token: int) -> str | None:
        """How the vocabulary writes a token: in byte characters."""
        return self._tokens.get(token)

    @cached_property
    def _tokens(self) -> dict[int, str]:
        return {number: token for token, number in {**self._parts.vocabulary, **self._special_tokens}.items()}

    def _token_table(self) -> dict[int, bytes]:
        table = {number: to_bytes(token) for token, number in self._parts.vocabulary.items()}
        table.update({number: token.encode("utf-8") for token, number in self._special_tokens.items()})
        return table

    @cached_property
    def _engine(self) -> tiktoken.Encoding:
        import tiktoken

        special = set(self._special_tokens.values())
        ranks = {token: number for number, token in self._table.items() if number not in special}
        return tiktoken.Encoding(
            self.kind, pat_str=self._parts.pre_tokenizer.pattern, mergeable_ranks=ranks, special_tokens={}
        )

    @cached_property
    def _slow_engine(self) -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer

        engine = Tokenizer.from_str(json.dumps(self._document))
        engine.encode_special_tokens = True
        engine.no_truncation()
        engine.no_padding()
        return engine

    def _encode(self, text: str, special: bool) -> list[int]:
        if not special:
            return self._encode_ordinary(text)
        ids: list[int] = []
        for part in self._finder.split(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encode_ordinary(part)
        return ids

    def _encode_ordinary(self, text: str) -> list[int]:
        if self._needs_slow_engine(text):
            ids: list[int] = self._slow_engine.encode(text, add_special_tokens=False).ids
            return ids
        return self._engine.encode_ordinary(text)

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        """`encode(text)` as an array, without the Python integers that a list would hold: for whole corpora."""
        check_text(text)
        if self._needs_slow_engine(text):
            return np.array(self._slow_engine.encode(text, add_special_tokens=False).ids, np.uint32)
        return self._engine.encode_to_numpy(text, disallowed_special=())

    def _needs_slow_engine(self, text: str) -> bool:
        doubtful = self._parts.pre_tokenizer.doubtful
        return _has_long_whitespace(text) or (doubtful is not None and doubtful.search(text) is not None)

    def _extended(self, tokens: Mapping[str, int]) -> ByteBPETokenizer:
        return ByteBPETokenizer(with_added_tokens(self._document, tokens), self._settings)

    def _identity(self) -> Any:
        merges = [f"{left} {right}" for left, right in self._parts.merges]
        return [self.kind, self._parts.pre_tokenizer.pattern, self._parts.vocabulary, merges]

    def _files(self) -> dict[str, str | bytes]:
        return {
            **self._settings.files(),
            TOKENIZER_JSON: json.dumps(self._document, ensure_ascii=False, indent=2) + "\n",
        }


def _has_long_whitespace(text: str) -> bool:
    if len(text) < _LONG_WHITESPACE:
        return False
    # A run twice as long as a block covers one.
    starts = range(0, len(text) - _LONG_WHITESPACE + 1, _LONG_WHITESPACE)
    return any(text[start : start + _LONG_WHITESPACE].isspace() for start in starts)


def train_byte_bpe(texts: Iterable[str], vocab_size: int) -> ByteBPETokenizer:
    """Train on texts, read once; the same texts give the same tokenizer.

    Memory holds the different words and their counts, not the texts. vocab_size includes the 4 special tokens and 256
    bytes; a corpus with too few pairs that occur twice gives a smaller vocabulary, which is logged.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise TokenizerError(
            f"vocab_size = {vocab_size}: byte_bpe needs at least {MIN_VOCAB_SIZE}, for 256 bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens"
        )
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_chunks(texts, _TRAINING_CHUNK), trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    vocabulary = {token: number for token, number in trained["vocab"].items() if token not in SPECIAL_TOKENS}
    document = document_of(vocabulary, [(left, right) for left, right in trained["merges"]], SPECIAL_TOKENS)
    settings = TokenizerSettings(
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        adds_bos=False,
        chat_template=DEFAULT_CHAT_TEMPLATE,
    )
    result = ByteBPETokenizer(document, settings)
    if result.vocab_size < vocab_size:
        logger.warning(
            "vocab_size = %d: the texts have pairs for %d ids only; the tokenizer has that many",
            vocab_size,
            result.vocab_size,
        )
    return result
