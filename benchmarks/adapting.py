"""What adapting a model comes to, on a base trained here and held-out text: LoRA, distillation, a TIES merge.

A base of 0.92M parameters learns stories, facts, patterns, comparisons, lists and chats of the built-in corpus. Then,
with three seeds each: full tuning and LoRA teach it sums; full tuning teaches another copy functions, and TIES merges
the two; a student of a fifth of the size learns the base's text alone and from the base. Losses are nats a token on
held-out text.

    python benchmarks/adapting.py --work /tmp/adapting --json adapting.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import report

import smidgen
from smidgen.config import Distillation, TokenizerConfig
from smidgen.data import Dataset, prepare
from smidgen.data.storyworld import generate
from smidgen.evaluation.perplexity import evaluate_dataset
from smidgen.folders.run import is_run_folder
from smidgen.model.lora import trainable_share
from smidgen.training.base import load_training_config
from smidgen.training.pretraining import pretrain
from smidgen.tuning.distillation import distill
from smidgen.tuning.merged_models import merge_models
from smidgen.tuning.merging import Merging

KINDS = {
    "base": ["stories", "facts", "patterns", "comparisons", "lists", "chats"],
    "sums": ["arithmetic"],
    "functions": ["functions"],
}
DOCUMENTS = {"base": 24_000, "sums": 8_000, "functions": 8_000}
SEEDS = (1, 2, 3)
COMMON = {
    "training.seq_len": 128,
    "training.batch_size": 16,
    "training.dropout": 0.0,
    "training.precision": "fp32",
    "training.device": "cpu",
    "training.optimizer.weight_decay": 0.0,
    "training.schedule.eta_min": 0.0,
    "training.log_every": 50,
    "training.eval_every": 10_000,
    "training.checkpoint_every": 10_000,
    "training.eval_tokens": 20_000,
}
STUDENT = {
    "model.hidden_size": 64,
    "model.num_layers": 2,
    "model.attention.head_dim": 16,
    "model.feed_forward.intermediate_size": 192,
}


class Bench:
    """The folders of all runs; what is there is not made again."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.tokenizer = TokenizerConfig(vocab_size=1024)

    def data(self, name: str) -> Path:
        out = self.work / "data" / name
        if (out / "dataset.json").is_file():
            return out
        texts = self.work / f"{name}.jsonl"
        texts.parent.mkdir(parents=True, exist_ok=True)
        documents = itertools.islice(generate(0, "train", KINDS[name]), DOCUMENTS[name])
        texts.write_text("\n".join(json.dumps({"text": document.text}) for document in documents))
        if name == "base":
            prepare([texts], out, self.tokenizer)
        else:
            prepare([texts], out, TokenizerConfig(kind="pretrained", path=str(self.data("base") / "tokenizer")))
        return out

    def train(self, name: str, source: str, data: str, steps: int, lr: float, seed: int, **fields: Any) -> Path:
        run = self.work / name
        overrides = {
            **COMMON,
            "data.path": str(self.data(data)),
            "training.max_steps": steps,
            "training.lr": lr,
            "training.seed": seed,
            "training.schedule.warmup_steps": steps // 10,
            **{key.replace("__", "."): value for key, value in fields.items()},
        }
        # A finished run returns at once, one that was stopped goes on.
        config = load_training_config(run) if is_run_folder(run) else load_training_config(source, overrides)
        teach = distill if isinstance(config.tuning.objective, Distillation) else pretrain
        summary = teach(config, run)
        if summary.steps < summary.total_steps:
            raise SystemExit(f"{run}: stopped after step {summary.steps}; the same command goes on")
        return run

    def loss(self, model: Any, data: str) -> float:
        decoder = smidgen.load(model) if isinstance(model, Path) else model
        return evaluate_dataset(decoder, Dataset.open(self.data(data)), seq_len=128, max_tokens=30_000).loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder of data and runs; kept")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--steps", type=int, default=200, help="of each tuning (default: 200)")
    args = parser.parse_args()
    bench = Bench(args.work)
    base = bench.train("base", "elite-tiny", "base", 600, 4e-3, 0)
    results = [*lora(bench, base, args.steps), *ties(bench, base, args.steps), *distillation(bench, base, args.steps)]
    for line in results:
        shown = "" if line["peer"] is None else f"  against {line['peer']:.4f} ({line['peer_name']})"
        print(f"{line['case']:<34} {line['metric']:<28} {line['ours']:.4f}{shown}")
    if args.json:
        args.json.write_text(json.dumps({"machine": report.machine(), "results": results}, indent=1) + "\n")


def full(bench: Bench, base: Path, data: str, steps: int, seed: int) -> Path:
    """Every weight tuned."""
    return bench.train(f"{data}-{seed}", "elite-tiny", data, steps, 2e-3, seed, tuning__base=str(base))


def lora(bench: Bench, base: Path, steps: int) -> list[dict[str, Any]]:
    """LoRA's share of full tuning's gain on sums."""
    before, shares = bench.loss(base, "sums"), []
    for seed in SEEDS:
        adapted = bench.train(
            f"sums-lora-{seed}",
            "elite-tiny",
            "sums",
            steps,
            1e-2,
            seed,
            tuning__base=str(base),
            tuning__lora__rank=4,
            tuning__lora__alpha=16.0,
        )
        gain = before - bench.loss(full(bench, base, "sums", steps, seed), "sums")
        shares.append((before - bench.loss(adapted, "sums")) / gain)
        print(f"lora seed {seed}: full gains {gain:.4f} from {before:.4f}, LoRA {shares[-1]:.1%} of it", flush=True)
    trained, total = trainable_share(smidgen.load(bench.work / "sums-lora-1"))
    return [
        report.result("LoRA, rank 4", "share of full tuning's gain", "", statistics.mean(shares), 0.9, "wanted"),
        report.result("LoRA, rank 4, worst seed", "share of full tuning's gain", "", min(shares), 0.9, "wanted"),
        report.result("LoRA, rank 4", "share of parameters", "", trained / total, 0.05, "allowed"),
    ]


def ties(bench: Bench, base: Path, steps: int) -> list[dict[str, Any]]:
    """What a TIES merge keeps of the gains of a model of sums and one of functions.

    Density and scale are chosen on the first seed's models and used for all.
    """
    before = {data: bench.loss(base, data) for data in ("sums", "functions")}

    def kept(seed: int, density: float, scale: float) -> float:
        models = {data: full(bench, base, data, steps, seed) for data in before}
        merging = Merging("ties", density=density, scale=scale)
        merged, _ = merge_models([str(path) for path in models.values()], str(base), merging)
        return min(
            (before[data] - bench.loss(merged, data)) / (before[data] - bench.loss(path, data))
            for data, path in models.items()
        )

    grid = [(density, scale) for density in (0.2, 0.5, 0.8, 1.0) for scale in (0.8, 1.0, 1.3, 1.6, 2.0)]
    density, scale = max(grid, key=lambda pair: kept(SEEDS[0], *pair))
    shares = [kept(seed, density, scale) for seed in SEEDS]
    print(f"ties density {density}, scale {scale}: keeps at least {shares}", flush=True)
    name = f"TIES, density {density}, scale {scale}"
    return [
        report.result(name, "least share of a gain kept", "", statistics.mean(shares), 0.8, "wanted"),
        report.result(f"{name}, worst seed", "least share of a gain kept", "", min(shares), 0.8, "wanted"),
    ]


def distillation(bench: Bench, base: Path, steps: int) -> list[dict[str, Any]]:
    """A student alone and from its teacher, equally many steps of the same data."""
    teaching = {"tuning__objective__kind": "distillation", "tuning__objective__teacher": str(base)}
    alone, taught = [], []
    for seed in SEEDS:
        fields = {name.replace(".", "__"): value for name, value in STUDENT.items()}
        alone.append(bench.train(f"alone-{seed}", "elite-tiny", "base", 2 * steps, 4e-3, seed, **fields))
        fields |= teaching | {"tuning__objective__cross_entropy": 0.1}
        taught.append(bench.train(f"taught-{seed}", "elite-tiny", "base", 2 * steps, 4e-3, seed, **fields))
    losses = {name: [bench.loss(run, "base") for run in runs] for name, runs in (("alone", alone), ("taught", taught))}
    print(f"distillation: {losses}, teacher {bench.loss(base, 'base'):.4f}", flush=True)
    gain = statistics.mean(losses["alone"]) - statistics.mean(losses["taught"])
    spread = max(max(values) - min(values) for values in losses.values())
    return [
        report.result("student", "loss", "nats/token", *map(statistics.mean, reversed(losses.values())), "alone"),
        report.result("student", "gain beside spread of seeds", "nats/token", gain, spread, "spread"),
    ]


if __name__ == "__main__":
    main()
