"""Draw training loss, validation loss and learning rate of one or several runs.

Example: smidgen plot runs/demo --out curves.png
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folder; several are laid over each other")
    parser.add_argument("--out", metavar="FILE", help="PNG, PDF or SVG to write (default: curves.png in the first RUN)")


def run(args: argparse.Namespace) -> int:
    from smidgen.training.curves import draw_curves

    out = Path(args.out) if args.out else Path(args.runs[0]) / "curves.png"
    draw_curves(args.runs, out)
    print(out)
    return 0
