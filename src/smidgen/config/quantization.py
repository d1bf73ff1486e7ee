"""How the weights of a quantised model are stored; what the model computes otherwise is the rest of its section."""

from __future__ import annotations

from typing import Literal

from smidgen.config.parts import Part, impossible

Scheme = Literal["int8", "int4", "ternary", "fp8_block", "fp8_tensor"]
VocabularyScheme = Literal["bf16", "int8", "int4"]


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
