"""Blocked causal attention against PyTorch's own under a mask, with gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from smidgen.kernels.blocked_attention import blocked_attention


@pytest.mark.parametrize(
    ("heads", "kv_heads", "length", "size", "value_size", "window", "documents"),
    [
        (4, 4, 150, 12, 8, None, 1),
        (12, 3, 130, 8, 8, None, 1),
        (4, 1, 33, 8, 16, 7, 1),
        (4, 2, 200, 8, 8, 70, 3),
        (2, 2, 64, 8, 8, 64, 5),
        (6, 2, 5, 8, 8, 1, 2),
    ],
)
def test_output_and_gradients_equal_pytorchs(
    heads: int, kv_heads: int, length: int, size: int, value_size: int, window: int | None, documents: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, length, heads, size), (2, length, kv_heads, size), (2, length, kv_heads, value_size)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).transpose(1, 2) for shape in shapes]
    query, key, value = (x.requires_grad_() for x in tensors)
    ids = torch.randint(0, documents, (2, length), generator=generator).sort(1).values
    index = torch.arange(length)
    distance = index[:, None] - index
    mask = (distance >= 0) & (distance < (window or length)) & (ids[:, :, None] == ids[:, None])
    expected = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask[:, None], scale=0.3, enable_gqa=heads != kv_heads
    )
    output = blocked_attention(query, key, value, ids if documents > 1 else None, 0.3, window)
    torch.testing.assert_close(output, expected)
    gradient = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad(output, (query, key, value), gradient)
    theirs = torch.autograd.grad(expected, (query, key, value), gradient)
    torch.testing.assert_close(ours, theirs)


def test_bf16_is_as_near_to_float64_as_its_scores_are() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 96, 16, generator=generator).bfloat16() for _ in range(3))
    exact = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), is_causal=True)
    output = blocked_attention(query, key, value, None, 0.25, None)
    assert output.dtype == torch.bfloat16
    assert (output - exact).abs().max() < 0.03


def test_the_operator_keeps_its_promises_to_graphs() -> None:
    query, key = torch.randn(1, 4, 40, 8, requires_grad=True), torch.randn(1, 2, 40, 8, requires_grad=True)
    torch.library.opcheck(blocked_attention, (query, key, torch.randn(1, 2, 40, 4), None, 0.3, 9))
