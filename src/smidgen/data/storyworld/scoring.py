"""Whether a completion answers a question: exactly, or not at all."""

from __future__ import annotations

from smidgen.data.storyworld.corpus import Question

RESULT_MARK = "####"
"""GSM8K's sign in front of a solution's result."""


def score(question: Question, completion: str) -> bool:
    """Whether the text up to the question's stop string is the answer, spaces and line breaks around it aside.

    A solution in GSM8K's form is judged by its result alone, the text behind its last `####`, as GSM8K does.
    """
    given = completion if question.stop is None else completion.lstrip().partition(question.stop)[0]
    expected = question.answer
    if RESULT_MARK in expected:
        given, expected = _result(given), _result(expected)
    return given.strip() == expected


def _result(solution: str) -> str:
    _, mark, result = solution.rpartition(RESULT_MARK)
    return result.strip() if mark else ""
