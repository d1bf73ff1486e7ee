"""The optimiser, the gradient it sees, and its state under the parameters' names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from smidgen import config as settings
from smidgen.runtime.errors import TrainingError
from smidgen.training.lion import Lion
from smidgen.training.muon import Muon
from smidgen.training.parallel.gather import divided_as, local_parts, whole
from smidgen.training.schedule_free import ScheduleFreeAdamW

_VOCABULARY_MATRICES = ("embed_tokens.weight", "lm_head.weight")
_FUSED_DEVICES = {"cpu", "cuda", "mps"}


def make_optimizer(model: nn.Module, config: settings.Optimizer) -> torch.optim.Optimizer:
    """The optimiser over the model's parameters: matrices (the embedding is one) decayed, the rest not.

    A weight that two modules share is there once. The groups' `lr` and `weight_decay` are set by `set_rates`.
    """
    parameters = _trained(model)
    matrices: list[nn.Parameter] = []
    if isinstance(config, settings.Muon):
        matrices = [p for name, p in parameters.items() if p.dim() == 2 and not name.endswith(_VOCABULARY_MATRICES)]
    by_muon = {id(p) for p in matrices}
    others = [p for p in parameters.values() if id(p) not in by_muon]
    groups = [
        {"params": [p for p in others if p.dim() >= 2], "decayed": True},
        {"params": [p for p in others if p.dim() < 2], "decayed": False},
    ]
    groups = [group for group in groups if group["params"]]
    # The learning rate is a placeholder: set_rates gives the true one before every step.
    match config:
        case settings.Lion(betas=betas):
            return Lion(groups, lr=0.0, betas=betas)
        case settings.ScheduleFreeAdamW(betas=betas, eps=eps):
            return ScheduleFreeAdamW(groups, lr=0.0, betas=betas, eps=eps)
    fused = all(p.device.type in _FUSED_DEVICES for p in others)
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=fused)
    return MuonWithAdamW(matrices, config.momentum, adamw) if isinstance(config, settings.Muon) else adamw


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for some matrices and AdamW for the rest, as one optimiser with one state."""

    def __init__(self, matrices: list[nn.Parameter], momentum: float, adamw: torch.optim.AdamW) -> None:
        self._muon = Muon(matrices, momentum)
        self._adamw = adamw
        for group in self._muon.param_groups:
            group["decayed"] = True
        super().__init__([*self._muon.param_groups, *adamw.param_groups], {})
        # The parts see the same groups and the same state: what is set or loaded here is theirs.
        self.param_groups = [*self._muon.param_groups, *adamw.param_groups]
        self._muon.state = adamw.state = self.state

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of both."""
        assert closure is None
        self._muon.step()
        self._adamw.step()


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Give every group its learning rate, and the decayed one its weight decay."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decayed"] else 0.0


@torch.no_grad()
def average_and_clip(parameters: Iterable[nn.Parameter], weight: Tensor, max_norm: float | None) -> Tensor:
    """Turn summed gradients into mean ones, in place, and clip them to `max_norm` in the same pass.

    `weight` (no dimensions) is what the sum is divided by. Returns the norm of the mean gradient before clipping, in
    the gradients' own type (float32), without dimensions; nothing waits for the device. Of gradients divided over
    ranks it is the norm of the whole.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    scale = 1 / weight.to(gradients[0].dtype).clamp(min=1)
    norm = whole(torch.nn.utils.get_total_norm(gradients, foreach=True)) * scale
    if max_norm is not None:
        scale = scale * (max_norm / (norm + 1e-6)).clamp(max=1)
    torch._foreach_mul_(local_parts(gradients), scale)
    return norm


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as `"<parameter>.<key>"` → tensor."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in _trained(model).items():
        for key, value in optimizer.state[parameter].items():
            assert isinstance(value, Tensor), f"the optimiser keeps {key} as {type(value).__name__}"
            tensors[f"{name}.{key}"] = value
    return tensors


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned. Raises TrainingError where it belongs to other parameters.

    What schedule-free's `eval` had laid aside goes back into the model.
    """
    parameters = _trained(model)
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition(".")
        parameter = parameters.get(name)
        if parameter is None or (value.dim() and value.shape != parameter.shape):
            raise TrainingError(f"optimiser state {full_name} {list(value.shape)}: fits no parameter of the model")
        # Schedule-free computes with its scalars on the host: nothing waits for the device.
        on_host = isinstance(optimizer, ScheduleFreeAdamW) and not value.dim()
        optimizer.state[parameter][key] = value if on_host else divided_as(value, parameter)
    missing = [name for name, parameter in parameters.items() if parameter not in optimizer.state]
    if missing:
        raise TrainingError(f"optimiser state of {missing[0]}: missing; the checkpoint belongs to another model")
    if isinstance(optimizer, ScheduleFreeAdamW):
        optimizer.train()


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
