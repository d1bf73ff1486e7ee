"""Turn text into a dataset folder: tokens of a training and a validation split, and their tokenizer.

A source is a text file (.txt and any other ending), a JSON Lines file (.jsonl), a folder with such files, a quoted
glob, or 'storyworld', the built-in corpus. Tokenizers are trained on the training split unless a path is given.

Example: smidgen prepare corpus.jsonl --out data --tokenizer.kind byte_bpe --tokenizer.vocab_size 4096
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smidgen.data import Prepared

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_UPDATES = 0.1


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="file, folder, quoted glob, or 'storyworld'")
    parser.add_argument("--out", required=True, metavar="DIR", help="dataset folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset folder that holds something else")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")

    documents = parser.add_argument_group("documents")
    documents.add_argument(
        "--split-documents",
        choices=["file", "line", "blank"],
        help="what a document of a text file is: the whole file (default), a line, or what stands between blank lines",
    )
    documents.add_argument("--field", metavar="NAME", help="field of JSON Lines that holds the text (default: text)")
    documents.add_argument(
        "--documents", type=int, metavar="N", help="training documents to draw from storyworld (default: 20000)"
    )

    validation = parser.add_argument_group("validation split")
    validation.add_argument(
        "--val-fraction", type=float, default=0.1, metavar="F", help="share that is held out (default: 0.1)"
    )
    validation.add_argument("--val-documents", type=int, metavar="N", help="hold out this many documents instead")
    validation.add_argument(
        "--val-split",
        choices=["hash", "tail"],
        default="hash",
        help="hold out documents by a hash of their text (default), or the end of the corpus; "
        "a single document is always cut, its end held out",
    )
    validation.add_argument(
        "--seed", type=int, default=0, help="of the validation split and of storyworld (default: 0)"
    )

    _add_tokenizer_fields(
        parser.add_argument_group("tokenizer", "Without a path one is trained, of 4,096 ids unless told otherwise.")
    )


def run(args: argparse.Namespace) -> int:
    from smidgen.config import TokenizerConfig, validate
    from smidgen.data import Holdout, prepare

    tokenizer = {
        name.removeprefix("tokenizer."): value
        for name, value in vars(args).items()
        if name.startswith("tokenizer.") and value is not None
    }
    with _progress() as progress:
        prepared = prepare(
            args.sources,
            args.out,
            validate(TokenizerConfig, tokenizer, where="tokenizer."),
            split_documents=args.split_documents,
            field=args.field,
            documents=args.documents,
            holdout=Holdout(args.val_fraction, args.val_documents, args.val_split),
            seed=args.seed,
            overwrite=args.overwrite,
            progress=progress,
        )
    if args.json:
        json.dump(_summary(prepared), sys.stdout, indent=2)
        print()
    else:
        _print_summary(prepared)
    return 0


def _add_tokenizer_fields(group: argparse._ArgumentGroup) -> None:
    from smidgen.config import TokenizerConfig, field_paths

    for path, field in field_paths(TokenizerConfig, "tokenizer."):
        name = path.rsplit(".", 1)[-1]
        text = " ".join((field.description or "byte_bpe (default), sentencepiece, characters or pretrained").split())
        kind = int if "int" in str(field.annotation) else str
        group.add_argument(f"--{path}", type=kind, metavar=name.upper(), help=text.replace("%", "%%"))


def _summary(prepared: Prepared) -> dict[str, Any]:
    manifest = prepared.manifest
    return {
        "path": str(prepared.dataset.path),
        "already_prepared": prepared.already_prepared,
        "tokenizer": manifest.tokenizer_kind,
        "vocab_size": manifest.vocab_size,
        "splits": {
            name: {
                "documents": sum(record.documents for record in records),
                "tokens": sum(record.tokens for record in records),
                "bytes": sum(record.bytes for record in records),
            }
            for name, records in manifest.splits.items()
        },
        "fingerprint": manifest.fingerprint,
    }


def _print_summary(prepared: Prepared) -> None:
    from smidgen.cli.tables import print_table

    summary = _summary(prepared)
    path = summary["path"]
    if prepared.already_prepared:
        print(f"{path}: already prepared from these sources with these options.")
    rows = [
        [
            name,
            f"{counts['documents']:,}",
            f"{counts['tokens']:,}",
            f"{counts['bytes']:,}",
            f"{counts['bytes'] / counts['tokens']:.2f}" if counts["tokens"] else "-",
        ]
        for name, counts in summary["splits"].items()
    ]
    print_table(["split", "documents", "tokens", "bytes", "bytes a token"], rows)
    print(f"\n{path}: {summary['tokenizer']} tokenizer with {summary['vocab_size']:,} ids.")
    print(f"Next: smidgen pretrain elite-tiny --data.path {path} --run runs/demo")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Where `prepare` reports to: a bar in a terminal, now and then a line elsewhere; both on standard error."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}
        drawn = 0.0

        def report(stage: str, done: int, total: int) -> None:
            nonlocal drawn
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            # An update for every document would cost more than reading it.
            elif done < total and time.monotonic() - drawn < _SECONDS_BETWEEN_UPDATES:
                return
            bars.update(tasks[stage], completed=done, total=total)
            drawn = time.monotonic()

        yield report


class _Lines:
    """A line when a stage takes long, with its rate and the time it will still take."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = self._printed = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._printed = stage, now, now
        if now - self._printed < _SECONDS_BETWEEN_LINES or done == 0:
            return
        self._printed = now
        rate = done / (now - self._began)
        print(
            f"{stage}: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB, {rate / 1e6:.1f} MB/s, "
            f"{(total - done) / rate:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
