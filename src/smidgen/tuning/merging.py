"""Several models become one: arithmetic on the weights of models of one architecture.

θᵢ are the models' weights, wᵢ their coefficients, θ₀ the base's, τᵢ = θᵢ − θ₀ the task vectors. Every method works on
one tensor at a time, in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from smidgen.runtime.errors import SmidgenError

Method = Literal["linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "passthrough"]
METHODS: tuple[Method, ...] = get_args(Method)
NEEDS_BASE: tuple[Method, ...] = ("task_arithmetic", "ties", "dare_linear", "dare_ties")
PARALLEL = 0.9995
"""Cosine above which two tensors are interpolated along the line: the arc is as good as straight."""


class MergingError(SmidgenError):
    """Models that cannot be merged, or a setting that is out of range."""


@dataclass(frozen=True, slots=True)
class Merging:
    """How to merge."""

    method: Method = "linear"
    weights: tuple[float, ...] | None = None
    """wᵢ, one a model. Left out: 1 each."""
    density: float = 0.5
    """ties, dare: share of every task vector that is kept."""
    scale: float = 1.0
    """task_arithmetic, ties, dare: λ, what the merged task vector is multiplied by."""
    t: float = 0.5
    """slerp: 0 is the first model, 1 the second."""
    seed: int = 0
    """dare: of the random choice."""

    def check(self, num_models: int, *, has_base: bool) -> None:
        """Raise MergingError where the settings do not fit each other or the number of models."""
        needs_base = self.method in NEEDS_BASE
        if needs_base and not has_base:
            raise MergingError(
                f"--method {self.method}: takes differences to the model that all began with: --base MODEL"
            )
        if not needs_base and has_base:
            raise MergingError(f"--base: --method {self.method} has no use for it; leave it out")
        if self.method == "slerp" and num_models != 2:
            raise MergingError(f"--method slerp: goes from one model to another, {num_models} given; name two")
        if num_models < (1 if needs_base or self.method == "passthrough" else 2):
            raise MergingError(f"--method {self.method}: {num_models} model given; name two or more")
        if self.weights is not None:
            if len(self.weights) != num_models:
                raise MergingError(f"--weights: {len(self.weights)} numbers for {num_models} models; give one each")
            if self.method in ("slerp", "passthrough"):
                raise MergingError(f"--weights: --method {self.method} has none; leave them out")
            if self.method == "linear" and not abs(sum(self.weights)) > 1e-8:
                raise MergingError("--weights: their sum is 0, and linear divides by it; use others")
        if not 0 < self.density <= 1:
            raise MergingError(f"--density {self.density:g}: use a share above 0 and at most 1")
        if not 0 <= self.t <= 1:
            raise MergingError(f"--t {self.t:g}: use a number from 0 (the first model) to 1 (the second)")


def merge_tensors(
    settings: Merging, base: Tensor | None, models: Sequence[Tensor], generator: torch.Generator
) -> Tensor:
    """One tensor of the merged model, float32, from those of base and models. `generator` (CPU) is dare's."""
    weights = torch.tensor(settings.weights or [1.0] * len(models), dtype=torch.float32)
    values = [model.float() for model in models]
    match settings.method:
        case "linear":
            return linear(values, weights)
        case "slerp":
            return slerp(values[0], values[1], settings.t)
        case "passthrough":
            return values[0]
    assert base is not None
    base = base.float()
    tasks = torch.stack([value - base for value in values])
    return base + settings.scale * _MERGES[settings.method](tasks, weights, settings.density, generator)


def linear(models: Sequence[Tensor], weights: Tensor) -> Tensor:
    """`Σ wᵢθᵢ / Σ wᵢ`: weight averaging (model soups, Wortsman et al., 2022)."""
    return _weighted(torch.stack(list(models)), weights).sum(0) / weights.sum()


def slerp(first: Tensor, second: Tensor, t: float) -> Tensor:
    """`sin((1 − t)ω)/sin ω · a + sin(tω)/sin ω · b`, ω the angle between the tensors as vectors (Shoemake, 1985).

    Nearly parallel tensors (|cos ω| > 0.9995) and zeros are interpolated linearly.
    """
    a, b = first.flatten().double(), second.flatten().double()
    norms = a.norm() * b.norm()
    cosine = (a @ b / norms).clamp(-1, 1) if norms > 0 else torch.ones((), dtype=torch.float64)
    if cosine.abs() > PARALLEL:
        return torch.lerp(first, second, t)
    angle = torch.arccos(cosine)
    mixed = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    return mixed.to(first.dtype).view_as(first)


def task_arithmetic(tasks: Tensor, weights: Tensor) -> Tensor:
    """`Σ wᵢτᵢ` (Ilharco et al., 2023)."""
    return _weighted(tasks, weights).sum(0)


def ties(tasks: Tensor, weights: Tensor) -> Tensor:
    """The part of TIES after the trimming (Yadav et al., 2023): elect a sign, then average those who have it.

    The sign of an entry is that of the sum of all task vectors there (+ where it is 0); the result is the mean of
    `wᵢτᵢ` over the models whose τᵢ has that sign, and 0 where none has.
    """
    sign = torch.where(tasks.sum(0) >= 0, 1.0, -1.0)
    agree = tasks.sign() == sign
    return (_weighted(tasks, weights) * agree).sum(0) / agree.sum(0).clamp(min=1)


def trim(task: Tensor, density: float) -> Tensor:
    """The `density · n` entries of largest magnitude, zeros elsewhere; n entries in all, rounded down, at least one."""
    if density >= 1:
        return task
    flat = task.flatten()
    kept = flat.abs().topk(max(1, int(density * flat.numel()))).indices
    return torch.zeros_like(flat).index_copy(0, kept, flat[kept]).view_as(task)


def drop(task: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Every entry is kept with probability `density` and divided by it, else 0: DARE (Yu et al., 2024)."""
    if density >= 1:
        return task
    kept = torch.bernoulli(torch.full(task.shape, density), generator=generator).to(task.device)
    return task * kept / density


def _weighted(stacked: Tensor, weights: Tensor) -> Tensor:
    return stacked * weights.to(stacked).view(-1, *[1] * (stacked.dim() - 1))


def _trimmed(tasks: Tensor, density: float) -> Tensor:
    return torch.stack([trim(task, density) for task in tasks])


def _dropped(tasks: Tensor, density: float, generator: torch.Generator) -> Tensor:
    return torch.stack([drop(task, density, generator) for task in tasks])


_MERGES: dict[str, Callable[[Tensor, Tensor, float, torch.Generator], Tensor]] = {
    "task_arithmetic": lambda tasks, weights, density, generator: task_arithmetic(tasks, weights),
    "ties": lambda tasks, weights, density, generator: ties(_trimmed(tasks, density), weights),
    "dare_linear": lambda tasks, weights, density, generator: task_arithmetic(
        _dropped(tasks, density, generator), weights
    ),
    "dare_ties": lambda tasks, weights, density, generator: ties(_dropped(tasks, density, generator), weights),
}
