"""RoPE's fields, which transformers 4 and 5 write differently: `rope_theta` with `rope_scaling`, or `rope_parameters`.

Both are written, and either is read.
"""

from __future__ import annotations

from smidgen.config import Yarn
from smidgen.folders.architectures.base import NOT_IMPLEMENTED, Tree
from smidgen.runtime.fields import Fields


def write_rope(theta: float, yarn: Yarn | None = None) -> Tree:
    """The fields of one RoPE base for all layers; `yarn` only where it acts."""
    if yarn is None:
        return {"rope_theta": theta, "rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    scaling = {
        "rope_type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_max_seq_len,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
        # Equal ones leave cosines and sines unscaled; mscale_all_dim then scales the scores.
        "mscale": yarn.mscale,
        "mscale_all_dim": yarn.mscale,
    }
    return {
        "rope_theta": theta,
        "rope_scaling": {"type": "yarn", **scaling},
        "rope_parameters": {"rope_theta": theta, **scaling},
    }


def read_rope(fields: Fields, default_theta: float) -> float:
    """The base of a model without any scaling of its RoPE."""
    theta, scaling = read_scaled_rope(fields, default_theta)
    if scaling is not None:
        scaling.refuse(_type_name(scaling), f"Smidgen implements no RoPE scaling here; {_NEEDS_DEFAULT}")
    return theta


def read_scaled_rope(fields: Fields, default_theta: float) -> tuple[float, Fields | None]:
    """The base, and the fields of the scaling; None where there is no scaling."""
    # transformers 5 lets rope_scaling win where both stand.
    parameters = fields.section("rope_scaling") or fields.section("rope_parameters")
    fields.must_be("partial_rotary_factor", (1, 1.0), NOT_IMPLEMENTED)
    if parameters is None:
        return fields.number("rope_theta", default_theta), None
    parameters.must_be("partial_rotary_factor", (1, 1.0), NOT_IMPLEMENTED)
    theta = parameters.number("rope_theta", fields.number("rope_theta", default_theta))
    is_default = parameters.values.get(_type_name(parameters), "default") == "default"
    return theta, None if is_default else parameters


def read_yarn(scaling: Fields, max_seq_len: int) -> Tree:
    """The YaRN section of a scaling; raises ModelFolderError for other kinds and for variants we do not implement."""
    name = _type_name(scaling)
    if scaling.values[name] != "yarn":
        scaling.refuse(name, f"Smidgen implements yarn here; {_NEEDS_DEFAULT}")
    original = scaling.integer("original_max_position_embeddings", max_seq_len)
    if original >= max_seq_len:
        scaling.refuse(
            "original_max_position_embeddings",
            f"YaRN acts beyond it only, max_position_embeddings is {max_seq_len}; raise that or remove the scaling",
        )
    mscale = scaling.number("mscale_all_dim", 0.0)
    if mscale <= 0 or scaling.number("mscale", 0.0) != mscale:
        scaling.refuse("mscale", "Smidgen implements mscale equal to mscale_all_dim and above 0")
    scaling.must_be("attention_factor", (1, 1.0), NOT_IMPLEMENTED)
    scaling.must_be("truncate", (True,), NOT_IMPLEMENTED)
    return {
        "original_max_seq_len": original,
        "factor": scaling.number("factor"),
        "beta_fast": scaling.number("beta_fast", 32.0),
        "beta_slow": scaling.number("beta_slow", 1.0),
        "mscale": mscale,
    }


_NEEDS_DEFAULT = "rope_type default is needed"


def _type_name(parameters: Fields) -> str:
    return "rope_type" if "rope_type" in parameters else "type"
