"""How gradients become steps: the optimiser and its schedule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Strict, model_validator

from smidgen.config.parts import Part, impossible

ActivationCheckpointing = Literal["none", "selective", "full"]


class DecayedRates(Part):
    """What every optimiser needs to know."""

    betas: Annotated[tuple[float, float], Strict(False)] = (0.9, 0.95)
    """Decay rates of the gradient's running mean and mean square."""
    weight_decay: NonNegativeFloat = 0.1
    """Share of a matrix's weights that a step at learning rate 1 would take away; norms are never decayed."""

    @model_validator(mode="after")
    def _check_betas(self) -> DecayedRates:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise impossible("betas", list(self.betas), "each beta lies in [0, 1)")
        return self


class AdamRates(DecayedRates):
    """What AdamW needs to know, also where it serves only some of the weights."""

    eps: PositiveFloat = 1e-8
    """Added to the denominator of each step."""


class AdamW(AdamRates):
    """AdamW (Loshchilov & Hutter, 2019). Weight decay acts on matrices only, never on norms."""

    kind: Literal["adamw"] = "adamw"
    """The optimiser."""


class Muon(AdamRates):
    """Muon (Jordan et al., 2024) for the matrices of the layers, AdamW for embedding, head and norms.

    Muon's steps are scaled to the size of AdamW's (Liu et al., 2025), so that training.lr and weight_decay serve both.
    """

    kind: Literal["muon"] = "muon"
    """The optimiser."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay rate of Muon's running mean of the gradient (Nesterov's form)."""


class Lion(DecayedRates):
    """Lion (Chen et al., 2023): steps of equal size in every weight, half of AdamW's state.

    The paper's advice: a third to a tenth of AdamW's training.lr, and a weight_decay as many times larger.
    """

    kind: Literal["lion"] = "lion"
    """The optimiser."""
    betas: Annotated[tuple[float, float], Strict(False)] = (0.9, 0.99)
    """Share of the running mean in a step's direction; decay rate of the running mean itself."""


class ScheduleFreeAdamW(AdamRates):
    """Schedule-free AdamW (Defazio et al., 2024): averages the weights instead of lowering the rate.

    Evaluations and checkpoints see the average. It wants schedule.kind constant, with a warm-up.
    """

    kind: Literal["schedule_free_adamw"] = "schedule_free_adamw"
    """The optimiser."""
    betas: Annotated[tuple[float, float], Strict(False)] = (0.9, 0.999)
    """Share of the average in the point where gradients are taken; decay rate of the mean square."""

    @model_validator(mode="after")
    def _check_average(self) -> ScheduleFreeAdamW:
        if self.betas[0] == 0:
            raise impossible("betas", list(self.betas), "the first beta lies in (0, 1): at 0 nothing is averaged")
        return self


Optimizer = Annotated[AdamW | Muon | Lion | ScheduleFreeAdamW, Field(discriminator="kind")]


class Schedule(Part):
    """Learning rate over steps: linear warm-up to `training.lr`, then `kind`."""

    kind: Literal["cosine", "linear", "constant", "two_stage", "wsd"] = "cosine"
    """cosine and linear fall to eta_min at the last step. two_stage (BitNet b1.58): linear decay whose rate and
    weight decay both drop at half of the steps. wsd (warm-up, stable, decay): constant until the decay begins."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the rate rises from 0 to training.lr."""
    eta_min: NonNegativeFloat = 0.0
    """Learning rate at the end."""
    second_stage_lr: PositiveFloat | None = None
    """two_stage: learning rate from which the second half decays. Left out: two thirds of training.lr."""
    decay_steps: PositiveInt | None = None
    """wsd: the last steps, in which the rate falls to eta_min. Left out: decay_fraction."""
    decay_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """wsd: the same as a share of all steps. Left out, without decay_steps: 0.2."""
    decay_shape: Literal["linear", "one_minus_sqrt"] | None = None
    """wsd: how the rate falls, linearly or as 1 - √(share of the decay that is done). Left out: linear."""

    @model_validator(mode="after")
    def _check(self) -> Schedule:
        if self.kind != "wsd":
            for field in ("decay_steps", "decay_fraction", "decay_shape"):
                if getattr(self, field) is not None:
                    raise impossible(field, getattr(self, field), "belongs to schedule.kind wsd; remove it")
        if self.decay_steps is not None and self.decay_fraction is not None:
            raise impossible("decay_fraction", self.decay_fraction, "decay_steps is set too; give one of them")
        return self
