"""The Triton kernels on a CPU, in Triton's interpreter, against the references. Run by test_fp8_triton.py.

In a process of its own: TRITON_INTERPRET=1 chooses the interpreter when Triton is imported, for good.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from smidgen.kernels import fp8, fp8_dispatch, fp8_triton
from smidgen.kernels.fp8_linear import block_linear

assert fp8_triton.INTERPRETED, "run with TRITON_INTERPRET=1"
# NumPy, which computes the kernels here, warns where NaN arises; the tests want it to.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SHAPES = [(1, 1), (3, 257), (130, 200), (64, 128)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layouts(rows: int, columns: int) -> list[Tensor]:
    """Rows of very different sizes: float32, bfloat16, and with columns contiguous."""
    x = random(rows, columns) * torch.logspace(-6, 3, rows)[:, None]
    return [x, x.bfloat16(), x.t().contiguous().t()]


@pytest.mark.parametrize("power_of_two_scales", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_quantisers_equal_the_reference_to_the_bit(shape: tuple[int, int], power_of_two_scales: bool) -> None:
    for x in layouts(*shape):
        for kernel, reference in ((fp8_triton.act_quant, fp8.act_quant), (fp8_triton.weight_quant, fp8.weight_quant)):
            values, scale = kernel(x, power_of_two_scales)
            expected, expected_scale = reference(x, power_of_two_scales)
            assert torch.equal(scale, expected_scale)
            assert torch.equal(values.view(torch.uint8), expected.view(torch.uint8))


def test_every_e4m3_value_and_the_ties_between_them_are_rounded_to_even() -> None:
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    middles = (codes[1:] + codes[:-1]) / 2
    x = torch.cat([codes, middles, middles.nextafter(codes[1:]), middles.nextafter(codes[:-1])])
    x = torch.cat([x, -x])[:, None].expand(-1, 128).clone()
    x[:, 0] = 448.0  # so that the scale is 1
    values, scale = fp8_triton.act_quant(x, False)
    assert torch.equal(scale, torch.ones_like(scale))
    assert torch.equal(values.float(), x.to(torch.float8_e4m3fn).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_weight_dequant_equals_the_reference(shape: tuple[int, int], dtype: torch.dtype) -> None:
    quantized = fp8.weight_quant(random(*shape))
    result = fp8_triton.weight_dequant(*quantized, dtype)
    # The interpreter truncates to bfloat16.
    rtol = 2**-7 if dtype == torch.bfloat16 else 0
    torch.testing.assert_close(result, fp8.weight_dequant(*quantized).to(dtype), rtol=rtol, atol=0)


@pytest.mark.parametrize("rows_per_scale", [1, 128])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (5, 100, 130), (70, 200, 300), (600, 20, 64)])
def test_gemm_equals_the_reference(m: int, n: int, k: int, rows_per_scale: int) -> None:
    b = random(n, k, seed=1) * torch.logspace(-2, 2, n)[:, None]
    a = fp8_triton.act_quant(random(m, k), False)
    quantized = fp8.act_quant(b) if rows_per_scale == 1 else fp8.weight_quant(b)
    expected = fp8.fp8_gemm(*a, *quantized, rows_per_scale)
    result = fp8_triton.fp8_gemm(*a, *quantized, rows_per_scale, torch.float32)
    smallest = 1e-6 * expected.abs().max().item()
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=smallest)
    rounded = fp8_triton.fp8_gemm(*a, *quantized, rows_per_scale, torch.bfloat16)
    torch.testing.assert_close(rounded, expected.bfloat16(), rtol=2**-7, atol=smallest)


def test_gemm_of_transposed_operands() -> None:
    """As the backward pass has them."""
    values, scale = fp8.weight_quant(random(130, 200))
    a = fp8.act_quant(random(7, 130))
    expected = fp8.fp8_gemm(*a, values.t(), scale.t())
    result = fp8_triton.fp8_gemm(*a, values.t(), scale.t(), fp8.BLOCK, torch.float32)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_element_breaks_its_tile_only(broken: float) -> None:
    x = random(3, 300)
    x[0, 5] = broken
    for kernel, reference in ((fp8_triton.act_quant, fp8.act_quant), (fp8_triton.weight_quant, fp8.weight_quant)):
        (values, scale), (expected, expected_scale) = kernel(x, False), reference(x)
        assert torch.equal(scale, expected_scale)
        assert scale[0, 0] == math.inf
        torch.testing.assert_close(values.float(), expected.float(), equal_nan=True)
    product = fp8_triton.fp8_gemm(
        *fp8_triton.act_quant(x, False), *fp8.weight_quant(random(4, 300)), 128, torch.float32
    )
    assert not product[0].isfinite().any()
    assert product[1:].isfinite().all()


@pytest.mark.parametrize("compiled", [False, True])
def test_the_linear_layer_by_kernels_equals_that_by_references(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = random(2, 33, 160).requires_grad_()
    weight = random(144, 160, seed=1).requires_grad_()
    gradient = random(2, 33, 144, seed=2)
    results = []
    for backend in ("reference", "triton"):
        monkeypatch.setattr(fp8_dispatch, "block_backend", lambda device, backend=backend: backend)
        torch._dynamo.reset()
        product = torch.compile(block_linear, backend="aot_eager", fullgraph=True) if compiled else block_linear
        y = product(x, weight)
        results.append((y.detach(), *torch.autograd.grad(y, (x, weight), gradient)))
    for result, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
