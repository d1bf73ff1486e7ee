"""One document through the steps that a configuration asks for."""

from __future__ import annotations

import difflib
import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

from smidgen.data.cleaning import c4, decontamination, gopher, language, length
from smidgen.data.cleaning.edits import edits_of
from smidgen.data.cleaning.keys import Keys
from smidgen.data.cleaning.minhash import MinHash
from smidgen.data.cleaning.paragraphs import split_paragraphs
from smidgen.data.cleaning.words import stable_hash
from smidgen.runtime.errors import ConfigError

if TYPE_CHECKING:
    from smidgen.config.cleaning import CleaningConfig

SKIPPABLE_RULES = (
    *c4.LINE_RULES,
    *length.RULES,
    *language.RULES,
    *gopher.QUALITY_RULES,
    *gopher.REPETITION_RULES,
    *c4.PAGE_RULES,
    *decontamination.RULES,
)

_MAX_ROUNDS = 10
"""Edits are repeated until they change nothing; text that never settles is dropped as `unstable`."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What became of one document."""

    text: str | None
    """The cleaned text; None when a rule dropped the document."""
    rule: str | None = None
    """The rule that dropped it."""
    edits: Mapping[str, int] = field(default_factory=dict)
    """By edit: replacements (scrubbing), lines or markers removed (C4), else 1 when it changed the document."""


class Cleaner:
    """Stateless and picklable: the same text gives the same result in every process, and its result gives itself.

    Edits first, repeated until none changes anything (an entity may hide an entity, a removed character join two halves
    of an address); then the filters, which see the text as it will be kept.
    """

    def __init__(self, config: CleaningConfig) -> None:
        """Raises ConfigError, DataError or MissingDependencyError for what cannot be done, before any document."""
        _check(config)
        self._config = config
        self._edits = edits_of(config)
        self._evaluation = decontamination.EvaluationNgrams(config.decontamination)
        near = config.duplicates.near
        self._minhash = MinHash(config.duplicates.permutations, config.duplicates.near_ngram) if near else None

    @property
    def active(self) -> bool:
        """Text may be changed or dropped; False lets the caller skip cleaning altogether."""
        return self._config != type(self._config)()

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that decides the result: configuration, evaluation sets, versions of libraries."""
        config = self._config.model_dump(mode="json")
        del config["level"], config["decontamination"]["files"]  # what they stand for counts
        used = {
            "ftfy": self._config.repair_encoding,
            "resiliparse": self._config.html != "keep",
            "py3langid": bool(self._config.languages),
        }
        versions = {package: _version(package) for package, is_used in used.items() if is_used}
        parts = [config, self._evaluation.digest_parts(), versions, unicodedata.unidata_version]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def __call__(self, text: str) -> Cleaned:
        """Clean one document."""
        edits: dict[str, int] = {}
        for _ in range(_MAX_ROUNDS):
            before = text
            for edit in self._edits:
                text = edit(text, edits)
            if text == before:
                break
        else:
            return Cleaned(None, "unstable", edits)
        if not text.strip():
            return Cleaned(None, "empty", edits)
        rule = next((rule for rule in self._violations(text) if rule not in self._config.skip_rules), None)
        return Cleaned(text if rule is None else None, rule, edits)

    def keys(self, text: str) -> Keys | None:
        """Keys of a cleaned text for `DuplicateFilter`; None when no duplicate rule is on."""
        rules = self._config.duplicates
        if not (rules.documents or rules.paragraphs or rules.near):
            return None
        document = b""
        if rules.documents:
            document = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        paragraphs = [
            stable_hash(part.strip()) if len(part.split()) >= rules.min_paragraph_words else 0
            for part in (split_paragraphs(text) if rules.paragraphs else ())
        ]
        signature = self._minhash.signature(text) if self._minhash else np.empty(0, np.uint32)
        return Keys(document, np.array(paragraphs, dtype=np.uint64), signature)

    def _violations(self, text: str) -> Iterator[str]:
        """Names of the rules that the text breaks, cheap ones first."""
        config = self._config
        words = text.split()
        yield from length.violations(text, words, config)
        if config.gopher_quality:
            yield from gopher.quality_violations(text, words)
        if config.c4:
            yield from c4.page_violations(text)
        if config.languages:
            code, probability = language.language_of(text)
            if code not in config.languages or probability < config.language_confidence:
                yield "language"
        if config.gopher_repetition:
            yield from gopher.repetition_violations(text, words)
        if self._evaluation and self._evaluation.overlaps(text):
            yield "evaluation_overlap"


def make_cleaner(config: CleaningConfig) -> Cleaner:
    """The cleaner that `config` describes; raises a SmidgenError for what cannot be done, before any document."""
    return Cleaner(config)


def _check(config: CleaningConfig) -> None:
    for rule in config.skip_rules:
        if rule not in SKIPPABLE_RULES:
            close = difflib.get_close_matches(rule, SKIPPABLE_RULES, n=1, cutoff=0.0)
            raise ConfigError(f"cleaning.skip_rules = {rule}: no such rule; did you mean '{close[0]}'?")
    if config.languages:
        language.check_languages(config.languages)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
