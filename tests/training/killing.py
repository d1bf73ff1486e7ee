"""Kill a training again and again, at random instants, until it has finished; tell what was hit. Run as a program.

    python killing.py FOLDER DATASET --kills 20 --inside-saves 5 --seed 0 [--objective dpo]

Each attempt is a fork of this process, which has imported everything and holds no threads, so that most of an
attempt's time is training. A byte of shared memory says what the attempt is doing. Prints one JSON object:
`kills` (phase, step reached, step resumed from), `unloadable`, `runs` (finished ones), `different` (of those, how many
ended with other weights than the undisturbed run).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smidgen.config import Config, load_config
from smidgen.data.conversations.folder import prepare_conversations
from smidgen.folders import build, load, save
from smidgen.folders.run import RunFolder, latest_checkpoint, verify_checkpoint
from smidgen.tokenization.byte_bpe import train_byte_bpe
from smidgen.training.base import load_training_config
from smidgen.training.observer import Observer, Plan, Snapshot, Summary
from smidgen.training.pretraining import pretrain
from smidgen.tuning.defaults import TUNING_DEFAULTS
from smidgen.tuning.run import base_tokenizer, tune

PHASES = ("start", "step", "evaluation", "save")
INTERVAL = 10
STEPS = 120


MODEL = {
    "model.num_layers": 1,
    "model.hidden_size": 32,
    "model.max_seq_len": 32,
    "model.attention.num_heads": 2,
    "model.attention.num_kv_heads": 1,
    "model.attention.head_dim": 16,
    "model.feed_forward.intermediate_size": 64,
}
"""A decoder of a few thousand parameters."""
TRAINING: dict[str, Any] = {
    "training.max_steps": STEPS,
    "training.batch_size": 2,
    "training.seq_len": 32,
    "training.dropout": 0.1,
    "training.precision": "fp32",
    "training.optimizer.kind": "muon",
    "training.ema_decay": 0.9,
    "training.eval_every": INTERVAL,
    "training.eval_tokens": 2048,
    "training.checkpoint_every": INTERVAL,
    "training.log_every": 1,
    "training.schedule.warmup_steps": 5,
}
"""Everything that keeps state: dropout, Muon, an average."""


def make_config(dataset: str, objective: str, folder: Path) -> Config:
    """Pretraining on a dataset folder; or DPO of a base with its tokenizer, both made in `folder`, on pairs."""
    if objective == "pretraining":
        return load_config("elite-tiny", {**MODEL, "data.path": dataset, **TRAINING})
    tokenizer = train_byte_bpe(["how many bottles of water? on the wall."] * 9, 300)
    sizes = {**MODEL, "model.vocab_size": tokenizer.vocab_size, "model.max_seq_len": 64}
    save(build("elite-tiny", sizes, seed=1), folder / "base", tokenizer)
    pairs = [{"prompt": f"{n} bottles", "chosen": f"{n} of water", "rejected": "the wall"} for n in range(60)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    fields = {**TRAINING, "training.seq_len": 64, "training.lr": 1e-3}
    config = load_training_config(folder / "base", fields, TUNING_DEFAULTS["dpo"])
    data = folder / "pairs"
    prepare_conversations([folder / "pairs.jsonl"], data, base_tokenizer(config), kind="preferences", val_fraction=0.2)
    return config.model_copy(update={"data": config.data.model_copy(update={"path": str(data)})})


class Phase(Observer):
    """Writes what the training is doing, and the step, into shared memory. A save goes on beside the steps."""

    def __init__(self, shared: mmap.mmap) -> None:
        self.shared = shared

    def _tell(self, phase: str, step: int) -> None:
        self.shared[:5] = struct.pack("<BI", PHASES.index(phase), step)

    def started(self, plan: Plan) -> None:
        self._tell("step", plan.first_step)

    def wants_model(self, step: int) -> bool:
        # Asked at every step, and the saving of a checkpoint outlasts steps.
        self.shared[1:5] = struct.pack("<I", step)
        return False

    def stepped(self, snapshot: Snapshot) -> None:
        if self.shared[0] != PHASES.index("save"):
            self._tell("step", snapshot.step)

    def evaluating(self, step: int) -> None:
        self._tell("evaluation", step)

    def saving(self, step: int) -> None:
        self._tell("save", step)

    def saved(self, step: int, checkpoint: Path) -> None:
        self._tell("step", step)


def attempt(config: Config, run: Path, shared: mmap.mmap) -> int:
    """Start a training in a fork; returns its process number."""
    shared[:5] = struct.pack("<BI", 0, 0)
    child = os.fork()
    if child:
        return child
    with contextlib.suppress(BaseException):
        start: Callable[..., Summary] = pretrain if config.tuning.objective.kind == "language_modeling" else tune
        start(config, run, Phase(shared))
        os._exit(0)
    os._exit(1)


def kill_somewhere(child: int, shared: mmap.mmap, chance: random.Random, inside_save: bool) -> bool:
    """Kill the child at a random instant, or a random instant after it began a save; False if it ended before."""
    begun, wait = time.monotonic(), chance.uniform(0, 0.5)
    counts_from_first_step = chance.random() < 0.75
    while True:
        ended, _ = os.waitpid(child, os.WNOHANG)
        if ended:
            return False
        now = time.monotonic()
        if inside_save and shared[0] == PHASES.index("save"):
            time.sleep(chance.uniform(0, 0.03))
            break
        if counts_from_first_step and shared[0] == PHASES.index("start"):
            begun = now
        if not inside_save and now - begun > wait:
            break
        time.sleep(0.0002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def torment(folder: Path, config: Config, kills: int, inside_saves: int, seed: int) -> dict:
    """Kill until `kills` were made, of them `inside_saves` within a save; finish every run that was begun."""
    chance = random.Random(seed)
    shared = mmap.mmap(-1, 8)
    undisturbed = folder / "undisturbed"
    child = attempt(config, undisturbed, shared)
    assert os.waitpid(child, 0)[1] == 0
    wanted = weights_of(undisturbed)
    log, unloadable, runs, different = [], 0, 0, 0
    saves_left = inside_saves
    run = folder / "run"
    while len(log) < kills or run.exists():
        inside = saves_left > 0 and chance.random() < max(0.4, saves_left / max(kills - len(log), 1))
        child = attempt(config, run, shared)
        if len(log) < kills and kill_somewhere(child, shared, chance, inside):
            phase, step = struct.unpack("<BI", shared[:5])
            newest = latest_checkpoint(run)
            resumed = 0 if newest is None else verify_checkpoint(newest).step
            if newest is not None:
                try:
                    load(run)
                except Exception:
                    unloadable += 1
            saves_left -= PHASES[phase] == "save"
            log.append({"phase": PHASES[phase], "step": step, "resumes": resumed})
            continue
        if len(log) >= kills:
            os.waitpid(child, 0)
        runs += 1
        if RunFolder(run).resume_point() is None or weights_of(run) != wanted:
            different += 1
        shutil.rmtree(run)
    return {"kills": log, "unloadable": unloadable, "runs": runs, "different": different, "interval": INTERVAL}


def weights_of(run: Path) -> bytes:
    """The bytes of the last checkpoint's model."""
    return (run / "last" / "model" / "model.safetensors").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--inside-saves", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--objective", choices=["pretraining", "dpo"], default="pretraining")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    config = make_config(args.dataset, args.objective, args.folder)
    json.dump(torment(args.folder, config, args.kills, args.inside_saves, args.seed), sys.stdout)


if __name__ == "__main__":
    main()
