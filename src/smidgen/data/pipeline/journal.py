"""The encoding of a whole job: results in order into a sink, with checkpoints that a killed run goes on from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from smidgen.data.pipeline.plan import Plan, Report
from smidgen.data.pipeline.pool import Pool
from smidgen.data.pipeline.sinks import Sink
from smidgen.data.pipeline.worker import Job, Task
from smidgen.runtime.files import write_text

CHECKPOINT_SECONDS = 5.0
"""Work that a kill may cost, besides what is under way; a checkpoint waits for the disk."""

_JOURNAL = "journal.json"


class Journal:
    """How far a job has come, in a file of the folder it works in."""

    def __init__(self, folder: Path, identity: str) -> None:
        """identity: of everything that decides the result; a journal of another job is worthless."""
        self._path = folder / _JOURNAL
        self._identity = identity

    def read(self) -> dict[str, Any]:
        """What `write` wrote last for this job; empty when there is nothing of use."""
        try:
            tree = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return tree if isinstance(tree, dict) and tree.get("identity") == self._identity else {}

    def write(self, entry: dict[str, Any]) -> None:
        """Replace the entry, at once and on the disk."""
        write_text(self._path, json.dumps({"identity": self._identity, **entry}))


def encode_all(
    pool: Pool,
    job: Job,
    plan: Plan,
    folder: Path,
    journal: Journal,
    entry: dict[str, Any],
    open_sink: Callable[[dict[str, Any] | None], Sink],
    shard: tuple[int, int],
    report: Report,
) -> tuple[Sink, int]:
    """Encode the chunks of `shard` (number, of how many) into the sink; gives it, still open, and the number of chunks.

    entry: what the journal holds besides how far the encoding is. open_sink: makes the sink from its state at the last
    checkpoint, if there is one.
    """
    saved = journal.read()
    sink = open_sink(saved.get("sink"))
    done_units: int = saved.get("units", 0)
    total = sum(source.size or 0 for source in job.sources)
    done = units = 0
    try:

        def tasks() -> Iterator[Task]:
            nonlocal done, units
            mine = 0
            for task in plan.tasks(job.sources, folder):
                units += 1
                if (units - 1) % shard[1] != shard[0]:
                    continue
                mine += 1
                if mine <= done_units:
                    done += task.chunk.size
                else:
                    yield task

        saved_at = time.monotonic()
        for result in pool.map("encode", tasks()):
            sink.add(result)
            done_units += 1
            done += result.size
            report("encoding", min(done, total or done), total or done)
            if time.monotonic() - saved_at >= CHECKPOINT_SECONDS:
                sink.sync()
                journal.write({**entry, "sink": sink.state(), "units": done_units})
                saved_at = time.monotonic()
    except BaseException:
        sink.close()
        raise
    return sink, units
