"""trackio: a local database, or a Space where TRACKIO_SPACE_ID names one; `trackio show` opens it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout

from smidgen.training.tracking.tracker import Session


class Trackio:
    """A run of trackio, found again by its name, which therefore ends in the id."""

    name = "trackio"

    def open(self, session: Session) -> None:
        import trackio

        # It prints, and standard output is for results.
        with redirect_stdout(sys.stderr):
            self._run = trackio.init(
                project=session.project,
                name=f"{session.name}-{session.id}",
                config=dict(session.config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def log_samples(self, step: int, samples: Mapping[str, str]) -> None:
        import trackio

        text = "\n\n".join(f"{prompt}{continuation}" for prompt, continuation in samples.items())
        self._run.log({"samples": trackio.Markdown(text)}, step=step)

    def flush(self) -> None:
        """Nothing to do: trackio's own thread has taken every figure."""

    def close(self) -> None:
        import trackio

        with redirect_stdout(sys.stderr):
            trackio.finish()

    def abandon(self) -> None:
        """Nothing to do: its threads end with the process."""
