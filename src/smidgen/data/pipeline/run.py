"""One run of `prepare`, from the sources to a folder that is ready to be published."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.data.cleaning import DuplicateFilter, make_cleaner
from smidgen.data.dataset import TOKENIZER_FOLDER, Dataset
from smidgen.data.holdout import Routing, Survey, usual_limit
from smidgen.data.manifest import Manifest, SourceRecord, digest_of, digest_of_request
from smidgen.data.pipeline.finishing import (
    PartDescription,
    TokenizerFacts,
    check_documents,
    no_text,
    source_records,
    weigh,
    write_manifest,
    write_part,
)
from smidgen.data.pipeline.journal import Journal, encode_all
from smidgen.data.pipeline.plan import Plan, Report, scan
from smidgen.data.pipeline.pool import Pool
from smidgen.data.pipeline.request import Request
from smidgen.data.pipeline.sinks import DatasetSink, PartSink, Sink, SourceTotals, Totals
from smidgen.data.pipeline.tokenizer import load, requested, train
from smidgen.data.pipeline.worker import Job
from smidgen.data.sources import CHUNK_BYTES, STORYWORLD, Source, open_sources
from smidgen.data.writing import empty_folder, partial_folder, told_when_full
from smidgen.runtime.errors import DataError
from smidgen.runtime.files import write_text
from smidgen.runtime.protocols import Tokenizer

if TYPE_CHECKING:
    from smidgen.config import TokenizerConfig

_BYTES_A_WORKER = 2 * CHUNK_BYTES
"""Below this much text, starting a process costs more than it saves."""

_WORK, _PLAN, _PART = "work", "plan.json", "part"


class Run:
    """One call of `prepare` or `prepare_part`."""

    def __init__(
        self,
        names: Sequence[str | Path],
        target: Path,
        tokenizer: TokenizerConfig,
        request: Request,
        progress: Report | None,
        shard: tuple[int, int] | None,
    ) -> None:
        self._names = [str(name) for name in names]
        request.check(self._names, shard)
        self.target = target
        self._config, self._request, self._shard = tokenizer, request, shard
        self._report: Report = progress or (lambda stage, done, total: None)

    @contextmanager
    def working(self) -> Iterator[Path]:
        """The hidden folder to work in."""
        with partial_folder(self.target) as folder, told_when_full(folder):
            yield folder

    def open(self, folder: Path) -> None:
        """Find the sources, load the tokenizer if one is named, and see what an earlier run left."""
        self._folder, self._work = folder, folder / _WORK
        self._work.mkdir(exist_ok=True)
        request = self._request
        self._sources = tuple(
            open_sources(
                self._names,
                request.source_options(),
                holdout=request.holdout,
                seed=request.seed,
                spool=self._work / "standard-input",
            )
        )
        self._tokenizer = load(self._config)
        if self._shard is not None and self._tokenizer is None:
            raise DataError("--shard: all parts need one tokenizer; train it first and name it with --tokenizer.path")
        self._cleaner = None if request.cleaning is None else make_cleaner(request.cleaning)
        self._options = {"tokenizer": requested(self._config, self._tokenizer), **request.options(self._names)}
        if self._cleaner is not None and self._cleaner.active:
            self._options["cleaning"] = self._cleaner.fingerprint

    def existing(self) -> tuple[Dataset, Manifest]:
        """What stands at the target; raises DataError if it is not what would be made now."""
        try:
            manifest, dataset = Manifest.read(self.target), Dataset.open(self.target)
        except DataError as error:
            raise DataError(
                f"--out {self.target}: holds a damaged dataset, to be replaced with --overwrite: {error}"
            ) from None
        records = [SourceRecord(source.name, source.size, source.digest()) for source in self._sources]
        if manifest.request != digest_of_request(records, self._options):
            raise DataError(
                f"--out {self.target}: holds a dataset of other sources or options; "
                "choose another --out, or replace it with --overwrite"
            )
        return dataset, manifest

    def existing_part(self) -> PartDescription:
        """The part that stands at the target; raises DataError if it is not what would be made now."""
        found = PartDescription.read(self.target)
        names = [(source.name, source.size) for source in self._sources]
        same = found.shard == self._shard and found.options == self._options
        if not same or [(source[0], source[2]) for source in found.sources] != names:
            raise DataError(
                f"--out {self.target}: holds a part of another job; choose another --out, or add --overwrite"
            )
        return found

    def make_dataset(self) -> Manifest:
        """Fill the folder with a dataset."""
        request = self._request
        states = self._begin()
        weighted = bool(request.weights)

        def open_sink(state: dict[str, Any] | None) -> DatasetSink | PartSink:
            if weighted:
                return PartSink(self._work / _PART, len(self._sources), state)
            return self._dataset_sink(state)

        sink, plan, _ = self._encode(open_sink, (0, 1))
        totals: Totals = sink.totals
        names = [source.name for source in self._sources]
        check_documents(names, totals)
        mixture = []
        if isinstance(sink, PartSink):
            sink.close()
            dataset = self._dataset_sink(None)
            arguments = [source.argument for source in self._sources]
            mixture = weigh(self._work / _PART, self._facts, arguments, request.weights, dataset)
        else:
            assert isinstance(sink, DatasetSink)
            dataset = sink
        self._check_unchanged(states)
        records = source_records(self._sources, totals, plan.stops)
        manifest = write_manifest(self._folder, self._facts, dataset, totals, records, self._options, mixture)
        empty_folder(self._work)
        self._work.rmdir()
        return manifest

    def make_part(self) -> tuple[PartDescription, Totals]:
        """Fill the folder with a part."""
        assert self._shard is not None
        states = self._begin()

        def open_sink(state: dict[str, Any] | None) -> PartSink:
            return PartSink(self._folder, len(self._sources), state)

        sink, plan, chunks = self._encode(open_sink, self._shard)
        assert isinstance(sink, PartSink)
        self._check_unchanged(states)
        description = write_part(
            self._folder,
            self._facts,
            sink,
            self._sources,
            self._shard,
            chunks,
            self._options,
            self._request.weights,
            plan.stops,
        )
        empty_folder(self._work)
        self._work.rmdir()
        return description, sink.totals

    def _begin(self) -> list[str]:
        """Keep what an earlier run of the same job left, remove anything else; gives the sources' states."""
        states = [_state(source) for source in self._sources]
        names = [[source.name, source.argument] for source in self._sources]
        identity = digest_of([CHUNK_BYTES, names, states, self._options, self._shard, self._request.strict])
        self._journal = Journal(self._work, identity)
        if not self._journal.read():
            empty_folder(self._folder, keep=_WORK)
            for entry in self._work.iterdir():
                if entry.name != "standard-input":
                    _remove(entry)
            self._journal.write({"stage": "begun"})
        return states

    def _check_unchanged(self, states: Sequence[str]) -> None:
        for source, state in zip(self._sources, states, strict=True):
            if _state(source) != state:
                raise DataError(f"{source.name}: changed while it was read; run again when nothing writes to it")

    def _dataset_sink(self, state: dict[str, Any] | None) -> DatasetSink:
        return DatasetSink(
            self._folder, self._work, self._facts.numpy, self._request.shard_tokens, len(self._sources), state
        )

    def _encode(
        self, open_sink: Callable[[dict[str, Any] | None], Any], shard: tuple[int, int]
    ) -> tuple[Any, Plan, int]:
        """Everything from the first reading to the last token; gives the sink, the plan and the number of chunks."""
        request = self._request
        job = Job(self._sources, request.holdout, request.seed, request.strict, request.cleaning)
        plan = self._plan(job)
        tokenizer = self._tokenizer or self._trained(job, plan)
        self._facts = TokenizerFacts.of(tokenizer)
        folder = self._folder / TOKENIZER_FOLDER
        if not folder.exists():
            tokenizer.save(self._work / TOKENIZER_FOLDER)
            (self._work / TOKENIZER_FOLDER).rename(folder)
        # A byte-level tokenizer is sent to the workers: loading one, with its proof, takes each of them a second.
        sent = tokenizer if tokenizer.kind == "byte_bpe" else folder
        job = replace(job, tokenizer=sent, dtype=self._facts.dtype, routing=plan.routing)
        surveyed = plan.survey is not None
        with Pool(job, self._workers(), tokenizer) as pool:
            sink, chunks = encode_all(pool, job, plan, self._work, self._journal, {}, open_sink, shard, self._report)
        if shard == (0, 1) and not surveyed and _is_one_sided(sink):
            # By chance all documents fell on one side, as happens to a few: now the choice looks at all of them.
            sink.close()
            self._journal.write({"stage": "begun"})
            (self._work / _PLAN).unlink(missing_ok=True)
            plan = self._surveyed(replace(job, routing=None), plan)
            job = replace(job, routing=plan.routing)
            with Pool(job, self._workers(), tokenizer) as pool:
                sink, chunks = encode_all(
                    pool, job, plan, self._work, self._journal, {}, open_sink, shard, self._report
                )
        return sink, plan, chunks

    def _workers(self) -> int:
        if self._request.workers is not None:
            return self._request.workers
        from smidgen.tokenization.parallel import usable_cores

        sizes = [source.size for source in self._sources if source.name != STORYWORLD]
        if None in sizes:
            return usable_cores()
        return max(1, min(usable_cores(), sum(size or 0 for size in sizes) // _BYTES_A_WORKER))

    def _plan(self, job: Job) -> Plan:
        """What to do with which chunk; read from an earlier run's file if it is there."""
        path = self._work / _PLAN
        empty = Survey(self._request.holdout, self._request.seed)
        if path.exists():
            return Plan.from_json(json.loads(path.read_bytes()), empty)
        plan = Plan()
        limits, rules = self._request.limits, self._request.cleaning
        finds_duplicates = rules is not None and (
            rules.duplicates.documents or rules.duplicates.paragraphs or rules.duplicates.near
        )
        if limits or finds_duplicates:
            with Pool(job, self._workers()) as pool:
                if finds_duplicates:
                    assert rules is not None
                    with DuplicateFilter(rules.duplicates, self._work) as duplicates:
                        plan = scan(pool, job, self._work, plan, self._report, limits, duplicates)
                else:
                    plan = scan(pool, job, self._work, plan, self._report, limits, None)
        if self._needs_survey():
            return self._surveyed(job, plan)
        holdout = self._request.holdout
        plan.routing = Routing("hash", self._request.seed, limit=usual_limit(holdout))
        plan.places, plan.survey = [], None
        write_text(path, json.dumps(plan.to_json()))
        return plan

    def _needs_survey(self) -> bool:
        """Whether the split, or the training of a tokenizer, depends on the whole corpus."""
        holdout = self._request.holdout
        single = len(self._sources) == 1 and getattr(self._sources[0], "unit", None) == "file"
        return self._tokenizer is None or holdout.method == "tail" or holdout.documents is not None or single

    def _surveyed(self, job: Job, plan: Plan) -> Plan:
        """The plan with the split that counting all documents gives."""
        with Pool(job, self._workers()) as pool:
            plan = scan(pool, job, self._work, plan, self._report, self._request.limits, None)
        assert plan.survey is not None
        if plan.survey.all_documents == 0:
            raise no_text([source.name for source in self._sources], Totals([SourceTotals()], plan.bad, plan.tally))
        plan.survey.check()
        plan.routing = plan.survey.routing()
        write_text(self._work / _PLAN, json.dumps(plan.to_json()))
        return plan

    def _trained(self, job: Job, plan: Plan) -> Tokenizer:
        """A new tokenizer, or the one that an earlier run trained."""
        folder = self._folder / TOKENIZER_FOLDER
        if folder.exists():
            from smidgen.tokenization import load_tokenizer

            return load_tokenizer(folder)
        assert plan.survey is not None
        job = replace(job, routing=plan.routing)
        with Pool(job, self._workers()) as pool:
            blocks = pool.map("texts", plan.tasks(job.sources, self._work))
            pieces = (piece for block in blocks for piece in block)
            return train(self._config, pieces, plan.survey.bytes, self._report)


def _state(source: Source) -> str:
    return source.digest() if source.argument == "-" else source.state()


def _is_one_sided(sink: Sink) -> bool:
    return any(source.documents for source in sink.totals.sources) and len(sink.totals.splits) < 2


def _remove(entry: Path) -> None:
    if entry.is_dir():
        empty_folder(entry)
        entry.rmdir()
    else:
        entry.unlink()
