"""Seconds of training until tinyshakespeare's characters cost 1.8857 nats, beside nanoGPT's recipe in the same run.

    python benchmarks/shakespeare.py tinyshakespeare.txt --seeds 5 --plot curve.png

The loss is always that of the whole validation split (the last tenth of the text), in windows of 64 characters. The
clock runs while the model trains, not while it is measured. The peer is nanoGPT's CPU recipe (4 layers, 4 heads, 128
wide, block 64, batch 12, 2,000 steps of AdamW, rate 1e-3 to 1e-4 by cosine after 100 steps), on transformers' GPT-2.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import report
import torch
import transformers

from smidgen.config import TokenizerConfig, load_config
from smidgen.data import Dataset, prepare
from smidgen.training.evaluate import Evaluation
from smidgen.training.observer import Observer, Plan
from smidgen.training.pretraining import pretrain

TARGET = 1.8857
"""Validation loss that nanoGPT's README and our own run of it give for the recipe."""
BLOCK = 64
FAST = Path(__file__).parent.parent / "examples" / "shakespeare-fast.yaml"
Curve = list[tuple[float, float]]
"""Seconds of training, validation loss."""


class Clock(Observer):
    """The curve of a run, by a clock that stands still during evaluations."""

    def __init__(self) -> None:
        self.curve: Curve = []
        self.seconds = 0.0

    def started(self, plan: Plan) -> None:
        self.resumed = time.perf_counter()

    def evaluating(self, step: int) -> None:
        self.seconds += time.perf_counter() - self.resumed

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        self.curve.append((self.seconds, evaluation.loss))
        self.resumed = time.perf_counter()

    def saving(self, step: int) -> None:
        self.resumed = time.perf_counter()


def ours(data: Path, seed: int, overrides: list[str]) -> Curve:
    clock = Clock()
    config = load_config(str(FAST), ["--data.path", str(data), "--training.seed", str(seed), *overrides])
    with tempfile.TemporaryDirectory() as folder:
        pretrain(config, Path(folder) / "run", clock)
    return clock.curve


def nanogpt(data: Path, seed: int, every: int = 250) -> Curve:
    """The recipe of nanoGPT's README for a CPU, float32."""
    torch.manual_seed(seed)
    dataset = Dataset.open(data)
    train, val = (
        np.asarray(s.tokens.windows(np.zeros(1, np.int64), s.num_tokens))[0] for s in (dataset.train, dataset.val)
    )
    config = transformers.GPT2Config(
        vocab_size=dataset.vocab_size, n_positions=BLOCK, n_embd=128, n_layer=4, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).train()
    model.config.use_cache = False
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    groups = [
        {"params": decayed, "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    chance = np.random.default_rng(seed)
    curve, seconds = [], 0.0
    for step in range(1, 2001):
        begun = time.perf_counter()
        share = min(max((step - 100) / 1900, 0), 1)
        rate = 1e-3 * step / 100 if step < 100 else 1e-4 + 0.5 * (1 + math.cos(math.pi * share)) * 9e-4
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = chance.integers(0, len(train) - BLOCK - 1, 12)
        tokens = torch.from_numpy(np.stack([train[s : s + BLOCK + 1] for s in starts]).astype(np.int64))
        logits = model(tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds += time.perf_counter() - begun
        if step % every == 0:
            curve.append((seconds, whole_split_loss(lambda x: model(x).logits, val)))
    return curve


@torch.no_grad()
def whole_split_loss(logits: Callable[[torch.Tensor], torch.Tensor], tokens: np.ndarray) -> float:
    """Mean nats of every character but the first, in windows of BLOCK."""
    total, count = 0.0, 0
    starts = range(0, len(tokens) - 1, BLOCK)
    full = [s for s in starts if s + BLOCK + 1 <= len(tokens)]
    for i in range(0, len(full), 128):
        batch = torch.from_numpy(np.stack([tokens[s : s + BLOCK + 1] for s in full[i : i + 128]]).astype(np.int64))
        loss = torch.nn.functional.cross_entropy(
            logits(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"
        )
        total, count = total + loss.item(), count + batch[:, 1:].numel()
    return total / count


def seconds_to(curve: Curve, target: float) -> float:
    """When the curve first reaches `target`, interpolated between measurements; infinite if it never does."""
    before = (0.0, math.inf)
    for now in curve:
        if now[1] <= target:
            if math.isinf(before[1]):
                return now[0]
            return before[0] + (now[0] - before[0]) * (before[1] - target) / (before[1] - now[1])
        before = now
    return math.inf


def plot(path: str, curves: dict[str, list[Curve]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for (name, several), color in zip(curves.items(), ("tab:blue", "tab:orange"), strict=True):
        for i, curve in enumerate(several):
            axes.plot(*zip(*curve, strict=True), color=color, alpha=0.8, marker=".", label=name if i == 0 else None)
    axes.axhline(TARGET, color="gray", linestyle="--", linewidth=1, label=f"{TARGET}")
    axes.set(xlabel="seconds of training", ylabel="validation loss, nats a character", xscale="log")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="tinyshakespeare.txt")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true", help="measure Smidgen alone")
    parser.add_argument("--plot", metavar="PNG")
    parser.add_argument("--json", metavar="FILE")
    args, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        prepare([args.text], data, TokenizerConfig(kind="characters"))
        curves: dict[str, list[Curve]] = {"smidgen": []}
        if not args.no_peer:
            curves["nanoGPT's recipe"] = [nanogpt(data, 1337)]
            peer = curves["nanoGPT's recipe"][0]
            print(f"nanoGPT's recipe: {peer[-1][1]:.4f} after {peer[-1][0]:.1f} s", flush=True)
        for seed in range(args.seeds):
            curve = ours(data, seed, overrides)
            curves["smidgen"].append(curve)
            shown = ", ".join(f"{s:.1f} s {loss:.3f}" for s, loss in curve)
            print(f"seed {seed}: {seconds_to(curve, TARGET):.1f} s to {TARGET}; {shown}", flush=True)
    times = [seconds_to(curve, TARGET) for curve in curves["smidgen"]]
    print(f"median {statistics.median(times):.1f} s, worst {max(times):.1f} s")
    results = []
    if not args.no_peer:
        # nanoGPT ends at the target: its time is that of its whole recipe.
        theirs = peer[-1][0]
        print(f"nanoGPT's recipe takes {theirs:.1f} s: {theirs / statistics.median(times):.1f}× as long")
        for seed, seconds in enumerate(times):
            results.append(report.result(f"seed {seed}", f"time to {TARGET}", "s", seconds, theirs, "nanoGPT's recipe"))
        results.append(
            report.result(
                "nanoGPT's recipe",
                "validation loss",
                "nats",
                curves["smidgen"][0][-1][1],
                peer[-1][1],
                "nanoGPT's recipe",
            )
        )
    if args.plot:
        plot(args.plot, curves)
    if args.json:
        report.write(args.json, results)


if __name__ == "__main__":
    sys.exit(main())
