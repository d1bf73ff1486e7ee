from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from smidgen.config import ScheduleFreeAdamW as Settings
from smidgen.training.averaging import weights_to_keep
from smidgen.training.optimizers import load_optimizer_tensors, make_optimizer, optimizer_tensors, set_rates


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


def steps(model: nn.Module, step: Callable[[], object], count: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        model.zero_grad()
        model(torch.randn(5, 6, generator=generator)).square().sum().backward()
        step()


def test_equal_to_the_authors_package_over_a_warm_up_and_after() -> None:
    schedulefree = pytest.importorskip("schedulefree")
    ours, theirs = network(), network()
    optimizer = make_optimizer(ours, Settings(betas=(0.9, 0.99), eps=1e-6))
    decayed = [p for p in theirs.parameters() if p.dim() > 1]
    groups = [
        {"params": decayed, "weight_decay": 0.2},
        {"params": [p for p in theirs.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    reference = schedulefree.AdamWScheduleFree(groups, lr=0.03, betas=(0.9, 0.99), eps=1e-6, warmup_steps=6)
    reference.train()
    taken = 0

    def step() -> None:
        nonlocal taken
        taken += 1
        set_rates(optimizer, 0.03 * min(taken / 6, 1.0), 0.2)
        optimizer.step()

    steps(ours, step, 15)
    steps(theirs, reference.step, 15)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    reference.eval()
    with weights_to_keep(optimizer, None):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_at_a_constant_rate_the_average_is_the_mean_of_z() -> None:
    model = nn.Linear(3, 1, bias=False)
    optimizer = make_optimizer(model, Settings())
    set_rates(optimizer, 0.05, 0.0)
    zs = []

    def step() -> None:
        optimizer.step()
        zs.append(optimizer.state[model.weight]["z"].clone())

    generator = torch.Generator().manual_seed(1)
    for _ in range(9):
        model.zero_grad()
        model(torch.randn(4, 3, generator=generator)).square().sum().backward()
        step()
    with weights_to_keep(optimizer, None):
        torch.testing.assert_close(model.weight.detach(), torch.stack(zs).mean(0), rtol=1e-4, atol=1e-6)


def test_weights_come_back_to_the_bit_even_after_an_error() -> None:
    model = network()
    optimizer = make_optimizer(model, Settings())
    set_rates(optimizer, 0.03, 0.1)
    steps(model, optimizer.step, 3)
    before = [p.detach().clone() for p in model.parameters()]

    def save() -> None:
        with weights_to_keep(optimizer, None):
            assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk"):
        save()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert not any("training_weight" in state for state in optimizer.state.values())


def test_a_checkpoint_made_of_the_average_goes_on_to_the_bit() -> None:
    first, second = network(), network()
    one, two = make_optimizer(first, Settings()), make_optimizer(second, Settings())
    for optimizer in (one, two):
        set_rates(optimizer, 0.03, 0.1)
    steps(first, one.step, 4)
    with weights_to_keep(one, None):
        saved = {name: tensor.clone() for name, tensor in first.state_dict().items()}
        tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(one, first).items()}
    second.load_state_dict(saved)
    load_optimizer_tensors(two, second, tensors)
    steps(first, one.step, 3, seed=2)
    steps(second, two.step, 3, seed=2)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
