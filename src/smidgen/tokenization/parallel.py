"""One function over many texts on all cores, for engines that release the interpreter's lock while they work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

MIN_CHARACTERS = 1 << 16
"""Below this much text, starting threads costs more than they save."""

_CHUNKS_PER_THREAD = 4


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_texts(function: Callable[[str], list[int]], texts: Sequence[str]) -> list[list[int]]:
    """`[function(text) for text in texts]`, in threads that each take runs of neighbouring texts.

    Handing over single texts would cost about as much as encoding a short one.
    """
    threads = min(usable_cores(), len(texts))
    size = sum(map(len, texts))
    if threads < 2 or size < MIN_CHARACTERS:
        return [function(text) for text in texts]
    chunks = _chunks(texts, size // (threads * _CHUNKS_PER_THREAD) + 1)
    with ThreadPoolExecutor(threads) as pool:
        return [ids for chunk in pool.map(lambda chunk: [function(text) for text in chunk], chunks) for ids in chunk]


def _chunks(texts: Sequence[str], characters: int) -> Iterator[Sequence[str]]:
    start = gathered = 0
    for end, text in enumerate(texts, start=1):
        gathered += len(text)
        if gathered >= characters:
            yield texts[start:end]
            start, gathered = end, 0
    if start < len(texts):
        yield texts[start:]
