"""config.json of a model folder, read without pydantic: the decoder's parts as numbers the native code can trust."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from smidgen.edge.fields import LARGEST, Fields, read_json
from smidgen.edge.stored import stored_rounding
from smidgen.runtime.errors import ModelFolderError

ACTIVATION_NAMES = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "relu2": "relu2",
}
NormKind = Literal["rms_norm", "rms_norm_plus_one", "layer_norm"]


@dataclass(frozen=True, slots=True)
class Yarn:
    """YaRN that acts: the context is longer than the original one."""

    original_max_seq_len: int
    factor: float
    beta_fast: float
    beta_slow: float
    mscale: float


@dataclass(frozen=True, slots=True, eq=False)  # nobody compares two, and importing takes its time for each method made
class EdgeModelConfig:
    """What the engine needs to know of a decoder; field names as in Smidgen's model section."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    max_seq_len: int
    tie_word_embeddings: bool
    scale_embeddings: bool
    layer_types: tuple[str, ...]
    intermediate_size: int
    activation: str
    gated: bool
    norm_kind: NormKind
    norm_placement: str
    eps: float
    num_heads: int
    num_kv_heads: int
    head_dim: int
    qk_norm: bool
    softmax_scale: float
    rope_theta: float
    sliding_rope_theta: float
    sliding_window: int
    """0 where no layer is sliding."""
    latent: bool = False
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    yarn: Yarn | None = None
    linear: str = "dense"
    """`dense`, `ternary` or `fp8_block`: what a projection of floats is rounded to."""
    activation_bits: int | None = 8
    """Of ternary projections."""
    power_of_two_scales: bool = False
    input_rounding: str = "float"
    """What the model does to inputs of matrices that are stored quantised: `float` (nothing), `int8`, `fp8`,
    `fp8_power_of_two` or `fp8_token`."""
    scales_divide: bool = False
    """Whether packed ternary weights are divided by their stored scale."""
    eos_ids: tuple[int, ...] = ()


def read_config(folder: Path) -> EdgeModelConfig:
    """The configuration in a folder's config.json. Raises ModelFolderError for what the engine cannot run exactly."""
    path = folder / "config.json"
    fields = Fields(read_json(path), str(path))
    readers = {
        "llama": _read_llama,
        "bitnet": _read_bitnet,
        "gemma3_text": _read_gemma,
        "deepseek_v3": _read_deepseek,
        "smidgen": _read_own,
    }
    kind = fields.choice("model_type", tuple(readers))
    tree = {
        "vocab_size": fields.size("vocab_size"),
        "hidden_size": fields.size("hidden_size"),
        "eos_ids": _end_ids(folder, fields.values),
    }
    try:
        parts = {**tree, **readers[kind](fields)}
        config = EdgeModelConfig(**parts, **stored_rounding(fields, parts))
    except RecursionError:  # pragma: no cover
        raise ModelFolderError(f"{path}: nested too deeply") from None
    _check(config, fields)
    return config


def _check(config: EdgeModelConfig, fields: Fields) -> None:
    if config.num_heads % config.num_kv_heads:
        fields.refuse("num_key_value_heads", f"does not divide the {config.num_heads} heads")
    rotated = config.qk_rope_head_dim if config.latent else config.head_dim
    if rotated % 2:
        fields.refuse("head_dim", "RoPE rotates pairs; an even size is needed")
    if max(config.num_heads * max(config.head_dim, config.qk_nope_head_dim, config.v_head_dim), 1) > LARGEST:
        fields.refuse("num_attention_heads", "too large")
    if not 0 < config.softmax_scale < math.inf or config.eps <= 0:
        fields.refuse("rms_norm_eps", "a number above 0 is needed here")


def _end_ids(folder: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    ids: list[Any] = []
    generation = folder / "generation_config.json"
    for values in (read_json(generation) if generation.is_file() else {}, config):
        named = values.get("eos_token_id")
        ids += named if isinstance(named, list) else [named]
    return tuple(dict.fromkeys(i for i in ids if isinstance(i, int) and not isinstance(i, bool) and i >= 0))


def _common(f: Fields, *, tied: bool, activation: str = "hidden_act") -> dict[str, Any]:
    f.absent("attention_bias", "mlp_bias")
    layers = f.size("num_hidden_layers")
    return {
        "num_layers": layers,
        "max_seq_len": f.size("max_position_embeddings"),
        "tie_word_embeddings": f.flag("tie_word_embeddings", tied),
        "scale_embeddings": False,
        "layer_types": ("full",) * layers,
        "intermediate_size": f.size("intermediate_size"),
        "activation": f.choice(activation, ACTIVATION_NAMES),
        "gated": True,
        "norm_kind": "rms_norm",
        "norm_placement": "pre",
        "eps": f.number("rms_norm_eps", 1e-6),
        "qk_norm": False,
        "sliding_window": 0,
    }


def _grouped(f: Fields, theta: float) -> dict[str, Any]:
    heads = f.size("num_attention_heads")
    head_dim = f.size("head_dim", f.size("hidden_size") // heads)
    return {
        "num_heads": heads,
        "num_kv_heads": f.size("num_key_value_heads", heads),
        "head_dim": head_dim,
        "softmax_scale": head_dim**-0.5,
        "rope_theta": theta,
        "sliding_rope_theta": theta,
    }


def _rope(f: Fields, default: float) -> tuple[float, Fields | None]:
    """The base, and the fields of a scaling where there is one."""
    parameters = f.section("rope_scaling") or f.section("rope_parameters")
    theta = f.number("rope_theta", default, least=1.0)
    for fields in (f, parameters):
        if fields is not None and fields.values.get("partial_rotary_factor") not in (None, 1):
            fields.refuse("partial_rotary_factor", "Smidgen does not implement this; use a model without it")
    if parameters is None:
        return theta, None
    kind = parameters.values.get("rope_type", parameters.values.get("type", "default"))
    return parameters.number("rope_theta", theta, least=1.0), None if kind == "default" else parameters


def _plain_rope(f: Fields, default: float) -> float:
    theta, scaling = _rope(f, default)
    if scaling is not None:
        scaling.refuse("rope_type", "Smidgen implements no RoPE scaling here; default is needed")
    return theta


def _read_llama(f: Fields) -> dict[str, Any]:
    return {**_common(f, tied=False), **_grouped(f, _plain_rope(f, 10_000.0))}


def _read_bitnet(f: Fields) -> dict[str, Any]:
    quantization = f.section("quantization_config")
    ternary = quantization is not None  # however they are stored, models of this class were trained so
    if quantization is not None:
        quantization.absent("use_rms_norm")
    tree = {**_common(f, tied=False), **_grouped(f, _plain_rope(f, 500_000.0)), "norm_placement": "sub"}
    return {**tree, "linear": "ternary" if ternary else "dense"}


def _read_gemma(f: Fields) -> dict[str, Any]:
    f.absent("final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention", "rope_scaling")
    tree = {**_common(f, tied=True, activation="hidden_activation"), **_grouped(f, 1e6)}
    names = f.values.get("layer_types")
    if names is None:
        period = f.size("sliding_window_pattern", 6)
        names = ["sliding_attention" if (i + 1) % period else "full_attention" for i in range(tree["num_layers"])]
    known = {"full_attention": "full", "sliding_attention": "sliding"}
    is_known = isinstance(names, list) and all(isinstance(name, str) and name in known for name in names)
    if not is_known or len(names) != tree["num_layers"]:
        f.refuse("layer_types", f"a list of num_hidden_layers {tree['num_layers']} names is needed")
    types = tuple(known[name] for name in names)
    thetas = {
        "full_attention": f.number("rope_theta", 1e6, least=1.0),
        "sliding_attention": f.number("rope_local_base_freq", 1e4, least=1.0),
    }
    parameters = f.section("rope_parameters")
    for name in thetas:
        section = None if parameters is None else parameters.section(name)
        if section is not None:
            section.choice("rope_type", ("default",), "default")
            thetas[name] = section.number("rope_theta", thetas[name], least=1.0)
    head_dim = f.size("head_dim", 256)
    return {
        **tree,
        "head_dim": head_dim,
        "scale_embeddings": True,
        "layer_types": types,
        "norm_kind": "rms_norm_plus_one",
        "norm_placement": "sandwich",
        "qk_norm": True,
        "softmax_scale": f.number("query_pre_attn_scalar", 256.0, least=1e-6) ** -0.5,
        "rope_theta": thetas["full_attention"],
        "sliding_rope_theta": thetas["sliding_attention"],
        "sliding_window": f.size("sliding_window", 4096) if "sliding" in types else 0,
    }


def _latent(f: Fields, *, theta: float, yarn: Yarn | None, heads: int, names: tuple[str, ...] = ()) -> dict[str, Any]:
    nope, rope = f.size("qk_nope_head_dim"), f.size("qk_rope_head_dim")
    scale = float(nope + rope) ** -0.5
    if yarn is not None and yarn.factor > 1:
        scale *= (0.1 * yarn.mscale * math.log(yarn.factor) + 1.0) ** 2
    return {
        "latent": True,
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": 0,
        "softmax_scale": scale,
        "rope_theta": theta,
        "sliding_rope_theta": theta,
        "q_lora_rank": f.size("q_lora_rank", 0, least=0),
        "kv_lora_rank": f.size("kv_lora_rank"),
        "qk_nope_head_dim": nope,
        "qk_rope_head_dim": rope,
        "v_head_dim": f.size("v_head_dim"),
        "yarn": yarn,
    }


def _read_deepseek(f: Fields) -> dict[str, Any]:
    tree = _common(f, tied=False)
    if f.values.get("rope_interleave", True) is not True:
        f.refuse("rope_interleave", "Smidgen reads interleaved rotary pairs only")
    if f.size("first_k_dense_replace", 3, least=0) < tree["num_layers"]:
        f.refuse("first_k_dense_replace", "later layers are mixtures of experts; Smidgen runs dense models")
    if tree["eps"] != 1e-6:
        f.refuse("rms_norm_eps", "Smidgen has one eps for all norms, and latents have 1e-06")
    theta, scaling = _rope(f, 10_000.0)
    yarn = None
    if scaling is not None:
        kind = "rope_type" if "rope_type" in scaling.values else "type"
        scaling.choice(kind, ("yarn",))
        original = scaling.size("original_max_position_embeddings", tree["max_seq_len"])
        mscale = scaling.number("mscale_all_dim", 0.0)
        if original >= tree["max_seq_len"] or mscale <= 0 or scaling.number("mscale", 0.0) != mscale:
            scaling.refuse("mscale", "Smidgen implements mscale equal to mscale_all_dim, beyond the original context")
        yarn = Yarn(
            original,
            scaling.number("factor", least=1e-6),
            scaling.number("beta_fast", 32.0),
            scaling.number("beta_slow", 1.0),
            mscale,
        )
    return {**tree, **_latent(f, theta=theta, yarn=yarn, heads=f.size("num_attention_heads"))}


def _read_own(f: Fields) -> dict[str, Any]:
    """Our own class: config.json holds the model section as it is."""
    layers, max_seq_len = f.size("num_layers"), f.size("max_seq_len")
    sections = {
        name: f.section(name) or Fields({}, f"{f.where}: {name}")
        for name in ("attention", "feed_forward", "norm", "linear")
    }
    attention, inner, norm, linear = (sections[n] for n in ("attention", "feed_forward", "norm", "linear"))
    pattern = f.values.get("layer_pattern") or ["full"]
    if not isinstance(pattern, list) or not all(name in ("full", "sliding") for name in pattern):
        f.refuse("layer_pattern", "a list of full and sliding is needed here")
    types = tuple(pattern[i % len(pattern)] for i in range(layers))
    tree: dict[str, Any] = {
        "num_layers": layers,
        "max_seq_len": max_seq_len,
        "tie_word_embeddings": f.flag("tie_word_embeddings", True),
        "scale_embeddings": f.flag("scale_embeddings", False),
        "layer_types": types,
        "intermediate_size": inner.size("intermediate_size"),
        "activation": inner.choice("activation", ("silu", "gelu_tanh", "relu2"), "silu"),
        "gated": inner.flag("gated", True),
        "norm_kind": norm.choice("kind", ("rms_norm", "rms_norm_plus_one", "layer_norm"), "rms_norm"),
        "norm_placement": norm.choice("placement", ("pre", "sandwich", "sub"), "pre"),
        "eps": norm.number("eps", 1e-6),
        "linear": linear.choice("kind", ("dense", "ternary", "fp8_block"), "dense"),
        "activation_bits": linear.values.get("activation_bits", 8),
        "power_of_two_scales": linear.flag("power_of_two_scales", False),
        "qk_norm": False,
        "sliding_window": 0,
    }
    if tree["activation_bits"] not in (None, 8):
        linear.refuse("activation_bits", "8 or null is needed here")
    theta = attention.number("rope_theta", 10_000.0, least=1.0)
    heads = attention.size("num_heads")
    if attention.choice("kind", ("grouped_query", "latent"), "grouped_query") == "latent":
        yarn = attention.section("yarn") or Fields({}, f"{f.where}: attention.yarn")
        acting = Yarn(
            yarn.size("original_max_seq_len", 4096),
            yarn.number("factor", 40.0, least=1e-6),
            yarn.number("beta_fast", 32.0),
            yarn.number("beta_slow", 1.0),
            yarn.number("mscale", 1.0),
        )
        used = acting if max_seq_len > acting.original_max_seq_len else None
        return {**tree, **_latent(attention, theta=theta, yarn=used, heads=heads)}
    head_dim = attention.size("head_dim", f.size("hidden_size") // heads)
    sliding = "sliding" in types
    return {
        **tree,
        "num_heads": heads,
        "num_kv_heads": attention.size("num_kv_heads", heads),
        "head_dim": head_dim,
        "qk_norm": attention.flag("qk_norm", False),
        "softmax_scale": attention.number("query_pre_attn_scalar", float(head_dim), least=1e-6) ** -0.5,
        "rope_theta": theta,
        "sliding_rope_theta": attention.number("sliding_rope_theta", theta, least=1.0),
        "sliding_window": attention.size("sliding_window") if sliding else 0,
    }
