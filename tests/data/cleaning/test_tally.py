"""Counts and samples come out the same however documents are divided."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.cleaning import Tally
from smidgen.data.cleaning.tally import SAMPLE_CHARACTERS, SAMPLES

EVENTS = st.lists(st.tuples(st.sampled_from(["short", "language"]), st.text(max_size=5), st.sampled_from("ab")))


def counted(events: list[tuple[str, str, str]]) -> Tally:
    tally = Tally()
    for rule, text, source in events:
        tally.dropped(rule, text, source)
        tally.edited({"whitespace": 1, rule: 2})
    return tally


@given(EVENTS, st.integers(0, 20))
def test_a_merge_equals_one_count(events: list[tuple[str, str, str]], cut: int) -> None:
    merged = counted(events[:cut])
    merged.merge(counted(events[cut:]))
    assert merged.to_json() == counted(events).to_json()
    assert Tally.from_json(json.loads(json.dumps(merged.to_json()))).to_json() == merged.to_json()


def test_samples_are_few_and_short() -> None:
    tally = counted([("short", f"{i} " + "ü" * 1000, "a.txt") for i in range(10)])
    drops = tally.drops["short"]
    assert (drops.documents, drops.bytes) == (10, 20 + 20_000)
    assert [sample["text"][0] for sample in drops.samples] == [str(i) for i in range(SAMPLES)]
    assert all(len(sample["text"]) == SAMPLE_CHARACTERS for sample in drops.samples)
