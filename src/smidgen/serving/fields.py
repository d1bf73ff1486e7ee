"""Strict reading of a JSON object: every field is known, of its type and in its range, or the request is refused."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable
from typing import Any, NoReturn

from smidgen.serving.errors import ApiError, invalid

MAX_DEPTH = 32
"""Nesting of a body; the interface needs five levels."""


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a request's body. Raises ApiError (400), also for what JSON leaves undefined."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_unique)
    except ApiError:
        raise
    except UnicodeDecodeError as error:
        raise invalid("body", f"byte {error.start} is no valid UTF-8") from None
    except json.JSONDecodeError as error:
        raise invalid("body", f"no valid JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise invalid("body", f"more than {MAX_DEPTH} levels of lists and objects") from None
    except ValueError:  # a number of more digits than Python converts
        raise invalid("body", "a number has too many digits") from None
    if not isinstance(value, dict):
        raise invalid("body", f"{kind(value)} where an object is expected")
    _check_depth(value)
    return value


def _no_constant(name: str) -> NoReturn:
    raise invalid("body", f"{name} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise invalid(shown(name), "given twice")
            seen.add(name)
    return values


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise invalid("body", f"more than {MAX_DEPTH} levels of lists and objects")


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}
    return names[type(value)]


def shown(text: str) -> str:
    """A client's text as part of a message: short, and safe to encode."""
    text = text if len(text) <= 60 else text[:59] + "…"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def check_text(name: str, value: Any) -> str:
    """`value`, if it is text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise invalid(name, f"{kind(value)} where text is expected")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise invalid(name, f"a lone surrogate at character {error.start}") from None
    return value


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value`, if it is a whole number in [low, high]."""
    if type(value) is not int:
        raise invalid(name, f"{kind(value)} where a whole number is expected")
    if value < low:
        raise invalid(name, f"{_number(value)} is below {low}")
    if high is not None and value > high:
        raise invalid(name, f"{_number(value)} is above {high}")
    return value


def _number(value: float) -> str:
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a number of more than 20 digits"
    return str(value)


class Fields:
    """Reads an object field by field; null is as good as absent. `finish` refuses what was not read."""

    def __init__(self, values: dict[str, Any], prefix: str = "") -> None:
        """`prefix`: where the object stands, e.g. `messages[0].`, for the names in errors."""
        self._values = values
        self._prefix = prefix
        self._read: dict[str, None] = {}

    def get(self, name: str) -> Any:
        """The raw value; None where it is absent."""
        self._read[name] = None
        return self._values.get(name)

    def name(self, name: str) -> str:
        """The field's name from the body on."""
        return self._prefix + name

    def text(self, name: str) -> str | None:
        value = self.get(name)
        return None if value is None else check_text(self.name(name), value)

    def flag(self, name: str) -> bool:
        value = self.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise invalid(self.name(name), f"{kind(value)} where true or false is expected")
        return value

    def integer(self, name: str, low: int, high: int | None = None) -> int | None:
        value = self.get(name)
        return None if value is None else check_integer(self.name(name), value, low, high)

    def number(self, name: str, low: float, high: float, above: bool = False) -> float | None:
        """A number in [low, high], or in (low, high] with `above`."""
        value = self.get(name)
        if value is None:
            return None
        if type(value) not in (int, float):
            raise invalid(self.name(name), f"{kind(value)} where a number is expected")
        if value > high or not math.isfinite(min(value, high)):
            raise invalid(self.name(name), f"{_number(value)} is above {high:g}")
        if value < low or (above and value == low):
            raise invalid(
                self.name(name),
                f"{_number(value)} is not above {low:g}" if above else f"{_number(value)} is below {low:g}",
            )
        return float(value)

    def refuse(self, names: Iterable[str], reason: str) -> None:
        """Fields that the interface defines and this server does not have."""
        for name in names:
            if self.get(name) is not None:
                raise invalid(self.name(name), reason, "unsupported_parameter")

    def finish(self) -> None:
        """Refuse fields that nobody read."""
        for name in self._values:
            if name not in self._read:
                close = difflib.get_close_matches(name[:60], self._read, n=1)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                raise invalid(self.name(shown(name)), f"no such field{hint}", "unknown_parameter")
