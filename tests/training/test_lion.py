from __future__ import annotations

import torch
from torch import nn

from smidgen.config import Lion
from smidgen.training.optimizers import make_optimizer, set_rates


def test_lion_follows_the_papers_algorithm() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 4)
    optimizer = make_optimizer(layer, Lion(betas=(0.8, 0.95)))
    lr, decay = 0.01, 0.5
    set_rates(optimizer, lr, decay)
    weight, mean = layer.weight.detach().double(), torch.zeros(4, 3, dtype=torch.float64)
    for _ in range(5):
        gradient = torch.randn(4, 3)
        layer.weight.grad, layer.bias.grad = gradient.clone(), torch.ones(4)
        optimizer.step()
        direction = (0.8 * mean + 0.2 * gradient.double()).sign()
        weight = weight - lr * (direction + decay * weight)
        mean = 0.95 * mean + 0.05 * gradient.double()
        torch.testing.assert_close(layer.weight.detach().double(), weight, rtol=0, atol=1e-6)
    assert set(optimizer.state[layer.weight]) == {"exp_avg"}


def test_vectors_move_without_decay_and_parameters_without_a_gradient_stay() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.bias.fill_(1.0)
    before = layer.weight.detach().clone()
    optimizer = make_optimizer(layer, Lion())
    set_rates(optimizer, 0.1, 0.5)
    layer.bias.grad = torch.tensor([3.0, -0.001])
    optimizer.step()
    torch.testing.assert_close(layer.bias.detach(), torch.tensor([0.9, 1.1]))
    assert torch.equal(layer.weight, before)
