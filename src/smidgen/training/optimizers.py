"""The optimiser, the gradient it sees, and its state under the parameters' names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from smidgen.config import AdamW
from smidgen.runtime.errors import TrainingError

_FUSED_DEVICES = {"cpu", "cuda", "mps"}


def make_optimizer(model: nn.Module, config: AdamW) -> torch.optim.Optimizer:
    """AdamW over the model's parameters in two groups: matrices (the embedding is one), and the rest undecayed.

    A weight that two modules share is there once. The groups' `lr` and `weight_decay` are set by `set_rates`.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "decayed": True},
        {"params": [p for p in parameters if p.dim() < 2], "decayed": False},
    ]
    fused = all(p.device.type in _FUSED_DEVICES for p in parameters)
    # The learning rate is a placeholder: set_rates gives the true one before every step.
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=0.0, betas=config.betas, eps=config.eps, fused=fused
    )


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Give every group its learning rate, and the decayed one its weight decay."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decayed"] else 0.0


@torch.no_grad()
def average_and_clip(parameters: Iterable[nn.Parameter], weight: Tensor, max_norm: float | None) -> Tensor:
    """Turn summed gradients into mean ones, in place, and clip them to `max_norm` in the same pass.

    `weight` (no dimensions) is what the sum is divided by. Returns the norm of the mean gradient before clipping, in
    the gradients' own type (float32), without dimensions; nothing waits for the device.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    scale = 1 / weight.to(gradients[0].dtype).clamp(min=1)
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True) * scale
    if max_norm is not None:
        scale = scale * (max_norm / (norm + 1e-6)).clamp(max=1)
    torch._foreach_mul_(gradients, scale)
    return norm


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as `"<parameter>.<key>"` → tensor."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            assert isinstance(value, Tensor), f"the optimiser keeps {key} as {type(value).__name__}"
            tensors[f"{name}.{key}"] = value
    return tensors


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned. Raises TrainingError where it belongs to other parameters."""
    parameters = dict(model.named_parameters())
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition(".")
        parameter = parameters.get(name)
        if parameter is None or (value.dim() and value.shape != parameter.shape):
            raise TrainingError(f"optimiser state {full_name} {list(value.shape)}: fits no parameter of the model")
        optimizer.state[parameter][key] = value.to(parameter.device)
    missing = [name for name, parameter in parameters.items() if parameter not in optimizer.state]
    if missing:
        raise TrainingError(f"optimiser state of {missing[0]}: missing; the checkpoint belongs to another model")
