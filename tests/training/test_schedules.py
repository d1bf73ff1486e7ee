from __future__ import annotations

from typing import Any

import pytest
import torch

from smidgen.config import AdamW, Schedule, TrainingConfig
from smidgen.training.schedules import learning_rate, weight_decay


def rates(total: int, lr: float = 1.0, **schedule: Any) -> list[float]:
    training = TrainingConfig(lr=lr, schedule=Schedule(**schedule))
    return [learning_rate(training, step, total) for step in range(1, total + 1)]


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "two_stage", "wsd"])
def test_warm_up_is_linear_and_reaches_exactly_lr(kind: str) -> None:
    lr = 3e-4
    values = rates(100, lr=lr, kind=kind, warmup_steps=7)
    assert values[6] == lr
    assert values[:7] == pytest.approx([lr * step / 7 for step in range(1, 8)])
    assert max(values) == lr


@pytest.mark.parametrize("kind", ["cosine", "linear", "two_stage", "wsd"])
@pytest.mark.parametrize("warmup_steps", [0, 1, 5])
def test_the_last_step_is_exactly_at_eta_min(kind: str, warmup_steps: int) -> None:
    assert rates(50, lr=0.3, kind=kind, warmup_steps=warmup_steps, eta_min=0.07)[-1] == 0.07


def test_without_warm_up_the_first_step_has_lr() -> None:
    for kind in ("cosine", "linear", "constant", "two_stage", "wsd"):
        assert rates(10, lr=0.3, kind=kind)[0] == 0.3
    assert rates(1, lr=0.3, kind="cosine") == [0.3]


def test_hand_values() -> None:
    assert rates(5, kind="linear") == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert rates(5, kind="linear", eta_min=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert rates(5, kind="cosine") == pytest.approx([1.0, 0.5 + 0.5**0.5 / 2, 0.5, 0.5 - 0.5**0.5 / 2, 0.0])
    assert rates(3, kind="constant") == [1.0, 1.0, 1.0]


def test_two_stage_drops_rate_and_weight_decay_at_the_half() -> None:
    # Lines from 1 and from 2/3 at step 1 that reach 0 at step 11; the second half begins after step 5.
    expected = [1.0, 0.9, 0.8, 0.7, 0.6, 2 / 3 * 0.5, 2 / 3 * 0.4, 2 / 3 * 0.3, 2 / 3 * 0.2, 2 / 3 * 0.1, 0.0]
    assert rates(11, kind="two_stage") == pytest.approx(expected)
    assert rates(11, kind="two_stage", second_stage_lr=0.5)[5] == pytest.approx(0.25)
    training = TrainingConfig(optimizer=AdamW(weight_decay=0.1), schedule=Schedule(kind="two_stage"))
    assert [weight_decay(training, step, 10) for step in range(1, 11)] == [0.1] * 5 + [0.0] * 5
    constant = TrainingConfig(optimizer=AdamW(weight_decay=0.1))
    assert {weight_decay(constant, step, 10) for step in range(1, 11)} == {0.1}


def test_wsd_is_constant_until_its_decay() -> None:
    assert rates(10, kind="wsd", decay_steps=4) == pytest.approx([1.0] * 6 + [0.75, 0.5, 0.25, 0.0])
    assert rates(10, kind="wsd", decay_fraction=0.4, eta_min=0.2)[5:] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    root = rates(10, kind="wsd", decay_steps=4, decay_shape="one_minus_sqrt")
    assert root[5:] == pytest.approx([1.0, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5, 0.0])
    assert rates(100, kind="wsd")[79:81] == pytest.approx([1.0, 0.95])  # a fifth, where nothing else is said
    # A decay that reaches into the warm-up begins where that ends.
    assert rates(5, kind="wsd", warmup_steps=3, decay_steps=4) == pytest.approx([1 / 3, 2 / 3, 1.0, 0.5, 0.0])


def test_wsd_at_a_step_of_the_stable_part_does_not_depend_on_the_length_of_the_run() -> None:
    short = rates(40, kind="wsd", warmup_steps=5, decay_steps=10)
    assert rates(400, kind="wsd", warmup_steps=5, decay_steps=10)[:30] == short[:30]


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_equal_to_transformers(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    make = getattr(transformers, f"get_{kind}_schedule_with_warmup")
    factor = make(optimizer, num_warmup_steps=10, num_training_steps=100).lr_lambdas[0]
    ours = rates(100, kind=kind, warmup_steps=10)
    assert ours == pytest.approx([factor(step) for step in range(1, 101)], abs=1e-12)
