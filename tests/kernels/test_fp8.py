"""Block-scaled FP8: the published error bar, exact cases, and shapes that do not fill their blocks."""

from __future__ import annotations

import math

import pytest
import torch

from smidgen.kernels.fp8 import (
    act_dequant,
    act_quant,
    fp8_gemm,
    weight_dequant,
    weight_quant,
)

SHAPES = [(4, 128, 128), (3, 256, 384), (5, 100, 130), (1, 129, 1), (2, 1, 257)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_product_meets_the_bar_of_deepseek(m: int, n: int, k: int) -> None:
    a, b = random(m, k), random(n, k, seed=1)
    product = fp8_gemm(*act_quant(a), *weight_quant(b)).double()
    exact = a.double() @ b.double().T
    similarity = 2 * (product * exact).sum() / (product.square().sum() + exact.square().sum())
    assert 1 - similarity < 1e-3 * (1 if k >= 100 else 4)  # few summands average less


def test_relative_error_of_a_large_product_is_about_the_published_one() -> None:
    a, b = random(256, 1024), random(512, 1024, seed=1)
    exact = a.double() @ b.double().T
    error = (fp8_gemm(*act_quant(a), *weight_quant(b)).double() - exact).norm() / exact.norm()
    assert 0.030 < error < 0.042


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_gemm_adds_up_scaled_tiles(m: int, n: int, k: int) -> None:
    (a, a_scale), b = act_quant(random(m, k)), random(n, k, seed=1)
    blocks, block_scale = weight_quant(b)
    tiles, tile_scale = act_quant(b)
    by_block = by_tile = torch.zeros(m, n)
    for tile in range(a_scale.shape[1]):
        part = slice(tile * 128, tile * 128 + 128)
        rows = block_scale[:, tile].repeat_interleave(128)[:n]
        by_block = by_block + a[:, part].float() @ blocks[:, part].float().T * a_scale[:, tile, None] * rows
        by_tile = by_tile + a[:, part].float() @ tiles[:, part].float().T * a_scale[:, tile, None] * tile_scale[:, tile]
    torch.testing.assert_close(fp8_gemm(a, a_scale, blocks, block_scale), by_block, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fp8_gemm(a, a_scale, tiles, tile_scale, rows_per_scale=1), by_tile, atol=1e-4, rtol=1e-4)


def test_shapes_of_scales_and_what_a_scale_is() -> None:
    values, scale = act_quant(random(2, 3, 200))
    assert (values.dtype, values.shape, scale.shape) == (torch.float8_e4m3fn, (2, 3, 200), (2, 3, 2))
    values, scale = weight_quant(random(130, 200))
    assert (values.shape, scale.shape) == ((130, 200), (2, 2))
    x = torch.zeros(1, 128)
    x[0, 3] = 896.0
    values, scale = act_quant(x)
    assert scale.item() == 2.0
    assert values[0, 3].item() == 448.0


def test_each_block_has_its_own_scale() -> None:
    weight = torch.ones(256, 256)
    weight[:128, 128:] = 1000.0
    torch.testing.assert_close(weight_dequant(*weight_quant(weight)), weight)
    assert len(weight_quant(weight)[1].unique()) == 2


def test_power_of_two_scales_round_up() -> None:
    x = random(16, 512)
    _, plain = act_quant(x)
    _, rounded = act_quant(x, power_of_two_scales=True)
    assert torch.equal(rounded.log2().round(), rounded.log2())
    assert ((rounded >= plain) & (rounded < 2 * plain)).all()


def test_extremes_do_not_become_nan() -> None:
    x = torch.tensor([[0.0] * 128, [3e38] * 128, [1e-30] * 128])
    assert torch.isfinite(act_dequant(*act_quant(x))).all()


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_element_breaks_its_tile_and_its_row_of_the_product_only(broken: float) -> None:
    x = random(2, 256)
    x[0, 5] = broken
    values, scale = act_quant(x)
    assert scale[0, 0] == math.inf
    assert torch.isfinite(scale[[0, 1, 1], [1, 0, 1]]).all()
    product = fp8_gemm(values, scale, *weight_quant(random(16, 256)))
    assert not product[0].isfinite().any()
    assert product[1].isfinite().all()
    assert not act_dequant(*weight_quant(x)).isfinite()[:, :128].any()
