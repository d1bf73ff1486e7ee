"""From the tensors of a folder to the matrices that the native code packs: every shape and type is checked here."""

from __future__ import annotations

import ctypes as c
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.edge.config import EdgeModelConfig
from smidgen.edge.library import (
    ACTIVATIONS,
    BFLOAT16,
    FLOAT8,
    FLOAT16,
    FLOAT32,
    FORMATS,
    INT8,
    INT32,
    STORED_FLOAT,
    STORED_FP8,
    STORED_INT4,
    STORED_INT8,
    STORED_TERNARY,
    UINT8,
    Layer,
    Matrix,
    Tensor,
)
from smidgen.edge.safetensors import StoredTensor
from smidgen.runtime.errors import ModelFolderError

_FLOATS = (FLOAT32, BFLOAT16, FLOAT16)


@dataclass(frozen=True, slots=True)
class Formats:
    """How matrices that are stored as floats are held in memory, and what happens to inputs."""

    projections: str = "bf16"
    head: str = "bf16"
    group_size: int = 32
    """Of int4 made here."""
    ternary: str = "ternary"
    """A name of FORMATS: how ternary weights, stored or made here, are held."""
    float_activations: bool | None = None
    """Whether codes are multiplied with inputs that are not rounded; None: as the folder says, or rounded without its
    word."""


class WeightReader:
    """Builds the native structures. Keeps track of what was used, so that nothing in the folder is ignored silently."""

    def __init__(
        self, folder: Path, config: EdgeModelConfig, tensors: dict[str, StoredTensor], formats: Formats
    ) -> None:
        self._folder, self._config, self._tensors, self._formats = folder, config, tensors, formats
        self._used: set[str] = set()
        self._kept: list[Any] = []  # memory that native structures point to

    def layers(self) -> c.Array[Layer]:
        """One structure a layer."""
        if self._config.num_layers > len(self._tensors):
            raise ModelFolderError(
                f"{self._folder}: config.json names {self._config.num_layers} layers, the weights have "
                f"{len(self._tensors)} tensors; the two do not belong together"
            )
        result = (Layer * self._config.num_layers)()
        for index, layer in enumerate(result):
            self._fill(layer, index)
        return result

    def embedding(self) -> Matrix:
        """The embedding, whose rows are read one by one from the file."""
        config = self._config
        return self._matrix("model.embed_tokens", config.vocab_size, config.hidden_size, is_head=True)

    def head(self) -> Matrix:
        """The head: lm_head, or the embedding where they are tied."""
        config = self._config
        if not config.tie_word_embeddings:
            return self._matrix("lm_head", config.vocab_size, config.hidden_size, is_head=True)
        return self.embedding()

    def norm(self, name: str, size: int) -> Tensor:
        tensor = self._take(f"{name}.weight", (size,), _FLOATS)
        return _native(tensor)

    def check_all_used(self) -> None:
        """Raise ModelFolderError for tensors that have no place in the model."""
        left = [n for n in self._tensors if n not in self._used and not n.endswith("rotary_emb.inv_freq")]
        if self._config.tie_word_embeddings:  # a copy of the embedding, which some writers keep
            left = [name for name in left if not name.startswith("lm_head.")]
        if left:
            more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
            raise ModelFolderError(
                f"{self._folder}: tensor '{min(left)}'{more} has no place in the model that config.json describes; "
                "use a model that Smidgen implements in full"
            )

    def _fill(self, layer: Layer, index: int) -> None:
        config, base = self._config, f"model.layers.{index}"
        hidden, inner = config.hidden_size, config.intermediate_size
        attention, mlp = f"{base}.self_attn", f"{base}.mlp"
        if config.latent:
            query = config.num_heads * (config.qk_nope_head_dim + config.qk_rope_head_dim)
            rank, out = config.kv_lora_rank, config.num_heads * config.v_head_dim
            if config.q_lora_rank:
                layer.q_a = self._matrix(f"{attention}.q_a_proj", config.q_lora_rank, hidden)
                layer.q_a_norm = self.norm(f"{attention}.q_a_layernorm", config.q_lora_rank)
                layer.q_b = self._matrix(f"{attention}.q_b_proj", query, config.q_lora_rank)
            else:
                layer.q = self._matrix(f"{attention}.q_proj", query, hidden)
            layer.kv_a = self._matrix(f"{attention}.kv_a_proj_with_mqa", rank + config.qk_rope_head_dim, hidden)
            layer.kv_a_norm = self.norm(f"{attention}.kv_a_layernorm", rank)
            expanded = config.num_heads * (config.qk_nope_head_dim + config.v_head_dim)
            layer.kv_b = self._matrix(f"{attention}.kv_b_proj", expanded, rank)
        else:
            out, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
            layer.q = self._matrix(f"{attention}.q_proj", out, hidden)
            layer.k = self._matrix(f"{attention}.k_proj", keys, hidden)
            layer.v = self._matrix(f"{attention}.v_proj", keys, hidden)
            if config.qk_norm:
                layer.q_norm = self.norm(f"{attention}.q_norm", config.head_dim)
                layer.k_norm = self.norm(f"{attention}.k_norm", config.head_dim)
        layer.o = self._matrix(f"{attention}.o_proj", hidden, out)
        if config.gated:
            layer.gate = self._matrix(f"{mlp}.gate_proj", inner, hidden)
        layer.up = self._matrix(f"{mlp}.up_proj", inner, hidden)
        layer.down = self._matrix(f"{mlp}.down_proj", hidden, inner)
        layer.input_norm = self.norm(f"{base}.input_layernorm", hidden)
        if config.norm_placement == "sandwich":
            layer.attention_out_norm = self.norm(f"{base}.post_attention_layernorm", hidden)
            layer.feed_forward_norm = self.norm(f"{base}.pre_feedforward_layernorm", hidden)
            layer.feed_forward_out_norm = self.norm(f"{base}.post_feedforward_layernorm", hidden)
        else:
            layer.feed_forward_norm = self.norm(f"{base}.post_attention_layernorm", hidden)
        if config.norm_placement == "sub":
            layer.attention_sub_norm = self.norm(f"{attention}.attn_sub_norm", out)
            layer.feed_forward_sub_norm = self.norm(f"{mlp}.ffn_sub_norm", inner)
        sliding = config.layer_types[index] == "sliding"
        layer.window = config.sliding_window if sliding else 0
        layer.rope = int(sliding)

    def _matrix(self, name: str, rows: int, cols: int, is_head: bool = False) -> Matrix:
        """The matrix [rows, cols] under `name`, however it is stored."""
        config = self._config
        matrix = Matrix(rows=rows, cols=cols, group=-1, name=name.encode()[:127])
        if f"{name}.weight_packed" in self._tensors:
            self._read_int4(matrix, name)
            matrix.activation = self._stored_activation(matrix, is_head)
            return matrix
        weight = self._find(f"{name}.weight")
        if weight.dtype == INT8:
            matrix.weight = _native(self._take(f"{name}.weight", (rows, cols), (INT8,)))
            matrix.scale = self._scale(name, rows)
            matrix.source, matrix.format = STORED_INT8, FORMATS["int8"]
            matrix.activation = self._stored_activation(matrix, is_head)
        elif weight.dtype == UINT8:
            if rows % 4:
                self._refuse(weight, f"ternary weights are packed by fours, {rows} rows are not")
            matrix.weight = _native(self._take(f"{name}.weight", (rows // 4, cols), (UINT8,)))
            matrix.scale = self._scale(name, 1, inverse=config.scales_divide)
            matrix.source, matrix.format = STORED_TERNARY, FORMATS[self._formats.ternary]
            matrix.activation = self._stored_activation(matrix, is_head)
        elif weight.dtype == FLOAT8:
            self._read_fp8(matrix, name)
            matrix.activation = self._stored_activation(matrix, is_head)
        else:
            matrix.weight = _native(self._take(f"{name}.weight", (rows, cols), _FLOATS))
            matrix.source = STORED_FLOAT
            self._choose_format(matrix, is_head)
        return matrix

    def _choose_format(self, matrix: Matrix, is_head: bool) -> None:
        """The format in memory of a matrix that is stored as floats."""
        config, formats = self._config, self._formats
        wanted = formats.head if is_head else formats.projections
        if not is_head and config.linear == "ternary":
            matrix.format, matrix.round = FORMATS[formats.ternary], 1
            matrix.activation = self._ternary_activation()
            return
        if not is_head and config.linear == "fp8_block":
            matrix.format = FORMATS["bf16"]
            matrix.round = 3 if config.power_of_two_scales else 2
            matrix.activation = ACTIVATIONS["fp8_power_of_two" if config.power_of_two_scales else "fp8"]
            return
        matrix.format = FORMATS[formats.ternary if wanted == "ternary" else wanted]
        if wanted == "int4":
            matrix.group = formats.group_size
        if wanted in ("int8", "int4", "ternary"):
            matrix.activation = self._codes_activation()
            matrix.round = int(wanted == "ternary")

    def _codes_activation(self) -> int:
        return ACTIVATIONS["float" if self._formats.float_activations else "int8"]

    def _ternary_activation(self) -> int:
        return ACTIVATIONS["float"] if self._config.activation_bits is None else self._codes_activation()

    def _stored_activation(self, matrix: Matrix, is_head: bool) -> int:
        """What happens to the inputs of a matrix that the folder holds quantised: see docs/edge.md."""
        wanted, rounding = self._formats.float_activations, self._config.input_rounding
        if wanted is None:
            wanted = rounding == "float" or (is_head and rounding != "int8")
        if wanted:
            return ACTIVATIONS["float"]
        if matrix.format != FORMATS["bf16"]:
            return ACTIVATIONS["int8" if is_head or rounding == "float" else rounding]
        return ACTIVATIONS["rounded_int8" if rounding == "int8" else rounding]

    def _read_int4(self, matrix: Matrix, name: str) -> None:
        rows, cols = matrix.rows, matrix.cols
        matrix.weight = _native(self._take(f"{name}.weight_packed", (rows, -(-cols // 8)), (INT32,)))
        scale = self._find(f"{name}.weight_scale")
        if len(scale.shape) != 2 or scale.shape[0] != rows or not 1 <= scale.shape[1] <= cols:
            self._refuse(scale, f"a scale for each of {rows} rows and group is needed")
        groups = scale.shape[1]
        matrix.scale = _native(self._take(f"{name}.weight_scale", scale.shape, _FLOATS))
        group = -1 if groups == 1 else -(-cols // groups)
        if groups > 1 and (group % 32 or -(-cols // group) != groups):
            self._refuse(scale, f"groups of {cols / groups:g} columns; the edge engine runs multiples of 32")
        matrix.group = group
        self._check_shape(name, rows, cols)
        if f"{name}.weight_zero_point" in self._tensors:
            matrix.zero = _native(self._take(f"{name}.weight_zero_point", (-(-rows // 8), groups), (INT32,)))
        matrix.source, matrix.format = STORED_INT4, FORMATS["int4"]

    def _check_shape(self, name: str, rows: int, cols: int) -> None:
        """compressed-tensors says once more how large a packed matrix is."""
        tensor = self._tensors.get(f"{name}.weight_shape")
        if tensor is None:
            return
        self._used.add(tensor.name)
        if tensor.dtype_name != "I64" or tensor.shape != (2,):
            self._refuse(tensor, "two whole numbers of 64 bits are needed")
        stored = list((c.c_int64 * 2).from_address(tensor.address))
        if stored != [rows, cols]:
            self._refuse(tensor, f"holds {stored}, config.json asks for {[rows, cols]}")

    def _read_fp8(self, matrix: Matrix, name: str) -> None:
        rows, cols = matrix.rows, matrix.cols
        matrix.weight = _native(self._take(f"{name}.weight", (rows, cols), (FLOAT8,)))
        matrix.source, matrix.format = STORED_FP8, FORMATS["bf16"]
        if f"{name}.weight_scale_inv" in self._tensors:
            blocks = (-(-rows // 128), -(-cols // 128))
            matrix.scale = _native(self._take(f"{name}.weight_scale_inv", blocks, _FLOATS))
            matrix.group = 128
        else:
            matrix.scale = self._scale(name, 1)

    def _scale(self, name: str, count: int, inverse: bool = False) -> Tensor:
        tensor = self._find(f"{name}.weight_scale")
        if tensor.count != count:
            self._refuse(tensor, f"{count} scales are needed")
        native = _native(self._take(f"{name}.weight_scale", tensor.shape, _FLOATS))
        if not inverse:
            return native
        value = _first_float(tensor)
        if not value:
            self._refuse(tensor, "it divides and must not be 0")
        memory = (c.c_float * 1)(1.0 / value)
        self._kept.append(memory)
        return Tensor(c.addressof(memory), 1, FLOAT32, 0)

    def _find(self, name: str) -> StoredTensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise ModelFolderError(
                f"{self._folder}: tensor '{name}' is missing: the weights do not belong to this config.json; "
                "copy the folder again"
            )
        return tensor

    def _take(self, name: str, shape: tuple[int, ...], dtypes: tuple[int, ...]) -> StoredTensor:
        tensor = self._find(name)
        if tensor.shape != shape:
            self._refuse(tensor, f"config.json asks for shape {list(shape)}")
        if tensor.dtype not in dtypes:
            self._refuse(tensor, "this type is not one that the edge engine reads here")
        self._used.add(name)
        return tensor

    def _refuse(self, tensor: StoredTensor, remedy: str) -> None:
        raise ModelFolderError(
            f"{tensor.file}: tensor '{tensor.name}' has type {tensor.dtype_name} and shape {list(tensor.shape)}: "
            f"{remedy}"
        )


def _native(tensor: StoredTensor) -> Tensor:
    return Tensor(tensor.address, tensor.count, tensor.dtype, 0)


def _first_float(tensor: StoredTensor) -> float:
    """The first number of a tensor of floats."""
    if tensor.dtype == FLOAT32:
        return c.c_float.from_address(tensor.address).value
    half = bytes((c.c_uint8 * 2).from_address(tensor.address))
    pair = struct.unpack("<f", bytes(2) + half) if tensor.dtype == BFLOAT16 else struct.unpack("<e", half)
    return float(pair[0])
