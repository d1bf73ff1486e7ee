"""Whole tensors out of divided ones and back: checkpoints hold whole ones, so that any number of ranks reads them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from smidgen.model import Decoder
from smidgen.model.lora import adapter_tensors, skeleton_with_adapters
from smidgen.training.parallel.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_dtensor(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether `tensor` is divided. Without divided tensors their module, slow to import, stays out."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_divided(model: nn.Module) -> bool:
    """Whether some rank holds only parts of the model's weights."""
    return any(is_dtensor(parameter) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """A divided tensor gathered, on every rank that holds a part (all must call it); another as it is."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor


def local_parts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What this rank holds of each tensor, sharing its memory."""
    return [tensor.to_local() if is_dtensor(tensor) else tensor for tensor in tensors]


def divided_as(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, equal on every rank, on the device of `parameter` and divided as it is.

    One without dimensions, such as a count of steps, stays whole; one that is divided already stays as it is.
    """
    if is_dtensor(tensor):
        return tensor
    tensor = tensor.to(parameter.device)
    if is_dtensor(parameter) and tensor.dim():
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return tensor


@torch.no_grad()
def whole_on_main(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Copies on the CPU of divided and other tensors, one at a time, for the main rank; nothing for the rest."""
    gathered = {}
    for name, tensor in tensors.items():
        complete = whole(tensor.detach())
        if ranks.is_main:
            gathered[name] = complete.to("cpu", copy=True).contiguous()
    return gathered


def whole_copy(model: Decoder, ranks: Ranks) -> Decoder | None:
    """The model whole on the CPU, in memory of its own, for the main rank; None on the others, which must call it.

    Of a model with adapters only those are copied: the frozen rest is on the meta device.
    """
    if model.adapter is not None:
        copy = skeleton_with_adapters(model)
        tensors = whole_on_main(adapter_tensors(model), ranks)
    else:
        copy = Decoder(model.config)
        tensors = whole_on_main(dict(model.named_parameters()), ranks)
    if not ranks.is_main:
        return None
    copy.load_state_dict(tensors, strict=model.adapter is None, assign=True)
    copy.compute_dtype = model.compute_dtype
    return copy.train(model.training)


def divided_like(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors that bear the names of parameters, each divided as its parameter; others as they are."""
    parameters = dict(model.named_parameters())
    return {
        name: divided_as(tensor, parameters[name]) if name in parameters else tensor for name, tensor in tensors.items()
    }
