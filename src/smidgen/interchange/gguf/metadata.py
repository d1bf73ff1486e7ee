"""Typed access to a GGUF file's metadata; errors name the file, the key, its value and a remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from smidgen.runtime.errors import InterchangeError

_REQUIRED: Any = object()


class Metadata:
    """The keys of one architecture. `where` names the file in errors."""

    def __init__(
        self, values: Mapping[str, Any], prefix: str, where: str, hidden: frozenset[str] = frozenset()
    ) -> None:
        """`values`: of the whole file; `prefix` stands before every key asked for; `hidden` keys count as missing."""
        self.values = values
        self.prefix = prefix
        self.where = where
        self._hidden = hidden

    @property
    def original(self) -> Metadata:
        """The same with nothing hidden."""
        return Metadata(self.values, self.prefix, self.where)

    def without(self, *names: str) -> Metadata:
        """The same with some keys hidden."""
        return Metadata(self.values, self.prefix, self.where, self._hidden | set(names))

    def __contains__(self, name: str) -> bool:
        return self.values_of(name) is not None

    def values_of(self, name: str) -> Any:
        """The value of a key; None where it is missing."""
        return None if name in self._hidden else self.values.get(self.prefix + name)

    def refuse(self, name: str, remedy: str) -> NoReturn:
        """Raise InterchangeError about a key."""
        shown = json.dumps(self.values_of(name), ensure_ascii=False, default=str)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise InterchangeError(f"{self.where}: {self.prefix}{name} = {shown}: {remedy}")

    def integer(self, name: str, default: int = _REQUIRED) -> int:
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self.refuse(name, "a whole number is needed here")
        return value

    def number(self, name: str, default: float = _REQUIRED) -> float:
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(name, "a number is needed here")
        return float(value)

    def text(self, name: str, default: str = _REQUIRED) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            self.refuse(name, "a text is needed here")
        return value

    def must_be(self, name: str, allowed: tuple[Any, ...], remedy: str) -> None:
        """Refuse a key that is present with a value that is not allowed."""
        value = self.values_of(name)
        if value is not None and value not in allowed:
            self.refuse(name, remedy)

    def _value(self, name: str, default: Any) -> Any:
        value = self.values_of(name)
        if value is not None:
            return value
        if default is _REQUIRED:
            self.refuse(name, "this key is required")
        return default
