"""What is compared of a document to find its duplicates: hashes that are computed in any process, equal everywhere."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_HEADER = struct.Struct("<III")


@dataclass(frozen=True, slots=True)
class Keys:
    """Hashes of one document. Rules that are off leave theirs empty."""

    document: bytes
    """BLAKE2b of the text, 16 bytes; empty when equal documents are allowed."""
    paragraphs: NDArray[np.uint64]
    """A hash a paragraph, in order; 0 for those too short to count. Shape [paragraphs]."""
    signature: NDArray[np.uint32]
    """MinHash values, shape [permutations]; empty when near duplicates are allowed or the text has no word."""

    def to_bytes(self) -> bytes:
        """A form to journal or send; `from_bytes` restores it."""
        header = _HEADER.pack(len(self.document), len(self.paragraphs), len(self.signature))
        paragraphs = self.paragraphs.astype("<u8", copy=False).tobytes()
        return header + self.document + paragraphs + self.signature.astype("<u4", copy=False).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Keys:
        """The keys that `to_bytes` wrote."""
        document, paragraphs, signature = _HEADER.unpack_from(data)
        first = _HEADER.size + document
        return cls(
            data[_HEADER.size : first],
            np.frombuffer(data, "<u8", paragraphs, first),
            np.frombuffer(data, "<u4", signature, first + 8 * paragraphs),
        )
