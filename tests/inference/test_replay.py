"""Recorded operations do to tensors what the function does that was recorded."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smidgen.inference.replay import replayed


def step(x: Tensor, weight: Tensor, total: Tensor, result: Tensor) -> None:
    """Views, conversions, products in another layout, several results, writing in place, memory that is not filled."""
    left, right = (x.to(torch.bfloat16) @ weight).chunk(2, dim=-1)
    gated = F.silu(left).mul_(right).float()
    largest, index = gated.max(-1)
    room = torch.empty(2, 3)
    room[0] = largest
    room[1] = index.float() + torch.arange(3)
    shifted = torch.where(gated > 0, gated, 0.5).softmax(-1).roll(1, -1)
    swapped = torch.mm(gated, shifted.t()).t()
    total.add_(swapped)
    total[0].index_copy_(0, torch.arange(2), room[:, 0])
    result.copy_(torch.cat([swapped, room.t()], dim=1))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_replay_follows_its_inputs(mode) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    weight = torch.randn(4, 10, dtype=torch.bfloat16)
    x, total, result = torch.randn(3, 4), torch.zeros(3, 3), torch.zeros(3, 5)
    expected_total, expected = torch.zeros(3, 3), torch.zeros(3, 5)
    with mode():
        replay = replayed(lambda: step(x, weight, total, result))
        step(x, weight, expected_total, expected)
        for _ in range(4):
            x.normal_()
            replay()
            step(x, weight, expected_total, expected)
            assert torch.equal(result, expected)
            assert torch.equal(total, expected_total)


def test_memory_is_used_again() -> None:
    """A long chain takes the memory of the few tensors that are needed at a time."""
    x = torch.randn(1000)

    def chain() -> None:
        y = x
        for _ in range(100):
            y = y.sin() * x
        result.copy_(y)

    result = torch.zeros(1000)
    with torch.no_grad():
        replay = replayed(chain)
        expected = result.clone()
        result.zero_()
        replay()
    assert torch.equal(result, expected)
    calls = next(cell.cell_contents for cell in replay.__closure__ or () if isinstance(cell.cell_contents, list))
    storages = {call.keywords["out"].untyped_storage().nbytes() for call in calls if "out" in call.keywords}
    assert len(storages) == 1
    assert storages.pop() <= 4 * 1024 * 4


def test_what_asks_for_values_is_not_recorded() -> None:
    x = torch.ones(3)
    for function in (lambda: x.sum().item(), lambda: x.nonzero(), lambda: x[x > 0]):
        with torch.no_grad(), pytest.raises(AssertionError, match="asks for values"):
            replayed(function)
