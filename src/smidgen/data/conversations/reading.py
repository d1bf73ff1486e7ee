"""Conversations and pairs out of sources: every record becomes one, or a bad record that says why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from smidgen.data.conversations.schema import Messages, Preference, UnusableRecord, conversation_of, preference_of
from smidgen.data.documents import BadRecord, RecordUnit
from smidgen.data.manifest import SourceRecord, SplitName, digest_of
from smidgen.data.sources import STORYWORLD
from smidgen.data.sources.base import digest_of_file
from smidgen.data.sources.generated import HubSource
from smidgen.data.sources.naming import find_files
from smidgen.data.sources.records import read_records
from smidgen.runtime.errors import DataError

DEFAULT_CHATS = 5_000
"""Training chats that the source storyworld gives."""
_HOLDOUT_SHARE = 20
"""One validation chat of storyworld for so many of training."""


@dataclass(frozen=True, slots=True)
class Found:
    """A conversation, or what stood in its place."""

    source: str
    """The file, or the generator."""
    value: Messages | Preference | BadRecord
    position: int
    """Number of the record there, from 1."""
    unit: RecordUnit
    split: SplitName | None = None
    """The split that a generator drew it for."""

    @property
    def where(self) -> str:
        """Source and number, for messages."""
        return f"{self.source}, {self.unit} {self.position}"


def read_conversations(name: str, documents: int = DEFAULT_CHATS) -> Iterator[Found]:
    """The conversations of a source: what `read_records` takes, or `storyworld`, whose chats are generated."""
    if name == STORYWORLD:
        yield from _storyworld(documents)
        return
    yield from _read(name, conversation_of)


def read_preferences(name: str) -> Iterator[Found]:
    """The pairs of a source that `read_records` takes."""
    if name == STORYWORLD:
        raise DataError(f"{name}: has conversations, no pairs; name a file with prompt, chosen and rejected")
    yield from _read(name, preference_of)


def describe_source(name: str, documents: int = DEFAULT_CHATS) -> list[SourceRecord]:
    """The files of a source with what identifies their content."""
    if name == STORYWORLD:
        sample = [found.value for found in islice(_storyworld(documents), 256)]
        return [SourceRecord(name, None, digest_of([name, documents, sample]))]
    if name.startswith("hf:"):
        return [SourceRecord(name, None, HubSource(name, "").digest())]
    return [SourceRecord(str(path), path.stat().st_size, digest_of_file(path)) for path in find_files([name])]


def _read(name: str, convert: Callable[[Mapping[str, Any]], Messages | Preference]) -> Iterator[Found]:
    for source, number, unit, record in read_records(name):
        value: Messages | Preference | BadRecord
        if isinstance(record, BadRecord):
            value = record
        else:
            try:
                value = convert(record)
            except UnusableRecord as error:
                value = BadRecord(error.kind, str(error), number, unit)
        yield Found(source, value, number, unit)


def _storyworld(documents: int) -> Iterator[Found]:
    from smidgen.data.storyworld import generate

    counts: Sequence[tuple[SplitName, int]] = (("train", documents), ("val", -(-documents // _HOLDOUT_SHARE)))
    for split, count in counts:
        for number, document in enumerate(islice(generate(0, split, ["chats"]), count), 1):
            assert document.messages is not None
            yield Found(STORYWORLD, tuple(document.messages), number, "row", split)


def split_sources(names: Sequence[str | Path]) -> list[str]:
    """Names of sources, each once. Raises DataError for none."""
    unique = list(dict.fromkeys(map(str, names)))
    if not unique:
        raise DataError("no source: name files, folders, a glob, hf:NAME or storyworld with --data")
    return unique
