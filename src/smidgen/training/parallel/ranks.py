"""The processes of a training, as the loop sees them: one, or those that torchrun started."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from smidgen.runtime.errors import ConfigError, SmidgenError
from smidgen.training.parallel.degrees import Degrees

Value = TypeVar("Value")

DATA, SHARD, TENSOR = "data", "shard", "tensor"
"""Dimensions of the device mesh, outermost first."""


class Ranks:
    """A process alone: what it says goes. It touches nothing of torch.distributed."""

    rank = 0
    """Number of this process."""
    size = 1
    """Number of processes."""
    batch_rank = 0
    """Which share of every batch this process reads; ranks that split tensors read the same."""
    batch_size = 1
    """Shares that a batch is cut into: data · shard."""
    degrees = Degrees(1, 1, 1)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder and reports."""
        return self.rank == 0

    def highest(self, number: int) -> int:
        """The greatest `number` of all ranks. Every rank must call it, as everything below."""
        return number

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on some rank."""
        return bool(self.highest(int(flag)))

    def largest(self, tensor: Tensor) -> Tensor:
        """The greatest value of each element of `tensor` over all ranks."""
        return tensor

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over the shares of the batch; the same on every rank."""
        return tensor

    def barrier(self) -> None:
        """Return when every rank has called."""

    def broadcast(self, value: Value) -> Value:
        """The main rank's `value`, on every rank."""
        return value

    def gather(self, value: Value) -> list[Value]:
        """Every rank's `value`, for the main rank; empty for the others."""
        return [value]

    def exchange(self, value: Value) -> list[Value]:
        """Every rank's `value`, on every rank."""
        return [value]

    def beside(self) -> Ranks:
        """The same ranks for a thread beside the training, whose `exchange` does not meet the training's calls."""
        return self

    def on_main(self, function: Callable[[], Value]) -> Value:
        """What `function` returns on the main rank, on every rank; a SmidgenError that it raises is everyone's."""
        result: Value | None = None
        error: SmidgenError | None = None
        if self.is_main:
            try:
                result = function()
            except SmidgenError as raised:
                error = raised
        result, error = self.broadcast((result, error))
        if error is not None:
            raise error
        return cast(Value, result)


class ProcessGroup(Ranks):
    """Processes joined by torch.distributed, on a device mesh of data × shard × tensor."""

    def __init__(self, degrees: Degrees, device_type: str) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        assert degrees.size == self.size
        self.degrees = degrees
        names = (DATA, SHARD, TENSOR)
        self.mesh: DeviceMesh = init_device_mesh(
            device_type, (degrees.data, degrees.shard, degrees.tensor), mesh_dim_names=names
        )
        if degrees.shard > 1 and degrees.tensor > 1:
            # Of every tensor that is gathered over both, torch warns that it takes two collectives.
            logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
        self.batch_rank, self.batch_size = self.rank // degrees.tensor, degrees.batch
        # Every rank must take part in making every group.
        shares = [dist.new_group(list(range(first, self.size, degrees.tensor))) for first in range(degrees.tensor)]
        self._share_group = shares[self.rank % degrees.tensor]
        self._exchange_group: dist.ProcessGroup | None = None

    def highest(self, number: int) -> int:
        # On the CPU: a signal must not wait for a busy GPU.
        numbers = torch.tensor(number)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers.item())

    def largest(self, tensor: Tensor) -> Tensor:
        largest = tensor.clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total, group=self._share_group)
        return total

    def barrier(self) -> None:
        self.any(False)

    def broadcast(self, value: Value) -> Value:
        values: list[Value] = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: Value) -> list[Value]:
        gathered: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, gathered)
        return gathered or []

    def exchange(self, value: Value) -> list[Value]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._exchange_group)
        return values

    def beside(self) -> Ranks:
        other = copy.copy(self)
        other._exchange_group = dist.new_group(backend="gloo")
        return other


def world_size() -> int:
    """Processes that torchrun started, by its environment; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_rank() -> bool:
    """Whether this process is the first of torchrun's, or alone."""
    return int(os.environ.get("RANK", "0")) == 0


def rank_device(device: torch.device) -> torch.device:
    """The device of this process: under torchrun the GPU of its number on the machine.

    Raises ConfigError for a device that processes cannot share work on.
    """
    if world_size() > 1 and device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"training.device = {device.type}: torch.distributed knows only cpu and cuda; use one process"
        )
    if world_size() > 1 and device.type == "cuda" and device.index is None:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@contextmanager
def joined_ranks(degrees: Degrees, device: torch.device) -> Iterator[Ranks]:
    """Join the processes of torchrun, gloo on the CPU and NCCL between GPUs, and leave them in the end."""
    if degrees.size == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(degrees, device.type)
    finally:
        dist.destroy_process_group()
