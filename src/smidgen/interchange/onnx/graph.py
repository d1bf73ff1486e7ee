"""The decoder as one ONNX graph whose caches are inputs and outputs.

Names and shapes are those that transformers.js and onnxruntime-genai expect. B batch, P tokens in the cache, T new
tokens, K key/value heads, d their size:

    input_ids int64 [B, T], attention_mask int64 [B, P + T], position_ids int64 [B, T],
    past_key_values.{i}.key [B, K, P, d], past_key_values.{i}.value [B, K, P, d]
    -> logits float [B, T, V], present.{i}.key [B, K, P + T, d], present.{i}.value [B, K, P + T, d]

Every layer's cache holds all tokens, also a sliding one's, whose mask then hides what its window has left behind: the
callers grow all caches alike. Latent attention caches every head's keys and values for the same reason, and the
narrower of the two (its values) ends in zeros: onnxruntime-genai knows one size for both.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from smidgen.inference.frozen import frozen
from smidgen.interchange.onnx.quiet import quiet
from smidgen.model import Decoder
from smidgen.model.attend import FORBIDDEN_POSITION, Visibility
from smidgen.model.attention import LatentAttention, LayerInputs
from smidgen.model.cache import CacheStep, LayerCache, LayerShape
from smidgen.model.rope import rotation
from smidgen.runtime.errors import MissingDependencyError

OPSET = 20
_LARGEST_FILE = 1_900_000_000
"""Bytes of weights that still fit into the graph's own file: protobuf ends at 2 GiB."""


class _GrowingCache:
    """One layer's cache as the graph sees it: what was there, and after `append` what goes out."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def append(self, key: Tensor, value: Tensor, step: CacheStep | None) -> tuple[Tensor, Tensor]:
        self.keys = torch.cat([self.keys, _widened(key, self.keys)], dim=2)
        self.values = torch.cat([self.values, _widened(value, self.values)], dim=2)
        return _narrowed(self.keys, key), _narrowed(self.values, value)


def _widened(new: Tensor, held: Tensor) -> Tensor:
    """`new` with zeros behind, as wide as what is held."""
    missing = held.shape[-1] - new.shape[-1]
    return torch.nn.functional.pad(new, (0, missing)) if missing else new


def _narrowed(held: Tensor, new: Tensor) -> Tensor:
    return held if held.shape[-1] == new.shape[-1] else held[..., : new.shape[-1]]


class _Step:
    """What attention asks of a step over a cache."""

    starts_empty = False


class Graph(nn.Module):
    """A decoder with its caches as arguments and results."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.decoder = frozen(model)
        for layer in self.decoder.layers:
            if isinstance(layer.self_attn, LatentAttention):
                layer.self_attn.absorb = False
        self.shapes: list[LayerShape] = [_of_one_size(layer.self_attn.cache_shape()) for layer in self.decoder.layers]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past_key_values: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """As the head of this file says; `past_key_values` holds key and value of each layer in turn."""
        decoder = self.decoder
        held = torch.where(attention_mask > 0, attention_mask.cumsum(1) - 1, FORBIDDEN_POSITION)
        own = held[:, past_key_values[0].shape[2] :]
        step = cast(CacheStep, _Step())
        inputs = {
            layer_type: LayerInputs(
                rotation(position_ids, frequencies), Visibility(own, held, by_products=True), 0.0, step
            )
            for layer_type, frequencies in decoder._frequencies.items()
        }
        caches = [
            _GrowingCache(keys, values)
            for keys, values in zip(past_key_values[::2], past_key_values[1::2], strict=True)
        ]
        x = decoder.embed(input_ids)
        for layer, cache in zip(decoder.layers, caches, strict=True):
            x = layer(x, inputs[layer.layer_type], cast(LayerCache, cache))
        logits = decoder.logits(decoder.model.norm(x))
        return logits, *(tensor for cache in caches for tensor in (cache.keys, cache.values))

    def empty_caches(self, batch_size: int, length: int = 0) -> list[Tensor]:
        """Caches of `length` tokens, zeros."""
        dtype = self.decoder.compute_dtype or torch.float32
        return [
            torch.zeros(batch_size, shape.heads, length, size, dtype=dtype)
            for shape in self.shapes
            for size in (shape.key_size, shape.value_size)
        ]


def _of_one_size(shape: LayerShape) -> LayerShape:
    size = max(shape.key_size, shape.value_size)
    return replace(shape, key_size=size, value_size=size)


@dataclass(frozen=True, slots=True)
class Names:
    """Names of a graph's inputs and outputs."""

    inputs: list[str]
    outputs: list[str]


def names(num_layers: int) -> Names:
    """In the order of `Graph.forward`."""
    pairs = [(layer, part) for layer in range(num_layers) for part in ("key", "value")]
    return Names(
        ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{i}.{part}" for i, part in pairs)],
        ["logits", *(f"present.{i}.{part}" for i, part in pairs)],
    )


def write_graph(model: Decoder, path: Path, dtype: torch.dtype = torch.float32) -> Graph:
    """Write `model` as an ONNX file with weights and caches in `dtype` (float32 or float16); returns what was written.

    Norms, RoPE and logits are float32 in either. Weights beyond protobuf's 2 GiB go to a file beside it.
    Raises MissingDependencyError without the extra `export`.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingDependencyError("onnxscript", "export", "writing ONNX graphs") from None
    model = copy.deepcopy(model).float().eval()
    model.compute_dtype = None if dtype == torch.float32 else dtype
    graph = Graph(model).eval()
    named = names(len(graph.shapes))
    batch, past, new = (
        torch.export.Dim(name, min=1) for name in ("batch_size", "past_sequence_length", "sequence_length")
    )
    size = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    arguments = (
        torch.zeros(2, 3, dtype=torch.int64),
        torch.ones(2, 8, dtype=torch.int64),
        torch.arange(5, 8).expand(2, 3).contiguous(),
        graph.empty_caches(2, 5),
    )
    auto = torch.export.Dim.DYNAMIC
    shapes: Any = (
        {0: batch, 1: new},
        {0: batch, 1: auto},
        {0: batch, 1: new},
        [{0: batch, 2: past} for _ in arguments[3]],
    )
    with warnings.catch_warnings(), quiet("torch.onnx", "onnxscript", "onnx_ir"), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            arguments,
            path,
            input_names=named.inputs,
            output_names=named.outputs,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=size > _LARGEST_FILE,
            verbose=False,
        )
    return graph
