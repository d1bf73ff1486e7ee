"""An interpolated n-gram model over token ids: the baseline that a trained model has to beat.

Modified Kneser–Ney smoothing, interpolated at every order (Chen & Goodman, "An empirical study of smoothing techniques
for language modeling", 1998, section 3 and equation 26): three discounts an order, estimated from counts of counts;
lower orders count in how many contexts an n-gram occurs instead of how often.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""Used where a small text lacks n-grams seen once, twice, three or four times, so that the estimate is undefined."""


@dataclass(frozen=True, slots=True)
class _Order:
    """The n-grams of one length. A context is the n-gram without its last token, and has a number."""

    context_keys: Integers
    """Sorted keys of the contexts, whose positions are their numbers: the number of the context one token shorter
    times (vocab_size + 1), plus the token further left."""
    context_weights: Floats
    """Probability that a context leaves to the order below."""
    ngram_keys: Integers
    """Sorted keys of the n-grams: number of the context times vocab_size, plus the last token."""
    ngram_probabilities: Floats
    """Discounted relative count of each n-gram in its context, without the share of the order below."""


class NGramModel:
    """Interpolated modified Kneser–Ney model. Documents are independent: no n-gram crosses their borders.

    The beginning of a document counts as a token that is never predicted; nothing reaches further back.
    """

    def __init__(self, vocab_size: int, orders: Sequence[_Order]) -> None:
        self.vocab_size = vocab_size
        self._orders = tuple(orders)

    @classmethod
    def fit(
        cls, tokens: ArrayLike, document_offsets: ArrayLike | None = None, *, vocab_size: int, order: int = 5
    ) -> NGramModel:
        """Count and smooth.

        `tokens`: ids in [0, vocab_size), any integer type. `document_offsets`: where each document starts, ascending,
        the first 0, with the number of tokens at the end; None: one document. Takes memory for some 100 bytes a token.
        """
        stream, distances = _with_boundaries(tokens, document_offsets, vocab_size)
        predicted = np.flatnonzero(distances)
        words = stream[predicted]
        contexts = np.zeros(len(predicted), np.int64)
        context_keys: Integers = np.zeros(1, np.int64)
        counted: list[tuple[Integers, Integers, Integers]] = []
        suffixes_of_longer: list[Integers] = []
        previous_ngrams = np.zeros(0, np.int64)
        for length in range(1, order + 1):
            if length > 1:
                reaches = distances[predicted] >= length - 1
                predicted, words, contexts = predicted[reaches], words[reaches], contexts[reaches]
                previous_ngrams = previous_ngrams[reaches]
                keys = contexts * (vocab_size + 1) + stream[predicted - length + 1]
                context_keys, contexts = np.unique(keys, return_inverse=True)
            ngram_keys, first, ngrams, counts = np.unique(
                contexts * vocab_size + words, return_index=True, return_inverse=True, return_counts=True
            )
            from_start = stream[predicted[first] - length + 1] == vocab_size
            if length > 1:
                suffixes_of_longer.append(previous_ngrams[first])
            counted.append((context_keys, ngram_keys, np.where(from_start | (length == order), counts, 0)))
            previous_ngrams = ngrams
        return cls(vocab_size, _smooth(counted, suffixes_of_longer, vocab_size))

    @property
    def order(self) -> int:
        """Length of the longest n-grams."""
        return len(self._orders)

    def log_probabilities(self, tokens: ArrayLike, document_offsets: ArrayLike | None = None) -> Floats:
        """Natural logarithm of each token's probability after those before it in its document, shape [tokens]."""
        stream, distances = _with_boundaries(tokens, document_offsets, self.vocab_size)
        predicted = np.flatnonzero(distances)
        words = stream[predicted]
        contexts = np.zeros(len(predicted), np.int64)
        probabilities = np.full(len(predicted), 1 / self.vocab_size)
        active = np.arange(len(predicted))
        for length, order in enumerate(self._orders, 1):
            if length > 1:
                reaches = distances[predicted[active]] >= length - 1
                active, contexts = active[reaches], contexts[reaches]
                further_left = stream[predicted[active] - length + 1]
                contexts = _find(order.context_keys, contexts * (self.vocab_size + 1) + further_left)
                active, contexts = active[contexts >= 0], contexts[contexts >= 0]
            ngrams = _find(order.ngram_keys, contexts * self.vocab_size + words[active])
            own = np.where(ngrams >= 0, order.ngram_probabilities[ngrams], 0.0)
            probabilities[active] = own + order.context_weights[contexts] * probabilities[active]
        return np.log(probabilities)

    def nats(self, tokens: ArrayLike, document_offsets: ArrayLike | None = None) -> float:
        """Total negative log-likelihood in nats."""
        return -float(self.log_probabilities(tokens, document_offsets).sum())

    def probabilities(self, history: Sequence[int]) -> Floats:
        """Probability of every token after `history`, the beginning of a document; shape [vocab_size], sums to 1."""
        reachable = [self.vocab_size, *history] if len(history) < self.order else history
        result = np.full(self.vocab_size, 1 / self.vocab_size)
        context = 0
        for length, order in enumerate(self._orders, 1):
            if length > 1:
                if length - 1 > len(reachable):
                    break
                key = context * (self.vocab_size + 1) + reachable[1 - length]
                context = int(_find(order.context_keys, np.array([key], np.int64))[0])
                if context < 0:
                    break
            first, last = np.searchsorted(
                order.ngram_keys, (context * self.vocab_size, (context + 1) * self.vocab_size)
            )
            result *= order.context_weights[context]
            result[order.ngram_keys[first:last] - context * self.vocab_size] += order.ngram_probabilities[first:last]
        return result

    def generate(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        *,
        end_ids: Collection[int] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[int]:
        """The tokens after `prompt`, the beginning of a document, up to an end id (left out) or `max_new_tokens`.

        `temperature` 0 takes the most probable token; otherwise tokens are drawn with probability^(1/temperature).
        """
        random = np.random.default_rng(seed)
        history = list(prompt)
        while len(history) < len(prompt) + max_new_tokens:
            probabilities = self.probabilities(history)
            if temperature == 0:
                token = int(probabilities.argmax())
            else:
                weights = probabilities ** (1 / temperature)
                token = int(random.choice(self.vocab_size, p=weights / weights.sum()))
            if token in end_ids:
                break
            history.append(token)
        return history[len(prompt) :]


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """Negative log-likelihood of a text in bits a byte of its UTF-8."""
    return nats / math.log(2) / num_bytes


def _with_boundaries(
    tokens: ArrayLike, document_offsets: ArrayLike | None, vocab_size: int
) -> tuple[Integers, Integers]:
    """The tokens with the id `vocab_size` before each document, and the distance of each to that boundary."""
    ids = np.asarray(tokens, np.int64)
    offsets = np.asarray([0, len(ids)] if document_offsets is None else document_offsets, np.int64)
    assert offsets[0] == 0, offsets[0]
    assert offsets[-1] == len(ids), (offsets[-1], len(ids))
    stream = np.insert(ids, offsets[:-1], vocab_size)
    starts = offsets[:-1] + np.arange(len(offsets) - 1)
    lengths = np.diff(np.append(starts, len(stream)))
    return stream, np.arange(len(stream)) - np.repeat(starts, lengths)


def _smooth(
    counted: list[tuple[Integers, Integers, Integers]], suffixes_of_longer: list[Integers], vocab_size: int
) -> list[_Order]:
    """Turn each order's counts into discounted probabilities and weights of the order below.

    Counts of 0 are filled in with the number of different tokens to the left; n-grams at the beginning of a document
    have none and keep their plain counts.
    """
    orders = []
    for index, (context_keys, ngram_keys, plain) in enumerate(counted):
        counts = plain
        if index < len(suffixes_of_longer):
            extensions = np.bincount(suffixes_of_longer[index], minlength=len(ngram_keys))
            counts = np.where(plain > 0, plain, extensions)
        contexts = ngram_keys // vocab_size
        totals = np.bincount(contexts, counts, minlength=len(context_keys))
        discounts = np.array([0.0, *_discounts(counts)])[np.minimum(counts, 3)]
        reserved = np.bincount(contexts, discounts, minlength=len(context_keys))
        orders.append(_Order(context_keys, reserved / totals, ngram_keys, (counts - discounts) / totals[contexts]))
    return orders


def _discounts(counts: Integers) -> tuple[float, float, float]:
    """Discounts of n-grams counted once, twice, and three times or more (Chen & Goodman 1998, equation 26)."""
    once, twice, thrice, four_times = (int(np.count_nonzero(counts == number)) for number in (1, 2, 3, 4))
    if not (once and twice and thrice and four_times):
        return _FALLBACK_DISCOUNTS
    share = once / (once + 2 * twice)
    discounts = (
        1 - 2 * share * twice / once,
        2 - 3 * share * thrice / twice,
        3 - 4 * share * four_times / thrice,
    )
    if all(0 <= discount <= number for number, discount in enumerate(discounts, 1)):
        return discounts
    return _FALLBACK_DISCOUNTS


def _find(keys: Integers, wanted: Integers) -> Integers:
    """Position of each wanted key in the sorted keys, -1 where it is missing."""
    positions = np.searchsorted(keys, wanted)
    positions[positions == len(keys)] = 0
    return np.where(keys[positions] == wanted, positions, -1)
