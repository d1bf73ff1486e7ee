"""Typed, strict configuration: sections, presets and dotted overrides."""

from smidgen.config.cleaning import CleaningConfig, DecontaminationConfig, DuplicatesConfig
from smidgen.config.loading import (
    dump_config,
    field_paths,
    load_config,
    load_model_config,
    override_tree,
    preset_names,
    validate,
)
from smidgen.config.lora import Lora
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
from smidgen.config.optimization import (
    ActivationCheckpointing,
    AdamW,
    Lion,
    Muon,
    Optimizer,
    Schedule,
    ScheduleFreeAdamW,
)
from smidgen.config.quantization import Quantization, Scheme, Storage, VocabularyScheme
from smidgen.config.run import Config, DataConfig, TokenizerConfig
from smidgen.config.training import AUTO_BATCH_SIZE, TrainingConfig
from smidgen.config.tuning import Distillation, Dpo, Sft, TuningConfig

__all__ = [
    "AUTO_BATCH_SIZE",
    "ActivationCheckpointing",
    "AdamW",
    "BlockFP8Linear",
    "CleaningConfig",
    "Config",
    "DataConfig",
    "DecontaminationConfig",
    "DenseLinear",
    "Distillation",
    "Dpo",
    "DuplicatesConfig",
    "FeedForward",
    "GroupedQueryAttention",
    "Initialization",
    "LatentAttention",
    "LayerType",
    "Lion",
    "Lora",
    "ModelConfig",
    "Muon",
    "Norm",
    "Optimizer",
    "Quantization",
    "Schedule",
    "ScheduleFreeAdamW",
    "Scheme",
    "Sft",
    "Storage",
    "TernaryLinear",
    "TokenizerConfig",
    "TrainingConfig",
    "TuningConfig",
    "VocabularyScheme",
    "Yarn",
    "dump_config",
    "field_paths",
    "load_config",
    "load_model_config",
    "override_tree",
    "preset_names",
    "validate",
]
