from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from smidgen.config import Config, dump_config
from smidgen.model import Decoder
from smidgen.runtime.errors import ConfigError
from smidgen.training import autobatch
from smidgen.training.autobatch import Trial, available_memory, largest_fitting, resolve_batch_size
from smidgen.training.footprint import full_sequences, predict_footprint
from smidgen.training.objectives import Batch, LanguageModeling, Loss
from smidgen.training.parallel.ranks import Ranks
from smidgen.training.task import Task

CPU = torch.device("cpu")
Make = Callable[..., Any]


class TwoRanks(Ranks):
    """What one of two processes sees; the other found that `other` sequences fit."""

    size = batch_size = 2

    def __init__(self, other: int) -> None:
        self.other = other

    def highest(self, number: int) -> int:
        return max(number, -self.other)


def resolve(config: Config, task: Task, ranks: Ranks | None = None, recorded: Config | None = None) -> Config:
    data = task.data.train
    return resolve_batch_size(config, CPU, task.objective, data, task.starting_model, ranks or Ranks(), recorded)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`memory(bytes)`: what the computer seems to have."""

    def set_to(size: float) -> None:
        monkeypatch.setattr(autobatch, "available_memory", lambda: size)

    return set_to


@pytest.mark.parametrize("limit", range(20))
def test_the_largest_that_fits(limit: int) -> None:
    candidates = [1, 2, 3, 4, 6, 8, 12, 16]
    tried = []
    found = largest_fitting(candidates, lambda count: tried.append(count) is None and count <= limit)
    assert found == max((count for count in candidates if count <= limit), default=0)
    assert len(tried) <= 4


def test_numbers_stay_as_they_are(make_config: Make, make_task: Make) -> None:
    config = make_config(batch_size=3)
    assert resolve(config, make_task(config)) is config


def test_on_a_cpu_the_prediction_decides(make_config: Make, make_task: Make, memory: Make) -> None:
    config = make_config(batch_size="auto", gradient_accumulation_steps=2)
    need = predict_footprint(config, 6)
    memory((need.peak + need.state) / 0.7 * 1.02)
    training = resolve(config, make_task(config, per_epoch=1000)).training
    assert (training.batch_size, training.gradient_accumulation_steps) == (6, 2)


def test_a_step_keeps_its_tokens_whatever_fits(make_config: Make, make_task: Make, memory: Make) -> None:
    config = make_config(batch_size="auto", tokens_per_step=24 * 20)
    task = make_task(config)
    need = predict_footprint(config, 6)
    memory((need.peak + need.state) / 0.7 * 1.02)
    resolved = resolve(config, task)
    assert (resolved.training.batch_size, resolved.training.gradient_accumulation_steps) == (5, 4)
    assert "auto" not in dump_config(resolved).split("device")[0]
    memory((need.peak + need.state) / 0.7 * 2.04)  # that two ranks share
    halves = resolve(config, task, TwoRanks(other=2)).training
    assert (halves.batch_size, halves.gradient_accumulation_steps) == (2 * 2, 5)


def test_an_epoch_bounds_the_batch(make_config: Make, make_task: Make, memory: Make) -> None:
    memory(1e12)
    config = make_config(batch_size="auto")
    assert resolve(config, make_task(config, per_epoch=20)).training.batch_size == 16


def test_a_run_that_goes_on_keeps_its_numbers(make_config: Make, make_task: Make) -> None:
    config = make_config(batch_size="auto", tokens_per_step=24 * 20)
    recorded = make_config(batch_size=10, gradient_accumulation_steps=2)
    assert resolve(config, make_task(config), recorded=recorded) == recorded


def test_impossible_requests_are_one_clear_line(make_config: Make, make_task: Make, memory: Make) -> None:
    memory(1000)
    config = make_config(batch_size="auto")
    with pytest.raises(ConfigError, match="not even one sequence of 24 tokens fits"):
        resolve(config, make_task(config))
    uneven = make_config(batch_size="auto", tokens_per_step=100)
    with pytest.raises(ConfigError, match=r"tokens_per_step = 100: .* use 96"):
        resolve(uneven, make_task(uneven))


def test_a_trial_survives_running_out_of_memory(make_config: Make) -> None:
    """The GPU's search, with an objective that has no memory for more than five sequences."""

    class Greedy(LanguageModeling):
        def loss(self, model: Decoder, batch: Batch) -> Loss:
            if len(batch.input_ids) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().loss(model, batch)

    config = make_config(ema_decay=0.9, activation_checkpointing="full")
    trial = Trial(config, CPU, Greedy(), full_sequences(config), Decoder(config.model).initialize(0))
    assert largest_fitting([1, 2, 3, 4, 6, 8], trial.fits) == 4
    assert all(p.grad is None for p in trial.model.parameters())


def test_this_machine_has_memory() -> None:
    assert 2**20 < available_memory() < 2**50


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_real_steps_decide(make_config: Make, make_task: Make) -> None:
    config = make_config(batch_size="auto")
    task = make_task(config)
    device = torch.device("cuda")
    resolved = resolve_batch_size(config, device, task.objective, task.data.train, task.starting_model, Ranks())
    assert resolved.training.batch_size == 16
