"""Make one model of several, or of a model and its adapter.

Example: smidgen merge runs/maths runs/code --base runs/base --method ties --density 0.3 --out merged
         smidgen merge a b --weights 0.7 0.3 --out soup
         smidgen merge --slices a:0-8 b:4-12 --method passthrough --out deeper
         smidgen merge --lora runs/adapter --out tuned
         smidgen merge --lora runs/adapter --unmerge tuned --out base
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from smidgen.model import Decoder
    from smidgen.runtime.protocols import Tokenizer
    from smidgen.tuning.merging import Method


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", metavar="MODEL", nargs="*", help="models of one architecture and tokenizer")
    parser.add_argument("--out", metavar="DIR", required=True, help="model folder to write")
    parser.add_argument(
        "--method",
        choices=["linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "passthrough"],
        default=None,
        help="how (default: linear); docs/adapting.md defines each",
    )
    parser.add_argument("--base", metavar="MODEL", help="what all models began with: task_arithmetic, ties, dare")
    parser.add_argument("--weights", metavar="W", type=float, nargs="+", help="a coefficient each (default: 1)")
    parser.add_argument("--density", metavar="P", type=float, help="ties, dare: share that is kept (default: 0.5)")
    parser.add_argument("--scale", metavar="X", type=float, help="λ of the merged difference (default: 1)")
    parser.add_argument("--t", metavar="T", type=float, help="slerp: 0 the first model, 1 the second (default: 0.5)")
    parser.add_argument("--seed", metavar="N", type=int, help="dare: of the random choice (default: 0)")
    parser.add_argument("--slices", metavar="MODEL:A-B", nargs="+", help="passthrough: layers A to B - 1 of MODEL")
    parser.add_argument("--lora", metavar="ADAPTER", help="put an adapter into the weights of its base")
    parser.add_argument("--into", metavar="MODEL", help="with --lora: into this model, not the adapter's own base")
    parser.add_argument("--unmerge", metavar="MODEL", help="with --lora: take the adapter out of this model again")
    parser.add_argument("--round", action="store_true", help="with --lora: also where the base rounds its weights")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(args: argparse.Namespace) -> int:
    from smidgen.folders import carry_settings, resolve, save
    from smidgen.model import count_parameters
    from smidgen.tuning.merging import MergingError

    begun = time.perf_counter()
    if args.lora is not None:
        if args.models or args.method or args.slices or args.base:
            raise MergingError(
                "--lora: merges an adapter with its base; leave out MODEL, --method, --slices and --base"
            )
        if args.into is not None and args.unmerge is not None:
            raise MergingError("--unmerge: takes the adapter out, --into puts it in; give one of them")
        model, tokenizer = _adapter(args)
        how = "lora" if args.unmerge is None else "unmerge"
    else:
        for flag in ("into", "unmerge", "round"):
            if getattr(args, flag):
                raise MergingError(f"--{flag}: goes with --lora ADAPTER")
        model, tokenizer = _models(args)
        how = args.method or "linear"
    first = args.lora or (args.models[0] if args.models else args.slices[0].rpartition(":")[0])
    # Where its answers end, which a chat model's folder says beside the tokenizer.
    settings = None if tokenizer is None else carry_settings(resolve(first).folder)
    folder = save(model, args.out, tokenizer, settings)
    result = {
        "model": str(folder),
        "method": how,
        "parameters": count_parameters(model.config),
        "seconds": round(time.perf_counter() - begun, 2),
    }
    if args.json:
        json.dump(result, sys.stdout, indent=2)
        print()
    else:
        print(f"{folder}: {result['parameters']:,} parameters, {how}, {result['seconds']} s")
        print(f'Let it write: smidgen generate {folder} "Once upon a time"')
    return 0


def _adapter(args: argparse.Namespace) -> tuple[Decoder, Tokenizer | None]:
    from smidgen.tuning.merged_models import common_tokenizer, merge_adapter

    into, sign = (args.into, 1) if args.unmerge is None else (args.unmerge, -1)
    model = merge_adapter(args.lora, sign=sign, into=into, rounded=args.round)
    return model, common_tokenizer([args.lora])


def _models(args: argparse.Namespace) -> tuple[Decoder, Tokenizer | None]:
    from smidgen.tuning.merged_models import Slice, merge_models, stack_layers
    from smidgen.tuning.merging import Merging, MergingError

    method = args.method or "linear"
    given = {name: getattr(args, name) for name in ("density", "scale", "t", "seed") if getattr(args, name) is not None}
    _refuse_useless(method, given)
    if (method == "passthrough") != (args.slices is not None):
        raise MergingError("--slices: goes with --method passthrough, which needs it: --slices MODEL:0-4 …")
    if args.slices is not None:
        if args.models or args.base or args.weights:
            raise MergingError("--slices: names the models; leave out MODEL, --base and --weights")
        return stack_layers([Slice.parse(text) for text in args.slices])
    weights = None if args.weights is None else tuple(args.weights)
    shown = _progress if sys.stderr.isatty() else (lambda done, total: None)
    return merge_models(args.models, args.base, Merging(method=cast("Method", method), weights=weights, **given), shown)


_USES = {
    "density": ("ties", "dare_linear", "dare_ties"),
    "scale": ("task_arithmetic", "ties", "dare_linear", "dare_ties"),
    "t": ("slerp",),
    "seed": ("dare_linear", "dare_ties"),
}


def _refuse_useless(method: str, given: dict[str, float]) -> None:
    from smidgen.tuning.merging import MergingError

    for name in given:
        if method not in _USES[name]:
            raise MergingError(f"--{name}: belongs to --method {', '.join(_USES[name])}; leave it out with {method}")


def _progress(done: int, total: int) -> None:
    print(f"\rtensor {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
