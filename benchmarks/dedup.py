"""Near duplicates: precision and recall on a planted set, and the time for many documents, beside datasketch.

Example: python benchmarks/dedup.py tinystories.jsonl --documents 100000 --json benchmarks/results/dedup.json

Planted set: documents of the corpus with at least 60 words, then of each, by a fixed seed, copies with 0, 1, 2, 5 and
20 % of their words edited (a third each: a word is deleted, replaced by another of the corpus, or swapped with the
next), and two hard negatives: the first half of its words with the second half of another document, and all its
sentences with their words in another order. What is a near duplicate is decided by the exact Jaccard similarity of the
sets of word 5-grams, not by how a copy was made: a document is positive when an earlier kept one of its own group has a
similarity of at least the threshold. A positive that is dropped is a true positive, any other that is dropped a false
one. Figures are also given without the documents within 0.05 of the threshold, which an estimate from 128 values
cannot tell apart (its standard error is 0.035 at 0.8).

Time: `--documents` documents made of the corpus's sentences at random, a tenth of them edited copies; keys (in one
process; `prepare` computes them in all) and decisions apart. Peer: datasketch's MinHash and MinHashLSH with the same
n-grams, permutations and threshold, on `--peer-documents` of them.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import report

from smidgen.config import CleaningConfig, DuplicatesConfig
from smidgen.data.cleaning import Cleaner, DuplicateFilter, make_cleaner
from smidgen.data.cleaning.words import comparable_words

EDITED_SHARES = (0.0, 0.01, 0.02, 0.05, 0.2)
MIN_WORDS = 60
BAND = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", help="JSON Lines with a field 'text', or a text file with documents between blank lines"
    )
    parser.add_argument("--planted", type=int, default=800, help="documents of the corpus in the planted set")
    parser.add_argument("--documents", type=int, default=100_000, help="documents to time")
    parser.add_argument(
        "--peer-documents", type=int, default=5_000, help="documents that the peer takes; 0 leaves it out"
    )
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    texts = [text for text in read(Path(args.source)) if len(text.split()) >= MIN_WORDS]
    rules = DuplicatesConfig(near=True, near_threshold=args.threshold)
    cleaner = make_cleaner(CleaningConfig(duplicates=rules))
    results = [*judge(texts[: args.planted], cleaner, rules), *measure(texts, args, cleaner, rules)]
    for entry in results:
        peer = "" if entry["peer"] is None else f"   {entry['peer_name']} {entry['peer']:,.4g}"
        print(f"{entry['case']:<28} {entry['metric']:<26} {entry['ours']:>10,.4g} {entry['unit']}{peer}")
    if args.json:
        report.write(args.json, results)


def read(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line)["text"] for line in text.splitlines() if line.strip()]
    return text.split("\n\n")


def edit(words: Sequence[str], share: float, vocabulary: Sequence[str], chance: random.Random) -> list[str]:
    """`share` of the words deleted, replaced, or swapped with the next one."""
    result = list(words)
    for place in sorted(chance.sample(range(len(words) - 1), round(share * len(words))), reverse=True):
        kind = chance.randrange(3)
        if kind == 0:
            del result[place]
        elif kind == 1:
            result[place] = chance.choice(vocabulary)
        elif place + 1 < len(result):
            result[place], result[place + 1] = result[place + 1], result[place]
    return result


def plant(texts: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(group, text) of the planted set: originals first, then copies and hard negatives, shuffled."""
    chance = random.Random(0)
    vocabulary = sorted({word for text in texts for word in text.split()})
    made = []
    for group, text in enumerate(texts):
        words = text.split()
        made += [(group, " ".join(edit(words, share, vocabulary, chance))) for share in EDITED_SHARES]
        other = chance.choice(texts).split()
        made.append((group, " ".join(words[: len(words) // 2] + other[len(other) // 2 :])))
        sentences = [sentence.split() for sentence in text.split(". ")]
        made.append((group, ". ".join(" ".join(chance.sample(words, len(words))) for words in sentences)))
    chance.shuffle(made)
    yield from enumerate(texts)
    yield from made


def ngrams(text: str, n: int) -> frozenset[tuple[str, ...]]:
    words = comparable_words(text)
    return frozenset(zip(*(words[k:] for k in range(n)), strict=False))


def judge(texts: Sequence[str], cleaner: Cleaner, rules: DuplicatesConfig) -> list[dict[str, object]]:
    """Precision and recall of the decisions on the planted set, all pairs and those not near the threshold."""
    kept: dict[int, list[frozenset[tuple[str, ...]]]] = {}
    counts = {"all": [0, 0, 0], "clear": [0, 0, 0]}  # true positives, false positives, false negatives
    planted = 0
    with tempfile.TemporaryDirectory() as folder, DuplicateFilter(rules, Path(folder)) as duplicates:
        for group, text in plant(texts):
            planted += 1
            grams = ngrams(text, rules.near_ngram)
            earlier = kept.setdefault(group, [])
            similarity = max((len(grams & other) / len(grams | other) for other in earlier), default=0.0)
            keys = cleaner.keys(text)
            assert keys is not None
            dropped = duplicates(keys).rule is not None
            if not dropped:
                earlier.append(grams)
            positive = similarity >= rules.near_threshold
            outcome = 0 if dropped and positive else 1 if dropped else 2 if positive else None
            if outcome is None:
                continue
            counts["all"][outcome] += 1
            if abs(similarity - rules.near_threshold) > BAND:
                counts["clear"][outcome] += 1
    results = [report.result("planted set", "documents", "documents", planted)]
    for name, (true, false, missed) in counts.items():
        case = "planted set" if name == "all" else f"not within {BAND} of {rules.near_threshold}"
        results.append(report.result(case, "precision", "share", true / max(true + false, 1)))
        results.append(report.result(case, "recall", "share", true / max(true + missed, 1)))
    return results


def crowd(texts: Sequence[str], count: int) -> Iterator[str]:
    """`count` documents of about 150 words, a tenth of them edited copies of earlier ones; made while they are read."""
    chance = random.Random(1)
    sentences = [sentence for text in texts for sentence in text.split(". ")]
    vocabulary = sorted({word for text in texts for word in text.split()})
    recent: list[str] = []
    for number in range(count):
        if recent and number % 10 == 0:
            yield " ".join(edit(chance.choice(recent).split(), 0.01, vocabulary, chance))
            continue
        text = ". ".join(chance.choices(sentences, k=12))
        if len(recent) < 1000:
            recent.append(text)
        else:
            recent[chance.randrange(1000)] = text
        yield text


def measure(
    texts: Sequence[str], args: argparse.Namespace, cleaner: Cleaner, rules: DuplicatesConfig
) -> list[dict[str, object]]:
    """Seconds for keys and decisions of `--documents` documents, and documents a second beside the peer."""
    spent = {"keys": 0.0, "decisions": 0.0}
    dropped = 0
    with tempfile.TemporaryDirectory() as folder, DuplicateFilter(rules, Path(folder)) as duplicates:
        for text in crowd(texts, args.documents):
            start = time.perf_counter()
            keys = cleaner.keys(text)
            assert keys is not None
            between = time.perf_counter()
            dropped += duplicates(keys).rule is not None
            spent["decisions"] += time.perf_counter() - between
            spent["keys"] += between - start
    case = f"{args.documents:,} documents"
    total = sum(spent.values())
    results = [report.result(case, f"time, {name}", "s", seconds) for name, seconds in spent.items()]
    results.append(report.result(case, "dropped", "documents", dropped))
    rate = peer_rate(list(crowd(texts, args.peer_documents)), rules) if args.peer_documents else None
    results.append(
        report.result(case, "rate", "documents/s", args.documents / total, rate, "datasketch" if rate else None)
    )
    return results


def peer_rate(texts: Sequence[str], rules: DuplicatesConfig) -> float:
    """Documents a second of datasketch, with the same n-grams, permutations, threshold and order."""
    from datasketch import MinHash, MinHashLSH

    start = time.perf_counter()
    index = MinHashLSH(threshold=rules.near_threshold, num_perm=rules.permutations)
    kept: dict[int, MinHash] = {}
    for number, text in enumerate(texts):
        minhash = MinHash(num_perm=rules.permutations)
        minhash.update_batch([" ".join(gram).encode() for gram in ngrams(text, rules.near_ngram)])
        near = (kept[other].jaccard(minhash) >= rules.near_threshold for other in index.query(minhash))
        if not any(near):
            index.insert(number, minhash)
            kept[number] = minhash
    return len(texts) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
