"""The native library: where it lies, the structures of native/abi.h, and the functions it exports."""

from __future__ import annotations

import ctypes as c
import functools
import os
import sys
from pathlib import Path
from typing import Any

from smidgen.runtime.errors import SmidgenError

ABI_VERSION = 3
_NAME = {"win32": "smidgen_edge.dll", "darwin": "libsmidgen_edge.dylib"}.get(sys.platform, "libsmidgen_edge.so")

FLOAT32, BFLOAT16, FLOAT16, INT8, UINT8, INT32, FLOAT8, INT64, BOOL = range(1, 10)
"""EdgeDtype."""
STORED_FLOAT, STORED_INT8, STORED_INT4, STORED_TERNARY, STORED_FP8 = range(5)
"""EdgeSource."""
FORMATS = {"float32": 0, "bf16": 1, "int8": 2, "int4": 3, "ternary": 4, "base3": 5}
"""EdgeFormat: how a matrix is held in memory; "base3" holds ternary weights in 1.6 bits instead of 2."""
ACTIVATIONS = {"float": 0, "int8": 1, "fp8": 2, "fp8_power_of_two": 3, "fp8_token": 4, "rounded_int8": 5}
"""EdgeActivation: what the input of a product goes through."""
OPERATIONS = {
    name: code
    for code, name in enumerate(
        (
            *("copy", "add", "sub", "mul", "div", "addcdiv", "maximum", "minimum", "silu", "gelu", "abs", "round"),
            *("reciprocal", "sqrt", "rsqrt", "cos", "sin", "hypot", "remainder", "eq", "ne", "lt", "le", "gt", "ge"),
            *("not", "and", "where", "take", "put", "softmax", "length", "largest", "product"),
        )
    )
}
"""EdgeOperationCode."""
CACHES = {"float32": FLOAT32, "float16": FLOAT16, "bfloat16": BFLOAT16, "int8": INT8}
"""EdgeDtype of the key/value cache."""


_SOURCES = Path(__file__).with_name("native")
"""There in a checkout, not in an installed package."""


class EdgeError(SmidgenError):
    """The native library is missing, or refuses what it was asked for."""


class Tensor(c.Structure):
    _fields_ = (("data", c.c_void_p), ("count", c.c_int64), ("dtype", c.c_int32), ("reserved", c.c_int32))


class Matrix(c.Structure):
    _fields_ = (
        *((name, Tensor) for name in ("weight", "scale", "zero")),
        *(
            (name, c.c_int32)
            for name in ("rows", "cols", "source", "format", "group", "activation", "round", "reserved")
        ),
        ("name", c.c_char * 128),
    )


class Layer(c.Structure):
    MATRICES = ("q", "k", "v", "o", "gate", "up", "down", "q_a", "q_b", "kv_a", "kv_b")
    NORMS = (
        *("input_norm", "attention_out_norm", "feed_forward_norm", "feed_forward_out_norm"),
        *("q_norm", "k_norm", "attention_sub_norm", "feed_forward_sub_norm", "q_a_norm", "kv_a_norm"),
    )
    _fields_ = (
        *((name, Matrix) for name in MATRICES),
        *((name, Tensor) for name in NORMS),
        ("window", c.c_int32),
        ("rope", c.c_int32),
    )


class Config(c.Structure):
    _fields_ = (
        *(
            (name, c.c_int32)
            for name in (
                *("abi_version", "vocab_size", "hidden_size", "num_layers", "intermediate_size"),
                *("num_heads", "num_kv_heads", "head_dim"),
                *("latent", "q_lora_rank", "kv_lora_rank", "nope", "rope", "v_dim"),
                *("norm_kind", "activation", "gated", "interleaved"),
            )
        ),
        *((name, c.c_float) for name in ("eps", "softmax_scale", "embedding_scale")),
        *((name, c.c_int32) for name in ("max_seq_len", "num_slots", "chunk", "cache_dtype", "threads", "isa")),
        ("frequencies", c.POINTER(c.c_float) * 2),
        ("num_frequencies", c.c_int32),
        ("reserved", c.c_int32),
    )


class Sampling(c.Structure):
    _fields_ = (
        *(
            (name, c.c_float)
            for name in (
                *("temperature", "top_p", "min_p"),
                *("repetition_penalty", "presence_penalty", "frequency_penalty"),
            )
        ),
        *((name, c.c_int32) for name in ("top_k", "no_repeat_ngram_size", "num_bias", "logprobs")),
        ("seed", c.c_uint64),
        ("bias_ids", c.POINTER(c.c_int32)),
        ("bias_values", c.POINTER(c.c_float)),
    )


class Choice(c.Structure):
    _fields_ = (("token", c.c_int32), ("logprob", c.c_float))


class Operand(c.Structure):
    _fields_ = (("data", c.c_void_p), ("stride", c.c_int64 * 4), ("dtype", c.c_int32), ("reserved", c.c_int32))


class Operation(c.Structure):
    _fields_ = (
        ("code", c.c_int32),
        ("reserved", c.c_int32),
        ("size", c.c_int64 * 4),
        *((name, Operand) for name in ("out", "a", "b", "c")),
        ("number", c.c_double),
        ("constant", c.c_double),
        ("index", c.c_void_p),
        ("index_stride", c.c_int64),
        ("index_size", c.c_int64),
    )


_INTS, _FLOATS, _BYTES = c.POINTER(c.c_int32), c.POINTER(c.c_float), c.POINTER(c.c_uint8)
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "edge_abi_version": (c.c_int32, ()),
    "edge_sources": (c.c_char_p, ()),
    "edge_isa_name": (c.c_char_p, (c.c_int32,)),
    "edge_isa_available": (c.c_int32, (c.c_int32,)),
    "edge_best_isa": (c.c_int32, ()),
    "edge_last_error": (c.c_char_p, ()),
    "edge_map": (c.c_void_p, (c.c_char_p, c.c_uint64)),
    "edge_unmap": (None, (c.c_void_p, c.c_uint64)),
    "edge_create": (
        c.c_void_p,
        (c.POINTER(Config), c.POINTER(Matrix), c.POINTER(Matrix), c.POINTER(Tensor), c.POINTER(Layer)),
    ),
    "edge_destroy": (None, (c.c_void_p,)),
    "edge_weight_bytes": (c.c_uint64, (c.c_void_p,)),
    "edge_cache_bytes": (c.c_uint64, (c.c_void_p,)),
    "edge_truncate": (c.c_int32, (c.c_void_p, c.c_int32, c.c_int32)),
    "edge_forward": (c.c_int32, (c.c_void_p, c.c_int32, _INTS, _INTS, _BYTES, _FLOATS)),
    "edge_assign": (c.c_int32, (c.c_void_p, c.c_int32, c.POINTER(Sampling), c.c_int32, _INTS)),
    "edge_step": (c.c_int32, (c.c_void_p, c.c_int32, _INTS, _INTS, _BYTES, c.POINTER(Choice))),
    "edge_top_logprobs": (c.c_int32, (c.c_void_p, c.c_int32, c.c_int32, _INTS, _FLOATS)),
    "edge_sample_logits": (
        c.c_int32,
        (c.POINTER(Sampling), c.c_int32, c.c_int32, c.c_int32, _INTS, _FLOATS, c.c_int32, _INTS),
    ),
    "edge_recorded_create": (c.c_void_p, (c.c_int32, c.c_int32)),
    "edge_recorded_destroy": (None, (c.c_void_p,)),
    "edge_recorded_run": (c.c_int32, (c.c_void_p, c.POINTER(Operation), c.c_int64)),
    "edge_product": (c.c_int32, (c.c_int32, c.POINTER(Matrix), c.c_int32, _FLOATS, _FLOATS)),
    "edge_read_bandwidth": (c.c_double, (c.c_uint64, c.c_int32, c.c_int32)),
}


def library_path() -> Path:
    """Where the native library lies: beside this file, or where SMIDGEN_EDGE_LIBRARY says."""
    return Path(os.environ.get("SMIDGEN_EDGE_LIBRARY") or Path(__file__).with_name(_NAME))


@functools.cache
def library() -> c.CDLL:
    """The native library with typed functions. Raises EdgeError where it is missing or of another version."""
    path = library_path()
    remedy = "run 'make native' to build it again" if _SOURCES.is_dir() else "install smidgen again"
    if not path.is_file():
        raise EdgeError(
            f"{path}: the edge engine's native library was not built: install a C++17 compiler and CMake, "
            "then install smidgen again"
        )
    try:
        native = c.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(native, name)
            function.restype, function.argtypes = result, arguments
        version = native.edge_abi_version()
    except (OSError, AttributeError) as error:
        raise EdgeError(f"{path}: cannot be used: {str(error).removeprefix(f'{path}: ')}; {remedy}") from None
    if version != ABI_VERSION:
        raise EdgeError(f"{path}: has interface {version}, this package needs {ABI_VERSION}; {remedy}")
    built = native.edge_sources().decode()
    if built and _SOURCES.is_dir() and _has_newer_source(path) and built != _digest():
        raise EdgeError(f"{path}: is older than the sources in {_SOURCES}; {remedy}")
    return native


def _has_newer_source(path: Path) -> bool:
    """Whether a source was written after the library, so that their contents are to be compared."""
    written = path.stat().st_mtime
    return any(file.stat().st_mtime > written for file in _SOURCES.iterdir())


def _digest() -> str:
    """What CMakeLists.txt computes over the sources."""
    import hashlib  # a hundredth of a second that most starts do without

    files = sorted(str(path) for path in (*_SOURCES.glob("*.cpp"), *_SOURCES.glob("*.h")))
    digests = "".join(hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files)
    return hashlib.sha256(digests.encode()).hexdigest()


def last_error() -> str:
    """What the native code complained about last in this thread."""
    return str(library().edge_last_error().decode("utf-8", "replace"))


def instruction_sets() -> dict[str, int]:
    """Instruction sets that are compiled in and that this processor has, slowest first, each with its index."""
    native = library()
    names: dict[str, int] = {}
    index = 0
    while (name := native.edge_isa_name(index)) is not None:
        if native.edge_isa_available(index):
            names[name.decode()] = index
        index += 1
    return names
