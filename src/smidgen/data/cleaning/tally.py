"""Counts and samples of what cleaning dropped and changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SAMPLES = 3
"""Samples kept a rule: the first in document order."""
SAMPLE_CHARACTERS = 300


@dataclass(slots=True)
class Drops:
    """Documents that one rule dropped."""

    documents: int = 0
    bytes: int = 0
    """UTF-8 bytes of their texts as they were read."""
    samples: list[dict[str, str]] = field(default_factory=list)
    """`source` and `text` (cut) of the first ones."""


@dataclass(slots=True)
class Tally:
    """What cleaning did to a number of documents. Merging in document order keeps the same samples for any split."""

    drops: dict[str, Drops] = field(default_factory=dict)
    edits: dict[str, int] = field(default_factory=dict)

    def dropped(self, rule: str, text: str, source: str) -> None:
        """Count a document that `rule` dropped."""
        drops = self.drops.setdefault(rule, Drops())
        drops.documents += 1
        drops.bytes += len(text.encode())
        if len(drops.samples) < SAMPLES:
            cut = text if len(text) <= SAMPLE_CHARACTERS else text[: SAMPLE_CHARACTERS - 1] + "…"
            drops.samples.append({"source": source, "text": cut})

    def edited(self, edits: Mapping[str, int]) -> None:
        """Add the edits of a document."""
        for name, count in edits.items():
            self.edits[name] = self.edits.get(name, 0) + count

    def merge(self, later: Tally) -> None:
        """Add what was counted of the documents that follow."""
        for rule, other in later.drops.items():
            drops = self.drops.setdefault(rule, Drops())
            drops.documents += other.documents
            drops.bytes += other.bytes
            drops.samples = [*drops.samples, *other.samples][:SAMPLES]
        self.edited(later.edits)

    def to_json(self) -> dict[str, Any]:
        """A tree for dataset.json, rules and edits sorted by name."""
        drops = {
            rule: {"documents": drops.documents, "bytes": drops.bytes, "samples": drops.samples}
            for rule, drops in sorted(self.drops.items())
        }
        return {"drops": drops, "edits": dict(sorted(self.edits.items()))}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Tally:
        """The tally that `to_json` gave."""
        return cls({rule: Drops(**drops) for rule, drops in tree["drops"].items()}, dict(tree["edits"]))
