"""What `pretrain --dry-run` prints: the memory of a rank and the traffic of a step, without the hardware."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smidgen.config import Config


def print_forecast(config: Config, world_size: int, *, as_json: bool) -> None:
    """Print what each of `world_size` ranks would hold and exchange. Raises ConfigError as the training would."""
    from smidgen.cli.tables import format_bytes, format_count, print_table
    from smidgen.training.parallel.forecast import forecast

    expected = forecast(config, world_size)
    if as_json:
        print(json.dumps({**dataclasses.asdict(expected), "memory": expected.memory}))
        return
    degrees, training = expected.degrees, config.training
    share = training.batch_size // degrees.batch
    rows = [
        ["division", f"{degrees.data} × {degrees.shard} × {degrees.tensor}", "data × shard × tensor ranks"],
        ["memory a rank", format_bytes(expected.weights), f"{format_count(expected.parameters)} weights in float32"],
        ["", format_bytes(expected.gradients), "gradients"],
        ["", format_bytes(expected.optimizer), f"state of {training.optimizer.kind}"],
    ]
    if expected.average:
        rows.append(["", format_bytes(expected.average), "moving average of the weights"])
    if expected.gathered:
        rows.append(["", format_bytes(expected.gathered), "weights and gradients of whole layers at hand"])
    sequences = f"{share} × {training.seq_len or config.model.max_seq_len:,} tokens"
    rows += [
        ["", format_bytes(expected.activations), f"activations of {sequences}, estimated"],
        ["", format_bytes(expected.memory), "in all"],
    ]
    purposes = [[format_bytes(count), purpose] for purpose, count in expected.traffic.items()]
    for number, row in enumerate(purposes or [["0 B", "nothing to exchange"]]):
        rows.append(["" if number else "sent a step", *row])
    print_table(["a rank", "", ""], rows)
