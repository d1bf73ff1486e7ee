"""Write one HTML page on a run: curves, throughput, data, configuration, samples, environment, events.

Example: smidgen report runs/demo
         smidgen report runs/demo runs/wide --out compare.html

Several runs are laid over each other, with a table of the fields in which they differ. The page needs nothing else: it
opens from disk, can be sent to somebody, and reads well on a phone.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folder; several are laid over each other")
    parser.add_argument("--out", metavar="FILE", help="HTML file to write (default: report.html in the first RUN)")


def run(args: argparse.Namespace) -> int:
    from smidgen.training.report import write_report

    out = Path(args.out) if args.out else Path(args.runs[0]) / "report.html"
    write_report(args.runs, out)
    print(out)
    return 0
