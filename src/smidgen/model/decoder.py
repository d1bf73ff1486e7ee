"""The decoder: embedding, layers, final norm, head. One implementation of every architecture, by configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smidgen.config import ActivationCheckpointing, LayerType, ModelConfig
from smidgen.kernels.cross_entropy import imagines_gpu
from smidgen.model import flex
from smidgen.model.attend import Visibility
from smidgen.model.attention import LayerInputs, attention_class, residual_dropout
from smidgen.model.cache import Cache, CacheStep, LayerCache, TokenStep, ring_capacity
from smidgen.model.checkpointing import run_checkpointed
from smidgen.model.feed_forward import FeedForward
from smidgen.model.initialization import initialize
from smidgen.model.norm import make_norm
from smidgen.model.quantized import make_embedding, make_head, refuse_training
from smidgen.model.rope import rotation, rotation_matrix

if TYPE_CHECKING:
    from smidgen.model.lora import Adapter


class Layer(nn.Module):
    """Attention and feed-forward, each with its norms, each added to the residual stream."""

    def __init__(self, model: ModelConfig, layer_type: LayerType, index: int) -> None:
        super().__init__()
        self.layer_type: LayerType = layer_type
        self.self_attn = attention_class(model)(model, layer_type, index)
        self.mlp = FeedForward(model, index)
        self.is_sandwich = model.norm.placement == "sandwich"
        self.input_layernorm = make_norm(model.norm, model.hidden_size)
        # Hugging Face gives this name to the norm before the feed-forward (Llama), or after attention (Gemma).
        self.post_attention_layernorm = make_norm(model.norm, model.hidden_size)
        if self.is_sandwich:
            self.pre_feedforward_layernorm = make_norm(model.norm, model.hidden_size)
            self.post_feedforward_layernorm = make_norm(model.norm, model.hidden_size)
        self.checkpointing: ActivationCheckpointing = "none"
        self._compiled: Callable[[Tensor, LayerInputs], Tensor] | None = None

    def forward(self, x: Tensor, inputs: LayerInputs, cache: LayerCache | None) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        if cache is not None or not torch.is_grad_enabled():
            return self._forward(x, inputs, cache)
        return (self._compiled or self._train)(x, inputs)

    def compile_training(self, backend: str | Callable[..., Any]) -> None:
        """Compile what runs when gradients are wanted."""
        self._compiled = torch.compile(self._train, fullgraph=True, dynamic=False, backend=backend)

    def _train(self, x: Tensor, inputs: LayerInputs) -> Tensor:
        return run_checkpointed(self._forward, self.checkpointing, x, inputs, None)

    def _forward(self, x: Tensor, inputs: LayerInputs, cache: LayerCache | None) -> Tensor:
        mixed = self.self_attn(self.input_layernorm(x), inputs, cache)
        if self.is_sandwich:
            x = x + residual_dropout(self.post_attention_layernorm(mixed), inputs.dropout)
            fed = self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        else:
            x = x + residual_dropout(mixed, inputs.dropout)
            fed = self.mlp(self.post_attention_layernorm(x))
        return x + residual_dropout(fed, inputs.dropout)


class Trunk(nn.Module):
    """Everything below the head, under the names that Hugging Face's checkpoints have."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = make_embedding(model)
        self.layers = nn.ModuleList(
            Layer(model, layer_type, index) for index, layer_type in enumerate(model.layer_types)
        )
        self.norm = make_norm(model.norm, model.hidden_size)


class Decoder(nn.Module):
    """A decoder-only language model.

    Weights are float32 and uninitialised until `initialize` or `load_state_dict` fills them. `compute_dtype` is the
    type of activations and products; None takes the weights' own. Dropout acts in training mode only.
    """

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.config = model
        self.compute_dtype: torch.dtype | None = None
        self.dropout = 0.0
        self.adapter: Adapter | None = None
        self.rotates_by_matrix = True
        """On a CPU, a single token's heads: one operation instead of many small ones (see `Rotation.matrix`)."""
        self.model = Trunk(model)
        if not model.tie_word_embeddings:
            self.lm_head = make_head(model)
        # Plain attributes, not buffers: casting the model to bf16 must not touch the frequencies. A structure on the
        # meta device gets them when it computes: nobody knows yet whether so many as a config.json says fit the memory.
        is_structure = torch.get_default_device().type == "meta"
        self._frequencies = {} if is_structure else _frequencies(model)
        self._window = getattr(model.attention, "sliding_window", None)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits, float32 [B, T, V], of input_ids, int64 [B, T].

        attention_mask [B, T]: 1 where there is a token, 0 for padding on either side; logits there mean nothing.
        positions int64 [B, T]: for RoPE; left out, each row counts its own tokens from 0 (after those in the cache).
        document_ids int64 [B, T]: tokens see only their own document. Not with a cache.
        cache: from `new_cache`; the tokens are appended to it and see what it holds.
        """
        return self.logits(self.hidden(input_ids, attention_mask, positions, document_ids, cache))

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """States after the final norm, [B, T, D] in the compute dtype; arguments as for the call."""
        assert cache is None or document_ids is None, "a cache holds one document a row"
        length, device = input_ids.shape[1], input_ids.device
        step = None if cache is None else cache.begin(length, attention_mask, device)
        if positions is None:
            positions = _positions(input_ids, attention_mask) if step is None else step.positions
        inputs = self._layer_inputs(positions, attention_mask, document_ids, step, cache)
        x = self.embed(input_ids)
        for index, layer in enumerate(self.layers):
            x = layer(x, inputs[layer.layer_type], None if cache is None else cache.layers[index])
        if cache is not None and step is not None:
            cache.commit(step)
        final: Tensor = self.model.norm(x)
        return final

    @property
    def layers(self) -> list[Layer]:
        """The layers, first to last."""
        return [layer for layer in self.model.layers if isinstance(layer, Layer)]

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits [..., V] of states [..., D]; float64 for a float64 model."""
        logits = F.linear(hidden, self.head_weight.to(hidden.dtype))
        return logits if logits.dtype == torch.float64 else logits.float()

    @property
    def head_weight(self) -> Tensor:
        """The head's weight [V, D], without padded rows; the embedding's when tied."""
        weight = (self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head).effective_weight()
        return weight if len(weight) == self.config.vocab_size else weight[: self.config.vocab_size]

    def initialize(self, seed: int, divide: Callable[[Tensor, Tensor], Tensor] | None = None) -> Decoder:
        """Fill every weight from `seed` as the configuration's `initialization` says; the same on every device.

        `divide(values, weight)` makes of a whole weight's values what this process holds of it, if that is a part.
        Raises ConfigError for a quantised model, which has no random weights.
        """
        refuse_training(self.config, "random weights")
        initialize(self, self.config, seed, divide)
        return self

    def set_dropout(self, probability: float) -> None:
        """Dropout on attention weights and on the outputs of attention and feed-forward, in training mode."""
        self.dropout = probability

    def set_activation_checkpointing(self, mode: ActivationCheckpointing) -> None:
        """What the layers keep for the backward pass (see model/checkpointing.py)."""
        for layer in self.layers:
            layer.checkpointing = mode

    def compile_training(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile the layers' passes that want gradients; others, of many shapes, stay as they are."""
        # The first layer that meets a mask makes it for all. Under checkpointing that is a side effect, which must not
        # happen again when the layer is computed again.
        torch._dynamo.config.skip_fwd_side_effects_in_bwd_under_checkpoint = True
        for layer in self.layers:
            layer.compile_training(backend)

    def new_cache(self, batch_size: int, max_seq_len: int | None = None, ring_slack: int = 0) -> Cache:
        """An empty cache of `batch_size` slots, `max_seq_len` tokens each (the model's context if left out).

        `ring_slack`: positions that sliding layers keep beyond their window, so that tokens can be taken back.
        """
        embedding = self.model.embed_tokens
        shapes = [layer.self_attn.cache_shape() for layer in self.layers]
        length = self.config.max_seq_len if max_seq_len is None else max_seq_len
        return Cache(shapes, batch_size, length, self.compute_dtype or embedding.dtype, embedding.device, ring_slack)

    def token_inputs(self, positions: Tensor, active: Tensor, stop: int, cache: Cache) -> dict[LayerType, LayerInputs]:
        """What the layers need for one token a row, from tensors alone, so that the host need not wait for values.

        positions int64 [B]: of the tokens. active [B]: 0 for rows whose token is not to be kept. stop: every position
        is below it.
        """
        rows = torch.arange(len(positions), device=positions.device)
        inputs: dict[LayerType, LayerInputs] = {}
        for layer_type, frequencies in self._frequencies.items():
            window = self._window if layer_type == "sliding" else None
            capacity = ring_capacity(window, cache.max_seq_len, cache.ring_slack)
            slots = positions if window is None else positions % capacity
            used = min(stop, capacity)
            # How long ago a slot was written; what lies ahead of a full layer's token counts as never.
            age = positions[:, None] - torch.arange(used, device=positions.device)
            visible = age >= 0
            if window is not None:
                age = age % capacity
                visible = (age < window) & (age <= positions[:, None])
            # No numbers of the host's among tensors from here on: in a CUDA graph they would have to be copied.
            added = torch.zeros_like(visible, dtype=torch.float32).masked_fill_(~visible, -torch.inf)[:, None, None]
            step = TokenStep(rows, slots.masked_fill(active == 0, capacity), used)
            angles = rotation(positions[:, None], frequencies)
            if self.rotates_by_matrix and positions.device.type == "cpu" and not torch.compiler.is_compiling():
                interleaved = attention_class(self.config).interleaved
                angles = angles._replace(matrix=rotation_matrix(angles, interleaved=interleaved))
            inputs[layer_type] = LayerInputs(angles, Visibility(added=added), 0.0, step)
        return inputs

    def move_frequencies(self, device: torch.device) -> None:
        """Hold RoPE's inverse frequencies on `device`; every pass does it for its own."""
        held = self._frequencies
        if held and all(frequencies.device == device for frequencies in held.values()):
            return
        if not held or any(frequencies.is_meta for frequencies in held.values()):
            held = _frequencies(self.config)
        self._frequencies = {kind: frequencies.to(device) for kind, frequencies in held.items()}

    def embed(self, input_ids: Tensor) -> Tensor:
        """What enters the first layer, [..., D] in the compute dtype, of ids int64 [...]."""
        x = self.model.embed_tokens.rows(input_ids)
        if self.config.scale_embeddings:
            x = x * self.config.hidden_size**0.5
        return x if self.compute_dtype is None else x.to(self.compute_dtype)

    def _layer_inputs(
        self,
        positions: Tensor,
        attention_mask: Tensor | None,
        document_ids: Tensor | None,
        step: CacheStep | None,
        cache: Cache | None,
    ) -> dict[LayerType, LayerInputs]:
        dropout = self.dropout if self.training else 0.0
        inputs: dict[LayerType, LayerInputs] = {}
        self.move_frequencies(positions.device)
        for layer_type, frequencies in self._frequencies.items():
            if step is not None and cache is not None:
                visibility = step.visibility(self._window if layer_type == "sliding" else None, cache.max_seq_len)
            else:
                # Each type its own: sliding layers write positions into theirs, and a full layer's would cease to be
                # plain causal attention, which needs no mask.
                window = self._window if layer_type == "sliding" else None
                visibility = _visibility(positions, attention_mask, document_ids, window, has_dropout=dropout > 0)
            angles = rotation(positions, frequencies)
            inputs[layer_type] = LayerInputs(angles, visibility, dropout, step)
        return inputs


def _frequencies(model: ModelConfig) -> dict[LayerType, Tensor]:
    attention = attention_class(model)
    return {layer_type: attention.frequencies(model, layer_type) for layer_type in sorted(set(model.layer_types))}


def _positions(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    if attention_mask is None:
        return torch.arange(input_ids.shape[1], device=input_ids.device)[None]
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)


def _visibility(
    positions: Tensor,
    attention_mask: Tensor | None,
    document_ids: Tensor | None,
    window: int | None,
    *,
    has_dropout: bool,
) -> Visibility:
    """What tokens see without a cache. Order and distance are those of the sequence, whatever `positions` RoPE gets."""
    length = positions.shape[1]
    is_windowed = window is not None and window < length
    if attention_mask is None and (is_windowed or document_ids is not None):
        if imagines_gpu():
            return Visibility()  # FlexAttention keeps what plain causal attention does
        if flex.is_supported(positions.device) and not has_dropout:
            return Visibility(blocks=flex.block_mask(length, window, document_ids, positions.device))
    if attention_mask is None and document_ids is None:
        return Visibility()
    index = torch.arange(length, device=positions.device)[None]
    # Where nothing is padding, keys have the very tensor of the queries: that is what Visibility.is_packed looks at.
    keys = index if attention_mask is None else torch.where(attention_mask.bool(), index, -1)
    return Visibility(index, keys, document_ids)


def load_architecture(model: ModelConfig) -> Decoder:
    """The decoder's structure on the meta device: shapes and names, no memory; it computes once it has weights."""
    with torch.device("meta"):
        return Decoder(model)
