"""How other trainers name the tensors of a Llama-like decoder, by the part that each tensor plays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Part = Literal["attention_norm", "qkv", "q", "k", "v", "output", "feed_forward_norm", "gate_up", "gate", "up", "down"]


@dataclass(frozen=True)
class Dialect:
    """One trainer's names."""

    name: str
    layer: re.Pattern[str]
    """Matches a tensor of a layer; the groups are the layer's number and the rest of the name."""
    parts: Mapping[str, Part]
    """What each rest of a name means."""
    embedding: tuple[str, ...]
    final_norm: tuple[str, ...]
    head: tuple[str, ...] = ("lm_head.weight",)
    qkv_by_group: bool = False
    """Rows of a fused projection: each key head's queries, its key and its value in turn; otherwise all queries, all
    keys, all values."""
    marks: tuple[str, ...] = ()
    """Parts of names that only this dialect has."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Names that mean what Smidgen does not compute, with the reason."""
    eps: float = 1e-6
    """Of the norms, where the checkpoint does not say."""


RSCALM = Dialect(
    name="RSCaLM",
    layer=re.compile(r"blocks\.(\d+)\.(.+)"),
    parts={
        "norm1.weight": "attention_norm",
        "attn.qkv.weight": "qkv",
        "attn.proj.weight": "output",
        "norm2.weight": "feed_forward_norm",
        "mlp.w1.weight": "gate",
        "mlp.w2.weight": "up",
        "mlp.w3.weight": "down",
    },
    embedding=("tok_emb.weight",),
    final_norm=("norm.weight",),
    marks=("tok_emb.weight", "blocks.0.attn.qkv.weight"),
)

TRANSFORMER_ENGINE = Dialect(
    name="TransformerEngine",
    layer=re.compile(r"(?:model\.|transformer\.|decoder\.)?(?:layers|blocks|h)\.(\d+)\.(.+)"),
    parts={
        "self_attention.layernorm_qkv.layer_norm_weight": "attention_norm",
        "self_attention.layernorm_qkv.weight": "qkv",
        "self_attention.layernorm_qkv.query_weight": "q",
        "self_attention.layernorm_qkv.key_weight": "k",
        "self_attention.layernorm_qkv.value_weight": "v",
        "self_attention.proj.weight": "output",
        "layernorm_mlp.layer_norm_weight": "feed_forward_norm",
        "layernorm_mlp.fc1_weight": "gate_up",
        "layernorm_mlp.fc2_weight": "down",
    },
    embedding=(
        "embed_tokens.weight",
        "model.embed_tokens.weight",
        "transformer.wte.weight",
        "wte.weight",
        "tok_emb.weight",
        "embedding.weight",
    ),
    final_norm=(
        "norm.weight",
        "model.norm.weight",
        "transformer.ln_f.weight",
        "ln_f.weight",
        "final_norm.weight",
        "lm_head.layer_norm_weight",
    ),
    head=("lm_head.weight", "head.weight", "output.weight"),
    qkv_by_group=True,
    marks=("self_attention.layernorm_qkv.",),
    refused={
        "bias": "biases, which no Smidgen decoder has",
        "position": "learned positions, which no Smidgen decoder has",
    },
    eps=1e-5,
)

NANOGPT = Dialect(
    name="nanoGPT-style",
    layer=re.compile(r"transformer\.h\.(\d+)\.(.+)"),
    parts={
        **{
            f"{norm}.{weight}": "attention_norm"
            for norm in ("ln_1", "rms_1", "norm_1")
            for weight in ("weight", "scale")
        },
        **{
            f"{norm}.{weight}": "feed_forward_norm"
            for norm in ("ln_2", "rms_2", "norm_2")
            for weight in ("weight", "scale")
        },
        "attn.c_attn.weight": "qkv",
        "attn.c_q.weight": "q",
        "attn.c_k.weight": "k",
        "attn.c_v.weight": "v",
        "attn.c_proj.weight": "output",
        "mlp.c_fc1.weight": "gate",
        "mlp.c_fc2.weight": "up",
        "mlp.c_proj.weight": "down",
        "mlp.gate_proj.weight": "gate",
        "mlp.up_proj.weight": "up",
        "mlp.down_proj.weight": "down",
        "mlp.w1.weight": "gate",
        "mlp.w2.weight": "down",
        "mlp.w3.weight": "up",
    },
    embedding=("transformer.wte.weight",),
    final_norm=("transformer.ln_f.weight", "transformer.ln_f.scale", "transformer.norm_f.weight"),
    marks=("transformer.wte.weight", "transformer.h.0."),
    refused={
        "wpe": "learned positions, which no Smidgen decoder has; a variant with RoPE can be read",
        "bias": "biases, which no Smidgen decoder has; train with bias=False",
        "mlp.c_fc.weight": "a feed-forward without a gate; a variant with SwiGLU can be read",
    },
    eps=1e-5,
)

DIALECTS = (RSCALM, TRANSFORMER_ENGINE, NANOGPT)
"""In the order in which they are tried."""

BUFFERS = re.compile(
    r"(?:.*\.)?(?:inv_freq|freqs_cis|freqs|cos_cached|sin_cached|cos|sin|rope_cache|rotary.*|rope\..*|mask|attn\.bias)"
)
"""What follows from the configuration and is stored all the same."""
