"""`quantization_config`: what a folder of quantised matrices says beyond its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from smidgen.edge.fields import Fields


def stored_rounding(f: Fields, parts: Mapping[str, Any]) -> dict[str, Any]:
    """How `quantization_config` goes on: by its `smidgen` object, or by what other writers say of inputs."""
    stored = f.section("quantization_config")
    if stored is None:
        return {}
    method = stored.choice("quant_method", ("compressed-tensors", "fp8", "bitnet"))
    if method == "bitnet":
        stored.choice("linear_class", ("bitlinear", "autobitlinear"), "bitlinear")
    divide = method == "bitnet" and stored.values.get("linear_class") != "autobitlinear"
    ours = stored.section("smidgen")
    scheme, bits = {"fp8": "fp8_block", "bitnet": "ternary"}.get(method, "int8"), 8 if method == "bitnet" else 16
    if ours is not None:
        scheme = ours.choice("scheme", ("int8", "int4", "ternary", "fp8_block", "fp8_tensor"))
        bits = ours.size("activation_bits", 16)
        if bits not in (8, 16):
            ours.refuse("activation_bits", "8 or 16 is needed here")
    elif method == "compressed-tensors":
        scheme, bits = _foreign_rounding(stored)
    if parts.get("linear") == "fp8_block":
        rounding = "fp8_power_of_two" if parts["power_of_two_scales"] else "fp8"
    elif parts.get("linear") == "ternary":
        rounding = "float" if parts.get("activation_bits", 8) is None else "int8"
    elif bits == 16:
        rounding = "float"
    else:
        rounding = {"fp8_block": "fp8", "fp8_tensor": "fp8_token"}.get(scheme, "int8")
    return {"input_rounding": rounding, "scales_divide": divide}


def _foreign_rounding(stored: Fields) -> tuple[str, int]:
    """Scheme and bits of the inputs in a folder of compressed-tensors' own.

    Each matrix says for itself how it is stored, so that groups may differ in that (layers of int4 beside others of
    int8); what happens to inputs must be the same in all.
    """
    groups = stored.section("config_groups")
    if groups is None or not groups.values:
        stored.refuse("config_groups", "at least one group is needed; take the unquantised model")
    found = dict.fromkeys(_rounding_of_group(groups, name) for name in groups.values)
    if len(found) > 1:
        stored.refuse("config_groups", "groups that round their inputs differently are not read; take the model itself")
    return next(iter(found))


def _rounding_of_group(groups: Fields, name: str) -> tuple[str, int]:
    group = groups.section(name)
    if group is None:
        groups.refuse(name, "a group with weights is needed")
    weights, inputs = group.section("weights"), group.section("input_activations")
    is_float = weights is not None and weights.values.get("type") == "float"
    if inputs is None:
        return "int8", 16
    for field, value in (("num_bits", 8), ("strategy", "token"), ("dynamic", True), ("symmetric", True)):
        if inputs.values.get(field, value) != value:
            inputs.refuse(field, f"Smidgen rounds inputs with {field} = {json.dumps(value)} only")
    return "fp8_tensor" if is_float else "int8", 8
