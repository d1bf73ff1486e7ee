"""A quantised model beside the one it was made from: size, bits a weight, what it lost, speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from smidgen.evaluation.sliding import Perplexity
from smidgen.inference import TorchEngine
from smidgen.model import Decoder, count_parameters
from smidgen.model.linear import Linear
from smidgen.model.quantized import StoredMatrix
from smidgen.runtime.sampling import SamplingParams

DECODED = 32
"""Tokens of a measurement of speed."""
_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Size:
    """What a model takes in its folder."""

    bytes: int
    """Of all weights."""
    bits_per_weight: float
    """Over all weights, scales counted in."""
    projection_bits: float
    """Over the weights of attention and feed-forward alone."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model before and after it was quantised, on the same text and the same machine."""

    size: Size
    size_before: Size
    quality: Perplexity
    quality_before: Perplexity
    agreement: float
    """Part of the positions of the text where both name the same most probable next token."""
    speed: float | None
    """Tokens a second that the PyTorch engine decodes greedily for one prompt; None where it was not asked for."""
    speed_before: float | None

    @property
    def perplexity_change(self) -> float:
        """Relative: 0.01 is one percent more."""
        return self.quality.perplexity / self.quality_before.perplexity - 1

    @property
    def bits_per_byte_change(self) -> float | None:
        """Absolute, None where the text's bytes are not known."""
        if self.quality.bits_per_byte is None or self.quality_before.bits_per_byte is None:
            return None
        return self.quality.bits_per_byte - self.quality_before.bits_per_byte


def compare(
    before: Decoder,
    after: Decoder,
    measure: Callable[[Decoder], Perplexity],
    windows: Sequence[Tensor],
    *,
    with_speed: bool = True,
) -> Comparison:
    """Measure both models. `measure` gives the perplexity of one; `windows` are int64 [B, T] of the same text.

    The size before is that of float32 weights, as checkpoints have them.
    """
    prompt = windows[0][0].tolist()[: max(1, before.config.max_seq_len - DECODED)]
    return Comparison(
        size=model_size(after),
        size_before=model_size(before),
        quality=measure(after),
        quality_before=measure(before),
        agreement=greedy_agreement(before, after, windows),
        speed=decoding_speed(after, prompt) if with_speed else None,
        speed_before=decoding_speed(before, prompt) if with_speed else None,
    )


def model_size(model: Decoder) -> Size:
    """Bytes and bits of the weights as `save` writes them: stored matrices as they are, float32 for a model of floats,
    bfloat16 for the floats of a quantised one."""
    float_bytes = 4 if model.config.quantization is None else 2
    total = projections = weights = 0
    for module in model.modules():
        if isinstance(module, StoredMatrix):
            size = sum(tensor.nbytes for tensor in module.stored.values())
        else:
            size = sum(parameter.numel() for parameter in module.parameters(recurse=False)) * float_bytes
        total += size
        if isinstance(module, Linear):
            projections += size
            weights += module.in_features * module.out_features
    return Size(total, 8 * total / count_parameters(model.config), 8 * projections / weights)


@torch.inference_mode()
def greedy_agreement(one: Decoder, other: Decoder, windows: Sequence[Tensor]) -> float:
    """Part of the positions of `windows`, int64 [B, T] each, where both have the same most probable next token."""
    same = total = 0
    for ids in windows:
        equal = one(ids).argmax(-1) == other(ids).argmax(-1)
        same, total = same + int(equal.sum()), total + equal.numel()
    return same / total


def decoding_speed(model: Decoder, prompt: Sequence[int]) -> float:
    """Tokens a second after `prompt`, greedily, for one request of the PyTorch engine; the median of three answers."""
    length = min(DECODED, model.config.max_seq_len - len(prompt))
    engine = TorchEngine(model, (), max_batch_size=1, max_seq_len=len(prompt) + length)
    seconds = []
    for _ in range(_REPEATS):
        engine.submit(prompt, SamplingParams(max_new_tokens=length, temperature=0, ignore_eos=True))
        while not any(event.token is not None for event in engine.step()):
            pass  # the prompt itself
        begun, tokens = time.perf_counter(), 0
        while tokens < length - 1:
            tokens += sum(event.token is not None for event in engine.step())
        seconds.append((time.perf_counter() - begun) / tokens)
    return 1 / median(seconds)
