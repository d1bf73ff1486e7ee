"""Parameters, FLOPs and memory of a configuration, without making its weights."""

from __future__ import annotations

from smidgen import config
from smidgen.config import ModelConfig
from smidgen.model.decoder import load_architecture


def count_parameters(model: ModelConfig) -> int:
    """Weights of the model: the tied head once, padded vocabulary rows not at all."""
    return sum(count_by_part(model).values())


def count_by_part(model: ModelConfig) -> dict[str, int]:
    """Weights by part: embedding, attention, feed_forward, norms, head (0 when tied)."""
    parts = {"embedding": 0, "attention": 0, "feed_forward": 0, "norms": 0, "head": 0}
    for name, parameter in load_architecture(model.unquantized).named_parameters():
        if "embed_tokens" in name:
            parts["embedding"] += model.vocab_size * model.hidden_size
        elif "lm_head" in name:
            parts["head"] += model.vocab_size * model.hidden_size
        elif parameter.dim() == 1:
            parts["norms"] += parameter.numel()
        else:
            parts["attention" if "self_attn" in name else "feed_forward"] += parameter.numel()
    return parts


def flops_per_token(model: ModelConfig, seq_len: int) -> int:
    """FLOPs a token of training, forward and backward, at this sequence length.

    A multiplication and an addition for each weight of a matrix product and for each pair that attention scores,
    three times (the backward pass costs two forwards). Attention counts only what a causal query sees: half of the
    sequence on average in full layers, at most the window in sliding ones. Recomputation is not counted.
    """
    parts = count_by_part(model)
    matrices = parts["attention"] + parts["feed_forward"] + model.vocab_size * model.hidden_size
    attention = model.attention
    if isinstance(attention, config.LatentAttention):
        pair = attention.num_heads * (attention.qk_head_dim + attention.v_head_dim)
        window = None
    else:
        pair = attention.num_heads * attention.head_dim * 2
        window = attention.sliding_window
    visible = sum(
        _mean_visible(seq_len, window if layer_type == "sliding" else None) for layer_type in model.layer_types
    )
    return round(3 * 2 * (matrices + pair * visible))


def cache_elements_per_token(model: ModelConfig) -> int:
    """Elements that the caches of all layers store for a token (within the window, in sliding layers)."""
    shapes = [layer.self_attn.cache_shape() for layer in load_architecture(model).layers]
    return sum(shape.heads * (shape.key_size + shape.value_size) for shape in shapes)


def _mean_visible(seq_len: int, window: int | None) -> float:
    """Keys that a query sees on average in a causal sequence, its own included."""
    if window is None or window >= seq_len:
        return (seq_len + 1) / 2
    return (window * (window + 1) / 2 + (seq_len - window) * window) / seq_len
