"""List the built-in configurations.

Example: smidgen presets
"""

from __future__ import annotations

import argparse
import json
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="PRESET", nargs="?", help="print this preset's whole configuration as YAML instead"
    )
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(args: argparse.Namespace) -> int:
    from smidgen.config import dump_config, load_config, preset_names
    from smidgen.model import count_parameters

    if args.name:
        print(dump_config(load_config(args.name)), end="")
        return 0
    rows = []
    for name in preset_names():
        config = load_config(name)
        rows.append(
            {
                "preset": name,
                "parameters": count_parameters(config.model),
                "layers": config.model.num_layers,
                "hidden_size": config.model.hidden_size,
                "vocab_size": config.model.vocab_size,
                "context": config.model.max_seq_len,
                "description": config.description,
            }
        )
    if args.json:
        json.dump(rows, sys.stdout, indent=2)
        print()
        return 0
    from smidgen.cli.tables import print_table

    print_table(
        ["preset", "parameters", "layers", "width", "vocabulary", "context", "what it is"],
        [
            [
                row["preset"],
                f"{row['parameters']:,}",
                row["layers"],
                row["hidden_size"],
                f"{row['vocab_size']:,}",
                f"{row['context']:,}",
                row["description"],
            ]
            for row in rows
        ],
    )
    return 0
