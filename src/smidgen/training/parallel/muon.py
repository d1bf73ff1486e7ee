"""Muon over divided matrices: its orthogonalisation needs the whole of each."""

from __future__ import annotations

import torch
from torch import nn

from smidgen.training.parallel.gather import divided_as, whole


class DividedMuon(torch.optim.Muon):
    """PyTorch's Muon for DTensor matrices, with the momentum divided as they are.

    A matrix at a time, the momentum's update is gathered and every rank orthogonalises it for itself: one gather a
    matrix and step, and no memory beyond one whole matrix.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; the same on every rank."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(divided_as(self._orthogonal_step(whole(update), group), parameter))

    @staticmethod
    def _orthogonal_step(update: torch.Tensor, group: dict) -> torch.Tensor:
        """What Muon adds for a momentum update [out, in]: a step of PyTorch's own from zero, without momentum."""
        origin = nn.Parameter(torch.zeros_like(update))
        origin.grad = update
        kept = {key: group[key] for key in ("lr", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn")}
        torch.optim.Muon([origin], momentum=0.0, nesterov=False, weight_decay=0.0, **kept).step()
        return origin.detach()
