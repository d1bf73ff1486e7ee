"""The section `tracking`: who is told of a training beside the run folder, and the texts it writes on its way."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, Strict, model_validator

from smidgen.config.parts import Part, impossible

TrackerName = Literal["tensorboard", "wandb", "trackio"]


class TrackingConfig(Part):
    """Trackers and samples. metrics.jsonl in the run folder is always written."""

    trackers: Annotated[tuple[TrackerName, ...], Strict(False)] = ()
    """Of tensorboard, wandb and trackio those that receive the metrics, such as [tensorboard, wandb]."""
    project: Annotated[str, Field(min_length=1)] = "smidgen"
    """Under which wandb and trackio file the run."""
    name: str | None = None
    """Of the run in the trackers. Left out: the run folder's name."""
    sample_every: PositiveInt | None = None
    """Steps between samples of text, kept in samples.jsonl; null takes none."""
    sample_prompts: Annotated[tuple[str, ...], Strict(False)] = ("Once upon a time",)
    """What each sample continues."""
    sample_tokens: PositiveInt = 64
    """Tokens that a sample adds to its prompt at most."""
    sample_temperature: NonNegativeFloat = 0.8
    """Of the samples; 0 takes the likeliest token."""

    @model_validator(mode="after")
    def _check(self) -> TrackingConfig:
        if len(set(self.trackers)) < len(self.trackers):
            raise impossible("trackers", list(self.trackers), "one stands twice; name each once")
        if self.sample_every is not None and not self.sample_prompts:
            raise impossible("sample_prompts", [], "sample_every is set; give a prompt, or leave sample_every null")
        return self
