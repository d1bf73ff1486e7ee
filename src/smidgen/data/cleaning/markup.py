"""From HTML to text."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from smidgen.runtime.errors import MissingDependencyError

_TAGS = (
    "html head body title meta link script style div p span a b i em strong br hr img table tr td ul ol li h[1-6] "
    "article section main header footer nav aside form figure blockquote pre center font"
)
_MARKUP = re.compile(
    rf"\s*(?:<!doctype\s+html|<\?xml[^<>]{{0,200}}>\s*<(?:!doctype\s+)?html|</?(?:{'|'.join(_TAGS.split())})[\s/>])",
    re.IGNORECASE,
)


_SURROGATE = re.compile("[\ud800-\udfff]")
_TAG = re.compile(r"<(/?)([a-z][a-z0-9-]*)", re.IGNORECASE)
# Elements without an end, and those whose end may be left out: these do not nest.
_FLAT = frozenset("area base br col embed hr img input link meta param source track wbr p li dt dd tr td th".split())

MAX_DEPTH = 512
"""Elements within each other, as browsers allow; in deeper pages the search for the article takes quadratic time."""


def is_html(text: str) -> bool:
    """The text begins with markup. Text that only speaks of tags, or quotes them, does not."""
    return _MARKUP.match(text) is not None


@cache
def _extractor() -> Callable[..., Any]:
    try:
        from resiliparse.extract.html2text import extract_plain_text
    except ImportError:
        raise MissingDependencyError("resiliparse", "data", "cleaning.html") from None
    return extract_plain_text


def require_resiliparse() -> None:
    """Raise MissingDependencyError unless resiliparse is installed."""
    _extractor()


def strip_markup(text: str, main_content: bool) -> str:
    """The visible text of an HTML page, paragraphs and lists kept apart; other text as it is.

    main_content: only the article, without navigation, footers and forms (resiliparse's rules); everything where
        elements nest more than MAX_DEPTH deep.
    """
    if not is_html(text):
        return text
    main_content = main_content and _depth(text) <= MAX_DEPTH
    text = _SURROGATE.sub("\ufffd", text)  # the parser takes only what UTF-8 can say
    return str(_extractor()(text, preserve_formatting=True, main_content=main_content, alt_texts=False))


def _depth(page: str) -> int:
    """About how deep elements nest, by counting tags."""
    depth = deepest = 0
    for match in _TAG.finditer(page):
        if match[2].lower() in _FLAT:
            continue
        depth = max(depth - 1, 0) if match[1] else depth + 1
        deepest = max(deepest, depth)
    return deepest
