"""TensorBoard: event files in the run folder, `tensorboard --logdir runs`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from smidgen.training.tracking.tracker import Session


class TensorBoard:
    """Writes event files below `tracking/tensorboard`."""

    name = "tensorboard"

    def open(self, session: Session) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an earlier process wrote without noting it is written again: TensorBoard shall forget the first.
        purge_step = None if session.last_step is None else session.last_step + 1
        self._writer = SummaryWriter(str(session.folder), purge_step=purge_step)
        if session.last_step is None:
            self._writer.add_text("config", _code(json.dumps(session.config, indent=2)), 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def log_samples(self, step: int, samples: Mapping[str, str]) -> None:
        for number, (prompt, text) in enumerate(samples.items()):
            self._writer.add_text(f"sample/{number}", _code(prompt + text), step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def abandon(self) -> None:
        """Nothing to do: it writes files."""


def _code(text: str) -> str:
    """Indented, so that markdown shows the text as it is."""
    return "".join(f"    {line}\n" for line in text.splitlines())
