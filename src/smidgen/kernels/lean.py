"""Norm and rotation for training on a CPU: the same results as their plain forms, with fewer passes over memory.

Their autograd would keep every intermediate result and walk over all of them again; here the backward pass is written
out, in place. Under torch.compile the plain forms are as good: the compiler fuses them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smidgen.kernels.cross_entropy import imagines_gpu


def is_worthwhile(x: Tensor, *others: Tensor) -> bool:
    """Whether gradients are wanted on a CPU, outside of torch.compile, of tensors that are not divided over ranks.

    `others`, weights or angles, must be float32, the type that is computed in: the plain forms round float64 to it.
    """
    return (
        x.device.type == "cpu"
        and not imagines_gpu()
        and x.dtype != torch.float64
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not hasattr(x, "to_local")
        and all(not hasattr(other, "to_local") and other.dtype == torch.float32 for other in others)
    )


class RMSNorm(torch.autograd.Function):
    """`x · rsqrt(mean x² + eps) · w` of x [..., D] and w [D]; keeps x and a number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, weight.dtype))
        mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        factor = mean_square.add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, factor)
        return (wide * factor).mul_(weight).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, factor = ctx.saved_tensors
        size = x.shape[-1]
        # With n = x · factor: d x = factor · (g w - n · mean(g w n)), d w = Σ g n.
        normalized = x * factor  # in the wider type of the two, as are the rest
        product = gradient * normalized
        of_weight = product.reshape(-1, size).sum(0)
        mean = (product @ weight).div_(-size)[..., None]
        of_x = torch.mul(gradient, weight, out=product)
        return of_x.addcmul_(normalized, mean).mul_(factor).to(x.dtype), of_weight, None


class RotateHalves(torch.autograd.Function):
    """x [B, H, T, d] with pairs (i, i + d/2) turned by the angles of cos and sin [B or 1, 1, T, d/2]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # The way back is the same angle in the other direction.
        cos, sin = ctx.saved_tensors
        return _rotated(gradient, cos, sin, -1.0), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, direction: float) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    result = torch.empty_like(x, dtype=torch.promote_types(x.dtype, cos.dtype))
    new_first, new_second = result.chunk(2, dim=-1)
    torch.mul(first, cos, out=new_first).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=new_second).addcmul_(first, sin, value=direction)
    return result.to(x.dtype)
