"""Documents that hold a piece of an evaluation set, found by runs of words (Brown et al. 2020, GPT-3, appendix C)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smidgen.data.cleaning.words import comparable_words, hash_ngrams, hash_words
from smidgen.runtime.errors import DataError

if TYPE_CHECKING:
    from smidgen.config.cleaning import DecontaminationConfig

RULES = ("evaluation_overlap",)

logger = logging.getLogger(__name__)


class EvaluationNgrams:
    """The n-grams of words of evaluation sets, as sorted hashes. Case and punctuation do not count."""

    def __init__(self, config: DecontaminationConfig) -> None:
        """Reads the files; raises DataError naming file and line."""
        found: dict[int, list[NDArray[np.uint64]]] = {}
        short = 0
        for item in (item for name in config.files for item in _items(Path(name))):
            words = hash_words(comparable_words(item))
            if len(words) < config.min_words:
                short += 1
                continue
            length = min(config.ngram, len(words))
            found.setdefault(length, []).append(hash_ngrams(words, length))
        if config.files and not found:
            raise DataError(
                f"cleaning.decontamination.files = {', '.join(config.files)}: no item has "
                f"{config.min_words} words; lower cleaning.decontamination.min_words or name other files"
            )
        if short:
            logger.info("%d evaluation items of fewer than %d words are not looked for", short, config.min_words)
        self._hashes = {length: np.unique(np.concatenate(parts)) for length, parts in sorted(found.items())}

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def digest_parts(self) -> list[Any]:
        """What tells one collection from another."""
        return [[length, hashlib.sha256(hashes.tobytes()).hexdigest()] for length, hashes in self._hashes.items()]

    def overlaps(self, text: str) -> bool:
        """The text holds an n-gram of an evaluation set, or a whole item that is shorter than one."""
        words = hash_words(comparable_words(text))
        return any(_meet(hash_ngrams(words, length), hashes) for length, hashes in self._hashes.items())


def _meet(some: NDArray[np.uint64], table: NDArray[np.uint64]) -> bool:
    """Whether any value stands in a sorted table. Unlike numpy's isin this does not sort the table again each time."""
    places = np.minimum(np.searchsorted(table, some), len(table) - 1)
    return bool((table[places] == some).any())


def _items(path: Path) -> Iterator[str]:
    """Every string of every object of JSON Lines, or every line of text."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if path.suffix not in {".jsonl", ".ndjson"}:
                    yield line
                elif line.strip():
                    try:
                        yield from _strings(json.loads(line))
                    except (ValueError, RecursionError) as error:
                        raise DataError(f"{path}, line {number}: no valid JSON ({error}); repair it") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text ({error.reason}); convert or unpack it") from None
    except OSError as error:
        raise DataError(
            f"cleaning.decontamination.files = {path}: cannot be read: {error.strerror}; check the name"
        ) from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
