"""A training step of Smidgen beside transformers': same shapes, same batch, same optimiser, same run.

    python benchmarks/train_step.py --compile --bf16-peer --rounds 3 --steps 1 --json FILE
    python benchmarks/train_step.py --cases elite-112m --compile --profile

A step is forward, backward, clipping and AdamW in bf16 (transformers under autocast, as its trainer does on a CPU), or
in float32 on a processor without bf16 products, where both are several times slower in bf16 (`--precision` decides).
`--bf16-peer` puts transformers in bf16 autocast beside Smidgen in float32 there: what `bf16=True` costs its users.
The two take turns in a process each, so that neither's memory is in the other's way; a figure is the median of rounds.
Both keep freed memory, as Smidgen's training loop does (smidgen/training/memory.py); transformers by itself does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import report
import torch
import transformers
from torch import Tensor

from smidgen.config import Config, load_config
from smidgen.folders.architectures import architecture_of
from smidgen.kernels.bf16 import multiplies_bf16_fast
from smidgen.model import Decoder, flops_per_token
from smidgen.training.devices import peak_flops
from smidgen.training.memory import reuse_freed_memory
from smidgen.training.objectives import Batch, LanguageModeling
from smidgen.training.optimizers import average_and_clip, make_optimizer, set_rates
from smidgen.training.precision import apply_precision, compute_dtype

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


def our_step(config: Config, precision: str, *, compiled: bool) -> Step:
    """Smidgen's step, as training/loop.py takes it."""
    model = Decoder(config.model).initialize(0).train()
    apply_precision(model, precision, torch.device("cpu"))
    optimizer = make_optimizer(model, config.training.optimizer)
    set_rates(optimizer, 1e-4, 0.1)
    if compiled:
        model.compile_training()
    objective = LanguageModeling()

    def step(tokens: Tensor) -> float:
        optimizer.zero_grad(set_to_none=True)
        total, weight, _ = objective.loss(model, Batch(tokens[:, :-1], tokens[:, 1:].contiguous()))
        total.backward()
        average_and_clip(model.parameters(), weight, 1.0)
        optimizer.step()
        return total.item() / weight.item()

    return step


def their_step(config: Config, precision: str, *, compiled: bool) -> Step:
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
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
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


class Worker:
    """A process of its own that takes steps when told: neither's memory is in the other's way."""

    def __init__(self, case: str, name: str, precision: str, *, compiled: bool, threads: int) -> None:
        command = [sys.executable, __file__, "--alone", name, "--cases", case, "--threads", str(threads)]
        command += ["--precision", precision]
        command += ["--compile"] * compiled
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first = self._answer()

    def round(self, steps: int) -> dict[str, float]:
        """`seconds` of so many steps, and the largest resident memory so far, `peak_mib`."""
        assert self.process.stdin is not None
        print(steps, file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        answer: dict[str, float] = json.loads(self.process.stdout.readline())
        return answer


def work(shape: Shape, name: str, precision: str, *, compiled: bool) -> None:
    """What a worker does: a step to warm up, then rounds as its standard input asks for them."""
    config = load_config(shape.preset, {"training.device": "cpu", "training.optimizer.kind": "adamw"})
    # For both: without it the peer spends up to half of its time on page faults, which is not what is compared here.
    reuse_freed_memory()
    tokens, step = tokens_of(shape, config), STEPS[name](config, precision, compiled=compiled)
    step(tokens)
    print(json.dumps({"loss": step(tokens)}), flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        for _ in range(int(line)):
            step(tokens)
        seconds = time.perf_counter() - begun
        # Not getrusage: its maximum goes on from the parent's through fork and exec.
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        print(json.dumps({"seconds": seconds, "peak_mib": int(status["VmHWM"].split()[0]) / 1024}), flush=True)


def measure(
    case: str, precision: str, *, compiled: bool, rounds: int, steps: int, threads: int, peer: str | None = None
) -> dict[str, tuple[float, float]]:
    """Median tokens a second and peak memory, MiB, of each, in turns."""
    shape = SHAPES[case]
    precisions = {"ours": precision, "transformers": peer or precision}
    workers = {name: Worker(case, name, used, compiled=compiled, threads=threads) for name, used in precisions.items()}
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            answers[name].append(worker.round(steps))
    for worker in workers.values():
        worker.close()
    tokens = steps * shape.batch_size * shape.seq_len
    return {
        name: (tokens / statistics.median(a["seconds"] for a in of), max(a["peak_mib"] for a in of))
        for name, of in answers.items()
    }


def peer_name(precision: str) -> str:
    return "bf16 autocast" if precision == "bf16" else "fp32"


def profile(shape: Shape, name: str, precision: str) -> None:
    """Where the time of three steps goes."""
    config = load_config(shape.preset, {"training.device": "cpu", "training.optimizer.kind": "adamw"})
    tokens, step = tokens_of(shape, config), STEPS[name](config, precision, compiled=False)
    step(tokens)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(3):
            step(tokens)
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=44))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=[name for name in SHAPES if name != "tiny"], choices=SHAPES)
    parser.add_argument("--compile", action="store_true", help="measure compiled beside compiled too")
    parser.add_argument(
        "--bf16-peer", action="store_true", help="in fp32: also the first case beside bf16 autocast, eager"
    )
    parser.add_argument("--profile", action="store_true", help="show where the time of Smidgen's step goes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of each in a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=["bf16", "fp32"], help="default: what this processor multiplies faster")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--alone", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    precision = args.precision or ("bf16" if multiplies_bf16_fast(torch.device("cpu")) else "fp32")
    if args.alone:
        work(SHAPES[args.cases[0]], args.alone, precision, compiled=args.compile)
        return
    results = []
    peak = peak_flops(torch.device("cpu"), compute_dtype(precision))
    for case in args.cases:
        shape = SHAPES[case]
        if args.profile:
            profile(shape, "ours", precision)
        for mode in ["eager", "compiled"] if args.compile else ["eager"]:
            measured = measure(
                case, precision, compiled=mode == "compiled", rounds=args.rounds, steps=args.steps, threads=args.threads
            )
            (ours, our_memory), (theirs, their_memory) = measured["ours"], measured["transformers"]
            flops = flops_per_token(load_config(shape.preset).model, shape.seq_len)
            share = f", {ours * flops / peak:.0%} of the measured {precision} peak" if peak else ""
            print(f"{case:20} {mode:9} {ours:8,.0f} tok/s, transformers {theirs:8,.0f}: {ours / theirs:.2f}×{share}")
            print(f"{case:20} memory    {our_memory:8,.0f} MiB,   transformers {their_memory:8,.0f}", flush=True)
            peer = f"transformers, {peer_name(precision)}, {mode}"
            results.append(report.result(case, f"train step, {mode}", "tok/s", ours, theirs, peer))
            results.append(report.result(case, f"peak memory, {mode}", "MiB", our_memory, their_memory, peer))
            if peak:
                results.append(report.result(case, f"share of {precision} peak, {mode}", "1", ours * flops / peak))
    if args.bf16_peer and precision == "fp32":
        case = args.cases[0]
        measured = measure(case, precision, compiled=False, rounds=1, steps=1, threads=args.threads, peer="bf16")
        ours, theirs = measured["ours"][0], measured["transformers"][0]
        print(f"{case:20} fp32      {ours:8,.0f} tok/s, transformers bf16 {theirs:8,.0f}: {ours / theirs:.2f}×")
        peer = "transformers, bf16 autocast (emulated by this processor), eager, one round"
        results.append(report.result(case, "train step, fp32 beside bf16", "tok/s", ours, theirs, peer))
    if args.json:
        report.write(args.json, results)


if __name__ == "__main__":
    main()
