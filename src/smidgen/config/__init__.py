"""Typed, strict configuration: sections, presets and dotted overrides."""

from smidgen.config.loading import (
    dump_config,
    field_paths,
    load_config,
    load_model_config,
    override_tree,
    preset_names,
    validate,
)
from smidgen.config.model import (
    BlockFP8Linear,
    DenseLinear,
    FeedForward,
    GroupedQueryAttention,
    Initialization,
    LatentAttention,
    LayerType,
    ModelConfig,
    Norm,
    TernaryLinear,
    Yarn,
)
from smidgen.config.optimization import AdamW, Muon, Schedule
from smidgen.config.run import Config, DataConfig, TokenizerConfig
from smidgen.config.training import TrainingConfig

__all__ = [
    "AdamW",
    "BlockFP8Linear",
    "Config",
    "DataConfig",
    "DenseLinear",
    "FeedForward",
    "GroupedQueryAttention",
    "Initialization",
    "LatentAttention",
    "LayerType",
    "ModelConfig",
    "Muon",
    "Norm",
    "Schedule",
    "TernaryLinear",
    "TokenizerConfig",
    "TrainingConfig",
    "Yarn",
    "dump_config",
    "field_paths",
    "load_config",
    "load_model_config",
    "override_tree",
    "preset_names",
    "validate",
]
