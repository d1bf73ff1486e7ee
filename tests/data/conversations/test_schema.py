"""Records of every format as messages and pairs, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smidgen.data.conversations.reading import read_conversations
from smidgen.data.conversations.schema import UnusableRecord, conversation_of, preference_of

ASKED = {"role": "user", "content": "a"}
ANSWERED = {"role": "assistant", "content": "b"}
BOTH = (ASKED, ANSWERED)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [ASKED, ANSWERED, ASKED]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"instruction": "a", "input": "", "output": "b"},
        {"prompt": "a", "completion": "b"},
        {"prompt": [ASKED], "completion": [ANSWERED]},
        {"question": "a", "answer": "b"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ANSWERED]},
    ],
)
def test_every_format_gives_the_same_messages(record: dict[str, Any]) -> None:
    assert conversation_of(record) == BOTH


def test_alpacas_input_and_system() -> None:
    found = conversation_of({"instruction": "a", "input": "c", "output": "b", "system": "s"})
    assert [message["content"] for message in found] == ["s", "a\n\nc", "b"]


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"text": "a"}, "no conversation"),
        ({"messages": [ASKED]}, "no answer"),
        ({"messages": [{"role": "king", "content": "a"}]}, "unknown role"),
        ({"question": "a", "answer": " "}, "empty text"),
        ({"messages": 3}, "no messages"),
        ({"messages": "[" * 100_000}, "no messages"),
        ({"messages": [{"role": ["user"], "content": "a"}, ANSWERED]}, "unknown role"),
        ({"messages": [{"from": {}, "value": "a"}, ANSWERED]}, "unknown role"),
        ({"messages": [ASKED, {"role": "assistant", "content": "\ud800"}]}, "lone surrogate"),
        ({"question": "a\udfff", "answer": "b"}, "lone surrogate"),
    ],
)
def test_what_is_no_conversation_is_refused_by_kind(record: dict[str, Any], kind: str) -> None:
    with pytest.raises(UnusableRecord) as caught:
        conversation_of(record)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [{**ANSWERED, "content": "c"}]},
        {"chosen": [ASKED, ANSWERED], "rejected": [ASKED, {**ANSWERED, "content": "c"}]},
        {"prompt": "a", "chosen": [ASKED, ANSWERED], "rejected": [ASKED, {**ANSWERED, "content": "c"}]},
    ],
)
def test_pairs(record: dict[str, Any]) -> None:
    pair = preference_of(record)
    assert (pair.prompt, pair.chosen, pair.rejected) == ((ASKED,), (ANSWERED,), ({**ANSWERED, "content": "c"},))


def test_gsm8k_itself(corpora: Path) -> None:
    found = [item.value for item in read_conversations(str(corpora / "gsm8k-test.jsonl"))]
    assert len(found) == 1319
    assert all(isinstance(value, tuple) and value[1]["content"].count("####") == 1 for value in found)
