"""Train a model on a dataset folder, from random weights or from a model, or go on with a run.

Example: smidgen pretrain elite-tiny --data.path data --run runs/demo --training.max_steps 200
From a model: smidgen pretrain ./SmolLM2-135M --data.path data --run runs/more --training.max_steps 200
Resume:  smidgen pretrain runs/demo --training.max_steps 400
Ranks:   torchrun --nproc-per-node 2 -m -- smidgen pretrain elite-tiny --data.path data --run runs/demo
Plan:    smidgen pretrain elite-112m --dry-run --world-size 64 --training.batch_size 64

A run folder that exists is resumed from its last checkpoint, to the bit. Ctrl-C and SIGTERM finish the step, save, and
exit with status 130 or 143; a second Ctrl-C quits at once. After --max-time it saves and exits with status 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.cli.fields import describe_fields

if TYPE_CHECKING:
    from smidgen.config import Config

OVERRIDES = True


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "smidgen pretrain CONFIG [--run DIR] [--data.path DIR] [--training.lr 3e-4 …]"
    parser.add_argument(
        "config", metavar="CONFIG", help="a preset, a YAML file, a run folder to go on with, or a model"
    )
    parser.add_argument("--run", metavar="DIR", help="run folder to make or resume (default: runs/<name of CONFIG>)")
    fields = describe_fields(["data", "training", "tuning", "tracking", "model", "tokenizer", "cleaning"])
    parser.add_argument("--max-time", metavar="HOURS", help="save and stop after so long; the same command goes on")
    parser.add_argument("--dry-run", action="store_true", help="show a rank's memory and traffic, then stop")
    parser.add_argument("--world-size", metavar="N", type=int, default=1, help="ranks of the dry run (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the dry run as JSON")
    parser.epilog = f"Any field of the configuration may be given as a flag:\n{fields}"


def run(args: argparse.Namespace) -> int:
    from smidgen.cli.forecast import print_forecast
    from smidgen.cli.training import run_training
    from smidgen.runtime.errors import ConfigError
    from smidgen.training.pretraining import pretrain

    run_path = Path(args.run) if args.run else _default_run(args.config)
    if args.max_time is not None:
        args.overrides += ["--training.max_time", args.max_time]
    config = _with_data_of_run(_load(args.config, args.overrides), run_path)
    _check_vocab_size(config, args.overrides)
    if args.world_size < 1:
        raise ConfigError(f"--world-size = {args.world_size}: use 1 or more")
    if args.dry_run:
        print_forecast(config, args.world_size, as_json=args.json)
        return 0
    if args.json or args.world_size != 1:
        raise ConfigError("--world-size and --json belong to --dry-run; torchrun decides how many ranks a training has")
    return run_training(pretrain, config, run_path, "pretrain")


def _load(source: str, overrides: list[str]) -> Config:
    from smidgen.training.base import load_training_config

    return load_training_config(source, overrides)


def _default_run(source: str) -> Path:
    from smidgen.folders.run import is_run_folder

    return Path(source) if is_run_folder(source) else Path("runs") / Path(source).stem


def _with_data_of_run(config: Config, run_path: Path) -> Config:
    """A run that exists knows its data."""
    from smidgen.folders.run import is_run_folder

    if config.data.path is not None or not is_run_folder(run_path):
        return config
    data = config.data.model_copy(update={"path": _load(str(run_path), []).data.path})
    return config.model_copy(update={"data": data})


def _check_vocab_size(config: Config, overrides: list[str]) -> None:
    """The dataset decides the vocabulary: a flag that says otherwise is refused rather than ignored."""
    from smidgen.config import override_tree
    from smidgen.runtime.errors import ConfigError
    from smidgen.training.pretraining import open_dataset

    wanted = override_tree(overrides).get("model", {}).get("vocab_size")
    if wanted is None:
        return
    vocab_size = open_dataset(config).vocab_size
    if vocab_size is not None and vocab_size != wanted:
        raise ConfigError(
            f"model.vocab_size = {wanted}: the tokenizer of {config.data.path} has {vocab_size} ids; leave it out"
        )
