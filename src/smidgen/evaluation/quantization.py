"""A quantised model beside the one it was made from: size, bits a weight, what it lost, speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from smidgen.config import Storage
from smidgen.evaluation.sliding import Perplexity
from smidgen.inference import TorchEngine
from smidgen.model import Decoder, count_parameters
from smidgen.model.linear import Linear
from smidgen.model.quantized import StoredMatrix
from smidgen.model.vocabulary import VocabularyMatrix
from smidgen.runtime.sampling import SamplingParams

DECODED = 32
"""Tokens of a measurement of speed."""
_REPEATS = 3


@dataclass(frozen=True, slots=True)
class PartSize:
    """What the matrices of one kind take that are stored alike, scales counted in."""

    part: str
    """projections, embedding, head or norms."""
    scheme: str
    """As in `Storage.label`; fp32 in a model of floats."""
    matrices: int
    weights: int
    bytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes / self.weights


@dataclass(frozen=True, slots=True)
class Size:
    """What a model takes in its folder."""

    bytes: int
    """Of all weights."""
    bits_per_weight: float
    """Over all weights, scales counted in."""
    projection_bits: float
    """Over the weights of attention and feed-forward alone."""
    parts: tuple[PartSize, ...]
    """They add up to `bytes`."""


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
    found: dict[tuple[str, str], list[int]] = {}
    for name, module in model.named_modules():
        weights = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        size = weights * float_bytes
        if isinstance(module, StoredMatrix):
            weights, size = module.size[0] * module.size[1], sum(tensor.nbytes for tensor in module.stored.values())
        if weights:
            counts = found.setdefault(_part_and_scheme(model, name, module), [0, 0, 0])
            counts[:] = [a + b for a, b in zip(counts, (1, weights, size), strict=True)]
    parts = sorted((PartSize(*key, *counts) for key, counts in found.items()), key=_order)
    total = sum(part.bytes for part in parts)
    projections = [part for part in parts if part.part == "projections"]
    projection_bits = 8 * sum(part.bytes for part in projections) / sum(part.weights for part in projections)
    return Size(total, 8 * total / count_parameters(model.config), projection_bits, tuple(parts))


def _order(part: PartSize) -> tuple[int, int]:
    return ("embedding", "projections", "head", "norms").index(part.part), -part.weights


def _part_and_scheme(model: Decoder, name: str, module: nn.Module) -> tuple[str, str]:
    quantization = model.config.quantization
    if isinstance(module, Linear):
        part, storage = "projections", None if quantization is None else quantization.storage(name)
    elif isinstance(module, VocabularyMatrix):
        part = "embedding" if name.endswith("embed_tokens") else "head"
        storage = None
        if quantization is not None:
            scheme = quantization.embedding if part == "embedding" else quantization.head
            storage = quantization.vocabulary_storage(scheme)
    else:
        part, storage = "norms", None if quantization is None else Storage("bf16")
    return part, "fp32" if storage is None else storage.label


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
