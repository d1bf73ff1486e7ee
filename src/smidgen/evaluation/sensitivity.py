"""What each kind of projection, and each layer, loses when it alone is quantised: where overrides are worth it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from smidgen.config.quantization import matches
from smidgen.evaluation.sliding import Perplexity
from smidgen.model import Decoder
from smidgen.model.linear import Linear


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The projections of a pattern, quantised alone."""

    pattern: str
    """As an override names them."""
    weights: int
    perplexity: float
    perplexity_change: float
    """Relative to the model as it was: 0.01 is one percent more."""


def sensitivities(
    model: Decoder, quantized: Decoder, measure: Callable[[Decoder], Perplexity]
) -> Iterator[Sensitivity]:
    """For each kind of projection and each layer, `model` with those of `quantized` in their place, one after the
    other. `quantized` is made of `model`; `measure` gives a perplexity. `model` is afterwards what it was."""
    before = measure(model).perplexity
    projections = {name: module for name, module in model.named_modules() if isinstance(module, Linear)}
    for pattern in patterns(model):
        names = [name for name in projections if matches(name, pattern)]
        with _exchanged(model, quantized, names):
            after = measure(model).perplexity
        weights = sum(projections[name].in_features * projections[name].out_features for name in names)
        yield Sensitivity(pattern, weights, after, after / before - 1)


def patterns(model: Decoder) -> list[str]:
    """Of each kind of projection and of each layer."""
    kinds = [projection.rpartition(".")[2] for projection in model.config.projections]
    return [*kinds, *(f"layers.{index}.*" for index in range(model.config.num_layers))]


@contextmanager
def _exchanged(model: Decoder, other: Decoder, names: Sequence[str]) -> Iterator[None]:
    kept = [(name, model.get_submodule(name)) for name in names]
    try:
        for name in names:
            _put(model, name, other.get_submodule(name))
        yield
    finally:
        for name, module in kept:
            _put(model, name, module)


def _put(model: Decoder, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
