"""Typed access to a GGUF file's metadata; errors name the file, the key, its value and a remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from smidgen.runtime.errors import InterchangeError, SmidgenError
from smidgen.runtime.fields import Fields


class Metadata(Fields):
    """The keys of one architecture. `where` names the file in errors."""

    error: ClassVar[type[SmidgenError]] = InterchangeError

    def __init__(
        self, values: Mapping[str, Any], where: str, prefix: str = "", hidden: frozenset[str] = frozenset()
    ) -> None:
        """`values`: of the whole file; `prefix` stands before every key asked for; `hidden` keys count as missing."""
        super().__init__(values, where, prefix)
        self._hidden = hidden

    @property
    def original(self) -> Metadata:
        """The same with nothing hidden."""
        return Metadata(self.values, self.where, self.prefix)

    def without(self, *names: str) -> Metadata:
        """The same with some keys hidden."""
        return Metadata(self.values, self.where, self.prefix, self._hidden | set(names))

    def value_of(self, name: str) -> Any:
        """The value of a key; None where it is missing."""
        return None if name in self._hidden else self.values.get(self.prefix + name)
