"""Gemma3ForCausalLM (text): sliding and full layers, query-key norm, sandwich norms with `1 + w`, scaled embeddings."""

from __future__ import annotations

from typing import Any

from smidgen.config import GroupedQueryAttention, ModelConfig
from smidgen.folders.architectures import base
from smidgen.folders.architectures.base import HIDDEN_ACT, NOT_IMPLEMENTED, Architecture, Tree
from smidgen.runtime.fields import Fields

FULL, SLIDING = "full_attention", "sliding_attention"
FULL_THETA, SLIDING_THETA = 1_000_000.0, 10_000.0
"""Bases that transformers takes where a config.json names none."""


class Gemma3(Architecture):
    model_type = "gemma3_text"
    class_name = "Gemma3ForCausalLM"

    def describes(self, config: ModelConfig) -> bool:
        attention = config.attention
        return (
            isinstance(attention, GroupedQueryAttention)
            and attention.qk_norm
            # transformers takes only whole numbers here, and no other widths.
            and _score_scalar(attention).is_integer()
            and config.hidden_size % attention.num_heads == 0
            and config.norm.kind == "rms_norm_plus_one"
            and config.norm.placement == "sandwich"
            and config.feed_forward.gated
            and config.linear.kind == "dense"
            and config.scale_embeddings
        )

    def write(self, config: ModelConfig) -> Tree:
        attention = config.attention
        assert isinstance(attention, GroupedQueryAttention)
        theta = sliding_theta = attention.rope_theta
        # transformers builds the mask of sliding layers even where there are none.
        window = config.max_seq_len
        if "sliding" in config.layer_types:
            assert attention.sliding_window is not None
            window = attention.sliding_window
            sliding_theta = theta if attention.sliding_rope_theta is None else attention.sliding_rope_theta
        return {
            **base.write_common(config),
            **base.write_grouped_query(attention),
            "hidden_activation": HIDDEN_ACT[config.feed_forward.activation],
            "query_pre_attn_scalar": int(_score_scalar(attention)),
            "layer_types": [FULL if layer_type == "full" else SLIDING for layer_type in config.layer_types],
            "sliding_window": window,
            "rope_theta": theta,
            "rope_local_base_freq": sliding_theta,
            "rope_parameters": {
                FULL: {"rope_type": "default", "rope_theta": theta},
                SLIDING: {"rope_type": "default", "rope_theta": sliding_theta},
            },
            "final_logit_softcapping": None,
            "attn_logit_softcapping": None,
            "use_bidirectional_attention": False,
        }

    def read(self, fields: Fields) -> Tree:
        for name in ("final_logit_softcapping", "attn_logit_softcapping"):
            fields.must_be(name, (), NOT_IMPLEMENTED)
        fields.must_be("use_bidirectional_attention", (False,), NOT_IMPLEMENTED)
        tree = base.read_common(fields, tied_by_default=True, activation="hidden_activation")
        tree["norm"] |= {"kind": "rms_norm_plus_one", "placement": "sandwich"}
        layer_types = _read_layer_types(fields, tree["num_layers"])
        thetas = _read_thetas(fields)
        attention = {
            **base.read_grouped_query(fields, thetas[FULL]),
            "qk_norm": True,
            "query_pre_attn_scalar": fields.number("query_pre_attn_scalar", 256.0),
            "head_dim": fields.integer("head_dim", 256),
        }
        if "sliding" in layer_types:
            attention |= {
                "sliding_window": fields.integer("sliding_window", 4096),
                "sliding_rope_theta": thetas[SLIDING],
            }
        return {
            **tree,
            "scale_embeddings": True,
            "layer_pattern": _shortest_period(layer_types),
            "attention": attention,
        }


def _score_scalar(attention: GroupedQueryAttention) -> float:
    scalar = attention.query_pre_attn_scalar
    return float(attention.head_dim if scalar is None else scalar)


def _read_layer_types(fields: Fields, num_layers: int) -> list[str]:
    names = fields.values.get("layer_types")
    if names is None:
        # Older folders only say that every n-th layer is a full one.
        period = fields.integer("sliding_window_pattern", 6)
        return ["sliding" if (i + 1) % max(period, 1) else "full" for i in range(num_layers)]
    known = {FULL: "full", SLIDING: "sliding"}
    if not isinstance(names, list) or len(names) != num_layers or not set(names) <= set(known):
        fields.refuse("layer_types", f"a list of num_hidden_layers {num_layers} names is needed: {', '.join(known)}")
    return [known[name] for name in names]


def _read_thetas(fields: Fields) -> dict[str, float]:
    fields.must_be("rope_scaling", (), "Smidgen implements no RoPE scaling here; rope_type default is needed")
    thetas = {
        FULL: fields.number("rope_theta", FULL_THETA),
        SLIDING: fields.number("rope_local_base_freq", SLIDING_THETA),
    }
    parameters = fields.section("rope_parameters")
    for layer_type in thetas:
        section = None if parameters is None else parameters.section(layer_type)
        if section is not None:
            section.must_be("rope_type", ("default",), "Smidgen implements no RoPE scaling here; use default")
            section.must_be("partial_rotary_factor", (1, 1.0), NOT_IMPLEMENTED)
            thetas[layer_type] = section.number("rope_theta", thetas[layer_type])
    return thetas


def _shortest_period(items: list[Any]) -> list[Any]:
    """The shortest list that gives `items` when repeated."""
    for period in range(1, len(items)):
        if all(item == items[i % period] for i, item in enumerate(items)):
            return items[:period]
    return items
