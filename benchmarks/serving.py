"""The server under load, on this machine only: one at a time against continuous batching, overload, memory.

    python benchmarks/serving.py MODEL --json benchmarks/results/serving.json

Starts `smidgen serve MODEL` twice (a batch of one, then of --batch-size), sends to 127.0.0.1 only, and stops both. For
1, 4, 16 and 64 concurrent clients: tokens a second, and the time to the first token. Then ten times as many clients as
the server takes: which statuses they get, how long the refused and the served waited, and whether the greedy answer
afterwards is the one from before. Then --requests short requests: the server's memory after each tenth of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import report

PROMPT = "One day"
CLIENTS = (1, 4, 16, 64)


@contextmanager
def server(model: str, batch_size: int, max_waiting: int, extra: list[str]) -> Iterator[tuple[str, int]]:
    """`smidgen serve` in a process of its own; its URL and process id."""
    command = [sys.executable, "-m", "smidgen", "serve", model, "--port", "0"]
    command += ["--max-batch-size", str(batch_size), "--max-waiting", str(max_waiting), *extra]
    environment = {name: value for name, value in os.environ.items() if name != "SMIDGEN_API_KEY"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start")
        try:
            yield found.group(), process.pid
        finally:
            process.terminate()
            process.wait(60)


async def stream_one(client: httpx.AsyncClient, url: str, tokens: int) -> tuple[float, int]:
    """Stream one answer; seconds to its first token, and its tokens."""
    body = {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    body["stream_options"] = {"include_usage": True}
    begun, first, count = time.perf_counter(), 0.0, 0
    async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                first = first or time.perf_counter() - begun
                usage = json.loads(line[6:])["usage"]
                count = usage["completion_tokens"] if usage else count
    return first, count


async def throughput(url: str, clients: int, tokens: int, seconds: float) -> dict[str, float]:
    """Clients that each ask again as soon as they are answered, for `seconds`."""
    firsts: list[float] = []
    total = 0
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:
        await stream_one(client, url, tokens)
        begun = time.perf_counter()

        async def ask() -> None:
            nonlocal total
            while time.perf_counter() - begun < seconds:
                first, count = await stream_one(client, url, tokens)
                firsts.append(first)
                total += count

        await asyncio.gather(*(ask() for _ in range(clients)))
        elapsed = time.perf_counter() - begun
    firsts.sort()
    return {
        "tokens_per_second": total / elapsed,
        "first_median": statistics.median(firsts),
        "first_p95": firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))],
        "answers": len(firsts),
    }


async def overload(url: str, clients: int, tokens: int) -> dict[str, Any]:
    """All clients at once; statuses, and seconds until the refused and the served were answered."""
    body = {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    waited: dict[int, list[float]] = {}
    without_retry_after = 0

    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=clients)) as client:

        async def ask() -> str | None:
            nonlocal without_retry_after
            begun = time.perf_counter()
            response = await client.post(f"{url}/v1/completions", json=body)
            waited.setdefault(response.status_code, []).append(time.perf_counter() - begun)
            if response.status_code == 200:
                return str(response.json()["choices"][0]["text"])
            without_retry_after += "retry-after" not in response.headers
            return None

        before = await ask()
        waited.clear()
        texts = await asyncio.gather(*(ask() for _ in range(clients)))
        served = {status: (len(times), max(times)) for status, times in sorted(waited.items())}
        after = await ask()
    return {
        "statuses": {str(status): count for status, (count, _) in served.items()},
        "slowest": {str(status): round(longest, 3) for status, (_, longest) in served.items()},
        "only_429_503": set(served) <= {200, 429, 503} and without_retry_after == 0,
        "same_answer": before == after and set(texts) <= {before, None},
    }


def resident(pid: int) -> float:
    """Resident memory of a process in MiB."""
    fields = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", fields).group(1)) / 1024  # type: ignore[union-attr]


async def many(url: str, pid: int, requests: int, clients: int) -> list[float]:
    """Resident memory in MiB after each tenth of `requests` short requests of every kind."""
    memory = []
    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=clients)) as client:

        async def work(numbers: range) -> None:
            for number in numbers:
                body: dict[str, Any] = {"prompt": f"{PROMPT} {number}", "max_tokens": 2, "seed": number}
                body["stream"] = number % 2 == 0
                if number % 10 == 9:
                    body["temperature"] = 9  # refused
                await client.post(f"{url}/v1/completions", json=body)

        for tenth in range(10):
            share = range(tenth * requests // 10, (tenth + 1) * requests // 10)
            await asyncio.gather(*(work(share[i::clients]) for i in range(clients)))
            memory.append(resident(pid))
            print(f"  {share.stop:,} requests: {memory[-1]:.1f} MiB", flush=True)
    return memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--seconds", type=float, default=5, help="each measurement takes")
    parser.add_argument("--requests", type=int, default=20_000, help="of the memory test")
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    extra = ["--engine", args.engine]
    measured: dict[int, dict[int, dict[str, float]]] = {}
    for batch_size in (1, args.batch_size):
        with server(args.model, batch_size, 64, extra) as (url, _):
            measured[batch_size] = {
                clients: asyncio.run(throughput(url, clients, args.tokens, args.seconds)) for clients in CLIENTS
            }
    results = []
    for clients in CLIENTS:
        one, batched = measured[1][clients], measured[args.batch_size][clients]
        case = f"{clients} clients"
        for metric, unit, name in (
            ("throughput", "tokens/s", "tokens_per_second"),
            ("time to first token, median", "s", "first_median"),
            ("time to first token, 95 %", "s", "first_p95"),
        ):
            results.append(report.result(case, metric, unit, batched[name], one[name], "one at a time"))
        print(
            f"{clients:3} clients: {batched['tokens_per_second']:7.0f} tokens/s in a batch of {args.batch_size}, "
            f"{one['tokens_per_second']:7.0f} one at a time; first token after {batched['first_median'] * 1000:.0f} ms "
            f"(95 %: {batched['first_p95'] * 1000:.0f}), {one['first_median'] * 1000:.0f} one at a time",
            flush=True,
        )
    save(args.json, results)
    with server(args.model, args.batch_size, args.batch_size, extra) as (url, pid):
        places = 2 * args.batch_size
        flood = asyncio.run(overload(url, 10 * places, args.tokens))
        print(f"{10 * places} clients for {places} places: {flood}", flush=True)
        results.append({"case": f"{10 * places} clients for {places} places", "metric": "overload", **flood})
        save(args.json, results)
        memory = asyncio.run(many(url, pid, args.requests, 16)) if args.requests else []
    if memory:
        growth = (memory[-1] - memory[1]) / memory[1]
        print(f"memory from {memory[1]:.1f} to {memory[-1]:.1f} MiB: {growth:+.2%}")
        results.append(
            {"case": f"{args.requests} requests", "metric": "resident memory", "unit": "MiB", "series": memory}
        )
    save(args.json, results)


def save(path: str | None, results: list[dict[str, Any]]) -> None:
    """Write what was measured until now."""
    if path:
        report.write(path, results)


if __name__ == "__main__":
    main()
