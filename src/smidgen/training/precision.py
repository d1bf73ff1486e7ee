"""The type of activations and products. Master weights, gradients and optimiser state are float32 in all of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from smidgen.config import Config
from smidgen.kernels.bf16 import multiplies_bf16_fast
from smidgen.kernels.fp8_tensorwise import roll_history
from smidgen.model import Decoder
from smidgen.model.fp8 import AmaxHistory, Conversion, Recipe, use_fp8
from smidgen.runtime.errors import ConfigError, TrainingError

logger = logging.getLogger(__name__)

_COMPUTE_DTYPES = {
    "auto": torch.bfloat16,  # where nothing is known of the device: what most of them take
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_tensorwise": torch.bfloat16,
    "fp8_delayed": torch.bfloat16,
    "fp8_block": torch.bfloat16,
}


def resolve_precision(config: Config, device: torch.device, recorded: Config | None) -> Config:
    """`config` with a `training.precision` in place of auto: what the run was begun with, else the device's."""
    if config.training.precision != "auto":
        return config
    precision = "bf16" if multiplies_bf16_fast(device) else "fp32"
    if recorded is not None and recorded.training.precision != "auto":
        precision = recorded.training.precision
    return config.model_copy(update={"training": config.training.model_copy(update={"precision": precision})})


def compute_dtype(precision: str) -> torch.dtype:
    """The type in which activations are kept and products run (FP8 rounds the operands of projections more)."""
    return _COMPUTE_DTYPES[precision]


def apply_precision(model: Decoder, precision: str, device: torch.device) -> Conversion:
    """Make the model, whose weights are on `device`, compute as `training.precision` says.

    Returns which layers multiply in FP8 and which do not. Raises ConfigError where the device cannot, or where no layer
    can take the FP8 that was asked for.
    """
    dtype = compute_dtype(precision)
    if dtype == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise ConfigError(
            f"training.precision = {precision}: {torch.cuda.get_device_name(device)} has no bf16; use fp16"
        )
    model.compute_dtype = None if precision == "fp32" else dtype
    if not precision.startswith("fp8"):
        return Conversion()
    conversion = use_fp8(model, cast(Recipe, precision), device)
    if not conversion.converted:
        name, reason = next(entry for entry in reversed(conversion.kept))
        raise ConfigError(f"training.precision = {precision}: no layer can take it ({name}: {reason}); use bf16")
    if conversion.backend == "reference":
        logger.warning("%s runs its PyTorch reference on %s, slower than bf16", precision, device)
    return conversion


def make_scaler(precision: str, device: torch.device, tokens: int) -> torch.amp.GradScaler:
    """The gradient scaler of fp16; for the other precisions one that does nothing.

    `tokens` is the number of labels in a forward pass: losses are sums over them, so the usual first scale, meant
    for means, is divided by it (to a power of two).
    """
    return torch.amp.GradScaler(
        device.type, init_scale=2.0 ** max(0, 16 - round(math.log2(tokens))), enabled=precision == "fp16"
    )


def agree_on_overflow(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, grad_norm: float) -> None:
    """Let the scaler, between `unscale_` and `update`, know of overflows by the norm of the whole gradient.

    It has seen only what this rank holds; the norm is the same on all ranks, and so are their scales then. (Torch
    reduces what it found over the ranks that divide the first weight, which another weight may not be divided over.)
    """
    overflows = not math.isfinite(grad_norm)
    for found in scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values():
        found.fill_(float(overflows))


def amax_tensors(model: nn.Module) -> list[Tensor]:
    """The largest values that passes recorded since the last step, float32 without dimensions, in a fixed order.

    Data-parallel ranks must agree on them before `commit_amax`: replace each by its maximum over ranks, in place.
    """
    return [history.amax for _, history in _histories(model)]


@torch.no_grad()
def commit_amax(model: nn.Module) -> None:
    """After a step that counts: roll the recorded values into the histories and set the scales of the next step."""
    histories = [history for _, history in _histories(model)]
    if not histories:
        return
    limits = torch.tensor([history.limit for history in histories], device=histories[0].scale.device)
    rolled, scales = roll_history(
        torch.stack([history.history for history in histories]),
        torch.stack([history.amax for history in histories]),
        torch.stack([history.scale for history in histories]),
        limits,
    )
    torch._foreach_copy_([history.history for history in histories], list(rolled.unbind()))
    torch._foreach_copy_([history.scale for history in histories], list(scales.unbind()))
    discard_amax(model)


@torch.no_grad()
def discard_amax(model: nn.Module) -> None:
    """After a skipped step: forget the recorded values; histories and scales stay as they were."""
    amaxes = amax_tensors(model)
    if amaxes:
        torch._foreach_zero_(amaxes)


def precision_state(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint must hold of delayed scaling, between steps: histories and scales. Empty without it."""
    state = {}
    for name, history in _histories(model):
        state[f"{name}.history"] = history.history.clone()
        state[f"{name}.scale"] = history.scale.clone()
    return state


@torch.no_grad()
def load_precision_state(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Restore `precision_state`. Raises TrainingError for the state of another model.

    A run that had another precision before has no state, which leaves the fresh histories; one that gets another
    precision has no use for it.
    """
    present = dict(_histories(model))
    if not present or not tensors:
        return
    expected = {f"{name}.{part}" for name in present for part in ("history", "scale")}
    if tensors.keys() != expected:
        name = min(tensors.keys() ^ expected)
        raise TrainingError(f"{name}: the checkpoint's FP8 state is not that of this model")
    for name, history in present.items():
        history.history.copy_(tensors[f"{name}.history"])
        history.scale.copy_(tensors[f"{name}.scale"])
        history.amax.zero_()


def _histories(model: nn.Module) -> Iterator[tuple[str, AmaxHistory]]:
    for name, module in model.named_modules():
        if isinstance(module, AmaxHistory):
            yield name, module
