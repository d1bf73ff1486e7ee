"""Prompts and new tokens a second: Smidgen's PyTorch engine beside transformers' generate and llama.cpp, in one run.

    python benchmarks/decode.py --json benchmarks/results/decode.json
    python benchmarks/decode.py --device cuda --json benchmarks/results/decode_gpu.json
    python benchmarks/decode.py --models elite-112m tilda-70m gemma3-270m --prompts 128 --new-tokens 32
    python benchmarks/decode.py --llama-python /path/to/an/environment/bin/python

Models with random weights, the same for all; greedy; end tokens ignored. `decode` counts the tokens after the first, in
the time after the first (for transformers: the time of a whole answer without that of one token). `prefill` is a prompt
until its first token. On a processor: one sequence, prompts of 128 and 512 tokens, in float32 and in bf16, each beside
peers of the same type; rounds of the engines take turns, and the median counts. On a GPU: batches of 1 and of 64 with
prompts of 128 tokens, in bf16.

llama.cpp (llama-cpp-python, perhaps in an environment of its own) decodes through its low-level call, from an f16 and,
in fp32 runs, an f32 file; it is left out where it is not installed. `agreement` says how many greedy tokens are the
same as transformers': in fp32 all but near-ties, in bf16 random weights soon part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import report
import torch

import smidgen
from smidgen.inference import TorchEngine
from smidgen.model import Decoder
from smidgen.runtime import SamplingParams
from smidgen.runtime.errors import SmidgenError
from smidgen.training.devices import device_name, resolve_device

LLAMA = """
import ctypes, json, sys, time
import llama_cpp as L
path, threads, prompts, new_tokens, rounds, is_busy = json.loads(sys.argv[1])
clock = time.process_time if is_busy else time.perf_counter
quiet = L.llama_log_callback(lambda *_: None)
L.llama_log_set(quiet, ctypes.c_void_p(0))
L.llama_backend_init()
model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
options = L.llama_context_default_params()
options.n_ctx = max(map(len, prompts)) + new_tokens
options.n_batch = options.n_ubatch = max(map(len, prompts))
options.n_threads = options.n_threads_batch = threads
context = L.llama_init_from_model(model, options)
size = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))

def decode(tokens):
    array = (L.llama_token * len(tokens))(*tokens)
    assert L.llama_decode(context, L.llama_batch_get_one(array, len(tokens))) == 0
    logits = L.llama_get_logits_ith(context, -1)
    return logits

import numpy as np
found = []
for prompt in prompts:
    for _ in range(rounds + 1):
        L.llama_memory_clear(L.llama_get_memory(context), True)
        begun = clock()
        logits = decode(prompt)
        first = clock()
        for _ in range(new_tokens):
            token = int(np.ctypeslib.as_array(logits, shape=(size,)).argmax())
            logits = decode([token])
        found.append([first - begun, clock() - first])
json.dump(found, sys.stdout)
"""


class Clock:
    """Seconds; of the wall, or under `--busy` those that the processor worked for this process."""

    def __init__(self) -> None:
        self.now = time.perf_counter

    def __call__(self) -> float:
        return self.now()


clock = Clock()


@dataclass
class Round:
    """The seconds of one round."""

    prefill: float
    decode: float
    """For all new tokens but the first."""
    tokens: list[list[int]]


def our_round(engine: TorchEngine, prompts: list[list[int]], new_tokens: int) -> Round:
    """All prompts at once through the engine."""
    params = SamplingParams(max_new_tokens=new_tokens, temperature=0, ignore_eos=True)
    begun = clock()
    requests = [engine.submit(prompt, params) for prompt in prompts]
    tokens: dict[int, list[int]] = {request: [] for request in requests}
    first = None
    while any(len(own) < new_tokens for own in tokens.values()):
        for event in engine.step():
            assert event.token is not None
            tokens[event.request].append(event.token)
        if first is None and all(tokens.values()):
            first = clock()
            already = min(map(len, tokens.values())) - 1
            assert already == 0, "the engine gave a second token before every first one"
    assert first is not None
    return Round(first - begun, clock() - first, list(tokens.values()))


def their_round(model: Any, prompts: list[list[int]], new_tokens: int, device: torch.device) -> Round:
    """transformers' generate; its own time for the first token is taken apart."""
    ids = torch.tensor(prompts, device=device)
    mask = torch.ones_like(ids)

    def seconds(count: int) -> tuple[float, Any]:
        _wait(device)
        begun = clock()
        with torch.inference_mode():
            answer = model.generate(
                ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False, use_cache=True
            )
        _wait(device)
        return clock() - begun, answer

    prefill, _ = seconds(1)
    whole, answer = seconds(new_tokens)
    return Round(prefill, whole - prefill, answer[:, ids.shape[1] :].tolist())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def transformers_model(model: Decoder, dtype: torch.dtype, device: torch.device) -> Any:
    """transformers' class with the same weights."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        path = smidgen.save(model.cpu(), Path(folder) / "model")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device).eval()
    theirs.generation_config = transformers.GenerationConfig(pad_token_id=0)
    return theirs


def llama_rounds(
    python: str,
    model: Decoder,
    kind: str,
    prompts: list[list[int]],
    new_tokens: int,
    rounds: int,
    threads: int,
    is_busy: bool,
) -> list[list[Round]] | None:
    """A list of rounds for each prompt; None where llama.cpp is not installed."""
    if subprocess.run([python, "-c", "import llama_cpp"], capture_output=True).returncode:
        return None
    from smidgen.interchange.gguf.export import export_gguf

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        try:
            export_gguf(model, path, None, kind)
        except SmidgenError as error:
            print(f"  llama.cpp: {error}", file=sys.stderr)
            return None
        request = json.dumps([str(path), threads, prompts, new_tokens - 1, rounds, is_busy])
        finished = subprocess.run([python, "-c", LLAMA, request], capture_output=True, text=True)
    if finished.returncode:
        print(f"llama.cpp failed: {finished.stderr.strip()[-300:]}", file=sys.stderr)
        return None
    found = [Round(prefill, decode, []) for prefill, decode in json.loads(finished.stdout)]
    size = rounds + 1
    return [found[i + 1 : i + size] for i in range(0, len(found), size)]


def rates(rounds: list[Round], batch: int, prompt: int, new_tokens: int) -> dict[str, float]:
    """Medians, in tokens a second."""
    return {
        "prefill": batch * prompt / statistics.median(own.prefill for own in rounds),
        "decode": batch * (new_tokens - 1) / statistics.median(own.decode for own in rounds),
    }


def agreement(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Share of the tokens before which nothing differs that are equal, up to the first difference of each answer."""
    equal = 0
    for own, other in zip(ours, theirs, strict=True):
        equal += next((i for i, pair in enumerate(zip(own, other, strict=True)) if pair[0] != pair[1]), len(own))
    return equal / sum(map(len, ours))


def measure(
    args: argparse.Namespace, name: str, device: torch.device, precision: str, batch: int, prompt: int
) -> tuple[dict[str, float], dict[str, dict[str, float]], float | None]:
    """Our rates, those of each peer, and the agreement with transformers."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = smidgen.build(name, seed=0)
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(0, model.config.vocab_size, (batch, prompt), generator=generator).tolist()
    peers: dict[str, Callable[[], Round]] = {}
    if "transformers" in args.peers:
        theirs = transformers_model(model, dtype, device)
        peers["transformers"] = lambda: their_round(theirs, prompts, args.new_tokens, device)
    # Each product rounds its weight to bf16, as transformers' weights are.
    ours_model = smidgen.build(name, seed=0).to(device)
    ours_model.compute_dtype = dtype if precision == "bf16" else None
    engine = TorchEngine(
        ours_model,
        max_batch_size=batch,
        max_seq_len=min(model.config.max_seq_len, prompt + args.new_tokens),
        reuse_prefixes=False,
    )
    begun = clock()
    our_round(engine, prompts, args.new_tokens)
    print(f"  first round of ours: {clock() - begun:.1f} s", flush=True)
    for run in peers.values():
        run()
    ours: list[Round] = []
    found: dict[str, list[Round]] = {peer: [] for peer in peers}
    for _ in range(args.rounds):
        ours.append(our_round(engine, prompts, args.new_tokens))
        for peer, run in peers.items():
            found[peer].append(run())
    if "llama.cpp" in args.peers and device.type == "cpu" and batch == 1:
        for kind in ("f32", "f16") if precision == "fp32" else ("f16",):
            rounds = llama_rounds(
                args.llama_python,
                model,
                kind,
                prompts,
                args.new_tokens,
                args.rounds,
                torch.get_num_threads(),
                args.busy,
            )
            if rounds is None:
                print("  llama.cpp: not measured (pip install llama-cpp-python, or --llama-python)", flush=True)
                break
            found[f"llama.cpp {kind}"] = rounds[0]
    equal = None
    if found.get("transformers"):
        equal = agreement(ours[-1].tokens, found["transformers"][-1].tokens)
    size = (batch, prompt, args.new_tokens)
    return rates(ours, *size), {peer: rates(rounds, *size) for peer, rounds in found.items()}, equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["elite-112m"], help="presets (default: elite-112m)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], help="default: both, on a GPU bf16")
    parser.add_argument("--batches", nargs="+", type=int, help="default: 1, and on a GPU 64")
    parser.add_argument("--prompts", nargs="+", type=int, help="lengths (default: 128 and 512, on a GPU 128)")
    parser.add_argument("--new-tokens", type=int, help="default: 64, on a GPU 512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="processor threads")
    parser.add_argument(
        "--peers", nargs="*", default=["transformers", "llama.cpp"], choices=["transformers", "llama.cpp"]
    )
    parser.add_argument("--llama-python", default=sys.executable, help="a Python that has llama-cpp-python")
    parser.add_argument(
        "--busy", action="store_true", help="one thread, by its processor time: for a machine that has other work"
    )
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    device = resolve_device(args.device)
    is_gpu = device.type == "cuda"
    if args.busy:
        assert not is_gpu, "--busy counts a processor's time"
        args.threads = 1
        clock.now = time.process_time
    if args.threads:
        torch.set_num_threads(args.threads)
    args.new_tokens = args.new_tokens or (512 if is_gpu else 64)
    precisions = args.precisions or (["bf16"] if is_gpu else ["fp32", "bf16"])
    print(f"{device_name(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    results: list[dict[str, Any]] = []
    batches = args.batches or ([1, 64] if is_gpu else [1])
    prompts = args.prompts or ([128] if is_gpu else [128, 512])
    for name, precision, batch, prompt in product(args.models, precisions, batches, prompts):
        case = f"{name}, {precision}, batch {batch}, prompt {prompt}"
        print(case, flush=True)
        ours, peers, equal = measure(args, name, device, precision, batch, prompt)
        for metric, rate in ours.items():
            print(f"  {metric:8} {rate:12,.1f} tok/s", flush=True)
            if not peers:
                results.append(report.result(case, metric, "tok/s", rate))
            for peer, theirs in peers.items():
                results.append(report.result(case, metric, "tok/s", rate, theirs[metric], peer))
                print(f"  {peer:>21} {theirs[metric]:12,.1f} tok/s   ratio {rate / theirs[metric]:.2f}", flush=True)
        if equal is not None:
            print(f"  greedy tokens equal to transformers' before the first difference: {equal:.1%}", flush=True)
            results.append(report.result(case, "agreement before the first difference", "1", equal))
    if args.json:
        report.write(args.json, results)


if __name__ == "__main__":
    main()
