"""Edits of characters: mojibake, Unicode normalisation, control characters, white space."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from smidgen.runtime.errors import MissingDependencyError

_LINE_BREAKS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
# Cc but for tab and line feed; soft hyphen, zero-width space and word joiner, bidirectional overrides and isolates,
# byte-order mark, interlinear annotations, noncharacters, surrogates. U+200C and U+200D stay (Persian, Indic scripts
# and emoji need them), and so do the direction marks U+200E and U+200F.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u2060-\u2064\u202a-\u202e\u2066-\u206f"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\ufdd0-\ufdef\ud800-\udfff]"
)


@cache
def _ftfy() -> tuple[Any, Any]:
    try:
        import ftfy
    except ImportError:
        raise MissingDependencyError("ftfy", "data", "cleaning.repair_encoding") from None
    # Only what decoding with the wrong table broke; quotes, ligatures and widths are the author's.
    config = ftfy.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )
    return ftfy, config


def require_ftfy() -> None:
    """Raise MissingDependencyError unless ftfy is installed."""
    _ftfy()


def repair_encoding(text: str) -> str:
    """Undo mojibake: UTF-8 that was decoded as Latin-1, Windows-1252 and the like, once or repeatedly (ftfy)."""
    if text.isascii():  # what is broken always has other characters
        return text
    ftfy, config = _ftfy()
    return str(ftfy.fix_text(text, config))


def remove_control_characters(text: str) -> str:
    """Line breaks of any kind become a line feed; control and invisible format characters go."""
    return _INVISIBLE.sub("", _LINE_BREAKS.sub("\n", text))


def fold_whitespace(text: str) -> str:
    """One space between words, no space at line ends, at most one blank line in a row, none at either end.

    The space before a line's first word stays: it may be code, a poem or a list.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        words = line.split()
        if words:
            lines.append(line[: len(line) - len(line.lstrip())] + " ".join(words))
        elif lines and lines[-1]:
            lines.append("")
    if lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines)
