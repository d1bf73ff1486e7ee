"""Scorers on answers whose verdict is plain to a reader."""

from __future__ import annotations

from typing import Any

import pytest

from smidgen.evaluation.suite.scorers import SCORERS
from smidgen.evaluation.suite.verdict import Reply

FUNCTION = {
    "opened": "def add(a, b):",
    "tree": {"function": "add", "arguments": ["a", "b"]},
    "checks": ["add(2, 3) == 5"],
}
LIST = {"kind": "bullet", "items": ["apple", "pear"], "opened": "-"}
FORM = {"question": "Tom has 3 boxes with 4 pens each and 5 more."}
STORY = {"about": "Mia", "words": 8, "ngram": 3}

CASES: list[tuple[str, str, str, dict[str, Any], bool]] = [
    ("exact", "base", ' "2001-02-03".\nmore', {"accept": ["2001-02-03"]}, True),
    ("exact", "base", " RED hat", {"accept": ["RED HAT"], "case": True}, False),
    ("contains", "base", " Paris, and the capital of Italy is Rome.", {"accept": ["Paris"], "rivals": ["Rome"]}, True),
    ("contains", "base", " not far from the city of Paris", {"accept": ["Paris"]}, False),
    ("contains", "base", " Parisian", {"accept": ["Paris"]}, False),
    ("contains", "chat", "The capital of France is Paris.", {"accept": ["Paris"], "rivals": ["Rome"]}, True),
    ("contains", "chat", "It is Paris or Rome.", {"accept": ["Paris"], "rivals": ["Rome"]}, False),
    ("contains", "chat", "47 is larger than 12", {"accept": ["47"], "reject": ["12"]}, False),
    ("regex", "base", " ## My Day ", {"pattern": "## +My Day"}, True),
    ("regex", "base", " ## My Day\nand", {"pattern": "## +My Day"}, False),
    ("number", "base", " 15, 7 + 9 = 16", {"value": 15}, True),
    ("number", "chat", "7 + 8 = 15.", {"value": 15}, True),
    ("number", "chat", "The result is 1,500.", {"value": "1500"}, True),
    ("number", "base", " -3", {"value": -3}, True),
    ("number", "base", " 2.50", {"value": 2.5}, True),
    ("number", "base", " fifteen", {"value": 15}, False),
    ("sequence", "base", " 3, 5 and 9", {"sequence": ["3", "5", "9"]}, True),
    ("sequence", "base", " c-a-t.", {"sequence": ["c", "a", "t"]}, True),
    ("sequence", "base", " 3 5 9 11", {"sequence": ["3", "5", "9"]}, False),
    ("sequence", "base", " 3 5 9 11", {"sequence": ["3", "5", "9"], "more": True}, True),
    ("markdown_list", "base", " apple\n- pear", LIST, True),
    ("markdown_list", "chat", "Here it is:\n- apple\n* pear", LIST, True),
    ("markdown_list", "chat", "- pear\n- apple", LIST, False),
    ("markdown_list", "chat", "apple, pear", LIST, False),
    ("markdown_list", "chat", "1. a\n3. b", {"kind": "numbered", "items": ["a", "b"]}, False),
    ("markdown_list", "chat", "- **a**\n- b", {"kind": "bullet", "items": ["a", "b"], "bold": True}, False),
    ("markdown_table", "chat", "| a | b |\n|---|:-:|\n| 1 | 2 |", {"header": ["a", "b"], "rows": [["1", "2"]]}, True),
    ("markdown_table", "chat", "| a | b |\n| 1 | 2 |", {"header": ["a", "b"], "rows": [["1", "2"]]}, False),
    ("json", "chat", '```json\n{"a": [1, 2]}\n```', {"value": {"a": [1, 2]}}, True),
    ("json", "base", ' {"a": "1"}', {"value": {"a": 1}}, False),
    ("json", "base", " {'a': 1}", {"value": {"a": 1}}, False),
    ("json", "base", "[" * 5000, {"value": {}}, False),
    ("constraints", "chat", "The dog sleeps.", {"all": [{"kind": "word_count", "least": 3, "most": 3}]}, True),
    ("constraints", "chat", "The dog sleeps.", {"all": [{"kind": "avoids", "letter": "g"}]}, False),
    ("constraints", "chat", "One. Two.", {"all": [{"kind": "sentences", "count": 1}]}, False),
    ("constraints", "chat", "By the sea!", {"all": [{"kind": "ends", "ending": "the sea"}]}, True),
    ("constraints", "chat", "", {"all": []}, False),
    ("gsm8k_form", "base", " 3*4 = <<3*4=12>>12.\n12+5 = <<12+5=99>>99.\n#### 99", FORM, True),
    ("gsm8k_form", "base", " 3*4 = <<3*4=12>>12.", FORM, False),
    ("gsm8k_form", "base", " <<8*9=72>>72\n#### 72", FORM, False),
    ("gsm8k_form", "base", " <<3*4=12\n#### 12", FORM, False),
    ("gsm8k_form", "base", " #### 17", FORM, False),
    ("gsm8k_answer", "base", " So.\n#### 1,234", {"value": "1234"}, True),
    ("gsm8k_answer", "base", " It is 17.", {"value": 17}, False),
    ("recall", "chat", "Your name is Mia.", {"accept": ["Mia"], "reject": ["Tom"]}, True),
    ("recall", "chat", "Mia or Tom.", {"accept": ["Mia"], "reject": ["Tom"]}, False),
    ("repetition", "chat", "Once Mia went far away and found a bird.", STORY, True),
    ("repetition", "chat", "Mia ran home fast and Mia ran home fast again.", STORY, False),
    ("repetition", "chat", "Once Tom went far away and found a bird.", STORY, False),
    ("python", "base", "\n    return a + b", FUNCTION, True),
    ("python", "base", "\n    return a + c", FUNCTION, False),
    ("python", "base", "\n    return a +", FUNCTION, False),
    ("python", "chat", "Sure!\n```python\ndef add(a, b):\n    return a + b\n```\nDone.", FUNCTION, True),
    ("python", "chat", "def plus(a, b):\n    return a + b", FUNCTION, False),
    ("python", "chat", "(" * 3000, FUNCTION, False),
    ("python", "chat", "x = 7", {"tree": {"assigns": "x", "value": "7"}}, True),
    ("python", "chat", "x = 8", {"tree": {"assigns": "x", "value": "7"}}, False),
]


@pytest.mark.parametrize(("scorer", "form", "text", "expect", "right"), CASES)
def test_verdicts(scorer: str, form: Any, text: str, expect: dict[str, Any], right: bool) -> None:
    verdict = SCORERS[scorer](Reply(text, form), expect)
    assert verdict.right == right, verdict.reason
    assert right or verdict.reason


@pytest.mark.parametrize("many", ["9" * 5000, "9" * 5000 + ". a", "1/0", "\0", "<<", ""])
def test_no_answer_ends_the_evaluation(many: str) -> None:
    """Python converts no number of more than 4,300 digits; a model may write one."""
    for scorer, form, _, expect, _ in CASES:
        for text in (many, f"#### {many}", f"<<{many}=1>>\n#### 1", f"<<3*4={many}>>\n#### 12"):
            verdict = SCORERS[scorer](Reply(text, form), expect)
            assert verdict.right or verdict.reason


def test_an_answer_that_goes_on_to_the_limit_does_not_stop() -> None:
    expect = {"sequence": ["3", "4"]}
    assert SCORERS["stopping"](Reply(" 3 4", ended=True), expect).right
    assert not SCORERS["stopping"](Reply(" 3 4", ended=False), expect).right


def test_code_runs_only_where_asked() -> None:
    """A wrong body parses; only running it shows that it is wrong."""
    answer = "\n    return a - b"
    assert SCORERS["python"](Reply(answer), FUNCTION).right
    verdict = SCORERS["python"](Reply(answer, run_code=True), FUNCTION)
    assert not verdict.right
    assert "add(2, 3) == 5" in verdict.reason
    assert SCORERS["python"](Reply("\n    return a + b", run_code=True), FUNCTION).right
