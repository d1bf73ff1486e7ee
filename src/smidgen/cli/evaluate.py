"""Measure models: the loss, perplexity and bits per byte of a text or dataset, and the answers to many questions.

Example: smidgen evaluate runs/demo
         smidgen evaluate runs/demo runs/wide --html compare.html
         smidgen evaluate runs/demo --data data --stride 64
         smidgen evaluate runs/demo --text story.txt --json
         smidgen evaluate runs/demo --gsm8k test.jsonl --items 200
         smidgen evaluate runs/demo --mode single --question "What is 2 + 2?"

Without --data, --text or --gsm8k it asks the built-in suite. Modes of the suite: test asks everything, as texts to
continue and, where the model has a chat template, as chats; chat asks the chats alone; single answers one question,
shows one category item by item (--category), or takes questions from the terminal. Several models are set side by
side with intervals, resampled over questions; differences are paired, question by question.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smidgen.evaluation.suite.items import Category
    from smidgen.evaluation.suite.results import ModelResult


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", nargs="*", help="models, checkpoints, runs or Hugging Face folders; several: compared"
    )
    what = parser.add_argument_group("what is measured")
    source = what.add_mutually_exclusive_group()
    source.add_argument("--data", metavar="DIR", help="the loss on a dataset folder that 'smidgen prepare' wrote")
    source.add_argument("--text", metavar="FILE", help="the loss on a UTF-8 text file; - reads standard input")
    what.add_argument("--suite", action="store_true", help="the built-in questions, beside a loss or GSM8K")
    what.add_argument("--gsm8k", metavar="FILE", help="GSM8K's questions from its JSONL file: form and answer")
    loss = parser.add_argument_group("loss")
    loss.add_argument("--split", choices=["val", "train"], help="split of the dataset (default: val)")
    loss.add_argument("--tokens", type=int, metavar="N", help="read about N tokens of the split (default: all)")
    loss.add_argument("--seq-len", type=int, metavar="T", help="tokens a window (default: the model's context)")
    loss.add_argument("--stride", type=int, metavar="N", help="slide the window by N tokens over each document")
    suite = parser.add_argument_group("questions")
    suite.add_argument("--mode", choices=["test", "chat", "single"], help="see above (default: test)")
    suite.add_argument("--category", action="append", default=[], metavar="NAME", help="category or group; repeatable")
    suite.add_argument("--items", type=int, metavar="N", help="the first N items of each category (default: all)")
    suite.add_argument("--question", metavar="TEXT", help="with --mode single: what to ask")
    suite.add_argument("--list", action="store_true", help="list the categories and end")
    suite.add_argument(
        "--run-code",
        action="store_true",
        help="run the Python that models write, in a limited process (default: parse)",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--engine", choices=["torch", "edge"], default="torch", help="PyTorch, or the native engine")
    how.add_argument("--batch-size", type=int, default=8, metavar="B", help="windows or questions at once (default: 8)")
    how.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="type of products (torch engine)")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto; torch engine)")
    how.add_argument("--threads", type=int, metavar="N", help="processor threads (default: the engine's choice)")
    out = parser.add_argument_group("output")
    out.add_argument("--json", action="store_true", help="print the figures as JSON")
    out.add_argument("--html", metavar="FILE", help="write a page with a plot and the transcript of every answer")
    out.add_argument("--answers", metavar="FILE", help="write every answer with its verdict as JSON Lines")
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    from smidgen.cli.evaluating import check_model, measure

    if args.list:
        return _list(args.category)
    if not args.model:
        args.usage_error("name at least one MODEL")
    _check(args)
    categories = chosen_categories(args)
    if args.mode == "single":
        from smidgen.cli.evaluate_single import ask_single

        return ask_single(args, categories)
    for model in args.model:
        # The first may take hours: what is wrong with the last is said before.
        check_model(args, model, asks=bool(categories))
    results = [
        measure(args, model, name, categories) for model, name in zip(args.model, _names(args.model), strict=True)
    ]
    if args.answers:
        _write_answers(args.answers, results)
    if args.html:
        from smidgen.evaluation.report import write_report

        write_report(results, args.html)
    if args.json:
        json.dump(_json(results), sys.stdout, indent=2)
        print()
    else:
        _print(results)
    if args.html:
        print(args.html, file=sys.stderr if args.json else sys.stdout)
    return 0


def chosen_categories(args: argparse.Namespace) -> tuple[Category, ...]:
    """What to ask: the suite where it is asked for or nothing else is, GSM8K where its file is named."""
    from smidgen.evaluation.gsm8k import gsm8k_categories
    from smidgen.evaluation.suite.items import select

    asked: tuple[Category, ...] = ()
    if _asks_suite(args):
        asked += select(args.category, args.items)
    if args.gsm8k:
        asked += gsm8k_categories(args.gsm8k, args.items)
    return asked


def _asks_suite(args: argparse.Namespace) -> bool:
    return bool(args.suite or args.mode or args.category or not (args.data or args.text or args.gsm8k))


def _asks(args: argparse.Namespace) -> bool:
    return _asks_suite(args) or bool(args.gsm8k)


def _check(args: argparse.Namespace) -> None:
    """Refuse options that would be without effect, and numbers below 1."""
    from smidgen.runtime.errors import ConfigError

    for name in ("tokens", "seq_len", "stride", "batch_size", "items", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} = {value}: use 1 or more")
    for name in ("html", "answers"):
        path = getattr(args, name)
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise ConfigError(f"--{name} = {path}: there is no folder {Path(path).parent}; make it first")
    if args.question is not None and args.mode != "single":
        args.usage_error("--question belongs to --mode single")
    if args.question is not None and args.category:
        args.usage_error("--question and --category: give one of them")
    for name in ("stride", "seq_len"):
        if getattr(args, name) is not None and not (args.data or args.text):
            args.usage_error(f"--{name.replace('_', '-')} needs --data or --text")
    for name in ("tokens", "split"):
        if getattr(args, name) is not None and not args.data:
            args.usage_error(f"--{name} needs --data")
    for name in ("items", "run_code"):
        if getattr(args, name) and not _asks(args):
            args.usage_error(f"--{name.replace('_', '-')} is about questions: add --suite, --category or --gsm8k")
    if args.mode == "single" and (len(args.model) > 1 or args.html or args.json or args.answers):
        args.usage_error("--mode single takes one MODEL and prints its answers: no --html, --json, --answers")


def _names(models: list[str]) -> list[str]:
    """Short names where they differ, else what the user wrote."""
    short = [Path(model).name or model for model in models]
    return short if len(set(short)) == len(short) else list(models)


def _list(names: list[str]) -> int:
    from smidgen.cli.tables import print_table
    from smidgen.evaluation.suite.items import select

    rows = [[c.name, c.group, str(len(c.items)), c.scorer, c.title] for c in select(names)]
    print_table(["category", "group", "items", "scorer", "about"], rows)
    return 0


def _json(results: list[ModelResult]) -> dict[str, object]:
    from smidgen.evaluation.suite.results import as_json

    if len(results) == 1 and not results[0].answers:
        return dict(results[0].loss or {})
    return as_json(results)


def _print(results: list[ModelResult]) -> None:
    from smidgen.cli.tables import print_table
    from smidgen.evaluation.suite.results import difference_lines, score_rows

    losses = [result for result in results if result.loss is not None]
    if len(results) == 1 and losses:
        _print_loss(losses[0])
    elif losses:
        print_table(
            ["model", "loss", "interval", "perplexity", "bits per byte", "tokens"],
            [_loss_row(result) for result in losses],
        )
    if results[0].answers:
        if losses:
            print()
        header, rows = score_rows(results)
        print_table(header, rows)
        print("Right answers in %, with 95 % intervals")
        for line in difference_lines(results):
            print(line)


def _loss_row(result: ModelResult) -> list[str]:
    assert result.loss is not None
    loss = result.loss
    bits = "unknown" if loss["bits_per_byte"] is None else f"{loss['bits_per_byte']:.4f}"
    interval = f"[{loss['interval'][0]:.4f}, {loss['interval'][1]:.4f}]"
    return [result.name, f"{loss['loss']:.4f}", interval, f"{loss['perplexity']:.3f}", bits, f"{loss['tokens']:,}"]


def _print_loss(result: ModelResult) -> None:
    assert result.loss is not None
    loss = result.loss
    low, high = loss["interval"]
    print(f"loss           {loss['loss']:.4f} nats a token [{low:.4f}, {high:.4f}]")
    print(f"perplexity     {loss['perplexity']:.3f}")
    shown = "unknown (the dataset does not say how many bytes it has)"
    print(f"bits per byte  {shown if loss['bits_per_byte'] is None else format(loss['bits_per_byte'], '.4f')}")
    print(f"tokens         {loss['tokens']:,}")


def _write_answers(path: str, results: list[ModelResult]) -> None:
    from smidgen.runtime.files import write_text

    lines = []
    for result in results:
        for answers in result.answers.values():
            for answer in answers:
                record = {
                    "model": result.name,
                    "category": answer.category,
                    "item": answer.item,
                    "form": answer.form,
                    "prompt": answer.prompt,
                    "answer": answer.text,
                    "reference": answer.reference,
                    "right": answer.verdict.right,
                    "reason": answer.verdict.reason,
                }
                lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_text(Path(path), "".join(lines))
