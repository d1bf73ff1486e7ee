"""The ways of rounding by name."""

from __future__ import annotations

from typing import Literal, get_args

from smidgen.config import Quantization
from smidgen.model import Decoder
from smidgen.quantization.awq import quantize_awq
from smidgen.quantization.calibration import Batches
from smidgen.quantization.convert import quantize
from smidgen.quantization.gptq import quantize_gptq
from smidgen.runtime.errors import ConfigError

Method = Literal["rtn", "gptq", "awq"]
METHODS: tuple[Method, ...] = get_args(Method)


def quantize_by(method: Method, model: Decoder, quantization: Quantization, batches: Batches | None = None) -> Decoder:
    """A quantised copy of `model`: rounded to nearest (rtn), or by the inputs that `batches` of token ids give.

    Raises ConfigError where scheme, method and model do not fit, or a method lacks its calibration text.
    """
    if method == "rtn":
        return quantize(model, quantization)
    if not batches:
        raise ConfigError(f"method = {method}: looks at the inputs of a text; name one with --calibration")
    return (quantize_gptq if method == "gptq" else quantize_awq)(model, quantization, batches)
