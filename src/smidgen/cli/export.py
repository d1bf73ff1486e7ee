"""Write a model for other programs: a folder for transformers, a GGUF file for llama.cpp, or ONNX graphs.

Example: smidgen export runs/demo --format gguf --type q8_0 --out demo.gguf
         smidgen export runs/demo --format hf --dtype bf16 --out demo-hf
         smidgen export runs/demo --format onnx --precisions fp32 int4 --out demo-onnx
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
    parser.add_argument("--format", required=True, choices=FORMATS, help="hf, onnx: a folder; gguf: a file")
    parser.add_argument("--out", required=True, metavar="PATH", help="where to write")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    hf = parser.add_argument_group("hf")
    hf.add_argument("--dtype", default=None, help="fp32, bf16 (default), fp16; of a model that is not quantised")
    hf.add_argument("--push", default=None, metavar="REPO", help="upload to this repository of the hub, owner/name")
    hf.add_argument("--private", action="store_true", help="make the repository private where it is new")
    gguf = parser.add_argument_group("gguf")
    gguf.add_argument("--type", default=None, help="f32, f16 (default), bf16, q8_0, q4_0, tq1_0, tq2_0")
    gguf.add_argument("--no-tokenizer", action="store_true", help="weights alone, for programs that feed token ids")
    onnx = parser.add_argument_group("onnx")
    onnx.add_argument(
        "--precisions", nargs="+", default=None, metavar="P", help="some of fp32 (default), fp16, int8, int4"
    )
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    for other, names in _OWN_FLAGS.items():
        for name in names:
            if other != args.format and getattr(args, name.replace("-", "_")):
                args.usage_error(f"--{name} belongs to --format {other}")
    if args.private and not args.push:
        args.usage_error("--private belongs to --push")
    report = FORMATS[args.format](args)
    summary = report.pop("summary")
    if args.json:
        json.dump(report, sys.stdout, indent=2)
        print()
    else:
        print(summary)
    return 0


def _gguf(args: argparse.Namespace) -> dict[str, Any]:
    from pathlib import Path

    from smidgen.interchange.gguf.export import export_gguf
    from smidgen.interchange.source import open_source

    source = open_source(args.model, needs_tokenizer=not args.no_tokenizer)
    tokenizer = None if args.no_tokenizer else source.tokenizer
    kind = args.type or "f16"
    name = Path(args.model).resolve().name
    report = export_gguf(source.model, args.out, tokenizer, kind, name=name, end_ids=source.end_ids)
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


def _hugging_face(args: argparse.Namespace) -> dict[str, Any]:
    from smidgen.interchange.hugging_face import check_repository, export_hugging_face, push_to_hub

    if args.push:
        check_repository(args.push)
    report = export_hugging_face(args.model, args.out, args.dtype)
    content: dict[str, Any] = {
        "format": "hf",
        "path": str(report.path),
        "class": report.class_name,
        "parameters": report.parameters,
        "dtype": report.dtype,
        "bytes": report.size,
    }
    size = format_bytes(report.size)
    summary = f"{report.path}: {report.class_name}, {report.parameters:,} parameters, {report.dtype}, {size}"
    if args.push:
        content["repository"] = push_to_hub(args.out, args.push, args.private)
        summary += f"\npushed to {content['repository']}"
    return {**content, "summary": summary}


def _onnx(args: argparse.Namespace) -> dict[str, Any]:
    from smidgen.interchange.onnx.export import export_onnx
    from smidgen.interchange.source import open_source

    source = open_source(args.model)
    written = export_onnx(source.model, args.out, source.tokenizer, args.precisions or ["fp32"], source.end_ids)
    lines = [
        f"{v.path}: {v.precision}, {format_bytes(v.size)}; beside the model in onnxruntime: logits within "
        f"{v.agreement.logits_difference:.1e} of the largest, {v.agreement.token_agreement:.0%} of the likeliest tokens"
        for v in written
    ]
    graphs = [
        {
            "precision": v.precision,
            "path": str(v.path),
            "bytes": v.size,
            "logits_difference": v.agreement.logits_difference,
            "token_agreement": v.agreement.token_agreement,
        }
        for v in written
    ]
    return {"format": "onnx", "path": args.out, "graphs": graphs, "summary": "\n".join(lines)}


FORMATS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"hf": _hugging_face, "gguf": _gguf, "onnx": _onnx}
_OWN_FLAGS = {"hf": ("dtype", "push", "private"), "gguf": ("type", "no-tokenizer"), "onnx": ("precisions",)}
