"""Model and run folders: what a MODEL argument means, loading and saving."""

from smidgen.folders.loading import build, load, load_tokenizer, model_config
from smidgen.folders.model_folder import carry_settings, check_target, load_folder, read_model_config, save
from smidgen.folders.resolve import ModelSource, resolve

__all__ = [
    "ModelSource",
    "build",
    "carry_settings",
    "check_target",
    "load",
    "load_folder",
    "load_tokenizer",
    "model_config",
    "read_model_config",
    "resolve",
    "save",
]
