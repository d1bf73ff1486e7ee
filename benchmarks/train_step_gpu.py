"""A training step on a GPU beside transformers': same shapes, same batch, same optimiser, same run.

    python benchmarks/train_step_gpu.py --json benchmarks/results/train_step_gpu.json
    python benchmarks/train_step_gpu.py --cases elite-112m --ways ours-bf16 --profile

A step is forward, backward, clipping and fused AdamW on float32 weights, and ends when its loss is on the host, as in
a training loop. Ways to take it: `ours-bf16` and Smidgen's FP8 recipes, compiled; `transformers`, bf16 autocast,
compiled, its own choice of attention kernel; `eager`, the same uncompiled with attention as plain products, the way of
minimal training scripts, on a quarter of the batch, for its scores are kept. Each has a process of its own. MFU is
against the datasheet's dense bf16 peak, for FP8 too.

Without a GPU (`--cases tiny`) everything runs eagerly on the CPU: that proves the script, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import report
import torch
from torch import Tensor

from smidgen.config import Config, load_config
from smidgen.folders.architectures import architecture_of
from smidgen.model import Decoder, flops_per_token
from smidgen.training.compiling import compile_training
from smidgen.training.devices import device_name, peak_flops, resolve_device, training_kernels
from smidgen.training.objectives import Batch, LanguageModeling
from smidgen.training.optimizers import average_and_clip, make_optimizer, set_rates
from smidgen.training.precision import apply_precision, commit_amax


@dataclass(frozen=True)
class Shape:
    preset: str
    batch_size: int
    seq_len: int


SHAPES = {
    "elite-112m": Shape("elite-112m", 32, 2048),
    "tilda-70m": Shape("tilda-70m", 16, 2048),
    "gemma3-tinystories": Shape("gemma3-tinystories", 16, 1024),
    "tinylm-300m": Shape("tinylm-300m", 8, 2048),
    "tinylm-gqa-300m": Shape("tinylm-gqa-300m", 8, 2048),
    "rscalm-138m": Shape("rscalm-138m", 16, 1024),
    "tiny": Shape("elite-tiny", 2, 64),
}
OURS = ("ours-bf16", "ours-fp8_tensorwise", "ours-fp8_delayed", "ours-fp8_block")
PEERS = {
    "transformers": "transformers, bf16 autocast, compiled",
    "eager": "transformers, bf16 autocast, eager attention",
}
Step = Callable[[Tensor], float]
"""Takes tokens int64 [B, T + 1], returns the mean loss before the step."""


def our_step(config: Config, precision: str, device: torch.device) -> Step:
    """Smidgen's step, as training/trainer.py takes it."""
    model = Decoder(config.model).initialize(0).to(device).train()
    apply_precision(model, precision, device)
    optimizer = make_optimizer(model, config.training.optimizer)
    set_rates(optimizer, 1e-4, 0.1)
    if device.type == "cuda":
        compile_training(model)
    objective = LanguageModeling()

    def step(tokens: Tensor) -> float:
        optimizer.zero_grad(set_to_none=True)
        total, weight, _ = objective.loss(model, Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()))
        total.backward()
        average_and_clip(model.parameters(), weight, 1.0)
        optimizer.step()
        commit_amax(model)
        return total.item() / weight.item()

    return step


def their_step(config: Config, attention: str, device: torch.device, *, compiled: bool) -> Step:
    """transformers' class for the same shape, with the loss that it computes itself."""
    import transformers

    architecture = architecture_of(config.model)
    theirs = transformers.CONFIG_MAPPING[architecture.model_type].from_dict(architecture.write(config.model))
    theirs._attn_implementation = attention
    theirs.use_cache = False
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(theirs).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if compiled else model

    def step(tokens: Tensor) -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            # Its labels are shifted inside.
            loss = run(input_ids=tokens[:, :-1].contiguous(), labels=tokens[:, :-1].contiguous()).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.item())

    return step


def make_step(way: str, config: Config, device: torch.device) -> Step:
    if way.startswith("ours-"):
        return our_step(config, way.removeprefix("ours-"), device)
    compiled = way == "transformers" and device.type == "cuda"
    return their_step(config, "sdpa" if way == "transformers" else "eager", device, compiled=compiled)


def measure(case: str, way: str, device: torch.device, steps: int, *, profiled: bool) -> dict[str, float]:
    """Median rate of `steps` steps, peak memory, the first step's time and loss; in this process."""
    shape = SHAPES[case]
    config = load_config(shape.preset, {"training.optimizer.kind": "adamw"})
    generator = torch.Generator().manual_seed(0)
    # Attention as plain products keeps T² scores a head: a smaller batch is what fits.
    size = (max(shape.batch_size // 4, 1) if way == "eager" else shape.batch_size, shape.seq_len + 1)
    tokens = torch.randint(0, config.model.vocab_size, size, generator=generator).to(device)
    with training_kernels(device, deterministic=False) if way.startswith("ours-") else nullcontext():
        begun = time.perf_counter()
        step = make_step(way, config, device)
        loss = step(tokens)
        first = time.perf_counter() - begun
        for _ in range(4):
            step(tokens)
        seconds = []
        for _ in range(steps):
            begun = time.perf_counter()
            step(tokens)
            seconds.append(time.perf_counter() - begun)
        if profiled:
            show_profile(lambda: step(tokens), device)
    return {
        "tokens_per_second": tokens[:, 1:].numel() / statistics.median(seconds),
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0,
        "first_step_seconds": first,
        "loss": loss,
    }


def show_profile(step: Callable[[], object], device: torch.device) -> None:
    """Where the time of three steps goes, on standard error."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(3):
            step()
    sort = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=sort, row_limit=40, max_name_column_width=70)
    print(table, file=sys.stderr, flush=True)


def measure_alone(case: str, way: str, args: argparse.Namespace) -> dict[str, float] | None:
    """`measure` in a process of its own; None where it failed, after its last lines."""
    command = [sys.executable, __file__, "--alone", way, "--cases", case, "--device", args.device]
    command += ["--steps", str(args.steps)] + ["--profile"] * args.profile
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if finished.returncode:
        return None
    answer: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return answer


def has_peer(config: Config) -> bool:
    """Whether transformers has a class of its own for this model."""
    return "auto_map" not in architecture_of(config.model).write(config.model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=[name for name in SHAPES if name != "tiny"], choices=SHAPES)
    parser.add_argument(
        "--ways", nargs="+", choices=[*OURS, *PEERS], help="default: all for elite-112m, bf16 elsewhere"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = resolve_device(args.device)
    if args.alone:
        print(json.dumps(measure(args.cases[0], args.alone, device, args.steps, profiled=args.profile)))
        return
    results: list[dict[str, Any]] = []
    peak = peak_flops(device, torch.bfloat16)
    print(f"{device_name(device)}, torch {torch.__version__}")
    for case in args.cases:
        config = load_config(SHAPES[case].preset)
        ways = args.ways or ([*OURS, *PEERS] if case in {"elite-112m", "tiny"} else ["ours-bf16", "transformers"])
        ways = [way for way in ways if way not in PEERS or has_peer(config)]
        flops = flops_per_token(config.model, SHAPES[case].seq_len)
        figures: dict[str, dict[str, float]] = {}
        for way in ways:
            measured = measure_alone(case, way, args)
            if measured is None:
                print(f"{case:20} {way:20} failed", flush=True)
                continue
            figures[way] = measured
            rate = measured["tokens_per_second"]
            mfu = f", MFU {rate * flops / peak:.1%}" if peak else ""
            print(
                f"{case:20} {way:20} {rate:10,.0f} tok/s{mfu}, {measured['peak_gib']:.1f} GiB, "
                f"first step {measured['first_step_seconds']:.0f} s, loss {measured['loss']:.4f}",
                flush=True,
            )
            if args.json:  # after every one: a lease that ends takes only the last
                report.write(args.json, results + compared(case, figures, flops, peak))
        results += compared(case, figures, flops, peak)
    for result in results:
        if result["metric"] == "train step" and result["ratio"]:
            print(f"{result['case']}: {result['ratio']:.2f} × {result['peer_name']}")


def compared(case: str, figures: dict[str, dict[str, float]], flops: int, peak: float | None) -> list[dict[str, Any]]:
    """Each of our ways beside every peer that ran; an FP8 recipe beside our bf16 too."""
    results = []
    for way in (way for way in OURS if way in figures):
        name, ours = f"{case}, {way.removeprefix('ours-')}", figures[way]
        if peak:
            results.append(report.result(name, "MFU of bf16 peak", "1", ours["tokens_per_second"] * flops / peak))
        peers = {**PEERS, **({"ours-bf16": "smidgen bf16"} if way != "ours-bf16" else {})}
        beside = [(peer_name, figures[peer]) for peer, peer_name in peers.items() if peer in figures] or [(None, None)]
        for peer_name, theirs in beside:
            for metric, unit, key in (("train step", "tok/s", "tokens_per_second"), ("peak memory", "GiB", "peak_gib")):
                results.append(report.result(name, metric, unit, ours[key], theirs and theirs[key], peer_name))
    return results


if __name__ == "__main__":
    main()
