"""Torch-free contracts: engines, tokenizers, sampling, errors."""

from smidgen.runtime.errors import (
    ConfigError,
    ContextLengthError,
    DataError,
    MissingDependencyError,
    ModelFolderError,
    SmidgenError,
    TokenizerError,
    TrainingError,
)
from smidgen.runtime.protocols import Engine, EngineInfo, Event, FinishReason, Tokenizer
from smidgen.runtime.sampling import SamplingError, SamplingParams

__all__ = [
    "ConfigError",
    "ContextLengthError",
    "DataError",
    "Engine",
    "EngineInfo",
    "Event",
    "FinishReason",
    "MissingDependencyError",
    "ModelFolderError",
    "SamplingError",
    "SamplingParams",
    "SmidgenError",
    "Tokenizer",
    "TokenizerError",
    "TrainingError",
]
