"""How fast batches come: the loader beside a bare read of the memory-mapped file, and what a training waits for.

Example: python benchmarks/loader.py --json benchmarks/results/loader.json

The data is random ids in documents whose lengths are log-normal (median 150 tokens, as short web texts and stories
have). `bare read` copies the same number of contiguous tokens, at as many random places as a batch has rows, from the
map as they are stored (uint16); `int64 pairs` reads inputs and labels as nanoGPT's get_batch does. Ours also shuffle
without replacement, check ids, and with masks find documents, their numbers and positions. The files are in the page
cache. Waiting: a loop takes a batch, then does a step that holds the interpreter no longer than a GPU's launch would
(it sleeps), with and without the thread that prepares batches.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import report
from numpy.typing import NDArray

from smidgen.data import MixedSequences, PackedDocuments, Prefetched, Split, Windows
from smidgen.data.batch import Sequences
from smidgen.data.tokens import Tokens

VOCAB_SIZE = 32_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000_000, help="tokens of the file (default: 100,000,000)")
    parser.add_argument("--batch-size", type=int, default=32, help="sequences in a batch (default: 32)")
    parser.add_argument("--seq-len", type=int, default=1024, help="tokens in a sequence (default: 1024)")
    parser.add_argument("--batches", type=int, default=500, help="batches in a measurement (default: 500)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements, of which the median counts (default: 5)")
    parser.add_argument("--step-ms", type=float, default=5.0, help="simulated step (default: 5 ms)")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        split, shard = make_split(Path(folder), args.tokens)
        results = measure(args, split, shard)
    if args.json:
        report.write(args.json, results)


def measure(args: argparse.Namespace, split: Split, shard: NDArray[np.uint16]) -> list[dict[str, object]]:
    """Every case beside the bare read, printed and as results."""
    size, length = args.batch_size, args.seq_len
    dice = np.random.default_rng(1)
    places = dice.integers(0, len(shard) - length - 1, (args.batches, size))
    rates: dict[str, float] = {}
    results = []

    def rate(name: str, take: Callable[[int], object]) -> float:
        seconds = []
        for _ in range(args.repeats):
            begun = time.perf_counter()
            for number in range(args.batches):
                take(number)
            seconds.append(time.perf_counter() - begun)
        rates[name] = size * length * args.batches / statistics.median(seconds)
        return rates[name]

    bare = rate("bare read", lambda n: [shard[place : place + length].copy() for place in places[n].tolist()])
    pairs = rate("int64 pairs", lambda n: int64_pairs(shard, places[n], length))
    print(f"{'case':<28} {'tokens/s':>16} {'of bare read':>14} {'of int64 pairs':>15}")
    print(f"{'bare read':<28} {bare:>16,.0f}")
    print(f"{'int64 pairs':<28} {pairs:>16,.0f} {pairs / bare:>14.3f}")
    for name, sequences in cases(split, length).items():
        for prefetch in (False, True):
            case = f"{name}, prefetched" if prefetch else name
            with Prefetched(sequences) as prefetched:
                source: Sequences = prefetched if prefetch else sequences
                ours = rate(case, lambda n, source=source: source.batch(n * size, size))  # type: ignore[misc]
            print(f"{case:<28} {ours:>16,.0f} {ours / bare:>14.3f} {ours / pairs:>15.3f}")
            results.append(report.result(case, "loader", "tokens/s", ours, bare, "bare memmap read, uint16"))
            results.append(report.result(case, "loader", "tokens/s", ours, pairs, "memmap read as int64 pairs"))
    print(f"\nwaiting under a step of {args.step_ms:g} ms, a batch:")
    for name, sequences in cases(split, length).items():
        direct = waiting(sequences, args)
        with Prefetched(sequences) as prefetched:
            ahead = waiting(prefetched, args)
        print(f"{name:<28} {direct * 1e6:>8.0f} µs direct {ahead * 1e6:>8.0f} µs prefetched")
        results.append(report.result(name, "waiting", "s/batch", ahead, direct, "without prefetch"))
    return results


def cases(split: Split, seq_len: int) -> dict[str, Sequences]:
    """The streams that are measured."""
    parts = [Windows(split, seq_len, seed=seed) for seed in range(3)]
    return {
        "split": Windows(split, seq_len, document_masks=False),
        "split, masks": Windows(split, seq_len),
        "best_fit, masks": PackedDocuments(split, seq_len),
        "mixture of 3, masks": MixedSequences(parts, [0.7, 0.2, 0.1]),
    }


def waiting(sequences: Sequences, args: argparse.Namespace) -> float:
    """Median seconds that a loop with simulated steps waits for a batch."""
    waited = []
    for number in range(min(args.batches, 200)):
        begun = time.perf_counter()
        sequences.batch(number * args.batch_size, args.batch_size)
        waited.append(time.perf_counter() - begun)
        time.sleep(args.step_ms / 1000)
    return statistics.median(waited)


def int64_pairs(shard: NDArray[np.uint16], places: NDArray[np.int64], length: int) -> tuple[object, object]:
    """Inputs and labels as nanoGPT reads them: each row twice, converted and stacked."""
    inputs = np.stack([shard[place : place + length].astype(np.int64) for place in places.tolist()])
    labels = np.stack([shard[place + 1 : place + 1 + length].astype(np.int64) for place in places.tolist()])
    return inputs, labels


def make_split(folder: Path, num_tokens: int) -> tuple[Split, NDArray[np.uint16]]:
    """A token file of random ids, and the plain array over its map."""
    dice = np.random.default_rng(0)
    path = folder / "train-00000.bin"
    dice.integers(0, VOCAB_SIZE, num_tokens, np.uint16).tofile(path)
    shard = np.asarray(np.memmap(path, np.uint16, "r"))
    shard.max()  # brings the file into the page cache
    lengths = np.maximum(dice.lognormal(np.log(150), 1, num_tokens // 100).astype(np.int64), 2)
    ends = np.cumsum(lengths)
    offsets = np.concatenate([[0], ends[ends < num_tokens - 1], [num_tokens]])
    return Split("train", Tokens([shard], [path]), offsets, None, None, VOCAB_SIZE), shard


if __name__ == "__main__":
    main()
