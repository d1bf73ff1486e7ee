"""BitNetForCausalLM: Llama with SubLN; its linear layers are ternary by `quantization_config`."""

from __future__ import annotations

from smidgen.config import GroupedQueryAttention, ModelConfig, TernaryLinear
from smidgen.folders.architectures import base
from smidgen.folders.architectures.base import HIDDEN_ACT, Architecture, Tree
from smidgen.folders.architectures.rope import read_rope, write_rope
from smidgen.runtime.fields import Fields

ONLINE_QUANTIZATION = {
    "quant_method": "bitnet",
    "linear_class": "autobitlinear",
    "quantization_mode": "online",
    "modules_to_not_convert": ["lm_head"],
    "use_rms_norm": False,
}
"""Master weights in the file; transformers replaces every linear layer but the head by one that rounds as it runs."""


class BitNet(Architecture):
    model_type = "bitnet"
    class_name = "BitNetForCausalLM"

    def describes(self, config: ModelConfig) -> bool:
        attention = config.attention
        return (
            base.is_plain_grouped_query(config)
            and isinstance(attention, GroupedQueryAttention)
            # transformers sizes the norm before the output projection by the width.
            and attention.num_heads * attention.head_dim == config.hidden_size
            and config.norm.kind == "rms_norm"
            and config.norm.placement == "sub"
            and config.feed_forward.gated
            and config.linear == TernaryLinear(activation_bits=8)
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
            "quantization_config": ONLINE_QUANTIZATION,
        }

    def read(self, fields: Fields) -> Tree:
        tree = base.read_common(fields, tied_by_default=False, activation="hidden_act")
        tree["norm"]["placement"] = "sub"
        return {
            **tree,
            "attention": base.read_grouped_query(fields, read_rope(fields, 500_000.0)),
            "linear": {"kind": "ternary" if self._is_ternary(fields) else "dense"},
        }

    @staticmethod
    def _is_ternary(fields: Fields) -> bool:
        """Every quantised model of this class was trained with ternary weights, however they are stored."""
        quantization = fields.section("quantization_config")
        if quantization is None:
            return False
        is_online = quantization.values.get("quantization_mode") == ONLINE_QUANTIZATION["quantization_mode"]
        if quantization.values.get("quant_method") == "bitnet" and is_online:
            quantization.must_be("linear_class", ("autobitlinear",), base.NOT_IMPLEMENTED)
            quantization.must_be("use_rms_norm", (False,), base.NOT_IMPLEMENTED)
            quantization.must_be(
                "modules_to_not_convert", (["lm_head"],), "Smidgen rounds all linear layers but lm_head"
            )
        return True
