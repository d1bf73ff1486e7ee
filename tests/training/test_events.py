"""events.jsonl, environment.json and samples.jsonl."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
import torch

from smidgen.config import load_config
from smidgen.config.tracking import TrackingConfig
from smidgen.model import Decoder
from smidgen.runtime.errors import ContextLengthError
from smidgen.training.environment import describe_environment, git_commit
from smidgen.training.events import RunRecord
from smidgen.training.metrics import read_metrics
from smidgen.training.observer import Plan
from smidgen.training.samples import TextSamples

TRACKING = TrackingConfig(sample_every=2, sample_prompts=("a", "b"))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    config = load_config("elite-tiny", {"data.path": str(tmp_path / "data")})
    return Plan(config, tmp_path, 1000, "cpu, 1 thread", 1e12, 100, 64, 20, None, 0, {})


def events(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in e.items() if k != "time"} for e in read_metrics(run / "events.jsonl")]


def test_a_history_keeps_what_a_resume_takes_back(plan: Plan, tmp_path: Path) -> None:
    with RunRecord(tmp_path) as record:
        record.started(plan)
        record.saved(10, tmp_path / "step-00000010")
        record.noted(12, "skip", "step 12 was not taken")
        record.stopping(SIGTERM)
    resumed = replace(plan, first_step=10, resumed_from=tmp_path, changes={"training.lr": (1.0, 2.0)})
    with RunRecord(tmp_path) as record:
        record.started(resumed)
        record.failed(ValueError("boom\nin two lines"))
    kinds = [(event["kind"], event["step"]) for event in events(tmp_path)]
    assert kinds == [("start", 0), ("save", 10), ("skip", 12), ("end", 10), ("resume", 10), ("end", 10)]
    assert events(tmp_path)[1]["checkpoint"] == "step-00000010"
    assert events(tmp_path)[2]["message"] == "step 12 was not taken"
    assert events(tmp_path)[3]["signal"] == "SIGTERM"
    assert events(tmp_path)[4]["changes"] == {"training.lr": [1.0, 2.0]}
    assert events(tmp_path)[5]["error"] == "ValueError: boom in two lines"
    assert [e["step"] for e in json.loads((tmp_path / "environment.json").read_text())] == [0, 10]


def test_nothing_is_written_before_the_training_starts(tmp_path: Path) -> None:
    with RunRecord(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_environment_is_plain_json_and_names_what_matters(tmp_path: Path) -> None:
    environment = describe_environment()
    assert json.loads(json.dumps(environment)) == environment
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["cores"] >= 1
    assert environment["processor"]


def test_the_commit_is_that_of_the_folder(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "one")
    assert git_commit(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": True}


class SomeTokenizer:
    """Stands where a tokenizer is only handed on."""


Sample = Callable[[Decoder, Any, Sequence[str], TrackingConfig], list[str]]


def samples_of(run: Path, plan: Plan, sampler: Sample, model: Decoder, *steps: int) -> list[dict[str, Any]]:
    with TextSamples(TRACKING, run, sampler) as samples:
        samples.started(plan)
        for step in steps:
            if samples.wants_model(step):
                samples.shown_model(step, model, SomeTokenizer())  # type: ignore[arg-type]
    return list(read_metrics(run / "samples.jsonl"))


@pytest.fixture
def model(make_config: Callable[..., Any]) -> Decoder:
    return Decoder(make_config().model).initialize(0)


def test_samples_leave_the_training_as_it_was(plan: Plan, tmp_path: Path, model: Decoder) -> None:
    def restless(model: Decoder, tokenizer: Any, prompts: Sequence[str], tracking: TrackingConfig) -> list[str]:
        assert not torch.is_grad_enabled()
        model.eval()
        return [f"{prompt}{torch.rand(()).item():.1f}"[:1] + "!" for prompt in prompts]

    model.train()
    before = torch.get_rng_state()
    lines = samples_of(tmp_path, plan, restless, model, 1, 2, 3, 4)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    expected = [{"prompt": "a", "text": "a!"}, {"prompt": "b", "text": "b!"}]
    assert lines == [{"kind": "sample", "step": step, "samples": expected} for step in (2, 4)]
    assert [line["step"] for line in samples_of(tmp_path, replace(plan, first_step=2), restless, model, 4)] == [2, 4]


def test_a_sample_that_cannot_be_taken_stops_nothing(
    plan: Plan, tmp_path: Path, model: Decoder, caplog: pytest.LogCaptureFixture
) -> None:
    def too_long(*_: Any) -> list[str]:
        raise ContextLengthError("the prompt is too long")

    assert samples_of(tmp_path, plan, too_long, model, 2) == []
    assert "step 2: no sample: the prompt is too long" in caplog.text
