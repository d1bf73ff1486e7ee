"""A decoder divided over the ranks, and the loss whose gradients add up over them.

Gradients are sums over ranks, never means: the loop divides them by the weight of the loss, summed over ranks too.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from smidgen.model import Decoder
from smidgen.training.objectives import Batch, Loss
from smidgen.training.parallel.model import LossFunction, Parallel
from smidgen.training.parallel.ranks import DATA, SHARD, TENSOR, ProcessGroup
from smidgen.training.parallel.tensor import TensorParallelModel


class Replicated(Parallel):
    """Every rank has the whole model and its own share of the batch (DistributedDataParallel)."""

    def __init__(self, model: Decoder, loss: LossFunction) -> None:
        super().__init__(loss)
        # What a rank's FP8 layers record in a forward pass is its own until the step is taken.
        renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
        no_broadcast: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        self._module = DistributedDataParallel(
            _LossModule(model, model, loss), gradient_as_bucket_view=True, **no_broadcast
        )
        # A lambda, since DDP compares annotations and does not know them as strings.
        self._module.register_comm_hook(None, lambda state, bucket: _sum_bucket(bucket))

    def loss(self, model: Decoder, batch: Batch) -> Loss:
        if not torch.is_grad_enabled():
            return self._loss(model, batch)
        result: Loss = self._module(batch)
        return result

    @contextmanager
    def accumulating(self, is_last: bool) -> Iterator[None]:
        if is_last:
            yield
        else:
            with self._module.no_sync():
                yield


class Sharded(Parallel):
    """Weights are divided: over tensor ranks within layers, over shard ranks by FSDP2; data ranks hold copies."""

    def __init__(self, model: Decoder, loss: LossFunction, ranks: ProcessGroup) -> None:
        super().__init__(loss)
        self._parameters = lambda: model.parameters()
        degrees = ranks.degrees
        seen: object = model
        if degrees.tensor > 1:
            seen = TensorParallelModel(model, ranks.mesh[TENSOR])
        self._module = _LossModule(model, cast(Decoder, seen), loss)
        self._shards: list[FSDPModule] = []
        self._is_divided_by_shards = degrees.shard > 1
        if degrees.batch > 1:
            mesh = ranks.mesh[DATA, SHARD] if degrees.data > 1 else ranks.mesh[SHARD]
            units = [*model.layers, self._module]
            for unit in units:
                fully_shard(unit, mesh=mesh)
            self._shards = cast(list[FSDPModule], units)
            for shard in self._shards:
                shard.set_gradient_divide_factor(1.0)
                # Sums need no division, which not every backend has as a reduction.
                shard.set_force_sum_reduction_for_comms(True)

    def loss(self, model: Decoder, batch: Batch) -> Loss:
        result: Loss = self._module(batch)
        return result

    def allocate(self, device: torch.device) -> None:
        # Through the outermost module, which FSDP has to hear of it.
        self._module._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t)

    @contextmanager
    def accumulating(self, is_last: bool) -> Iterator[None]:
        for shard in self._shards:
            if self._is_divided_by_shards:
                # Gradients are scattered after every pass: whole ones would not fit where whole weights do not.
                shard.set_requires_all_reduce(is_last, recurse=False)
            else:
                shard.set_requires_gradient_sync(is_last, recurse=False)
        yield

    def finish_gradients(self) -> None:
        # FSDP does it where it is in use; without it, a weight that every tensor rank has whole collects parts.
        for parameter in self._parameters():
            gradient = parameter.grad
            if isinstance(gradient, DTensor) and gradient.placements != cast(DTensor, parameter).placements:
                parameter.grad = gradient.redistribute(placements=cast(DTensor, parameter).placements)

    def finish_evaluation(self) -> None:
        for shard in self._shards:
            shard.reshard()


class _LossModule(nn.Module):
    """The loss as a module, so that DDP and FSDP see a whole forward pass, with the head's product in it."""

    def __init__(self, decoder: Decoder, seen: Decoder, loss: LossFunction) -> None:
        super().__init__()
        self.decoder = decoder
        self._seen = (seen,)  # in a tuple, so that no module is registered twice
        self._loss = loss

    def forward(self, batch: Batch) -> Loss:
        return self._loss(self._seen[0], batch)


def _sum_bucket(bucket: Any) -> torch.futures.Future[Tensor]:
    """The reduction of a bucket of DDP's (a GradBucket) without its division by the number of ranks."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    future: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return future
