"""The PyTorch engine: caches, batching, sampling."""

from smidgen.inference.engine import TorchEngine
from smidgen.inference.generation import default_length, engine_for, generate

__all__ = ["TorchEngine", "default_length", "engine_for", "generate"]
