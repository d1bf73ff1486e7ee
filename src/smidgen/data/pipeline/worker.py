"""The units of work: what is done with one chunk, in whatever process, always with the same result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from smidgen.data.cleaning import Cleaner, Tally, Verdict, make_cleaner, remove_paragraphs
from smidgen.data.documents import EMPTY, BadRecord, Piece
from smidgen.data.encoding import EncodedPiece, encode_pieces
from smidgen.data.holdout import Holdout, Place, Routing, Survey
from smidgen.data.manifest import TokenType
from smidgen.data.pipeline.results import BadInput, Encoded, Part
from smidgen.data.sources import Chunk, Source
from smidgen.data.sources.files import TextFile
from smidgen.data.sources.streams import StreamFile
from smidgen.runtime.errors import DataError
from smidgen.runtime.protocols import Tokenizer

if TYPE_CHECKING:
    from smidgen.config.cleaning import CleaningConfig

Unit = Literal["survey", "texts", "encode"]


@dataclass(frozen=True, slots=True)
class Task:
    """A chunk, and what must be known of the chunks before it."""

    chunk: Chunk
    place: Place = field(default_factory=Place)
    max_documents: int | None = None
    """Take no more documents than this, of a source that is limited."""
    max_bytes: int | None = None
    """Take no more UTF-8 bytes of whole documents than this."""
    verdicts: tuple[Verdict, ...] | None = None
    """What the duplicate filter says of the documents that cleaning keeps, in their order."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all units of a job have in common. Picklable."""

    sources: tuple[Source, ...]
    holdout: Holdout
    seed: int
    strict: bool = False
    cleaning: CleaningConfig | None = None
    tokenizer: Tokenizer | Path | None = None
    """One that can be sent to processes, or the folder that they load it from."""
    dtype: TokenType = "uint16"
    routing: Routing | None = None


@dataclass(slots=True)
class Surveyed:
    """What a survey learns of one chunk."""

    survey: Survey
    read: int = 0
    """Documents read, before cleaning."""
    read_bytes: int = 0
    bad: BadInput = field(default_factory=BadInput)
    tally: Tally = field(default_factory=Tally)
    lines: int = 0
    size: int = 0
    keys: tuple[bytes, ...] = ()
    """Keys of the kept documents for the duplicate filter."""


class Worker:
    """Does units of work. One a process."""

    def __init__(self, job: Job, tokenizer: Tokenizer | None = None) -> None:
        """tokenizer: the one of `job.tokenizer`, where it is loaded already."""
        self._job = job
        self._given = tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        if self._given is not None:
            return self._given
        from smidgen.tokenization import load_tokenizer

        tokenizer = self._job.tokenizer
        assert tokenizer is not None
        return load_tokenizer(tokenizer) if isinstance(tokenizer, Path) else tokenizer

    @cached_property
    def _cleaner(self) -> Cleaner | None:
        cleaner = None if self._job.cleaning is None else make_cleaner(self._job.cleaning)
        return cleaner if cleaner is not None and cleaner.active else None

    def do(self, unit: Unit, task: Task) -> Any:
        """The result of one unit: Surveyed, texts to train on, or Encoded."""
        return {"survey": self.survey, "texts": self.texts, "encode": self.encode}[unit](task)

    def survey(self, task: Task) -> Surveyed:
        """Count a chunk's documents, for the choice of validation documents, limits and duplicates."""
        result = Surveyed(Survey(self._job.holdout, self._job.seed), size=task.chunk.size)
        counts = Encoded(task.chunk.source)
        keys = []
        for piece in self._cleaned(task, counts):
            result.survey.add(piece)
            whole = piece.begins and piece.ends and piece.messages is None
            found = self._cleaner.keys(piece.text) if self._cleaner and whole else None
            if found is not None:
                keys.append(found.to_bytes())
        result.read, result.read_bytes = counts.read, counts.size
        result.bad, result.tally, result.lines = counts.bad, counts.tally, counts.lines
        result.keys = tuple(keys)
        return result

    def texts(self, task: Task) -> list[Piece]:
        """The chunk's documents to train a tokenizer on, with their splits."""
        assert self._job.routing is not None
        pieces = self._cleaned(task, Encoded(task.chunk.source))
        return list(self._job.routing.route(pieces, task.place))

    def encode(self, task: Task) -> Encoded:
        """The chunk's tokens."""
        assert self._job.routing is not None
        result = Encoded(task.chunk.source)
        pieces = list(self._job.routing.route(self._cleaned(task, result), task.place))
        result.size = task.chunk.size
        result.documents = sum(piece.begins for piece in pieces)
        result.parts = tuple(self._parts(pieces))
        return result

    def _parts(self, pieces: Sequence[Piece]) -> Iterator[Part]:
        encoded: dict[Any, list[EncodedPiece]] = {}
        for item in encode_pieces(self._tokenizer, pieces):
            encoded.setdefault(item.piece.split, []).append(item)
        # What goes on from before comes first; it is the only part without a split.
        for split in (None, "train", "val"):
            if items := encoded.get(split):
                yield self._part(split, items)

    def _part(self, split: Literal["train", "val"] | None, items: Sequence[EncodedPiece]) -> Part:
        eos_id = self._tokenizer.eos_id
        end = None if eos_id is None else np.array([eos_id], np.uint32)
        blocks = []
        lengths = []
        sizes = []
        begins = True
        for item in items:
            blocks.append(item.ids)
            length = len(item.ids)
            if item.piece.ends and end is not None:
                blocks.append(end)
                length += 1
            if begins:
                lengths.append(length)
                sizes.append(item.num_bytes)
            else:
                lengths[-1] += length
                sizes[-1] += item.num_bytes
            begins = item.piece.ends
        tokens = np.concatenate(blocks).astype(np.dtype(self._job.dtype).newbyteorder("<"))
        return Part(split, tokens, np.cumsum(lengths, dtype=np.int64), np.array(sizes, np.int64), not begins)

    def _cleaned(self, task: Task, result: Encoded) -> Iterator[Piece]:
        """The documents of a chunk after cleaning and without duplicates; counts go to `result`."""
        source = self._job.sources[task.chunk.source]
        number = 0
        for piece in self._read(task, result):
            kept: Piece | None = piece
            if self._cleaner is not None and piece.messages is None:
                kept = self._clean(self._cleaner, piece, result.tally, source.name)
            if kept is not None and task.verdicts is not None and kept.begins and kept.ends and kept.messages is None:
                kept = _without_duplicates(kept, task.verdicts[number], result.tally, source.name)
                number += 1
            if kept is not None:
                yield kept

    def _clean(self, cleaner: Cleaner, piece: Piece, tally: Tally, source: str) -> Piece | None:
        cleaned = cleaner(piece.text)
        tally.edited(cleaned.edits)
        if cleaned.text is not None:
            return piece if cleaned.text == piece.text else replace(piece, text=cleaned.text)
        tally.dropped(cleaned.rule or "cleaning", piece.text, source)
        # Of a long document a part was dropped: its beginning and end still stand.
        return None if piece.begins and piece.ends else replace(piece, text="")

    def _read(self, task: Task, result: Encoded) -> Iterator[Piece]:
        """The documents of a chunk, within the limits; bad records are counted, or raised when strict."""
        source = self._job.sources[task.chunk.source]
        reading = source.read(task.chunk)
        for item in reading.items:
            if isinstance(item, BadRecord):
                if self._job.strict and item.kind != EMPTY:
                    raise DataError(_place(source, task.chunk, item))
                result.bad.add(item, source.name)
                continue
            size = len(item.text) if item.text.isascii() else len(item.text.encode())
            if item.begins and _is_over(task, result, size):
                break
            result.read += item.begins
            result.size += size
            yield item
        result.lines, result.digest = reading.lines, reading.digest


def _is_over(task: Task, result: Encoded, size: int) -> bool:
    """Whether a document of (at least) that size lies beyond the limits. One that began within them is kept whole."""
    if task.max_documents is not None and result.read >= task.max_documents:
        return True
    return task.max_bytes is not None and result.size + size > task.max_bytes


def _place(source: Source, chunk: Chunk, record: BadRecord) -> str:
    position = record.position
    if position is not None and isinstance(source, (TextFile, StreamFile)):
        position += source.lines_before(chunk)
    return record.describe(source.name, position)


def _without_duplicates(piece: Piece, verdict: Verdict, tally: Tally, source: str) -> Piece | None:
    if verdict.rule is not None:
        tally.dropped(verdict.rule, piece.text, source)
        return None
    if verdict.paragraphs:
        tally.edited({"duplicate paragraphs": len(verdict.paragraphs)})
        return replace(piece, text=remove_paragraphs(piece.text, verdict.paragraphs))
    return piece
