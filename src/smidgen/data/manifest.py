"""`dataset.json`: what a dataset folder holds and how it was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from smidgen.runtime.errors import DataError

MANIFEST_NAME = "dataset.json"
FORMAT_VERSION = 1

_LATER_FIELDS = {"bad_input", "cleaning", "mixture"}
"""Left out by the first writers of this version."""

SplitName = Literal["train", "val"]
TokenType = Literal["uint16", "uint32"]


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """One token file and its offsets, documents that never cross into another shard."""

    file: str
    """Name of the token file in the folder."""
    offsets: str
    """Name of the .npy file with the start of every document and the end of the last, int64, from this file's start."""
    tokens: int
    documents: int
    bytes: int
    """UTF-8 bytes of the text that the tokens stand for; end-of-text tokens count none."""
    sha256: str
    """Of the token file."""
    mask: str = ""
    """Name of the file with a byte for each token, 1 where the assistant said it; empty for plain text."""
    mask_sha256: str = ""


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One file (or generator) that documents came from."""

    name: str
    """As it was given, or the path found below it."""
    bytes: int | None
    """Size of a file; None for a generator."""
    digest: str
    """sha256 over a file's bytes, by blocks (`sources.Digest`); for a generator, of what decides its text."""
    documents: int = 0
    """Documents that came from it, after cleaning."""
    tokens: int = 0
    text_bytes: int = 0
    """UTF-8 bytes of their text."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything in `dataset.json`. It records no time, so that the same input gives the same bytes."""

    dtype: TokenType
    vocab_size: int
    tokenizer_kind: str
    tokenizer_fingerprint: str
    eos_id: int | None
    """Token that ends every document; None when the tokenizer has none and documents follow each other directly."""
    splits: dict[SplitName, tuple[ShardRecord, ...]]
    sources: tuple[SourceRecord, ...]
    options: dict[str, Any]
    """What was asked of `prepare`, without names of files."""
    bad_input: dict[str, Any] = field(default_factory=dict)
    """Records that gave no document, by kind: `count` and the first `examples` with source, position and message."""
    cleaning: dict[str, Any] = field(default_factory=dict)
    """`drops` by rule (documents, bytes, samples) and `edits` by name; see `cleaning.Tally`."""
    mixture: list[dict[str, Any]] = field(default_factory=list)
    """Of weighted sources: weight, tokens they have, how often they were taken, tokens that makes."""

    @property
    def fingerprint(self) -> str:
        """sha256 over the tokens and their meaning: equal for datasets that train alike."""
        shards: dict[str, list[Any]] = {
            name: [[record.sha256, record.mask_sha256] if record.mask else record.sha256 for record in records]
            for name, records in self.splits.items()
        }
        return digest_of([self.dtype, self.vocab_size, self.tokenizer_fingerprint, self.eos_id, shards])

    @property
    def request(self) -> str:
        """Equal for folders that `prepare` makes of the same sources with the same options."""
        return digest_of_request(self.sources, self.options)

    def to_json(self) -> str:
        return json.dumps({"format": "smidgen dataset", "version": FORMAT_VERSION, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a dataset folder; raises DataError when it is damaged or of another version."""
        path = folder / MANIFEST_NAME
        try:
            tree = json.loads(path.read_bytes())
            version = tree["version"]
            if version != FORMAT_VERSION:
                raise DataError(
                    f"{path}: version = {version}: this smidgen reads version {FORMAT_VERSION}; prepare the data again"
                )
            return cls._from_tree(tree)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: damaged ({type(error).__name__}: {error}); prepare the data again") from None

    @classmethod
    def _from_tree(cls, tree: Mapping[str, Any]) -> Manifest:
        fields = {name: tree[name] for name in cls.__dataclass_fields__ if name in tree or name not in _LATER_FIELDS}
        if fields["dtype"] not in {"uint16", "uint32"}:
            raise ValueError(f"dtype {fields['dtype']!r}")
        fields["splits"] = {name: _shards(tree["splits"][name]) for name in ("train", "val")}
        fields["sources"] = tuple(SourceRecord(**record) for record in tree["sources"])
        return cls(**fields)


def _shards(tree: Sequence[Mapping[str, Any]]) -> tuple[ShardRecord, ...]:
    records = tuple(ShardRecord(**record) for record in tree)
    if not records:
        raise ValueError("a split without files")
    for record in records:
        for name, expected in ShardRecord.__annotations__.items():
            if type(getattr(record, name)).__name__ != expected:
                raise TypeError(f"{name} {getattr(record, name)!r}")
        for file in (record.file, record.offsets, record.mask):
            if file != Path(file).name:
                raise ValueError(f"{file!r} is no name of a file in the folder")
    return records


def digest_of_request(sources: Iterable[SourceRecord], options: Mapping[str, Any]) -> str:
    """sha256 over the contents of sources (not their names) and the options of `prepare`."""
    return digest_of([FORMAT_VERSION, [source.digest for source in sources], options])


def digest_of(value: Any) -> str:
    """sha256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
