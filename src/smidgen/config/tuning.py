"""The section `tuning`: which model a training begins with, and what it minimises there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from smidgen.config.lora import Lora
from smidgen.config.parts import Part, impossible


class LanguageModeling(Part):
    """Next-token cross-entropy on every token: pretraining, or its continuation from a base."""

    kind: Literal["language_modeling"] = "language_modeling"
    """What is minimised."""


class Sft(Part):
    """Supervised fine-tuning: next-token cross-entropy on the assistant's words in conversations."""

    kind: Literal["sft"] = "sft"
    """What is minimised."""


class Dpo(Part):
    """Direct preference optimisation (Rafailov et al., 2023) on pairs of answers to one prompt."""

    kind: Literal["dpo"] = "dpo"
    """What is minimised."""
    beta: PositiveFloat = 0.1
    """How strongly the model is held to the base: the inverse temperature of the implicit reward."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of pairs that are taken to be the wrong way round (conservative DPO, Mitchell, 2023)."""


TuningObjective = Annotated[LanguageModeling | Sft | Dpo, Field(discriminator="kind")]


class TuningConfig(Part):
    """Training that goes on from a model; without a base it is pretraining from random weights."""

    base: str | None = None
    """MODEL that the training begins with: a model folder, a run, a checkpoint or a Hugging Face folder."""
    objective: TuningObjective = LanguageModeling()
    """What is minimised: language_modeling (pretraining goes on), sft or dpo."""
    lora: Lora | None = None
    """Train a low-rank adapter beside the frozen base; null trains every weight. Any of its fields turns it on."""
    chat_template: str | None = None
    """chatml, llama2, gemma, deepseek, or a file of Jinja2. Left out: the base's own, else chatml."""

    @model_validator(mode="after")
    def _check(self) -> TuningConfig:
        kind = self.objective.kind
        if self.base is None and kind != "language_modeling":
            raise impossible("base", None, f"objective.kind {kind} goes on from a model; name it")
        if self.base is None and self.lora is not None:
            raise impossible("base", None, "tuning.lora trains an adapter beside a model; name it")
        if self.chat_template is not None and kind == "language_modeling":
            raise impossible(
                "chat_template", self.chat_template, "belongs to conversations; remove it or choose objective.kind sft"
            )
        return self
