"""What a training on many ranks would take of each, without any of them: memory, and bytes exchanged a step.

The model is divided by the code that divides it for real, on the meta device and with PyTorch's fake process group.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch.distributed as dist
from torch import nn

from smidgen.config import Config
from smidgen.config.training import AUTO_BATCH_SIZE
from smidgen.model import load_architecture
from smidgen.runtime.errors import ConfigError
from smidgen.training.footprint import predict_footprint
from smidgen.training.objectives import LanguageModeling
from smidgen.training.parallel.degrees import Degrees, resolve_degrees
from smidgen.training.parallel.gather import local_parts
from smidgen.training.parallel.model import parallelize
from smidgen.training.parallel.ranks import ProcessGroup
from smidgen.training.precision import compute_dtype

_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes of the first rank, which holds as much as any."""

    degrees: Degrees
    parameters: int
    """Weights that the rank holds, in number."""
    weights: int
    gradients: int
    optimizer: int
    average: int
    """The moving average of the weights; 0 without training.ema_decay."""
    gathered: int
    """Whole weights and gradients that are at hand while a layer computes; 0 where weights are not sharded."""
    activations: int
    """An estimate: those of the rank's sequences on one device, divided by the tensor degree."""
    traffic: dict[str, int]
    """Bytes that the rank sends a step, and receives as well, by purpose; ring algorithms assumed."""

    @property
    def memory(self) -> int:
        """All of it, as if it peaked together."""
        return self.weights + self.gradients + self.optimizer + self.average + self.gathered + self.activations


def forecast(config: Config, world_size: int) -> Forecast:
    """What each of `world_size` ranks would hold and exchange.

    Raises ConfigError where the configuration cannot be divided among them, as the training would.
    """
    degrees = resolve_degrees(config, world_size)
    if config.training.batch_size == AUTO_BATCH_SIZE:
        raise ConfigError("training.batch_size = auto: a dry run has no device to try it on; give a number")
    share = config.training.batch_size // degrees.batch
    alone = predict_footprint(config, share, as_gpu=config.training.device.startswith("cuda"))
    units = _numbers_of_weights(config, degrees)
    own, tensor_share = sum(unit.own for unit in units), sum(unit.gathered for unit in units)
    part = own / (alone.weights / _FLOAT32)
    largest = max(unit.gathered for unit in units[:-1])
    is_sharded = degrees.shard > 1
    return Forecast(
        degrees=degrees,
        parameters=own,
        weights=own * _FLOAT32,
        gradients=own * _FLOAT32,
        optimizer=round(alone.optimizer * part),
        average=round(alone.average * part),
        # A layer's weights while the next layer's arrive, a layer's gradients, and the weights outside of layers.
        gathered=_FLOAT32 * (3 * largest + units[-1].gathered) if is_sharded else 0,
        activations=alone.activations // degrees.tensor,
        traffic=_traffic(config, degrees, units, own, tensor_share, share),
    )


@dataclass(frozen=True, slots=True)
class _Unit:
    """A part of the model whose weights FSDP gathers together."""

    own: int
    """Weights that this rank keeps."""
    gathered: int
    """Weights of all ranks that shard this unit."""


def _numbers_of_weights(config: Config, degrees: Degrees) -> list[_Unit]:
    """The layers, then all that is outside of them."""
    model = load_architecture(config.model)
    if degrees.shard * degrees.tensor > 1:
        with _imagined_ranks(degrees) as ranks:
            parallelize(model, LanguageModeling().loss, ranks)
            layers = [_unit(layer, degrees) for layer in model.layers]
            everything = _unit(model, degrees)
    else:
        layers, everything = [_unit(layer, degrees) for layer in model.layers], _unit(model, degrees)
    outside = _Unit(
        everything.own - sum(layer.own for layer in layers),
        everything.gathered - sum(layer.gathered for layer in layers),
    )
    return [*layers, outside]


def _unit(module: nn.Module, degrees: Degrees) -> _Unit:
    own = sum(part.numel() for part in local_parts(list(module.parameters())))
    return _Unit(own, own * degrees.shard)


@contextmanager
def _imagined_ranks(degrees: Degrees) -> Iterator[ProcessGroup]:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    assert not dist.is_initialized()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=degrees.size)
    try:
        yield ProcessGroup(degrees, "cpu")
    finally:
        dist.destroy_process_group()


def _traffic(
    config: Config, degrees: Degrees, units: list[_Unit], own: int, tensor_share: int, share: int
) -> dict[str, int]:
    """Bytes a rank sends a step. Gathering n bytes over k ranks, or scattering their sum, sends n·(k - 1)/k; summing
    them for all ranks sends twice that. Norms' weights and scales are left out: they are small."""
    training, model = config.training, config.model
    passes = training.gradient_accumulation_steps
    recomputed = 0 if training.activation_checkpointing == "none" else 1
    tokens = share * (training.seq_len or model.max_seq_len)
    state = tokens * model.hidden_size * compute_dtype(training.precision).itemsize
    shard, tensor = _share_sent(degrees.shard), _share_sent(degrees.tensor)
    layers = sum(unit.gathered for unit in units[:-1])
    traffic = {
        # Forward, and again backward for the layers.
        "weights gathered over shard ranks": shard * _FLOAT32 * (tensor_share + layers) * passes,
        "gradients scattered over shard ranks": shard * _FLOAT32 * tensor_share * passes,
        "gradients summed over data ranks": 2 * _share_sent(degrees.data) * _FLOAT32 * own,
        # Each of a layer's two sublayers gathers and scatters, forward and backward; embedding and head do once.
        "states over tensor ranks": tensor * state * (model.num_layers * 4 * (2 + recomputed) + 4) * passes,
        # The greatest logit, the softmax's denominator and the label's logit of each token.
        "loss over tensor ranks": 2 * tensor * tokens * 3 * _FLOAT32 * passes,
    }
    return {purpose: round(count) for purpose, count in traffic.items() if count}


def _share_sent(ranks: int) -> float:
    return (ranks - 1) / ranks
