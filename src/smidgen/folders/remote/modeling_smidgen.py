"""A Smidgen decoder for transformers, on nothing but torch and transformers.

It computes what `smidgen.load(folder)` computes, for any configuration. Shapes: B batch, T tokens, D hidden size,
H query heads, K key/value heads, S tokens seen (cache and new ones). Parameter names are those of transformers' own
models; a tied head has no parameter of its own.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_smidgen import SmidgenConfig
from .linear_smidgen import SmidgenLinear


class SmidgenNorm(nn.Module):
    """RMSNorm with gain w or 1 + w, or LayerNorm without bias; computed in float32."""

    def __init__(self, config: SmidgenConfig, size: int) -> None:
        super().__init__()
        self.kind, self.eps = config.norm["kind"], config.norm["eps"]
        self.weight = nn.Parameter(torch.empty(size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 0.0 if self.kind == "rms_norm_plus_one" else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        values = x.float()
        if self.kind == "layer_norm":
            normalized = F.layer_norm(values, x.shape[-1:], eps=self.eps)
        else:
            normalized = values * torch.rsqrt(values.square().mean(-1, keepdim=True) + self.eps)
        gain = 1.0 + self.weight if self.kind == "rms_norm_plus_one" else self.weight
        return (normalized * gain).to(x.dtype)


def optional_norm(config: SmidgenConfig, size: int, present: bool) -> SmidgenNorm | None:
    return SmidgenNorm(config, size) if present else None


def inverse_frequencies(dim: int, theta: float) -> Tensor:
    """RoPE: `theta^(-2i / dim)`, float32 [dim / 2]."""
    return 1.0 / (theta ** (torch.arange(0, dim, 2).float() / dim))


def yarn_frequencies(dim: int, theta: float, yarn: dict[str, Any]) -> Tensor:
    """YaRN: slow dimensions divided by the factor, fast ones kept, a linear ramp between."""

    def dimension(turns: float) -> float:
        return dim * math.log(yarn["original_max_seq_len"] / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dimension(yarn["beta_fast"])), 0)
    high: float = min(math.ceil(dimension(yarn["beta_slow"])), dim - 1)
    if high == low:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    frequencies = inverse_frequencies(dim, theta)
    return frequencies * (1 - ramp) + frequencies / yarn["factor"] * ramp


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor], interleaved: bool) -> Tensor:
    """RoPE on [B, heads, T, d]: dimension i pairs with i + d/2, or, interleaved, 2i with 2i + 1."""
    cos, sin = rotation
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    joined = torch.stack(rotated, dim=-1).flatten(-2) if interleaved else torch.cat(rotated, dim=-1)
    return joined.to(x.dtype)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    past_length: int,
    window: int | None,
    scale: float,
) -> Tensor:
    """Causal attention of the last T of S tokens; a window narrows it, padding is not seen.

    query [B, H, T, d], key [B, K, S, d], value [B, K, S, e]; attention_mask [B, tokens so far] or None. A cache may
    have dropped the oldest keys, so keys are counted from the end. Every query sees itself: padding gets no NaN.
    """
    total = past_length + query.shape[2]
    queries = torch.arange(past_length, total, device=query.device)[:, None]
    keys = torch.arange(total - key.shape[2], total, device=query.device)[None, :]
    visible = keys <= queries
    if window is not None:
        visible = visible & (queries - keys < window)
    if attention_mask is not None:
        is_token = attention_mask[:, -key.shape[2] :].bool()
        visible = visible & is_token[:, None, None, :] | (keys == queries)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=scale)


class Context(NamedTuple):
    """What the layers of one pass share."""

    rotation: tuple[Tensor, Tensor]
    attention_mask: Tensor | None
    past_length: int
    cache: Cache | None


class GroupedQueryAttention(nn.Module):
    """Query heads in groups that share a key and a value head."""

    def __init__(self, config: SmidgenConfig, layer_index: int) -> None:
        super().__init__()
        attention, width = config.attention, config.hidden_size
        is_sliding = config.layer_types[layer_index] == "sliding_attention"
        self.layer_index = layer_index
        self.head_dim = attention["head_dim"]
        self.window = attention["sliding_window"] if is_sliding else None
        self.scale = (attention.get("query_pre_attn_scalar") or self.head_dim) ** -0.5
        query_size, key_size = attention["num_heads"] * self.head_dim, attention["num_kv_heads"] * self.head_dim
        self.q_proj = SmidgenLinear(config, width, query_size)
        self.k_proj = SmidgenLinear(config, width, key_size)
        self.v_proj = SmidgenLinear(config, width, key_size)
        self.q_norm = optional_norm(config, self.head_dim, bool(attention.get("qk_norm")))
        self.k_norm = optional_norm(config, self.head_dim, bool(attention.get("qk_norm")))
        self.attn_sub_norm = optional_norm(config, query_size, config.norm["placement"] == "sub")
        self.o_proj = SmidgenLinear(config, query_size, width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        query, key = self._heads(self.q_proj(x), self.q_norm), self._heads(self.k_proj(x), self.k_norm)
        query, key = (rotate(x, context.rotation, interleaved=False) for x in (query, key))
        value = self._heads(self.v_proj(x), None)
        if context.cache is not None:
            key, value = context.cache.update(key, value, self.layer_index)
        mixed = attend(query, key, value, context.attention_mask, context.past_length, self.window, self.scale)
        mixed = mixed.transpose(1, 2).flatten(2)
        return self.o_proj(mixed if self.attn_sub_norm is None else self.attn_sub_norm(mixed))

    def _heads(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        heads = x.unflatten(-1, (-1, self.head_dim))
        return (heads if norm is None else norm(heads)).transpose(1, 2)

    @staticmethod
    def frequencies(config: SmidgenConfig, layer_type: str) -> Tensor:
        attention = config.attention
        theta = attention.get("rope_theta", 10000.0)
        if layer_type == "sliding_attention":
            theta = attention.get("sliding_rope_theta") or theta
        return inverse_frequencies(attention["head_dim"], theta)


class LatentAttention(nn.Module):
    """Multi-head latent attention (DeepSeek-V2): keys and values come from one low-rank latent.

    A head's query and key are `[nope | rope]`; only the rope part is rotated, and its key is shared by all heads.
    """

    def __init__(self, config: SmidgenConfig, layer_index: int) -> None:
        super().__init__()
        attention, width = config.attention, config.hidden_size
        self.layer_index = layer_index
        self.num_heads, self.rank, q_rank = (attention[k] for k in ("num_heads", "kv_lora_rank", "q_lora_rank"))
        self.nope, self.rope, self.v = (attention[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
        self.scale = (self.nope + self.rope) ** -0.5
        if uses_yarn(config) and attention["yarn"]["factor"] > 1:
            self.scale *= (0.1 * attention["yarn"]["mscale"] * math.log(attention["yarn"]["factor"]) + 1.0) ** 2
        query_size, value_size = self.num_heads * (self.nope + self.rope), self.num_heads * self.v
        if q_rank:
            self.q_a_proj = SmidgenLinear(config, width, q_rank)
            self.q_a_layernorm = SmidgenNorm(config, q_rank)
            self.q_b_proj = SmidgenLinear(config, q_rank, query_size)
        else:
            self.q_proj = SmidgenLinear(config, width, query_size)
        self.kv_a_proj_with_mqa = SmidgenLinear(config, width, self.rank + self.rope)
        self.kv_a_layernorm = SmidgenNorm(config, self.rank)
        self.kv_b_proj = SmidgenLinear(config, self.rank, self.num_heads * (self.nope + self.v))
        self.attn_sub_norm = optional_norm(config, value_size, config.norm["placement"] == "sub")
        self.o_proj = SmidgenLinear(config, value_size, width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if hasattr(self, "q_a_proj"):
            query = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        else:
            query = self.q_proj(x)
        query = query.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        q_nope, q_rope = query.split([self.nope, self.rope], dim=-1)
        query = torch.cat([q_nope, rotate(q_rope, context.rotation, interleaved=True)], dim=-1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split([self.rank, self.rope], dim=-1)
        k_rope = rotate(k_rope[:, None], context.rotation, interleaved=True).expand(-1, self.num_heads, -1, -1)
        expanded = self.kv_b_proj(self.kv_a_layernorm(latent)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k_nope, value = expanded.split([self.nope, self.v], dim=-1)
        key = torch.cat([k_nope, k_rope], dim=-1)
        if context.cache is not None:
            key, value = context.cache.update(key, value, self.layer_index)
        mixed = attend(query, key, value, context.attention_mask, context.past_length, None, self.scale)
        mixed = mixed.transpose(1, 2).flatten(2)
        return self.o_proj(mixed if self.attn_sub_norm is None else self.attn_sub_norm(mixed))

    @staticmethod
    def frequencies(config: SmidgenConfig, layer_type: str) -> Tensor:
        attention = config.attention
        if uses_yarn(config):
            return yarn_frequencies(attention["qk_rope_head_dim"], attention["rope_theta"], attention["yarn"])
        return inverse_frequencies(attention["qk_rope_head_dim"], attention["rope_theta"])


def uses_yarn(config: SmidgenConfig) -> bool:
    """YaRN acts only when the configured context is longer than the original one."""
    return config.max_seq_len > config.attention["yarn"]["original_max_seq_len"]


ATTENTION: dict[str, type[GroupedQueryAttention] | type[LatentAttention]] = {
    "grouped_query": GroupedQueryAttention,
    "latent": LatentAttention,
}
ACTIVATIONS = {
    "silu": F.silu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu2": lambda x: F.relu(x).square(),
}


class FeedForward(nn.Module):
    """`down(act(gate(x)) · up(x))`, or `down(act(up(x)))`; with SubLN a norm stands before `down`."""

    def __init__(self, config: SmidgenConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.feed_forward["intermediate_size"]
        self.activation = ACTIVATIONS[config.feed_forward["activation"]]
        self.gate_proj = SmidgenLinear(config, width, inner) if config.feed_forward["gated"] else None
        self.up_proj = SmidgenLinear(config, width, inner)
        self.ffn_sub_norm = optional_norm(config, inner, config.norm["placement"] == "sub")
        self.down_proj = SmidgenLinear(config, inner, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_proj is None:
            inner = self.activation(self.up_proj(x))
        else:
            inner = self.activation(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(inner if self.ffn_sub_norm is None else self.ffn_sub_norm(inner))


class SmidgenLayer(nn.Module):
    """Attention and feed-forward, each after a norm; the sandwich placement also norms what they return."""

    def __init__(self, config: SmidgenConfig, layer_index: int) -> None:
        super().__init__()
        self.is_sandwich = config.norm["placement"] == "sandwich"
        self.self_attn = ATTENTION[config.attention["kind"]](config, layer_index)
        self.mlp = FeedForward(config)
        self.input_layernorm = SmidgenNorm(config, config.hidden_size)
        self.post_attention_layernorm = SmidgenNorm(config, config.hidden_size)
        if self.is_sandwich:
            self.pre_feedforward_layernorm = SmidgenNorm(config, config.hidden_size)
            self.post_feedforward_layernorm = SmidgenNorm(config, config.hidden_size)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        mixed = self.self_attn(self.input_layernorm(x), context)
        if self.is_sandwich:
            x = x + self.post_attention_layernorm(mixed)
            return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x))


class SmidgenPreTrainedModel(PreTrainedModel):
    config_class = SmidgenConfig
    base_model_prefix = "model"
    config: SmidgenConfig
    _no_split_modules = ["SmidgenLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SmidgenNorm):
            module.reset_parameters()
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initialization["std"])


class SmidgenModel(SmidgenPreTrainedModel):
    """Embedding, layers, final norm."""

    def __init__(self, config: SmidgenConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(SmidgenLayer(config, i) for i in range(config.num_layers))
        self.norm = SmidgenNorm(config, config.hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: Any) -> None:
        self.embed_tokens = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """input_ids [B, T], attention_mask [B, past + T] (0 for padding, on either side) to states [B, T, D]."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
            if self.config.scale_embeddings:
                inputs_embeds = inputs_embeds * self.config.hidden_size**0.5
        if past_key_values is None and (use_cache if use_cache is not None else not self.training):
            past_key_values = DynamicCache(config=self.config)
        past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
        x = inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(past_length, past_length + x.shape[1], device=x.device)[None]
        rotations = self._rotations(position_ids)
        for layer, layer_type in zip(self.layers, self.config.layer_types, strict=True):
            x = layer(x, Context(rotations[layer_type], attention_mask, past_length, past_key_values))
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), past_key_values=past_key_values)

    def _rotations(self, position_ids: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Cosines and sines of each layer type, float32 [B, 1, T, d / 2].

        Computed in every pass: a buffer would lose its values when transformers creates the model without memory.
        """
        attention = ATTENTION[self.config.attention["kind"]]
        rotations = {}
        for layer_type in set(self.config.layer_types):
            frequencies = attention.frequencies(self.config, layer_type).to(position_ids.device)
            angles = position_ids[:, None, :, None].float() * frequencies
            rotations[layer_type] = (angles.cos(), angles.sin())
        return rotations


class SmidgenForCausalLM(SmidgenPreTrainedModel, GenerationMixin):
    """The model with its head; a tied head multiplies by the embedding."""

    def __init__(self, config: SmidgenConfig) -> None:
        super().__init__(config)
        self.model = SmidgenModel(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: Any) -> None:
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module | None:
        return getattr(self, "lm_head", None)

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, V], or of the last `logits_to_keep` tokens; with `labels` [B, T] the loss of next tokens."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = outputs.last_hidden_state[:, kept]
        head = self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head
        logits = F.linear(hidden, head.weight)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)
