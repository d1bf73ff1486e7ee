"""Memory, before any is taken: what tensors a computation holds at once, what running a model takes, what devices have.

A computation is run on fake tensors, which have shapes, types and storages of a size but no memory, by PyTorch's own
dispatcher: the same code as in the true run decides what is kept and when it is freed. What kernels allocate inside
themselves is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smidgen.config import ModelConfig
from smidgen.kernels.cross_entropy import pretended_gpu
from smidgen.model.counts import count_parameters
from smidgen.model.decoder import load_architecture

GIB = 2**30


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of the storages that operations inside the context made and that are still alive.

    Views share their storage, which counts once. Use it as a context, `with LiveMemory() as memory:`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        """Bytes alive."""
        self.peak = 0
        """The most that were alive at once since the start, or since `peak` was set back."""
        self._storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.nonzero.default and isinstance(args[0], FakeTensor):
            # How many there are depends on values that nobody has: as many as there can be.
            result = args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64)
        else:
            result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        identity = storage._cdata
        if identity in self._storages:
            return
        size = storage.nbytes()
        self._storages.add(identity)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, identity, size)

    def _free(self, identity: int, size: int) -> None:
        self._storages.discard(identity)
        self.now -= size


@contextmanager
def imagined(*, as_gpu: bool = False) -> Iterator[LiveMemory]:
    """In here tensors take no memory, and it is counted what they would take; real tensors may take part.

    They lie on the CPU. With `as_gpu`, attention and the loss keep what a GPU's would.
    """
    token = pretended_gpu.set(as_gpu)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), LiveMemory() as memory:
            yield memory
    finally:
        pretended_gpu.reset(token)


def running_bytes(model: ModelConfig, batch_size: int = 1) -> int:
    """Weights in bf16 and a bf16 cache of `batch_size` sequences of full length; sliding layers hold a window only."""
    with torch.device("meta"):
        decoder = load_architecture(model)
        decoder.compute_dtype = torch.bfloat16
        return 2 * count_parameters(model) + decoder.new_cache(batch_size).nbytes


@dataclass(frozen=True, slots=True)
class Device:
    """A device as people name it."""

    name: str
    memory: int
    """Bytes that its maker states."""
    usable: float
    """Share that tensors can have: the rest is the driver's, the system's, and lost between blocks."""
    is_computer: bool = False
    """Whether it trains in the memory where checkpoints are copied before they are written."""

    def fits(self, size: float) -> bool:
        """Whether tensors of `size` bytes find room."""
        return size <= self.memory * self.usable


DEVICES = (
    *(Device(f"computer, {size} GB", size * GIB, 0.7, True) for size in (8, 16, 32)),
    Device("NVIDIA RTX 3060", 12 * GIB, 0.92),
    Device("NVIDIA T4", 16 * GIB, 0.90),
    Device("NVIDIA L4", 24 * GIB, 0.90),
    Device("NVIDIA RTX 4090", 24 * GIB, 0.92),
    Device("NVIDIA RTX 5090", 32 * GIB, 0.92),
    Device("NVIDIA A100 40 GB", 40 * GIB, 0.94),
    Device("NVIDIA H100 80 GB", 80 * GIB, 0.94),
    Device("NVIDIA H200", 141 * 10**9, 0.94),
)
"""Devices by the memory that their makers' data sheets state."""
