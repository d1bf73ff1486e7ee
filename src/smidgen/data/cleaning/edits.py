"""The edits that a configuration asks for, in the order in which they act."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING

from smidgen.data.cleaning import c4
from smidgen.data.cleaning.characters import (
    fold_whitespace,
    remove_control_characters,
    repair_encoding,
    require_ftfy,
)
from smidgen.data.cleaning.markup import require_resiliparse, strip_markup
from smidgen.data.cleaning.scrubbing import SCRUBBERS

if TYPE_CHECKING:
    from smidgen.config.cleaning import CleaningConfig

Edit = Callable[[str, dict[str, int]], str]
"""Takes a text, notes in the dictionary what it changes, and gives the changed text."""


def edits_of(config: CleaningConfig) -> tuple[Edit, ...]:
    """The edits, picklable; raises MissingDependencyError for one whose library is not installed."""
    edits: list[Edit] = []
    if config.html != "keep":
        require_resiliparse()
        edits.append(partial(_change, "html", partial(strip_markup, main_content=config.html == "main")))
    if config.repair_encoding:
        require_ftfy()
        edits.append(partial(_change, "encoding", repair_encoding))
    if config.control_characters:
        edits.append(partial(_change, "control_characters", remove_control_characters))
    if config.normalization != "none":
        edits.append(partial(_change, "normalization", partial(unicodedata.normalize, config.normalization)))
    edits += [partial(_replace, name, scrub) for name, scrub in SCRUBBERS.items() if name in config.scrub]
    if config.c4:
        edits.append(partial(_remove_lines, config.skip_rules))
    if config.whitespace:
        edits.append(partial(_change, "whitespace", fold_whitespace))
    return tuple(edits)


def _change(name: str, step: Callable[[str], str], text: str, edits: dict[str, int]) -> str:
    """Counts 1 a document, however often the step is repeated."""
    after = step(text)
    if after != text:
        edits[name] = 1
    return after


def _replace(name: str, step: Callable[[str], tuple[str, int]], text: str, edits: dict[str, int]) -> str:
    """Counts every replacement."""
    after, count = step(text)
    if count:
        edits[name] = edits.get(name, 0) + count
    return after


def _remove_lines(skip: Collection[str], text: str, edits: dict[str, int]) -> str:
    """Counts every line and marker by the rule that removed it."""
    after, counts = c4.edit_lines(text, skip)
    for rule, count in counts.items():
        edits[rule] = edits.get(rule, 0) + count
    return after
