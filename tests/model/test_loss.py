"""Chunked cross-entropy against PyTorch's own, with gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from smidgen.model import cross_entropy, loss


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_value_and_gradients_equal_pytorchs(chunk_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "LOGITS_IN_MEMORY", chunk_rows * 33)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(33, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 33, (50,), generator=generator)
    labels[::5] = loss.IGNORED
    total, count = cross_entropy(hidden, weight, labels)
    expected = F.cross_entropy(hidden @ weight.T, labels, ignore_index=-100, reduction="sum")
    assert count.item() == 40
    torch.testing.assert_close(total, expected)
    ours = torch.autograd.grad(total * 0.3, (hidden, weight))
    theirs = torch.autograd.grad(expected * 0.3, (hidden, weight))
    torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(cross_entropy(hidden, weight, labels)[0], expected)


def test_bf16_states_give_a_float32_loss_and_float32_weight_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 32, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(100, 32, generator=generator, requires_grad=True)
    labels = torch.randint(0, 100, (64,), generator=generator)
    total, _ = cross_entropy(hidden, weight, labels)
    total.backward()
    assert total.dtype == torch.float32
    assert hidden.grad is not None
    assert weight.grad is not None
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)
    reference = F.cross_entropy(hidden.float() @ weight.T, labels, reduction="sum")
    assert total.item() == pytest.approx(reference.item(), rel=0.01)


def test_no_labels_at_all_is_a_zero_loss() -> None:
    hidden = torch.randn(4, 8, requires_grad=True)
    total, count = cross_entropy(hidden, torch.randn(9, 8), torch.full((4,), loss.IGNORED))
    total.backward()
    assert (total.item(), count.item()) == (0.0, 0)
    assert hidden.grad is not None
    assert (hidden.grad == 0).all()
