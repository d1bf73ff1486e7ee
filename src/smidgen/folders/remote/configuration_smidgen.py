"""Configuration of a Smidgen decoder for transformers. config.json holds the model section of smidgen.yaml as it is."""

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import PretrainedConfig


class SmidgenConfig(PretrainedConfig):
    """The parts of a decoder; each section is a dictionary with the fields of Smidgen's configuration.

    attention: `kind` grouped_query (num_heads, num_kv_heads, head_dim, qk_norm, query_pre_attn_scalar, rope_theta,
    sliding_window, sliding_rope_theta) or latent (num_heads, q_lora_rank, kv_lora_rank, qk_nope_head_dim,
    qk_rope_head_dim, v_head_dim, rope_theta, yarn). feed_forward: intermediate_size, activation, gated.
    norm: kind, eps, placement. linear: `kind` dense, ternary (activation_bits) or fp8_block (power_of_two_scales).
    """

    model_type = "smidgen"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {
        "num_hidden_layers": "num_layers",
        "max_position_embeddings": "max_seq_len",
    }

    def __init__(
        self,
        vocab_size: int = 256,
        hidden_size: int = 64,
        num_layers: int = 1,
        max_seq_len: int = 256,
        scale_embeddings: bool = False,
        layer_pattern: Sequence[str] = ("full",),
        attention: dict[str, Any] | None = None,
        feed_forward: dict[str, Any] | None = None,
        norm: dict[str, Any] | None = None,
        linear: dict[str, Any] | None = None,
        initialization: dict[str, Any] | None = None,
        tie_word_embeddings: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.max_seq_len = max_seq_len
        self.scale_embeddings = scale_embeddings
        self.layer_pattern = list(layer_pattern)
        self.attention = attention or {"kind": "grouped_query", "num_heads": 4, "num_kv_heads": 4, "head_dim": 16}
        self.feed_forward = feed_forward or {"intermediate_size": 128, "activation": "silu", "gated": True}
        self.norm = norm or {"kind": "rms_norm", "eps": 1e-6, "placement": "pre"}
        self.linear = linear or {"kind": "dense"}
        self.initialization = initialization or {"std": 0.02}
        # What transformers' caches and tools look for, derived; never to be set by hand.
        names = {"full": "full_attention", "sliding": "sliding_attention"}
        kwargs["layer_types"] = [names[self.layer_pattern[i % len(self.layer_pattern)]] for i in range(num_layers)]
        kwargs["sliding_window"] = self.attention.get("sliding_window")
        kwargs["num_attention_heads"] = self.attention["num_heads"]
        kwargs["num_key_value_heads"] = self.attention.get("num_kv_heads", self.attention["num_heads"])
        kwargs["intermediate_size"] = self.feed_forward["intermediate_size"]
        kwargs["initializer_range"] = self.initialization["std"]
        kwargs["tie_word_embeddings"] = tie_word_embeddings
        super().__init__(**kwargs)
