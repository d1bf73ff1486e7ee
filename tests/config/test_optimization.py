from __future__ import annotations

from typing import Any

import pytest

from smidgen.config import Config, dump_config, load_config, validate
from smidgen.config.loading import parse_yaml
from smidgen.runtime.errors import ConfigError

SCHEDULE_FREE = {"training.optimizer.kind": "schedule_free_adamw", "training.schedule.kind": "constant"}
WSD = {"training.schedule.kind": "wsd"}


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"training.optimizer.kind": "schedule_free_adamw"}, "training.schedule.kind"),
        ({**SCHEDULE_FREE, "training.ema_decay": 0.99}, "training.ema_decay"),
        ({**SCHEDULE_FREE, "training.optimizer.betas": [0.0, 0.9]}, "training.optimizer.betas"),
        ({"training.optimizer.kind": "lion", "training.optimizer.eps": 1e-8}, "training.optimizer.*eps"),
        ({"training.optimizer.kind": "lion", "training.optimizer.betas": [0.9, 1.0]}, "training.optimizer.betas"),
        ({"training.schedule.decay_steps": 10}, "training.schedule.decay_steps"),
        ({"training.schedule.decay_shape": "linear"}, "training.schedule.decay_shape"),
        ({**WSD, "training.schedule.decay_steps": 10_000}, "training.schedule.decay_steps"),
        (
            {**WSD, "training.schedule.decay_steps": 10, "training.schedule.decay_fraction": 0.1},
            "training.schedule.decay_fraction",
        ),
        ({**WSD, "training.schedule.decay_fraction": 1.5}, "training.schedule.decay_fraction"),
        ({"training.ema_decay": 1.0}, "training.ema_decay"),
        ({"training.batch_size": 0}, "training.batch_size = 0: use a whole number greater than 0, or auto"),
        ({"training.batch_size": "many"}, "training.batch_size"),
        ({"training.tokens_per_step": 4096}, "training.tokens_per_step"),
        (
            {
                "training.batch_size": "auto",
                "training.tokens_per_step": 4096,
                "training.gradient_accumulation_steps": 2,
            },
            "training.gradient_accumulation_steps",
        ),
    ],
)
def test_what_cannot_stand_together_is_refused(overrides: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}"):
        load_config("elite-tiny", overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        {**SCHEDULE_FREE, "training.schedule.warmup_steps": 10},
        {"training.batch_size": "auto", "training.tokens_per_step": 4096},
        {"training.optimizer.kind": "lion", "training.ema_decay": 0.999},
        {**WSD, "training.schedule.decay_fraction": 0.1, "training.schedule.decay_shape": "one_minus_sqrt"},
    ],
)
def test_what_a_run_writes_down_reads_back(overrides: dict[str, Any]) -> None:
    config = load_config("elite-tiny", overrides)
    assert validate(Config, parse_yaml(dump_config(config), "config.yaml")) == config
