"""Log-probabilities of a given text, piece by piece, beside the requests that an engine runs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import torch

from smidgen.inference.frozen import head_product
from smidgen.model import Decoder
from smidgen.runtime.scoring import TokenScore, score_rows

ROWS = 64
"""Positions whose logits are held at a time."""


def score(
    model: Decoder, ids: Sequence[int], top: int, chunk: int, mode: Callable[[], torch.no_grad | torch.inference_mode]
) -> Generator[list[TokenScore]]:
    """The scores of `ids[1:]` in pieces of up to `chunk` tokens, through a cache of its own; see `Scorer.score`.

    mode: how to compute without gradients; entered anew for each piece, as callers do other things in between.
    """
    fed, wanted = list(ids[:-1]), list(ids[1:])
    if not fed:
        return
    device = model.model.embed_tokens.device
    with mode():
        cache = model.new_cache(1, len(fed))
    for start in range(0, len(fed), chunk):
        piece: list[TokenScore] = []
        with mode():
            hidden = model.hidden(torch.tensor([fed[start : start + chunk]], device=device), cache=cache)[0]
            for first, rows in zip(range(start, len(fed), ROWS), hidden.split(ROWS), strict=False):
                logits = head_product(model, rows).float().cpu().numpy()
                piece += score_rows(logits, wanted[first : first + len(rows)], top)
        yield piece
