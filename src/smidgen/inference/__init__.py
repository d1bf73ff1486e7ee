"""The PyTorch engine: caches, batching, sampling."""

from smidgen.inference.engine import TorchEngine
from smidgen.inference.generation import engine_for, generate

__all__ = ["TorchEngine", "engine_for", "generate"]
