"""A service may hang, fail or come back: the training never waits, and every line arrives once."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from smidgen.training.metrics import MetricsFile, drop_after

WaitUntil = Callable[[Callable[[], bool]], None]


def steps(service: Any) -> list[int]:
    return [step for step, _ in service.received]


def test_every_line_arrives_once_and_in_order(run: Any, service: Any, wait_until: WaitUntil) -> None:
    run.train(1, 2)
    with run.forwarder(service) as forwarder:
        forwarder.started(run.plan())
        wait_until(lambda: len(service.received) == 2)
        run.train(3)
        run.validate(3)
        run.metrics.write("resume", 3, changes={})
        run.sample(3, Once=" upon")
    assert steps(service) == [1, 2, 3, 3]
    assert service.received[0][1] == {"train/loss": 10.0, "train/lr": 1e-3}
    assert service.received[-1][1] == {"validation/loss": 11 / 3}
    assert service.samples == [(3, {"Once": " upon"})]
    (session,) = service.sessions
    assert (session.name, session.project, session.last_step) == ("demo", "stories", None)
    assert session.config["model"]["num_layers"] == run.config.model.num_layers


def test_a_service_that_hangs_keeps_nobody_waiting(
    run: Any, service: Any, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    service.answering.clear()
    forwarder = run.forwarder(service, at_the_end=0.05)
    begun = time.perf_counter()
    forwarder.started(run.plan())
    run.train(*range(1, 1000))
    forwarder.close()
    assert time.perf_counter() - begun < 5
    assert service.abandoned
    assert f"service has not received everything; when it can be reached, 'smidgen track {run.path}'" in caplog.text
    service.answering.set()
    later = run.forwarder(service)
    assert later.send_all(run.config) == 999 == len(service.received)


def test_a_service_that_fails_is_warned_of_once_and_gets_all_when_it_is_back(
    run: Any, service: Any, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    service.down = "no route to host"
    with run.forwarder(service) as forwarder:
        forwarder.started(run.plan())
        run.train(1, 2, 3)
        wait_until(lambda: service.attempts >= 4)
        assert service.received == []
        service.down = None
        wait_until(lambda: len(service.received) == 3)
        run.train(4)
    assert steps(service) == [1, 2, 3, 4]
    assert not service.abandoned
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["service: no route to host; training goes on, and what it misses is sent later"]
    assert "service can be reached again" in caplog.text


def test_a_failure_in_the_middle_repeats_nothing(run: Any, service: Any, wait_until: WaitUntil) -> None:
    service.fails_after = 5
    run.train(*range(1, 11))
    with run.forwarder(service) as forwarder:
        forwarder.started(run.plan())
        wait_until(lambda: service.down is not None)
        service.down = None
        wait_until(lambda: len(service.received) == 10)
    assert steps(service) == list(range(1, 11))


def test_retries_come_less_and_less_often(run: Any, service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service.down = "gone"
    forwarder = run.forwarder(service, first_retry=1.0, longest_retry=10.0)
    pauses: list[float] = []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 6:
            forwarder._abandoned.set()
        return False

    monkeypatch.setattr(forwarder._closing, "wait", wait)
    forwarder.started(run.plan())
    forwarder._thread.join()
    assert pauses == [1, 2, 4, 8, 10, 10]


def test_a_resumed_run_goes_on_as_the_same_remote_run_without_repeating_a_step(run: Any, service: Any) -> None:
    with run.forwarder(service) as first:
        first.started(run.plan())
        run.train(1, 2, 3, 4)
        run.validate(2)
    # The process died after step 4; the newest checkpoint was made at step 2.
    run.metrics.close()
    drop_after(run.path / "metrics.jsonl", 2)
    run.metrics = MetricsFile(run.path / "metrics.jsonl")
    with run.forwarder(service) as second:
        second.started(run.plan(first_step=2))
        run.train(3, 4, 5)
        run.validate(4)
    received = sorted((name, step) for step, figures in service.received for name in figures if name.endswith("loss"))
    assert received == [*(("train/loss", step) for step in (1, 2, 3, 4, 5)), *(("validation/loss", s) for s in (2, 4))]
    assert service.sessions[0].id == service.sessions[1].id
    assert service.sessions[1].last_step == 4


def test_a_metrics_file_that_is_replaced_while_running_is_followed(
    run: Any, service: Any, wait_until: WaitUntil
) -> None:
    with run.forwarder(service) as forwarder:
        forwarder.started(run.plan())
        run.train(1, 2, 3)
        wait_until(lambda: len(service.received) == 3)
        run.metrics.close()
        drop_after(run.path / "metrics.jsonl", 1)
        run.metrics = MetricsFile(run.path / "metrics.jsonl")
        run.train(2, 3, 4)
    assert steps(service) == [1, 2, 3, 4]


def test_an_unfinished_line_waits_for_its_end(run: Any, service: Any) -> None:
    path = run.path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"kind": "train", "step": 1, "loss": 2}\n{"kind": "train", "st')
    assert run.forwarder(service).send_all(run.config) == 1
    with path.open("a") as file:
        file.write('ep": 2, "loss": 1}\nnot json\n[1]\n{"kind": "train", "step": 3, "loss": 1}\n')
    assert run.forwarder(service).send_all(run.config) == 2
    assert steps(service) == [1, 2, 3]


def test_a_checkpoint_brings_the_identity_to_a_folder_that_lost_it(run: Any, service: Any) -> None:
    forwarder = run.forwarder(service)
    run.train(1)
    forwarder.send_all(run.config)
    state = forwarder.state()
    assert state == {"tracker.service": service.sessions[0].id}
    note = run.path / "tracking" / "service.json"
    assert json.loads(note.read_text()) == {"id": service.sessions[0].id, "sent": {"train": 1}}

    another = run.forwarder(service)
    another.restore({"tracker.service": "of an old checkpoint"})
    assert another.state() == state  # the folder knows better
    note.unlink()
    lost = run.forwarder(service)
    lost.restore(state)
    assert lost.state() == state


def test_a_damaged_note_begins_anew_and_says_so(run: Any, service: Any, caplog: pytest.LogCaptureFixture) -> None:
    (run.path / "tracking").mkdir()
    (run.path / "tracking" / "service.json").write_text('{"id": "abc", "se')
    run.train(1)
    assert run.forwarder(service).send_all(run.config) == 1
    assert "cannot be read" in caplog.text


def test_nothing_is_written_or_called_before_the_training_starts(run: Any, service: Any) -> None:
    with run.forwarder(service):
        pass
    assert service.attempts == 0
    assert not (run.path / "tracking").exists()
