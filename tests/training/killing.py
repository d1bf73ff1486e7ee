"""Kill a training again and again, at random instants, until it has finished; tell what was hit. Run as a program.

    python killing.py FOLDER DATASET --kills 20 --inside-saves 5 --seed 0

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
from pathlib import Path

from smidgen.config import Config, load_config
from smidgen.folders import load
from smidgen.folders.run import RunFolder, latest_checkpoint, verify_checkpoint
from smidgen.training.observer import Observer, Plan, Snapshot
from smidgen.training.pretraining import pretrain

PHASES = ("start", "step", "evaluation", "save")
INTERVAL = 10
STEPS = 120


def make_config(dataset: str) -> Config:
    """A decoder of a few thousand parameters, with everything that keeps state: dropout, Muon, an average."""
    return load_config(
        "elite-tiny",
        {
            "model.num_layers": 1,
            "model.hidden_size": 32,
            "model.max_seq_len": 32,
            "model.attention.num_heads": 2,
            "model.attention.num_kv_heads": 1,
            "model.attention.head_dim": 16,
            "model.feed_forward.intermediate_size": 64,
            "data.path": dataset,
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
        },
    )


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
        pretrain(config, run, Phase(shared))
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


def torment(folder: Path, dataset: str, kills: int, inside_saves: int, seed: int) -> dict:
    """Kill until `kills` were made, of them `inside_saves` within a save; finish every run that was begun."""
    config, chance = make_config(dataset), random.Random(seed)
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
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    json.dump(torment(args.folder, args.dataset, args.kills, args.inside_saves, args.seed), sys.stdout)


if __name__ == "__main__":
    main()
