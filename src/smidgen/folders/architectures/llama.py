"""LlamaForCausalLM: pre-norm, grouped queries, a gated feed-forward."""

from __future__ import annotations

from smidgen.config import GroupedQueryAttention, ModelConfig
from smidgen.folders.architectures import base
from smidgen.folders.architectures.base import HIDDEN_ACT, NOT_IMPLEMENTED, Architecture, Tree
from smidgen.folders.architectures.rope import read_rope, write_rope
from smidgen.runtime.fields import Fields


class Llama(Architecture):
    model_type = "llama"
    class_name = "LlamaForCausalLM"

    def describes(self, config: ModelConfig) -> bool:
        return (
            base.is_plain_grouped_query(config)
            # transformers refuses other widths, even where head_dim is given.
            and config.hidden_size % config.attention.num_heads == 0
            and config.norm.kind == "rms_norm"
            and config.norm.placement == "pre"
            and config.feed_forward.gated
            and config.linear.kind == "dense"
            and not config.scale_embeddings
        )

    def write(self, config: ModelConfig) -> Tree:
        attention = config.attention
        assert isinstance(attention, GroupedQueryAttention)
        return {
            **base.write_common(config),
            **base.write_grouped_query(attention),
            **write_rope(attention.rope_theta),
            "hidden_act": HIDDEN_ACT[config.feed_forward.activation],
            "mlp_bias": False,
        }

    def read(self, fields: Fields) -> Tree:
        fields.must_be("mlp_bias", (False,), NOT_IMPLEMENTED)
        tree = base.read_common(fields, tied_by_default=False, activation="hidden_act")
        return {**tree, "attention": base.read_grouped_query(fields, read_rope(fields, 10_000.0))}
