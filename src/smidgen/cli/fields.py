"""The configuration's fields as help text."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

_COLUMN = 46


def describe_fields(sections: Sequence[str]) -> str:
    """Every overridable field of the sections (`model`, `training`, …): its flag, default and meaning."""
    from smidgen.config import Config, field_paths

    lines = []
    for section in sections:
        lines += ["", f"{section}:"]
        for path, field in field_paths(Config):
            if path.startswith(f"{section}."):
                lines += _describe(path, field)
    return "\n".join(lines)


def _describe(path: str, field: Any) -> list[str]:
    width = min(shutil.get_terminal_size().columns, 120)
    meaning = " ".join((field.description or "").split())
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if len(choices) > 1:
        meaning = f"{' | '.join(map(str, choices))}. {meaning}".strip()
    default = "" if field.is_required() else f" (default {_shown(field.default)})"
    text = f"{meaning}{default}".strip()
    flag = f"  --{path}"
    wrapped = textwrap.wrap(text, max(width - _COLUMN, 30)) or [""]
    if len(flag) >= _COLUMN:
        return [flag, *(" " * _COLUMN + line for line in wrapped)]
    return [f"{flag:<{_COLUMN}}{wrapped[0]}".rstrip(), *(" " * _COLUMN + line for line in wrapped[1:])]


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value)
