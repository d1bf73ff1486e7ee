"""Sources that are no files: the built-in corpus, and datasets of Hugging Face."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from smidgen.data.documents import Piece, text_record
from smidgen.data.manifest import SplitName, digest_of
from smidgen.data.sources.base import CHUNK_BYTES, Chunk, Item, Reading
from smidgen.data.sources.parsing import in_pieces
from smidgen.runtime.errors import DataError, MissingDependencyError

STORYWORLD = "storyworld"
DEFAULT_STORYWORLD_DOCUMENTS = 20_000

_CHUNK_DOCUMENTS = 2048
_SAMPLE_DOCUMENTS = 256


@dataclass(frozen=True, slots=True)
class StoryworldSource:
    """The built-in corpus. Its validation documents are made of members of the world that training never shows."""

    train_documents: int
    val_documents: int
    seed: int
    name: str = STORYWORLD
    argument: str = STORYWORLD
    size: int | None = None
    divisible: bool = False

    def state(self) -> str:
        return self.digest()

    def digest(self) -> str:
        # The first documents stand for the generator's code: another version writes other text.
        sample = [piece.text for piece in islice(self.pieces(), _SAMPLE_DOCUMENTS)]
        return digest_of([STORYWORLD, self.train_documents, self.val_documents, self.seed, sample])

    def pieces(self) -> Iterator[Piece]:
        """The documents, training first."""
        from smidgen.data.storyworld import generate

        counts: dict[SplitName, int] = {"train": self.train_documents, "val": self.val_documents}
        for split, count in counts.items():
            for document in islice(generate(self.seed, split), count):
                yield Piece(document.text, separator="\n\n", messages=document.messages, split=split)

    def chunks(self) -> Iterator[Chunk]:
        return _chunks(self.pieces())

    def read(self, chunk: Chunk) -> Reading:
        return Reading(iter(chunk.items or ()))


@dataclass(frozen=True, slots=True)
class HubSource:
    """A dataset of Hugging Face's, streamed by `datasets`; or a folder that `datasets` wrote."""

    argument: str
    """`hf:owner/name`, `hf:owner/name:config`, `hf:owner/name:config:split`, or `hf:` and a folder."""
    field: str
    size: int | None = None
    divisible: bool = False

    @property
    def name(self) -> str:
        return self.argument

    def state(self) -> str:
        return self.digest()

    def digest(self) -> str:
        dataset = self.rows()
        sample = [str(row.get(self.field)) for row in islice(dataset, _SAMPLE_DOCUMENTS)]
        return digest_of([self.argument, self.field, getattr(dataset, "num_rows", None), sample])

    def chunks(self) -> Iterator[Chunk]:
        return _chunks(self._items())

    def read(self, chunk: Chunk) -> Reading:
        return Reading(iter(chunk.items or ()))

    def _items(self) -> Iterator[Item]:
        for number, row in enumerate(self.rows(), 1):
            if self.field not in row:
                names = ", ".join(map(repr, row))[:200]
                raise DataError(f"{self.name}: no column '{self.field}' (its columns: {names}); name one with --field")
            yield from in_pieces(text_record(row[self.field], number, "row"))

    def rows(self) -> Iterable[dict[str, Any]]:
        """The dataset's rows, of all columns; raises DataError where `datasets` cannot open it."""
        try:
            import datasets
        except ModuleNotFoundError:
            raise MissingDependencyError("datasets", "data", "reading a Hugging Face dataset") from None
        name, config, split = _parts_of(self.argument)
        try:
            if (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file():
                found = datasets.load_from_disk(name)
            else:
                found = datasets.load_dataset(name, config, split=split, streaming=True)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{self.name}: `datasets` cannot open it: {reason}") from None
        if isinstance(found, datasets.DatasetDict):
            if split not in found:
                raise DataError(f"{self.name}: no split '{split}' (its splits: {', '.join(found)}); name one of them")
            found = found[split]
        opened: Iterable[dict[str, Any]] = found
        return opened


def _parts_of(argument: str) -> tuple[str, str | None, str]:
    """Name, configuration and split of `hf:name[:config][:split]`; the configuration may be left empty."""
    name, *rest = argument.removeprefix("hf:").split(":")
    if not name or len(rest) > 2:
        raise DataError(f"{argument}: write hf:owner/name, hf:owner/name:config or hf:owner/name:config:split")
    config, split = (*rest, "", "")[:2]
    return name, config or None, split or "train"


def _chunks(items: Iterable[Item]) -> Iterator[Chunk]:
    block: list[Item] = []
    size = 0
    for item in items:
        block.append(item)
        size += len(item.text) if isinstance(item, Piece) else 0
        if size >= CHUNK_BYTES or len(block) >= _CHUNK_DOCUMENTS:
            yield Chunk(0, items=tuple(block), size=size)
            block, size = [], 0
    if block:
        yield Chunk(0, items=tuple(block), size=size)
