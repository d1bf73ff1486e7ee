"""Which fields of a configuration may change when a run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from smidgen.config import Config
from smidgen.runtime.errors import TrainingError

# These decide the weights' shapes and meaning, and which sequence a number of the data stream stands for.
_FIXED = (
    "model.",
    "data.sampling",
    "data.packing",
    "training.seed",
    "training.seq_len",
    "training.optimizer.kind",
    "tuning.objective.kind",
    "tuning.chat_template",
    "tuning.lora",
    "tuning.quantize",
)
# The fingerprint of the data decides what the data is, tokenizer included; a folder may move. The base has done its
# part when a run goes on: its weights are in the checkpoints.
_UNCOMPARED = ("description", "data.path", "data.mixture", "tokenizer.", "tuning.base")

Changes = dict[str, tuple[Any, Any]]
"""Dotted field → value before, value now."""


def changed_fields(before: Config, now: Config) -> Changes:
    """The fields of a run that changed and may. Raises TrainingError when one did that would change the model."""
    old, new = dict(_flatten(before.model_dump(mode="json"))), dict(_flatten(now.model_dump(mode="json")))
    changes = {
        name: (old.get(name), new.get(name))
        for name in [*old, *(name for name in new if name not in old)]
        if old.get(name) != new.get(name) and not name.startswith(_UNCOMPARED)
    }
    refused = {name: pair for name, pair in changes.items() if name.startswith(_FIXED)}
    if refused:
        raise TrainingError(
            f"the run cannot go on with another {describe_changes(refused)}; keep the old value or choose another --run"
        )
    return changes


def describe_changes(changes: Changes) -> str:
    """The changes in one line: `training.max_steps (300 → 500), …`."""
    return ", ".join(f"{name} ({_shown(old)} → {_shown(new)})" for name, (old, new) in changes.items())


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
