"""FP8 as a way to train: recipes that replace the products of dense projections, and the report on which were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from smidgen.kernels.fp8 import E4M3
from smidgen.kernels.fp8_dispatch import ALIGNMENT, Backend, block_backend, tensorwise_backend
from smidgen.kernels.fp8_linear import DelayedScale, block_linear, delayed_linear, tensorwise_linear
from smidgen.kernels.fp8_tensorwise import E5M2, HISTORY_LENGTH, largest, quantize_dynamic
from smidgen.kernels.ternary import straight_through
from smidgen.model.linear import BlockFP8, Linear, Quantizer, Ternary
from smidgen.model.vocabulary import VocabularyMatrix

Recipe = Literal["fp8_tensorwise", "fp8_delayed", "fp8_block"]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)


@dataclass(frozen=True, slots=True)
class Conversion:
    """Which layers multiply in FP8, which do not and why."""

    recipe: Recipe | None = None
    """None: FP8 is off."""
    backend: Backend | None = None
    """What runs the products on the device at hand; "reference" is plain PyTorch, slower than bf16."""
    converted: tuple[str, ...] = ()
    """Names of the linear layers."""
    kept: tuple[tuple[str, str], ...] = ()
    """Names of the other layers with the reason."""


class TensorwiseFP8(Quantizer):
    """Dynamic scaling: one scale a tensor, from its own largest value (see kernels/fp8_tensorwise.py)."""

    def input(self, x: Tensor) -> Tensor:
        return _rounded(x, x.dtype)

    def weight(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return _rounded(weight, dtype)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return tensorwise_linear(x, weight)


class AmaxHistory(nn.Module):
    """The scale of one tensor under delayed scaling, and the history of largest values that it comes from.

    Buffers, float32 and outside `state_dict`: a model folder holds the model, not the state of its training.
    """

    history: Tensor
    scale: Tensor
    amax: Tensor

    def __init__(self, format: torch.dtype) -> None:
        super().__init__()
        self.limit = largest(format)
        self.register_buffer("history", torch.zeros(HISTORY_LENGTH), persistent=False)
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.register_buffer("amax", torch.zeros(()), persistent=False)

    def delayed_scale(self) -> DelayedScale:
        return DelayedScale(self.scale, self.amax)


class DelayedFP8(nn.Module, Quantizer):
    """Delayed scaling in training mode; in eval mode dynamic scaling, which neither needs nor changes a history.

    Passes only record the largest values; `commit_amax` of training/precision.py makes scales of them after a step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.of_input, self.of_weight = AmaxHistory(E4M3), AmaxHistory(E4M3)
        self.of_gradient = AmaxHistory(E5M2)

    def input(self, x: Tensor) -> Tensor:
        return _rounded(x, x.dtype)

    def weight(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return _rounded(weight, dtype)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        if not self.training:
            return tensorwise_linear(x, weight)
        scales = (self.of_input.delayed_scale(), self.of_weight.delayed_scale(), self.of_gradient.delayed_scale())
        return delayed_linear(x, weight, *scales)


class BlockFP8Products(BlockFP8):
    """Block FP8 of which the products of the backward pass run in FP8 too."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return block_linear(x, weight, self.power_of_two_scales)


def use_fp8(module: nn.Module, recipe: Recipe, device: torch.device) -> Conversion:
    """Let the projections below `module` that can multiply by `recipe`, in training on `device`.

    The choice of layers is the same on every device, so that a run can move between them.
    """
    assert recipe in RECIPES, recipe
    converted, kept = [], []
    for name, child in module.named_modules():
        if isinstance(child, VocabularyMatrix):
            kept.append((name, "embedding and head keep the compute type"))
        if not isinstance(child, Linear):
            continue
        reason = _reason_to_keep(child, recipe)
        if reason is None:
            child.quantizer = _quantizer(recipe, child, device)
            converted.append(name)
        else:
            kept.append((name, reason))
    backend = block_backend(device) if recipe == "fp8_block" else tensorwise_backend(device)
    return Conversion(recipe, backend, tuple(converted), tuple(kept))


def _reason_to_keep(linear: Linear, recipe: Recipe) -> str | None:
    kind = type(linear.quantizer)
    if kind is Ternary:
        return "ternary has its own quantisation"
    if kind is BlockFP8 and recipe != "fp8_block":
        return "block FP8 is part of the model (model.linear.kind)"
    if kind not in (Quantizer, BlockFP8):
        return "already multiplies in FP8"
    if recipe != "fp8_block" and (linear.in_features % ALIGNMENT or linear.out_features % ALIGNMENT):
        return f"{linear.out_features}×{linear.in_features} is not divisible by {ALIGNMENT}, as the hardware wants"
    return None


def _quantizer(recipe: Recipe, linear: Linear, device: torch.device) -> Quantizer:
    match recipe:
        case "fp8_tensorwise":
            return TensorwiseFP8()
        case "fp8_delayed":
            return DelayedFP8().to(device).train(linear.training)
        case "fp8_block":
            present = linear.quantizer
            return BlockFP8Products(isinstance(present, BlockFP8) and present.power_of_two_scales)


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    values, descale = quantize_dynamic(x.detach())
    return straight_through((values.float() * descale).to(dtype), x)
