"""Many texts on all cores, in order."""

from __future__ import annotations

import threading

import pytest

from smidgen.tokenization import parallel


def test_results_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "usable_cores", lambda: 3)
    texts = [str(number) * (number % 50) for number in range(5000)]
    threads = set()

    def function(text: str) -> list[int]:
        threads.add(threading.get_ident())
        return [len(text)]

    assert parallel.map_texts(function, texts) == [[len(text)] for text in texts]
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("texts", [[], [""], ["a"] * 10, ["a" * 200_000]])
def test_little_text_stays_in_this_thread(texts: list[str]) -> None:
    threads = []

    def function(text: str) -> list[int]:
        threads.append(threading.get_ident())
        return [len(text)]

    assert parallel.map_texts(function, texts) == [[len(text)] for text in texts]
    assert set(threads) <= {threading.get_ident()}


def test_errors_come_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "usable_cores", lambda: 2)

    def function(text: str) -> list[int]:
        raise ValueError(text)

    with pytest.raises(ValueError, match="aaa"):
        parallel.map_texts(function, ["a" * 50_000] * 4)
