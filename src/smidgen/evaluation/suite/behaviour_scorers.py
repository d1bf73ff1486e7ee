"""Scorers of behaviour: remembering earlier turns, ending an answer, not repeating oneself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smidgen.evaluation.suite.text_scorers import first_line, holds, names, sequence, words_of
from smidgen.evaluation.suite.verdict import Reply, Verdict, check, wrong


def recall(reply: Reply, expect: Mapping[str, Any]) -> Verdict:
    """What was said in earlier turns: one of `accept`, and nothing that was said of something else (`reject`)."""
    return names(first_line(reply.text), expect["accept"], expect["reject"])


def stopping(reply: Reply, expect: Mapping[str, Any]) -> Verdict:
    """The words of `sequence` in their order and then the end, by the model's own doing."""
    if not reply.ended:
        return wrong("does not end")
    if len([line for line in reply.text.splitlines() if line.strip()]) > 1:
        return wrong("goes on after its answer")
    return sequence(reply, expect)


def repetition(reply: Reply, expect: Mapping[str, Any]) -> Verdict:
    """At least `words` words that mention `about`, no run of `ngram` words twice, half of the words different.

    Different words are counted in stretches of forty: longer texts need not have a larger vocabulary.
    """
    words = words_of(reply.text)
    if len(words) < expect["words"]:
        return wrong(f"has {len(words)} words, fewer than {expect['words']}")
    if not holds(reply.text, expect["about"]):
        return wrong(f"does not mention {expect['about']}")
    length = expect["ngram"]
    runs = [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
    if len(set(runs)) < len(runs):
        twice = next(run for run in runs if runs.count(run) > 1)
        return wrong(f"says twice: {' '.join(twice)}")
    stretches = [words[start : start + 40] for start in range(0, len(words), 40)]
    poor = any(len(set(stretch)) < len(stretch) // 2 for stretch in stretches)
    return check(not poor, "says the same words again and again")
