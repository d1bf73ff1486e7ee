"""How many ranks each kind of parallelism takes, and what a configuration makes impossible."""

from __future__ import annotations

from dataclasses import dataclass

from smidgen.config import Config, GroupedQueryAttention
from smidgen.runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Degrees:
    """Degrees of parallelism; see `training.parallel`."""

    data: int
    shard: int
    tensor: int

    @property
    def size(self) -> int:
        """Ranks in all."""
        return self.data * self.shard * self.tensor

    @property
    def batch(self) -> int:
        """Ranks that read sequences of their own."""
        return self.data * self.shard


def resolve_degrees(config: Config, world_size: int) -> Degrees:
    """The degrees of `training.parallel` for `world_size` ranks.

    Raises ConfigError where they do not multiply to the ranks, or the model or the batch cannot be divided so.
    """
    parallel = config.training.parallel
    inner = parallel.shard * parallel.tensor
    data = parallel.data if parallel.data is not None else max(1, world_size // inner)
    degrees = Degrees(data, parallel.shard, parallel.tensor)
    if degrees.size != world_size:
        started = f"{world_size} rank{'s are' if world_size > 1 else ' is'} started"
        if parallel.data is None and world_size > inner:
            raise ConfigError(
                f"training.parallel.shard × tensor = {parallel.shard} × {parallel.tensor}: {started}, which is no"
                f" multiple of {inner}; change the degrees or the ranks"
            )
        raise ConfigError(
            f"training.parallel = data {data}, shard {parallel.shard}, tensor {parallel.tensor}: {started}; start"
            f" {degrees.size} with 'torchrun --nproc-per-node {degrees.size} -m -- smidgen …' or change the degrees"
        )
    _check_batch(config, degrees)
    if degrees.tensor > 1:
        _check_tensor(config, degrees.tensor)
    return degrees


def _check_batch(config: Config, degrees: Degrees) -> None:
    batch_size = config.training.batch_size
    if batch_size % degrees.batch:
        raise ConfigError(
            f"training.batch_size = {batch_size}: the sequences of a forward pass over all ranks cannot be divided"
            f" among {degrees.batch} data-parallel ranks; use a multiple of {degrees.batch}"
        )


def _check_tensor(config: Config, tensor: int) -> None:
    model = config.model
    if config.tuning.lora is not None:
        raise ConfigError(
            f"training.parallel.tensor = {tensor}: tuning.lora puts adapters on whole projections; use data or shard"
        )
    if config.tuning.objective.kind == "distillation":
        raise ConfigError(
            f"training.parallel.tensor = {tensor}: distillation needs the student's head whole; use data or shard"
        )
    _check_divides(tensor, "model.attention.num_heads", model.attention.num_heads)
    _check_divides(tensor, "model.feed_forward.intermediate_size", model.feed_forward.intermediate_size)
    attention = model.attention
    if (
        isinstance(attention, GroupedQueryAttention)
        and attention.num_kv_heads % tensor
        and tensor % attention.num_kv_heads
    ):
        raise _indivisible(tensor, "model.attention.num_kv_heads", attention.num_kv_heads)
    if model.padded_vocab_size % tensor:
        raise ConfigError(
            f"training.parallel.tensor = {tensor}: does not divide the {model.padded_vocab_size} rows of the embedding;"
            f" set model.vocab_padding_multiple to a multiple of {tensor}"
        )
    rows = model.padded_vocab_size // tensor
    if model.padded_vocab_size - model.vocab_size >= rows:
        raise ConfigError(
            f"model.vocab_padding_multiple = {model.vocab_padding_multiple}: leaves the last of {tensor} ranks nothing"
            f" but padded rows; lower it or training.parallel.tensor"
        )
    seq_len = config.training.seq_len or model.max_seq_len
    _check_divides(tensor, "training.seq_len", seq_len)


def _check_divides(tensor: int, field: str, value: int) -> None:
    if value % tensor:
        raise _indivisible(tensor, field, value)


def _indivisible(tensor: int, field: str, value: int) -> ConfigError:
    possible = [d for d in range(1, value + 1) if value % d == 0]
    return ConfigError(f"training.parallel.tensor = {tensor}: does not divide {field} {value}; use one of {possible}")
