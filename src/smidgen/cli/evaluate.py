"""Loss, perplexity and bits per byte of a model on a dataset folder or a text file.

Example: smidgen evaluate runs/demo --data data
         smidgen evaluate runs/demo --text story.txt --json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smidgen.data import Dataset


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model, checkpoint, run or Hugging Face folder")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="DIR", help="a dataset folder that 'smidgen prepare' wrote")
    source.add_argument("--text", metavar="FILE", help="a UTF-8 text file; - reads standard input")
    parser.add_argument("--split", choices=["val", "train"], default="val", help="split of the dataset (default: val)")
    parser.add_argument("--tokens", type=int, metavar="N", help="read about N tokens of the split (default: all)")
    parser.add_argument("--seq-len", type=int, metavar="T", help="tokens a window (default: the model's context)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="B", help="windows at once (default: 8)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="type of products")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    from smidgen.data import Dataset
    from smidgen.evaluation.perplexity import evaluate_dataset, evaluate_text
    from smidgen.folders import load, load_tokenizer
    from smidgen.runtime.errors import ConfigError
    from smidgen.training.devices import resolve_device
    from smidgen.training.precision import apply_precision

    for name in ("tokens", "seq_len", "batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} = {value}: use 1 or more")
    device = resolve_device(args.device)
    model = load(args.model, device=device)
    apply_precision(model, args.precision, device)
    if args.seq_len is not None and args.seq_len > model.config.max_seq_len:
        raise ConfigError(f"--seq-len = {args.seq_len}: exceeds the model's context of {model.config.max_seq_len}")
    if args.data is not None:
        dataset = Dataset.open(args.data)
        check_tokenizer(args.model, dataset)
        result = evaluate_dataset(
            model,
            dataset,
            split=args.split,
            seq_len=args.seq_len,
            max_tokens=args.tokens,
            batch_size=args.batch_size,
        )
    else:
        text = sys.stdin.read() if args.text == "-" else read_text(Path(args.text))
        result = evaluate_text(
            model, load_tokenizer(args.model), text, seq_len=args.seq_len, batch_size=args.batch_size
        )
    figures = {
        "loss": result.loss,
        "perplexity": result.perplexity,
        "bits_per_byte": result.bits_per_byte,
        "tokens": result.tokens,
    }
    if args.json:
        json.dump(figures, sys.stdout, indent=2)
        print()
        return 0
    print(f"loss           {result.loss:.4f} nats a token")
    print(f"perplexity     {result.perplexity:.3f}")
    shown = "unknown (the dataset does not say how many bytes it has)"
    print(f"bits per byte  {shown if result.bits_per_byte is None else f'{result.bits_per_byte:.4f}'}")
    print(f"tokens         {result.tokens:,}")
    return 0


def check_tokenizer(model: str, dataset: Dataset) -> None:
    """Refuse a dataset whose ids mean something else to the model than to its tokenizer."""
    from smidgen.data import compatibility
    from smidgen.folders import load_tokenizer
    from smidgen.runtime.errors import ModelFolderError

    try:
        tokenizer = load_tokenizer(model)
    except ModelFolderError:
        return  # a preset or a bare model has no tokenizer; the ids themselves are checked
    compatibility.check_tokenizer(dataset, dataset.path, tokenizer, model)


def read_text(path: Path) -> str:
    from smidgen.runtime.errors import DataError

    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert it first") from None
