"""How likely a model finds the tokens of a given text: what engines report beside generating."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token of a given text under the model: natural log-probabilities, after all tokens before it."""

    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = ()
    """The most probable tokens at this place, the likeliest first."""


@runtime_checkable
class Scorer(Protocol):
    """An engine that can score a given text, also between the steps of its requests."""

    def can_score(self) -> bool:
        """Whether there is room to begin; where all places run requests, perhaps not."""

    def score(self, ids: Sequence[int], top: int) -> Generator[list[TokenScore]]:
        """The scores of `ids[1:]`, T - 1 of them in order, in pieces that take about as long as a step.

        `top`: how many of the most probable tokens to report at each place. `can_score` must hold when the first piece
        is asked for. Steps may come in between; closing the iterator gives the place back. Raises ContextLengthError
        for more tokens than the context, TokenizerError for ids that the model does not have.
        """


def score_rows(logits: NDArray[np.float32], tokens: Sequence[int], top: int) -> list[TokenScore]:
    """Scores of `tokens`, T of them, under the logits [T, V] at the places before them. In float64."""
    import numpy as np

    exact = logits.astype(np.float64)
    exact -= exact.max(-1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(-1, keepdims=True))
    own = exact[np.arange(len(tokens)), np.asarray(tokens)].tolist()
    top = min(top, exact.shape[1])
    if not top:
        return [TokenScore(value) for value in own]
    # In order of probability; of equal ones the lower id first, as sampling by temperature 0 chooses.
    ids = np.sort(np.argpartition(-exact, top - 1, -1)[:, :top], -1)
    values = np.take_along_axis(exact, ids, -1)
    order = np.argsort(-values, -1, kind="stable")
    ids, values = np.take_along_axis(ids, order, -1), np.take_along_axis(values, order, -1)
    return [
        TokenScore(value, tuple(zip(row_ids, row_values, strict=True)))
        for value, row_ids, row_values in zip(own, ids.tolist(), values.tolist(), strict=True)
    ]
