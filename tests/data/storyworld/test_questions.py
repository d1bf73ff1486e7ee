"""Questions: one right answer each, which is what their document says; the scorer is exact."""

from __future__ import annotations

from collections import Counter

import pytest

from smidgen.data.storyworld import GROUPS, KINDS, Question, questions, score


@pytest.mark.parametrize("kind", KINDS)
def test_reference_answers_are_right_with_whatever_follows(kind: str) -> None:
    for question in questions(kind, count=200):
        assert score(question, question.answer)
        assert score(
            question, f" {question.answer}\n" if question.stop is None else f" {question.answer}{question.stop} and on"
        )
        assert not score(question, "")
        assert not score(question, f"{question.answer[:-1]}~")


@pytest.mark.parametrize("kind", KINDS)
def test_no_constant_answers_a_fifth(kind: str) -> None:
    """Not even the most frequent answer, nor the most frequent result of the calculations."""
    asked = questions(kind, count=400)
    for constant, _ in Counter(question.answer for question in asked).most_common(3):
        assert sum(score(question, constant) for question in asked) <= 80


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_word_of_a_prompt_is_no_answer(kind: str) -> None:
    asked = questions(kind, count=200)
    last_words = [question.prompt.removesuffix(" then").split()[-1] for question in asked]
    assert sum(map(score, asked, last_words)) <= 40


def test_prompts_begin_documents() -> None:
    """Prompts neither end nor answers begin in the middle of a word, so that tokenizers cut both alike."""
    for kind in KINDS:
        for question in questions(kind, count=50):
            if question.messages is None:
                assert not question.prompt[-1].isspace()
            else:
                assert question.prompt.endswith("<|im_start|>assistant\n")
                assert question.messages[-1]["role"] == "user"


def test_groups_share_their_questions_evenly() -> None:
    asked = questions("reasoning", count=7)
    assert Counter(question.kind for question in asked) == {"arithmetic": 4, "comparisons": 3}
    assert questions("facts", count=5) == questions("facts", count=9)[:5]
    assert {question.kind for group in GROUPS for question in questions(group, count=2)} == set(KINDS)


def test_questions_differ_from_each_other_and_by_seed() -> None:
    for kind in KINDS:
        asked = questions(kind, count=300)
        assert len({question.prompt for question in asked}) == 300
        assert asked != questions(kind, count=300, seed=1)


def test_gsm8k_results_count_not_the_words_before() -> None:
    question = Question("arithmetic", "", "There are 3*4 = <<3*4=12>>12 nuts.\n#### 12", None)
    assert score(question, "3 and 3 and 3 and 3\n#### 12")
    assert not score(question, "There are 3*4 = <<3*4=12>>12 nuts.")
    assert not score(question, "#### 12\n#### 13")
    assert not score(question, "#### 112")


def test_everything_up_to_the_stop_counts() -> None:
    question = Question("facts", "", "Tom Fox likes warm soup.", "\n")
    assert score(question, "Tom Fox likes warm soup.\nAnd then?")
    assert not score(question, "Tom Fox likes warm soup. Really.")
    assert not score(question, "\nTom Fox likes warm soups.")
