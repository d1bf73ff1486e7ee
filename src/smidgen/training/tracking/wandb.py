"""Weights & Biases. Its environment variables hold, such as WANDB_MODE=offline and WANDB_API_KEY."""

from __future__ import annotations

from collections.abc import Mapping

from smidgen.training.tracking.tracker import Session


class WeightsAndBiases:
    """A run of wandb that every process of ours goes on with."""

    name = "wandb"

    def open(self, session: Session) -> None:
        import wandb

        self._run = wandb.init(
            project=session.project,
            name=session.name,
            id=session.id,
            resume="allow",
            reinit="create_new",
            dir=str(session.folder),
            config=dict(session.config),
            # Standard output and the terminal are ours; git and code are for the user to upload.
            settings=wandb.Settings(console="off", silent=True, disable_code=True, save_code=False),
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
