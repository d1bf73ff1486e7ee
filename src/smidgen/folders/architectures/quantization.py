"""`quantization_config` of config.json: how stored weights are described to transformers, and read back.

Integers and tensorwise FP8 are compressed-tensors', FP8 blocks DeepSeek-V3's, packed ternary `bitnet`. Our folders add
a `smidgen` object with our own section, which readers of other projects pass over; folders without one are read by what
they say otherwise.
"""

from __future__ import annotations

from typing import Any

from smidgen.config import ModelConfig, Quantization
from smidgen.folders.architectures.base import Tree
from smidgen.kernels.fp8 import BLOCK
from smidgen.runtime.fields import Fields

PROJECTIONS = r"re:.*layers\..*_proj(_with_mqa)?$"
"""Every projection of attention and feed-forward, and nothing else, in compressed-tensors' notation."""
EMBEDDING, HEAD = r"re:.*embed_tokens$", r"re:.*lm_head$"
_UNKNOWN = "Smidgen reads compressed-tensors (int8 rows, int4 groups, FP8 tensors), fp8 in 128×128 blocks, and bitnet"
_OTHER = "Smidgen does not read this variant; take the unquantised model"
_DIVIDING = (None, "bitlinear")


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
                "modules_to_not_convert": ["lm_head"],
                "smidgen": ours,
            }
        case _:
            return {**_compressed_tensors(config, quantization, rounds_inputs), "smidgen": ours}


def _compressed_tensors(config: ModelConfig, quantization: Quantization, rounds_inputs: bool) -> Tree:
    tied = config.tie_word_embeddings
    activations = None if rounds_inputs else _activations(config, quantization)
    formats = {"int8": "int-quantized", "int4": "pack-quantized", "fp8_tensor": "float-quantized"}
    matrices = [(PROJECTIONS, quantization.scheme, activations)]
    if quantization.embedding != "bf16":
        matrices.append((EMBEDDING, quantization.embedding, None))
    if quantization.head != "bf16" and not tied:
        matrices.append((HEAD, quantization.head, None))
    groups = {
        f"group_{number}": {
            "targets": [target],
            "weights": _weights(scheme, quantization),
            "input_activations": inputs,
            "output_activations": None,
            "format": formats[scheme],
        }
        for number, (target, scheme, inputs) in enumerate(matrices)
    }
    used = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": used.pop() if len(used) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [] if quantization.head != "bf16" and not tied else ["lm_head"],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _weights(scheme: str, quantization: Quantization) -> Tree:
    arguments: Tree = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    if scheme == "int4":
        arguments |= {
            "num_bits": 4,
            "strategy": "group",
            "group_size": quantization.group_size,
            "symmetric": quantization.symmetric,
        }
    elif scheme == "fp8_tensor":
        arguments |= {"type": "float", "strategy": "tensor"}
    return arguments


def _activations(config: ModelConfig, quantization: Quantization) -> Tree | None:
    if quantization.activation_bits == 16:
        return None
    kind = "float" if quantization.scheme == "fp8_tensor" and config.linear.kind != "ternary" else "int"
    return {"num_bits": 8, "type": kind, "symmetric": True, "strategy": "token", "dynamic": True}


def read_quantization(fields: Fields, tied: bool) -> Tree | None:
    """The unvalidated `quantization` section of a config.json, None for a model of floats.

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
        return _read_fp8(stored)
    if method != "compressed-tensors":
        stored.refuse("quant_method", _UNKNOWN)
    return _read_compressed_tensors(stored, tied)


def scales_divide(fields: Fields) -> bool:
    """Whether the stored scales are those of `bitnet` layers that divide by them; ours, and most, multiply."""
    stored = fields.section("quantization_config")
    if stored is None or stored.values.get("quant_method") != "bitnet":
        return False
    return stored.values.get("linear_class") in _DIVIDING


def _read_bitnet(stored: Fields) -> Tree:
    stored.must_be("linear_class", ("bitlinear", "autobitlinear"), _OTHER)
    stored.must_be("quantization_mode", ("offline",), _OTHER)
    stored.must_be("use_rms_norm", (False,), _OTHER)
    _keeps_head_only(stored, "modules_to_not_convert")
    return {"scheme": "ternary", "activation_bits": 8}


def _read_fp8(stored: Fields) -> Tree:
    stored.must_be("fmt", ("e4m3",), _OTHER)
    stored.must_be("activation_scheme", ("dynamic",), _OTHER)
    if stored.values.get("weight_block_size") != [BLOCK, BLOCK]:
        stored.refuse("weight_block_size", f"[{BLOCK}, {BLOCK}] is needed")
    _keeps_head_only(stored, "modules_to_not_convert")
    return {"scheme": "fp8_block"}


def _read_compressed_tensors(stored: Fields, tied: bool) -> Tree:
    groups = stored.section("config_groups")
    if groups is None or len(groups.values) != 1:
        stored.refuse("config_groups", "Smidgen reads one group for all projections; take the unquantised model")
    group = groups.section(next(iter(groups.values)))
    weights = None if group is None else group.section("weights")
    if group is None or weights is None:
        stored.refuse("config_groups", "a group with weights is needed")
    stored.must_be("quantization_status", ("compressed",), _OTHER)
    stored.must_be("kv_cache_scheme", (), _OTHER)
    _keeps_head_only(stored, "ignore")
    weights.must_be("actorder", ("weight", "static"), _OTHER)
    weights.must_be("dynamic", (False,), _OTHER)
    kind = (weights.text("type"), weights.integer("num_bits"), weights.text("strategy", "tensor"))
    symmetric = weights.flag("symmetric", True)
    tree: Tree
    formats: tuple[str, ...]
    if kind == ("int", 8, "channel") and symmetric:
        tree, formats = {"scheme": "int8"}, ("int-quantized", "naive-quantized")
    elif kind == ("int", 4, "group"):
        tree = {"scheme": "int4", "group_size": weights.integer("group_size"), "symmetric": symmetric}
        formats = ("pack-quantized",)
    elif kind == ("float", 8, "tensor") and symmetric:
        tree, formats = {"scheme": "fp8_tensor"}, ("float-quantized", "naive-quantized")
    else:
        weights.refuse("num_bits", _UNKNOWN)
    named = group if "format" in group else stored
    named.must_be("format", formats, _OTHER)
    tree["activation_bits"] = _read_activations(group)
    if "lm_head" not in (stored.values.get("ignore") or []) and not tied:
        if tree["scheme"] == "fp8_tensor":
            stored.refuse("ignore", "Smidgen keeps the head in bf16 or integers; lm_head must be ignored")
        tree["head"] = tree["scheme"]
    return tree


def _read_activations(group: Fields) -> int:
    activations = group.section("input_activations")
    if activations is None:
        return 16
    for name, allowed in (("num_bits", (8,)), ("strategy", ("token",)), ("dynamic", (True,)), ("symmetric", (True,))):
        activations.must_be(name, allowed, _OTHER)
    return 8


def _keeps_head_only(stored: Fields, name: str) -> None:
    kept: Any = stored.values.get(name) or []
    if not isinstance(kept, list) or not set(map(str, kept)) <= {"lm_head"}:
        stored.refuse(name, "Smidgen reads models whose projections are all quantised; only lm_head may be left out")
