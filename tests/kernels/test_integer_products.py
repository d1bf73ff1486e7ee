"""Products of int8 weights in integers against the same in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smidgen.kernels import integer_products
from smidgen.kernels.integer import int8_row_codes, int8_row_dequantize, int8_row_scale
from smidgen.kernels.integer_products import int8_codes_linear, int8_digits, int8_linear, multiplies_int8
from smidgen.kernels.ternary import int8_codes

needs_int8 = pytest.mark.skipif(
    not multiplies_int8(torch.device("cpu")), reason="the processor does not multiply int8 exactly (VNNI, AMX)"
)


def inputs(tokens: int, columns: int) -> Tensor:
    """Tokens of very different sizes, one of zeros, one with an outlier."""
    x = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(1))
    x *= torch.logspace(-3, 3, tokens)[:, None]
    x[0] = 0
    x[-1, 0] *= 1000
    return x


def int8_weight(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    scale = int8_row_scale(weight)
    return int8_row_codes(weight, scale), scale.flatten()


def test_digits_lose_no_more_than_they_say() -> None:
    x = inputs(9, 70)
    digits, step = int8_digits(x)
    assert digits.dtype == torch.int8
    again = step.double() * (digits[0].double() + digits[1].double() / 254)
    assert bool(((again - x).abs() <= x.abs().amax(-1, keepdim=True).double() / 64_000).all())


@needs_int8
@pytest.mark.parametrize("tokens", [5, 12])
@pytest.mark.parametrize(("rows", "columns"), [(48, 70), (64, 96), (33, 2048), (1, 3)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1 / 64_000), (torch.bfloat16, 2**-7)])
def test_product_is_that_of_the_dequantised_weight(
    tokens: int, rows: int, columns: int, dtype: torch.dtype, tolerance: float
) -> None:
    x, (codes, scale) = inputs(tokens, columns).to(dtype), int8_weight(rows, columns)
    result = int8_linear(x[None], codes, scale)
    assert result.dtype == dtype
    assert result.shape == (1, tokens, rows)
    weight = int8_row_dequantize(codes, scale[:, None]).double()
    exact = x.double() @ weight.T
    # Of the sum that the largest inputs would have.
    scope = x.double().abs().amax(-1, keepdim=True) * weight.abs().sum(-1)
    assert bool(((result[0].double() - exact).abs() <= tolerance * scope.clamp(min=1e-300)).all())


@needs_int8
def test_product_of_codes_is_exact() -> None:
    x, (codes, scale) = inputs(5, 300), int8_weight(16, 300)
    own, token_scale = int8_codes(x)
    expected = own.double() @ codes.double().T
    result = int8_codes_linear(own, token_scale, codes, torch.ones_like(scale))
    assert torch.equal(result, expected.float() * (1 / token_scale))


@needs_int8
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(wrong: float) -> None:
    x, (codes, scale) = inputs(3, 16), int8_weight(4, 16)
    x[1, 2] = wrong
    finite = int8_linear(x, codes, scale).isfinite()
    assert finite[0].all()
    assert finite[2].all()
    assert not finite[1].any()


def test_a_processor_that_saturates_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(x: Tensor, weight: Tensor) -> Tensor:
        return (x.long() @ weight.long()).clamp(-(2**15), 2**15 - 1).int()

    integer_products._is_exact.cache_clear()
    monkeypatch.setattr(torch, "_int_mm", saturating)
    try:
        assert not multiplies_int8(torch.device("cpu"))
    finally:
        integer_products._is_exact.cache_clear()
