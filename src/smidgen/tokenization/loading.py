"""Loading a tokenizer from what a path names: a folder, or one of its files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.runtime.errors import MissingTokenizerError, TokenizerError
from smidgen.tokenization.base import BaseTokenizer
from smidgen.tokenization.files import (
    ADDED_TOKENS,
    MERGES,
    SENTENCEPIECE_MODEL,
    TOKENIZER_JSON,
    VOCABULARY,
    read_bytes,
    read_object,
)
from smidgen.tokenization.settings import END_OF_TEXT, TokenizerSettings, read_settings

if TYPE_CHECKING:
    from smidgen.tokenization.byte_bpe_files import Document

logger = logging.getLogger(__name__)


def load_tokenizer(path: str | Path) -> BaseTokenizer:
    """The tokenizer in a folder or file, saved here or taken from Hugging Face. Needs no torch and no transformers.

    path: a folder with `tokenizer.json`, `tokenizer.model`, or `vocab.json` with `merges.txt`; one of these files (a
    SentencePiece model may have any name that ends in `.model`); or a dataset folder, whose `tokenizer/` is taken.
    `tokenizer_config.json`, `special_tokens_map.json` and the chat template are read from the same folder. Raises
    TokenizerError.
    """
    path = Path(path)
    if (path / "dataset.json").is_file():
        path = path / "tokenizer"
    if path.is_dir():
        folder, files = path, _vocabulary_files(path)
    elif path.is_file():
        folder, files = path.parent, [path]
    else:
        raise TokenizerError(f"{path}: no such file or folder")
    settings = read_settings(folder)
    try:
        tokenizer = _load(files, settings)
        # Looked up once here, so that a token that the vocabulary lacks is told now.
        _ = tokenizer.bos_id, tokenizer.eos_id
    except TokenizerError as error:
        message = str(error)
        raise TokenizerError(message if message.startswith(str(folder)) else f"{path}: {message}") from None
    return tokenizer


def _vocabulary_files(folder: Path) -> list[Path]:
    names = [TOKENIZER_JSON, SENTENCEPIECE_MODEL, VOCABULARY]
    files = [folder / name for name in names if (folder / name).is_file()]
    if not files:
        raise MissingTokenizerError(
            f"{folder}: no tokenizer here; expected {TOKENIZER_JSON}, {SENTENCEPIECE_MODEL}, or {VOCABULARY} with "
            f"{MERGES}"
        )
    return files


def _load(files: Sequence[Path], settings: TokenizerSettings | None) -> BaseTokenizer:
    file = files[0]
    if file.name in {VOCABULARY, MERGES}:
        from smidgen.tokenization.byte_bpe_files import read_vocabulary_and_merges

        return _from_document(read_vocabulary_and_merges(file.parent), settings)
    if file.suffix == ".model":
        return _from_model(file, settings, None)
    if file.suffix != ".json":
        raise TokenizerError(f"expected a folder, {TOKENIZER_JSON}, a SentencePiece .model, or {VOCABULARY}")
    document = read_object(file)
    if "model" not in document:
        raise TokenizerError(f"{file}: no tokenizer.json: it has no entry 'model'")
    if len(files) > 1 and files[1].name == SENTENCEPIECE_MODEL and _is_conversion(document):
        # The model is the definition, and the document was made from it. In folders of other makers the document is
        # what transformers reads, and may know more tokens than the model.
        return _from_model(files[1], settings, document)
    return _from_document(document, settings)


def _is_conversion(document: Document) -> bool:
    from smidgen.tokenization.sentencepiece_conversion import is_conversion

    return is_conversion(document)


def _from_document(document: Document, settings: TokenizerSettings | None) -> BaseTokenizer:
    from smidgen.tokenization import byte_bpe, byte_bpe_files, characters, pretrained

    if settings is None:
        named = {token["content"] for token in document.get("added_tokens") or ()}
        # Without a configuration: what every family of byte-level tokenizers with this token takes it for.
        end = END_OF_TEXT if END_OF_TEXT in named else None
        settings = TokenizerSettings(bos_token=end, eos_token=end)
    tokenizer = characters.from_document(document, settings)
    if tokenizer is not None:
        return tokenizer
    try:
        return byte_bpe.ByteBPETokenizer(document, settings)
    except byte_bpe_files.UnprovenEngine as reason:
        logger.debug("encoded by `tokenizers`, not by tiktoken's engine: %s", reason)
        return pretrained.pretrained(document, settings)


def _from_model(file: Path, settings: TokenizerSettings | None, document: Document | None) -> BaseTokenizer:
    from smidgen.tokenization.sentencepiece import SentencePieceTokenizer

    settings = settings or TokenizerSettings()
    if document is not None:
        entries = {token["content"]: (token["id"], token["special"]) for token in document.get("added_tokens") or ()}
    else:
        entries = _added_tokens(file.parent, settings)
    return SentencePieceTokenizer(read_bytes(file), settings, entries)


def _added_tokens(folder: Path, settings: TokenizerSettings) -> dict[str, tuple[int, bool]]:
    """Tokens that the configuration adds, with their id and whether they are special."""
    older = folder / ADDED_TOKENS
    entries = {token: (number, True) for token, number in read_object(older).items()} if older.is_file() else {}
    decoder = settings.config.get("added_tokens_decoder")
    for number, token in (decoder if isinstance(decoder, dict) else {}).items():
        entries[token["content"]] = (int(number), bool(token.get("special")))
    return entries
