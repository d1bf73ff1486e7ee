"""Checkpoints: copied between two steps, then written by a thread while training goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from smidgen.folders.run import Retention, RunFolder
from smidgen.model import Decoder
from smidgen.runtime.errors import SmidgenError
from smidgen.runtime.protocols import Tokenizer
from smidgen.training.state import CapturedState, write_state
from smidgen.training.task import ModelStorage

_SLACK = 16 << 20
"""Bytes beside the tensors: configuration, tokenizer, manifest, and what the file system itself needs."""


@dataclass(frozen=True, slots=True)
class Copy:
    """All that a checkpoint holds, in memory of its own."""

    step: int
    model: Decoder
    state: CapturedState
    validation_loss: float | None

    @property
    def nbytes(self) -> int:
        return sum(p.nbytes for p in self.model.parameters() if not p.is_meta) + self.state.nbytes


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
        self, run: RunFolder, retention: Retention, storage: ModelStorage, tokenizer: Tokenizer | None
    ) -> None:
        self._run = run
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
        def write(folder: Path) -> None:
            self._storage.save(copy.model, folder / "model", self._tokenizer)
            write_state(folder / "state", copy.state)

        needed = copy.nbytes + _SLACK
        free = shutil.disk_usage(self._run.checkpoints_path).free
        if free < needed:
            return Outcome(copy.step, None, f"it needs {_megabytes(needed)}, {_megabytes(free)} are free")
        try:
            path = self._run.write_checkpoint(copy.step, write, copy.validation_loss, self._retention)
        except (OSError, SafetensorError, SmidgenError) as error:
            return Outcome(copy.step, None, str(error))
        return Outcome(copy.step, path)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
