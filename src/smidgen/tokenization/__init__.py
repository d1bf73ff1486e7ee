"""Tokenizers: byte-level BPE, SentencePiece, characters, and whatever a Hugging Face folder holds.

Training, loading and encoding need neither torch nor transformers.
"""

from smidgen.tokenization.base import BaseTokenizer
from smidgen.tokenization.loading import load_tokenizer
from smidgen.tokenization.training import TRAINABLE_KINDS, train_tokenizer

__all__ = ["TRAINABLE_KINDS", "BaseTokenizer", "load_tokenizer", "train_tokenizer"]
