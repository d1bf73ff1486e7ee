"""`smidgen evaluate --mode single`: one question, one category item by item, or questions from the terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smidgen.evaluation.suite.asking import Subject
    from smidgen.evaluation.suite.items import Category

_LONGEST = 128


def ask_single(args: argparse.Namespace, categories: Sequence[Category]) -> int:
    """Print the answers as they come."""
    from smidgen.cli.evaluating import Opened

    subject = Opened(args, args.model[0]).subject
    if args.category:
        _show_categories(subject, categories)
        return 0
    for question in [args.question] if args.question is not None else _typed():
        _answer(subject, question)
    return 0


def _typed() -> Iterator[str]:
    """Questions from standard input, a line each, until it ends."""
    live = sys.stdin.isatty()
    while True:
        if live:
            print("question (empty ends): ", end="", flush=True)
        line = sys.stdin.readline()
        if not line or (live and not line.strip()):
            return
        if line.strip():
            yield line.strip()


def _answer(subject: Subject, question: str) -> None:
    """The greedy answer: through the chat template where there is one, else to 'Question: …' and 'Answer:'."""
    from smidgen.runtime.generation import encode_chat, encode_prompt, end_of_turn_ids, generate_texts
    from smidgen.runtime.sampling import SamplingParams

    tokenizer = subject.tokenizer
    if tokenizer.chat_template:
        ids, ends = encode_chat(tokenizer, [{"role": "user", "content": question}]), end_of_turn_ids(tokenizer)
        stop: tuple[str, ...] = ()
    else:
        ids, ends, stop = encode_prompt(tokenizer, f"Question: {question}\nAnswer:"), (), ("\n",)
    room = max(1, min(_LONGEST, subject.engine.info.max_seq_len - len(ids)))
    params = SamplingParams(max_new_tokens=room, temperature=0.0, stop=stop, stop_token_ids=ends)
    (completion,) = generate_texts(subject.engine, tokenizer, [ids], params)
    print(completion.text.strip())


def _show_categories(subject: Subject, categories: Sequence[Category]) -> None:
    """Every item with its answer and verdict, in the best form that the model has."""
    from smidgen.evaluation.suite.asking import ask

    form = subject.forms[-1]
    for category in categories:
        answers = ask(subject, [category], form)
        for answer in answers:
            mark = "right" if answer.verdict.right else f"wrong: {answer.verdict.reason}"
            print(f"{answer.item} ({form})\n{answer.prompt}\n-> {answer.text.strip()}\n   {mark}\n")
        right = sum(answer.verdict.right for answer in answers)
        print(f"{category.title}: {right} of {len(answers)} right\n")
