"""`prepare` on an engine that runs tasks on many machines: datatrove's executors, or anything that calls a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.data.manifest import Manifest
from smidgen.data.merging import merge_parts
from smidgen.data.prepare import prepare_part
from smidgen.runtime.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from smidgen.config import TokenizerConfig


@dataclass(frozen=True)
class PartStep:
    """A step of a datatrove pipeline: each of its tasks prepares one part, in one process, beside the others' parts.

    Every machine must see the sources and `folder` under the same names. A task that is run again finds its part done,
    or goes on with it.
    """

    sources: Sequence[str | Path]
    folder: Path
    """Where the parts' folders stand."""
    tokenizer: TokenizerConfig
    request: Mapping[str, Any] = field(default_factory=dict)
    """The fields of `pipeline.request.Request`; `workers` is 1 unless it says otherwise."""

    def __call__(self, data: object = None, rank: int = 0, world_size: int = 1) -> None:
        """Prepare part `rank` of `world_size`. data: what datatrove passes on from the step before; unused."""
        request = {"workers": 1, **self.request}
        prepare_part(self.sources, self._part(rank), self.tokenizer, (rank, world_size), **request)

    def merge(self, out: str | Path, world_size: int) -> Manifest:
        """The dataset folder of all parts, when their tasks are done; see `merge_parts`."""
        return merge_parts([self._part(rank) for rank in range(world_size)], out)

    def _part(self, rank: int) -> Path:
        return Path(self.folder) / f"part-{rank:05d}"


def prepare_with_datatrove(step: PartStep, out: str | Path, *, tasks: int, workers: int = -1) -> Manifest:
    """Run the tasks of a step with datatrove's local executor and merge their parts into `out`.

    tasks: number of parts. workers: tasks at a time; all of them if -1. For a cluster, give the step to
    `SlurmPipelineExecutor(pipeline=[step], tasks=…)` and call `step.merge` afterwards.

    Raises DataError when a task failed; datatrove's log, beside the parts, says why.
    """
    try:
        from datatrove.executor.local import LocalPipelineExecutor
    except ModuleNotFoundError:
        raise MissingDependencyError("datatrove", "distributed", "running tasks with datatrove") from None
    logs = Path(step.folder) / "logs"
    try:
        LocalPipelineExecutor([step], tasks=tasks, workers=workers, logging_dir=str(logs)).run()
    except Exception as error:
        # Whatever a task raised, perhaps in another process.
        raise DataError(f"a task failed: {' '.join(str(error).split())}; see {logs}") from error
    return step.merge(out, tasks)
