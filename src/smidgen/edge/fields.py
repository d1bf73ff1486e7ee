"""JSON that nobody has checked yet: every value is read with the type and range that it must have."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from smidgen.runtime.errors import ModelFolderError

LARGEST = 1 << 20
"""No size in a configuration exceeds this (vocabularies and contexts of small models stay below)."""


class Fields:
    """The fields of a JSON object; a refusal names the file, the field and its value."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def refuse(self, name: str, remedy: str) -> NoReturn:
        raise ModelFolderError(
            f"{self.where}: {name} = {json.dumps(self.values.get(name), default=str)[:60]}: {remedy}"
        )

    def size(self, name: str, default: int | None = None, least: int = 1) -> int:
        value = self.values.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
            self.refuse(name, f"a whole number from {least} to {LARGEST} is needed here")
        return value

    def number(self, name: str, default: float | None = None, least: float = 0.0) -> float:
        value = self.values.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
            self.refuse(name, "a finite number, not negative, is needed here")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            self.refuse(name, "true or false is needed here")
        return value

    def choice(self, name: str, allowed: Mapping[str, str] | tuple[str, ...], default: str | None = None) -> str:
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, str) or value not in allowed:
            self.refuse(name, f"the edge engine runs {', '.join(allowed)}")
        return allowed[value] if isinstance(allowed, Mapping) else value

    def section(self, name: str) -> Fields | None:
        value = self.values.get(name)
        if not value:
            return None
        if not isinstance(value, dict):
            self.refuse(name, "a mapping is needed here")
        return Fields(value, f"{self.where}: {name}")

    def absent(self, *names: str) -> None:
        for name in names:
            if self.values.get(name) not in (None, False):
                self.refuse(name, "Smidgen does not implement this; use a model without it")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelFolderError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path}: cannot be read as JSON: {error}; copy the file again") from None
    if not isinstance(values, dict):
        raise ModelFolderError(f"{path}: holds no JSON object; copy the file again")
    return values
