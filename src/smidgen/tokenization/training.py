"""Training a tokenizer of any kind."""

from __future__ import annotations

from collections.abc import Iterable

from smidgen.runtime.errors import TokenizerError
from smidgen.tokenization.base import BaseTokenizer

TRAINABLE_KINDS = ("byte_bpe", "sentencepiece", "characters")


def train_tokenizer(kind: str, texts: Iterable[str], vocab_size: int | None = None) -> BaseTokenizer:
    """Train a tokenizer on texts, which are read once and never all held in memory.

    kind: `byte_bpe`, `sentencepiece` or `characters`. vocab_size: ids, special tokens included; a corpus too small for
    it gives fewer. For characters it is a limit only, and may be left out. The same texts give the same tokenizer.
    Raises TokenizerError for a size that is too small for the kind or the texts, and for an empty corpus.
    """
    if kind == "characters":
        from smidgen.tokenization.characters import train_characters

        return train_characters(texts, vocab_size)
    if kind == "pretrained":
        raise TokenizerError("tokenizer.kind = pretrained: such a tokenizer is loaded, not trained; name its path")
    if kind not in TRAINABLE_KINDS:
        raise TokenizerError(f"tokenizer.kind = {kind!r}: unknown; use one of {', '.join(TRAINABLE_KINDS)}")
    if vocab_size is None:
        raise TokenizerError(f"tokenizer.vocab_size is missing: say how many ids kind {kind} shall have, such as 4096")
    if kind == "byte_bpe":
        from smidgen.tokenization.byte_bpe import train_byte_bpe

        return train_byte_bpe(texts, vocab_size)
    from smidgen.tokenization.sentencepiece import train_sentencepiece

    return train_sentencepiece(texts, vocab_size)
