"""The base of every configuration section, and the errors its checks raise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


class Part(BaseModel):
    """A section of the configuration: strict, frozen, no unknown keys; docstrings under fields describe them."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _with_default_kinds(cls, given: Any) -> Any:
        """A section that leaves out its `kind` is of the kind that stands where the whole section is left out."""
        if not isinstance(given, Mapping):
            return given
        named = dict(given)
        for name, field in cls.model_fields.items():
            section, kind = named.get(name), getattr(field.default, "kind", None)
            if kind is not None and isinstance(section, Mapping):
                named[name] = {"kind": kind, **section}
        return named


def impossible(field: str, value: Any, remedy: str) -> PydanticCustomError:
    """The error of a field that cannot stand beside the others of its section.

    `field` is a dotted path below the section that checks; `remedy` says what is wrong and what to do.
    """
    return PydanticCustomError("impossible", "{remedy}", {"field": field, "value": value, "remedy": remedy})
