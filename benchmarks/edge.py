"""The edge engine beside llama.cpp: the same weights, the same machine, the same run.

    python benchmarks/edge.py --model elite-112m --schemes bf16,int8,int4,ternary --threads 1,2 --json out.json

Needs llama-cpp-python built natively (`CMAKE_ARGS=-DGGML_NATIVE=ON pip install llama-cpp-python`); without it, or for
an architecture that llama.cpp lacks, only our figures are taken. The peer is driven by its low-level decode call.
Embedding and head have equal bits on both sides (int4 and Q4_0 both count 4.5 bits a weight; a ternary model has
an int4 head). Each measurement is a process of its own; the two take turns, and a figure is the median of the rounds.
Presets get random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import report

PEER_TYPES = {"bf16": "F16", "int8": "Q8_0", "int4": "Q4_0", "ternary": "TQ2_0"}
BARS = {"bf16": 1.15, "int8": 1.4, "int4": 1.8, "ternary": 2.5}
PREFILL_BARS = {"bf16": 2.0, "int8": 3.0, "int4": 3.0, "ternary": 3.0}
PROMPTS = (128, 512)
CONTEXT = 1024
COLD_STARTS = 10
_FILE_TYPES = {"Q8_0": 7, "Q4_0": 2, "TQ2_0": 37}
"""llama_ftype of llama.h."""
_GGML_TYPES = {"Q8_0": 8, "Q4_0": 2, "TQ2_0": 2}
"""ggml_type of embedding and head: as many bits as ours."""


def peak_memory() -> float:
    """Largest resident memory of this process in bytes. Not getrusage: its maximum goes on from the parent's."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def measure_ours(folder: str, scheme: str, threads: int, tokens: int, ternary: str = "auto") -> dict[str, float]:
    import smidgen.edge
    from smidgen.edge.config import read_config
    from smidgen.edge.library import library
    from smidgen.runtime import SamplingParams

    start = time.perf_counter()
    engine = smidgen.edge.load(
        folder,
        threads=threads,
        weights=scheme,  # type: ignore[arg-type]
        head="int4" if scheme == "ternary" else None,
        ternary=ternary,  # type: ignore[arg-type]
        max_seq_len=min(CONTEXT, read_config(Path(folder)).max_seq_len),
    )
    result = {"load": time.perf_counter() - start}
    vocab = engine.info.vocab_size
    for count in PROMPTS:
        # Two different prompts: the second does not profit from the first, nor from pages touched for the first time.
        for offset in (1, 7):
            prompt = [(i * 31 + offset) % vocab for i in range(count)]
            engine.submit(prompt, SamplingParams(temperature=0, max_new_tokens=1, ignore_eos=True))
            start = time.perf_counter()
            while not engine.step():
                pass
            result[f"prefill_{count}"] = count / (time.perf_counter() - start)
    engine.submit(list(range(16)), SamplingParams(temperature=0, max_new_tokens=tokens + 1, ignore_eos=True))
    engine.step()
    start = time.perf_counter()
    steps = 0
    while engine.step():
        steps += 1
    result["decode"] = steps / (time.perf_counter() - start)
    result["bytes"] = engine.weight_bytes
    result["memory"] = peak_memory()  # before the buffer of the next line
    result["bandwidth"] = library().edge_read_bandwidth(256 << 20, threads, 3)
    return result


def measure_peer(path: str, threads: int, tokens: int) -> dict[str, float]:
    import ctypes

    import llama_cpp as llama

    silent = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(silent, ctypes.c_void_p())
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = CONTEXT, 512, 512
    params.n_threads = params.n_threads_batch = threads
    context = llama.llama_init_from_model(model, params)
    vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model)) or 32000
    batch = llama.llama_batch_init(512, 0, 1)
    memory = llama.llama_get_memory(context)

    def decode(ids: list[int], first: int) -> None:
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, first + i, 1, 0
            batch.logits[i] = i == len(ids) - 1
        if llama.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")
        llama.llama_get_logits_ith(context, -1)  # waits for the result

    result = {}
    for count in PROMPTS:
        for offset in (1, 7):
            llama.llama_memory_clear(memory, True)
            ids = [(i * 31 + offset) % vocab for i in range(count)]
            start = time.perf_counter()
            decode(ids, 0)
            result[f"prefill_{count}"] = count / (time.perf_counter() - start)
    llama.llama_memory_clear(memory, True)
    decode(list(range(16)), 0)
    start = time.perf_counter()
    for i in range(tokens):
        decode([i % vocab], 16 + i)
    result["decode"] = tokens / (time.perf_counter() - start)
    result["memory"] = peak_memory()
    return result


def cold_start(folder: str, threads: int, bytecode: str) -> float:
    """Seconds from starting Python to the first token of a model folder that is stored quantised."""
    code = (
        "import sys, smidgen.edge as e\nfrom smidgen.runtime.sampling import SamplingParams as S\n"
        "engine = e.load(sys.argv[1], threads=int(sys.argv[2]), max_seq_len=512)\n"
        "engine.submit([1, 2, 3, 4], S(temperature=0, max_new_tokens=1))\nassert engine.step()"
    )
    # With bytecode, which an installation has; the first run of the caller writes it.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bytecode
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, folder, str(threads)], check=True, env=environment)
    return time.perf_counter() - start


def run_worker(kind: str, *arguments: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", kind, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{kind} {arguments}: {done.stderr[-800:]}")
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def prepare_ours(model: str, work: Path) -> Path:
    """The model folder: as it is, or random weights of a preset."""
    if (Path(model) / "config.json").is_file():
        return Path(model)
    import smidgen

    folder = work / model
    if not folder.is_dir():
        smidgen.save(smidgen.build(model, seed=0), folder)
    return folder


def prepare_peer(folder: Path, kind: str, work: Path) -> Path:
    """A GGUF file of the folder's weights."""
    base = work / f"{folder.name}-F16.gguf"
    if not base.is_file():
        from smidgen.folders import load
        from smidgen.interchange.gguf.export import export_gguf

        export_gguf(load(folder), base, None, "f16", name=folder.name)
    path = work / f"{folder.name}-{kind}.gguf"
    if not path.is_file():
        subprocess.run([sys.executable, __file__, "--worker", "quantize", str(base), str(path), kind], check=True)
    return path


def quantize_peer(base: str, path: str, kind: str) -> None:
    import llama_cpp as llama

    params = llama.llama_model_quantize_default_params()
    params.ftype, params.nthread = _FILE_TYPES[kind], os.cpu_count() or 1
    params.output_tensor_type = params.token_embedding_type = _GGML_TYPES[kind]
    if llama.llama_model_quantize(base.encode(), path.encode(), params):
        raise RuntimeError("llama_model_quantize failed")


def compare(args: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    folder = prepare_ours(args.model, work)
    results = []
    for scheme in args.schemes.split(","):
        peer_name = f"llama.cpp {PEER_TYPES[scheme]}"
        try:
            import llama_cpp  # noqa: F401

            peer = prepare_peer(folder, PEER_TYPES[scheme], work)
        except Exception as error:
            print(f"{scheme}: no peer: {' '.join(str(error).split())[:160]}", flush=True)
            peer = None
        for threads in args.threads.split(","):
            ours: list[dict[str, float]] = []
            theirs: list[dict[str, float]] = []
            for _ in range(args.rounds):
                ours.append(run_worker("ours", str(folder), scheme, threads, str(args.tokens), args.ternary))
                if peer is not None:
                    theirs.append(run_worker("peer", str(peer), threads, str(args.tokens)))
            results += judge(f"{args.model} {scheme}, {threads} threads", scheme, ours, theirs, peer_name)
    if args.quantized:
        threads_given = int(args.threads.split(",")[-1])
        with tempfile.TemporaryDirectory() as bytecode:
            times = [cold_start(args.quantized, threads_given, bytecode) for _ in range(COLD_STARTS + 1)][1:]
        print(f"cold start to first token: {statistics.median(times):.3f} s (bar 0.3)")
        results.append(report.result(f"{args.model} stored int4", "cold start", "s", statistics.median(times)))
    return results


def judge(
    case: str, scheme: str, ours: list[dict[str, float]], theirs: list[dict[str, float]], peer_name: str
) -> list[dict[str, Any]]:
    rows = []
    for metric in ("decode", *(f"prefill_{count}" for count in PROMPTS)):
        own = statistics.median(round_[metric] for round_ in ours)
        other = statistics.median(round_[metric] for round_ in theirs) if theirs else None
        rows.append(report.result(case, metric, "tokens/s", own, other, peer_name if theirs else None))
        bar = BARS[scheme] if metric == "decode" else PREFILL_BARS[scheme]
        ratio = f"{own / other:5.2f} (bar {bar})" if other else "no peer"
        print(f"{case:34} {metric:12} {own:9.1f} {other or 0:9.1f}  {ratio}", flush=True)
    reached = statistics.median(r["decode"] * r["bytes"] / r["bandwidth"] for r in ours)
    rows.append(report.result(case, "bandwidth fraction", "of a plain read", reached))
    memory = statistics.median(r["memory"] for r in ours) / 1e6
    peer_memory = statistics.median(r["memory"] for r in theirs) / 1e6 if theirs else None
    rows.append(report.result(case, "resident memory", "MB", memory, peer_memory, peer_name if theirs else None))
    print(
        f"{case:34} bandwidth    {reached:9.2f} of a plain read; memory {memory:.0f} MB, peer {peer_memory or 0:.0f} MB"
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="elite-112m", help="a preset (random weights) or a model folder")
    parser.add_argument("--schemes", default="bf16,int8,int4,ternary")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument(
        "--ternary", default="auto", choices=["auto", "2bit", "base3"], help="how we hold ternary weights"
    )
    parser.add_argument("--quantized", help="a folder stored quantised, for the cold start")
    parser.add_argument("--work", help="keeps the models between runs")
    parser.add_argument("--json", help="write the results here")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        kind, *rest = args.worker
        if kind == "quantize":
            quantize_peer(*rest)
        elif kind == "ours":
            print(json.dumps(measure_ours(rest[0], rest[1], int(rest[2]), int(rest[3]), rest[4])))
        else:
            print(json.dumps(measure_peer(rest[0], int(rest[1]), int(rest[2]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(args.work or temporary)
        work.mkdir(parents=True, exist_ok=True)
        results = compare(args, work)
    if args.json:
        report.write(args.json, results)


if __name__ == "__main__":
    main()
