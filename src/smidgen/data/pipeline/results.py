"""What workers give back for a unit of work, in a form that is journaled, sent between machines, and added up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.data.cleaning import Tally
from smidgen.data.documents import EMPTY, BadRecord
from smidgen.data.manifest import SplitName
from smidgen.runtime.errors import DataError

EXAMPLES = 3
"""Bad records of a kind that are described; the others are only counted."""


@dataclass(frozen=True, slots=True)
class Part:
    """Documents of one split, in order."""

    split: SplitName | None
    """None for the part that goes on with a document from the unit before."""
    tokens: NDArray[Any]
    """Ids with the end-of-text tokens, in the dataset's dtype."""
    stops: NDArray[np.int64]
    """End of every document in `tokens`; also of a last one that goes on in the next unit."""
    sizes: NDArray[np.int64]
    """UTF-8 bytes of each of them."""
    open: bool
    """The last document goes on in the next unit."""


@dataclass(slots=True)
class BadInput:
    """Records that gave no document, by kind: how many, and the first ones described."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """`source`, `position` (None for a whole file), `unit` and `message` of the first of each kind."""

    def add(self, record: BadRecord, source: str) -> None:
        """Count a record."""
        self.counts[record.kind] = self.counts.get(record.kind, 0) + 1
        kept = self.examples.setdefault(record.kind, [])
        if len(kept) < EXAMPLES:
            example = {"source": source, "position": record.position, "unit": record.unit, "message": record.message}
            kept.append(example)

    def merge(self, later: BadInput, lines_before: int) -> None:
        """Add what was counted in a later unit, whose positions count from `lines_before`."""
        for kind, count in later.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            kept = self.examples.setdefault(kind, [])
            for example in later.examples[kind][: EXAMPLES - len(kept)]:
                position = example["position"]
                kept.append({**example, "position": None if position is None else position + lines_before})

    @property
    def total(self) -> int:
        """Mistakes in all; empty texts are none."""
        return sum(count for kind, count in self.counts.items() if kind != EMPTY)

    def first(self) -> str | None:
        """The first example of the kind that came first, in one line with its place."""
        for kind, examples in self.examples.items():
            if kind != EMPTY and examples:
                return describe(examples[0])
        return None

    def to_json(self) -> dict[str, Any]:
        """A tree for dataset.json."""
        return {
            kind: {"count": self.counts[kind], "examples": self.examples.get(kind, [])} for kind in sorted(self.counts)
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> BadInput:
        """What `to_json` gave."""
        return cls(
            {kind: entry["count"] for kind, entry in tree.items()},
            {kind: list(entry["examples"]) for kind, entry in tree.items()},
        )


def describe(example: Mapping[str, Any]) -> str:
    """One line for an example of `BadInput`."""
    place = "" if example["position"] is None else f", {example['unit']} {example['position']}"
    return f"{example['source']}{place}: {example['message']}"


@dataclass(slots=True)
class Encoded:
    """A unit of work, done: the tokens of a chunk and what there is to say about it."""

    source: int
    parts: tuple[Part, ...] = ()
    read: int = 0
    """Documents read, before cleaning."""
    documents: int = 0
    """Documents that begin here and were kept."""
    size: int = 0
    """Bytes of the source, as progress counts them."""
    lines: int = 0
    digest: bytes | None = None
    bad: BadInput = field(default_factory=BadInput)
    tally: Tally = field(default_factory=Tally)

    @property
    def tokens(self) -> int:
        return sum(len(part.tokens) for part in self.parts)

    def header(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON."""
        return {
            "source": self.source,
            "parts": [[part.split, len(part.tokens), len(part.stops), part.open] for part in self.parts],
            "read": self.read,
            "documents": self.documents,
            "size": self.size,
            "lines": self.lines,
            "digest": None if self.digest is None else self.digest.hex(),
            "bad": self.bad.to_json(),
            "tally": self.tally.to_json(),
        }

    @classmethod
    def from_header(cls, tree: Mapping[str, Any], tokens: NDArray[Any], rows: NDArray[np.int64]) -> Encoded:
        """The result of which `header` made `tree`. tokens, rows [documents, 2]: the arrays of its parts, in order."""
        parts = []
        start = row = 0
        for split, count, documents, is_open in tree["parts"]:
            places = rows[row : row + documents]
            parts.append(Part(split, tokens[start : start + count], places[:, 0], places[:, 1], is_open))
            start, row = start + count, row + documents
        if start != len(tokens) or row != len(rows):
            raise DataError("a unit of work does not match its tokens; prepare that part again")
        digest = tree["digest"]
        return cls(
            tree["source"],
            tuple(parts),
            tree["read"],
            tree["documents"],
            tree["size"],
            tree["lines"],
            None if digest is None else bytes.fromhex(digest),
            BadInput.from_json(tree["bad"]),
            Tally.from_json(tree["tally"]),
        )
