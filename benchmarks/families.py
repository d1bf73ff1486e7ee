"""Each tiny family on one text: held-out bits per byte beside a 5-gram model's, time, speed, bitwise resume, a sample.

Example: python benchmarks/families.py tinystories.jsonl --json benchmarks/results/families.json

The peer is an interpolated modified Kneser-Ney 5-gram model, fitted on the same training tokens and scored on the same
held-out tokens (the first token of a document excepted, which no model predicts). Resume: a run that is interrupted
half-way and taken up again must end with the same weights, byte for byte, as one that was not.
"""

from __future__ import annotations

import argparse
import filecmp
import math
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import report

import smidgen
from smidgen.config import Config, TokenizerConfig, load_config, preset_names
from smidgen.data import Dataset, prepare
from smidgen.evaluation.ngram import NGramModel
from smidgen.evaluation.perplexity import evaluate_dataset
from smidgen.training.observer import Observer, Snapshot, Summary
from smidgen.training.pretraining import pretrain

PROMPT = "Once upon a time"
RESUME_STEPS = 20


class Interrupt(Observer):
    """Ctrl-C after some steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def stepped(self, snapshot: Snapshot) -> None:
        if snapshot.step == self.after:
            os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="text or JSON Lines file")
    parser.add_argument("--presets", nargs="*", default=[n for n in preset_names() if n.endswith("-tiny")])
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--max-steps", type=int, help="instead of the presets' own")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        print(f"{'preset':<16} {'bits/byte':>9} {'5-gram':>7} {'seconds':>8} {'tokens/s':>9}  resume   sample")
        for preset in args.presets:
            config = load_config(preset)
            dataset = prepared(args.source, config, args.vocab_size, work)
            overrides = {"data.path": str(dataset.path), "tokenizer.vocab_size": args.vocab_size}
            if args.max_steps:
                overrides["training.max_steps"] = args.max_steps
            config = load_config(preset, overrides)
            begun = time.perf_counter()
            summary = pretrain(config, work / preset)
            seconds = time.perf_counter() - begun
            model = smidgen.load(work / preset)
            ours = evaluate_dataset(model, dataset).bits_per_byte
            peer = ngram_bits_per_byte(dataset)
            assert ours is not None
            rate = summary.tokens / summary.seconds
            exact = resumes_bitwise(config, work)
            tokenizer = smidgen.load_tokenizer(work / preset)
            sample = smidgen.generate(model, tokenizer, PROMPT, max_new_tokens=40, temperature=0.7, seed=1)
            state = "bitwise" if exact else "DIFFERS"
            print(
                f"{preset:<16} {ours:>9.4f} {peer:>7.4f} {seconds:>8.1f} {rate:>9,.0f}  {state:<7}  {PROMPT + sample!r}"
            )
            results.append(report.result(preset, "held-out loss", "bits/byte", ours, peer, "5-gram, Kneser-Ney"))
            results.append(report.result(preset, "training", "tokens/s", rate))
            results.append(report.result(preset, "training", "s", seconds))
            results.append(report.result(preset, "bitwise resume", "1 = equal", float(exact)))
    if args.json:
        report.write(args.json, results)


def prepared(source: str, config: Config, vocab_size: int, work: Path) -> Dataset:
    """The dataset of the source with the preset's kind of tokenizer, made once for each kind."""
    kind = config.tokenizer.kind
    return prepare([source], work / f"data-{kind}", TokenizerConfig(kind=kind, vocab_size=vocab_size)).dataset


def ngram_bits_per_byte(dataset: Dataset) -> float:
    """The 5-gram model's bits per byte on the validation split, over the tokens that our models predict too."""
    train, val = dataset.train, dataset.val
    assert dataset.vocab_size is not None
    assert val.document_offsets is not None
    assert val.num_bytes is not None
    model = NGramModel.fit(train.tokens[:], train.document_offsets, vocab_size=dataset.vocab_size)
    nats = -model.log_probabilities(val.tokens[:], val.document_offsets)
    predicted = np.ones(len(nats), np.bool_)
    predicted[val.document_offsets[:-1]] = False
    return float(nats[predicted].mean() / math.log(2) * val.num_tokens / val.num_bytes)


def resumes_bitwise(config: Config, work: Path) -> bool:
    """Whether a run with dropout that is interrupted and taken up again ends like one that was not."""
    training = config.training.model_copy(
        update={"max_steps": RESUME_STEPS, "dropout": 0.1, "eval_every": RESUME_STEPS, "eval_tokens": 2048}
    )
    schedule = training.schedule.model_copy(update={"warmup_steps": 2})
    config = config.model_copy(update={"training": training.model_copy(update={"schedule": schedule})})
    for name in ("whole", "parts"):
        shutil.rmtree(work / name, ignore_errors=True)
    whole = pretrain(config, work / "whole")
    stopped = pretrain(config, work / "parts", Interrupt(RESUME_STEPS // 2))
    assert stopped.stopped_by is not None
    resumed = pretrain(config, work / "parts")
    return filecmp.cmp(weights(whole), weights(resumed), shallow=False)


def weights(summary: Summary) -> Path:
    assert summary.checkpoint is not None
    return summary.checkpoint / "model" / "model.safetensors"


if __name__ == "__main__":
    main()
