"""What is to be done with which chunks: limits, duplicates and the split, found out by reading everything once."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from smidgen.data.cleaning import DuplicateFilter, Keys, Tally, Verdict
from smidgen.data.holdout import Place, Routing, Survey
from smidgen.data.pipeline.pool import Pool
from smidgen.data.pipeline.results import BadInput
from smidgen.data.pipeline.worker import Job, Surveyed, Task
from smidgen.data.sources import Source

Report = Callable[[str, int, int], None]

_VERDICTS = "verdicts.jsonl"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of the sources is read, by SOURCE argument."""

    documents: Mapping[str, int] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)
    """UTF-8 bytes of whole documents."""

    def __bool__(self) -> bool:
        return bool(self.documents or self.bytes)


@dataclass(slots=True)
class Plan:
    """Chunks are numbered over all sources, in their order."""

    routing: Routing | None = None
    places: list[tuple[int, int]] = field(default_factory=list)
    """Documents and characters before every chunk; empty while nobody counted them."""
    limited: dict[int, tuple[int | None, int | None]] = field(default_factory=dict)
    """Limits of documents and bytes for the chunks in which a source's limit is reached."""
    stops: dict[int, int] = field(default_factory=dict)
    """Chunks to take of each limited source."""
    verdicts: bool = False
    """The folder of the job holds what the duplicate filter said."""
    survey: Survey | None = None
    """What was counted, once it was."""
    bad: BadInput = field(default_factory=BadInput)
    tally: Tally = field(default_factory=Tally)

    def to_json(self) -> dict[str, Any]:
        """A tree for the job's folder."""
        return {
            "routing": None if self.routing is None else asdict(self.routing),
            "places": self.places,
            "limited": list(self.limited.items()),
            "stops": list(self.stops.items()),
            "verdicts": self.verdicts,
            "bytes": None if self.survey is None else self.survey.bytes,
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any], survey: Survey) -> Plan:
        """What `to_json` gave; of the survey, only the number of bytes is kept."""
        routing = tree["routing"]
        counted = tree["bytes"] is not None
        return cls(
            None if routing is None else Routing(**routing),
            [tuple(place) for place in tree["places"]],
            {number: tuple(limits) for number, limits in tree["limited"]},
            dict(tree["stops"]),
            tree["verdicts"],
            replace(survey, bytes=tree["bytes"]) if counted else None,
        )

    def tasks(self, sources: Sequence[Source], folder: Path) -> Iterator[Task]:
        """Every chunk's task, in order."""
        verdicts = _read_verdicts(folder / _VERDICTS) if self.verdicts else None
        number = 0
        for index, source in enumerate(sources):
            for count, chunk in enumerate(source.chunks()):
                if count >= self.stops.get(index, count + 1):
                    break
                documents, num_bytes = self.limited.get(number, (None, None))
                place = Place(*self.places[number]) if self.places else Place()
                said = None if verdicts is None else next(verdicts)
                yield Task(replace(chunk, source=index), place, documents, num_bytes, said)
                number += 1


def scan(
    pool: Pool,
    job: Job,
    folder: Path,
    before: Plan,
    report: Report,
    limits: Limits,
    duplicates: DuplicateFilter | None,
) -> Plan:
    """Read everything once and count it.

    before: what an earlier scan found. limits: where to stop. duplicates: told the keys of every document; its verdicts
    are written to `folder`, and the counts are still those of all documents.
    """
    plan = Plan(
        limited=dict(before.limited),
        stops=dict(before.stops),
        verdicts=before.verdicts or duplicates is not None,
        survey=Survey(job.holdout, job.seed),
    )
    assert plan.survey is not None
    issued: deque[Task] = deque()
    counts = [0] * len(job.sources)
    lines = [0] * len(job.sources)
    stopped: set[int] = set()
    groups = {argument: [0, 0] for argument in {source.argument for source in job.sources}}

    def tasks() -> Iterator[Task]:
        for task in before.tasks(job.sources, folder):
            if task.chunk.source not in stopped:
                issued.append(task)
                yield task

    total = sum(source.size or 0 for source in job.sources)
    done = 0
    with _VerdictWriter(folder / _VERDICTS if duplicates else None) as verdicts:
        for result in pool.map("survey", tasks()):
            task = issued.popleft()
            index = task.chunk.source
            if index in stopped:
                continue
            used = groups[job.sources[index].argument]
            left = _left(limits, job.sources[index].argument, used)
            if _exceeds(result, left):
                task = replace(task, max_documents=left[0], max_bytes=left[1])
                result = pool.do("survey", task)
                plan.limited[len(plan.places)] = left
                argument = job.sources[index].argument
                for number, source in enumerate(job.sources):
                    if source.argument == argument and number >= index:
                        stopped.add(number)
                        plan.stops[number] = counts[index] + 1 if number == index else 0
            used[0] += result.read
            used[1] += result.read_bytes
            counts[index] += 1
            plan.places.append((plan.survey.documents, plan.survey.characters))
            plan.survey.merge(result.survey)
            plan.bad.merge(result.bad, lines[index])
            plan.tally.merge(result.tally)
            lines[index] += result.lines
            if duplicates is not None:
                verdicts.write([duplicates(Keys.from_bytes(keys)) for keys in result.keys])
            done += result.size
            report("reading", min(done, total or done), total or done)
    return plan


def _left(limits: Limits, argument: str, used: Sequence[int]) -> tuple[int | None, int | None]:
    documents, num_bytes = limits.documents.get(argument), limits.bytes.get(argument)
    return (
        None if documents is None else documents - used[0],
        None if num_bytes is None else num_bytes - used[1],
    )


def _exceeds(result: Surveyed, left: tuple[int | None, int | None]) -> bool:
    documents, num_bytes = left
    return (documents is not None and result.read > documents) or (
        num_bytes is not None and result.read_bytes > num_bytes
    )


class _VerdictWriter:
    """A line a chunk: nothing where every document stays, else rule and paragraphs of each."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("w", encoding="utf-8")

    def __enter__(self) -> _VerdictWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, verdicts: Sequence[Verdict]) -> None:
        assert self._file is not None
        rows = [[verdict.rule, list(verdict.paragraphs)] for verdict in verdicts]
        self._file.write(json.dumps(rows, separators=(",", ":")) + "\n")


def _read_verdicts(path: Path) -> Iterator[tuple[Verdict, ...]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield tuple(Verdict(rule, tuple(paragraphs)) for rule, paragraphs in json.loads(line))
