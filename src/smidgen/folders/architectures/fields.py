"""Reading a Hugging Face config.json: typed access whose errors name the file, the field, its value and a remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from smidgen.runtime.errors import ModelFolderError

_REQUIRED: Any = object()


class Fields:
    """The fields of a config.json, or of a mapping inside it. `where` names it in errors."""

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self.values = values
        self.where = where
        self.prefix = prefix

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def refuse(self, name: str, remedy: str) -> NoReturn:
        """Raise ModelFolderError about the value of a field."""
        shown = json.dumps(self.values.get(name), ensure_ascii=False)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise ModelFolderError(f"{self.where}: {self.prefix}{name} = {shown}: {remedy}")

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

    def flag(self, name: str, default: bool = _REQUIRED) -> bool:
        value = self._value(name, default)
        if not isinstance(value, bool):
            self.refuse(name, "true or false is needed here")
        return value

    def text(self, name: str, default: str = _REQUIRED) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            self.refuse(name, "a text is needed here")
        return value

    def section(self, name: str) -> Fields | None:
        """A mapping inside; None where it is missing, null or empty."""
        value = self.values.get(name)
        if not value:
            return None
        if not isinstance(value, Mapping):
            self.refuse(name, "a mapping is needed here")
        return Fields(value, self.where, f"{self.prefix}{name}.")

    def must_be(self, name: str, allowed: tuple[Any, ...], remedy: str) -> None:
        """Refuse a field that is present with a value we do not implement; absent or null passes."""
        value = self.values.get(name)
        if value is not None and value not in allowed:
            self.refuse(name, remedy)

    def _value(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is not None:
            return value
        if default is _REQUIRED:
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
