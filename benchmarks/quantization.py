"""What each scheme makes of a trained model: size, perplexity, bits per byte, agreement, speed.

    python benchmarks/quantization.py --model llama-like=runs/elite --model tinylm=runs/tinylm --data data \
        --json benchmarks/results/quantization.json

    python benchmarks/quantization.py --model llama-like=runs/elite --data data --no-speed --only int4/32 \
        'int4/32, down_proj int8' --json benchmarks/results/quantization_mixed.json

    python benchmarks/quantization.py --speed elite-112m tinylm-300m --json benchmarks/results/quantization_speed.json

`--speed` measures presets of a real size, with random weights, which are as fast as trained ones: greedy decoding by
the PyTorch engine in float32 and in bfloat16, one prompt, beside the same model not quantised in float32.

Models are runs trained on the dataset of `--data`; figures are of its validation split, and beside each stands that of
the model as it was trained, float32, in the same run. Calibration is on the training split. A scheme that a model has
no form for is left out and said so.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any

import report
import torch
from torch import Tensor

import smidgen
from smidgen.config import ModelConfig, Quantization
from smidgen.data import Dataset, validation_windows
from smidgen.evaluation.perplexity import Perplexity, evaluate_dataset
from smidgen.evaluation.quantization import compare, decoding_speed
from smidgen.model import Decoder
from smidgen.quantization import Method, quantize, quantize_by
from smidgen.runtime.errors import ConfigError

SCHEMES: tuple[tuple[str, Method, dict[str, Any]], ...] = (
    ("int8", "rtn", {"scheme": "int8"}),
    ("int8, activations int8, head and embedding int8", "rtn",
     {"scheme": "int8", "activation_bits": 8, "head": "int8", "embedding": "int8"}),
    ("int4/32", "rtn", {"scheme": "int4"}),
    ("int4/32 gptq", "gptq", {"scheme": "int4"}),
    ("int4/32 awq", "awq", {"scheme": "int4"}),
    ("int4/32, head and embedding int8", "rtn", {"scheme": "int4", "head": "int8", "embedding": "int8"}),
    ("int4/32, head and embedding int4", "rtn", {"scheme": "int4", "head": "int4", "embedding": "int4"}),
    ("int4/32 asymmetric", "rtn", {"scheme": "int4", "symmetric": False}),
    ("int4/64", "rtn", {"scheme": "int4", "group_size": 64}),
    ("int4/128", "rtn", {"scheme": "int4", "group_size": 128}),
    ("int4/128 gptq", "gptq", {"scheme": "int4", "group_size": 128}),
    ("int4/32, down_proj int8", "rtn", {"scheme": "int4", "overrides": {"down_proj": "int8"}}),
    ("int4/32 gptq, down_proj int8", "gptq", {"scheme": "int4", "overrides": {"down_proj": "int8"}}),
    ("int4/32, first layer int8", "rtn", {"scheme": "int4", "overrides": {"layers.0.*": "int8"}}),
    ("int4/32, attention int8", "rtn", {"scheme": "int4", "overrides": {"self_attn.*": "int8"}}),
    ("ternary packed", "rtn", {"scheme": "ternary"}),
    ("ternary packed, head and embedding int8", "rtn", {"scheme": "ternary", "head": "int8", "embedding": "int8"}),
    ("fp8 blocks", "rtn", {"scheme": "fp8_block"}),
    ("fp8 tensorwise", "rtn", {"scheme": "fp8_tensor"}),
)  # fmt: skip


SPEED_SCHEMES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("int8", {"scheme": "int8"}),
    ("int8, head and embedding int8", {"scheme": "int8", "head": "int8", "embedding": "int8"}),
    ("int8, activations int8, head and embedding int8",
     {"scheme": "int8", "activation_bits": 8, "head": "int8", "embedding": "int8"}),
    ("int4/32", {"scheme": "int4"}),
    ("ternary packed, head and embedding int8", {"scheme": "ternary", "head": "int8", "embedding": "int8"}),
)  # fmt: skip
PROMPT = tuple(range(1, 33))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=MODEL", help="may be given again")
    parser.add_argument("--data", help="the dataset folder that the models were trained on")
    parser.add_argument("--speed", nargs="+", default=[], metavar="PRESET", help="presets whose speed is measured")
    parser.add_argument("--tokens", type=int, default=16_384, help="of the validation split (default: 16384)")
    parser.add_argument("--seq-len", type=int, default=128, help="tokens a window (default: 128)")
    parser.add_argument("--calibration-tokens", type=int, default=8_192, help="of the training split (default: 8192)")
    parser.add_argument("--only", nargs="+", metavar="SCHEME", help="labels of the schemes to measure (default: all)")
    parser.add_argument("--no-speed", action="store_true", help="leave speed out: it needs a machine that is idle")
    parser.add_argument("--json", required=True, metavar="FILE")
    args = parser.parse_args()
    if bool(args.model) != (args.data is not None):
        parser.error("--model and --data go together")
    results = []
    for found in chain(all_figures(args), *(speeds(preset) for preset in args.speed)):
        results.append(found)
        line = f"{found['case']:<62} {found['metric']:<24} {found['ours']:>12.4f}  before {found['peer']:>12.4f}"
        print(line, flush=True)
    report.write(args.json, results)


def all_figures(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The figures of every model."""
    for named in args.model:
        name, _, path = named.partition("=")
        yield from figures(name, smidgen.load(path), Dataset.open(args.data), args)


def speeds(preset: str) -> Iterator[dict[str, Any]]:
    """How fast each scheme decodes a preset with random weights."""
    model = smidgen.build(preset, seed=0)
    before = decoding_speed(model, PROMPT)
    yield from _speeds_of(f"{preset}, not quantised", model, before)
    for label, fields in SPEED_SCHEMES:
        try:
            quantized = quantize(model, quantization(fields, model.config))
        except ConfigError as error:
            print(f"{preset} {label}: left out: {error}")
            continue
        yield from _speeds_of(f"{preset}, {label}", quantized, before)


def _speeds_of(case: str, model: Decoder, before: float) -> Iterator[dict[str, Any]]:
    for name, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
        model.compute_dtype = dtype
        speed = decoding_speed(model, PROMPT)
        yield report.result(case, f"decode, PyTorch, {name}", "tokens/s", speed, before, "float32")
    model.compute_dtype = None


def figures(name: str, model: Decoder, dataset: Dataset, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The figures of every scheme that `model` has a form for."""
    calibration = windows(dataset.train, args.seq_len, args.calibration_tokens)
    text = windows(dataset.val, args.seq_len, args.tokens)

    @cache
    def measure(decoder: Decoder) -> Perplexity:
        return evaluate_dataset(decoder, dataset, seq_len=args.seq_len, max_tokens=args.tokens)

    for label, method, fields in SCHEMES:
        if args.only and label not in args.only:
            continue
        try:
            quantized = quantize_by(method, model, quantization(fields, model.config), calibration)
        except ConfigError as error:
            print(f"{name} {label}: left out: {error}")
            continue
        c = compare(model, quantized, measure, text, with_speed=not args.no_speed)
        case = f"{name}, {label}"
        yield report.result(case, "size", "bytes", c.size.bytes, c.size_before.bytes, "float32")
        yield report.result(
            case, "bits a weight", "bits", c.size.bits_per_weight, c.size_before.bits_per_weight, "float32"
        )
        bits, before = c.size.projection_bits, c.size_before.projection_bits
        yield report.result(case, "bits a projection weight", "bits", bits, before, "float32")
        one, other = c.quality, c.quality_before
        yield report.result(case, "perplexity", "a token", one.perplexity, other.perplexity, "float32")
        if one.bits_per_byte is not None and other.bits_per_byte is not None:
            yield report.result(case, "bits per byte", "bits", one.bits_per_byte, other.bits_per_byte, "float32")
        yield report.result(case, "greedy agreement", "share", c.agreement, 1.0, "float32")
        if c.speed is not None and c.speed_before is not None:
            yield report.result(case, "decode, PyTorch", "tokens/s", c.speed, c.speed_before, "float32")


def quantization(fields: dict[str, Any], model: ModelConfig) -> Quantization:
    """A scheme as the model can have it: activations as it was trained."""
    return Quantization(**(fields | ({"activation_bits": 8} if model.rounds_activations else {})))


def windows(split: Any, seq_len: int, tokens: int) -> list[Tensor]:
    """Token ids [8, T] of a split."""
    found = validation_windows(split, seq_len, tokens)
    starts = range(0, max(1, found.per_epoch - 7), 8)
    return [torch.from_numpy(found.batch(start, min(8, found.per_epoch)).input_ids) for start in starts]


if __name__ == "__main__":
    main()
