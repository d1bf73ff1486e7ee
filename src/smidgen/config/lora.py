"""The section that describes a low-rank adapter."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, Strict

from smidgen.config.parts import Part


class Lora(Part):
    """A low-rank adapter (Hu et al., 2021): each chosen projection gets `x ↦ scale · B(A x)` added; the rest is frozen.

    A [rank, in] starts as PEFT draws it, B [out, rank] at zero: the first step sees the base model exactly.
    """

    rank: PositiveInt = 16
    """Rows of A and columns of B."""
    alpha: PositiveFloat = 32.0
    """What the adapter adds is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability, on the adapter's input, in training only."""
    targets: Annotated[tuple[str, ...], Strict(False), Field(min_length=1)] = ("all",)
    """Which projections get one: by name (q_proj), by a pattern of whole names (model.layers.1?.mlp.*), or all."""
    rslora: bool = False
    """Multiply by alpha / √rank instead, which keeps the size of steps the same at every rank (Kalajdzievski, 2023)."""

    @property
    def scale(self) -> float:
        """What `B(A x)` is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)
