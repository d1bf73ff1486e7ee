from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from smidgen.config import Config, load_config
from smidgen.folders import load
from smidgen.folders.run import verify_checkpoint
from smidgen.model import Decoder
from smidgen.runtime.errors import ConfigError, TrainingError
from smidgen.training import trainer
from smidgen.training.evaluate import Evaluation
from smidgen.training.loop import train
from smidgen.training.metrics import read_metrics
from smidgen.training.objectives import Batch, LanguageModeling, Loss
from smidgen.training.observer import Observer, Plan, Snapshot, Summary
from smidgen.training.origin import count_steps
from smidgen.training.schedules import learning_rate
from smidgen.training.task import Task

MakeConfig = Callable[..., Config]
MakeTask = Callable[..., Task]
Tensors = dict[str, torch.Tensor]

TIMINGS = ("seconds", "tokens_per_second", "mfu")


def lines(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == kind]


def weights(run: Path) -> Tensors:
    return load_file(run / "last" / "model" / "model.safetensors")


def assert_same_weights(one: Tensors, other: Tensors) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_a_run_learns_and_leaves_its_folder(make_config: MakeConfig, make_task: MakeTask, tmp_path: Path) -> None:
    config = make_config(max_steps=60, keep_last=1, checkpoint_every=20, eval_every=10)
    summary = train(config, make_task(config), tmp_path / "run")
    losses = [line["loss"] for line in lines(tmp_path / "run")]
    assert losses[0] == pytest.approx(math.log(61), abs=0.1)
    assert losses[-1] < 3.0
    assert [line["step"] for line in lines(tmp_path / "run", "validation")] == [10, 20, 30, 40, 50, 60]
    assert load_config(tmp_path / "run" / "config.yaml") == config
    assert verify_checkpoint(summary.checkpoint).step == summary.steps == summary.total_steps == 60
    assert summary.best_validation_loss == min(line["loss"] for line in lines(tmp_path / "run", "validation"))
    assert summary.best_bits_per_byte == pytest.approx(summary.best_validation_loss / math.log(2) / 4)
    assert summary.tokens == 60 * 4 * 24
    assert summary.stopped_by is None
    assert_same_weights(load(tmp_path / "run").state_dict(), weights(tmp_path / "run"))


def test_metrics_hold_what_they_say(make_config: MakeConfig, make_task: MakeTask, tmp_path: Path) -> None:
    config = make_config(max_steps=9, log_every=4, gradient_clip=None)
    train(config, make_task(config), tmp_path / "run")
    every = make_config(max_steps=9, log_every=1, gradient_clip=None)
    train(every, make_task(every), tmp_path / "every")
    logged, single = lines(tmp_path / "run"), lines(tmp_path / "every")
    assert [line["step"] for line in logged] == [4, 8, 9]
    assert [line["tokens"] for line in logged] == [4 * 96, 8 * 96, 9 * 96]
    assert [line["lr"] for line in single] == [learning_rate(config.training, step, 9) for step in range(1, 10)]
    labels = [sum(24 - n % 7 for n in range(4 * step, 4 * step + 4)) for step in range(9)]
    mean = sum(line["loss"] * n for line, n in zip(single[:4], labels, strict=False)) / sum(labels[:4])
    assert logged[0]["loss"] == pytest.approx(mean)
    assert logged[0]["bits_per_byte"] == pytest.approx(mean / math.log(2) / 4)
    assert logged[0]["grad_norm"] == pytest.approx(sum(line["grad_norm"] for line in single[:4]) / 4)
    assert all(line["mfu"] > 0 and line["tokens_per_second"] > 0 for line in logged)


def test_the_result_does_not_depend_on_how_a_step_is_split(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path
) -> None:
    trained = {}
    for batch_size, accumulation in [(8, 1), (2, 4), (1, 8)]:
        config = make_config(batch_size=batch_size, gradient_accumulation_steps=accumulation, max_steps=6)
        model = Decoder(config.model).initialize(0).double()
        train(config, make_task(config, model=model), tmp_path / str(batch_size))
        trained[batch_size] = dict(model.named_parameters())
        losses = [line["loss"] for line in lines(tmp_path / str(batch_size))]
        assert losses == pytest.approx([line["loss"] for line in lines(tmp_path / "8")], rel=1e-6)
    for batch_size in (2, 1):
        for name, value in trained[8].items():
            torch.testing.assert_close(trained[batch_size][name], value, rtol=1e-9, atol=1e-11)


def run_with_stop(config: Config, task: Task, path: Path, stop: Any) -> Summary:
    interrupted = train(config, task, path, stop)
    assert interrupted.steps == stop.step
    assert interrupted.stopped_by == stop.number
    assert verify_checkpoint(path / "last").step == stop.step
    return train(config, task, path)


@pytest.mark.parametrize(
    "fields",
    [
        {"precision": "bf16", "dropout": 0.1, "gradient_accumulation_steps": 2},
        {"precision": "fp32", "dropout": 0.3, "log_every": 3},
        {"precision": "fp16", "gradient_accumulation_steps": 3},
        {"precision": "fp8_block", "dropout": 0.1},
        {"precision": "fp8_delayed", "dropout": 0.1},
        {"precision": "bf16", "dropout": 0.1, "model.linear.kind": "ternary", "model.norm.placement": "sub"},
        pytest.param(
            {"precision": "bf16", "dropout": 0.1, "compile": True, "model.num_layers": 1}, marks=pytest.mark.slow
        ),
    ],
    ids=["bf16", "fp32", "fp16", "fp8_block", "fp8_delayed", "ternary", "compile"],
)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    make_config: MakeConfig, make_task: MakeTask, stop_at: type[Any], tmp_path: Path, fields: dict[str, Any]
) -> None:
    config = make_config(**fields)
    task = make_task(config, per_epoch=7)  # several epochs pass, and the stop lies within one
    train(config, task, tmp_path / "whole")
    resumed = run_with_stop(config, task, tmp_path / "parts", stop_at(6 if fields.get("log_every") else 5))
    assert resumed.steps == 12
    assert_same_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    for part in ("optimizer", "random"):
        one, other = (load_file(tmp_path / name / "last/state" / f"{part}.safetensors") for name in ("whole", "parts"))
        assert_same_weights(one, other)
    for kind in ("train", "validation"):
        whole, parts = (
            [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines(tmp_path / name, kind)]
            for name in ("whole", "parts")
        )
        assert whole == parts


def test_a_window_of_metrics_that_a_stop_cuts_is_whole_after_it(
    make_config: MakeConfig, make_task: MakeTask, stop_at: type[Any], tmp_path: Path
) -> None:
    class Slow(stop_at):
        """Stops between two lines: SIGINT comes while step 6 is evaluated."""

        def stepped(self, snapshot: Snapshot) -> None: ...

        def evaluating(self, step: int) -> None:
            if step == self.step:
                signal.raise_signal(self.number)

    config = make_config(log_every=4, eval_every=6, checkpoint_every=100, dropout=0.2)
    task = make_task(config)
    train(config, task, tmp_path / "whole")
    run_with_stop(config, task, tmp_path / "parts", Slow(6))
    losses = {name: [(line["step"], line["loss"]) for line in lines(tmp_path / name)] for name in ("whole", "parts")}
    assert losses["whole"] == losses["parts"]
    # The evaluation was given up for the stop.
    assert [line["step"] for line in lines(tmp_path / "parts", "validation")] == [12]


@pytest.mark.parametrize(("moment", "steps"), [("compiling", 1), ("evaluating", 4), ("saving", 4)])
def test_a_signal_amid_other_work_than_a_step_stops_after_it_with_a_checkpoint(
    make_config: MakeConfig,
    make_task: MakeTask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    steps: int,
) -> None:
    class Interrupted(Observer):
        def _signal(self, *_: object) -> None:
            signal.raise_signal(signal.SIGTERM)

    setattr(Interrupted, moment, Interrupted._signal)
    # What is announced as compiling is the first pass, whoever computes it.
    monkeypatch.setattr(trainer, "compile_training", lambda model: None)
    config = make_config(compile=True)
    summary = train(config, make_task(config), tmp_path / "run", Interrupted())
    assert (summary.stopped_by, summary.steps) == (signal.SIGTERM, steps)
    assert verify_checkpoint(tmp_path / "run" / "last").step == steps
    train(config, make_task(config), tmp_path / "run")
    train(config, make_task(config), tmp_path / "whole")
    assert_same_weights(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_killed_run_goes_on_from_its_last_checkpoint(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    class Kill(Observer):
        def stepped(self, snapshot: Snapshot) -> None:
            if snapshot.step == 7:
                raise Killed

    config = make_config(precision="bf16", dropout=0.1)
    task = make_task(config)
    train(config, task, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, task, tmp_path / "killed", Kill())
    train(config, task, tmp_path / "killed")
    assert_same_weights(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert [line["step"] for line in lines(tmp_path / "killed")] == list(range(1, 13))


def test_a_damaged_checkpoint_is_passed_over(make_config: MakeConfig, make_task: MakeTask, tmp_path: Path) -> None:
    config = make_config()
    task = make_task(config)
    train(config, task, tmp_path / "run")
    expected = weights(tmp_path / "run")
    state = tmp_path / "run" / "last" / "state" / "optimizer.safetensors"
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    assert train(config, task, tmp_path / "run").steps_taken == 4
    assert_same_weights(expected, weights(tmp_path / "run"))


def test_sigterm_stops_too(make_config: MakeConfig, make_task: MakeTask, stop_at: type[Any], tmp_path: Path) -> None:
    config = make_config()
    assert train(config, make_task(config), tmp_path / "run", stop_at(3, signal.SIGTERM)).stopped_by == signal.SIGTERM
    assert verify_checkpoint(tmp_path / "run" / "last").step == 3


def test_a_finished_run_returns_at_once_and_more_steps_go_on(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path
) -> None:
    config = make_config()
    first = train(config, make_task(config), tmp_path / "run")
    again = train(config, make_task(config), tmp_path / "run")
    assert (again.steps_taken, again.steps) == (0, 12)
    assert again.best_validation_loss == first.best_validation_loss
    longer = make_config(max_steps=16, dropout=0.1, eval_every=8)
    assert train(longer, make_task(longer), tmp_path / "run").steps_taken == 4
    assert load_config(tmp_path / "run" / "config.yaml") == longer
    assert lines(tmp_path / "run", "resume")[-1]["changes"] == {
        "training.max_steps": [12, 16],
        "training.dropout": [0.0, 0.1],
        "training.eval_every": [4, 8],
    }


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("model.feed_forward.intermediate_size", 128, r"model.feed_forward.intermediate_size \(64 → 128\)"),
        ("seed", 2, r"training.seed \(1337 → 2\)"),
        ("data.sampling", "random_windows", "data.sampling"),
        ("seq_len", 12, "training.seq_len"),
    ],
)
def test_changes_that_would_change_the_model_are_refused(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path, name: str, value: Any, shown: str
) -> None:
    config = make_config()
    train(config, make_task(config), tmp_path / "run")
    changed = make_config(**{name: value, "max_steps": 20})
    with pytest.raises(TrainingError, match=shown):
        train(changed, make_task(changed), tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.yaml") == config


def test_other_data_under_a_run_is_refused(make_config: MakeConfig, make_task: MakeTask, tmp_path: Path) -> None:
    config = make_config()
    train(config, make_task(config), tmp_path / "run")
    with pytest.raises(TrainingError, match="not the data that"):
        train(config, make_task(config, fingerprint="other"), tmp_path / "run")


def test_another_batch_size_skips_and_repeats_no_sequence(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path
) -> None:
    config = make_config(max_steps=3)
    train(config, make_task(config), tmp_path / "run")
    wider = make_config(max_steps=5, batch_size=6)
    train(wider, make_task(wider), tmp_path / "run")
    state = json.loads((tmp_path / "run" / "last" / "state" / "trainer.json").read_text())
    assert state["cursor"] == 3 * 4 + 2 * 6


class Overflowing(LanguageModeling):
    """The gradient of one pass overflows; its loss does not."""

    passes = 0

    def loss(self, model: Decoder, batch: Batch) -> Loss:
        total, weight, figures = super().loss(model, batch)
        self.passes += model.training
        if self.passes == 3 and model.training:
            total.register_hook(lambda gradient: gradient * float("inf"))
        return total, weight, figures


def test_fp16_skips_a_step_whose_gradient_overflows(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path
) -> None:
    for steps in (2, 3):  # the third step changes nothing
        config = make_config(
            precision="fp16", max_steps=steps, **{"schedule.kind": "constant", "schedule.warmup_steps": 1}
        )
        train(config, make_task(config, objective=Overflowing()), tmp_path / str(steps))
    assert_same_weights(weights(tmp_path / "2"), weights(tmp_path / "3"))
    scales = [
        json.loads((tmp_path / name / "last/state/trainer.json").read_text())["scaler"]["scale"] for name in ("2", "3")
    ]
    assert scales[1] == scales[0] / 2
    assert [line["step"] for line in lines(tmp_path / "3", "skip")] == [3]


class WithFigures(LanguageModeling):
    def loss(self, model: Decoder, batch: Batch) -> Loss:
        total, weight, _ = super().loss(model, batch)
        return total, weight, {"halves": weight / 2}


def test_an_objectives_own_figures_are_means_over_the_weight(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path
) -> None:
    config = make_config(gradient_accumulation_steps=2)
    train(config, make_task(config, objective=WithFigures()), tmp_path / "run")
    assert {line["halves"] for line in lines(tmp_path / "run")} == {0.5}


def test_without_validation_data_the_last_checkpoint_serves(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path
) -> None:
    config = make_config()
    summary = train(config, make_task(config, validation=False), tmp_path / "run")
    assert summary.best_validation_loss is None
    assert not (tmp_path / "run" / "best").exists()
    load(tmp_path / "run")


def test_epochs_become_steps(make_config: MakeConfig) -> None:
    config = make_config(max_steps=None, epochs=2.5, batch_size=4, gradient_accumulation_steps=2)
    assert count_steps(config, sequences_per_epoch=21) == 7
    with pytest.raises(ConfigError, match=r"training\.max_steps = null"):
        count_steps(make_config(max_steps=None), 21)
    decaying = make_config(max_steps=None, epochs=1.0, **{"schedule.kind": "wsd", "schedule.decay_steps": 9})
    with pytest.raises(ConfigError, match=r"schedule\.decay_steps = 9: exceeds the 6 steps of training\.epochs 1; sho"):
        count_steps(decaying, 21)


def test_a_warm_up_longer_than_the_run_is_told_and_works(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(max_steps=2, **{"schedule.warmup_steps": 5})
    assert train(config, make_task(config), tmp_path / "run").steps == 2
    assert "warmup_steps = 5: longer than the 2 steps" in caplog.text


def test_compile_without_a_compiler_is_refused(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    config = make_config(compile=True)
    with pytest.raises(ConfigError, match=r"training\.compile = true: needs a C"):
        train(config, make_task(config), tmp_path / "run")


def test_dropout_acts_in_training_only(make_config: MakeConfig, make_task: MakeTask, tmp_path: Path) -> None:
    losses = {}
    for dropout in (0.0, 0.5):
        config = make_config(dropout=dropout, max_steps=1, lr=1e-9, eval_every=1, **{"schedule.warmup_steps": 0})
        train(config, make_task(config), tmp_path / str(dropout))
        losses[dropout] = [lines(tmp_path / str(dropout), kind)[0]["loss"] for kind in ("train", "validation")]
    assert losses[0.0][0] != losses[0.5][0]
    assert losses[0.0][1] == pytest.approx(losses[0.5][1], abs=1e-6)


def test_snapshots_and_events_reach_the_observer(make_config: MakeConfig, make_task: MakeTask, tmp_path: Path) -> None:
    class Recorder(Observer):
        def __init__(self) -> None:
            self.events: list[tuple[Any, ...]] = []

        def started(self, plan: Plan) -> None:
            self.events.append(("started", plan.total_steps, plan.tokens_per_step, plan.resumed_from))

        def stepped(self, snapshot: Snapshot) -> None:
            self.events.append(("stepped", snapshot.step))

        def evaluated(self, step: int, evaluation: Evaluation) -> None:
            self.events.append(("evaluated", step))

        def saved(self, step: int, checkpoint: Path) -> None:
            self.events.append(("saved", step))

    recorder = Recorder()
    config = make_config(max_steps=4, log_every=2, eval_every=2)
    train(config, make_task(config), tmp_path / "run", recorder)
    assert recorder.events == [
        ("started", 4, 96, None),
        ("stepped", 2),
        ("evaluated", 2),
        ("stepped", 4),
        ("evaluated", 4),
        ("saved", 4),
    ]


@pytest.mark.parametrize(
    "averaging",
    [
        {"ema_decay": 0.9},
        {"optimizer.kind": "schedule_free_adamw", "schedule.kind": "constant"},
        {"optimizer.kind": "lion"},
        {"optimizer.kind": "muon", "ema_decay": 0.5},
    ],
    ids=str,
)
def test_a_run_that_averages_its_weights_resumes_to_the_bit(
    make_config: MakeConfig,
    make_task: MakeTask,
    tmp_path: Path,
    stop_at: Callable[[int], Observer],
    averaging: dict[str, Any],
) -> None:
    config = make_config(checkpoint_every=100, lr=1e-3, **averaging)
    train(config, make_task(config), tmp_path / "whole")
    train(config, make_task(config), tmp_path / "parts", stop_at(5))
    train(config, make_task(config), tmp_path / "parts")
    assert_same_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    plain = make_config(checkpoint_every=100, lr=1e-3)
    train(plain, make_task(plain), tmp_path / "plain")
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "plain")
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_an_automatic_batch_size_is_found_recorded_and_kept(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path
) -> None:
    config = make_config(batch_size="auto", tokens_per_step=8 * 24, max_steps=4)
    train(config, make_task(config), tmp_path / "run")
    recorded = load_config(tmp_path / "run" / "config.yaml").training
    assert recorded.batch_size * recorded.gradient_accumulation_steps == 8
    longer = make_config(batch_size="auto", tokens_per_step=8 * 24, max_steps=6)
    train(longer, make_task(longer), tmp_path / "run")
    again = load_config(tmp_path / "run" / "config.yaml").training
    assert (again.batch_size, again.max_steps) == (recorded.batch_size, 6)


@pytest.mark.slow
def test_the_time_of_compiling_is_told_and_counts_in_no_rate(
    make_config: MakeConfig, make_task: MakeTask, tmp_path: Path
) -> None:
    class Listening(Observer):
        heard: tuple[float, ...] = ()

        def compiled(self, seconds: float) -> None:
            self.heard += (seconds,)

    config, observer = make_config(max_steps=3, compile=True, **{"model.num_layers": 1}), Listening()
    train(config, make_task(config), tmp_path / "run", observer)
    (seconds,) = observer.heard
    first = lines(tmp_path / "run")[0]
    assert first["tokens"] / first["tokens_per_second"] < seconds
