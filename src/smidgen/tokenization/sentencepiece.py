"""SentencePiece: models trained here or elsewhere, run by its own library."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from smidgen.runtime.chat_template import DEFAULT_CHAT_TEMPLATE
from smidgen.runtime.detokenizer import REPLACE_EACH_BYTE
from smidgen.runtime.errors import TokenizerError
from smidgen.tokenization.base import ByteTokensMixin
from smidgen.tokenization.files import SENTENCEPIECE_MODEL, TOKENIZER_JSON
from smidgen.tokenization.sentencepiece_conversion import SPACE, to_document
from smidgen.tokenization.sentencepiece_model import (
    WITHOUT_DUMMY_PREFIX,
    read_pieces,
    read_specification,
)
from smidgen.tokenization.settings import TURN_END, TURN_START, TokenizerSettings
from smidgen.tokenization.special import TokenFinder
from smidgen.tokenization.texts import thinned, training_lines

if TYPE_CHECKING:
    import sentencepiece

logger = logging.getLogger(__name__)

MAX_TRAINING_CHARACTERS = 1 << 26
"""The trainer holds its text in memory; from longer corpora evenly spread lines are taken."""

_MAX_LINE = 1 << 18
"""Characters; longer lines are cut. The trainer would skip them."""


class SentencePieceTokenizer(ByteTokensMixin):
    """A `tokenizer.model`. Ordinary text has the ids and comes back as SentencePiece's own library has it.

    Special tokens are the model's control pieces and tokens added beyond its vocabulary. After one of them, text gets
    no dummy prefix (as in transformers' non-legacy behaviour), so that a chat comes back unchanged.
    """

    kind = "sentencepiece"
    invalid_bytes = REPLACE_EACH_BYTE

    def __init__(
        self,
        model: bytes,
        settings: TokenizerSettings,
        added_tokens: Mapping[str, tuple[int, bool]] | None = None,
    ) -> None:
        """model: the file's content. added_tokens: tokens beyond it, with their id and whether they are special.

        Raises TokenizerError when `model` is none.
        """
        self._model = model
        self._processor = pieces = _processor(model)
        size = pieces.get_piece_size()
        try:
            # The library accepts pieces that are no text, and does not read what `_specification` needs.
            pieces.id_to_piece(list(range(size)))
            self._specification = read_specification(model)
        except ValueError as error:
            raise TokenizerError(f"no SentencePiece model: {error}") from None
        self._added_tokens = {t: entry for t, entry in (added_tokens or {}).items() if entry[0] >= size}
        special = {pieces.id_to_piece(number): number for number in range(size) if pieces.is_control(number)}
        special |= {token: number for token, (number, is_special) in self._added_tokens.items() if is_special}
        super().__init__(_with_model_tokens(settings, pieces), special)
        self._always = TokenFinder(
            {token: number for token, (number, is_special) in self._added_tokens.items() if not is_special}
        )
        self._with_special = TokenFinder({**special, **{t: number for t, (number, _) in self._added_tokens.items()}})

    @cached_property
    def _continuing(self) -> sentencepiece.SentencePieceProcessor:
        """For text that follows a token: the same model without the dummy prefix."""
        if not self._specification.adds_dummy_prefix:
            return self._processor
        return _processor(self._model + WITHOUT_DUMMY_PREFIX)

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included: every id is in [0, vocab_size)."""
        return max([self._processor.get_piece_size() - 1, *(number for number, _ in self._added_tokens.values())]) + 1

    def token_to_id(self, token: str) -> int | None:
        """The id of a piece (`▁` for a space) or special token."""
        if token in self._added_tokens:
            return self._added_tokens[token][0]
        found: int = self._processor.piece_to_id(token)
        return found if self._processor.id_to_piece(found) == token else None

    def id_to_token(self, token: int) -> str | None:
        """The piece or special token with this id."""
        if 0 <= token < self._processor.get_piece_size():
            piece: str = self._processor.id_to_piece(token)
            return piece
        return next((text for text, (number, _) in self._added_tokens.items() if number == token), None)

    def _extended(self, tokens: Mapping[str, int]) -> SentencePieceTokenizer:
        added = {**self._added_tokens, **{token: (number, True) for token, number in tokens.items()}}
        return SentencePieceTokenizer(self._model, self._settings, added)

    def _token_table(self) -> dict[int, bytes]:
        pieces = self._processor
        table = {}
        for number in range(pieces.get_piece_size()):
            piece = pieces.id_to_piece(number)
            if pieces.is_byte(number):
                table[number] = bytes.fromhex(piece[3:5])
            elif pieces.is_unknown(number):
                table[number] = self._specification.unknown_surface.encode("utf-8")
            elif pieces.is_control(number):
                table[number] = piece.encode("utf-8")
            else:
                table[number] = piece.replace(SPACE, " ").encode("utf-8")
        table.update({number: token.encode("utf-8") for token, (number, _) in self._added_tokens.items()})
        return table

    def _first_bytes(self, token: int) -> bytes:
        data = self._table[token]
        # The dummy prefix: a space that is part of a piece, not one spelled as a byte.
        if self._specification.adds_dummy_prefix and (self.id_to_token(token) or "").startswith(SPACE):
            return data[1:]
        return data

    def _encode(self, text: str, special: bool) -> list[int]:
        ids: list[int] = []
        processor = self._processor
        for part in (self._with_special if special else self._always).split(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += processor.encode(part)
            processor = self._continuing
        return ids

    @property
    def _unknown(self) -> str:
        piece: str = self._processor.id_to_piece(self._processor.unk_id())
        return piece

    def _identity(self) -> Any:
        return [self.kind, hashlib.sha256(self._model).hexdigest(), self._added_tokens]

    def _files(self) -> dict[str, str | bytes]:
        files = {**self._settings.files(), SENTENCEPIECE_MODEL: self._model}
        bos_token = self._settings.bos_token if self.adds_bos else None
        document = to_document(read_pieces(self._model), self._specification, self._added_tokens, bos_token)
        if document is None:
            logger.warning(
                "this SentencePiece model normalises text or is no BPE: saved without a %s, so transformers converts "
                "it itself, and may give other ids",
                TOKENIZER_JSON,
            )
        else:
            # A class of its own for SentencePiece would rebuild the tokenizer in its own way.
            config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": self._unknown}
            files.update(dataclasses.replace(self._settings, config=config).files())
            files[TOKENIZER_JSON] = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
        return files


def _processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    from sentencepiece import SentencePieceProcessor

    if not model:
        raise TokenizerError("no SentencePiece model: it is empty")
    try:
        return SentencePieceProcessor(model_proto=model)
    except (RuntimeError, OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"no SentencePiece model: {' '.join(str(error).split())}") from None


def _with_model_tokens(settings: TokenizerSettings, pieces: sentencepiece.SentencePieceProcessor) -> TokenizerSettings:
    """The settings, with the model's own tokens where they name none."""

    def own(named: str | None, number: int) -> str | None:
        return named if named is not None or number < 0 else pieces.id_to_piece(number)

    return dataclasses.replace(
        settings,
        bos_token=own(settings.bos_token, pieces.bos_id()),
        eos_token=own(settings.eos_token, pieces.eos_id()),
        pad_token=own(settings.pad_token, pieces.pad_id()),
        # What a model without a configuration is taken for elsewhere too.
        adds_bos=pieces.bos_id() >= 0 if settings.adds_bos is None else settings.adds_bos,
    )


def train_sentencepiece(texts: Iterable[str], vocab_size: int) -> SentencePieceTokenizer:
    """Train SentencePiece BPE on the lines of the texts; the same texts give the same model.

    Ids: unk 0, bos 1, eos 2, pad 3, the two turn markers of chats 4 and 5, then the 256 bytes, pieces and characters.
    Characters too rare for the vocabulary are spelled in bytes, and so is the line feed, as in Llama-2's model. The
    text is taken as it is (identity normalisation); digits stand alone. Memory holds at most MAX_TRAINING_CHARACTERS
    of text. A corpus with too few pairs gives a smaller vocabulary, which is logged.
    """
    from sentencepiece import SentencePieceTrainer

    lines = thinned(training_lines(texts, _MAX_LINE), MAX_TRAINING_CHARACTERS)
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_lines(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            control_symbols=[TURN_START, TURN_END],
            byte_fallback=True,
            character_coverage=0.99995,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            max_sentence_length=4 * _MAX_LINE,
            # Recorded in the model file, so it must not depend on the machine.
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _training_error(error, vocab_size) from None
    settings = TokenizerSettings(adds_bos=False, chat_template=DEFAULT_CHAT_TEMPLATE)
    tokenizer = SentencePieceTokenizer(model.getvalue(), settings)
    if tokenizer.vocab_size < vocab_size:
        logger.warning(
            "vocab_size = %d: the texts have pairs for %d ids only; the tokenizer has that many",
            vocab_size,
            tokenizer.vocab_size,
        )
    return tokenizer


def _lines(lines: list[str]) -> Iterator[str]:
    if not any(lines):
        raise TokenizerError("the corpus is empty: it has line ends only; name a source that has text")
    return iter(lines)


def _training_error(error: RuntimeError, vocab_size: int) -> TokenizerError:
    too_small = re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error))
    if too_small:
        return TokenizerError(
            f"vocab_size = {vocab_size}: sentencepiece needs at least {too_small[1]} for this text, for 256 bytes, "
            "6 special tokens and its characters"
        )
    return TokenizerError(f"sentencepiece cannot train on this text: {' '.join(str(error).split())}")
