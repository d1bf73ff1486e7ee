"""What every Hugging Face architecture has in common: its interface, and the fields they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from smidgen.config import GroupedQueryAttention, ModelConfig
from smidgen.config.model import MAX_LAYERS
from smidgen.runtime.fields import Fields

Tree = dict[str, Any]
"""An unvalidated model section, or the fields of a config.json."""

NOT_IMPLEMENTED = "Smidgen does not implement this; use a model without it"

HIDDEN_ACT = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh", "relu2": "relu2"}
"""Our name of each activation → transformers' name."""
_ACTIVATIONS = {theirs: ours for ours, theirs in HIDDEN_ACT.items()} | {"swish": "silu"}


class Architecture(ABC):
    """One architecture of transformers: which of our configurations it can express, and both directions of the map."""

    model_type: str
    """`model_type` in config.json: what AutoModel goes by."""
    class_name: str
    """The class in `architectures`."""

    @abstractmethod
    def describes(self, config: ModelConfig) -> bool:
        """Whether transformers' class computes exactly what the decoder computes for this configuration."""

    @abstractmethod
    def write(self, config: ModelConfig) -> Tree:
        """The fields of config.json that describe this configuration; it must be one that `describes` accepts."""

    @abstractmethod
    def read(self, fields: Fields) -> Tree:
        """The unvalidated model section of a config.json; raises ModelFolderError for what we do not implement."""


def write_common(config: ModelConfig) -> Tree:
    """The fields that have the same name in every architecture."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.max_seq_len,
        "tie_word_embeddings": config.tie_word_embeddings,
        "intermediate_size": config.feed_forward.intermediate_size,
        "num_attention_heads": config.attention.num_heads,
        "rms_norm_eps": config.norm.eps,
        "initializer_range": config.initialization.std,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
    }


def read_common(fields: Fields, *, tied_by_default: bool, activation: str) -> Tree:
    """The model section without its attention and norm placement.

    `activation` is the name of the field that holds the activation.
    """
    fields.must_be("attention_bias", (False,), NOT_IMPLEMENTED)
    return {
        "vocab_size": fields.integer("vocab_size"),
        "hidden_size": fields.integer("hidden_size"),
        "num_layers": fields.integer("num_hidden_layers", most=MAX_LAYERS),
        "max_seq_len": fields.integer("max_position_embeddings"),
        "tie_word_embeddings": fields.flag("tie_word_embeddings", tied_by_default),
        "feed_forward": {
            "intermediate_size": fields.integer("intermediate_size"),
            "activation": _read_activation(fields, activation),
        },
        "norm": {"eps": fields.number("rms_norm_eps", 1e-6)},
        "initialization": {"std": fields.number("initializer_range", 0.02)},
    }


def write_grouped_query(attention: GroupedQueryAttention) -> Tree:
    """Heads of grouped-query attention."""
    return {"num_key_value_heads": attention.num_kv_heads, "head_dim": attention.head_dim}


def read_grouped_query(fields: Fields, rope_theta: float) -> Tree:
    """The attention section of a grouped-query model whose layers share one RoPE base."""
    num_heads = fields.integer("num_attention_heads")
    tree: Tree = {
        "kind": "grouped_query",
        "num_heads": num_heads,
        "num_kv_heads": fields.integer("num_key_value_heads", num_heads),
        "rope_theta": rope_theta,
    }
    if "head_dim" in fields:
        tree["head_dim"] = fields.integer("head_dim")
    return tree


def is_plain_grouped_query(config: ModelConfig) -> bool:
    """Grouped-query attention in full layers only, without query-key norm and with the usual scale of scores."""
    attention = config.attention
    return (
        isinstance(attention, GroupedQueryAttention)
        and set(config.layer_types) == {"full"}
        and not attention.qk_norm
        and attention.query_pre_attn_scalar in (None, attention.head_dim)
    )


def _read_activation(fields: Fields, name: str) -> str:
    value = fields.text(name)
    if value not in _ACTIVATIONS:
        fields.refuse(name, f"Smidgen implements {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[value]
