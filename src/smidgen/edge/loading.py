"""`smidgen.edge.load`: an engine from what a user names, ready to write."""

from __future__ import annotations

import ctypes as c
import math
import struct
from pathlib import Path
from typing import Literal, get_args

from smidgen.edge.config import EdgeModelConfig, Yarn, read_config
from smidgen.edge.engine import EdgeEngine, NativeModel
from smidgen.edge.library import (
    ABI_VERSION,
    CACHES,
    Config,
    EdgeError,
    instruction_sets,
    last_error,
    library,
)
from smidgen.edge.memory import cache_bytes, check_memory, weight_bytes
from smidgen.edge.safetensors import MappedWeights
from smidgen.edge.threads import default_threads
from smidgen.edge.weights import Formats, WeightReader
from smidgen.runtime.errors import ContextLengthError, ModelFolderError
from smidgen.runtime.model_folders import stored_model

WeightFormat = Literal["bf16", "float32", "int8", "int4", "ternary"]
CacheFormat = Literal["float16", "bfloat16", "float32", "int8"]
TernaryPacking = Literal["auto", "2bit", "base3"]
CHUNK = 128
"""Most tokens of a prompt in one pass."""
_FAST_DOT = ("avxvnni", "avx512", "avx512bf16", "neon")
_NORMS = {"rms_norm": 0, "rms_norm_plus_one": 1, "layer_norm": 2}
_ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "relu2": 2}


def load(
    model: str | Path,
    *,
    threads: int | None = None,
    max_batch_size: int = 1,
    max_seq_len: int | None = None,
    weights: WeightFormat = "bf16",
    head: WeightFormat | None = None,
    group_size: int = 32,
    ternary: TernaryPacking = "auto",
    float_activations: bool | None = None,
    cache: CacheFormat = "float16",
    instruction_set: str | None = None,
) -> EdgeEngine:
    """An engine for a model folder, checkpoint, run folder or Hugging Face folder of an architecture that we know.

    threads: left out, one for each core that this process may use.
    max_batch_size: sequences at once; each takes cache for `max_seq_len` tokens (left out: the model's context).
    weights, head: how matrices that the folder holds as floats are kept in memory; int8, int4 (in groups of
    `group_size`) and ternary round them as they are loaded. Matrices that the folder holds quantised stay as they are,
    and so does what the model itself rounds. `head` (left out: `weights`, or bf16 for ternary) is for the last product.
    ternary: how ternary weights are held: "2bit", or "base3", five in a byte (1.6 bits), to the same results; "auto"
    takes the faster one (`ternary_format`).
    float_activations: True multiplies quantised weights with inputs as they are, False with inputs rounded to 8 bits a
    token, which is faster; left out, matrices that the folder holds quantised follow its `activation_bits`, and those
    rounded here get rounded inputs.
    cache: keys and values; int8 has a scale for each token and head.
    instruction_set: a name of `smidgen.edge.library.instruction_sets`; left out, the fastest.

    Raises ModelFolderError for folders that are damaged or of other models, and where weights and cache exceed the free
    memory; EdgeError without the native library.
    """
    library()
    folder = stored_model(model)
    config = read_config(folder)
    context = config.max_seq_len if max_seq_len is None else max_seq_len
    if not 1 <= context <= config.max_seq_len:
        raise ContextLengthError(f"max_seq_len = {context}: use 1 to the model's context of {config.max_seq_len}")
    if max_batch_size < 1 or (threads is not None and not 1 <= threads <= 256):
        raise EdgeError(f"max_batch_size = {max_batch_size}, threads = {threads}: use at least 1 for both")
    for name, value, allowed in (
        ("weights", weights, get_args(WeightFormat)),
        ("head", head or weights, get_args(WeightFormat)),
        ("ternary", ternary, get_args(TernaryPacking)),
        ("cache", cache, get_args(CacheFormat)),
    ):
        if value not in allowed:
            raise EdgeError(f"{name} = {value!r}: use one of {', '.join(allowed)}")
    if group_size < 32 or group_size % 32 or group_size > 4096:
        raise EdgeError(f"group_size = {group_size}: use a multiple of 32")
    head = head or ("bf16" if weights == "ternary" else weights)
    held = ternary_format(ternary, instruction_set)
    formats = Formats(weights, head, group_size, held, float_activations)
    mapped = MappedWeights(folder)
    try:
        native = _create(folder, config, mapped, formats, context, max_batch_size, threads, cache, instruction_set)
    except BaseException:
        mapped.close()
        raise
    return EdgeEngine(native, folder, config, context, max_batch_size, CHUNK)


def ternary_format(packing: TernaryPacking, instruction_set: str | None) -> str:
    """The name in FORMATS of how ternary weights are held.

    "auto": five codes in a byte where the processor has a dot product of bytes in one instruction, two bits a code
    where it has not: there base 3 takes longer to unpack than the smaller weights save in reading (docs/edge.md).
    """
    if packing == "auto":
        packing = "base3" if (instruction_set or list(instruction_sets())[-1]) in _FAST_DOT else "2bit"
    return "base3" if packing == "base3" else "ternary"


def _create(
    folder: Path,
    config: EdgeModelConfig,
    mapped: MappedWeights,
    formats: Formats,
    context: int,
    max_batch_size: int,
    threads: int | None,
    cache: str,
    instruction_set: str | None,
) -> NativeModel:
    names = instruction_sets()
    if instruction_set is not None and instruction_set not in names:
        raise EdgeError(f"instruction_set = {instruction_set!r}: this processor has {', '.join(names)}")
    reader = WeightReader(folder, config, mapped.tensors, formats)
    layers = reader.layers()
    embedding, head = reader.embedding(), reader.head()
    final_norm = reader.norm("model.norm", config.hidden_size)
    reader.check_all_used()
    needed = cache_bytes(config, context, max_batch_size, cache, CHUNK)
    check_memory(folder, weight_bytes(head, layers), needed, max_batch_size, context)
    frequencies = [_array(f) for f in _frequencies(config)]
    native = Config(
        abi_version=ABI_VERSION,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        latent=config.latent,
        q_lora_rank=config.q_lora_rank,
        kv_lora_rank=config.kv_lora_rank,
        nope=config.qk_nope_head_dim,
        rope=config.qk_rope_head_dim,
        v_dim=config.v_head_dim,
        norm_kind=_NORMS[config.norm_kind],
        activation=_ACTIVATIONS[config.activation],
        gated=config.gated,
        interleaved=config.latent,
        eps=config.eps,
        softmax_scale=config.softmax_scale,
        embedding_scale=config.hidden_size**0.5 if config.scale_embeddings else 1.0,
        max_seq_len=context,
        num_slots=max_batch_size,
        chunk=min(CHUNK, context),
        cache_dtype=CACHES[cache],
        threads=threads or default_threads(),
        isa=-1 if instruction_set is None else names[instruction_set],
        num_frequencies=len(frequencies[0]),
    )
    for index, array in enumerate(frequencies):
        native.frequencies[index] = c.cast(array, c.POINTER(c.c_float))
    handle = library().edge_create(native, embedding, head, final_norm, layers)
    if not handle:
        raise ModelFolderError(f"{folder}: {last_error()}")
    return NativeModel(handle, mapped)


def _array(values: list[float]) -> c.Array[c.c_float]:
    return (c.c_float * len(values))(*values)


def _float32(value: float) -> float:
    result: float = struct.unpack("f", struct.pack("f", value))[0]
    return result


def _frequencies(config: EdgeModelConfig) -> tuple[list[float], list[float]]:
    """RoPE's inverse frequencies of full and of sliding layers, rounded to float32 where PyTorch's decoder rounds."""
    dim = config.qk_rope_head_dim if config.latent else config.head_dim
    plain = [_inverse_frequencies(dim, theta) for theta in (config.rope_theta, config.sliding_rope_theta)]
    if config.yarn is not None:
        plain[0] = _stretch(plain[0], dim, config.rope_theta, config.yarn)
    return plain[0], plain[1]


def _inverse_frequencies(dim: int, theta: float) -> list[float]:
    """`theta^(-2i / d)`."""
    return [_float32(1.0 / _float32(theta ** _float32(i / dim))) for i in range(0, dim, 2)]


def _stretch(frequencies: list[float], dim: int, theta: float, yarn: Yarn) -> list[float]:
    """YaRN (Peng et al., 2023): fast dimensions keep their frequency, slow ones are divided by the factor."""

    def dimension(turns: float) -> float:
        return dim * math.log(yarn.original_max_seq_len / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dimension(yarn.beta_fast)), 0)
    high: float = min(math.ceil(dimension(yarn.beta_slow)), dim - 1)
    if high == low:
        high += 0.001
    result = []
    for i, frequency in enumerate(frequencies):
        ramp = min(max((i - low) / (high - low), 0.0), 1.0)
        result.append(_float32(frequency * (1 - ramp) + frequency / yarn.factor * ramp))
    return result
