"""The held-out storyworld score of anything that can continue a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from smidgen.data.storyworld import GROUPS, Question, Split, questions, score

Answer = Callable[[Sequence[Question]], Sequence[str]]
"""Gives the continuation of each question's prompt, without special tokens. What follows the answer does no harm when
it begins with the question's `stop`."""


@dataclass(frozen=True, slots=True)
class StoryworldScore:
    """Shares of questions that were answered exactly right, between 0 and 1."""

    kinds: Mapping[str, float]
    groups: Mapping[str, float]
    """A group's share is the mean over its kinds, which have equal numbers of questions."""
    questions_per_kind: int


def evaluate_storyworld(
    answer: Answer,
    *,
    split: Split = "test",
    questions_per_kind: int = 100,
    seed: int = 0,
    groups: Sequence[str] = tuple(GROUPS),
) -> StoryworldScore:
    """Ask the same questions of every model: `questions_per_kind` of each kind of `groups`, in one call of `answer`."""
    asked = {kind: questions(kind, split, questions_per_kind, seed) for group in groups for kind in GROUPS[group]}
    every = [question for of_kind in asked.values() for question in of_kind]
    completions = answer(every)
    assert len(completions) == len(every), f"{len(completions)} answers to {len(every)} questions"
    right = iter([score(question, completion) for question, completion in zip(every, completions, strict=True)])
    kinds = {kind: sum(next(right) for _ in of_kind) / len(of_kind) for kind, of_kind in asked.items()}
    return StoryworldScore(
        kinds,
        {group: sum(kinds[kind] for kind in GROUPS[group]) / len(GROUPS[group]) for group in groups},
        questions_per_kind,
    )


def score_table(scores: Mapping[str, StoryworldScore]) -> list[list[str]]:
    """Rows of a table, the first its heading: a line for each group with its kinds, a column in per cent a model.

    `scores`: what each model reached, by the name its column shall have; all on the same groups.
    """
    first = next(iter(scores.values()))
    rows = [["group", "kinds", *scores]]
    for group in first.groups:
        shares = [f"{100 * model.groups[group]:.0f} %" for model in scores.values()]
        rows.append([group, ", ".join(GROUPS[group]), *shares])
    return rows
