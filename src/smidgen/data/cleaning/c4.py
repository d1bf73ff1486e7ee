"""C4's rules for lines and pages (Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.2).

Left out: its list of offensive words, which drops much that is about bodies and people, and its removal of repeated
spans of three sentences, for which `cleaning.duplicates` stands. A sentence ends at a full stop, exclamation or
question mark that white space follows; C4 itself asks a tokenizer of sentences.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

MIN_LINE_WORDS = 5
MIN_SENTENCES = 3
"""As in the paper; the code that was published with it asks for 5."""

LINE_RULES = ("c4_citations", "c4_terminal_punctuation", "c4_short_lines", "c4_javascript", "c4_policies")
PAGE_RULES = ("c4_lorem_ipsum", "c4_curly_bracket", "c4_few_sentences")

_TERMINAL = (".", "!", "?", '"', "”")
_ELLIPSIS = "..."
_CITATION = re.compile(r"\[(?:\d{0,9}|edit|citation needed)\]")
_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_SENTENCE_END = re.compile(r"[.!?][\"”’')\]]{0,3}(?=\s|$)")


def edit_lines(text: str, skip: Collection[str] = ()) -> tuple[str, dict[str, int]]:
    """The text without the lines and markers that C4 removes, and how many by rule. Blank lines stay."""
    counts: dict[str, int] = {}
    if "c4_citations" not in skip:
        text, count = _CITATION.subn("", text)
        if count:
            counts["c4_citations"] = count
    kept = []
    for line in text.split("\n"):
        broken = next((rule for rule in _line_violations(line) if rule not in skip), None)
        if broken is None:
            kept.append(line)
        else:
            counts[broken] = counts.get(broken, 0) + 1
    return "\n".join(kept), counts


def page_violations(text: str) -> Iterator[str]:
    """Names of the rules for pages that a text breaks."""
    if "lorem ipsum" in text.lower():
        yield "c4_lorem_ipsum"
    if "{" in text:
        yield "c4_curly_bracket"
    if sum(1 for _ in _SENTENCE_END.finditer(text)) < MIN_SENTENCES:
        yield "c4_few_sentences"


def _line_violations(line: str) -> Iterator[str]:
    stripped = line.strip()
    if not stripped:
        return
    if not stripped.endswith(_TERMINAL) or stripped.endswith(_ELLIPSIS):
        yield "c4_terminal_punctuation"
    if len(stripped.split(maxsplit=MIN_LINE_WORDS - 1)) < MIN_LINE_WORDS:
        yield "c4_short_lines"
    lower = stripped.lower()
    if "javascript" in lower:
        yield "c4_javascript"
    if any(phrase in lower for phrase in _POLICIES):
        yield "c4_policies"
