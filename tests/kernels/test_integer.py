"""The integer references against compressed-tensors' own packing and dequantisation, and their own invariants."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from torch import Tensor

from smidgen.kernels import integer
from smidgen.kernels.layouts import FP8Tensor, Int4Groups, Int8Rows

SHAPES = [(8, 128), (24, 384), (5, 256)]


def weights(rows: int, columns: int) -> Tensor:
    """Rows of very different sizes, a row of zeros, one large value."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    weight *= torch.logspace(-4, 2, rows)[:, None]
    weight[1] = 0
    weight[2, 3] = 500
    return weight


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_rows_are_those_of_compressed_tensors(shape: tuple[int, int]) -> None:
    weight = weights(*shape)
    stored = Int8Rows().quantize(weight)
    args = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="channel")
    zero = torch.zeros_like(stored["weight_scale"])
    theirs = quantize(weight, stored["weight_scale"], zero, args, dtype=torch.int8)
    assert torch.equal(stored["weight"], theirs)
    assert torch.equal(Int8Rows().dequantize(stored), dequantize(theirs, stored["weight_scale"], zero, args))


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_int4_groups_are_those_of_compressed_tensors(shape: tuple[int, int], symmetric: bool, group_size: int) -> None:
    weight, layout = weights(*shape), Int4Groups(group_size, symmetric)
    stored = layout.quantize(weight)
    scale, zero_point = integer.int4_scale(weight, group_size, symmetric)
    codes = integer.int4_codes(weight, scale, zero_point)
    assert torch.equal(stored["weight_packed"], pack_to_int32(codes, 4))
    assert torch.equal(unpack_from_int32(stored["weight_packed"], 4, weight.shape), codes)
    if zero_point is not None:
        assert torch.equal(stored["weight_zero_point"], pack_to_int32(zero_point, 4, packed_dim=0))
    args = QuantizationArgs(num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=group_size)
    theirs = dequantize(codes, scale.float(), zero_point, args)
    torch.testing.assert_close(layout.dequantize(stored), theirs, rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_fp8_with_one_scale_is_that_of_compressed_tensors(shape: tuple[int, int]) -> None:
    stored = FP8Tensor().quantize(weights(*shape))
    args = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="tensor")
    theirs = dequantize(stored["weight"], stored["weight_scale"], None, args)
    assert torch.equal(FP8Tensor().dequantize(stored), theirs)


@pytest.mark.parametrize("columns", [8, 13, 64])
def test_packing_is_undone_and_agrees_for_every_code(columns: int) -> None:
    codes = torch.randint(-8, 8, (7, columns), generator=torch.Generator().manual_seed(1)).to(torch.int8)
    packed = integer.pack_int4(codes)
    assert packed.dtype == torch.int32
    assert torch.equal(packed, pack_to_int32(codes, 4))
    assert torch.equal(integer.unpack_int4(packed, columns), codes)


@pytest.mark.parametrize("group_size", [32, 128])
def test_no_weight_is_off_by_more_than_half_a_step(group_size: int) -> None:
    weight = weights(16, 256)
    scale, zero_point = integer.int4_scale(weight, group_size, symmetric=True)
    error = integer.int4_dequantize(integer.int4_codes(weight, scale, zero_point), scale, zero_point) - weight
    # bfloat16 rounds a scale by one part in 256, which the largest codes multiply.
    step = scale.float().repeat_interleave(group_size, 1)
    assert (error.abs() <= step * (0.5 + 8 / 256)).all()
    rows = Int8Rows().quantize(weight)
    assert ((Int8Rows().dequantize(rows) - weight).abs() <= rows["weight_scale"] * 0.5001).all()


def test_values_that_have_codes_are_kept_exactly() -> None:
    ternary = torch.randint(-1, 2, (8, 64), generator=torch.Generator().manual_seed(0)).float() * 0.5
    for layout in (Int8Rows(), Int4Groups(32)):
        torch.testing.assert_close(layout.dequantize(layout.quantize(ternary)), ternary, rtol=4e-3, atol=0)


@pytest.mark.parametrize("layout", [Int8Rows(), Int4Groups(32), Int4Groups(64, False)])
def test_rows_of_an_embedding_are_those_of_the_whole(layout: Int8Rows | Int4Groups) -> None:
    stored = layout.quantize(weights(21, 128))
    ids = torch.tensor([[0, 20, 7], [3, 3, 9]])
    assert torch.equal(layout.dequantize_rows(stored, ids), layout.dequantize(stored)[ids])


@pytest.mark.parametrize("layout", [Int8Rows(), Int4Groups(32), Int4Groups(64, False), FP8Tensor()])
def test_specs_tell_shapes_types_and_size(layout: Int8Rows | Int4Groups | FP8Tensor) -> None:
    stored, specs = layout.quantize(weights(24, 128)), layout.specs(24, 128)
    assert {name: (tuple(t.shape), t.dtype) for name, t in stored.items()} == {n: tuple(s) for n, s in specs.items()}
    assert layout.bytes(24, 128) == sum(tensor.nbytes for tensor in stored.values())
