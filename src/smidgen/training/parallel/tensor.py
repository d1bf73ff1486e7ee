"""Tensor and sequence parallelism (Megatron-LM: Shoeybi et al., 2019; Korthikanti et al., 2022) by DTensor.

Between sublayers a rank holds its share of every sequence, [B, T / n, D]. A sublayer gathers the whole sequence, works
on the rank's heads or feed-forward columns, and its last projection sums over ranks while it scatters the sequence
again. Weights are DTensors, so a scale of a whole weight or token, and a norm over a whole row, stay just that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

from smidgen.config import ModelConfig
from smidgen.model import Decoder
from smidgen.model.attention import GroupedQueryAttention, LatentAttention
from smidgen.model.decoder import Layer
from smidgen.model.feed_forward import FeedForward
from smidgen.training.parallel.loss import VocabularyShard, rows_in_memory

_SEQUENCE, _HEADS, _FEATURES = Shard(1), Shard(2), Shard(-1)
"""Where [B, T, D] or [B, T, H, d] is cut."""
_ROWS, _COLUMNS = Shard(0), Shard(1)
"""Where a weight [out, in] is cut; a norm's weight has rows only."""


class TensorParallelModel:
    """What objectives see in place of the decoder: the same states, and this rank's part of the head."""

    def __init__(self, decoder: Decoder, mesh: DeviceMesh) -> None:
        """Divide `decoder`, whole and equal on every rank, over the one-dimensional `mesh`, in place."""
        self.decoder = decoder
        self.config: ModelConfig = decoder.config
        self._mesh = mesh
        for layer in decoder.layers:
            _divide_layer(layer, mesh)
        decoder.layers[0].register_forward_pre_hook(_on_input(_scattered_embedding(mesh)))
        _divide_sequence_norm(decoder.model.norm, mesh)
        _place(decoder.model.embed_tokens, mesh, _ROWS)
        if not self.config.tie_word_embeddings:
            _place(decoder.lm_head, mesh, _ROWS)

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
    ) -> Tensor:
        """States after the final norm, [B, T, D], whole on every rank; their gradient may be a rank's part."""
        ids = DTensor.from_local(input_ids, self._mesh, [Replicate()])
        share = self.decoder.hidden(ids, attention_mask, positions, document_ids)
        return _gathered(share, self._mesh).to_local(grad_placements=[Partial()])

    @property
    def head_weight(self) -> VocabularyShard:
        """This rank's rows of the head."""
        tied = self.config.tie_word_embeddings
        weight = cast(DTensor, (self.decoder.model.embed_tokens if tied else self.decoder.lm_head).weight)
        rows = weight.shape[0] // self._mesh.size()
        first = rows * self._mesh.get_local_rank()
        own = weight.to_local()[: self.config.vocab_size - first]
        return VocabularyShard(own, first, rows_in_memory(rows), self._mesh.get_group())


def _divide_layer(layer: Layer, mesh: DeviceMesh) -> None:
    for name, module in layer.named_children():
        if isinstance(module, LatentAttention):
            _divide_latent(module, mesh)
        elif isinstance(module, GroupedQueryAttention):
            _divide_grouped_query(module, mesh)
        elif isinstance(module, FeedForward):
            _divide_feed_forward(module, mesh)
        else:
            assert name.endswith("layernorm")
            _divide_sequence_norm(module, mesh)


def _divide_grouped_query(attention: GroupedQueryAttention, mesh: DeviceMesh) -> None:
    _gather_input(attention, mesh)
    _divide_columns(attention.q_proj, mesh)
    for projection in (attention.k_proj, attention.v_proj):
        if attention.num_kv_heads % mesh.size() == 0:
            _divide_columns(projection, mesh)
        else:
            _keep_key_head(projection, attention, mesh)
    for norm in (attention.q_norm, attention.k_norm):
        if norm is not None:
            _place(norm, mesh, Replicate())
            norm.register_forward_pre_hook(_on_input(_as_dtensor(mesh, _HEADS)))
            norm.register_forward_hook(_on_output(_to_local))
    _divide_output(attention.attn_sub_norm, attention.o_proj, mesh)


def _keep_key_head(projection: nn.Module, attention: GroupedQueryAttention, mesh: DeviceMesh) -> None:
    """More ranks than key heads: every rank computes them all and keeps the one that its query heads share."""
    ranks_per_head = mesh.size() // attention.num_kv_heads
    first = mesh.get_local_rank() // ranks_per_head * attention.head_dim
    _place(projection, mesh, Replicate())

    def keep(output: DTensor) -> Tensor:
        whole = output.to_local(grad_placements=[Partial()])
        return whole[..., first : first + attention.head_dim]

    projection.register_forward_hook(_on_output(keep))


def _divide_latent(attention: LatentAttention, mesh: DeviceMesh) -> None:
    """Heads are divided; the low-rank projections and their norms, small and shared by all heads, are not."""
    _gather_input(attention, mesh)
    attention.num_heads //= mesh.size()
    if attention.q_proj is not None:
        _divide_columns(attention.q_proj, mesh)
    else:
        _place(attention.q_a_proj, mesh, Replicate())
        _place(attention.q_a_layernorm, mesh, Replicate())
        _divide_columns(attention.q_b_proj, mesh)
    _place(attention.kv_a_proj_with_mqa, mesh, Replicate())
    # Its output is cut into latent and rotated key outside of DTensor; what comes back is each rank's part.
    attention.kv_a_proj_with_mqa.register_forward_hook(_on_output(_to_local_summing_gradients))
    _place(attention.kv_a_layernorm, mesh, Replicate())
    attention.kv_a_layernorm.register_forward_pre_hook(
        _on_input(lambda x: DTensor.from_local(x, mesh, [Replicate()], grad_placements=[Partial()]))
    )
    _divide_columns(attention.kv_b_proj, mesh)
    _divide_output(attention.attn_sub_norm, attention.o_proj, mesh)


def _divide_feed_forward(mlp: FeedForward, mesh: DeviceMesh) -> None:
    _gather_input(mlp, mesh)
    if mlp.gate_proj is not None:
        _divide_columns(mlp.gate_proj, mesh)
    _divide_columns(mlp.up_proj, mesh)
    _divide_output(mlp.ffn_sub_norm, mlp.down_proj, mesh)


def _divide_columns(projection: nn.Module, mesh: DeviceMesh) -> None:
    """A projection whose output features are divided: whole input, local output."""
    _place(projection, mesh, _ROWS)
    projection.register_forward_hook(_on_output(_to_local))


def _divide_output(sub_norm: nn.Module | None, projection: nn.Module, mesh: DeviceMesh) -> None:
    """A sublayer's last projection, with input features divided, and the norm over the whole row before it."""
    if sub_norm is not None:
        _place(sub_norm, mesh, _ROWS)
        sub_norm.register_forward_pre_hook(_on_input(_as_dtensor(mesh, _FEATURES)))
    _place(projection, mesh, _COLUMNS)
    projection.register_forward_pre_hook(_on_input(_as_dtensor(mesh, _FEATURES)))
    projection.register_forward_hook(_on_output(lambda x: _to_local(x.redistribute(placements=[_SEQUENCE]))))


def _divide_sequence_norm(norm: nn.Module, mesh: DeviceMesh) -> None:
    """A norm over the residual stream: every rank normalises its share of the sequence."""
    _place(norm, mesh, Replicate())
    norm.register_forward_pre_hook(_on_input(_as_dtensor(mesh, _SEQUENCE)))
    norm.register_forward_hook(_on_output(_to_local))


def _gather_input(sublayer: nn.Module, mesh: DeviceMesh) -> None:
    sublayer.register_forward_pre_hook(_on_input(lambda x: _gathered(x, mesh)))


def _gathered(share: Tensor, mesh: DeviceMesh) -> DTensor:
    return DTensor.from_local(share, mesh, [_SEQUENCE]).redistribute(placements=[Replicate()])


def _scattered_embedding(mesh: DeviceMesh) -> Callable[[Tensor], Tensor]:
    """The embedding is a sum over ranks, of which each has its tokens: add up and take this rank's positions."""

    def scatter(x: Tensor) -> Tensor:
        return _to_local(cast(DTensor, x).redistribute(placements=[_SEQUENCE]))

    return scatter


def _place(module: nn.Module, mesh: DeviceMesh, placement: Placement) -> None:
    """Make the module's own parameters DTensors, without communication: every rank has the whole."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        divided = distribute_tensor(parameter.detach(), mesh, [placement], src_data_rank=None)
        module.register_parameter(name, nn.Parameter(divided, requires_grad=parameter.requires_grad))


def _as_dtensor(mesh: DeviceMesh, placement: Placement) -> Callable[[Tensor], Tensor]:
    def convert(x: Tensor) -> Tensor:
        return x if isinstance(x, DTensor) else DTensor.from_local(x, mesh, [placement])

    return convert


def _to_local(x: Tensor) -> Tensor:
    return cast(DTensor, x).to_local()


def _to_local_summing_gradients(x: Tensor) -> Tensor:
    return cast(DTensor, x).to_local(grad_placements=[Partial()])


def _on_input(change: Callable[[Tensor], Tensor]) -> Callable[..., tuple]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return change(args[0]), *args[1:]

    return hook


def _on_output(change: Callable[[Any], Tensor]) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return change(output)

    return hook
