"""Projections that read the same input as one product: fewer passes over the input, fewer and larger kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smidgen.inference.frozen import FrozenLinear, laid_out, product
from smidgen.inference.integer import Int4Linear, IntegerLinear
from smidgen.model import Decoder
from smidgen.model.attention import GroupedQueryAttention, LatentAttention
from smidgen.model.feed_forward import FeedForward

_Projection = FrozenLinear | IntegerLinear | Int4Linear


class FusedLinear(nn.Module):
    """`[x · W₁ᵀ, x · W₂ᵀ, …]` of the rounded input in one product; the weights lie one below the other."""

    def __init__(self, linears: Sequence[FrozenLinear]) -> None:
        super().__init__()
        self.quantizer = linears[0].quantizer
        self.sizes = [linear.weight.shape[0] for linear in linears]
        weight = torch.cat([linear.weight for linear in linears])
        self.weight = nn.Parameter(laid_out(weight), requires_grad=False)

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        return product(self.quantizer.input(x), self.weight).split(self.sizes, dim=-1)


class FusedIntegers(nn.Module):
    """The same of weights that are integers, all IntegerLinear or all Int4Linear."""

    def __init__(self, linears: Sequence[Any]) -> None:
        super().__init__()
        self.sizes = [len(linear.scale) for linear in linears]
        self.joined = linears[0].joined(linears)

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = self.joined(x).split(self.sizes, dim=-1)
        return parts


def fuse(model: Decoder) -> Decoder:
    """Fuse the projections of a frozen decoder (see `frozen`), in place: q, k and v; gate and up; of latent attention
    those of its input. Projections whose inputs are rounded differently, or that are stored in different integers, stay
    apart. Returns the model.
    """
    with torch.no_grad():
        for module in model.modules():
            match module:
                case GroupedQueryAttention():
                    _fuse(module, "q_proj", "k_proj", "v_proj")
                case LatentAttention():
                    first = "q_a_proj" if module.q_proj is None else "q_proj"
                    _fuse(module, first, "kv_a_proj_with_mqa")
                case FeedForward() if module.gate_proj is not None:
                    _fuse(module, "gate_proj", "up_proj")
    return model


def _fuse(parent: GroupedQueryAttention | LatentAttention | FeedForward, *names: str) -> None:
    linears = [getattr(parent, name) for name in names]
    if all(isinstance(linear, FrozenLinear) for linear in linears):
        make: type[FusedLinear] | type[FusedIntegers] = FusedLinear
    elif any(all(isinstance(linear, kind) for linear in linears) for kind in (IntegerLinear, Int4Linear)):
        make = FusedIntegers
    else:
        return
    if not all(_equal_rounding(linear, linears[0]) and _equal_groups(linear, linears[0]) for linear in linears):
        return
    parent.fused = make(linears)
    for name in names:
        # Not None: to latent attention that says that there is another projection.
        setattr(parent, name, nn.Identity())


def _equal_groups(first: _Projection, second: _Projection) -> bool:
    """Whether both are of int4 with as many columns a scale, or neither is of int4."""
    return getattr(first, "group_size", None) == getattr(second, "group_size", None)


def _equal_rounding(first: _Projection, second: _Projection) -> bool:
    """Whether both round their input alike."""
    ours, theirs = first.quantizer, second.quantizer
    return ours is theirs or (type(ours) is type(theirs) and vars(ours) == vars(theirs))
