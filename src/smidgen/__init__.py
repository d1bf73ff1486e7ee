"""Smidgen: train, evaluate and run small language models.

Importing it is cheap: torch is loaded by the first call that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smidgen import edge
    from smidgen.folders import build, load, load_tokenizer, save
    from smidgen.inference import generate

__version__ = "0.1.0"
__all__ = ["__version__", "build", "edge", "generate", "load", "load_tokenizer", "save"]

_HOME = {
    "build": "smidgen.folders",
    "load": "smidgen.folders",
    "load_tokenizer": "smidgen.folders",
    "save": "smidgen.folders",
    "generate": "smidgen.inference",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name == "edge":
        return importlib.import_module("smidgen.edge")
    raise AttributeError(f"module 'smidgen' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
