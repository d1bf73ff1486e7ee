"""The loss of a divided vocabulary on one rank; tests/training/parallel/test_model.py divides it for real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from smidgen.model import cross_entropy
from smidgen.training.parallel.loss import VocabularyShard


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[dist.ProcessGroup]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield dist.distributed_c10d._get_default_group()
    dist.destroy_process_group()


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_it_is_cross_entropy(alone: dist.ProcessGroup, chunk: int) -> None:
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 8, generator=random, requires_grad=True)
    weight = torch.randn(31, 8, generator=random, requires_grad=True)
    labels = torch.randint(0, 31, (10,), generator=random)
    labels[2:5] = -100
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, labels, reduction="sum")
    gradients = torch.autograd.grad(3 * expected, (hidden, weight))
    total, count = cross_entropy(hidden, VocabularyShard(weight, 0, chunk, alone), labels)
    torch.testing.assert_close(total, expected)
    assert count == 7
    for ours, theirs in zip(torch.autograd.grad(3 * total, (hidden, weight)), gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_large_logits_and_no_labels_stay_finite(alone: dist.ProcessGroup) -> None:
    hidden = torch.full((4, 2), 1e4, requires_grad=True)
    weight = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], requires_grad=True)
    shard = VocabularyShard(weight, 0, 2, alone)
    assert cross_entropy(hidden, shard, torch.tensor([1, 0, 0, -100]))[0].item() == pytest.approx(4e4)
    total, count = cross_entropy(hidden, shard, torch.full((4,), -100))
    total.backward()
    assert (total.item(), count.item()) == (0.0, 0)
    assert hidden.grad is not None
    assert not hidden.grad.any()
