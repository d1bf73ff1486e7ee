"""Values that nobody has checked yet, of a file or a request: typed access whose errors name the file, the field, its
value and a remedy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

from smidgen.runtime.errors import ModelFolderError, SmidgenError

REQUIRED: Any = object()
"""In place of a default: the field must be there."""


class Fields:
    """The fields of a mapping: of a config.json, of a mapping inside it, of a file's metadata. A missing field and null
    are the same. `where` names the source in errors, `prefix` stands before the names there."""

    error: ClassVar[type[SmidgenError]] = ModelFolderError
    """What a refusal raises."""

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self.values = values
        self.where = where
        self.prefix = prefix

    def __contains__(self, name: str) -> bool:
        return self.value_of(name) is not None

    def value_of(self, name: str) -> Any:
        """The value as it stands; None where it is missing."""
        return self.values.get(name)

    def refuse(self, name: str, remedy: str) -> NoReturn:
        """Raise the error about the value of a field."""
        shown = json.dumps(self.value_of(name), ensure_ascii=False, default=str)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise self.error(f"{self.where}: {self.prefix}{name} = {shown}: {remedy}")

    def integer(self, name: str, default: int = REQUIRED, least: int = 0, most: int | None = None) -> int:
        value = self._value(name, default)
        fits = isinstance(value, int) and not isinstance(value, bool) and least <= value
        if not fits or (most is not None and value > most):
            bounds = f" from {least} to {most}" if most is not None else f" of at least {least}" if least else ""
            self.refuse(name, f"a whole number{bounds} is needed here")
        return int(value)

    def number(self, name: str, default: float = REQUIRED, least: float = -math.inf) -> float:
        value = self._value(name, default)
        try:
            fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        except OverflowError:
            fits = False
        if not fits or value < least:
            bounds = f" of at least {least:g}" if math.isfinite(least) else ""
            self.refuse(name, f"a finite number{bounds} is needed here")
        return float(value)

    def flag(self, name: str, default: bool = REQUIRED) -> bool:
        value = self._value(name, default)
        if not isinstance(value, bool):
            self.refuse(name, "true or false is needed here")
        return value

    def text(self, name: str, default: str = REQUIRED) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            self.refuse(name, "a text is needed here")
        return value

    def section(self, name: str) -> Self | None:
        """A mapping inside; None where it is missing, null or empty."""
        value = self.value_of(name)
        if not value:
            return None
        if not isinstance(value, Mapping):
            self.refuse(name, "a mapping is needed here")
        return type(self)(value, self.where, f"{self.prefix}{name}.")

    def must_be(self, name: str, allowed: tuple[Any, ...], remedy: str) -> None:
        """Refuse a field that is present with a value that is not allowed; absent or null passes."""
        value = self.value_of(name)
        if value is not None and value not in allowed:
            self.refuse(name, remedy)

    def _value(self, name: str, default: Any) -> Any:
        value = self.value_of(name)
        if value is not None:
            return value
        if default is REQUIRED:
            self.refuse(name, "this field is required")
        return default


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; raises ModelFolderError when there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path}: cannot be read as JSON: {error}; copy the file again") from None
    if not isinstance(values, dict):
        raise ModelFolderError(f"{path}: holds no JSON object; copy the file again")
    return values
