"""The Triton kernel of the loss on a CPU, in Triton's interpreter, against the reference. Run by test_cross_entropy.py.

In a process of its own: TRITON_INTERPRET=1 chooses the interpreter when Triton is imported, for good.
"""

from __future__ import annotations

import pytest
import torch

from smidgen.kernels import cross_entropy, cross_entropy_triton
from smidgen.model import loss


@pytest.mark.parametrize("vocabulary", [5, 4096, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradient_equal_the_reference(vocabulary: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    # Rows of a wider matrix: their stride is not their length.
    logits = (8 * torch.randn(7, vocabulary + 3, generator=generator)).to(dtype)[:, :vocabulary]
    labels = torch.randint(0, vocabulary, (7,), generator=generator)
    labels[2], labels[3] = cross_entropy.IGNORED, vocabulary - 1
    expected, gradient = cross_entropy.reference(logits.clone(), labels)
    losses = cross_entropy_triton.loss_and_gradient_(logits, labels)
    torch.testing.assert_close(losses.sum(), expected, rtol=1e-5, atol=1e-5)
    assert losses[2] == 0
    assert (logits[2] == 0).all()
    # A last bit of bfloat16 where the two round to different sides.
    torch.testing.assert_close(logits, gradient, rtol=1e-5 if dtype == torch.float32 else 8e-3, atol=1e-6)


def test_what_is_not_finite_reaches_loss_and_gradient() -> None:
    logits = torch.zeros(2, 9)
    logits[0, 4] = float("nan")
    losses = cross_entropy_triton.loss_and_gradient_(logits, torch.tensor([1, 1]))
    assert losses.isnan().tolist() == [True, False]
    assert logits.isnan().any(1).tolist() == [True, False]


def test_the_chunked_loss_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "LOGITS_ON_GPU", 3 * 50)
    hidden = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(50, 16, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([3, 49, 0, cross_entropy.IGNORED, 7, 7, 12, 30])
    results = []
    for pretended in (False, True):
        token = cross_entropy.pretended_gpu.set(pretended)
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        total, count = loss.cross_entropy(*leaves, labels)
        results.append((total, count, *torch.autograd.grad(total, leaves)))
        with torch.no_grad():
            torch.testing.assert_close(loss.cross_entropy(hidden, weight, labels)[0], total.detach())
        cross_entropy.pretended_gpu.reset(token)
    torch.testing.assert_close(*results)
