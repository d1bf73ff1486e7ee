"""Turn text into a dataset folder: tokens of a training and a validation split, and their tokenizer.

A source is a file of text (.txt and any other ending), JSON Lines, JSON, CSV, TSV or Parquet, plain or compressed
(.gz, .zst); a folder with such files; a quoted glob; '-', standard input; 'hf:owner/name[:config[:split]]', a dataset
of Hugging Face; or 'storyworld', the built-in corpus. Tokenizers are trained on the training split unless a path is
given. A run that was interrupted goes on from where it stopped when it is started again.

'prepare merge PART... --out DIR' makes one dataset folder of the parts that --shard made.

Example: smidgen prepare corpus.jsonl --out data --tokenizer.kind byte_bpe --tokenizer.vocab_size 4096
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from smidgen.runtime.errors import DataError

if TYPE_CHECKING:
    from smidgen.config.cleaning import CleaningConfig
    from smidgen.data.manifest import Manifest
    from smidgen.data.pipeline.plan import Limits

_SHOWN_EXAMPLES = 1
_MERGE_OPTIONS = {"sources", "out", "overwrite", "json", "report", "debug", "default_of"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="file, folder, quoted glob, -, hf:NAME, storyworld"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="dataset folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset folder that holds something else")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--report", metavar="FILE", help="write an HTML page about the dataset")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad record instead of counting it")

    documents = parser.add_argument_group("documents")
    documents.add_argument(
        "--split-documents",
        choices=["file", "line", "blank"],
        help="what a document of a text file is: the whole file (default), a line, or what stands between blank lines",
    )
    documents.add_argument("--field", metavar="NAME", help="field or column that holds the text (default: text)")
    documents.add_argument(
        "--format",
        choices=["text", "jsonl", "json", "csv", "tsv", "parquet"],
        help="of all files (default: by their endings; of standard input, by how it starts)",
    )
    documents.add_argument(
        "--documents", type=int, metavar="N", help="training documents to draw from storyworld (default: 20000)"
    )
    documents.add_argument(
        "--limit-documents",
        action="append",
        default=[],
        metavar="[SOURCE=]N",
        help="read only the first N documents of each source, or of one; may be repeated",
    )
    documents.add_argument(
        "--limit-bytes", action="append", default=[], metavar="[SOURCE=]N", help="the same by bytes of text"
    )
    documents.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="SOURCE=W",
        help="share of the training tokens; sources are thinned or repeated to it; one for every source",
    )

    parser.set_defaults(default_of=parser.get_default)
    work = parser.add_argument_group("work")
    work.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores); same result for any")
    work.add_argument("--shard", metavar="I/N", help="do the I-th of N parts only; 'prepare merge' makes them one")
    work.add_argument(
        "--shard-tokens", type=int, metavar="N", help="tokens of a token file at most (default: 536,870,912)"
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
    _add_cleaning_fields(
        parser.add_argument_group("cleaning", "All off unless asked for. Values are YAML: true, 0.8, [email, ip].")
    )


def run(args: argparse.Namespace) -> int:
    from smidgen.cli.prepare_progress import prepare_progress

    names: list[str] = args.sources
    if args.shard is not None and args.report is not None:
        raise DataError("--report: a part has none; the merged dataset does: smidgen prepare merge … --report FILE")
    with prepare_progress() as progress:
        if names[0] == "merge" and not os.path.exists("merge"):
            from smidgen.data.merging import merge_parts

            _check_merge(args)
            manifest = merge_parts(names[1:], args.out, overwrite=args.overwrite, progress=progress)
            return _show(args, args.out, manifest, False)
        from smidgen.config import TokenizerConfig, validate
        from smidgen.data import Holdout, prepare
        from smidgen.data.prepare import prepare_part

        tokenizer = {
            name.removeprefix("tokenizer."): value
            for name, value in vars(args).items()
            if name.startswith("tokenizer.") and value is not None
        }
        config = validate(TokenizerConfig, tokenizer, where="tokenizer.")
        request: dict[str, Any] = {
            "split_documents": args.split_documents,
            "field": args.field,
            "format": args.format,
            "documents": args.documents,
            "holdout": Holdout(args.val_fraction, args.val_documents, args.val_split),
            "seed": args.seed,
            "limits": _limits(args, names),
            "weights": dict(_weight(text) for text in args.weight),
            "cleaning": _cleaning(args),
            "strict": args.strict,
            "workers": args.workers,
        }
        if args.shard_tokens is not None:
            request["shard_tokens"] = args.shard_tokens
        if args.shard is not None:
            shard = _shard(args.shard)
            part = prepare_part(names, args.out, config, shard, overwrite=args.overwrite, progress=progress, **request)
            return _show_part(args, str(part.path), shard, part.totals is None)
        try:
            prepared = prepare(names, args.out, config, overwrite=args.overwrite, progress=progress, **request)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from where it stopped", file=sys.stderr)
            raise
    return _show(args, args.out, prepared.manifest, prepared.already_prepared)


def _check_merge(args: argparse.Namespace) -> None:
    for name, value in vars(args).items():
        if name not in _MERGE_OPTIONS and value != args.default_of(name):
            option = name if "." in name else name.replace("_", "-")
            raise DataError(f"--{option}: the parts were made with their options; leave it out when merging")


def _limits(args: argparse.Namespace, names: Sequence[str]) -> Limits:
    from smidgen.data.pipeline.plan import Limits

    def parse(option: str, texts: Sequence[str]) -> dict[str, int]:
        limits: dict[str, int] = {}
        for text in texts:
            name, _, number = text.rpartition("=")
            if not number.isdecimal():
                raise DataError(f"{option} {text}: write a whole number, or SOURCE=N")
            limits.update(dict.fromkeys([name] if name else names, int(number)))
        return limits

    return Limits(parse("--limit-documents", args.limit_documents), parse("--limit-bytes", args.limit_bytes))


def _weight(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        return name, float(number)
    except ValueError:
        raise DataError(f"--weight {text}: write SOURCE=W, such as corpus.jsonl=0.7") from None


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal()):
        raise DataError(f"--shard {text}: write I/N, such as 1/4")
    return int(number) - 1, int(count)


def _cleaning(args: argparse.Namespace) -> CleaningConfig | None:
    given = {name: value for name, value in vars(args).items() if name.startswith("cleaning.") and value is not None}
    if not given:
        return None
    from smidgen.config import CleaningConfig, validate
    from smidgen.config.loading import override_tree, parse_yaml

    tree = override_tree({name: parse_yaml(value, f"--{name}") for name, value in given.items()})
    return validate(CleaningConfig, tree["cleaning"], where="cleaning.")


def _add_cleaning_fields(group: argparse._ArgumentGroup) -> None:
    from smidgen.config import CleaningConfig, field_paths

    for path, field in field_paths(CleaningConfig, "cleaning."):
        text = " ".join((field.description or "").split())
        group.add_argument(f"--{path}", metavar="VALUE", help=text.replace("%", "%%"))


def _add_tokenizer_fields(group: argparse._ArgumentGroup) -> None:
    from smidgen.config import TokenizerConfig, field_paths

    for path, field in field_paths(TokenizerConfig, "tokenizer."):
        name = path.rsplit(".", 1)[-1]
        text = " ".join((field.description or "byte_bpe (default), sentencepiece, characters or pretrained").split())
        kind = int if "int" in str(field.annotation) else str
        group.add_argument(f"--{path}", type=kind, metavar=name.upper(), help=text.replace("%", "%%"))


def _summary(path: str, manifest: Manifest, already_prepared: bool) -> dict[str, Any]:
    return {
        "path": path,
        "already_prepared": already_prepared,
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
        "bad_input": manifest.bad_input,
        "cleaning": manifest.cleaning,
        "mixture": manifest.mixture,
        "fingerprint": manifest.fingerprint,
    }


def _show(args: argparse.Namespace, path: str, manifest: Manifest, already_prepared: bool) -> int:
    if args.report is not None:
        from smidgen.data.report import write_report

        write_report(args.report, path)
    summary = _summary(path, manifest, already_prepared)
    if args.json:
        json.dump(summary, sys.stdout, indent=2)
        print()
        return 0
    from smidgen.cli.tables import print_table

    if already_prepared:
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
    for line in _remarks(summary):
        print(line)
    print(f"\n{path}: {summary['tokenizer']} tokenizer with {summary['vocab_size']:,} ids.")
    if args.report is not None:
        print(f"Report: {args.report}")
    print(f"Next: smidgen pretrain elite-tiny --data.path {path} --run runs/demo")
    return 0


def _remarks(summary: dict[str, Any]) -> list[str]:
    """What was left out, and why."""
    from smidgen.data.pipeline.results import describe

    lines = []
    for kind, entry in summary["bad_input"].items():
        lines.append(f"skipped, {kind}: {entry['count']:,}")
        lines += [f"  {describe(example)}" for example in entry["examples"][:_SHOWN_EXAMPLES]]
    for rule, drops in summary["cleaning"].get("drops", {}).items():
        lines.append(f"dropped, {rule}: {drops['documents']:,} documents, {drops['bytes']:,} bytes")
    for edit, count in summary["cleaning"].get("edits", {}).items():
        lines.append(f"edited, {edit}: {count:,}")
    for share in summary["mixture"]:
        lines.append(
            f"weight {share['weight']:g}, {share['source']}: {share['tokens']:,} training tokens taken "
            f"{share['times']:.2f} times: {share['taken']:,}"
        )
    return ["", *lines] if lines else []


def _show_part(args: argparse.Namespace, path: str, shard: tuple[int, int], already_prepared: bool) -> int:
    if args.json:
        part = f"{shard[0] + 1}/{shard[1]}"
        json.dump({"path": path, "part": part, "already_prepared": already_prepared}, sys.stdout, indent=2)
        print()
    else:
        done = "already prepared from these sources with these options" if already_prepared else "prepared"
        print(f"{path}: part {shard[0] + 1} of {shard[1]}, {done}.")
        print("Next, when all parts are there: smidgen prepare merge PART... --out DIR")
    return 0
