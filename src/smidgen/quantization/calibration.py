"""What the inputs of the projections look like on a text: second moments, by which errors of weights are weighed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from smidgen.model import Decoder
from smidgen.model.attention import LayerInputs
from smidgen.model.linear import Linear

Batches = Sequence[Tensor]
"""Token ids of a text, int64 [B, T] each."""


class Inputs:
    """Statistics of the inputs x [K] of one projection, as its product gets them."""

    def __init__(self) -> None:
        self.count = 0
        self._gram: Tensor | None = None
        self._absolute: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Count in inputs [..., K]."""
        rows = x.reshape(-1, x.shape[-1]).float()
        gram, absolute = rows.T @ rows, rows.abs().sum(dim=0)
        self._gram = gram if self._gram is None else self._gram.add_(gram)
        self._absolute = absolute if self._absolute is None else self._absolute.add_(absolute)
        self.count += len(rows)

    @property
    def gram(self) -> Tensor:
        """Mean of `x xᵀ`, float32 [K, K]: `tr(E · gram · Eᵀ)` is the squared error that E in a weight makes."""
        assert self._gram is not None, "no input was seen"
        return self._gram / self.count

    @property
    def absolute(self) -> Tensor:
        """Mean of `|x|`, float32 [K]."""
        assert self._absolute is not None, "no input was seen"
        return self._absolute / self.count


@contextmanager
def watch(module: nn.Module) -> Iterator[Mapping[str, Inputs]]:
    """While the context lasts, count in the inputs of every projection below `module`, by name."""
    seen: dict[str, Inputs] = {}
    hooks = []
    for name, child in module.named_modules():
        if isinstance(child, Linear):
            seen[name] = Inputs()
            hooks.append(child.register_forward_pre_hook(_counter(child, seen[name])))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _counter(linear: Linear, inputs: Inputs) -> Callable[[nn.Module, Any], None]:
    def count(module: nn.Module, arguments: Any) -> None:
        inputs.add(linear.quantizer.input(arguments[0].detach()))

    return count


@torch.no_grad()
def input_statistics(model: Decoder, batches: Batches) -> Mapping[str, Inputs]:
    """The inputs of every projection of `model` on `batches`, by name."""
    with watch(model) as seen:
        for ids in batches:
            model.hidden(ids)
    return seen


class LayerCall:
    """One batch on its way through the layers."""

    def __init__(self, x: Tensor, inputs: list[LayerInputs]) -> None:
        self.x = x
        """States before the next layer, [B, T, D]."""
        self.inputs = inputs
        """The other argument of each layer."""


@torch.no_grad()
def layer_calls(model: Decoder, batches: Batches) -> list[LayerCall]:
    """What the first layer of `model` gets for each batch, and what all layers get beside it."""
    calls: list[LayerCall] = []

    def catch(module: nn.Module, arguments: Any) -> None:
        x, inputs = arguments[:2]
        if module is model.layers[0]:
            calls.append(LayerCall(x, []))
        calls[-1].inputs.append(inputs)

    hooks = [layer.register_forward_pre_hook(catch) for layer in model.layers]
    try:
        for ids in batches:
            model.hidden(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return calls
