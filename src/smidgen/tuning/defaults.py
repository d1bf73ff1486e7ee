"""What a tuning does where nobody says otherwise: a few passes over little data, at a low rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TRAINING: Mapping[str, Any] = {
    "epochs": 2.0,
    "batch_size": 8,
    "schedule": {"kind": "cosine", "warmup_steps": 20},
    "optimizer": {"kind": "adamw", "weight_decay": 0.0},
    "eval_every": 100,
    "checkpoint_every": 200,
}

TUNING_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "sft": {"tuning": {"objective": {"kind": "sft"}}, "training": {**_TRAINING, "lr": 2e-4}},
    "dpo": {"tuning": {"objective": {"kind": "dpo"}}, "training": {**_TRAINING, "epochs": 1.0, "lr": 5e-6}},
}
"""By the kind of objective: fields that stand where neither configuration nor flags say anything."""
