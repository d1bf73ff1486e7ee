from __future__ import annotations

from collections.abc import Callable

import pytest

from smidgen.config import Config
from smidgen.runtime.errors import TrainingError
from smidgen.training.resume import changed_fields, describe_changes

MakeConfig = Callable[..., Config]


def test_the_same_configuration_has_no_changes(make_config: MakeConfig) -> None:
    assert changed_fields(make_config(), make_config()) == {}


def test_allowed_changes_are_shown(make_config: MakeConfig) -> None:
    now = make_config(lr=2e-2, keep_last=5, precision="bf16", **{"data.path": "elsewhere", "schedule.eta_min": 1e-3})
    changes = changed_fields(make_config(), now)
    assert changes == {
        "training.lr": (0.01, 0.02),
        "training.keep_last": (2, 5),
        "training.precision": ("fp32", "bf16"),
        "training.schedule.eta_min": (0.0, 0.001),
    }
    assert describe_changes({"training.max_steps": (None, 5)}) == "training.max_steps (null → 5)"


def test_a_part_of_another_kind_is_refused_with_every_field(make_config: MakeConfig) -> None:
    now = make_config(**{"model.linear.kind": "ternary"})
    with pytest.raises(TrainingError, match=r"model.linear.kind \(dense → ternary\), model.linear.activation_bits"):
        changed_fields(make_config(), now)
