"""A model from a `.pt` checkpoint: RSCaLM, TransformerEngine, and Llama-like descendants of nanoGPT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smidgen.config import ModelConfig, validate
from smidgen.folders.memory import check_memory, structure_of
from smidgen.interchange.checkpoints.dialects import BUFFERS, DIALECTS, Dialect
from smidgen.interchange.checkpoints.torch_file import TorchCheckpoint, open_checkpoint
from smidgen.interchange.imported import Imported
from smidgen.model import Decoder
from smidgen.runtime.errors import ConfigError, InterchangeError

_NAMES = {
    "num_layers": ("n_layer", "num_layers", "n_layers", "num_hidden_layers"),
    "num_heads": ("n_head", "num_heads", "n_heads", "num_attention_heads"),
    "num_kv_heads": (
        "n_kv_head",
        "n_kv_heads",
        "num_kv_heads",
        "num_key_value_heads",
        "num_gqa_groups",
        "n_query_groups",
    ),
    "max_seq_len": ("seq_len", "block_size", "max_seq_len", "max_position_embeddings", "context_length"),
    "rope_theta": ("rope_base", "rope_theta", "rotary_base"),
    "eps": ("norm_eps", "rms_norm_eps", "layernorm_epsilon", "eps"),
}
"""Our name of a setting, and what checkpoints call it."""


@dataclass(frozen=True)
class Hints:
    """What a checkpoint may leave out; None takes it from there."""

    num_heads: int | None = None
    max_seq_len: int | None = None
    rope_theta: float | None = None
    eps: float | None = None
    interleaved_rope: bool = False
    """Its RoPE pairs neighbours; ours pairs i with i + d/2, so rows change their places."""


def import_checkpoint(path: Path, hints: Hints | None = None) -> Imported:
    """The model of a `.pt` file, float32, without a tokenizer, which such files do not hold.

    Raises InterchangeError in one line for a file of another trainer, and for parts that no Smidgen decoder has.
    """
    hints = hints or Hints()
    checkpoint = open_checkpoint(path)
    dialect = _dialect(checkpoint)
    reader = _Reader(checkpoint, dialect, hints)
    config = reader.config()
    check_memory(path, structure_of(config, path).parameters())
    tensors = reader.tensors(config)
    decoder = Decoder(config)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name not in tensors:
                raise InterchangeError(f"{path}: has no tensor for {name}; it does not hold the whole model")
            weight = tensors.pop(name)
            if weight.shape != parameter.shape:
                raise InterchangeError(
                    f"{path}: {name} would have shape {list(weight.shape)}, the model's is {list(parameter.shape)}"
                )
            parameter.copy_(weight)
            if not parameter.isfinite().all():
                raise InterchangeError(f"{path}: {name} holds values that are no numbers; take an earlier checkpoint")
    if tensors:
        raise InterchangeError(f"{path}: tensor for {next(iter(tensors))} has no place in the model")
    return Imported(decoder.eval(), None, f"{dialect.name} checkpoint")


def _dialect(checkpoint: TorchCheckpoint) -> Dialect:
    for dialect in DIALECTS:
        if all(any(mark in name for name in checkpoint.weights) for mark in dialect.marks):
            return dialect
    known = ", ".join(dialect.name for dialect in DIALECTS)
    raise InterchangeError(
        f"{checkpoint.path}: tensor {next(iter(checkpoint.weights))!r} is of a trainer that Smidgen does not know; it "
        f"reads checkpoints of {known}"
    )


class _Reader:
    """Sorts a checkpoint's tensors by the part they play, and finds the sizes that they have."""

    def __init__(self, checkpoint: TorchCheckpoint, dialect: Dialect, hints: Hints) -> None:
        self.path, self.dialect, self.hints = checkpoint.path, dialect, hints
        self.settings = checkpoint.settings
        self.layers: dict[int, dict[str, Tensor]] = {}
        self.embedding: Tensor | None = None
        self.final_norm: Tensor | None = None
        self.head: Tensor | None = None
        for name, tensor in checkpoint.weights.items():
            self._sort(name, tensor)
        if self.embedding is None or self.final_norm is None or not self.layers:
            raise InterchangeError(
                f"{self.path}: embedding, layers and final norm of a {dialect.name} model are needed"
            )

    def _sort(self, name: str, tensor: Tensor) -> None:
        match = self.dialect.layer.fullmatch(name)
        part = self.dialect.parts.get(match[2]) if match else None
        if match and part is not None:
            self.layers.setdefault(int(match[1]), {})[part] = self._weight(name, tensor)
        elif name in self.dialect.embedding:
            self.embedding = self._weight(name, tensor)
        elif name in self.dialect.final_norm:
            self.final_norm = self._weight(name, tensor)
        elif name in self.dialect.head:
            self.head = self._weight(name, tensor)
        elif not BUFFERS.fullmatch(name):
            reason = next((why for part, why in self.dialect.refused.items() if part in name), None)
            raise InterchangeError(f"{self.path}: tensor {name!r}: {reason or 'Smidgen does not know what it is for'}")

    def _weight(self, name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.dim() not in (1, 2):
            raise InterchangeError(
                f"{self.path}: tensor {name!r} is no matrix of floats but {str(tensor.dtype).removeprefix('torch.')} "
                f"{list(tensor.shape)}; save the model's own weights"
            )
        return tensor

    def config(self) -> ModelConfig:
        """The configuration, from the settings where they are there and from the tensors' shapes."""
        assert self.embedding is not None
        if self.embedding.dim() != 2:
            raise InterchangeError(f"{self.path}: the embedding has shape {list(self.embedding.shape)}")
        vocab_size, width = self.embedding.shape
        num_layers = len(self.layers)
        if sorted(self.layers) != [*range(num_layers)]:
            raise InterchangeError(f"{self.path}: layers {sorted(self.layers)[:8]}: they do not count up from 0")
        if self._setting("num_layers", num_layers) != num_layers:
            raise InterchangeError(
                f"{self.path}: its settings name {self._setting('num_layers', 0)} layers, it holds {num_layers}"
            )
        num_heads = _given(self.hints.num_heads, self._setting("num_heads", None))
        if num_heads is None:
            raise InterchangeError(f"{self.path}: does not say how many attention heads it has; add --num-heads")
        if not isinstance(num_heads, int) or num_heads < 1 or width % num_heads:
            raise InterchangeError(f"{self.path}: num_heads = {num_heads!r}: does not divide the width {width}")
        head_dim = width // num_heads
        first = self.layers[0]
        rows = len(first["qkv"]) - width if "qkv" in first else 2 * len(first.get("k", ()))
        num_kv_heads = rows // (2 * head_dim)
        inner = first["down"].shape[-1] if "down" in first else 0
        tree = {
            "vocab_size": vocab_size,
            "hidden_size": width,
            "num_layers": num_layers,
            "max_seq_len": _given(self.hints.max_seq_len, self._setting("max_seq_len", 1024)),
            "tie_word_embeddings": self.head is None or torch.equal(self.head, self.embedding),
            "attention": {
                "kind": "grouped_query",
                "num_heads": num_heads,
                "num_kv_heads": num_kv_heads,
                "head_dim": head_dim,
                "rope_theta": float(_given(self.hints.rope_theta, self._setting("rope_theta", 10_000.0))),
            },
            "feed_forward": {"intermediate_size": inner},
            "norm": {"eps": float(_given(self.hints.eps, self._setting("eps", self.dialect.eps)))},
        }
        try:
            return validate(ModelConfig, tree)
        except ConfigError as error:
            raise InterchangeError(f"{self.path}: {error}") from None

    def tensors(self, config: ModelConfig) -> dict[str, Tensor]:
        """Every tensor under its name in our decoder, in the checkpoint's type, most of them still in the file."""
        assert self.embedding is not None
        assert self.final_norm is not None
        found = {"model.embed_tokens.weight": self.embedding, "model.norm.weight": self._norm(self.final_norm)}
        if not config.tie_word_embeddings and self.head is not None:
            found["lm_head.weight"] = self.head
        for number, parts in self.layers.items():
            found |= {f"model.layers.{number}.{name}": tensor for name, tensor in self._layer(parts, config).items()}
        return found

    def _layer(self, parts: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        named = {
            "output": "self_attn.o_proj",
            "gate": "mlp.gate_proj",
            "up": "mlp.up_proj",
            "down": "mlp.down_proj",
        }
        found = {f"{ours}.weight": parts[part] for part, ours in named.items() if part in parts}
        for part, ours in (("attention_norm", "input_layernorm"), ("feed_forward_norm", "post_attention_layernorm")):
            if part in parts:
                found[f"{ours}.weight"] = self._norm(parts[part])
        if "gate_up" in parts:
            halves = parts["gate_up"].chunk(2)
            found["mlp.gate_proj.weight"], found["mlp.up_proj.weight"] = halves[0], halves[-1]
        query, key, value = self._projections(parts, config)
        attention: Any = config.attention
        found["self_attn.q_proj.weight"] = self._rotary(query, attention.num_heads)
        found["self_attn.k_proj.weight"] = self._rotary(key, attention.num_kv_heads)
        found["self_attn.v_proj.weight"] = value
        return found

    def _projections(self, parts: dict[str, Tensor], config: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
        attention: Any = config.attention
        heads, groups, size = attention.num_heads, attention.num_kv_heads, attention.head_dim
        if "qkv" not in parts:
            if not {"q", "k", "v"} <= parts.keys():
                raise InterchangeError(f"{self.path}: a layer has no query, key and value projection")
            return parts["q"], parts["k"], parts["v"]
        fused = parts["qkv"]
        if len(fused) != (heads + 2 * groups) * size:
            raise InterchangeError(
                f"{self.path}: a fused projection has {len(fused)} rows; {heads} queries and {groups} keys and values "
                f"of {size} make {(heads + 2 * groups) * size}"
            )
        if not self.dialect.qkv_by_group:
            query, key, value = fused.split([heads * size, groups * size, groups * size])
            return query, key, value
        by_group = fused.unflatten(0, (groups, heads // groups + 2, size))
        query, key, value = by_group[:, :-2], by_group[:, -2], by_group[:, -1]
        return query.flatten(0, 2), key.flatten(0, 1), value.flatten(0, 1)

    def _rotary(self, weight: Tensor, num_heads: int) -> Tensor:
        if not self.hints.interleaved_rope:
            return weight
        return weight.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).flatten(0, 2)

    def _norm(self, weight: Tensor) -> Tensor:
        return weight.float() + 1 if self.settings.get("zero_centered_gamma") is True else weight

    def _setting(self, name: str, default: Any) -> Any:
        return _lookup(self.settings, _NAMES[name], default)


def _given(hint: Any, setting: Any) -> Any:
    return setting if hint is None else hint


def _lookup(settings: Mapping[str, Any], names: tuple[str, ...], default: Any) -> Any:
    for name in names:
        value = settings.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
    return default
