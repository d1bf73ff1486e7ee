"""What every import gives."""

from __future__ import annotations

from dataclasses import dataclass

from smidgen.model import Decoder
from smidgen.runtime.protocols import Tokenizer


@dataclass(frozen=True)
class Imported:
    """A model of another format, ready to be saved as a model folder."""

    model: Decoder
    tokenizer: Tokenizer | None
    kind: str
    """What the source was, for people."""
    end_ids: tuple[int, ...] = ()
    """Tokens that end an answer beside the tokenizer's own."""
