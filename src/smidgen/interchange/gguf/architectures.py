"""llama.cpp's architectures that compute what our decoders compute: metadata and tensors of each, both ways.

The facts (keys, which of them are required, row orders) are llama.cpp's, in src/models/ and src/llama-arch.cpp.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from smidgen.config import DenseLinear, GroupedQueryAttention, LatentAttention, ModelConfig
from smidgen.folders.architectures import architecture_of
from smidgen.interchange.gguf import layout
from smidgen.interchange.gguf.layout import Entry
from smidgen.interchange.gguf.metadata import Metadata
from smidgen.model.attention import uses_yarn
from smidgen.runtime.errors import InterchangeError

Tree = dict[str, Any]

ALTERNATIVES = "llama, gemma3, deepseek2 and bitnet are the architectures; use --format hf, which takes every model"


class GgufArchitecture(ABC):
    """One `general.architecture`: which of our configurations it computes, and both directions of the map."""

    name: str
    activation: str = "silu"

    def refuse(self, model: ModelConfig) -> None:
        """Raise InterchangeError where llama.cpp would compute something else for this configuration."""
        if model.feed_forward.activation != self.activation:
            raise self.impossible(
                f"feed_forward.activation = {model.feed_forward.activation}", f"computes {self.activation} there"
            )

    def impossible(self, value: str, reason: str) -> InterchangeError:
        return InterchangeError(f"{value}: llama.cpp's {self.name} {reason}; {ALTERNATIVES}")

    def metadata(self, model: ModelConfig) -> Tree:
        """Keys without the architecture's name in front, with values whose type decides GGUF's: int, float, bool."""
        return {
            "vocab_size": model.vocab_size,
            "context_length": model.max_seq_len,
            "embedding_length": model.hidden_size,
            "block_count": model.num_layers,
            "feed_forward_length": model.feed_forward.intermediate_size,
            "attention.head_count": model.attention.num_heads,
            "attention.layer_norm_rms_epsilon": float(model.norm.eps),
            **self.own_metadata(model),
        }

    @abstractmethod
    def own_metadata(self, model: ModelConfig) -> Tree:
        """The keys that not every architecture has."""

    def entries(self, model: ModelConfig) -> list[Entry]:
        """Every tensor."""
        entries = layout.embedding_and_head(model, self.norm("model.norm", "output_norm"))
        for i in range(model.num_layers):
            ours, theirs = f"model.layers.{i}", f"blk.{i}"
            entries += [
                self.norm(f"{ours}.input_layernorm", f"{theirs}.attn_norm"),
                *self.attention(model.attention, f"{ours}.self_attn", theirs),
                *self.feed_forward(ours, theirs),
            ]
        return entries

    def norm(self, ours: str, theirs: str) -> Entry:
        """The weight of a norm."""
        return layout.plain(ours, theirs)

    def attention(self, attention: Any, ours: str, theirs: str) -> list[Entry]:
        """The tensors of a layer's attention: grouped queries with projections as they are."""
        return layout.grouped_query(ours, theirs)

    def feed_forward(self, ours: str, theirs: str) -> list[Entry]:
        """The tensors of a layer behind its attention."""
        return [self.norm(f"{ours}.post_attention_layernorm", f"{theirs}.ffn_norm"), *layout.feed_forward(ours, theirs)]

    def read(self, metadata: Metadata) -> Tree:
        """The unvalidated model section. `tie_word_embeddings` and, where it is missing, `vocab_size` follow from the
        tensors and are the caller's to add."""
        metadata.must_be("rope.scaling.type", ("none", "linear"), "Smidgen reads files without RoPE scaling here")
        metadata.must_be("rope.scaling.factor", (0.0, 1.0), "Smidgen reads files without RoPE scaling here")
        return {
            "hidden_size": metadata.integer("embedding_length"),
            "num_layers": metadata.integer("block_count"),
            "max_seq_len": metadata.integer("context_length"),
            "feed_forward": {
                "intermediate_size": metadata.integer("feed_forward_length"),
                "activation": self.activation,
            },
            "norm": {"eps": metadata.number("attention.layer_norm_rms_epsilon")},
            **self.own_section(metadata),
        }

    @abstractmethod
    def own_section(self, metadata: Metadata) -> Tree:
        """`attention`, and what else differs from the defaults. May replace `norm`."""


def _read_grouped_query(metadata: Metadata, rope_theta: float) -> Tree:
    num_heads = metadata.integer("attention.head_count")
    hidden_size = metadata.integer("embedding_length")
    if num_heads == 0 or hidden_size % num_heads:
        metadata.refuse("attention.head_count", f"does not divide embedding_length {hidden_size}")
    head_dim = metadata.integer("attention.key_length", hidden_size // num_heads)
    metadata.must_be("attention.value_length", (head_dim,), "keys and values of one size are needed")
    metadata.must_be("rope.dimension_count", (head_dim,), "Smidgen rotates whole heads")
    return {
        "kind": "grouped_query",
        "num_heads": num_heads,
        "num_kv_heads": metadata.integer("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "rope_theta": metadata.number("rope.freq_base", rope_theta),
    }


def _grouped_query_metadata(attention: GroupedQueryAttention) -> Tree:
    return {
        "attention.head_count_kv": attention.num_kv_heads,
        "attention.key_length": attention.head_dim,
        "attention.value_length": attention.head_dim,
        "rope.dimension_count": attention.head_dim,
        "rope.freq_base": float(attention.rope_theta),
    }


class Llama(GgufArchitecture):
    name = "llama"

    def own_metadata(self, model: ModelConfig) -> Tree:
        assert isinstance(model.attention, GroupedQueryAttention)
        return _grouped_query_metadata(model.attention)

    def attention(self, attention: GroupedQueryAttention, ours: str, theirs: str) -> list[Entry]:
        query, key, *rest = super().attention(attention, ours, theirs)
        return [
            layout.rotary_rows(query, attention.num_heads),
            layout.rotary_rows(key, attention.num_kv_heads),
            *rest,
        ]

    def own_section(self, metadata: Metadata) -> Tree:
        metadata.must_be("expert_count", (0,), "Smidgen has no mixtures of experts")
        return {"attention": _read_grouped_query(metadata, 10_000.0)}


class Gemma3(GgufArchitecture):
    name = "gemma3"
    activation = "gelu_tanh"
    _LAYERS_OF_27B = 62

    def refuse(self, model: ModelConfig) -> None:
        super().refuse(model)
        attention = model.attention
        assert isinstance(attention, GroupedQueryAttention)
        scalar = attention.query_pre_attn_scalar
        if scalar not in (None, attention.head_dim):
            raise self.impossible(f"attention.query_pre_attn_scalar = {scalar:g}", f"takes {attention.head_dim} there")
        if model.num_layers == self._LAYERS_OF_27B:
            raise self.impossible(f"num_layers = {model.num_layers}", "takes that for the 27B model, which it scales")

    def own_metadata(self, model: ModelConfig) -> Tree:
        attention = model.attention
        assert isinstance(attention, GroupedQueryAttention)
        tree = _grouped_query_metadata(attention)
        if attention.sliding_window is None:
            return tree
        sliding = attention.sliding_rope_theta
        return {
            **tree,
            "attention.sliding_window": attention.sliding_window,
            # One flag a layer; left out, llama.cpp assumes that every sixth layer is full.
            "attention.sliding_window_pattern": [kind == "sliding" for kind in model.layer_types],
            "rope.freq_base_swa": float(attention.rope_theta if sliding is None else sliding),
        }

    def norm(self, ours: str, theirs: str) -> Entry:
        return layout.plus_one(ours, theirs)

    def attention(self, attention: GroupedQueryAttention, ours: str, theirs: str) -> list[Entry]:
        return [
            *super().attention(attention, ours, theirs),
            *(self.norm(f"{ours}.{name}_norm", f"{theirs}.attn_{name}_norm") for name in "qk"),
        ]

    def feed_forward(self, ours: str, theirs: str) -> list[Entry]:
        return [
            self.norm(f"{ours}.post_attention_layernorm", f"{theirs}.post_attention_norm"),
            self.norm(f"{ours}.pre_feedforward_layernorm", f"{theirs}.ffn_norm"),
            self.norm(f"{ours}.post_feedforward_layernorm", f"{theirs}.post_ffw_norm"),
            *layout.feed_forward(ours, theirs),
        ]

    def own_section(self, metadata: Metadata) -> Tree:
        metadata.must_be("final_logit_softcapping", (0.0,), "Smidgen does not implement it")
        num_layers = metadata.integer("block_count")
        attention = _read_grouped_query(metadata, 1_000_000.0) | {"qk_norm": True}
        pattern = ["full"]
        window = metadata.integer("attention.sliding_window", 0)
        if window:
            pattern = _sliding_pattern(metadata, num_layers)
        if "sliding" in pattern:
            attention |= {
                "sliding_window": window,
                "sliding_rope_theta": metadata.number("rope.freq_base_swa", 10_000.0),
            }
        if num_layers == self._LAYERS_OF_27B:
            metadata.refuse("block_count", "the 27B model scales its queries in its own way; Smidgen does not read it")
        return {
            "attention": attention,
            "layer_pattern": pattern,
            "scale_embeddings": True,
            "norm": {
                "kind": "rms_norm_plus_one",
                "placement": "sandwich",
                "eps": metadata.number("attention.layer_norm_rms_epsilon"),
            },
        }


def _sliding_pattern(metadata: Metadata, num_layers: int) -> list[str]:
    flags = metadata.value_of("attention.sliding_window_pattern")
    if flags is None or isinstance(flags, int):
        period = 6 if flags is None else flags
        flags = [bool(period) and (i + 1) % period != 0 for i in range(num_layers)]
    if len(flags) != num_layers:
        metadata.refuse("attention.sliding_window_pattern", f"one flag for each of {num_layers} layers is needed")
    return ["sliding" if flag else "full" for flag in flags]


class Deepseek2(GgufArchitecture):
    name = "deepseek2"

    def refuse(self, model: ModelConfig) -> None:
        super().refuse(model)
        attention = model.attention
        assert isinstance(attention, LatentAttention)
        if attention.q_lora_rank and self._is_lite(model.num_layers):
            raise self.impossible(
                f"num_layers = {model.num_layers}", "takes that for a lite model and reads no q_lora_rank"
            )

    @staticmethod
    def _is_lite(num_layers: int) -> bool:
        return num_layers in (26, 27)

    def own_metadata(self, model: ModelConfig) -> Tree:
        attention = model.attention
        assert isinstance(attention, LatentAttention)
        tree: Tree = {
            # The latent cache is one wide key head that all query heads share.
            "attention.head_count_kv": 1,
            "attention.key_length": attention.kv_lora_rank + attention.qk_rope_head_dim,
            "attention.value_length": attention.kv_lora_rank,
            "attention.key_length_mla": attention.qk_head_dim,
            "attention.value_length_mla": attention.v_head_dim,
            # Asked for; 0 is a direct projection.
            "attention.q_lora_rank": attention.q_lora_rank,
            "attention.kv_lora_rank": attention.kv_lora_rank,
            "rope.dimension_count": attention.qk_rope_head_dim,
            "rope.freq_base": float(attention.rope_theta),
            "leading_dense_block_count": model.num_layers,
            # There are no experts, but these keys are asked for all the same.
            "expert_feed_forward_length": model.feed_forward.intermediate_size,
            "expert_shared_count": 0,
        }
        if uses_yarn(model):
            yarn = attention.yarn
            tree |= {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": float(yarn.factor),
                "rope.scaling.original_context_length": yarn.original_max_seq_len,
                "rope.scaling.yarn_beta_fast": float(yarn.beta_fast),
                "rope.scaling.yarn_beta_slow": float(yarn.beta_slow),
                # llama.cpp divides this by 0.1 again.
                "rope.scaling.yarn_log_multiplier": 0.1 * yarn.mscale,
            }
        return tree

    def attention(self, attention: LatentAttention, ours: str, theirs: str) -> list[Entry]:
        if attention.q_lora_rank:
            query = [
                layout.plain(f"{ours}.q_a_proj", f"{theirs}.attn_q_a"),
                layout.plain(f"{ours}.q_a_layernorm", f"{theirs}.attn_q_a_norm"),
                layout.plain(f"{ours}.q_b_proj", f"{theirs}.attn_q_b"),
            ]
        else:
            query = [layout.plain(f"{ours}.q_proj", f"{theirs}.attn_q")]
        return [
            *query,
            layout.plain(f"{ours}.kv_a_proj_with_mqa", f"{theirs}.attn_kv_a_mqa"),
            layout.plain(f"{ours}.kv_a_layernorm", f"{theirs}.attn_kv_a_norm"),
            layout.latent_expansion(f"{ours}.kv_b_proj", theirs, attention),
            layout.plain(f"{ours}.o_proj", f"{theirs}.attn_output"),
        ]

    def read(self, metadata: Metadata) -> Tree:
        if metadata.value_of("rope.scaling.type") != "yarn":
            return super().read(metadata)
        return super().read(metadata.without("rope.scaling.type", "rope.scaling.factor"))

    def own_section(self, metadata: Metadata) -> Tree:
        num_layers = metadata.integer("block_count")
        if metadata.integer("leading_dense_block_count", 0) < num_layers:
            metadata.refuse(
                "leading_dense_block_count", "later layers are mixtures of experts; Smidgen runs dense models"
            )
        rope = metadata.integer("rope.dimension_count")
        rank = metadata.integer("attention.kv_lora_rank")
        if "attention.key_length_mla" not in metadata:
            metadata.refuse("attention.key_length_mla", "older files expand the latent; convert the model again")
        head_dim = metadata.integer("attention.key_length_mla")
        if head_dim <= rope:
            metadata.refuse("attention.key_length_mla", f"must exceed rope.dimension_count {rope}")
        max_seq_len = metadata.integer("context_length")
        yarn: Tree = {"original_max_seq_len": max(max_seq_len, 4096)}
        if metadata.value_of("rope.scaling.original_context_length") is not None:
            yarn = {
                "original_max_seq_len": metadata.integer("rope.scaling.original_context_length"),
                "factor": metadata.original.number("rope.scaling.factor"),
                "beta_fast": metadata.number("rope.scaling.yarn_beta_fast", 32.0),
                "beta_slow": metadata.number("rope.scaling.yarn_beta_slow", 1.0),
                "mscale": round(metadata.number("rope.scaling.yarn_log_multiplier") / 0.1, 6),
            }
        return {
            "attention": {
                "kind": "latent",
                "num_heads": metadata.integer("attention.head_count"),
                "q_lora_rank": metadata.integer("attention.q_lora_rank", 0),
                "kv_lora_rank": rank,
                "qk_nope_head_dim": head_dim - rope,
                "qk_rope_head_dim": rope,
                "v_head_dim": metadata.integer("attention.value_length_mla"),
                "rope_theta": metadata.number("rope.freq_base", 10_000.0),
                "yarn": yarn,
            },
        }


class BitNet(GgufArchitecture):
    name = "bitnet"

    def refuse(self, model: ModelConfig) -> None:
        super().refuse(model)
        if not model.tie_word_embeddings:
            raise self.impossible("tie_word_embeddings = false", "has no head of its own")

    def own_metadata(self, model: ModelConfig) -> Tree:
        assert isinstance(model.attention, GroupedQueryAttention)
        return {
            **_grouped_query_metadata(model.attention),
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 1.0,
        }

    def attention(self, attention: GroupedQueryAttention, ours: str, theirs: str) -> list[Entry]:
        return [
            *super().attention(attention, ours, theirs),
            self.norm(f"{ours}.attn_sub_norm", f"{theirs}.attn_sub_norm"),
        ]

    def feed_forward(self, ours: str, theirs: str) -> list[Entry]:
        return [
            *super().feed_forward(ours, theirs),
            self.norm(f"{ours}.mlp.ffn_sub_norm", f"{theirs}.ffn_sub_norm"),
        ]

    def own_section(self, metadata: Metadata) -> Tree:
        return {
            "attention": _read_grouped_query(metadata, 10_000.0),
            "norm": {"placement": "sub", "eps": metadata.number("attention.layer_norm_rms_epsilon")},
            "linear": {"kind": "ternary"},
        }


ARCHITECTURES: dict[str, GgufArchitecture] = {
    "llama": Llama(),
    "gemma3_text": Gemma3(),
    "deepseek_v3": Deepseek2(),
    "bitnet": BitNet(),
}
"""By transformers' `model_type` of the same structure."""

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES.values()}


def gguf_architecture(model: ModelConfig) -> GgufArchitecture:
    """The architecture of llama.cpp that computes this configuration; raises InterchangeError where there is none.

    Kinds of linear layer other than ternary do not matter: GGUF has its own ways to store a weight.
    """
    structure = model
    if model.linear.kind not in ("dense", "ternary"):
        structure = model.model_copy(update={"linear": DenseLinear()})
    found = ARCHITECTURES.get(architecture_of(structure).model_type)
    if found is None:
        raise InterchangeError(f"GGUF: llama.cpp has no architecture with {_parts(model)} together: {ALTERNATIVES}")
    found.refuse(structure)
    return found


def _parts(model: ModelConfig) -> str:
    """What architectures differ in, in words."""
    parts = [f"{model.attention.kind} attention", f"{model.linear.kind} layers", f"{model.norm.placement} norms"]
    if "sliding" in model.layer_types:
        parts.append("sliding windows")
    if getattr(model.attention, "qk_norm", False):
        parts.append("norms of queries and keys")
    if model.scale_embeddings:
        parts.append("scaled embeddings")
    return ", ".join(parts)
