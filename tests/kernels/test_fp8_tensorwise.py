"""One scale a tensor: scales and histories by hand, values that break them."""

from __future__ import annotations

import math

import pytest
import torch

from smidgen.kernels.fp8 import E4M3
from smidgen.kernels.fp8_tensorwise import (
    E5M2,
    absolute_max,
    delayed_descale,
    dynamic_scale,
    largest,
    quantize,
    quantize_dynamic,
    roll_history,
)

FORMATS = [E4M3, E5M2]


def test_the_formats_largest_values() -> None:
    assert (largest(E4M3), largest(E5M2)) == (448.0, 57344.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_absolute_max(dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, -3.0], [2.0, 0.5]], dtype=dtype)
    assert absolute_max(x).item() == 3.0
    assert absolute_max(x).dtype == torch.float32
    assert absolute_max(torch.tensor([1.0, math.nan])).isnan()
    assert absolute_max(torch.tensor([1.0, -math.inf])).isinf()


@pytest.mark.parametrize(("format", "error"), [(E4M3, 2**-4), (E5M2, 2**-3)])
def test_rounding_error_is_that_of_the_mantissa(format: torch.dtype, error: float) -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) + 3.0  # no value near zero
    x = x[x > 0.1]
    values, descale = quantize_dynamic(x, format)
    assert values.dtype == format
    assert values.float().max() == largest(format)
    assert ((values.float() * descale - x).abs() <= error * x * 1.0001).all()


@pytest.mark.parametrize("format", FORMATS)
def test_zeros_and_the_smallest_and_largest_floats_have_finite_scales(format: torch.dtype) -> None:
    for value in (0.0, 1e-45, 1e-30, 3.4e38):
        values, descale = quantize_dynamic(torch.full((4,), value), format)
        assert descale.isfinite()
        assert (values.float() * descale).isfinite().all()
    assert torch.equal(quantize_dynamic(torch.zeros(4), format)[0].float(), torch.zeros(4))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_value_makes_no_nan_scale_but_is_not_hidden_either(format: torch.dtype, broken: float) -> None:
    x = torch.tensor([1.0, broken, -2.0])
    assert dynamic_scale(absolute_max(x), format) == 0
    values, descale = quantize_dynamic(x, format)
    assert descale == math.inf
    assert (values.float() * descale).isnan().all()
    assert delayed_descale(torch.tensor(4.0), absolute_max(x)).isnan()
    assert delayed_descale(torch.tensor(4.0), torch.tensor(7.0)) == 0.25


@pytest.mark.parametrize("format", FORMATS)
def test_values_beyond_the_scale_saturate(format: torch.dtype) -> None:
    x = torch.tensor([1e9, -1e9])
    assert quantize(x, torch.tensor(1.0), format).float().tolist() == [largest(format), -largest(format)]


def test_history_rolls_and_its_largest_value_makes_the_scale() -> None:
    limit = torch.tensor([448.0, 57344.0])
    history, scale = torch.zeros(2, 16), torch.ones(2)
    history, scale = roll_history(history, torch.tensor([2.0, 7.0]), scale, limit)
    assert scale.tolist() == [224.0, 8192.0]
    for _ in range(15):
        history, scale = roll_history(history, torch.tensor([1.0, 14.0]), scale, limit)
    assert scale.tolist() == [224.0, 4096.0]  # the 2 is the oldest of sixteen
    history, scale = roll_history(history, torch.tensor([1.0, 14.0]), scale, limit)
    assert scale.tolist() == [448.0, 4096.0]


def test_nothing_known_keeps_the_scale_and_broken_steps_the_history() -> None:
    limit = torch.full((3,), 448.0)
    history = torch.zeros(3, 16)
    history[1:, 0] = 4.0
    scale = torch.tensor([3.0, 112.0, 112.0])
    rolled, new = roll_history(history, torch.tensor([0.0, math.nan, math.inf]), scale, limit)
    assert torch.equal(rolled, history)
    assert new.tolist() == [3.0, 112.0, 112.0]
