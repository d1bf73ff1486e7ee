"""The server under load, on this machine only: one at a time against continuous batching, overload, memory.

    python benchmarks/serving.py MODEL --json benchmarks/results/serving.json
    python benchmarks/serving.py elite-112m --parts load --tokens 32 --seconds 4 --threads 2

MODEL is a model folder or run, or a preset's name: random weights and a tokenizer of random words, for its speed alone.
Per engine it starts `smidgen serve` twice (a batch of one, then of --batch-size), sends to 127.0.0.1 only, and stops
both. For 1, 4, 16 and 64 concurrent clients, both servers in turn: tokens a second, and the time to the first token.
Then, with the first engine, ten times as many clients as the server takes: which statuses they get, how long the
refused and the served waited, and whether the greedy answer afterwards is the one from before; and --requests short
requests: the server's memory after each tenth of them.

The clients that measure load are one process of plain sockets: on two cores a full HTTP client would take more of the
machine than the server does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import report

PROMPT = "One day"
CLIENTS = (1, 4, 16, 64)


@contextmanager
def server(model: str, batch_size: int, max_waiting: int, extra: list[str]) -> Iterator[tuple[str, int]]:
    """`smidgen serve` in a process of its own; its URL and process id."""
    command = [sys.executable, "-m", "smidgen", "serve", model, "--port", "0", "--max-seq-len", "256"]
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


class Connection:
    """A client of one connection that is kept open."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._address.hostname, self._address.port)

    async def stream(self, tokens: int) -> tuple[float, int]:
        """Stream one answer; seconds to its first token, and its tokens as the server counts them."""
        fields: dict[str, Any] = {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
        body = json.dumps(fields).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self._address.netloc}\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        begun, first, last = time.perf_counter(), 0.0, b""
        assert b" 200 " in await self._reader.readline()
        # A chunk's size is a line of its own, no data line of the stream; the last is 0.
        while (line := await self._reader.readline()) != b"0\r\n":
            if line.startswith(b"data: {"):
                first = first or time.perf_counter() - begun
                last = line
        await self._reader.readline()
        return first, json.loads(last[6:])["usage"]["completion_tokens"]

    def close(self) -> None:
        self._writer.close()


async def load(url: str, clients: int, tokens: int, seconds: float) -> dict[str, Any]:
    """Clients that each ask again as soon as they are answered, for `seconds`."""
    firsts: list[float] = []
    total = 0
    connections = [Connection(url) for _ in range(clients)]
    for connection in connections:
        await connection.open()
    await connections[0].stream(2)
    begun = time.perf_counter()

    async def ask(connection: Connection) -> None:
        nonlocal total
        while time.perf_counter() - begun < seconds:
            first, count = await connection.stream(tokens)
            firsts.append(first)
            total += count

    await asyncio.gather(*map(ask, connections))
    elapsed = time.perf_counter() - begun
    for connection in connections:
        connection.close()
    return {"tokens": total, "seconds": elapsed, "firsts": firsts}


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Of several runs: the median of their rates, and the times to the first token of all together."""
    firsts = sorted(first for run in runs for first in run["firsts"])
    return {
        "tokens_per_second": statistics.median(run["tokens"] / run["seconds"] for run in runs),
        "first_median": statistics.median(firsts),
        "first_p95": firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))],
    }


def compare(model: str, engine: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One engine's figures, one answer at a time beside a batch, in turn."""
    results = []
    with ExitStack() as stack:
        extra = ["--engine", engine, *(["--threads", str(args.threads)] if args.threads else [])]
        batches = (1, args.batch_size)
        urls = {batch: stack.enter_context(server(model, batch, max(CLIENTS), extra))[0] for batch in batches}
        for clients in CLIENTS:
            runs: dict[int, list[dict[str, Any]]] = {batch: [] for batch in batches}
            for _ in range(args.rounds):
                for batch, url in urls.items():
                    runs[batch].append(asyncio.run(load(url, clients, args.tokens, args.seconds)))
            one, batched = summary(runs[1]), summary(runs[args.batch_size])
            for metric, unit, name in (
                ("throughput", "tokens/s", "tokens_per_second"),
                ("time to first token, median", "s", "first_median"),
                ("time to first token, 95 %", "s", "first_p95"),
            ):
                case = f"{Path(model).name}, {engine}, {clients} clients"
                results.append(report.result(case, metric, unit, batched[name], one[name], "one at a time"))
            print(
                f"{engine:5} {clients:3} clients: {batched['tokens_per_second']:7.0f} tokens/s in a batch of "
                f"{args.batch_size}, {one['tokens_per_second']:7.0f} one at a time; first token after "
                f"{batched['first_median'] * 1000:.0f} ms (95 %: {batched['first_p95'] * 1000:.0f}), "
                f"{one['first_median'] * 1000:.0f} one at a time",
                flush=True,
            )
    return results


def random_model(preset: str, folder: Path) -> str:
    """A model of a preset's shape with random weights; its tokenizer has as many tokens, made of random words."""
    import smidgen
    from smidgen.tokenization import train_tokenizer

    model = smidgen.build(preset)
    dice = random.Random(0)
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(model.config.vocab_size)]
    tokenizer = train_tokenizer("byte_bpe", [" ".join(words)] * 2, model.config.vocab_size)
    smidgen.save(model, folder / preset, tokenizer=tokenizer)
    return str(folder / preset)


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
    parser.add_argument("--engines", default="torch,edge", help="of the load, the first of the rest (default: both)")
    parser.add_argument("--parts", default="load,overload,memory", help="what to measure (default: everything)")
    parser.add_argument("--threads", type=int, help="of the engine (default: its choice)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--seconds", type=float, default=5, help="each measurement takes, and until it is answered")
    parser.add_argument("--rounds", type=int, default=1, help="of each measurement; the median counts")
    parser.add_argument("--requests", type=int, default=20_000, help="of the memory test")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model if Path(args.model).exists() else random_model(args.model, Path(folder))
        measure(model, args)


def measure(model: str, args: argparse.Namespace) -> None:
    results: list[dict[str, Any]] = []
    parts, engines = args.parts.split(","), args.engines.split(",")
    for engine in engines if "load" in parts else ():
        results += compare(model, engine, args)
        save(args.json, results)
    extra = ["--engine", engines[0]]
    if not {"overload", "memory"} & {*parts}:
        return
    with server(model, args.batch_size, args.batch_size, extra) as (url, pid):
        places = 2 * args.batch_size
        if "overload" in parts:
            flood = asyncio.run(overload(url, 10 * places, args.tokens))
            print(f"{10 * places} clients for {places} places: {flood}", flush=True)
            results.append({"case": f"{10 * places} clients for {places} places", "metric": "overload", **flood})
            save(args.json, results)
        if "memory" in parts:
            memory = asyncio.run(many(url, pid, args.requests, 16))
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
