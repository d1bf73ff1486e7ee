"""What can be asked of `prepare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import TYPE_CHECKING, Any

from smidgen.data.documents import TextUnit
from smidgen.data.holdout import Holdout
from smidgen.data.pipeline.plan import Limits
from smidgen.data.sources import SourceOptions
from smidgen.data.sources.naming import FileFormat
from smidgen.runtime.errors import DataError

if TYPE_CHECKING:
    from smidgen.config.cleaning import CleaningConfig

DEFAULT_SHARD_TOKENS = 1 << 29
"""Half a billion tokens: 1 GiB of uint16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Everything about a job but its sources and its tokenizer."""

    split_documents: TextUnit | None = None
    """What a document of a text file is; the whole file if None."""
    field: str | None = None
    """Field or column that holds the text; `text` if None."""
    format: FileFormat | None = None
    """Format of all files; by their endings if None."""
    documents: int | None = None
    """Training documents to draw from storyworld."""
    holdout: Holdout = dataclass_field(default_factory=Holdout)
    """How validation documents are chosen."""
    seed: int = 0
    """Of the choice of validation documents, and of storyworld."""
    limits: Limits = dataclass_field(default_factory=Limits)
    """How much is read of each SOURCE argument."""
    weights: Mapping[str, float] = dataclass_field(default_factory=dict)
    """Shares of the training tokens, by SOURCE argument; none leaves the sources as they are."""
    cleaning: CleaningConfig | None = None
    strict: bool = False
    """Stop at the first bad record instead of counting it."""
    shard_tokens: int = DEFAULT_SHARD_TOKENS
    """Tokens of a shard at most; only a document that is longer makes a longer one."""
    workers: int | None = None
    """Processes; None takes all cores where there is enough to do. It never changes the result."""

    def check(self, names: Sequence[str], shard: tuple[int, int] | None) -> None:
        """Raise DataError for what cannot be, or would not be obeyed."""
        if not 0 <= self.seed < 1 << 64:
            raise DataError(f"--seed {self.seed}: use a whole number from 0 to 2**64 - 1")
        if self.shard_tokens < 1:
            raise DataError(f"--shard-tokens {self.shard_tokens}: use at least 1")
        if self.workers is not None and self.workers < 1:
            raise DataError(f"--workers {self.workers}: use at least 1")
        if shard is not None and not 0 <= shard[0] < shard[1]:
            raise DataError(f"--shard {shard[0] + 1}/{shard[1]}: use 1/N to N/N")
        limits = {**self.limits.documents, **self.limits.bytes}
        for option, values in (("--limit", limits), ("--weight", self.weights)):
            for name, value in values.items():
                if name not in names:
                    shown = ", ".join(names)
                    raise DataError(f"{option} {name}={value:g}: no source is called so; use one of {shown}")
                if value < (1 if option == "--limit" else 0):
                    raise DataError(f"{option} {name}={value:g}: use a positive number")
        if self.weights:
            missing = [name for name in names if name not in self.weights]
            if missing:
                raise DataError(f"--weight: none for {missing[0]}; give every source one")
            if not sum(self.weights.values()) > 0:
                raise DataError("--weight: all are 0; give a source a positive one")

    def source_options(self) -> SourceOptions:
        """The part that says how sources are read."""
        return SourceOptions(self.split_documents, self.field, self.format, self.documents)

    def options(self, names: Sequence[str]) -> dict[str, Any]:
        """What decides the result, as JSON without names of files; what was not asked for is left out."""
        options: dict[str, Any] = {
            "split_documents": self.split_documents or "file",
            "field": self.field or "text",
            "val_fraction": self.holdout.fraction,
            "val_documents": self.holdout.documents,
            "val_split": self.holdout.method,
            "seed": self.seed,
            "shard_tokens": self.shard_tokens,
        }
        if self.format:
            options["format"] = self.format
        if self.limits:
            options["limits"] = [[self.limits.documents.get(name), self.limits.bytes.get(name)] for name in names]
        if self.weights:
            options["weights"] = [self.weights[name] for name in names]
        return options
