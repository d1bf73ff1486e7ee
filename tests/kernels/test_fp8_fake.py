"""Fake quantisation to block FP8: exact values, straight gradients."""

from __future__ import annotations

import torch

from smidgen.kernels.fp8 import act_dequant, act_quant, weight_dequant, weight_quant
from smidgen.kernels.fp8_fake import fake_fp8_activation, fake_fp8_weight


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_fake_quantisation_is_the_dequantised_value_with_a_straight_gradient() -> None:
    x = random(3, 200).requires_grad_()
    fake = fake_fp8_activation(x)
    assert torch.equal(fake, act_dequant(*act_quant(x.detach())))
    assert torch.equal(torch.autograd.grad(fake.sum(), x)[0], torch.ones_like(x))
    fake = fake_fp8_weight(x, torch.float32)
    assert torch.equal(fake, weight_dequant(*weight_quant(x.detach())))
    assert torch.equal(torch.autograd.grad(fake.sum(), x)[0], torch.ones_like(x))


def test_any_number_of_leading_dimensions() -> None:
    x = random(2, 3, 5, 130)
    assert torch.equal(fake_fp8_activation(x), act_dequant(*act_quant(x)))
