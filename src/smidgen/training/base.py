"""Training that goes on from a model: `tuning.base` decides the section `model` and the first weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.config import Config, ModelConfig, Quantization, override_tree, preset_names, validate
from smidgen.config.loading import merge, read_tree
from smidgen.folders import carry_settings, load, load_tokenizer, model_config, save
from smidgen.folders import resolve as find_folder
from smidgen.folders.adapter import name_base
from smidgen.folders.run import is_run_folder
from smidgen.model import Decoder
from smidgen.model.growth import grow_vocabulary
from smidgen.model.lora import add_lora, trainable_share
from smidgen.model.quantized import refuse_training
from smidgen.model.requantized import ternary_config, to_ternary, use_fake_int4
from smidgen.quantization import quantize
from smidgen.runtime.errors import ConfigError
from smidgen.runtime.protocols import Tokenizer

logger = logging.getLogger(__name__)

Tree = dict[str, Any]


def load_training_config(
    source: str | Path,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    *,
    as_base: bool = False,
) -> Config:
    """The configuration of a training from CONFIG or MODEL, with dotted overrides.

    source: a preset, a YAML file or a run folder, whose configuration it is; or a model folder, which becomes
    `tuning.base`; with `as_base` a run folder does too. Where `tuning.base` is set, the section `model` is the base's.
    `defaults`: fields that stand where neither source nor overrides say anything; a source that is a run folder has
    said everything. Raises ConfigError for fields that cannot be, ModelFolderError for a base that is none.
    """
    given = override_tree(overrides)
    is_run = is_run_folder(source) and not as_base
    is_configuration = is_run or (_is_configuration(source) and not as_base)
    written: Tree = read_tree(source) if is_configuration else {"tuning": {"base": str(source)}}
    tree = merge(written, given)
    if defaults is not None and not is_run:
        tree = merge(_fitting(defaults, tree), tree)
    base = (tree.get("tuning") or {}).get("base")
    recorded = (written.get("tuning") or {}).get("base") if is_run else None
    if base is not None and base != recorded:
        if "model" in given:
            raise ConfigError(f"model: tuning.base = {base} decides this section; leave it out")
        found = model_config(base)
        if not tree["tuning"].get("lora"):
            # Before any data is prepared for it.
            refuse_training(found, f"tuning.base = {base}")
        tree["model"] = _tuned_config(found, tree["tuning"]).model_dump(mode="json")
    return validate(Config, tree)


def starting_model(config: Config) -> Decoder:
    """The weights that a new run begins with: those of `tuning.base`, or random ones of the training's seed."""
    base = config.tuning.base
    if base is None:
        return Decoder(config.model).initialize(config.training.seed)
    model = load(base)
    if config.model.vocab_size > model.config.vocab_size:
        # The markers of a chat template that the base did not know.
        refuse_training(model.config, f"tuning.base = {base}")
        if config.tuning.lora is not None:
            raise ConfigError(
                f"tuning.lora: the chat template has tokens that tuning.base = {base} lacks, and a frozen embedding"
                " cannot learn them; choose tuning.chat_template llama2, or tune the whole model first"
            )
        model = grow_vocabulary(model, config.model.vocab_size)
    settings = config.tuning.quantize
    if settings is not None and settings.scheme == "ternary":
        model = to_ternary(model, sub_norm=settings.sub_norm, seed=config.training.seed)
    if model.config != config.model:
        raise ConfigError(f"model: is not the model section of tuning.base = {base}; leave it out")
    if config.tuning.lora is not None:
        return _with_adapters(model, config)
    if model.adapter is not None:
        raise ConfigError(f"tuning.base = {base}: is an adapter; merge it first with 'smidgen merge --lora {base}'")
    refuse_training(model.config, f"tuning.base = {base}")
    return as_trained(model, config)


def as_trained(model: Decoder, config: Config) -> Decoder:
    """`model` with the rounding of `tuning.quantize` that is no part of its own configuration."""
    settings = config.tuning.quantize
    if settings is not None and settings.scheme == "int4":
        use_fake_int4(model, settings.group_size, settings.symmetric)
    return model


@dataclass(frozen=True, slots=True)
class BaseStorage:
    """Checkpoints of a training with a base: whole models or adapters, which round in training as `tuning` says."""

    config: Config

    def save(self, model: Decoder, folder: Path, tokenizer: Tokenizer | None) -> object:
        return save(model, folder, tokenizer)

    def load(self, folder: Path) -> Decoder:
        return as_trained(load(folder), self.config)


def store_quantized(config: Config, run: Path) -> Path | None:
    """After a training with `tuning.quantize.scheme` int4: the run's model as the int4 folder that it was trained for,
    `quantized` in the run folder. A ternary run's checkpoints are ternary themselves."""
    settings = config.tuning.quantize
    if settings is None or settings.scheme != "int4":
        return None
    quantization = Quantization(scheme="int4", group_size=settings.group_size, symmetric=settings.symmetric)
    finish = carry_settings(find_folder(run).folder)
    return save(quantize(load(run), quantization), run / "quantized", load_tokenizer(run), finish)


def _tuned_config(model: ModelConfig, tuning: Mapping[str, Any]) -> ModelConfig:
    """The section `model` of a training that begins with a base of this configuration."""
    settings = tuning.get("quantize")
    if not settings or settings.get("scheme") != "ternary":
        return model
    return ternary_config(model, sub_norm=bool(settings.get("sub_norm", True)))


def _with_adapters(model: Decoder, config: Config) -> Decoder:
    """The base frozen, with the adapters of `tuning.lora`."""
    base, settings = config.tuning.base, config.tuning.lora
    assert base is not None
    assert settings is not None
    if model.adapter is not None:
        raise ConfigError(f"tuning.base = {base}: is an adapter; merge it first with 'smidgen merge --lora {base}'")
    add_lora(model, settings, config.training.seed)
    trained, total = trainable_share(model)
    logger.info("tuning.lora trains %d of %d parameters (%.2f %%)", trained, total, 100 * trained / total)
    folder = find_folder(base).folder
    return model if folder is None else name_base(model, folder)


def _is_configuration(source: str | Path) -> bool:
    return str(source) in preset_names() or not Path(source).is_dir() or (Path(source) / "config.yaml").is_file()


def _fitting(defaults: Mapping[str, Any], tree: Mapping[str, Any]) -> Tree:
    """The defaults, less a length of the training that `tree` gives in another unit."""
    training = dict(defaults.get("training", {}))
    if (tree.get("training") or {}).get("max_steps") is not None:
        training.pop("epochs", None)
    return {**defaults, "training": training}
