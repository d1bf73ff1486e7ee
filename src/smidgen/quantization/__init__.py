"""How a trained model becomes int8, int4, ternary or FP8."""

from smidgen.quantization.convert import quantize
from smidgen.quantization.methods import METHODS, Method, quantize_by

__all__ = ["METHODS", "Method", "quantize", "quantize_by"]
