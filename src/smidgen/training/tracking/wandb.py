"""Weights & Biases. Its environment variables hold, such as WANDB_MODE=offline and WANDB_API_KEY."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smidgen.training.tracking.tracker import Session


class WeightsAndBiases:
    """A run of wandb that every process of ours goes on with."""

    name = "wandb"

    def open(self, session: Session) -> None:
        import wandb

        # Standard output and the terminal are ours, and code is for the user to upload.
        settings = wandb.Settings(console="off", silent=True, disable_code=True, save_code=False, init_timeout=30)
        # wandb.init would ask a terminal for a key, in the middle of our display.
        if wandb.setup(settings).settings.mode == "online" and not wandb.login(prompt=False):
            raise ConnectionError("no API key: run 'wandb login', or set WANDB_API_KEY or WANDB_MODE=offline")
        self._run = wandb.init(
            project=session.project,
            name=session.name,
            id=session.id,
            resume="allow",
            reinit="create_new",
            dir=str(session.folder),
            config=dict(session.config),
            settings=settings,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def log_samples(self, step: int, samples: Mapping[str, str]) -> None:
        import wandb

        table = wandb.Table(columns=["prompt", "continuation"], data=[list(sample) for sample in samples.items()])
        self._run.log({"samples": table}, step=step)

    def flush(self) -> None:
        """Nothing to do: wandb's own process has taken every figure."""

    def close(self) -> None:
        self._run.finish()

    def abandon(self) -> None:
        """End wandb's own process, for which Python would wait until it had sent everything, or gave up hours later.

        What it holds is also in its file, which `wandb sync` sends. wandb offers no way to leave without waiting.
        """
        import wandb

        connection: Any = getattr(wandb.setup(), "_connection", None)
        process = getattr(getattr(connection, "_proc", None), "_process", None)
        if process is not None:
            finalizer = getattr(connection, "_finalizer", None)
            if finalizer is not None:
                # Ends the thread that would send it farewells, and show how they fail.
                finalizer._queue.put(None)
            process.kill()
            # Else wandb would talk to the dead process when Python ends, and show the error.
            connection._cleanup()
