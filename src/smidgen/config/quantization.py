"""How the weights of a quantised model are stored; what the model computes otherwise is the rest of its section."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field

from smidgen.config.parts import Part, impossible

Scheme = Literal["int8", "int4", "ternary", "fp8_block", "fp8_tensor"]
VocabularyScheme = Literal["bf16", "int8", "int4"]
OverrideScheme = Literal["bf16", "int8", "int4", "int4/32", "int4/64", "int4/128", "fp8_tensor"]

_MOST_COMPARED = 1_000_000
"""Overrides times projections: every name is compared with every pattern."""


@dataclass(frozen=True, slots=True)
class Storage:
    """How one matrix is stored."""

    scheme: Scheme | Literal["bf16"]
    group_size: int | None = None
    """Columns that share a scale, of int4 alone."""

    @property
    def label(self) -> str:
        """As reports name it: `int4/32`, `int8`."""
        return self.scheme if self.group_size is None else f"{self.scheme}/{self.group_size}"


class Quantization(Part):
    """Weights that are stored as small integers or FP8. Such a model runs; it is not trained."""

    scheme: Scheme
    """int8: a scale a row. int4: a scale a group of columns. ternary: two bits, for models trained with
    ternary weights. fp8_block: e4m3 in blocks of 128×128. fp8_tensor: e4m3 with one scale a matrix.
    Of the projections of attention and feed-forward."""
    group_size: Literal[32, 64, 128] = 32
    """Columns that share a scale in int4."""
    symmetric: bool = True
    """int4 without a zero point a group."""
    head: VocabularyScheme = "bf16"
    """Of the head; a tied head is the embedding's matrix."""
    embedding: VocabularyScheme = "bf16"
    """Of the embedding."""
    activation_bits: Literal[8, 16] = 16
    """8: inputs of the projections are rounded too, to integers with a scale a token, or with FP8 weights to FP8."""
    overrides: dict[str, OverrideScheme] = Field(default_factory=dict)
    """Schemes of single projections, by a pattern of their names: {down_proj: int8, layers.0.*: bf16}. The first
    pattern that matches a projection decides. int4/64 is int4 with groups of 64."""

    def storage(self, name: str) -> Storage:
        """How the projection of a name (`model.layers.0.mlp.down_proj`) is stored: as the first override that matches
        it says, or as all are."""
        for pattern, scheme in self.overrides.items():
            if matches(name, pattern):
                return self._storage(scheme)
        return self._storage(self.scheme)

    def vocabulary_storage(self, scheme: VocabularyScheme) -> Storage:
        """How a head or embedding of this scheme is stored."""
        return self._storage(scheme)

    def _storage(self, scheme: Scheme | OverrideScheme) -> Storage:
        match scheme:
            case "int4/32" | "int4/64" | "int4/128":
                return Storage("int4", int(scheme.partition("/")[2]))
            case "int4":
                return Storage("int4", self.group_size)
            case _:
                return Storage(scheme)


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern of shell's kind (`*`, `?`, `[0-3]`) matches a name, or its end after a dot."""
    if not any(character in pattern for character in "*?["):
        return name == pattern or name.endswith(f".{pattern}")
    is_whole, is_end = _compiled(pattern)
    return is_whole(name) is not None or is_end(name) is not None


@lru_cache(4096)
def _compiled(pattern: str) -> tuple[Callable[[str], Any], Callable[[str], Any]]:
    return re.compile(translate(pattern)).match, re.compile(translate(f"*.{pattern}")).match


def check_overrides(quantization: Quantization, projections: Sequence[str], num_layers: int, linear: str) -> None:
    """Refuse overrides that change nothing, or that the model's weights and the other schemes have no room for.

    `projections`: names below a layer; `linear`: the kind of `model.linear`.
    """
    if not quantization.overrides:
        return
    count = len(quantization.overrides)
    if count * num_layers * len(projections) > _MOST_COMPARED:
        remedy = f"too many for {num_layers} layers of {len(projections)} projections; use patterns that match several"
        raise impossible("quantization.overrides", f"{count} of them", remedy)
    allowed = {"ternary": (), "fp8_block": ("bf16",)}.get(quantization.scheme, ("bf16", "int8", "int4", "fp8_tensor"))
    free = [f"model.layers.{index}.{projection}" for index in range(num_layers) for projection in projections]
    everything = tuple(free)
    for pattern, scheme in quantization.overrides.items():
        field = f"quantization.overrides.{pattern}"
        found = {name for name in free if matches(name, pattern)}
        if not found:
            if any(matches(name, pattern) for name in everything):
                raise impossible(field, scheme, "changes nothing: the overrides before it decide; put it first")
            raise impossible(
                field,
                scheme,
                f"matches no projection; there are {', '.join(projections)} in layers.0 to layers.{num_layers - 1} "
                "(head and embedding have schemes of their own)",
            )
        if scheme.partition("/")[0] not in allowed:
            mixes = f"mixes with {', '.join(allowed)} only" if allowed else "is all or nothing"
            raise impossible(field, scheme, f"quantization.scheme {quantization.scheme} {mixes}")
        if scheme == "bf16" and linear != "dense":
            raise impossible(
                field, scheme, f"linear.kind {linear}: its weights were trained rounded, bf16 is no better; use int8"
            )
        free = [name for name in free if name not in found]
    used = {quantization.storage(name).scheme for name in everything}
    if quantization.activation_bits == 8 and "fp8_tensor" in used and used & {"int8", "int4"} and linear == "dense":
        raise impossible(
            "quantization.activation_bits", 8, "fp8_tensor rounds inputs to FP8, int8 and int4 to integers; use 16"
        )


def check_quantization(quantization: Quantization, linear: str, rounds_activations: bool, tied: bool) -> None:
    """Refuse what cannot stand beside `model.linear`, whose kind is `linear`, and `model.tie_word_embeddings`."""
    scheme = quantization.scheme
    if tied and quantization.head != quantization.embedding:
        raise impossible(
            "quantization.head",
            quantization.head,
            f"the head is tied to the embedding, whose scheme is {quantization.embedding}; give both the same",
        )
    if scheme == "ternary" and linear != "ternary":
        raise impossible(
            "quantization.scheme",
            scheme,
            f"packs models trained with linear.kind ternary, this one is {linear}; use int8 or int4",
        )
    if rounds_activations and quantization.activation_bits != 8:
        raise impossible(
            "quantization.activation_bits",
            quantization.activation_bits,
            f"linear.kind {linear} rounds activations to 8 bits; use 8",
        )
    if scheme == "ternary" and not rounds_activations and quantization.activation_bits == 8:
        raise impossible(
            "quantization.activation_bits",
            8,
            "linear.activation_bits is null: this model was trained without rounding activations; use 16",
        )
