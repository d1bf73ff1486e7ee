"""Teach a model to chat: supervised fine-tuning on conversations, or go on with such a run.

Example: smidgen sft runs/base --data gsm8k-train.jsonl storyworld --run runs/assistant
Look first: smidgen sft runs/base --data gsm8k-train.jsonl --preview 3
Resume:  smidgen sft runs/assistant --training.epochs 4

A source is a file of JSON Lines, JSON, CSV or Parquet, a folder or quoted glob, 'hf:NAME', or 'storyworld', whose chats
are generated. Its records hold messages, ShareGPT's conversations, Alpaca's instruction and output, prompt and
completion, or question and answer. Only the assistant's words and the token that ends them are learned.
"""

from __future__ import annotations

import argparse

from smidgen.cli.training import run_training
from smidgen.cli.tuning import add_tuning_flags, load_tuning_config, with_data

OVERRIDES = True


def configure(parser: argparse.ArgumentParser) -> None:
    add_tuning_flags(parser, "sft", "conversations: files, folders, hf:NAME, storyworld; or a folder made of them")
    parser.add_argument(
        "--weight", metavar="SOURCE=W", action="append", default=[], help="share of a source, in any unit (default: 1)"
    )
    parser.add_argument("--documents", metavar="N", type=int, help="chats of storyworld (default: 5,000)")
    parser.add_argument(
        "--preview", metavar="N", type=int, nargs="?", const=3, help="show N conversations as tokens, and stop"
    )


def run(args: argparse.Namespace) -> int:
    from smidgen.runtime.errors import ConfigError

    config, run_path = load_tuning_config(args, "sft")
    if args.preview is not None:
        from smidgen.cli.preview import preview

        if not args.data:
            raise ConfigError("--preview: shows conversations of --data; name some")
        preview(config, args.data, args.preview)
        return 0
    config = with_data(config, run_path, args, "sft", _weights(args.weight))
    from smidgen.tuning.run import tune

    return run_training(tune, config, run_path, "sft")


def _weights(given: list[str]) -> dict[str, float]:
    from smidgen.runtime.errors import ConfigError

    weights = {}
    for text in given:
        source, _, number = text.rpartition("=")
        try:
            weights[source] = float(number)
        except ValueError:
            weights[source] = -1.0
        if not source or not weights[source] > 0:
            raise ConfigError(f"--weight {text}: write SOURCE=W with a number above 0, such as gsm8k-train.jsonl=2")
    return weights
