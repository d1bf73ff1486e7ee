"""Make a smaller model of a trained one, and report what it lost.

Example: smidgen quantize runs/demo --scheme int4 --out demo-int4 --data data
         smidgen quantize runs/demo --scheme int4 --method gptq --calibration data --out demo-int4 --data data
         smidgen quantize runs/demo --scheme int4 --override 'down_proj=int8' --override 'layers.0.*=bf16' --out mixed
         smidgen quantize runs/demo --scheme int4 --sensitivity --data data
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from smidgen.config import ModelConfig, Quantization
    from smidgen.evaluation.quantization import Comparison, PartSize
    from smidgen.evaluation.sliding import Perplexity
    from smidgen.model import Decoder

_CALIBRATION_LENGTH = 512
_TOKENS = 16_384
"""To calibrate with, and to measure on, unless said otherwise."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model, checkpoint, run or Hugging Face folder")
    parser.add_argument(
        "--scheme",
        required=True,
        choices=["int8", "int4", "ternary", "fp8_block", "fp8_tensor"],
        help="of the projections; ternary packs a model trained with ternary weights",
    )
    parser.add_argument("--out", metavar="DIR", help="folder of the new model")
    parser.add_argument(
        "--sensitivity",
        action="store_true",
        help="write no model, but measure what each kind of projection and each layer loses when quantised alone",
    )
    parser.add_argument(
        "--method",
        choices=["rtn", "gptq", "awq"],
        default="rtn",
        help="how weights are rounded (default: rtn, to nearest)",
    )
    parser.add_argument("--group-size", type=int, choices=[32, 64, 128], help="of int4 (default: 32)")
    parser.add_argument("--asymmetric", action="store_true", help="int4 with a zero point a group")
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="PATTERN=SCHEME",
        help="projections stored otherwise, by a pattern of their names: down_proj=int8, 'layers.0.*=bf16'; bf16, "
        "int8, int4, int4/64, fp8_tensor; may be given again, the first that matches decides",
    )
    for part in ("head", "embedding"):
        parser.add_argument(
            f"--{part}",
            choices=["bf16", "int8", "int4"],
            help=f"scheme of the {part} (default: bf16); where they are tied, head and embedding are one",
        )
    parser.add_argument(
        "--activation-bits", type=int, choices=[8, 16], help="8 rounds inputs of projections too (default: as trained)"
    )
    parser.add_argument("--calibration", metavar="DATA", help="a dataset folder or text file for gptq and awq")
    parser.add_argument("--calibration-tokens", type=int, metavar="N", help="tokens of it (default: 16384)")
    measured = parser.add_mutually_exclusive_group()
    measured.add_argument("--data", metavar="DIR", help="measure the loss of quality on a dataset's validation split")
    measured.add_argument("--text", metavar="FILE", help="measure it on a UTF-8 text file")
    parser.add_argument("--tokens", type=int, metavar="N", help="about so many tokens to measure on (default: 16384)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    from smidgen.evaluation.quantization import compare, model_size
    from smidgen.folders import carry_settings, check_target, load_tokenizer, resolve, save
    from smidgen.folders.model_folder import QUANTIZATION_REPORT
    from smidgen.interchange.source import load_merged
    from smidgen.quantization import quantize_by
    from smidgen.runtime.errors import ModelFolderError
    from smidgen.runtime.files import write_text
    from smidgen.training.devices import resolve_device

    _check(args)
    folder = resolve(args.model).folder
    if folder is None:
        raise ModelFolderError(f"{args.model}: a preset has random weights; name a trained model")
    if args.out is not None:
        if Path(args.out).resolve() == folder.resolve():
            raise ModelFolderError(f"--out {args.out}: is the model itself; name another folder")
        check_target(args.out)
    model = load_merged(args.model).to(resolve_device(args.device))
    quantization = _quantization(args, model.config)
    sample = _sample(args, model)
    batches = None if args.calibration is None else _windows(args, model, args.calibration, "train")
    quantized = quantize_by(args.method, model, quantization, batches)
    if args.sensitivity:
        assert sample is not None
        _print_sensitivities(args, model, quantized, sample[0])
        return 0
    try:
        tokenizer = load_tokenizer(args.model)
    except ModelFolderError:
        tokenizer = None  # a bare model of another project
    save(quantized, args.out, tokenizer, carry_settings(folder))
    comparison = None if sample is None else compare(model, quantized, *sample)
    sizes = (model_size(model), model_size(quantized)) if comparison is None else None
    figures = _figures(args, quantization, comparison, sizes)
    if comparison is not None:
        # The model's card is made of it.
        write_text(Path(args.out) / QUANTIZATION_REPORT, json.dumps(figures, indent=2) + "\n")
    if args.json:
        json.dump(figures, sys.stdout, indent=2)
        print()
    else:
        _print(args, comparison, sizes)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse options that would be without effect, and numbers below 2; set the defaults of those not given."""
    from smidgen.runtime.errors import ConfigError

    if (args.out is None) != args.sensitivity:
        args.usage_error("either --out DIR, for the new model, or --sensitivity, for measurements, is needed")
    if args.sensitivity and not (args.data or args.text):
        args.usage_error("--sensitivity needs --data or --text to measure on")
    for flag, is_given in (("override", args.override), ("head", args.head), ("embedding", args.embedding)):
        if args.sensitivity and is_given:
            args.usage_error(
                f"--{flag} has no place beside --sensitivity, which quantises projections alone, each by itself"
            )
    if args.calibration is not None and args.method == "rtn":
        raise ConfigError("--calibration: rounding to nearest looks at no text; add --method gptq or awq")
    if args.calibration_tokens is not None and args.calibration is None:
        args.usage_error("--calibration-tokens needs --calibration")
    if args.tokens is not None and not (args.data or args.text):
        args.usage_error("--tokens needs --data or --text")
    overrides = [text.rpartition("=")[2].partition("/")[0] for text in args.override]
    if "int4" not in (args.scheme, args.head, args.embedding, *overrides):
        for flag, is_given in (("group-size", args.group_size is not None), ("asymmetric", args.asymmetric)):
            if is_given:
                args.usage_error(f"--{flag} is of int4, and nothing becomes int4 here")
    for name in ("tokens", "calibration_tokens"):
        if getattr(args, name) is None:
            setattr(args, name, _TOKENS)
        elif getattr(args, name) < 2:
            raise ConfigError(f"--{name.replace('_', '-')} = {getattr(args, name)}: use 2 or more")


def _quantization(args: argparse.Namespace, model: ModelConfig) -> Quantization:
    from smidgen.config import Quantization, validate

    head, embedding = args.head, args.embedding
    if model.tie_word_embeddings:
        # One matrix: what is said of one is said of both; a contradiction is the configuration's to refuse.
        head, embedding = head or embedding, embedding or head
    bits = args.activation_bits
    return validate(
        Quantization,
        {
            "scheme": args.scheme,
            "group_size": args.group_size or 32,
            "symmetric": not args.asymmetric,
            "head": head or "bf16",
            "embedding": embedding or "bf16",
            "activation_bits": bits if bits is not None else 8 if model.rounds_activations else 16,
            "overrides": _overrides(args.override),
        },
    )


def _overrides(given: list[str]) -> dict[str, str]:
    from smidgen.runtime.errors import ConfigError

    overrides: dict[str, str] = {}
    for text in given:
        pattern, has_scheme, scheme = text.rpartition("=")
        if not (pattern and has_scheme and scheme):
            raise ConfigError(f"--override {text}: write PATTERN=SCHEME, such as down_proj=int8")
        if pattern in overrides:
            raise ConfigError(f"--override {text}: {pattern}={overrides[pattern]} decides already; give one of them")
        overrides[pattern] = scheme
    return overrides


def _windows(args: argparse.Namespace, model: Decoder, source: str, split: str) -> list[Tensor]:
    """Token ids [1, T] of a dataset's split or of a text file, as many tokens as were asked for."""
    import torch

    from smidgen.data import Dataset, validation_windows
    from smidgen.evaluation.perplexity import TextWindows

    budget = args.calibration_tokens if split == "train" else args.tokens
    length = min(model.config.max_seq_len, _CALIBRATION_LENGTH)
    if Path(source).is_dir():
        dataset = Dataset.open(source)
        tokens = dataset.train if split == "train" else dataset.val
        tokens.check_vocab(model.config.vocab_size)
        windows: Any = validation_windows(tokens, length, budget)
    else:
        windows = TextWindows(_text_ids(args.model, source, budget), length)
    device = model.head_weight.device
    count = max(1, min(windows.per_epoch, budget // length))
    return [torch.from_numpy(windows.batch(i, 1).input_ids).to(device) for i in range(count)]


def _text_ids(model: str, path: str, budget: int) -> list[int]:
    from smidgen.cli.evaluating import read_text
    from smidgen.folders import load_tokenizer
    from smidgen.runtime.errors import DataError

    ids = load_tokenizer(model).encode(read_text(Path(path)))[: budget + 1]
    if len(ids) < 2:
        raise DataError(f"{path}: a text of {len(ids)} tokens: give a longer one")
    return ids


def _sample(args: argparse.Namespace, model: Decoder) -> tuple[Callable[[Decoder], Perplexity], list[Tensor]] | None:
    """What gives a model's perplexity, and windows of the same text; None where nothing is to be measured.

    Read before anything is written, so that a mistake in it costs nothing.
    """
    from smidgen.cli.evaluating import read_text
    from smidgen.data import Dataset
    from smidgen.evaluation.perplexity import evaluate_dataset, evaluate_text
    from smidgen.folders import load_tokenizer

    if args.data:
        dataset = Dataset.open(args.data)
        return partial(evaluate_dataset, dataset=dataset, max_tokens=args.tokens), _windows(
            args, model, args.data, "val"
        )
    if args.text is None:
        return None
    tokenizer, text = load_tokenizer(args.model), read_text(Path(args.text))
    windows = _windows(args, model, args.text, "val")
    count = len(tokenizer.encode(text))
    if count > args.tokens:
        # Cut the text, not its tokens, so that its bytes are known.
        text = text[: len(text) * args.tokens // count]
    return partial(evaluate_text, tokenizer=tokenizer, text=text), windows


def _figures(args: argparse.Namespace, quantization: Quantization, comparison: Comparison | None, sizes: Any) -> Any:
    before, after = sizes or (comparison.size_before, comparison.size)  # type: ignore[union-attr]
    figures = {
        "out": args.out,
        "method": args.method,
        **quantization.model_dump(),
        "bytes": after.bytes,
        "bytes_before": before.bytes,
        "bits_per_weight": after.bits_per_weight,
        "projection_bits": after.projection_bits,
        "parts": [asdict(part) | {"bits_per_weight": part.bits_per_weight} for part in after.parts],
    }
    if comparison is not None:
        figures |= {
            "measured_on": Path(args.data or args.text).name,
            "measured_tokens": comparison.quality.tokens,
            "perplexity": comparison.quality.perplexity,
            "perplexity_before": comparison.quality_before.perplexity,
            "perplexity_change": comparison.perplexity_change,
            "bits_per_byte": comparison.quality.bits_per_byte,
            "bits_per_byte_before": comparison.quality_before.bits_per_byte,
            "greedy_agreement": comparison.agreement,
            "tokens_per_second": comparison.speed,
            "tokens_per_second_before": comparison.speed_before,
        }
    return figures


def _print(args: argparse.Namespace, comparison: Comparison | None, sizes: Any) -> None:
    from smidgen.cli.tables import format_bytes, print_table

    before, after = sizes or (comparison.size_before, comparison.size)  # type: ignore[union-attr]
    rows = [
        ["size", format_bytes(before.bytes), format_bytes(after.bytes)],
        ["bits a weight", f"{before.bits_per_weight:.2f}", f"{after.bits_per_weight:.2f}"],
        ["bits a weight of projections", f"{before.projection_bits:.2f}", f"{after.projection_bits:.2f}"],
    ]
    if comparison is not None:
        one, other = comparison.quality_before, comparison.quality
        rows.append(
            ["perplexity", f"{one.perplexity:.3f}", f"{other.perplexity:.3f} ({comparison.perplexity_change:+.2%})"]
        )
        if one.bits_per_byte is not None and other.bits_per_byte is not None:
            change = other.bits_per_byte - one.bits_per_byte
            rows.append(["bits per byte", f"{one.bits_per_byte:.4f}", f"{other.bits_per_byte:.4f} ({change:+.4f})"])
        rows.append(["same most probable token", "", f"{comparison.agreement:.2%}"])
        if comparison.speed_before is not None and comparison.speed is not None:
            rows.append(["tokens a second, PyTorch", f"{comparison.speed_before:.0f}", f"{comparison.speed:.0f}"])
    print_table(["", "before", args.scheme], rows)
    if args.override:
        print()
        headers = ["part", "scheme", "matrices", "weights", "size", "bits a weight"]
        print_table(headers, [_part_row(part) for part in after.parts])
    schemes = ", ".join([args.scheme, *args.override])
    print(f'\n{args.out}: {schemes}, {args.method}. Next: smidgen generate {args.out} "Once"')
    if comparison is None:
        print("--data DIR or --text FILE measures what it lost.")


def _print_sensitivities(
    args: argparse.Namespace, model: Decoder, quantized: Decoder, measure: Callable[[Decoder], Perplexity]
) -> None:
    from smidgen.cli.tables import print_table
    from smidgen.evaluation.sensitivity import sensitivities

    found = sorted(sensitivities(model, quantized, measure), key=lambda one: -one.perplexity_change)
    if args.json:
        json.dump([asdict(one) for one in found], sys.stdout, indent=2)
        print()
        return
    rows = [
        [one.pattern, f"{one.weights:,}", f"{one.perplexity:.3f}", f"{one.perplexity_change:+.3%}"] for one in found
    ]
    print_table([f"{args.scheme} alone", "weights", "perplexity", "change"], rows)
    print(f"\nTo keep the first in more bits: --override '{found[0].pattern}=int8'")


def _part_row(part: PartSize) -> list[str]:
    from smidgen.cli.tables import format_bytes

    bits = f"{part.bits_per_weight:.2f}"
    return [part.part, part.scheme, f"{part.matrices:,}", f"{part.weights:,}", format_bytes(part.bytes), bits]
