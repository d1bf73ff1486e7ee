"""Intervals by resampling: how far a score or a difference would move with other questions of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def estimate(groups: Sequence[ArrayLike], level: float = 0.95, seed: int = 0) -> Estimate:
    """The mean over groups of their means, with the percentile bootstrap's interval (Efron, 1979).

    Each group, a category's scores [items], is resampled with replacement on its own, so that every resample has as
    many items of each kind. For paired differences the scores are the differences item by item.
    """
    random = np.random.default_rng(seed)
    means = np.zeros(RESAMPLES)
    value = 0.0
    for group in groups:
        scores: NDArray[np.float64] = np.asarray(group, np.float64)
        assert len(scores) > 0, "an empty group has no mean"
        means += scores[random.integers(0, len(scores), (RESAMPLES, len(scores)))].mean(1)
        value += float(scores.mean())
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means / len(groups), [tail, 100 - tail])
    return Estimate(value / len(groups), float(low), float(high))


def ratio_estimate(numerators: ArrayLike, denominators: ArrayLike, level: float = 0.95, seed: int = 0) -> Estimate:
    """Sum of numerators over sum of denominators, pairs of them resampled together: a loss over windows of a text."""
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    random = np.random.default_rng(seed)
    chosen = random.integers(0, len(above), (RESAMPLES, len(above)))
    ratios = above[chosen].sum(1) / below[chosen].sum(1)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return Estimate(float(above.sum() / below.sum()), float(low), float(high))
