"""Rates of the edge engine on this machine: prompts, decoding, and the share of the memory's bandwidth.

Example: smidgen bench runs/demo --weights int4 --threads 1,2 --prompt-tokens 128,512 --tokens 64 --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smidgen.edge import EdgeEngine


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model, checkpoint, run or Hugging Face folder")
    parser.add_argument("--threads", metavar="N,…", help="thread counts to try (default: one a core)")
    parser.add_argument("--prompt-tokens", default="128,512", metavar="N,…", help="lengths of prompts (128,512)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="tokens to decode in a round (64)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds; the median counts (3)")
    parser.add_argument(
        "--weights",
        default="bf16",
        choices=["bf16", "float32", "int8", "int4", "ternary"],
        help="how weights that are stored as floats are held (bf16)",
    )
    parser.add_argument(
        "--ternary", default="auto", choices=["auto", "2bit", "base3"], help="how ternary weights are held (the faster)"
    )
    parser.add_argument(
        "--cache", default="float16", choices=["float16", "bfloat16", "float32", "int8"], help="keys and values"
    )
    parser.add_argument("--instruction-set", metavar="NAME", help="scalar, avx2 … (default: the fastest)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    from smidgen.cli.tables import print_table
    from smidgen.edge.library import instruction_sets, library
    from smidgen.edge.loading import load
    from smidgen.edge.threads import default_threads

    prompts = _numbers(args, "prompt_tokens")
    counts = _numbers(args, "threads") if args.threads else [default_threads()]
    if args.tokens < 1 or args.rounds < 1:
        args.usage_error("--tokens and --rounds must be at least 1")
    results: list[dict[str, Any]] = []
    for threads in counts:
        started = time.perf_counter()
        engine = load(
            args.model,
            threads=threads,
            weights=args.weights,
            ternary=args.ternary,
            cache=args.cache,
            instruction_set=args.instruction_set,
        )
        loading = time.perf_counter() - started
        limit = engine.info.max_seq_len
        figures: dict[str, Any] = {"threads": threads, "load_seconds": round(loading, 3)}
        for length in prompts:
            if length < limit:
                rates = [_prompt_rate(engine, length, shift) for shift in range(args.rounds)]
                figures[f"prompt_{length}"] = round(statistics.median(rates), 1)
        tokens = min(args.tokens, limit - 17)
        rates = [_decode_rate(engine, tokens, shift) for shift in range(args.rounds)] if tokens > 0 else [0.0]
        read = library().edge_read_bandwidth(max(engine.weight_bytes, 64 << 20), threads, 3)
        figures["decode"] = round(statistics.median(rates), 1)
        figures["weight_bytes"] = engine.weight_bytes
        figures["cache_bytes"] = engine.cache_bytes
        figures["gigabytes_per_second"] = round(figures["decode"] * engine.weight_bytes / 1e9, 2)
        figures["of_a_plain_read"] = round(figures["decode"] * engine.weight_bytes / read, 3)
        results.append(figures)
        parameters = engine.info.num_parameters
        engine.close()
    chosen = args.instruction_set or list(instruction_sets())[-1]
    if args.json:
        report = {"model": args.model, "weights": args.weights, "instruction_set": chosen, "parameters": parameters}
        json.dump({**report, "results": results}, sys.stdout, indent=2)
        print()
        return 0
    headers = [name for name in results[0] if name not in ("weight_bytes", "cache_bytes")]
    print_table(headers, [[row.get(name, "") for name in headers] for row in results], f"{args.model}, {chosen}")
    print("prompt and decode in tokens/s")
    return 0


def _numbers(args: argparse.Namespace, name: str) -> list[int]:
    text = getattr(args, name)
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        args.usage_error(f"--{name.replace('_', '-')} {text}: give whole numbers above 0, separated by commas")
    return numbers


def _prompt_rate(engine: EdgeEngine, length: int, shift: int) -> float:
    """Tokens a second of a prompt that shares no beginning with the last one."""
    from smidgen.runtime.sampling import SamplingParams

    prompt = [(31 * i + shift + 1) % engine.info.vocab_size for i in range(length)]
    started = time.perf_counter()
    engine.submit(prompt, SamplingParams(temperature=0, max_new_tokens=1, ignore_eos=True))
    while not engine.step():
        pass
    return length / (time.perf_counter() - started)


def _decode_rate(engine: EdgeEngine, tokens: int, shift: int) -> float:
    from smidgen.runtime.sampling import SamplingParams

    prompt = [(i + shift) % engine.info.vocab_size for i in range(16)]
    engine.submit(prompt, SamplingParams(temperature=0, max_new_tokens=tokens + 1, ignore_eos=True))
    engine.step()
    started = time.perf_counter()
    for _ in range(tokens):
        engine.step()
    return tokens / (time.perf_counter() - started)
