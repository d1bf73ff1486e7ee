"""The chat page: one document of our own, assembled from three files of this folder; it fetches nothing from elsewhere.

Style and script stand inside it, so that it needs no second request; the content policy lets exactly these two run.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Page:
    """The document with the policy that its response must carry."""

    html: bytes
    content_policy: str


def document() -> Page:
    """The page as it is served."""
    folder = resources.files(__name__)
    html, style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js"))
    html = html.replace("/* page.css */", style).replace("/* page.js */", script)
    policy = [
        "default-src 'none'",
        f"script-src {_source(script)}",
        f"style-src {_source(style)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]
    return Page(html.encode("utf-8"), "; ".join(policy))


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode()}'"
