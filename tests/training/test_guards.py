"""Steps that are refused: what they leave untouched, what they count, and when the run stops."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from smidgen.config import Config
from smidgen.folders.run import verify_checkpoint
from smidgen.model import Decoder
from smidgen.runtime.errors import TrainingError
from smidgen.training.guards import LossStatistics, StepGuard
from smidgen.training.loop import train
from smidgen.training.metrics import read_metrics
from smidgen.training.objectives import Batch, LanguageModeling, Loss
from smidgen.training.observer import Observer
from smidgen.training.task import Task

MakeConfig = Callable[..., Config]
MakeTask = Callable[..., Task]


class Tampered(LanguageModeling):
    """Multiplies the loss, or the gradient alone, of chosen training passes (counted from 1)."""

    def __init__(self, factors: dict[int, float], *, gradient_only: bool = False) -> None:
        self.factors = factors
        self.gradient_only = gradient_only
        self.passes = 0

    def loss(self, model: Decoder, batch: Batch) -> Loss:
        total, weight, figures = super().loss(model, batch)
        self.passes += model.training
        factor = self.factors.get(self.passes, 1.0) if model.training else 1.0
        if self.gradient_only and model.training:
            total.register_hook(lambda gradient: gradient * factor)
            return total, weight, figures
        return total * factor, weight, figures


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == kind]


def checkpoint(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last/model/model.safetensors") | load_file(run / "last/state/optimizer.safetensors")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("gradient_only", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_that_is_no_number_leaves_weights_and_moments_as_they_were(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path, value: float, gradient_only: bool, optimizer: str
) -> None:
    for steps in (2, 3):
        config = make_config(max_steps=steps, eval_every=50, ema_decay=0.9, **{"optimizer.kind": optimizer})
        train(
            config,
            make_task(config, objective=Tampered({3: value}, gradient_only=gradient_only)),
            tmp_path / str(steps),
        )
    before, after = checkpoint(tmp_path / "2"), checkpoint(tmp_path / "3")
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    averages = [load_file(tmp_path / steps / "last/state/averaging.safetensors") for steps in ("2", "3")]
    assert all(torch.equal(tensor, averages[1][name]) for name, tensor in averages[0].items())
    assert [event["step"] for event in events(tmp_path / "3", "skip")] == [3]
    assert json.loads((tmp_path / "3/last/state/trainer.json").read_text())["cursor"] == 3 * 4


def test_a_run_with_a_refused_step_resumes_to_the_bit(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path
) -> None:
    first = make_config(max_steps=4, **{"schedule.kind": "constant"})
    whole = make_config(max_steps=8, **{"schedule.kind": "constant"})
    for name, parts in {"whole": [whole], "parts": [first, whole]}.items():
        for part in parts:
            train(
                part,
                make_task(part, objective=Tampered({3: math.nan} if part is parts[0] else {})),
                tmp_path / name / "c",
            )
    one, other = checkpoint(tmp_path / "whole/c"), checkpoint(tmp_path / "parts/c")
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_ten_refused_steps_in_a_row_stop_with_a_diagnosis_and_a_sound_checkpoint(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path
) -> None:
    config = make_config(max_steps=60, eval_every=100, checkpoint_every=100)
    poisoned = Tampered(dict.fromkeys(range(7, 100), math.nan))
    with pytest.raises(TrainingError, match=r"step 16: the loss is nan.*weights are sound.*training\.lr"):
        train(config, make_task(config, objective=poisoned), tmp_path / "run")
    assert verify_checkpoint(tmp_path / "run" / "last").step == 16
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint(tmp_path / "run").values())


@pytest.mark.parametrize("policy", ["report", "skip", "roll_back"])
def test_a_spike_is_treated_as_asked(make_config: MakeConfig, make_task: MakeTask, tmp_path: Path, policy: str) -> None:
    config = make_config(max_steps=70, spikes=policy, eval_every=100, checkpoint_every=60, lr=1e-3, keep_last=9)
    train(config, make_task(config, objective=Tampered({65: 50.0})), tmp_path / "run")
    kind = {"report": "spike", "skip": "skip", "roll_back": "roll_back"}[policy]
    (event,) = events(tmp_path / "run", kind)
    assert event["step"] == 65
    assert "standard deviations" in event["message"]
    cursor = json.loads((tmp_path / "run/last/state/trainer.json").read_text())["cursor"]
    # A return to step 60 costs the five steps since; the data they saw is not seen again.
    assert cursor == 4 * (75 if policy == "roll_back" else 70)
    steps = [event["step"] for event in events(tmp_path / "run", "train")]
    refused = 65 if policy == "skip" else None
    assert steps == [step for step in range(1, 71) if step != refused], "each once, also those that are taken again"
    clean = make_config(max_steps=70, eval_every=100, checkpoint_every=60, lr=1e-3)
    train(clean, make_task(clean), tmp_path / "clean")
    pairs = zip(checkpoint(tmp_path / "run").values(), checkpoint(tmp_path / "clean").values(), strict=True)
    assert not all(torch.equal(one, other) for one, other in pairs)


def test_statistics_are_those_of_the_recent_losses() -> None:
    statistics = LossStatistics()
    losses = torch.randn(3000, generator=torch.Generator().manual_seed(0)).mul(0.1).add(3).tolist()
    for loss in losses:
        statistics.add(loss)
    assert statistics.mean == pytest.approx(3, abs=0.05)
    assert math.sqrt(statistics.variance) == pytest.approx(0.1, rel=0.3)
    assert statistics.sigmas(3.8) > 5
    assert LossStatistics(mean=1, variance=1, steps=10).sigmas(100) == 0


def test_ordinary_noise_is_no_spike() -> None:
    guard = StepGuard(LossStatistics(), "skip", scaled=False)
    generator = torch.Generator().manual_seed(1)
    for step in range(5000):
        loss = 8 * math.exp(-step / 500) + 2 + 0.1 * torch.randn((), generator=generator).item()
        assert guard.judge(loss, 1.0) == "take", step


class Listening(Observer):
    def __init__(self) -> None:
        self.heard: list[tuple[int, str]] = []

    def noted(self, step: int, kind: str, message: str) -> None:
        self.heard.append((step, kind))


def test_the_observer_hears_of_refused_steps(make_config: MakeConfig, make_task: MakeTask, tmp_path: Path) -> None:
    config, observer = make_config(max_steps=5), Listening()
    train(config, make_task(config, objective=Tampered({2: math.nan})), tmp_path / "run", observer)
    assert observer.heard == [(2, "skip")]
