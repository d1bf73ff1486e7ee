"""Write a model for other programs: a folder for transformers, or a GGUF file for llama.cpp.

Example: smidgen export runs/demo --format gguf --type q8_0 --out demo.gguf
         smidgen export runs/demo --format hf --dtype bf16 --out demo-hf
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from smidgen.cli.tables import format_bytes


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model, checkpoint, run or Hugging Face folder")
    parser.add_argument("--format", required=True, choices=FORMATS, help="hf: a folder; gguf: a file")
    parser.add_argument("--out", required=True, metavar="PATH", help="where to write")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    gguf = parser.add_argument_group("gguf")
    gguf.add_argument("--type", default=None, help="f32, f16 (default), bf16, q8_0, q4_0, tq1_0, tq2_0")
    gguf.add_argument("--no-tokenizer", action="store_true", help="weights alone, for programs that feed token ids")
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    for other, names in _OWN_FLAGS.items():
        for name in names:
            if other != args.format and getattr(args, name.replace("-", "_")):
                args.usage_error(f"--{name} belongs to --format {other}")
    report = FORMATS[args.format](args)
    if args.json:
        json.dump(report, sys.stdout, indent=2)
        print()
    else:
        print(report["summary"])
    return 0


def _gguf(args: argparse.Namespace) -> dict[str, Any]:
    from pathlib import Path

    from smidgen.folders import load, load_tokenizer, resolve
    from smidgen.folders.end_tokens import end_tokens
    from smidgen.interchange.gguf.export import export_gguf

    source = resolve(args.model)
    tokenizer = None if args.no_tokenizer else load_tokenizer(args.model)
    ends = () if tokenizer is None or source.folder is None else end_tokens(source.folder, tokenizer)
    kind = args.type or "f16"
    name = Path(args.model).resolve().name
    report = export_gguf(load(args.model), args.out, tokenizer, kind, name=name, end_ids=ends)
    types = ", ".join(f"{count} {name}" for name, count in report.types.items())
    return {
        "format": "gguf",
        "path": str(report.path),
        "architecture": report.architecture,
        "bytes": report.size,
        "parameters": report.parameters,
        "bits_per_weight": round(report.bits_per_weight, 3),
        "tensors": report.types,
        "summary": f"{report.path}: {report.architecture}, {format_bytes(report.size)}, "
        f"{report.bits_per_weight:.2f} bits a weight ({types})",
    }


FORMATS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"gguf": _gguf}
_OWN_FLAGS = {"gguf": ("type", "no-tokenizer")}
