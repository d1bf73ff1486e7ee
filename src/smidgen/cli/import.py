"""Make a model folder of another program's model: a GGUF file, a .pt checkpoint (RSCaLM, TransformerEngine, descendants
of nanoGPT) or a Hugging Face folder.

Example: smidgen import model.gguf --out imported
         smidgen import ckpt_best.pt --tokenizer data/tokenizer.model --out imported
"""

from __future__ import annotations

import argparse
import json
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a .gguf file, a .pt checkpoint, or a Hugging Face folder")
    parser.add_argument("--out", required=True, metavar="DIR", help="model folder to write")
    parser.add_argument("--tokenizer", metavar="PATH", help="tokenizer folder or file, where the source has none")
    parser.add_argument("--json", action="store_true", help="print what was imported as JSON")
    group = parser.add_argument_group("what a .pt checkpoint may leave out")
    group.add_argument("--num-heads", type=int, metavar="N", help="query heads")
    group.add_argument("--max-seq-len", type=int, metavar="N", help="context in tokens")
    group.add_argument("--rope-theta", type=float, metavar="X", help="base of the rotary frequencies")
    group.add_argument("--norm-eps", type=float, metavar="X", help="eps of the norms")
    group.add_argument(
        "--rope", choices=["halves", "interleaved"], default="halves", help="which dimensions its RoPE pairs"
    )


def run(args: argparse.Namespace) -> int:
    from smidgen.interchange.checkpoints.importing import Hints
    from smidgen.interchange.importing import import_model

    hints = Hints(args.num_heads, args.max_seq_len, args.rope_theta, args.norm_eps, args.rope == "interleaved")
    found = import_model(args.source, args.out, args.tokenizer, hints)
    parameters = sum(parameter.numel() for parameter in found.model.parameters())
    if args.json:
        content = {
            "path": args.out,
            "kind": found.kind,
            "parameters": parameters,
            "tokenizer": found.tokenizer is not None,
        }
        json.dump(content, sys.stdout, indent=2)
        print()
        return 0
    print(f"{args.out}: {found.kind}, {parameters:,} parameters")
    if found.tokenizer is None:
        print("It came without a tokenizer: import it again with --tokenizer PATH to generate text.")
    return 0
