"""Parts of a job, done on several machines, to the dataset folder that one machine would have made."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from smidgen.data.dataset import TOKENIZER_FOLDER, Dataset
from smidgen.data.manifest import Manifest, SourceRecord
from smidgen.data.pipeline.finishing import PartDescription, check_documents, weigh, write_manifest
from smidgen.data.pipeline.results import Encoded
from smidgen.data.pipeline.sinks import DatasetSink, PartSink, Totals, digests_of_part, read_part
from smidgen.data.writing import check_replaceable, empty_folder, partial_folder, publish, told_when_full
from smidgen.runtime.errors import DataError

Progress = Callable[[str, int, int], None]


def merge_parts(
    folders: Sequence[str | Path], out: str | Path, *, overwrite: bool = False, progress: Progress | None = None
) -> Manifest:
    """Make the dataset folder `out` of all parts of one job: the same bytes as `prepare` makes in one run.

    folders: what `prepare_part` wrote, in any order. progress: told `merging`, tokens done, and tokens in all.

    Raises DataError when a part is missing, there twice, of another job, or damaged; and when all documents are in one
    split, which only an undivided run can mend.
    """
    target = Path(out)
    paths = _in_order([Path(folder) for folder in folders])
    first = PartDescription.read(paths[0])
    if check_replaceable(target) and not overwrite:
        raise DataError(f"--out {target}: holds a dataset; choose another --out, or replace it with --overwrite")
    with partial_folder(target) as folder, told_when_full(folder):
        empty_folder(folder)
        work = folder / "work"
        work.mkdir()
        manifest = _merge(folder, work, paths, first, progress or (lambda stage, done, total: None))
        shutil.copytree(paths[0] / TOKENIZER_FOLDER, folder / TOKENIZER_FOLDER)
        shutil.rmtree(work)
        publish(folder, target)
    Dataset.open(target)
    return manifest


def _in_order(paths: Sequence[Path]) -> list[Path]:
    """The parts by their numbers, each there once, all of one job, and whole."""
    if not paths:
        raise DataError("merge: name the folders of all parts")
    found: dict[int, Path] = {}
    first = PartDescription.read(paths[0])
    for path in paths:
        part = PartDescription.read(path)
        number = part.shard[0]
        if part.request != first.request or part.tokenizer != first.tokenizer or part.shard[1] != first.shard[1]:
            raise DataError(f"{path}: of another job than {paths[0]}; its sources, options or tokenizer differ")
        if number in found:
            raise DataError(f"{path}: is part {number + 1}, as {found[number]} is; name every part once")
        for name, digest in digests_of_part(path).items():
            if part.digests.get(name) != digest:
                raise DataError(f"{path / name}: damaged, its sha256 is not that in part.json; copy or make it again")
        found[number] = path
    missing = [str(number + 1) for number in range(first.shard[1]) if number not in found]
    if missing:
        raise DataError(f"merge: part {', '.join(missing)} of {first.shard[1]} is missing; name all parts")
    return [found[number] for number in range(first.shard[1])]


def _merge(folder: Path, work: Path, paths: Sequence[Path], first: PartDescription, report: Progress) -> Manifest:
    facts = first.tokenizer
    names = [source[0] for source in first.sources]
    total = sum((path / "tokens.bin").stat().st_size for path in paths) // facts.numpy.itemsize
    dataset = DatasetSink(folder, work, facts.numpy, first.options["shard_tokens"], len(names))
    sink = PartSink(work / "part", len(names)) if first.weights else dataset
    done = chunks = 0
    for result in _interleaved(paths, first):
        sink.add(result)
        chunks += 1
        done += result.tokens
        report("merging", done, total)
    if chunks != first.chunks:
        raise DataError(f"merge: the parts hold {chunks} chunks of {first.chunks}; prepare them again")
    totals: Totals = sink.totals
    check_documents(names, totals)
    if len(totals.splits) < 2:
        raise DataError(
            "merge: by chance all documents are in one split, as happens to a few; prepare them without --shard"
        )
    mixture = []
    if isinstance(sink, PartSink):
        sink.close()
        arguments = [source[1] for source in first.sources]
        mixture = weigh(work / "part", facts, arguments, first.weights, dataset)
    records = tuple(
        SourceRecord(name, size, digest or counted.digest, counted.documents, counted.tokens, counted.bytes)
        for (name, _, size, digest), counted in zip(first.sources, totals.sources, strict=True)
    )
    return write_manifest(folder, facts, dataset, totals, records, first.options, mixture)


def _interleaved(paths: Sequence[Path], first: PartDescription) -> Iterator[Encoded]:
    """The chunks in the order of the job: the parts took turns."""
    readers = [read_part(path, first.tokenizer.numpy) for path in paths]
    for turn in zip_longest(*readers):
        yield from (result for result in turn if result is not None)
