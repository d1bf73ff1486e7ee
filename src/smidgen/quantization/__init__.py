"""How a trained model becomes int8, int4, ternary or FP8."""

from smidgen.quantization.convert import quantize

__all__ = ["quantize"]
