"""The model section: orthogonal parts that together describe any of the decoders. No part names a family."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, Strict, model_validator

from smidgen.config.parts import Part, impossible
from smidgen.config.quantization import Quantization, Storage, check_overrides, check_quantization

LayerType = Literal["full", "sliding"]

MAX_LAYERS = 1 << 12
"""Thirty times as deep as Llama 3.1 405B; a file that asks for more is damaged."""


class GroupedQueryAttention(Part):
    """Query heads in groups that share a key and a value head (Ainslie et al., 2023)."""

    kind: Literal["grouped_query"] = "grouped_query"
    num_heads: PositiveInt
    """Query heads."""
    num_kv_heads: PositiveInt
    """Key and value heads; num_heads is a multiple of it. Equal to num_heads: multi-head attention."""
    head_dim: PositiveInt
    """Size of a head. Left out: hidden_size / num_heads."""
    qk_norm: bool = False
    """Normalise each query and key head before RoPE, with the norm of the model."""
    query_pre_attn_scalar: PositiveFloat | None = None
    """Scores are multiplied by this to the power -1/2. Left out: head_dim."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary frequencies in full layers."""
    sliding_window: PositiveInt | None = None
    """Positions a sliding layer sees, its own included: 0 <= i - j < sliding_window."""
    sliding_rope_theta: PositiveFloat | None = None
    """Base of the rotary frequencies in sliding layers. Left out: rope_theta."""

    @model_validator(mode="after")
    def _check(self) -> GroupedQueryAttention:
        if self.num_heads % self.num_kv_heads:
            raise impossible(
                "num_kv_heads",
                self.num_kv_heads,
                f"does not divide num_heads {self.num_heads}; use one of {divisors(self.num_heads)}",
            )
        if self.head_dim % 2:
            raise impossible("head_dim", self.head_dim, "RoPE rotates pairs; use an even head size")
        if self.sliding_rope_theta is not None and self.sliding_window is None:
            raise impossible(
                "sliding_rope_theta",
                self.sliding_rope_theta,
                "has no effect without sliding_window; set it too",
            )
        return self

    @property
    def softmax_scale(self) -> float:
        scalar = self.head_dim if self.query_pre_attn_scalar is None else self.query_pre_attn_scalar
        return float(scalar) ** -0.5


class Yarn(Part):
    """YaRN context extension (Peng et al., 2023). It acts only when max_seq_len exceeds original_max_seq_len."""

    original_max_seq_len: PositiveInt = 4096
    """Context that the frequencies were trained for."""
    factor: PositiveFloat = 40.0
    """How much longer the new context is; slow frequencies are divided by it."""
    beta_fast: PositiveFloat = 32.0
    """Dimensions that turn more often than this over the original context keep their frequency."""
    beta_slow: PositiveFloat = 1.0
    """Dimensions that turn less often than this are divided by the full factor."""
    mscale: PositiveFloat = 1.0
    """The softmax scale is multiplied by (0.1 · mscale · ln(factor) + 1)²."""


class LatentAttention(Part):
    """Multi-head latent attention (DeepSeek-V2, 2024): keys and values come from one cached low-rank latent."""

    kind: Literal["latent"] = "latent"
    num_heads: PositiveInt
    """Query, key and value heads."""
    q_lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of the query projection; 0 projects directly."""
    kv_lora_rank: PositiveInt
    """Size of the latent that keys and values are made of."""
    qk_nope_head_dim: PositiveInt
    """Part of a query or key head without position."""
    qk_rope_head_dim: PositiveInt
    """Part of a query or key head that RoPE rotates; its key is shared by all heads."""
    v_head_dim: PositiveInt
    """Size of a value head."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary frequencies."""
    yarn: Yarn = Yarn()
    cache: Literal["absorb", "naive"] = "absorb"
    """What the cache holds: the latent and the shared rotated key, or every head's keys and values."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_window(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("sliding_window") is not None:
            raise impossible(
                "sliding_window",
                data["sliding_window"],
                "latent attention has no sliding layers; remove it or use attention.kind grouped_query",
            )
        return data

    @model_validator(mode="after")
    def _check(self) -> LatentAttention:
        if self.qk_rope_head_dim % 2:
            raise impossible("qk_rope_head_dim", self.qk_rope_head_dim, "RoPE rotates pairs; use an even head size")
        return self

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim


class FeedForward(Part):
    """`down(activation(gate(x)) * up(x))`, or `down(activation(up(x)))` where `gated` is false."""

    intermediate_size: PositiveInt
    """Width inside the feed-forward."""
    activation: Literal["silu", "gelu_tanh", "relu2"] = "silu"
    """silu makes SwiGLU, gelu_tanh GeGLU, relu2 squared ReLU."""
    gated: bool = True
    """Multiply by a second projection that goes through the activation."""


class Norm(Part):
    """Which normalisation, and where it stands."""

    kind: Literal["rms_norm", "rms_norm_plus_one", "layer_norm"] = "rms_norm"
    """rms_norm_plus_one multiplies by (1 + w), w starting at 0 (Gemma). layer_norm has a gain and no bias."""
    eps: PositiveFloat = 1e-6
    """Added to the mean square (or the variance)."""
    placement: Literal["pre", "sandwich", "sub"] = "pre"
    """pre: before each sublayer. sandwich: also after it, before the residual sum (Gemma 3).
    sub: pre, and inside the sublayer before its output projection (SubLN, BitNet b1.58)."""


class DenseLinear(Part):
    """Ordinary linear layers."""

    kind: Literal["dense"] = "dense"


class TernaryLinear(Part):
    """BitNet b1.58: weights rounded to -1, 0 or 1 times one scale a tensor; straight-through gradients."""

    kind: Literal["ternary"] = "ternary"
    activation_bits: Literal[8] | None = 8
    """Activations rounded to 8 bits with one scale a token; null leaves them as they are."""


class BlockFP8Linear(Part):
    """DeepSeek-V3: e4m3 weights in 128×128 blocks and activations in 1×128 tiles, each with a float32 scale."""

    kind: Literal["fp8_block"] = "fp8_block"
    power_of_two_scales: bool = False
    """Round scales up to powers of two."""


class Initialization(Part):
    """Random weights: normal with `std`; output projections of the residual branches with std / √(2 · num_layers)."""

    std: PositiveFloat = 0.02
    """Standard deviation of all matrices but the output projections."""
    zero_output_projections: bool = False
    """Start attention's and feed-forward's output projections at zero."""
    final_norm_gain: float = 1.0
    """Starting gain of the final norm, before the head."""


Attention = Annotated[GroupedQueryAttention | LatentAttention, Field(discriminator="kind")]
Linear = Annotated[DenseLinear | TernaryLinear | BlockFP8Linear, Field(discriminator="kind")]


class ModelConfig(Part):
    """A decoder-only language model."""

    vocab_size: PositiveInt
    """Ids the model knows: input ids are below it and logits have this many columns."""
    hidden_size: PositiveInt
    """Width of the residual stream."""
    num_layers: Annotated[PositiveInt, Field(le=MAX_LAYERS)]
    """Layers, each of attention and feed-forward."""
    max_seq_len: PositiveInt
    """Longest context in tokens."""
    tie_word_embeddings: bool = True
    """The head shares the embedding's weights."""
    scale_embeddings: bool = False
    """Multiply embeddings by √hidden_size (Gemma)."""
    vocab_padding_multiple: PositiveInt = 1
    """Rows of embedding and head are padded up to a multiple of this in memory; padded ids never get a logit."""
    layer_pattern: Annotated[tuple[LayerType, ...], Strict(False), Field(min_length=1)] = ("full",)
    """Attention of each layer, repeated until num_layers."""
    attention: Attention
    """How tokens look at each other."""
    feed_forward: FeedForward
    norm: Norm = Norm()
    linear: Linear = DenseLinear()
    """Kind of every projection in attention and feed-forward. Embedding and head are never quantised here."""
    initialization: Initialization = Initialization()
    quantization: Quantization | None = None
    """How the weights are stored where they are quantised. Left out: floats, as training needs them."""

    @model_validator(mode="before")
    @classmethod
    def _derive_head_dim(cls, data: Any) -> Any:
        attention = data.get("attention") if isinstance(data, dict) else None
        if not isinstance(attention, dict) or attention.get("kind", "grouped_query") != "grouped_query":
            return data
        hidden_size, num_heads = data.get("hidden_size"), attention.get("num_heads")
        known = isinstance(hidden_size, int) and isinstance(num_heads, int) and num_heads > 0
        if attention.get("head_dim") is not None or not known:
            return data
        if hidden_size % num_heads:
            raise impossible(
                "attention.num_heads",
                num_heads,
                f"does not divide hidden_size {hidden_size}; use one of {divisors(hidden_size)}"
                " or set attention.head_dim",
            )
        return {**data, "attention": {**attention, "head_dim": hidden_size // num_heads}}

    @model_validator(mode="after")
    def _check_layers(self) -> ModelConfig:
        window = getattr(self.attention, "sliding_window", None)
        if "sliding" in self.layer_pattern and window is None:
            if isinstance(self.attention, LatentAttention):
                remedy = "latent attention has no sliding layers; use [full] or attention.kind grouped_query"
            else:
                remedy = "sliding layers need attention.sliding_window"
            raise impossible("layer_pattern", list(self.layer_pattern), remedy)
        if window is not None and "sliding" not in self.layer_pattern:
            raise impossible(
                "attention.sliding_window",
                window,
                "no layer of layer_pattern is sliding; add one or remove it",
            )
        return self

    @model_validator(mode="after")
    def _check_quantization(self) -> ModelConfig:
        if self.quantization is not None:
            check_quantization(
                self.quantization, self.linear.kind, self.rounds_activations, tied=self.tie_word_embeddings
            )
            check_overrides(self.quantization, self.projections, self.num_layers, self.linear.kind)
        return self

    @property
    def projections(self) -> tuple[str, ...]:
        """Names of the projections of a layer, below it."""
        attention = self.attention
        if isinstance(attention, LatentAttention):
            query = ("q_a_proj", "q_b_proj") if attention.q_lora_rank else ("q_proj",)
            mixing = (*query, "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
        else:
            mixing = ("q_proj", "k_proj", "v_proj", "o_proj")
        feeding = (*(("gate_proj",) if self.feed_forward.gated else ()), "up_proj", "down_proj")
        return (*(f"self_attn.{name}" for name in mixing), *(f"mlp.{name}" for name in feeding))

    @property
    def projection_storages(self) -> frozenset[Storage]:
        """How the projections of a quantised model are stored."""
        if self.quantization is None:
            return frozenset()
        if not self.quantization.overrides:
            return frozenset((self.quantization.storage(""),))
        names = (f"model.layers.{index}.{name}" for index in range(self.num_layers) for name in self.projections)
        return frozenset(map(self.quantization.storage, names))

    @property
    def rounds_activations(self) -> bool:
        """Whether the model was trained with inputs of its projections rounded to 8 bits."""
        linear = self.linear
        return linear.kind == "fp8_block" or (isinstance(linear, TernaryLinear) and linear.activation_bits is not None)

    @property
    def unquantized(self) -> ModelConfig:
        """The same model with float weights."""
        return self if self.quantization is None else self.model_copy(update={"quantization": None})

    @property
    def layer_types(self) -> tuple[LayerType, ...]:
        """The attention of each of the num_layers layers."""
        pattern = self.layer_pattern
        return tuple(pattern[i % len(pattern)] for i in range(self.num_layers))

    @property
    def padded_vocab_size(self) -> int:
        multiple = self.vocab_padding_multiple
        return -(-self.vocab_size // multiple) * multiple


def divisors(n: int, most: int = 1024) -> list[int]:
    """Those up to `most`, to be named in a message: a damaged file's n may be 2⁶³."""
    return [d for d in range(1, min(n, most) + 1) if n % d == 0]
