from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from signal import SIGINT
from typing import Any

import pytest

from smidgen.training.evaluate import Evaluation
from smidgen.training.observer import Observer, Observers, Snapshot

SNAPSHOT = Snapshot(1, 2.0, None, 1e-3, 1.0, 64, 100.0, None)


class Recorder(Observer):
    """Writes down what it hears, with its own name."""

    def __init__(self, name: str, heard: list[tuple[Any, ...]], wants: bool = False) -> None:
        self.name, self.heard, self.wants = name, heard, wants

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        if name not in vars(Observer) or name.startswith("__") or name in ("state", "wants_model"):
            return attribute
        return lambda *arguments: self.heard.append((self.name, name, *arguments))

    def wants_model(self, step: int) -> bool:
        return self.wants

    def state(self) -> dict[str, str]:
        return {self.name: "id"}


def test_each_observer_hears_everything_in_order() -> None:
    heard: list[tuple[Any, ...]] = []
    observers = Observers([Recorder("a", heard), Recorder("b", heard, wants=True)])
    evaluation, error = Evaluation(1.0, 2.0, None), ValueError("x")
    calls: list[tuple[Any, ...]] = [
        ("started", "plan"),
        ("stepped", SNAPSHOT),
        ("compiling",),
        ("compiled", 12.0),
        ("evaluating", 1),
        ("evaluated", 1, evaluation),
        ("saving", 1),
        ("saved", 1, Path("step")),
        ("noted", 1, "skip", "a step was not taken"),
        ("stopping", SIGINT),
        ("restore", {"a": "id"}),
        ("failed", error),
        ("close",),
    ]
    for name, *arguments in calls:
        getattr(observers, name)(*arguments)
    assert heard == [(who, *call) for call in calls for who in ("a", "b")]
    assert {call[0] for call in calls} | {"wants_model", "shown_model", "state"} == {
        name for name in vars(Observer) if not name.startswith("_")
    }


def test_the_model_is_shown_to_those_who_want_it_and_states_are_joined() -> None:
    heard: list[tuple[Any, ...]] = []
    observers = Observers([Recorder("a", heard), Recorder("b", heard, wants=True)])
    assert observers.wants_model(7)
    assert not Observers([Recorder("a", heard)]).wants_model(7)
    observers.shown_model(7, "model", None)  # type: ignore[arg-type]
    assert heard == [("b", "shown_model", 7, "model", None)]
    assert observers.state() == {"a": "id", "b": "id"}


def test_all_are_closed_also_when_one_fails() -> None:
    closed = []

    class Failing(Observer):
        def close(self) -> None:
            closed.append("failing")
            raise OSError("no")

    class Fine(Observer):
        def close(self) -> None:
            closed.append("fine")

        def failed(self, error: BaseException) -> None:
            closed.append(str(error))

        def restore(self, state: Mapping[str, str]) -> None:
            raise AssertionError

    with pytest.raises(OSError, match="no"), Observers([Failing(), Fine()]):
        pass
    assert closed == ["failing", "fine"]
    closed.clear()
    with pytest.raises(ValueError, match="diverged"), Observers([Fine()]):
        raise ValueError("diverged")
    assert closed == ["diverged", "fine"]
