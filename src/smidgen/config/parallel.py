"""The section `training.parallel`: how the ranks that torchrun starts share a training."""

from __future__ import annotations

from pydantic import PositiveInt

from smidgen.config.parts import Part


class ParallelConfig(Part):
    """Degrees of parallelism; their product is the number of ranks. Left alone, every rank is a replica."""

    data: PositiveInt | None = None
    """Replicas of the model, each with its share of every batch. Left out: as many as the ranks leave room for."""
    shard: PositiveInt = 1
    """Ranks that share the weights, gradients and optimiser state of a replica (FSDP); each has its own sequences."""
    tensor: PositiveInt = 1
    """Ranks that share every layer's heads, feed-forward and vocabulary, and the same sequences."""
