"""The n-gram baseline against hand-computed probabilities and a slow reading of Chen & Goodman's equations."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict

import numpy as np
import pytest

from smidgen.evaluation.ngram import NGramModel, bits_per_byte

START = "start"


class SlowKneserNey:
    """Interpolated modified Kneser–Ney by dictionaries and recursion, written from the paper's equations."""

    def __init__(self, documents: list[list[int]], vocab_size: int, order: int) -> None:
        self.vocab_size, self.order = vocab_size, order
        plain: dict[int, Counter[tuple]] = defaultdict(Counter)
        for document in documents:
            tokens = [START, *document]
            for end in range(1, len(tokens)):
                for length in range(1, min(order, end + 1) + 1):
                    plain[length][tuple(tokens[end + 1 - length : end + 1])] += 1
        self.counts: dict[int, Counter[tuple]] = {}
        for length in range(1, order + 1):
            extensions: Counter[tuple] = (
                Counter(longer[1:] for longer in plain[length + 1]) if length < order else Counter()
            )
            self.counts[length] = Counter(
                {
                    ngram: count if length == order or ngram[0] == START else extensions[ngram]
                    for ngram, count in plain[length].items()
                }
            )
        self.discounts = {length: self._discounts(counts) for length, counts in self.counts.items()}

    @staticmethod
    def _discounts(counts: Counter[tuple]) -> list[float]:
        n = [sum(1 for count in counts.values() if count == number) for number in range(5)]
        if 0 in n[1:]:
            return [0, 0.5, 1, 1.5]
        y = n[1] / (n[1] + 2 * n[2])
        return [0, 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]

    def probability(self, history: list[int], token: int) -> float:
        tokens = [START, *history]
        result = 1 / self.vocab_size
        for length in range(1, min(self.order, len(tokens) + 1) + 1):
            context = tuple(tokens[len(tokens) + 1 - length :])
            following = {ngram: c for ngram, c in self.counts[length].items() if ngram[:-1] == context}
            total = sum(following.values())
            if not total:
                break
            discounts = self.discounts[length]
            reserved = sum(discounts[min(count, 3)] for count in following.values())
            count = following.get((*context, token), 0)
            result = (count - discounts[min(count, 3)]) / total + reserved / total * result
        return result


def random_documents(seed: int, vocab_size: int, count: int) -> list[list[int]]:
    """Documents of a skewed Markov source, so that all orders matter."""
    random = np.random.default_rng(seed)
    rows = random.dirichlet(np.full(vocab_size, 0.2), vocab_size)
    documents = []
    for _ in range(count):
        tokens = [int(random.integers(vocab_size))]
        for _ in range(int(random.integers(0, 30))):
            tokens.append(int(random.choice(vocab_size, p=rows[tokens[-1]])))
        documents.append(tokens)
    return documents


def joined(documents: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([np.array(document, np.uint16) for document in documents]), np.cumsum(
        [0, *map(len, documents)]
    )


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_the_equations(order: int) -> None:
    documents = random_documents(0, vocab_size=7, count=40)
    fast = NGramModel.fit(*joined(documents), vocab_size=9, order=order)
    slow = SlowKneserNey(documents, vocab_size=9, order=order)
    held_out = random_documents(1, vocab_size=9, count=10)
    expected = [
        math.log(slow.probability(document[:index], token))
        for document in held_out
        for index, token in enumerate(document)
    ]
    np.testing.assert_allclose(fast.log_probabilities(*joined(held_out)), expected, rtol=1e-10)
    assert fast.nats(*joined(held_out)) == pytest.approx(-sum(expected))


def test_bigrams_by_hand() -> None:
    """Two documents, `0 1` and `0 2`, too small for estimated discounts: 1/2, 1 and 3/2 for counts 1, 2 and more.

    Bigrams: start 0 twice; 0 1 once; 0 2 once. Unigrams count left neighbours: one each for 0, 1 and 2.
    Unigram: each (1 - 1/2)/3 plus 1/2 of the uniform 1/4, 7/24 each; id 3, never seen, 1/8.
    After start: 0 has (2 - 1)/2 + (1/2)(7/24); the others 1/2 of their unigram probability.
    After 0: 1 and 2 have (1 - 1/2)/2 + (1/2)(7/24); 0 has (1/2)(7/24), 3 has (1/2)(1/8).
    """
    model = NGramModel.fit([0, 1, 0, 2], [0, 2, 4], vocab_size=4, order=2)
    np.testing.assert_allclose(model.probabilities([]), [31 / 48, 7 / 48, 7 / 48, 3 / 48])
    np.testing.assert_allclose(model.probabilities([0]), [7 / 48, 19 / 48, 19 / 48, 3 / 48])
    np.testing.assert_allclose(model.probabilities([3]), [7 / 24, 7 / 24, 7 / 24, 1 / 8])
    assert model.nats([0, 2]) == pytest.approx(-math.log(31 / 48 * 19 / 48))


def test_distributions_sum_to_one_and_agree_with_scoring() -> None:
    documents = random_documents(2, vocab_size=12, count=60)
    model = NGramModel.fit(*joined(documents), vocab_size=12)
    for document in random_documents(3, vocab_size=12, count=5):
        log_probabilities = model.log_probabilities(document)
        for index, token in enumerate(document):
            distribution = model.probabilities(document[:index])
            assert distribution.sum() == pytest.approx(1)
            assert math.log(distribution[token]) == pytest.approx(log_probabilities[index])


def test_nothing_crosses_document_borders() -> None:
    documents = random_documents(4, vocab_size=6, count=30)
    model = NGramModel.fit(*joined(documents), vocab_size=6)
    backwards = NGramModel.fit(*joined(documents[::-1]), vocab_size=6)
    held_out = random_documents(5, vocab_size=6, count=8)
    assert model.nats(*joined(held_out)) == pytest.approx(backwards.nats(*joined(held_out)))
    assert model.nats(*joined(held_out)) == pytest.approx(sum(model.nats(document) for document in held_out))


def test_greedy_continuation_recites_and_stops() -> None:
    verse = [5, 3, 8, 1, 9, 2, 7, 0]
    model = NGramModel.fit(verse * 4, range(0, 33, 8), vocab_size=10)
    assert model.generate(verse[:3], 20, end_ids={0}) == verse[3:7]
    assert model.generate(verse[:3], 2) == verse[3:5]


def test_sampling_follows_the_seed() -> None:
    documents = random_documents(6, vocab_size=20, count=50)
    model = NGramModel.fit(*joined(documents), vocab_size=20)
    drawn = [model.generate([1], 30, temperature=1.0, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 30


def test_bits_per_byte() -> None:
    assert bits_per_byte(8 * math.log(2), 4) == pytest.approx(2)


@pytest.mark.slow
def test_a_million_tokens_take_seconds() -> None:
    """Fit under 20 s, 50,000 tokens scored under 10 s (about 3 s and 0.2 s on one busy core)."""
    random = np.random.default_rng(0)
    tokens = (random.zipf(1.3, 1_050_000) % 4096).astype(np.uint16)
    begin = time.perf_counter()
    model = NGramModel.fit(tokens[:1_000_000], vocab_size=4096)
    fitted = time.perf_counter()
    assert model.nats(tokens[1_000_000:]) / 50_000 < math.log(4096)
    assert fitted - begin < 20
    assert time.perf_counter() - fitted < 10
