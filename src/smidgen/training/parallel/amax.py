"""FP8's delayed scaling on many ranks: all must scale by the same largest values."""

from __future__ import annotations

import torch

from smidgen.model import Decoder
from smidgen.training.parallel.ranks import Ranks
from smidgen.training.precision import amax_tensors


@torch.no_grad()
def agree_on_amax(model: Decoder, ranks: Ranks) -> None:
    """Give every rank the largest values that any recorded since the last step; to be called before `commit_amax`."""
    recorded = amax_tensors(model)
    if recorded and ranks.size > 1:
        torch._foreach_copy_(recorded, list(ranks.largest(torch.stack(recorded)).unbind()))
