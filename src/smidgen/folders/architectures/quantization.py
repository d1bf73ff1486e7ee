"""`quantization_config` of config.json: how stored weights are described to transformers, and read back.

Integers and tensorwise FP8 are compressed-tensors', FP8 blocks DeepSeek-V3's, packed ternary `bitnet`. Our folders add
a `smidgen` object with our own section, which readers of other projects pass over; folders without one are read by what
they say otherwise.
"""

from __future__ import annotations

import re
from typing import Any

from smidgen.config import ModelConfig, Quantization, Scheme, Storage
from smidgen.folders.architectures.base import Tree
from smidgen.folders.architectures.compressed_tensors import (
    MOST_LAYERS,
    OTHER,
    UNKNOWN,
    overrides_of,
    projection_names,
    read_compressed_tensors,
    write_compressed_tensors,
)
from smidgen.kernels.fp8 import BLOCK
from smidgen.runtime.fields import Fields

_DIVIDING = (None, "bitlinear")
_MOST_NAMES = 2000
_NAME = re.compile(r"[\w.]+")


def write_quantization(config: ModelConfig, rounds_inputs: bool) -> Tree:
    """The `quantization_config` of a quantised configuration.

    `rounds_inputs`: the class of the model rounds the inputs of its projections itself.
    """
    quantization = config.quantization
    assert quantization is not None
    ours = quantization.model_dump(mode="json")
    match quantization.scheme:
        case "ternary":
            return {
                "quant_method": "bitnet",
                "linear_class": "autobitlinear",
                "quantization_mode": "offline",
                "modules_to_not_convert": ["lm_head"],
                "use_rms_norm": False,
                "smidgen": ours,
            }
        case "fp8_block":
            return {
                "quant_method": "fp8",
                "fmt": "e4m3",
                "activation_scheme": "dynamic",
                "weight_block_size": [BLOCK, BLOCK],
                "modules_to_not_convert": ["lm_head", *_left_out(config, quantization)],
                "smidgen": ours,
            }
        case _:
            return {**write_compressed_tensors(config, rounds_inputs), "smidgen": ours}


def _left_out(config: ModelConfig, quantization: Quantization) -> list[str]:
    """Projections that stay in bfloat16."""
    if not quantization.overrides:
        return []
    return [name for name in projection_names(config) if quantization.storage(name).scheme == "bf16"]


def read_quantization(fields: Fields, config: ModelConfig) -> Tree | None:
    """The unvalidated `quantization` section of a config.json, None for a model of floats. `config` is of the same
    model with float weights.

    Raises ModelFolderError for a layout that we do not read.
    """
    stored = fields.section("quantization_config")
    if stored is None:
        return None
    method = stored.text("quant_method")
    if method == "bitnet" and stored.values.get("quantization_mode") == "online":
        return None  # master weights: `model.linear` says that they are rounded
    ours = stored.values.get("smidgen")
    if isinstance(ours, dict):
        return dict(ours)
    if method == "bitnet":
        return _read_bitnet(stored)
    if method == "fp8":
        return _read_fp8(stored, config)
    if method != "compressed-tensors":
        stored.refuse("quant_method", UNKNOWN)
    return read_compressed_tensors(stored, config)


def scales_divide(fields: Fields) -> bool:
    """Whether the stored scales are those of `bitnet` layers that divide by them; ours, and most, multiply."""
    stored = fields.section("quantization_config")
    if stored is None or stored.values.get("quant_method") != "bitnet":
        return False
    return stored.values.get("linear_class") in _DIVIDING


def _read_bitnet(stored: Fields) -> Tree:
    stored.must_be("linear_class", ("bitlinear", "autobitlinear"), OTHER)
    stored.must_be("quantization_mode", ("offline",), OTHER)
    stored.must_be("use_rms_norm", (False,), OTHER)
    _keeps_head_only(stored, "modules_to_not_convert")
    return {"scheme": "ternary", "activation_bits": 8}


def _read_fp8(stored: Fields, config: ModelConfig) -> Tree:
    scheme: Scheme = "fp8_block"
    stored.must_be("fmt", ("e4m3",), OTHER)
    stored.must_be("activation_scheme", ("dynamic",), OTHER)
    if stored.values.get("weight_block_size") != [BLOCK, BLOCK]:
        stored.refuse("weight_block_size", f"[{BLOCK}, {BLOCK}] is needed")
    kept: Any = stored.values.get("modules_to_not_convert") or []
    if not isinstance(kept, list) or not all(isinstance(name, str) and _NAME.fullmatch(name) for name in kept):
        stored.refuse("modules_to_not_convert", "a list of names of modules is needed")
    left_out = [name for name in kept if name != "lm_head"]
    if not left_out:
        return {"scheme": scheme}
    if config.num_layers > MOST_LAYERS or len(left_out) > _MOST_NAMES:
        remedy = f"Smidgen reads at most {_MOST_NAMES} names, of models of at most {MOST_LAYERS} layers"
        stored.refuse("modules_to_not_convert", remedy)
    # As transformers does: a name, the beginning of one up to a dot, or the end of one.
    stores = {
        name: Storage("bf16" if any(f"{name}.".startswith(f"{k}.") or name.endswith(k) for k in left_out) else scheme)
        for name in projection_names(config)
    }
    return {"scheme": scheme, "overrides": overrides_of(config, stores, Storage(scheme))}


def _keeps_head_only(stored: Fields, name: str) -> None:
    kept: Any = stored.values.get(name) or []
    if not isinstance(kept, list) or not set(map(str, kept)) <= {"lm_head"}:
        stored.refuse(name, "Smidgen reads models whose projections are all quantised; only lm_head may be left out")
