"""Where results go, in order: the dataset's own files, or a part that is merged with others later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from smidgen.data.cleaning import Tally
from smidgen.data.manifest import ShardRecord, SplitName
from smidgen.data.pipeline.files import GrowingFile
from smidgen.data.pipeline.results import BadInput, Encoded, Part
from smidgen.data.pipeline.shards import SplitWriter
from smidgen.data.sources import Digest
from smidgen.runtime.errors import DataError

SPLITS: tuple[SplitName, ...] = ("train", "val")


class Sink(Protocol):
    """Takes results in order; can be brought back to where it stood at a checkpoint."""

    totals: Totals

    def add(self, result: Encoded) -> None:
        """The next result."""

    def sync(self) -> None:
        """Bring everything written to the disk."""

    def state(self) -> dict[str, Any]:
        """What is needed to go on from here."""

    def close(self) -> None:
        """Close the files as they are."""


@dataclass(slots=True)
class SourceTotals:
    """What one source gave."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    lines: int = 0
    digest: str = ""

    def add(self, result: Encoded) -> None:
        """Add a result of the source, the next in order."""
        self.documents += result.documents
        self.tokens += result.tokens
        self.bytes += sum(int(part.sizes.sum()) for part in result.parts)
        self.lines += result.lines
        if result.digest is not None:
            digest = Digest(self.digest)
            digest.add(result.digest)
            self.digest = digest.state


@dataclass(slots=True)
class Totals:
    """What all results say, added up in their order."""

    sources: list[SourceTotals]
    bad: BadInput = field(default_factory=BadInput)
    tally: Tally = field(default_factory=Tally)
    splits: set[str] = field(default_factory=set)
    """The splits that hold a token."""

    def add(self, result: Encoded) -> None:
        """Add the next result."""
        self.splits.update(part.split for part in result.parts if part.split is not None and len(part.tokens))
        source = self.sources[result.source]
        self.bad.merge(result.bad, source.lines)
        self.tally.merge(result.tally)
        source.add(result)

    def to_json(self) -> dict[str, Any]:
        """A tree for the journal."""
        fields = SourceTotals.__slots__
        sources = [[getattr(source, name) for name in fields] for source in self.sources]
        return {
            "sources": sources,
            "bad": self.bad.to_json(),
            "tally": self.tally.to_json(),
            "splits": sorted(self.splits),
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Totals:
        """What `to_json` gave."""
        sources = [SourceTotals(*values) for values in tree["sources"]]
        return cls(sources, BadInput.from_json(tree["bad"]), Tally.from_json(tree["tally"]), set(tree["splits"]))


class DatasetSink:
    """The token files of a dataset folder."""

    def __init__(
        self,
        folder: Path,
        work: Path,
        dtype: np.dtype[Any],
        max_tokens: int,
        sources: int,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """work: folder of what only this run needs. sources: how many there are."""
        states: Mapping[str, Any] = state["splits"] if state else {}
        self._writers = {
            split: SplitWriter(folder, work, split, dtype, max_tokens, states.get(split)) for split in SPLITS
        }
        self._current: SplitName = state["current"] if state else "train"
        self.totals = Totals.from_json(state["totals"]) if state else Totals([SourceTotals() for _ in range(sources)])

    def add(self, result: Encoded) -> None:
        self.totals.add(result)
        for part in result.parts:
            self.write(part)

    def write(self, part: Part) -> None:
        """Documents of one split; those that go on from before follow where their beginning went."""
        split = part.split or self._current
        self._writers[split].append(part.tokens, part.stops, part.sizes, part.open)
        if part.open:
            self._current = split

    def sync(self) -> None:
        for writer in self._writers.values():
            writer.sync()

    def state(self) -> dict[str, Any]:
        return {
            "splits": {split: writer.state() for split, writer in self._writers.items()},
            "current": self._current,
            "totals": self.totals.to_json(),
        }

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def finish(self) -> dict[SplitName, tuple[ShardRecord, ...]]:
        """Write what is left and describe the shards of both splits."""
        return {split: writer.finish() for split, writer in self._writers.items()}


_TOKENS, _ROWS, _UNITS = "tokens.bin", "documents.bin", "units.jsonl"


class PartSink:
    """Results as they are, one after another, in three files."""

    def __init__(self, folder: Path, sources: int, state: Mapping[str, Any] | None = None) -> None:
        sizes = state["sizes"] if state else [0, 0, 0]
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files = [
            GrowingFile(folder / name, size) for name, size in zip((_TOKENS, _ROWS, _UNITS), sizes, strict=True)
        ]
        self.totals = Totals.from_json(state["totals"]) if state else Totals([SourceTotals() for _ in range(sources)])

    def add(self, result: Encoded) -> None:
        self.totals.add(result)
        tokens, rows, units = self._files
        for part in result.parts:
            tokens.append(np.ascontiguousarray(part.tokens).data.cast("B"))
            rows.append(np.stack([part.stops, part.sizes], axis=1).astype("<i8").data.cast("B"))
        units.append(json.dumps(result.header(), separators=(",", ":")).encode() + b"\n")

    def sync(self) -> None:
        for file in self._files:
            file.sync()

    def state(self) -> dict[str, Any]:
        return {"sizes": [file.size for file in self._files], "totals": self.totals.to_json()}

    def close(self) -> None:
        for file in self._files:
            file.close()

    def finish(self) -> dict[str, str]:
        """Close the files; gives sha256 of each by its name."""
        self.close()
        return digests_of_part(self._folder)


def digests_of_part(folder: Path) -> dict[str, str]:
    """sha256 of each file that `PartSink` wrote; raises DataError when one is missing."""
    digests = {}
    for name in (_TOKENS, _ROWS, _UNITS):
        try:
            with (folder / name).open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{folder / name}: {error.strerror}; copy or prepare that part again") from None
    return digests


def read_part(folder: Path, dtype: np.dtype[Any]) -> Iterator[Encoded]:
    """The results that `PartSink` wrote, in order, one at a time."""
    with (
        (folder / _TOKENS).open("rb") as tokens,
        (folder / _ROWS).open("rb") as rows,
        (folder / _UNITS).open("rb") as units,
    ):
        for line in units:
            header = json.loads(line)
            count = sum(part[1] for part in header["parts"])
            documents = sum(part[2] for part in header["parts"])
            block = np.frombuffer(tokens.read(count * dtype.itemsize), dtype)
            table = np.frombuffer(rows.read(16 * documents), "<i8").reshape(-1, 2)
            yield Encoded.from_header(header, block, table)
