"""Low-rank adapters on the projections of a frozen decoder (LoRA, Hu et al., 2021).

`y = base(x) + scale · B(A(dropout(x)))`, as PEFT computes it: A and B multiply the input as it comes, whatever the base
rounds. A ternary, FP8, int8 or int4 base is thus frozen with its rounding, and the adapter is exact beside it. One
exception: where a projection's input is what the latent cache holds (`kv_b_proj` of latent attention, whose cache keeps
the rounded latent), the adapter multiplies the rounded input too, so that the cached and the plain way agree.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smidgen.config import Lora
from smidgen.model.decoder import Decoder, load_architecture
from smidgen.model.linear import Quantizer
from smidgen.runtime.errors import ConfigError

ALL = "all"
_CACHED_INPUTS = ("kv_b_proj",)


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a decoder with adapters knows of them beside their weights."""

    settings: Lora
    base: Path | None = None
    """Model folder of the frozen weights; None where they come from no folder."""
    base_digest: str | None = None
    """SHA-256 over the base's weight files, so that an adapter never meets another base."""


class LoraMatrix(nn.Module):
    """A [rank, in] or B [out, rank], float32; a module of its own for PEFT's name `lora_A.weight`."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, columns))


class LoraLinear(nn.Module):
    """A frozen projection with an adapter beside it; stands where the projection stood."""

    def __init__(self, base: nn.Module, settings: Lora, *, sees_rounded_input: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = int(base.in_features), int(base.out_features)  # type: ignore[arg-type]
        self.base_layer: Any = base
        self.lora_A = LoraMatrix(settings.rank, self.in_features)
        self.lora_B = LoraMatrix(self.out_features, settings.rank)
        self.scale = settings.scale
        self.dropout = settings.dropout
        self.sees_rounded_input = sees_rounded_input

    @property
    def quantizer(self) -> Quantizer:
        """The base's."""
        quantizer: Quantizer = self.base_layer.quantizer
        return quantizer

    def forward(self, x: Tensor) -> Tensor:
        seen = self.quantizer.input(x) if self.sees_rounded_input else x
        if self.training and self.dropout:
            seen = F.dropout(seen, self.dropout)
        added = F.linear(F.linear(seen, self.lora_A.weight.to(x.dtype)), self.lora_B.weight.to(x.dtype))
        result: Tensor = self.base_layer(x) + added * self.scale
        return result

    def delta(self) -> Tensor:
        """`scale · B A` [out, in], float32: what the adapter adds to the base's weight."""
        return (self.lora_B.weight @ self.lora_A.weight) * self.scale

    def effective_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight of base and adapter together for an input that both see alike, in `dtype`."""
        base: Tensor = self.base_layer.effective_weight(dtype)
        return base + self.delta().to(dtype)

    def extra_repr(self) -> str:
        return f"rank {self.lora_A.weight.shape[0]}, scale {self.scale:g}"


def is_projection(module: nn.Module) -> bool:
    """Whether `module` is a projection, of any kind, that may get an adapter."""
    return not isinstance(module, LoraLinear) and all(
        hasattr(module, name) for name in ("in_features", "out_features", "effective_weight")
    )


def add_lora(model: Decoder, settings: Lora, seed: int = 0) -> Decoder:
    """Put adapters on the projections that `settings.targets` names, in place, and freeze everything else.

    A is drawn as PEFT does (kaiming uniform with a = √5, which is uniform in ±1/√in), B is zero. Raises ConfigError
    where a target names no projection, with the names there are.
    """
    names = target_names(model, settings.targets)
    attach(model, names, Adapter(settings))
    generator = torch.Generator().manual_seed(seed)
    for _, module in adapters(model):
        # Drawn on the CPU, so that a seed means the same on every device.
        drawn = torch.empty(module.lora_A.weight.shape)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        with torch.no_grad():
            module.lora_A.weight.copy_(drawn)
    return model


def target_names(model: Decoder, targets: tuple[str, ...]) -> list[str]:
    """Full names of the projections that `targets` names, in the model's order. Raises ConfigError for an empty one."""
    projections = [name for name, module in model.named_modules() if is_projection(module)]
    found = set()
    for target in targets:
        matches = [name for name in projections if _is_match(name, target)]
        if not matches:
            known = sorted({name.rpartition(".")[2] for name in projections})
            raise ConfigError(f"tuning.lora.targets = {target}: names no projection; use {', '.join(known)} or {ALL}")
        found.update(matches)
    return [name for name in projections if name in found]


def attach(model: Decoder, names: list[str], adapter: Adapter) -> None:
    """Wrap the named projections, in place, with adapters of zeros, and freeze everything else."""
    assert model.adapter is None, "the model has adapters already"
    model.requires_grad_(False)
    device = model.model.embed_tokens.device
    for name in names:
        parent, _, last = name.rpartition(".")
        wrapped = LoraLinear(
            model.get_submodule(name), adapter.settings, sees_rounded_input=last.endswith(_CACHED_INPUTS)
        )
        wrapped.lora_A.to(device)
        wrapped.lora_B.to(device)
        setattr(model.get_submodule(parent), last, wrapped.train(model.training))
    model.adapter = adapter


def adapters(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """The projections that have an adapter, with their names."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear))


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' weights by name: `model.layers.0.self_attn.q_proj.lora_A.weight` …"""
    return {
        f"{name}.{part}.weight": getattr(module, part).weight
        for name, module in adapters(model)
        for part in ("lora_A", "lora_B")
    }


def skeleton_with_adapters(model: Decoder) -> Decoder:
    """A decoder of the same structure on the meta device whose adapters are `model`'s own: enough to save them."""
    assert model.adapter is not None
    result = load_architecture(model.config)
    attach(result, [name for name, _ in adapters(model)], model.adapter)
    result.load_state_dict(adapter_tensors(model), strict=False, assign=True)
    return result


def fold(model: Decoder, *, sign: int = 1) -> None:
    """Add `sign · scale · B A` to the weights of the projections, in place, and take the adapters away.

    Only where the projection multiplies by its weight as it is: elsewhere rounding the sum would change the model (see
    `rounding_layers`). Frozen weights stay frozen.
    """
    for name, module in list(adapters(model)):
        parent, _, last = name.rpartition(".")
        with torch.no_grad():
            module.base_layer.weight.add_(module.delta(), alpha=sign)
        setattr(model.get_submodule(parent), last, module.base_layer)
    model.adapter = None


def rounds(module: LoraLinear) -> bool:
    """Whether the base rounds its weight or its input, so that the adapter is no part of one weight."""
    return type(module.quantizer) is not Quantizer or not isinstance(
        getattr(module.base_layer, "weight", None), nn.Parameter
    )


def with_base(model: Decoder, base: Path, digest: str) -> None:
    """Record where the frozen weights of `model` come from."""
    assert model.adapter is not None
    model.adapter = replace(model.adapter, base=base, base_digest=digest)


def trainable_share(model: nn.Module) -> tuple[int, int]:
    """Parameters that are trained, and all parameters, adapters included."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def _is_match(name: str, target: str) -> bool:
    return target == ALL or name == target or name.endswith(f".{target}") or fnmatch.fnmatchcase(name, target)
