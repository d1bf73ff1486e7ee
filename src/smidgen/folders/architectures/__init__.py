"""ModelConfig and Hugging Face's config.json, mapped by structure: the parts decide the class, never a name."""

from __future__ import annotations

from smidgen.config import ModelConfig, validate
from smidgen.folders.architectures.base import Architecture, Tree
from smidgen.folders.architectures.bitnet import BitNet
from smidgen.folders.architectures.deepseek import DeepseekV3
from smidgen.folders.architectures.gemma import Gemma3
from smidgen.folders.architectures.llama import Llama
from smidgen.folders.architectures.own import REMOTE_FILES, Own
from smidgen.folders.architectures.quantization import read_quantization, write_quantization
from smidgen.runtime.errors import ConfigError, ModelFolderError
from smidgen.runtime.fields import Fields, read_json

__all__ = [
    "ARCHITECTURES",
    "REMOTE_FILES",
    "Architecture",
    "Fields",
    "architecture_of",
    "read_config",
    "read_json",
    "write_config",
]

ARCHITECTURES: tuple[Architecture, ...] = (Llama(), Gemma3(), DeepseekV3(), BitNet(), Own())
"""In the order in which they are tried: the last describes every configuration."""


def architecture_of(config: ModelConfig) -> Architecture:
    """The class of transformers that computes what this configuration computes, or our own modelling file."""
    return next(architecture for architecture in ARCHITECTURES if architecture.describes(config))


def write_config(config: ModelConfig) -> Tree:
    """The fields of config.json that describe a configuration, how its weights are stored included."""
    architecture = architecture_of(config)
    fields = architecture.write(config)
    if config.quantization is None:
        return fields
    rounds_inputs = isinstance(architecture, Own) and config.rounds_activations
    return fields | {"quantization_config": write_quantization(config, rounds_inputs)}


def read_config(fields: Fields) -> ModelConfig:
    """The configuration of a config.json; raises ModelFolderError for a model we cannot run exactly."""
    known = {architecture.model_type: architecture for architecture in ARCHITECTURES}
    model_type = fields.text("model_type")
    if model_type not in known:
        fields.refuse("model_type", f"Smidgen knows {', '.join(known)}; use a model of one of these")
    tree: Tree = known[model_type].read(fields)
    try:
        config = validate(ModelConfig, tree)
        quantization = read_quantization(fields, config)
        return config if quantization is None else validate(ModelConfig, tree | {"quantization": quantization})
    except ConfigError as error:
        raise ModelFolderError(f"{fields.where}: {error}") from None
