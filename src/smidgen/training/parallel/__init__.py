"""Training on many ranks by torch.distributed: replicas, sharded weights, tensor parallelism, and their product."""

from smidgen.training.parallel.amax import agree_on_amax
from smidgen.training.parallel.degrees import Degrees, resolve_degrees
from smidgen.training.parallel.gather import (
    divided_as,
    divided_like,
    is_divided,
    local_parts,
    whole,
    whole_copy,
    whole_on_main,
)
from smidgen.training.parallel.model import Parallel, parallelize
from smidgen.training.parallel.parts import Parts, load_parts, own_parts, read_parts
from smidgen.training.parallel.ranks import ProcessGroup, Ranks, is_main_rank, joined_ranks, rank_device, world_size

__all__ = [
    "Degrees",
    "Parallel",
    "Parts",
    "ProcessGroup",
    "Ranks",
    "agree_on_amax",
    "divided_as",
    "divided_like",
    "is_divided",
    "is_main_rank",
    "joined_ranks",
    "load_parts",
    "local_parts",
    "own_parts",
    "parallelize",
    "rank_device",
    "read_parts",
    "resolve_degrees",
    "whole",
    "whole_copy",
    "whole_on_main",
    "world_size",
]
