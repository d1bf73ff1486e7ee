"""The suite's promises: enough of it, right references, no constant answer that pays, files that their script makes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from smidgen.evaluation.suite.items import FORMS, Category, EvaluationError, Form, load_suite, select
from smidgen.evaluation.suite.making import every_draft, write_suite
from smidgen.evaluation.suite.scorers import CHOICE, SCORERS, judge
from smidgen.evaluation.suite.verdict import Reply

SUITE = load_suite()
CONSTANTS = ["", " ", "yes", "no", "0", "1", "2", "10", "A", "the", "I don't know.", "None", "{}", "[]", "#### 0"]
CONSTANTS += ["<<1+1=2>>2\n#### 2", "- apple", "| name | thing |\n| --- | --- |", "pass", "def f():\n    return 0"]
categories = pytest.mark.parametrize("category", SUITE, ids=lambda category: category.name)


def share(category: Category, form: Form, answer: str) -> float:
    """How many items of the category one and the same answer solves."""
    return sum(judge(category, item, Reply(answer, form)).right for item in category.items) / len(category.items)


def test_there_is_enough_of_everything() -> None:
    assert len(SUITE) >= 35
    assert min(len(category.items) for category in SUITE) >= 20
    assert len({category.scorer for category in SUITE}) >= 10
    assert {category.scorer for category in SUITE} == set(SCORERS)
    ids = [item.id for category in SUITE for item in category.items]
    assert len(set(ids)) == len(ids)


@categories
def test_references_are_right(category: Category) -> None:
    for form in FORMS:
        for item in category.items:
            answer = category.reference(item, form)
            verdict = judge(category, item, Reply(answer, form))
            assert verdict.right, f"{item.id} {form}: {verdict.reason}: {answer!r}"


@categories
def test_no_constant_answer_solves_more_than_a_fifth(category: Category) -> None:
    for form in FORMS:
        references = [category.reference(item, form) for item in category.items]
        frequent = Counter(references).most_common(3)
        candidates = {*CONSTANTS, *references, *(text for text, _ in frequent), max(references, key=len)}
        # Everything that is ever right, in one answer.
        candidates |= {
            " ".join(references),
            ", ".join(references),
            "\n".join(references),
            " and ".join(sorted(set(references))),
        }
        for answer in candidates:
            assert share(category, form, answer) <= 0.2, f"{form}: {answer!r}"


@categories
def test_no_reference_holds_what_ends_it(category: Category) -> None:
    """Or a model could not give it."""
    for item in category.items:
        answer = category.reference(item, "base")
        assert not any(stop in answer for stop in category.stop), item.id
        assert not item.prompt.endswith(" "), item.id
        assert item.messages[-1]["role"] == "user"


@categories
def test_questions_differ(category: Category) -> None:
    for texts in ([item.prompt for item in category.items], [str(item.messages) for item in category.items]):
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("category", [c for c in SUITE if c.scorer == CHOICE], ids=lambda category: category.name)
def test_no_way_to_choose_blindly_pays(category: Category) -> None:
    """Not the same place, not the same words, and hardly the longest or the shortest."""
    right = [item.expect["choices"].index(item.reference) for item in category.items]
    assert all(len(set(item.expect["choices"])) == 5 for item in category.items)
    assert max(Counter(right).values()) <= 0.2 * len(category.items) + 1e-9 or len(category.items) % 5
    assert max(Counter(right).values()) <= -(-len(category.items) // 5)
    for pick in (min, max):
        picked = [pick(item.expect["choices"], key=len) == item.reference for item in category.items]
        assert sum(picked) <= 0.45 * len(picked), pick.__name__


def test_data_files_are_what_their_script_writes(tmp_path: Path, repository: Path) -> None:
    write_suite(every_draft(), tmp_path)
    shipped = repository / "src/smidgen/evaluation/suite/data"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in shipped.iterdir())
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (shipped / path.name).read_bytes(), path.name


def test_categories_are_chosen_by_name_and_by_group() -> None:
    chosen = select(["capitals", "code"], 3)
    assert [category.name for category in chosen] == ["capitals", "python_functions", "python_assignments"]
    assert [len(category.items) for category in chosen] == [3, 3, 3]
    with pytest.raises(EvaluationError, match="did you mean 'capitals'"):
        select(["capital"])
