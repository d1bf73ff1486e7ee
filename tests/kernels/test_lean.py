"""The written-out backward passes of norm and rotation against autograd through the plain forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smidgen.kernels import lean


def plain_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.to(weight.dtype)
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def plain_rotation(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 0.03)]
)
def test_norm_and_rotation_equal_autograd(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    computed_in = torch.promote_types(dtype, torch.float32)
    x = torch.randn(2, 7, 3, 10, generator=generator, dtype=torch.float64).to(dtype).transpose(1, 2).requires_grad_()
    weight = torch.rand(10, generator=generator).to(computed_in).requires_grad_()
    angles = torch.rand(1, 1, 7, 5, generator=generator).to(computed_in)
    gradient = torch.randn(2, 3, 7, 10, generator=generator).to(dtype)
    norms = [lean.RMSNorm.apply(x, weight, 1e-6), plain_norm(x, weight, 1e-6)]
    turns = [lean.RotateHalves.apply(x, angles.cos(), angles.sin()), plain_rotation(x, angles.cos(), angles.sin())]
    for ours, theirs in (norms, turns):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    for (ours, theirs), inputs in ((norms, (x, weight)), (turns, (x,))):
        torch.testing.assert_close(
            torch.autograd.grad(ours, inputs, gradient),
            torch.autograd.grad(theirs, inputs, gradient),
            atol=10 * tolerance,
            rtol=tolerance,
        )


def test_under_no_grad_or_with_weights_in_bf16_the_plain_form_runs() -> None:
    x = torch.randn(2, 4)
    assert lean.is_worthwhile(x, torch.ones(4))
    assert not lean.is_worthwhile(x, torch.ones(4, dtype=torch.bfloat16))
    with torch.no_grad():
        assert not lean.is_worthwhile(x, torch.ones(4))
