"""Schedule-free AdamW (Defazio et al., "The Road Less Scheduled", 2024), with weights that come back to the bit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class ScheduleFreeAdamW(torch.optim.Optimizer):
    """AdamW that averages its weights instead of lowering its learning rate.

    With `z` the weights that AdamW's steps move (β₁ = 0) and `x` their average, gradients are taken at
    `y = (1 - β₁)·z + β₁·x`, which is what the model holds while it trains; `x` is what it is worth. Step t weighs in
    the average with lr², so that a warm-up counts little (the paper's Algorithm 1). Weight decay acts at `y`.

    State of a parameter: `z`, `exp_avg_sq`, and on the host `step` and `weight_sum`. Between `eval` and `train` the
    model holds `x`, and the state `training_weight` holds `y`: a checkpoint made there has both, and `train` puts `y`
    back to the bit, where the paper's code computes it anew and is off by a rounding.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient; the gradients are used up."""
        assert closure is None
        for group in self.param_groups:
            parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step(parameters, group)

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                self._begin(p)
        states = [self.state[p] for p in parameters]
        assert not any("training_weight" in state for state in states), "step() between eval() and train()"
        lr, (beta, square_beta) = group["lr"], group["betas"]
        # The parameters of a group take all steps together, so the first one's scalars are everyone's.
        step = int(states[0]["step"]) + 1
        weight_sum = float(states[0]["weight_sum"]) + lr**2
        share = lr**2 / weight_sum if weight_sum else 0.0
        for state in states:
            state["step"].fill_(step)
            state["weight_sum"].fill_(weight_sum)

        gradients = [p.grad for p in parameters if p.grad is not None]
        squares = [state["exp_avg_sq"] for state in states]
        torch._foreach_mul_(squares, square_beta)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - square_beta)
        denominators = torch._foreach_div(squares, 1 - square_beta**step)
        torch._foreach_sqrt_(denominators)
        torch._foreach_add_(denominators, group["eps"])
        torch._foreach_div_(gradients, denominators)
        if group["weight_decay"]:
            torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
        # y follows from the new x and z without x being kept: x moves towards the new z by `share`.
        zs = [state["z"] for state in states]
        torch._foreach_lerp_(parameters, zs, share)
        torch._foreach_add_(parameters, gradients, alpha=lr * (beta * (1 - share) - 1))
        torch._foreach_sub_(zs, gradients, alpha=lr)

    def _begin(self, parameter: Tensor) -> None:
        state = self.state[parameter]
        state["z"] = parameter.detach().clone()
        state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] = torch.zeros(())
        state["weight_sum"] = torch.zeros((), dtype=torch.float64)

    @torch.no_grad()
    def eval(self) -> None:
        """Put the average `x` into the model; before the first step it is what the model holds."""
        for parameter, state, beta in self._begun():
            assert "training_weight" not in state
            state["training_weight"] = parameter.detach().clone()
            # x = z + (y - z) / β₁
            parameter.lerp_(state["z"], 1 - 1 / beta)

    @torch.no_grad()
    def train(self) -> None:
        """Put the weights that training goes on from back into the model, to the bit."""
        for parameter, state, _ in self._begun():
            if "training_weight" in state:
                parameter.copy_(state.pop("training_weight"))

    def _begun(self) -> list[tuple[Tensor, dict[str, Tensor], float]]:
        return [
            (p, self.state[p], group["betas"][0])
            for group in self.param_groups
            for p in group["params"]
            if self.state.get(p)
        ]
