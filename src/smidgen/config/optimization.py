"""How gradients become steps: the optimiser and its schedule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, Strict, model_validator

from smidgen.config.parts import Part, impossible


class AdamRates(Part):
    """What AdamW needs to know, also where it serves only some of the weights."""

    betas: Annotated[tuple[float, float], Strict(False)] = (0.9, 0.95)
    """Decay rates of the gradient's running mean and mean square."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator of each step."""
    weight_decay: NonNegativeFloat = 0.1
    """Share of a matrix's weights that a step at learning rate 1 would take away; norms are never decayed."""

    @model_validator(mode="after")
    def _check_betas(self) -> AdamRates:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise impossible("betas", list(self.betas), "each beta lies in [0, 1)")
        return self


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


Optimizer = Annotated[AdamW | Muon, Field(discriminator="kind")]


class Schedule(Part):
    """Learning rate over steps: linear warm-up to `training.lr`, then `kind`."""

    kind: Literal["cosine", "linear", "constant", "two_stage"] = "cosine"
    """cosine and linear fall to eta_min at the last step. two_stage (BitNet b1.58): linear decay whose rate and
    weight decay both drop at half of the steps."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the rate rises from 0 to training.lr."""
    eta_min: NonNegativeFloat = 0.0
    """Learning rate at the end."""
    second_stage_lr: PositiveFloat | None = None
    """two_stage: learning rate from which the second half decays. Left out: two thirds of training.lr."""
