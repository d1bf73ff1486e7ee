"""Which language a text is in."""

from __future__ import annotations

from functools import cache
from typing import Any

from smidgen.runtime.errors import ConfigError, MissingDependencyError

RULES = ("language",)

_JUDGED_CHARACTERS = 4000
"""The identifier walks every byte in Python; more text than this does not change its mind."""


@cache
def _identifier() -> Any:
    """py3langid's model (97 languages), which its wheel brings; probabilities are normalised."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise MissingDependencyError("py3langid", "data", "cleaning.languages") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def check_languages(languages: tuple[str, ...]) -> None:
    """Raise ConfigError for a code that is not known, MissingDependencyError without the identifier."""
    known = sorted(_identifier().labels)
    for language in languages:
        if language not in known:
            raise ConfigError(f"cleaning.languages = {language}: not known; use codes of {', '.join(known)}")


def language_of(text: str) -> tuple[str, float]:
    """(ISO 639-1 code, probability), judged by the first 4,000 characters."""
    code, probability = _identifier().classify(text[:_JUDGED_CHARACTERS])
    return code, float(probability)
