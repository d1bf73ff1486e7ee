"""Text that tests of cleaning share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

from smidgen.config import CleaningConfig, validate
from smidgen.data.cleaning import Cleaner, make_cleaner

STORY = (
    "There was once a small lighthouse at the end of a long pier, and nobody in the village could remember who had "
    "built it. Every evening an old woman climbed the stairs with a lamp in her hand. She said that ships have to be "
    "told where the rocks are, and that someone must tell them. One winter the snow lay so deep that she could not "
    "leave her house. The children of the village went out with shovels, dug a path to the pier, and carried the lamp "
    "up together."
)
MARKUP = ("<p>", "</p>", "&lt;p&gt;", "&amp;", "<div>", "<!doctype html><html>", "<p>\ud800")
BROKEN = ("Ã©", "â€œ", "schÃ¶n", "\r\n", "\u200b", "\x00", "e\u0301", "ﬁ", "\ud800", "\n\n", "  ", "\t", "…")
PERSONAL = ("a@b.co", "@", ".", "8.8.8.8", "2600::1", "AKIA" + "A" * 16, "-----BEGIN PRIVATE KEY-----")
FRAGMENTS = (*MARKUP, *BROKEN, *PERSONAL, "[1]", "[edit]", "javascript", "{", STORY)


@pytest.fixture(scope="session")
def story() -> str:
    """English prose that no rule objects to."""
    return STORY


@pytest.fixture(scope="session")
def cleaner_of() -> Callable[..., Cleaner]:
    """`cleaner_of(level="web", languages=["en"])`: a cleaner of a validated configuration."""

    def make(**fields: Any) -> Cleaner:
        return make_cleaner(validate(CleaningConfig, fields))

    return make


@pytest.fixture(scope="session")
def any_text() -> st.SearchStrategy[str]:
    """Any characters, lone surrogates too, and what the steps look for, in any order."""
    pieces = st.one_of(st.sampled_from(FRAGMENTS), st.text(st.characters(), max_size=12))
    return st.lists(pieces, max_size=12).map("".join)
