"""BitNet's quantisation against its formulas, and its straight-through gradients."""

from __future__ import annotations

import torch

from smidgen.kernels.ternary import fake_int8, fake_ternary, int8_codes, straight_through, ternary_codes


def test_ternary_codes_by_hand() -> None:
    weight = torch.tensor([[0.9, -0.1], [0.2, -2.0]])  # mean |w| = 0.8
    codes, scale = ternary_codes(weight)
    assert codes.tolist() == [[1, 0], [0, -1]]
    torch.testing.assert_close(scale, torch.tensor(0.8))
    torch.testing.assert_close(fake_ternary(weight, torch.float32), torch.tensor([[0.8, 0.0], [0.0, -0.8]]))


def test_int8_codes_by_hand() -> None:
    codes, scale = int8_codes(torch.tensor([[1.0, -2.0, 0.004], [0.0, 0.0, 0.0]]))
    assert codes.tolist() == [[64, -127, 0], [0, 0, 0]]  # 63.5 rounds to even
    torch.testing.assert_close(scale[0, 0], torch.tensor(63.5))


def test_every_row_uses_its_own_full_range() -> None:
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 4, 5)[:, None]
    codes, _ = int8_codes(x)
    assert (codes.abs().amax(1) == 127).all()
    assert ((fake_int8(x) - x).abs().amax(1) <= x.abs().amax(1) / 254 * 1.001).all()


def test_codes_do_not_depend_on_the_precision_around() -> None:
    x = torch.randn(7, 33, generator=torch.Generator().manual_seed(0))
    assert torch.equal(int8_codes(x)[0], int8_codes(x.double())[0])
    assert torch.equal(ternary_codes(x)[0], ternary_codes(x.double())[0])


def test_gradients_pass_straight_through_and_the_value_is_exact() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    coefficients = torch.arange(32.0).view(4, 8)
    for fake in (fake_int8(x), fake_ternary(x, torch.float32)):
        (gradient,) = torch.autograd.grad((fake * coefficients).sum(), x)
        assert torch.equal(gradient, coefficients)
    # x + (q - x) would lose q's low bits beside a large x.
    large = torch.tensor([1e8], requires_grad=True)
    assert straight_through(torch.tensor([1.2345]), large).item() == torch.tensor(1.2345).item()


def test_zeros_stay_finite() -> None:
    zeros = torch.zeros(3, 4)
    assert torch.equal(fake_int8(zeros), zeros)
    assert torch.equal(fake_ternary(zeros, torch.float32), zeros)
