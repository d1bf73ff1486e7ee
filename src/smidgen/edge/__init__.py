"""The edge engine: small models by native code, without PyTorch.

    engine = smidgen.edge.load("folder", threads=2)
    engine.generate("Once upon a time", max_new_tokens=50)
    engine.forward([1, 2, 3])                     # float32 numpy [3, vocab_size]

It is an `Engine` (smidgen.runtime) as the PyTorch one is. Importing it loads no native code and no numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smidgen.edge.engine import EdgeEngine
    from smidgen.edge.loading import load

__all__ = ["EdgeEngine", "load"]

_HOME = {"EdgeEngine": "smidgen.edge.engine", "load": "smidgen.edge.loading"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'smidgen.edge' has no attribute '{name}'")
