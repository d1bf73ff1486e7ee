"""The fields of a config.json for the edge engine: sizes that native code can trust, and what it does not run."""

from __future__ import annotations

from collections.abc import Mapping

from smidgen.runtime import fields
from smidgen.runtime.fields import REQUIRED, read_json

__all__ = ["LARGEST", "Fields", "read_json"]

LARGEST = 1 << 20
"""No size in a configuration exceeds this (vocabularies and contexts of small models stay below)."""


class Fields(fields.Fields):
    """The fields of a JSON object; a refusal names the file, the field and its value."""

    def size(self, name: str, default: int = REQUIRED, least: int = 1) -> int:
        return self.integer(name, default, least, LARGEST)

    def number(self, name: str, default: float = REQUIRED, least: float = 0.0) -> float:
        """Not negative unless `least` says otherwise."""
        return super().number(name, default, least)

    def choice(self, name: str, allowed: Mapping[str, str] | tuple[str, ...], default: str = REQUIRED) -> str:
        value = self._value(name, default)
        if not isinstance(value, str) or value not in allowed:
            self.refuse(name, f"the edge engine runs {', '.join(allowed)}")
        return allowed[value] if isinstance(allowed, Mapping) else value

    def absent(self, *names: str) -> None:
        for name in names:
            if self.value_of(name) not in (None, False):
                self.refuse(name, "Smidgen does not implement this; use a model without it")
