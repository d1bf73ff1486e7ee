"""The tokenizer of a job: loaded, or trained on the training documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from smidgen.data.documents import Piece
from smidgen.runtime.errors import DataError
from smidgen.runtime.protocols import Tokenizer

if TYPE_CHECKING:
    from smidgen.config import TokenizerConfig

DEFAULT_VOCAB_SIZE = 4096
"""Ids trained when `tokenizer.vocab_size` is left out: enough for a small corpus, and small heads."""


def load(config: TokenizerConfig) -> Tokenizer | None:
    """The tokenizer that `tokenizer.path` names, checked against the other fields; None when one is to be trained."""
    if config.path is None:
        return None
    from smidgen.tokenization import load_tokenizer

    tokenizer = load_tokenizer(config.path)
    if "kind" in config.model_fields_set and config.kind not in {"pretrained", tokenizer.kind}:
        raise DataError(
            f"tokenizer.kind = {config.kind}: {config.path} is of kind {tokenizer.kind}; leave one of the two out"
        )
    if config.vocab_size not in {None, tokenizer.vocab_size}:
        raise DataError(
            f"tokenizer.vocab_size = {config.vocab_size}: {config.path} has {tokenizer.vocab_size} ids; leave it out"
        )
    return tokenizer


def requested(config: TokenizerConfig, loaded: Tokenizer | None) -> dict[str, Any]:
    """What the dataset's options say of the tokenizer."""
    if loaded is not None:
        return {"fingerprint": loaded.fingerprint}
    return {"kind": config.kind, "vocab_size": config.vocab_size}


def train(
    config: TokenizerConfig, pieces: Iterator[Piece], total: int, report: Callable[[str, int, int], None]
) -> Tokenizer:
    """A tokenizer trained on the training pieces (characters: on all). total: bytes of all pieces, for progress."""
    from smidgen.tokenization import train_tokenizer

    def texts() -> Iterator[str]:
        done = 0
        for piece in pieces:
            done += len(piece.text.encode())
            report("training the tokenizer", min(done, total), total)
            if config.kind == "characters":
                yield piece.text + piece.separator
            elif piece.split == "train":
                # Of a conversation only what is said: its markers are special tokens, not text to learn from.
                yield from (m["content"] for m in piece.messages) if piece.messages else (piece.text,)

    vocab_size = config.vocab_size
    if vocab_size is None and config.kind != "characters":
        vocab_size = DEFAULT_VOCAB_SIZE
    return train_tokenizer(config.kind, texts(), vocab_size)
