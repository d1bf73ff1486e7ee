"""The base of every configuration section, and the errors its checks raise."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Part(BaseModel):
    """A section of the configuration: strict, frozen, no unknown keys; docstrings under fields describe them."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, use_attribute_docstrings=True
    )


def impossible(field: str, value: Any, remedy: str) -> PydanticCustomError:
    """The error of a field that cannot stand beside the others of its section.

    `field` is a dotted path below the section that checks; `remedy` says what is wrong and what to do.
    """
    return PydanticCustomError("impossible", "{remedy}", {"field": field, "value": value, "remedy": remedy})
