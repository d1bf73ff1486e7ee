"""Parameters of a decoder, counted from its configuration."""

from __future__ import annotations

from smidgen.edge.config import EdgeModelConfig


def count_parameters(config: EdgeModelConfig) -> int:
    """Every weight once: a tied head counts with the embedding."""
    hidden, inner = config.hidden_size, config.intermediate_size
    if config.latent:
        query = config.num_heads * (config.qk_nope_head_dim + config.qk_rope_head_dim)
        rank, low, out = config.kv_lora_rank, config.q_lora_rank, config.num_heads * config.v_head_dim
        attention = hidden * low + low + low * query if low else hidden * query
        attention += hidden * (rank + config.qk_rope_head_dim) + rank
        attention += rank * config.num_heads * (config.qk_nope_head_dim + config.v_head_dim)
    else:
        out = config.num_heads * config.head_dim
        attention = hidden * (out + 2 * config.num_kv_heads * config.head_dim)
        attention += 2 * config.head_dim if config.qk_norm else 0
    attention += out * hidden
    norms = {"pre": 2 * hidden, "sandwich": 4 * hidden, "sub": 2 * hidden + out + inner}[config.norm_placement]
    layer = attention + norms + hidden * inner * (3 if config.gated else 2)
    tables = 1 if config.tie_word_embeddings else 2
    return tables * config.vocab_size * hidden + config.num_layers * layer + hidden
