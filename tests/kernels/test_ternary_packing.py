"""Packed ternary codes against transformers' own packing, and the exact integer product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.integrations.bitnet import pack_weights

from smidgen.kernels.layouts import TernaryPacked
from smidgen.kernels.ternary import fake_int8, fake_ternary, ternary_codes
from smidgen.kernels.ternary_packing import pack_ternary, ternary_gemm, ternary_linear, unpack_ternary


def codes(rows: int, columns: int) -> Tensor:
    return torch.randint(-1, 2, (rows, columns), generator=torch.Generator().manual_seed(0)).to(torch.int8)


@pytest.mark.parametrize("shape", [(4, 1), (8, 3), (64, 33)])
def test_packing_is_that_of_transformers_and_is_undone(shape: tuple[int, int]) -> None:
    expected = codes(*shape)
    packed = pack_ternary(expected)
    assert torch.equal(packed, pack_weights(expected.clone()))
    assert torch.equal(unpack_ternary(packed), expected)


def test_the_stored_form_is_the_training_weight() -> None:
    weight = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    layout = TernaryPacked()
    torch.testing.assert_close(layout.dequantize(layout.quantize(weight)), fake_ternary(weight, torch.float32))


def test_the_integer_product_is_exact() -> None:
    activations = torch.randint(-128, 128, (3, 5, 1000), generator=torch.Generator().manual_seed(1))
    expected = torch.einsum("btk,nk->btn", activations, codes(8, 1000).long())
    assert torch.equal(ternary_gemm(activations, pack_ternary(codes(8, 1000))).long(), expected)


def test_the_linear_is_that_of_training() -> None:
    weight = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 7, 48, generator=torch.Generator().manual_seed(1))
    values, scale = ternary_codes(weight)
    trained = fake_int8(x).double() @ fake_ternary(weight, torch.float32).double().T
    result = ternary_linear(x, pack_ternary(values), scale.view(1))
    torch.testing.assert_close(result.double(), trained, rtol=1e-5, atol=1e-5)
