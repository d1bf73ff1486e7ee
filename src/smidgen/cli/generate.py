"""Continue one prompt, or several at once. The prompt - reads prompts from standard input, one a line.

Example: smidgen generate runs/demo "Once upon a time" --max-new-tokens 200 --temperature 0.8 --top-p 0.95
         smidgen generate runs/demo - --temperature 0 --json < prompts.txt
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from smidgen.cli.engines import add_engine_flags, open_engine_from
from smidgen.cli.sampling import add_sampling_flags, sampling_params

if TYPE_CHECKING:
    from smidgen.runtime.generation import Chunk, Completion

MAX_BATCH_SIZE = 16
"""Prompts that run at once; more wait for a slot."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_engine_flags(parser)
    parser.add_argument("prompt", metavar="PROMPT", nargs="+", help="text to continue; - reads one from each line")
    parser.add_argument(
        "--ensemble",
        metavar="MODEL",
        action="append",
        help="average the probabilities with this model of the same tokenizer; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print the answers as JSON, when all are finished")
    add_sampling_flags(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    if args.logprobs is not None and not args.json:
        args.usage_error("--logprobs needs --json, which prints them")
    params = sampling_params(args)
    prompts = _read_prompts(args.prompt)

    from smidgen.runtime.generation import completion, default_length, encode_prompt, stream

    rows = min(len(prompts), MAX_BATCH_SIZE)
    if args.ensemble:
        from smidgen.cli.ensembles import open_ensemble

        engine, tokenizer = open_ensemble(args, rows)
    else:
        engine, tokenizer = open_engine_from(args, max_batch_size=rows)
    ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    if args.max_new_tokens is None and params.overflow == "error":
        params = replace(params, max_new_tokens=default_length(engine.info.max_seq_len, ids))
    output = None if args.json else _Output(prompts)
    meter = _Meter(sum(map(len, ids)))
    chunks: list[list[Chunk]] = [[] for _ in prompts]
    interrupted = False
    try:
        for chunk in stream(engine, tokenizer, ids, params):
            meter.count(chunk)
            chunks[chunk.index].append(chunk)
            if output is not None:
                output.show(chunk)
    except KeyboardInterrupt:
        interrupted = True
    if interrupted:
        print()
    elif args.json:
        answers = [completion(own, len(prompt)) for own, prompt in zip(chunks, ids, strict=True)]
        json.dump(_report(prompts, answers, meter), sys.stdout, indent=2, ensure_ascii=False)
        print()
    print(meter.line(), file=sys.stderr)
    return 130 if interrupted else 0


def _read_prompts(arguments: Sequence[str]) -> list[str]:
    from smidgen.runtime.errors import DataError

    prompts = []
    for argument in arguments:
        if argument != "-":
            prompts.append(argument)
            continue
        lines = [line.rstrip("\r") for line in sys.stdin.read().split("\n") if line.strip()]
        if not lines:
            raise DataError("standard input: no prompt; write one a line")
        prompts.extend(lines)
    return prompts


class _Output:
    """Prompts and answers in the order of the prompts; the first unfinished one streams, later ones wait."""

    def __init__(self, prompts: Sequence[str]) -> None:
        from smidgen.cli.terminal import Terminal

        self._terminal = Terminal()
        self._prompts = prompts
        self._waiting = [""] * len(prompts)
        self._finished = [False] * len(prompts)
        self._current = 0
        self._has_begun = False

    def show(self, chunk: Chunk) -> None:
        if not self._has_begun:  # a prompt that is refused is not shown
            self._terminal.write_dim(self._prompts[0])
            self._has_begun = True
        self._waiting[chunk.index] += chunk.text
        self._finished[chunk.index] = chunk.finish_reason is not None
        while self._current < len(self._prompts):
            self._terminal.write(self._waiting[self._current])
            self._waiting[self._current] = ""
            if not self._finished[self._current]:
                return
            self._terminal.write("\n")
            self._current += 1
            if self._current < len(self._prompts):
                self._terminal.write("\n")
                self._terminal.write_dim(self._prompts[self._current])


class _Meter:
    """Times the prompts (until the first token) and the tokens after it."""

    def __init__(self, num_prompt_tokens: int) -> None:
        self.num_prompt_tokens = num_prompt_tokens
        self.num_tokens = 0
        self._start = self._first = self._last = time.perf_counter()

    def count(self, chunk: Chunk) -> None:
        self._last = time.perf_counter()
        if self.num_tokens == 0:
            self._first = self._last
        self.num_tokens += chunk.token is not None

    @property
    def prompt_seconds(self) -> float:
        return self._first - self._start

    @property
    def seconds(self) -> float:
        return self._last - self._start

    @property
    def tokens_per_second(self) -> float:
        """Rate over the whole time, prompts included."""
        return self.num_tokens / max(self.seconds, 1e-9)

    def line(self) -> str:
        return (
            f"{self.num_tokens} tokens in {self.seconds:.2f} s, {self.tokens_per_second:.1f} tokens/s; "
            f"first after {self.prompt_seconds * 1000:.0f} ms (prompt: {self.num_prompt_tokens} tokens)"
        )


def _report(prompts: Sequence[str], answers: Sequence[Completion], meter: _Meter) -> dict[str, Any]:
    results = []
    for prompt, answer in zip(prompts, answers, strict=True):
        result: dict[str, Any] = {
            "prompt": prompt,
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "num_prompt_tokens": answer.num_prompt_tokens,
            "tokens": answer.tokens,
        }
        if answer.logprobs:
            result["logprobs"] = answer.logprobs
        if any(answer.top_logprobs):
            result["top_logprobs"] = [
                [{"token": token, "logprob": logprob} for token, logprob in top] for top in answer.top_logprobs
            ]
        results.append(result)
    return {
        "results": results,
        "num_tokens": meter.num_tokens,
        "seconds": round(meter.seconds, 4),
        "tokens_per_second": round(meter.tokens_per_second, 2),
    }
