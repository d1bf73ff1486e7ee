"""What is written when all chunks are encoded: the manifest of a dataset folder, or the description of a part."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from smidgen.data.manifest import MANIFEST_NAME, Manifest, SourceRecord, TokenType, digest_of_request
from smidgen.data.pipeline.sinks import DatasetSink, PartSink, Totals, read_part
from smidgen.data.pipeline.weighting import mixed, shares_of
from smidgen.data.sources import Source
from smidgen.runtime.errors import DataError
from smidgen.runtime.protocols import Tokenizer

logger = logging.getLogger(__name__)

PART_NAME = "part.json"
PART_VERSION = 1


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """What a dataset says of its tokenizer."""

    dtype: TokenType
    vocab_size: int
    kind: str
    fingerprint: str
    eos_id: int | None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> TokenizerFacts:
        """The facts, with uint16 for as many ids as it can hold."""
        dtype: TokenType = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
        return cls(dtype, tokenizer.vocab_size, tokenizer.kind, tokenizer.fingerprint, tokenizer.eos_id)

    @property
    def numpy(self) -> np.dtype[Any]:
        """The tokens' type on disk."""
        return np.dtype(self.dtype).newbyteorder("<")


def source_records(sources: Sequence[Source], totals: Totals, partly_read: Iterable[int]) -> tuple[SourceRecord, ...]:
    """What the manifest says of each source. Digests that its chunks did not give are made by reading it.

    partly_read: numbers of sources of which not every chunk was read.
    """
    skipped = set(partly_read)
    records = []
    for number, (source, total) in enumerate(zip(sources, totals.sources, strict=True)):
        known = source.divisible and total.digest and number not in skipped
        digest = total.digest if known else source.digest()
        records.append(
            SourceRecord(source.name, source.size, digest, total.documents, total.tokens, total.bytes),
        )
    return tuple(records)


def check_documents(names: Sequence[str], totals: Totals) -> None:
    """Raise DataError when no source gave a document; warn of each that gave none."""
    empty = [name for name, total in zip(names, totals.sources, strict=True) if total.documents == 0]
    if len(empty) == len(names):
        raise no_text(names, totals)
    for name in empty:
        logger.warning("%s: holds no text", name)


def no_text(names: Sequence[str], totals: Totals) -> DataError:
    """The error of a job without a document."""
    first = totals.bad.first()
    if first is not None:
        return DataError(f"no document: {totals.bad.total} bad records were skipped, the first: {first}")
    dropped = sum(drops.documents for drops in totals.tally.drops.values())
    if dropped:
        rules = ", ".join(totals.tally.drops)
        return DataError(f"no document is left: cleaning dropped all {dropped} ({rules}); choose gentler rules")
    others = f", nor do the other {len(names) - 1} files" if len(names) > 1 else ""
    return DataError(f"{names[0]}: holds no text{others}; name a source that does")


def weigh(
    part: Path, facts: TokenizerFacts, arguments: Sequence[str], weights: Mapping[str, float], sink: DatasetSink
) -> list[dict[str, Any]]:
    """Write the mixture of what a part holds into the sink; gives what the manifest says of it."""
    shares = shares_of(read_part(part, facts.numpy), arguments, weights)
    for documents in mixed(lambda: read_part(part, facts.numpy), arguments, shares):
        sink.write(documents)
    return [share.to_json() for share in shares.values()]


def write_manifest(
    folder: Path,
    facts: TokenizerFacts,
    sink: DatasetSink,
    totals: Totals,
    records: tuple[SourceRecord, ...],
    options: Mapping[str, Any],
    mixture: list[dict[str, Any]],
) -> Manifest:
    """Finish the token files and describe them in dataset.json."""
    tally = totals.tally.to_json()
    manifest = Manifest(
        dtype=facts.dtype,
        vocab_size=facts.vocab_size,
        tokenizer_kind=facts.kind,
        tokenizer_fingerprint=facts.fingerprint,
        eos_id=facts.eos_id,
        splits=sink.finish(),
        sources=records,
        options=dict(options),
        bad_input=totals.bad.to_json(),
        cleaning=tally if any(tally.values()) else {},
        mixture=mixture,
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


@dataclass(frozen=True, slots=True)
class PartDescription:
    """`part.json`: what a part of a job holds, and everything that must agree for parts to be merged."""

    shard: tuple[int, int]
    """Number of the part, from 0, and how many there are."""
    chunks: int
    """Chunks of the whole job."""
    sources: tuple[tuple[str, str, int | None, str | None], ...]
    """Name, SOURCE argument, size and digest of each; no digest where the parts' chunks give it together."""
    options: dict[str, Any]
    weights: dict[str, float]
    tokenizer: TokenizerFacts
    digests: dict[str, str]
    """sha256 of the part's files."""

    def write(self, folder: Path) -> None:
        """Write part.json."""
        tree = {"format": "smidgen dataset part", "version": PART_VERSION, **asdict(self)}
        (folder / PART_NAME).write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> PartDescription:
        """The description in a folder; raises DataError when there is none, or it is damaged."""
        path = folder / PART_NAME
        try:
            tree = json.loads(path.read_bytes())
            if tree["version"] != PART_VERSION:
                raise DataError(f"{path}: version {tree['version']}, not {PART_VERSION}; prepare that part again")
            return cls(
                (tree["shard"][0], tree["shard"][1]),
                tree["chunks"],
                tuple(cast(Any, tuple(source)) for source in tree["sources"]),
                tree["options"],
                tree["weights"],
                TokenizerFacts(**tree["tokenizer"]),
                tree["digests"],
            )
        except OSError:
            raise DataError(f"{folder}: no part of a dataset ('smidgen prepare … --shard 1/2' makes one)") from None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{path}: damaged ({type(error).__name__}: {error}); prepare that part again") from None

    @property
    def request(self) -> str:
        """Equal for parts that can be merged."""
        sources = [SourceRecord(name, size, digest or "") for name, _, size, digest in self.sources]
        return digest_of_request(sources, {**self.options, "names": [[s[0], s[1], s[2]] for s in self.sources]})


def write_part(
    folder: Path,
    facts: TokenizerFacts,
    sink: PartSink,
    sources: Sequence[Source],
    shard: tuple[int, int],
    chunks: int,
    options: Mapping[str, Any],
    weights: Mapping[str, float],
    partly_read: Iterable[int],
) -> PartDescription:
    """Finish the files of a part and describe them in part.json."""
    skipped = set(partly_read)
    described = tuple(
        (
            source.name,
            source.argument,
            source.size,
            None if source.divisible and number not in skipped else source.digest(),
        )
        for number, source in enumerate(sources)
    )
    description = PartDescription(shard, chunks, described, dict(options), dict(weights), facts, sink.finish())
    description.write(folder)
    return description
