"""Teach a model which answers are better: direct preference optimisation on pairs, or go on with such a run.

Example: smidgen dpo runs/assistant --data pairs.jsonl --run runs/preferring
Resume:  smidgen dpo runs/preferring --training.epochs 2

A record holds prompt, chosen and rejected: texts or messages. How likely the model before finds each answer is computed
once and kept beside the pairs. Figures: accuracy (share of pairs whose chosen answer has gained more) and margin.
"""

from __future__ import annotations

import argparse

from smidgen.cli.training import run_training
from smidgen.cli.tuning import add_tuning_flags, load_tuning_config, with_data

OVERRIDES = True


def configure(parser: argparse.ArgumentParser) -> None:
    add_tuning_flags(parser, "dpo", "pairs: files, folders, hf:NAME; or a folder made of them")


def run(args: argparse.Namespace) -> int:
    from smidgen.tuning.run import tune

    config, run_path = load_tuning_config(args, "dpo")
    config = with_data(config, run_path, args, "dpo", {})
    return run_training(tune, config, run_path, "dpo")
