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


class Distillation(Part):
    """A student learns the distributions of a teacher that has the same tokenizer (see model/divergence.py)."""

    kind: Literal["distillation"] = "distillation"
    """What is minimised."""
    teacher: str
    """MODEL that is imitated."""
    divergence: Literal["forward_kl", "reverse_kl", "js"] = "forward_kl"
    """forward_kl: cover all that the teacher does. reverse_kl: keep to what it finds likely. js: between both."""
    temperature: PositiveFloat = 1.0
    """Logits of both are divided by it; the divergence is multiplied by its square."""
    cross_entropy: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the data's own next tokens in the loss; the rest is the divergence."""


class Quantize(Part):
    """Training that ends in a quantised model: the forward pass rounds, the master weights learn."""

    scheme: Literal["ternary", "int4"]
    """ternary: the model becomes a BitNet b1.58 one. int4: it stays dense, and its weights learn to be rounded."""
    group_size: Literal[32, 64, 128] = 32
    """int4: columns that share a scale."""
    symmetric: bool = True
    """int4 without a zero point a group."""
    sub_norm: bool = True
    """ternary: add norms before the output projections of a pre-norm model, as BitNet has them."""


TuningObjective = Annotated[LanguageModeling | Sft | Dpo | Distillation, Field(discriminator="kind")]


class TuningConfig(Part):
    """Training that goes on from a model; without a base it is pretraining from random weights."""

    base: str | None = None
    """MODEL that the training begins with: a model folder, a run, a checkpoint or a Hugging Face folder."""
    objective: TuningObjective = LanguageModeling()
    """What is minimised: language_modeling (pretraining goes on), sft, dpo or distillation."""
    lora: Lora | None = None
    """Train a low-rank adapter beside the frozen base; null trains every weight. Any of its fields turns it on."""
    quantize: Quantize | None = None
    """Train a dense base into a quantised model; null leaves its kind of linear."""
    chat_template: str | None = None
    """chatml, llama2, gemma, deepseek, or a file of Jinja2. Left out: the base's own, else chatml."""

    @model_validator(mode="after")
    def _check(self) -> TuningConfig:
        kind = self.objective.kind
        if self.base is None and kind not in ("language_modeling", "distillation"):
            raise impossible("base", None, f"objective.kind {kind} goes on from a model; name it")
        if self.quantize is not None and self.base is None:
            raise impossible("base", None, "tuning.quantize begins with a dense model; name it")
        if self.quantize is not None and self.lora is not None:
            raise impossible(
                "lora", "…", "tuning.quantize trains every weight; for an adapter on a quantised base name that as base"
            )
        if self.base is None and self.lora is not None:
            raise impossible("base", None, "tuning.lora trains an adapter beside a model; name it")
        if self.chat_template is not None and kind in ("language_modeling", "distillation"):
            raise impossible(
                "chat_template", self.chat_template, "belongs to conversations; remove it or choose objective.kind sft"
            )
        return self
