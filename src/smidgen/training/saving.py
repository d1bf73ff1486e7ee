"""Checkpoints: copied between two steps, then written by a thread while training goes on.

Of a divided model every rank copies and writes its own parts, into files that the main rank makes: no rank holds the
whole, and the files are those of a run in one process. Torch's distributed checkpoint would write a file a rank and
then copy the model once more into one that transformers loads.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from smidgen.folders.parts import write_parts
from smidgen.folders.run import Retention, RunFolder
from smidgen.folders.weights import WEIGHTS
from smidgen.model import Decoder
from smidgen.runtime.errors import SmidgenError, TrainingError
from smidgen.runtime.protocols import Tokenizer
from smidgen.training.parallel import Parts, Ranks
from smidgen.training.state import CapturedState, make_state, write_state
from smidgen.training.task import ModelStorage

_SLACK = 16 << 20
"""Bytes beside the tensors: configuration, tokenizer, manifest, and what the file system itself needs."""


@dataclass(frozen=True, slots=True)
class Copy:
    """All that a checkpoint holds, in memory of its own."""

    step: int
    model: Decoder
    """The whole model; or where `weights` are its parts, its structure on the meta device."""
    weights: Parts
    state: CapturedState
    validation_loss: float | None

    @property
    def nbytes(self) -> int:
        """Of the files that all ranks write together."""
        model = sum(p.nbytes for p in self.model.parameters() if not p.is_meta)
        return model + self.weights.nbytes + self.state.nbytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the writing of a checkpoint ended."""

    step: int
    checkpoint: Path | None
    """None where it failed."""
    failure: str = ""


class CheckpointWriter:
    """Writes one checkpoint at a time. A failure is an outcome, not an error: earlier checkpoints stand, and the
    training goes on."""

    def __init__(
        self, run: RunFolder, retention: Retention, storage: ModelStorage, tokenizer: Tokenizer | None, ranks: Ranks
    ) -> None:
        """`ranks`: those that write together, each in a thread like this one."""
        self._run = run
        self._ranks = ranks
        self._retention = retention
        self._storage = storage
        self._tokenizer = tokenizer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Outcome] | None = None

    def begin(self, copy: Copy) -> None:
        """Start to write; `outcomes(wait=True)` first, so that no two checkpoints are in memory at once."""
        assert self._writing is None, "the checkpoint before is still being written"
        self._writing = self._thread.submit(self._write, copy)

    def outcomes(self, *, wait: bool) -> Iterator[Outcome]:
        """What has ended since the last call; with `wait`, after the checkpoint at hand has ended."""
        if self._writing is not None and (wait or self._writing.done()):
            outcome = self._writing.result()
            self._writing = None
            yield outcome

    def close(self) -> None:
        """Wait for the checkpoint at hand and end the thread."""
        self._thread.shutdown()

    def _write(self, copy: Copy) -> Outcome:
        failure = self._together(copy, self._make, on_main=True)
        failure = failure or self._together(copy, self._fill)
        failure = failure or self._together(copy, self._publish, on_main=True)
        if not failure:
            return Outcome(copy.step, self._run.checkpoint_path(copy.step))
        if self._ranks.is_main:
            self._run.abandon_checkpoint(copy.step)
        return Outcome(copy.step, None, failure)

    def _together(self, copy: Copy, action: Callable[[Copy], None], *, on_main: bool = False) -> str:
        """Let all ranks, or the main one, do something, and wait for it; says why it failed, if it did on any."""
        failure = ""
        unexpected: Exception | None = None
        try:
            if self._ranks.is_main or not on_main:
                action(copy)
        except (OSError, SafetensorError, SmidgenError) as error:
            failure = str(error)
        except Exception as error:  # the others must hear of it before it is raised here
            failure, unexpected = repr(error), error
        failures = self._ranks.exchange(failure)
        if unexpected is not None:
            raise unexpected
        return next(filter(None, failures), "")

    def _make(self, copy: Copy) -> None:
        needed = copy.nbytes + _SLACK
        free = shutil.disk_usage(self._run.checkpoints_path).free
        if free < needed:
            raise TrainingError(f"it needs {_megabytes(needed)}, {_megabytes(free)} are free")
        folder = self._run.staged_path(copy.step)
        folder.mkdir()
        self._storage.save(copy.model, folder / "model", self._tokenizer)
        make_state(folder / "state", copy.state)

    def _fill(self, copy: Copy) -> None:
        folder = self._run.staged_path(copy.step)
        if copy.weights.own:
            write_parts(folder / "model" / WEIGHTS, copy.weights.own)
        write_state(folder / "state", copy.state)

    def _publish(self, copy: Copy) -> None:
        self._run.publish_checkpoint(copy.step, copy.validation_loss, self._retention)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
