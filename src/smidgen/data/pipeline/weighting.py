"""A mixture by tokens: sources are thinned or repeated until each has its share of the training tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smidgen.data.manifest import SplitName
from smidgen.data.pipeline.results import Encoded, Part
from smidgen.runtime.errors import DataError


@dataclass(slots=True)
class Share:
    """One SOURCE argument in a mixture."""

    source: str
    weight: float
    tokens: int = 0
    """Training tokens that it has."""
    times: float = 0.0
    """How often its documents are taken: 2.5 takes each twice, and half of them once more."""
    taken: int = 0
    """Training tokens that makes."""

    def to_json(self) -> dict[str, Any]:
        """For dataset.json."""
        return {
            "source": self.source,
            "weight": self.weight,
            "tokens": self.tokens,
            "times": self.times,
            "taken": self.taken,
        }


def shares_of(results: Iterable[Encoded], arguments: Sequence[str], weights: Mapping[str, float]) -> dict[str, Share]:
    """Each argument's share. The mixture has as many training tokens as the sources have together.

    arguments: the SOURCE argument of each source. Raises DataError for a weighted source without training tokens.
    """
    shares = {argument: Share(argument, weight) for argument, weight in weights.items()}
    for source, split, part in _parts(results):
        if split == "train":
            shares[arguments[source]].tokens += len(part.tokens)
    total = sum(share.tokens for share in shares.values())
    weight = sum(share.weight for share in shares.values())
    for share in shares.values():
        if share.tokens == 0 and share.weight > 0:
            raise DataError(
                f"--weight {share.source}={share.weight:g}: the source has no training tokens; leave it out"
            )
        share.times = total * share.weight / weight / share.tokens if share.tokens else 0.0
    return shares


def mixed(
    results: Callable[[], Iterable[Encoded]], arguments: Sequence[str], shares: Mapping[str, Share]
) -> Iterator[Part]:
    """The documents of the mixture: all validation documents once, training documents as often as their share says.

    results: gives all results in order, again and again. What a source is taken in part, is spread over it evenly.
    """
    for turn in range(max(1, *(int(np.ceil(share.times)) for share in shares.values()))):
        seen = dict.fromkeys(shares, 0)
        kept = dict.fromkeys(shares, 0)
        keeps = True
        for source, split, part in _parts(results()):
            share = shares[arguments[source]]
            if split == "val":
                if turn == 0:
                    yield part
                continue
            fraction = min(max(share.times - turn, 0.0), 1.0)
            if fraction < 1:
                chosen = []
                starts = [0, *part.stops[:-1].tolist()]
                for number, (start, stop) in enumerate(zip(starts, part.stops.tolist(), strict=True)):
                    length = stop - start
                    if part.split is not None or number > 0:
                        keeps = kept[share.source] + length / 2 < fraction * (seen[share.source] + length)
                    seen[share.source] += length
                    kept[share.source] += length * keeps
                    chosen.append(keeps)
                part = _selected(part, np.array(chosen, bool))
            share.taken += len(part.tokens)
            if len(part.stops):
                yield part


def _selected(part: Part, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> Part:
    lengths = np.diff(part.stops, prepend=0)
    tokens = part.tokens[np.repeat(chosen, lengths)]
    kept = lengths[chosen]
    return Part("train", tokens, np.cumsum(kept), part.sizes[chosen], part.open and bool(chosen[-1]))


def _parts(results: Iterable[Encoded]) -> Iterator[tuple[int, SplitName, Part]]:
    """Source, split and part, in order; what goes on from before has its document's split."""
    current: SplitName = "train"
    for result in results:
        for part in result.parts:
            split = part.split or current
            if part.open:
                current = split
            yield result.source, split, part
