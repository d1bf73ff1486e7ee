"""What sources give: documents, or pieces of long ones, and records that hold none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from smidgen.data.manifest import SplitName

TextUnit = Literal["file", "line", "blank"]
"""What one document of a text file is: the whole file, a line, or what stands between blank lines."""

RecordUnit = Literal["line", "row", "value"]
"""What is counted to say where a record stands."""

MAX_PIECE_CHARACTERS = 1 << 22
"""A document longer than this is encoded in pieces, so that memory stays bounded."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A document, or a part of one too long to hold at once."""

    text: str
    separator: str = ""
    """What stood between this document and the next. It is kept only for tokenizers without an end-of-text token."""
    begins: bool = True
    """The first piece of its document."""
    ends: bool = True
    """The last piece of its document."""
    messages: tuple[Mapping[str, str], ...] | None = None
    """The conversation that `text` renders, when it is one; `text` then spells special tokens."""
    split: SplitName | None = None
    """The split a generator drew this document for; None leaves it to `prepare`."""

    def routed(self, split: SplitName | None) -> Piece:
        """The same with that split; `dataclasses.replace` takes several times as long."""
        return Piece(self.text, self.separator, self.begins, self.ends, self.messages, split)


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A place of a source that gives no document. It is skipped and counted, or stops the work with `--strict`."""

    kind: str
    """Short name to count by, such as `broken JSON`."""
    message: str
    """What is wrong and what to do, without the place."""
    position: int | None = None
    """Number of the line, row or value, from 1; None when the file as a whole is meant."""
    unit: RecordUnit = "line"

    def describe(self, source: str, position: int | None = None) -> str:
        """One line with the place. position: where it stands in the file, when the record only knows its chunk's."""
        position = self.position if position is None else position
        return f"{source}: {self.message}" if position is None else f"{source}, {self.unit} {position}: {self.message}"


EMPTY = "empty"
"""Kind of records whose text is empty: counted, but no mistake, so `--strict` lets them pass."""

SURROGATE = "lone surrogate"
"""Kind of records whose text no UTF-8 file can hold; JSON spells such characters all the same."""


def text_record(value: Any, position: int, unit: RecordUnit = "line") -> Piece | BadRecord:
    """The document of a record whose text field holds `value`."""
    if not isinstance(value, str):
        if value is None:
            return BadRecord("null", "the text is null; name another field with --field", position, unit)
        shown = excerpt(value if isinstance(value, bytes) else str(value))
        return BadRecord(
            "no string", f"the text is of type {type(value).__name__} ({shown}), no string", position, unit
        )
    fault = surrogate_fault(value)
    if fault is not None:
        return BadRecord(SURROGATE, fault, position, unit)
    if not value or value.isspace():
        return BadRecord(EMPTY, "the text is empty", position, unit)
    return Piece(value, separator="\n")


def surrogate_fault(text: str) -> str | None:
    """What to say of a text that UTF-8 cannot hold; None of one that it can."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"holds a lone surrogate (\\u{ord(text[error.start]):04x}), which is no text"
    return None


def excerpt(value: str | bytes) -> str:
    """At most 60 characters of a value, for a message of one line."""
    text = value[:240].decode("utf-8", "replace") if isinstance(value, bytes) else value[:240]
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= 60 else text[:57] + "..."
