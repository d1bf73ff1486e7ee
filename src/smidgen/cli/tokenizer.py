"""Train a tokenizer on text files, or look at one.

'train' reads text files, JSON Lines (.jsonl), folders and quoted globs, and writes a folder that Smidgen and
transformers load. 'inspect' shows what a tokenizer file or folder holds, and how it cuts a text.

Example: smidgen tokenizer train corpus.txt --out tokenizer --tokenizer.kind byte_bpe --tokenizer.vocab_size 4096
         smidgen tokenizer inspect tokenizer "Once upon a time"
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.runtime.errors import DataError, TokenizerError

if TYPE_CHECKING:
    from smidgen.tokenization import BaseTokenizer

_SECONDS_BETWEEN_LINES = 5.0
_JSON_LINES = {".jsonl", ".ndjson", ".json"}
_TRAINING_OPTIONS = {
    "out": "--out",
    "kind": "--tokenizer.kind",
    "vocab_size": "--tokenizer.vocab_size",
    "field": "--field",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["train", "inspect"], help="what to do")
    parser.add_argument(
        "names",
        nargs="+",
        metavar="SOURCE|PATH",
        help="train: text sources; inspect: a tokenizer and, if wanted, a text",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    training = parser.add_argument_group("train")
    training.add_argument("--out", metavar="DIR", help="folder to write the tokenizer to")
    training.add_argument(
        "--tokenizer.kind", dest="kind", metavar="KIND", help="byte_bpe (default), sentencepiece or characters"
    )
    training.add_argument(
        "--tokenizer.vocab_size",
        dest="vocab_size",
        type=int,
        metavar="N",
        help="ids, special tokens included (default: 4096; characters: as many as there are)",
    )
    training.add_argument("--field", metavar="NAME", help="field of JSON Lines that holds the text (default: text)")
    parser.set_defaults(wrong_usage=parser.error)


def run(args: argparse.Namespace) -> int:
    return _train(args) if args.action == "train" else _inspect(args)


def _train(args: argparse.Namespace) -> int:
    from smidgen.data.sources import FileSource, find_files
    from smidgen.tokenization import train_tokenizer

    if args.out is None:
        args.wrong_usage("train: --out DIR is missing")
    kind = args.kind or "byte_bpe"
    vocab_size = 4096 if args.vocab_size is None and kind != "characters" else args.vocab_size
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise TokenizerError(f"{out}: is a file; name a folder to write the tokenizer to")
    sources = [FileSource(path, "file", args.field or "text") for path in find_files(args.names)]
    if args.field is not None and not any(source.path.suffix.lower() in _JSON_LINES for source in sources):
        raise DataError(f"--field {args.field}: none of the sources is JSON Lines (.jsonl); leave it out")
    tokenizer = train_tokenizer(kind, _texts(sources), vocab_size)
    tokenizer.save(out)
    if args.json:
        _print_json({"path": str(out), **_facts(tokenizer)})
    else:
        print(f"{out}: {tokenizer.kind} tokenizer with {tokenizer.vocab_size:,} ids.")
        print(f'Next: smidgen tokenizer inspect {out} "Once upon a time"')
    return 0


def _texts(sources: list[Any]) -> Iterator[str]:
    """The sources' texts; from time to time, how far they are read, to standard error."""
    total = sum(source.path.stat().st_size for source in sources)
    began = printed = time.monotonic()
    done = 0
    for source in sources:
        for piece in source.pieces():
            yield piece.text
            done += len(piece.text.encode())
            now = time.monotonic()
            if now - printed >= _SECONDS_BETWEEN_LINES:
                printed, rate = now, done / (now - began)
                left = max(total - done, 0) / rate
                print(
                    f"reading: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB, {rate / 1e6:.1f} MB/s, {left:.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )


def _inspect(args: argparse.Namespace) -> int:
    from smidgen.tokenization import load_tokenizer

    given = [flag for name, flag in _TRAINING_OPTIONS.items() if getattr(args, name) is not None]
    if given:
        args.wrong_usage(f"inspect: {given[0]} belongs to 'tokenizer train'")
    if len(args.names) > 2:
        args.wrong_usage("inspect: one PATH and at most one TEXT; put quotes around the text")
    tokenizer = load_tokenizer(args.names[0])
    facts = _facts(tokenizer)
    pieces: list[tuple[int, str]] = []
    if len(args.names) == 2:
        pieces = _pieces(tokenizer, args.names[1])
        facts |= _measures(args.names[1], pieces)
    if args.json:
        _print_json({"path": args.names[0], **facts})
        return 0
    for name, value in facts.items():
        if name not in {"special_tokens", "pieces"}:
            print(f"{name.replace('_', ' '):<16}{_shown(value)}")
    print(f"{'special tokens':<16}{_special_tokens(facts['special_tokens'])}")
    if pieces:
        _print_pieces(pieces)
    return 0


def _facts(tokenizer: BaseTokenizer) -> dict[str, Any]:
    return {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "pad_id": tokenizer.pad_id,
        "adds_bos": tokenizer.adds_bos,
        "chat_template": tokenizer.chat_template is not None,
        "special_tokens": tokenizer.special_tokens,
        "fingerprint": tokenizer.fingerprint,
    }


def _pieces(tokenizer: BaseTokenizer, text: str) -> list[tuple[int, str]]:
    """Id and spelling of every token: what it adds to the text, bytes that are no character as `\\xE2`."""
    pieces = []
    for token in tokenizer.encode(text):
        token_bytes = getattr(tokenizer, "token_bytes", None)
        if token_bytes is None:
            pieces.append((token, tokenizer.id_to_token(token) or ""))
        else:
            pieces.append((token, token_bytes(token).decode("utf-8", "backslashreplace")))
    return pieces


def _measures(text: str, pieces: list[tuple[int, str]]) -> dict[str, Any]:
    num_bytes = len(text.encode())
    return {
        "tokens": len(pieces),
        "bytes": num_bytes,
        "bytes_a_token": round(num_bytes / len(pieces), 3) if pieces else None,
        "pieces": [{"id": token, "text": piece} for token, piece in pieces],
    }


def _print_pieces(pieces: list[tuple[int, str]]) -> None:
    if not sys.stdout.isatty():
        print()
        for token, piece in pieces:
            print(f"{token}\t{json.dumps(piece, ensure_ascii=False)}")
        return
    from rich.console import Console
    from rich.text import Text

    styles = ("black on bright_cyan", "black on bright_yellow", "black on bright_green", "black on bright_magenta")
    line = Text()
    for number, (token, piece) in enumerate(pieces):
        line.append(_visible(piece), style=styles[number % len(styles)])
        line.append(f"{token} ", style="dim")
        if piece.endswith("\n"):
            line.append("\n")
    console = Console(highlight=False)
    console.print()
    console.print(line)


def _visible(piece: str) -> str:
    """Whitespace and control characters as signs: a token must not move the cursor."""
    return "".join(
        {"\n": "⏎", "\t": "⇥"}.get(character, character if character.isprintable() else "\N{REPLACEMENT CHARACTER}")
        for character in piece
    )


def _special_tokens(tokens: dict[str, int]) -> str:
    entries = sorted(tokens.items(), key=lambda entry: entry[1])
    shown = ", ".join(f"{token} {number}" for token, number in entries[:12])
    return f"{shown}, and {len(entries) - 12} more" if len(entries) > 12 else shown or "none"


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    print()
