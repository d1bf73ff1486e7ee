"""FP8 training beside bf16: the projections alone, and whole training steps; each recipe in the same run.

    python benchmarks/fp8.py --json benchmarks/results/fp8.json

On a GPU: elite-112m, 8 sequences of 2048 tokens, compiled. On a CPU, where FP8 is a PyTorch reference without any
speed, a tiny twin runs instead: it proves the script, and its ratios mean nothing. A ratio below 1 says that FP8 is
slower than bf16, as it often is at this size.

`linear`: forward and backward pass of one projection, the quantisation included, in TFLOP/s of its three products.
`step`: forward, backward, clipping and AdamW, in tokens a second. `memory`: peak of the step, in GB (GPU only).
Figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import report
import torch
from torch import Tensor, nn

from smidgen.config import Config, load_config
from smidgen.kernels.fp8_dispatch import block_backend, tensorwise_backend
from smidgen.model import Decoder, flops_per_token
from smidgen.model.fp8 import RECIPES, Recipe, use_fp8
from smidgen.model.linear import Linear, Quantizer
from smidgen.training.compiling import compile_training
from smidgen.training.devices import device_name, peak_flops, resolve_device
from smidgen.training.objectives import Batch, LanguageModeling
from smidgen.training.optimizers import average_and_clip, make_optimizer, set_rates
from smidgen.training.precision import apply_precision, commit_amax

PEER = "smidgen bf16"


@dataclass(frozen=True)
class Workload:
    preset: str
    batch_size: int
    seq_len: int
    warm_up: int
    rounds: int
    compiled: bool


ON_GPU = Workload("elite-112m", batch_size=8, seq_len=2048, warm_up=10, rounds=30, compiled=True)
ON_CPU = Workload("elite-tiny", batch_size=2, seq_len=64, warm_up=1, rounds=3, compiled=False)


class Projection(nn.Module):
    """One linear layer with a weight of a model's size."""

    def __init__(self, in_features: int, out_features: int, recipe: Recipe | None, device: torch.device) -> None:
        super().__init__()
        self.linear = Linear(in_features, out_features, Quantizer()).to(device)
        nn.init.normal_(self.linear.weight, std=0.02)
        if recipe is not None:
            use_fp8(self, recipe, device)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--preset", help="instead of elite-112m (elite-tiny on a CPU)")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seq-len", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    device = resolve_device(args.device)
    default = ON_GPU if device.type == "cuda" else ON_CPU
    work = Workload(
        preset=args.preset or default.preset,
        batch_size=args.batch_size or default.batch_size,
        seq_len=args.seq_len or default.seq_len,
        warm_up=default.warm_up,
        rounds=args.rounds or default.rounds,
        compiled=default.compiled and not args.eager,
    )
    config = load_config(
        work.preset, {"training.batch_size": work.batch_size, "training.seq_len": work.seq_len, "data.path": "none"}
    )
    print(
        f"{work.preset}, {work.batch_size} × {work.seq_len} tokens, {'compiled' if work.compiled else 'eager'}, ",
        end="",
    )
    print(f"{device_name(device)}; one scale: {tensorwise_backend(device)}, blocks: {block_backend(device)}")
    results = measure_projections(config, work, device) + measure_steps(config, work, device)
    if args.json:
        report.write(args.json, results)


def measure_projections(config: Config, work: Workload, device: torch.device) -> list[dict[str, Any]]:
    """Every distinct size of projection in the model."""
    with torch.device("meta"):
        decoder = Decoder(config.model)
    sizes = {(m.in_features, m.out_features) for m in decoder.modules() if isinstance(m, Linear)}
    results = []
    for in_features, out_features in sorted(sizes):
        tokens = work.batch_size * work.seq_len
        x = torch.randn(tokens, in_features, device=device, dtype=torch.bfloat16, requires_grad=True)
        gradient = torch.randn(tokens, out_features, device=device, dtype=torch.bfloat16)
        rates = {}
        for recipe in (None, *RECIPES):
            torch.compiler.reset()
            projection = Projection(in_features, out_features, recipe, device)
            run: Callable[[Tensor], Tensor] = torch.compile(projection) if work.compiled else projection

            def once(
                run: Callable[[Tensor], Tensor] = run,
                x: Tensor = x,
                weight: Tensor = projection.linear.weight,
                gradient: Tensor = gradient,
            ) -> None:
                torch.autograd.grad(run(x), (x, weight), gradient)

            seconds = median_seconds(once, work, device)
            rates[recipe or "bf16"] = 6 * tokens * in_features * out_features / seconds / 1e12
        results += beside_bf16(f"{in_features} → {out_features}", "linear", "TFLOP/s", rates)
    return results


def measure_steps(config: Config, work: Workload, device: torch.device) -> list[dict[str, Any]]:
    """The whole training step in each precision."""
    tokens = work.batch_size * work.seq_len
    rates, memory = {}, {}
    for precision in ("bf16", *RECIPES):
        gc.collect()  # the model before, whose memory is not this one's
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        rates[precision] = tokens / median_seconds(training_step(config, precision, work, device), work, device)
        if device.type == "cuda":
            memory[precision] = torch.cuda.max_memory_allocated(device) / 1e9
    results = beside_bf16(work.preset, "step", "tokens/s", rates)
    peak = peak_flops(device, torch.bfloat16)
    if peak is not None:
        flops = flops_per_token(config.model, work.seq_len)
        for precision, rate in rates.items():
            print(f"  {precision}: {rate * flops / peak:.1%} of the peak for bf16 products")
    return results + (beside_bf16(work.preset, "memory", "GB", memory) if memory else [])


def training_step(config: Config, precision: str, work: Workload, device: torch.device) -> Callable[[], None]:
    """One optimiser step on random tokens, as training/loop.py takes it."""
    model = Decoder(config.model).initialize(0).to(device).train()
    conversion = apply_precision(model, precision, device)
    for name, reason in conversion.kept:
        print(f"  {precision} keeps {name}: {reason}")
    optimizer = make_optimizer(model, config.training.optimizer)
    set_rates(optimizer, 1e-4, 0.1)
    if work.compiled:
        compile_training(model)
    objective = LanguageModeling()
    ids = torch.randint(0, config.model.vocab_size, (work.batch_size, work.seq_len + 1), device=device)
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        total, weight, _ = objective.loss(model, batch)
        total.backward()
        average_and_clip(model.parameters(), weight, 1.0)
        optimizer.step()
        commit_amax(model)

    return step


def median_seconds(function: Callable[[], None], work: Workload, device: torch.device) -> float:
    """Of `work.rounds` calls, each finished on the device, after those that warm up and compile."""
    times = []
    for number in range(work.warm_up + work.rounds):
        begun = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= work.warm_up:
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def beside_bf16(case: str, metric: str, unit: str, figures: dict[str, float]) -> list[dict[str, Any]]:
    """Results of the recipes with bf16 as their peer; prints them."""
    peer = figures["bf16"]
    print(f"{case}, {metric}: bf16 {peer:,.4g} {unit}")
    results = []
    for recipe in RECIPES:
        ratio = figures[recipe] / peer
        print(f"  {recipe}: {figures[recipe]:,.4g} {unit}, {ratio:.2f} × bf16")
        results.append(report.result(f"{case}, {recipe}", metric, unit, figures[recipe], peer, PEER))
    return results


if __name__ == "__main__":
    main()
