"""Lion (Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """Every weight moves by the learning rate, in the direction that gradient and running mean together have.

    With `m` the running mean (the only state, `exp_avg`), `g` the gradient, λ the weight decay:
    `w ← (1 - lr·λ)·w - lr·sign(β₁·m + (1 - β₁)·g)`, then `m ← β₂·m + (1 - β₂)·g` (the paper's Algorithm 2).
    """

    def __init__(
        self, params: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            lr, (direction_beta, mean_beta) = group["lr"], group["betas"]
            gradients = [p.grad for p in parameters if p.grad is not None]
            for p in parameters:
                if not self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
            means = [self.state[p]["exp_avg"] for p in parameters]
            directions = torch._foreach_lerp(means, gradients, 1 - direction_beta)
            torch._foreach_sign_(directions)
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
            torch._foreach_add_(parameters, directions, alpha=-lr)
            torch._foreach_lerp_(means, gradients, 1 - mean_beta)
