"""DeepseekV3ForCausalLM with dense layers only: multi-head latent attention, pre-norm, a gated feed-forward."""

from __future__ import annotations

from smidgen.config import LatentAttention, ModelConfig
from smidgen.folders.architectures import base
from smidgen.folders.architectures.base import HIDDEN_ACT, Architecture, Tree
from smidgen.folders.architectures.rope import read_scaled_rope, read_yarn, write_rope
from smidgen.model.attention import uses_yarn
from smidgen.runtime.fields import Fields

LATENT_NORM_EPS = 1e-6
"""transformers norms the latents with this, whatever rms_norm_eps is."""


class DeepseekV3(Architecture):
    model_type = "deepseek_v3"
    class_name = "DeepseekV3ForCausalLM"

    def describes(self, config: ModelConfig) -> bool:
        return (
            isinstance(config.attention, LatentAttention)
            and config.norm.kind == "rms_norm"
            and config.norm.placement == "pre"
            and config.norm.eps == LATENT_NORM_EPS
            and config.feed_forward.gated
            and config.linear.kind == "dense"
            and not config.scale_embeddings
        )

    def write(self, config: ModelConfig) -> Tree:
        attention = config.attention
        assert isinstance(attention, LatentAttention)
        return {
            **base.write_common(config),
            **write_rope(attention.rope_theta, attention.yarn if uses_yarn(config) else None),
            "num_key_value_heads": attention.num_heads,
            "q_lora_rank": attention.q_lora_rank or None,
            "kv_lora_rank": attention.kv_lora_rank,
            "qk_nope_head_dim": attention.qk_nope_head_dim,
            "qk_rope_head_dim": attention.qk_rope_head_dim,
            "v_head_dim": attention.v_head_dim,
            "rope_interleave": True,
            "hidden_act": HIDDEN_ACT[config.feed_forward.activation],
            # No layer is a mixture of experts; the class wants the fields of one all the same.
            "first_k_dense_replace": config.num_layers,
            "n_routed_experts": 1,
            "n_shared_experts": 1,
            "num_experts_per_tok": 1,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": config.feed_forward.intermediate_size,
            "num_nextn_predict_layers": 0,
        }

    def read(self, fields: Fields) -> Tree:
        tree = base.read_common(fields, tied_by_default=False, activation="hidden_act")
        fields.must_be("rope_interleave", (True,), "Smidgen reads interleaved rotary pairs only")
        num_heads = fields.integer("num_attention_heads")
        fields.must_be("num_key_value_heads", (num_heads,), f"latent attention has one for each of {num_heads} heads")
        if fields.integer("first_k_dense_replace", 3) < tree["num_layers"]:
            fields.refuse("first_k_dense_replace", "later layers are mixtures of experts; Smidgen runs dense models")
        if tree["norm"]["eps"] != LATENT_NORM_EPS:
            fields.refuse("rms_norm_eps", f"Smidgen has one eps for all norms, and latents have {LATENT_NORM_EPS:g}")
        theta, scaling = read_scaled_rope(fields, 10_000.0)
        attention = {
            "kind": "latent",
            "num_heads": num_heads,
            "q_lora_rank": fields.integer("q_lora_rank", 0),
            "kv_lora_rank": fields.integer("kv_lora_rank"),
            "qk_nope_head_dim": fields.integer("qk_nope_head_dim"),
            "qk_rope_head_dim": fields.integer("qk_rope_head_dim"),
            "v_head_dim": fields.integer("v_head_dim"),
            "rope_theta": theta,
            # Without a scaling YaRN must not act: the original context then is the whole one.
            "yarn": {"original_max_seq_len": max(tree["max_seq_len"], 4096)},
        }
        if scaling is not None:
            attention["yarn"] = read_yarn(scaling, tree["max_seq_len"])
        return {**tree, "attention": attention}
