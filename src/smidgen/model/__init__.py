"""The decoder and its parts."""

from smidgen.model.cache import Cache
from smidgen.model.counts import cache_elements_per_token, count_by_part, count_parameters, flops_per_token
from smidgen.model.decoder import Decoder, load_architecture
from smidgen.model.loss import cross_entropy

__all__ = [
    "Cache",
    "Decoder",
    "cache_elements_per_token",
    "count_by_part",
    "count_parameters",
    "cross_entropy",
    "flops_per_token",
    "load_architecture",
]
