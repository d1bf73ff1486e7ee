"""What this rank holds of divided tensors: copied for a checkpoint, and read back from one, never the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import safe_open
from torch import Tensor

from smidgen.folders.parts import Part, read_part
from smidgen.training.parallel.gather import is_dtensor
from smidgen.training.parallel.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True, slots=True)
class Parts:
    """Tensors of which every rank writes a part."""

    whole: dict[str, Tensor] = field(default_factory=dict)
    """The shape and type of each, on the meta device; equal on every rank."""
    own: dict[str, Part] = field(default_factory=dict)
    """What this rank is to write, in memory of its own: of all ranks, each element is one's."""

    @property
    def nbytes(self) -> int:
        """Of the whole tensors."""
        return sum(tensor.nbytes for tensor in self.whole.values())


@torch.no_grad()
def own_parts(tensors: Mapping[str, Tensor], ranks: Ranks) -> Parts:
    """Copies of what this rank is to write. A tensor that is not divided, equal on all ranks, is the main rank's."""
    parts = Parts()
    for name, tensor in tensors.items():
        parts.whole[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        if is_dtensor(tensor):
            if _is_first_copy(tensor) and tensor.to_local().numel():
                offsets, _ = _block(tensor)
                parts.own[name] = Part(offsets, _copy(tensor.to_local()))
        elif ranks.is_main:
            parts.own[name] = Part((0,) * tensor.dim(), _copy(tensor))
    return parts


@torch.no_grad()
def read_parts(path: Path, parameter_of: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, each divided as `parameter_of(name)` is, of which only this rank's part is
    read. Those without dimensions, without a parameter or of a whole one are read whole, to the CPU."""
    tensors: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (it is no dict)
            parameter = parameter_of(name)
            if parameter is not None and is_dtensor(parameter) and file.get_slice(name).get_shape():
                values = read_part(file, name, *_block(parameter))
                divided = cast("DTensor", torch.empty_like(parameter, dtype=values.dtype))
                divided.to_local().copy_(values)
                tensors[name] = divided
            else:
                tensors[name] = file.get_tensor(name)
    return tensors


@torch.no_grad()
def load_parts(path: Path, parameters: Mapping[str, Tensor]) -> None:
    """Fill divided parameters from the tensors of their names in a safetensors file, each rank its part, one by one."""
    with safe_open(path, framework="pt") as file:
        for name, parameter in parameters.items():
            assert is_dtensor(parameter), name
            parameter.to_local().copy_(read_part(file, name, *_block(parameter)))


def _block(tensor: DTensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where this rank's part begins and its sizes, by torch's distributed checkpoint, which asks tensors just so."""
    (chunk,) = tensor.__create_chunk_list__()
    return tuple(chunk.offsets), tuple(chunk.sizes)


def _is_first_copy(tensor: DTensor) -> bool:
    """Whether no rank before this one holds the same part."""
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None
    return all(
        place == 0 for place, placement in zip(coordinate, tensor.placements, strict=True) if placement.is_replicate()
    )


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
