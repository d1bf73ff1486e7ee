"""A training step of Smidgen beside transformers': same shapes, same batch, same optimiser, same run.

    python benchmarks/train_step.py --json benchmarks/results/train_step.json
    python benchmarks/train_step.py --cases elite-112m --compile --profile

A step is forward, backward, clipping and AdamW in bf16 (transformers under autocast, as its trainer does on a CPU). The
two take turns for several rounds in one process each; a figure is the median of the rounds. `--memory` measures the
largest resident memory of a process that trains with one of them alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import report
import torch
import transformers
from torch import Tensor

from smidgen.config import Config, load_config
from smidgen.folders.architectures import architecture_of
from smidgen.model import Decoder, flops_per_token
from smidgen.training.devices import peak_flops
from smidgen.training.memory import reuse_freed_memory
from smidgen.training.objectives import Batch, LanguageModeling
from smidgen.training.optimizers import average_and_clip, make_optimizer, set_rates

Step = Callable[[Tensor], float]
"""Takes tokens int64 [B, T + 1], returns the mean loss before the step."""
BARS = {"eager": 1.4, "compiled": 1.25}


@dataclass(frozen=True)
class Shape:
    preset: str
    batch_size: int = 2
    seq_len: int = 512


SHAPES = {name: Shape(name) for name in ("elite-112m", "gemma3-tinystories", "tilda-70m")}
SHAPES["tiny"] = Shape("elite-tiny", 2, 64)


def our_step(config: Config, *, compiled: bool) -> Step:
    """Smidgen's step, as training/loop.py takes it."""
    if config.training.device == "cpu":
        reuse_freed_memory()
    model = Decoder(config.model).initialize(0).train()
    model.compute_dtype = torch.bfloat16
    optimizer = make_optimizer(model, config.training.optimizer)
    set_rates(optimizer, 1e-4, 0.1)
    if compiled:
        for layer in model.layers:
            layer.compile_training()
    objective = LanguageModeling()

    def step(tokens: Tensor) -> float:
        optimizer.zero_grad(set_to_none=True)
        total, weight, _ = objective.loss(model, Batch(tokens[:, :-1], tokens[:, 1:].contiguous()))
        total.backward()
        average_and_clip(model.parameters(), weight, 1.0)
        optimizer.step()
        return total.item() / weight.item()

    return step


def their_step(config: Config, *, compiled: bool) -> Step:
    """transformers' class for the same shape, the loss that it computes itself."""
    architecture = architecture_of(config.model)
    fields = architecture.write(config.model)
    theirs = transformers.CONFIG_MAPPING[architecture.model_type].from_dict(fields)
    model = transformers.AutoModelForCausalLM.from_config(theirs).float().train()
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if compiled else model

    def step(tokens: Tensor) -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            # Its labels are shifted inside.
            loss = run(input_ids=tokens[:, :-1], labels=tokens[:, :-1]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.item())

    return step


STEPS = {"ours": our_step, "transformers": their_step}


def tokens_of(shape: Shape, config: Config) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = (shape.batch_size, shape.seq_len + 1)
    return torch.randint(0, config.model.vocab_size, size, generator=generator)


def measure(shape: Shape, *, compiled: bool, rounds: int, steps: int) -> dict[str, float]:
    """Median tokens a second of each, in turns."""
    config = load_config(shape.preset, {"training.device": "cpu", "training.optimizer.kind": "adamw"})
    tokens = tokens_of(shape, config)
    makers = {name: make(config, compiled=compiled) for name, make in STEPS.items()}
    rates: dict[str, list[float]] = {name: [] for name in makers}
    for name, step in makers.items():
        begun = time.perf_counter()
        losses = [step(tokens) for _ in range(2)]
        print(f"  {name}: first two steps {time.perf_counter() - begun:.1f} s, losses {losses}", file=sys.stderr)
    for _ in range(rounds):
        for name, step in makers.items():
            begun = time.perf_counter()
            for _ in range(steps):
                step(tokens)
            rates[name].append(steps * shape.batch_size * shape.seq_len / (time.perf_counter() - begun))
    return {name: statistics.median(values) for name, values in rates.items()}


def peak_memory(case: str, name: str) -> float:
    """Largest resident memory, MiB, of a process that takes three steps."""
    command = [sys.executable, __file__, "--alone", name, "--cases", case]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(finished.stdout)["peak_mib"])


def alone(shape: Shape, name: str) -> None:
    """Take three steps with one of them and print the peak."""
    config = load_config(shape.preset, {"training.device": "cpu", "training.optimizer.kind": "adamw"})
    step = STEPS[name](config, compiled=False)
    for _ in range(3):
        step(tokens_of(shape, config))
    print(json.dumps({"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def profile(shape: Shape, name: str) -> None:
    """Where the time of three steps goes."""
    config = load_config(shape.preset, {"training.device": "cpu", "training.optimizer.kind": "adamw"})
    tokens, step = tokens_of(shape, config), STEPS[name](config, compiled=False)
    step(tokens)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(3):
            step(tokens)
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=44))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=[name for name in SHAPES if name != "tiny"], choices=SHAPES)
    parser.add_argument("--compile", action="store_true", help="measure compiled beside compiled too")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory of each alone too")
    parser.add_argument("--profile", action="store_true", help="show where the time of Smidgen's step goes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of each in a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--alone", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.alone:
        alone(SHAPES[args.cases[0]], args.alone)
        return
    results = []
    peak = peak_flops(torch.device("cpu"), torch.bfloat16)
    for case in args.cases:
        shape = SHAPES[case]
        if args.profile:
            profile(shape, "ours")
        for mode in ["eager", "compiled"] if args.compile else ["eager"]:
            rates = measure(shape, compiled=mode == "compiled", rounds=args.rounds, steps=args.steps)
            ours, theirs = rates["ours"], rates["transformers"]
            flops = flops_per_token(load_config(shape.preset).model, shape.seq_len)
            share = f", {ours * flops / peak:.0%} of the measured bf16 peak" if peak else ""
            print(f"{case:20} {mode:9} {ours:8,.0f} tok/s, transformers {theirs:8,.0f}: {ours / theirs:.2f}×{share}")
            results.append(
                report.result(case, f"train step, {mode}", "tok/s", ours, theirs, "transformers bf16 autocast")
            )
            if peak:
                results.append(report.result(case, f"share of bf16 peak, {mode}", "1", ours * flops / peak))
        if args.memory:
            ours, theirs = (peak_memory(case, name) for name in STEPS)
            print(f"{case:20} memory    {ours:8,.0f} MiB, transformers {theirs:8,.0f}: {ours / theirs:.2f}×")
            results.append(
                report.result(case, "peak resident memory", "MiB", ours, theirs, "transformers bf16 autocast")
            )
    if args.json:
        report.write(args.json, results)


if __name__ == "__main__":
    main()
