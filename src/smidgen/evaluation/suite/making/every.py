"""Every category, in the order in which results show them."""

from __future__ import annotations

from smidgen.evaluation.suite.making.arithmetic import arithmetic_drafts
from smidgen.evaluation.suite.making.choices import choice_drafts
from smidgen.evaluation.suite.making.code import code_drafts
from smidgen.evaluation.suite.making.comparisons import comparison_drafts
from smidgen.evaluation.suite.making.conversations import conversation_drafts
from smidgen.evaluation.suite.making.drafts import Draft
from smidgen.evaluation.suite.making.facts import fact_drafts
from smidgen.evaluation.suite.making.formats import format_drafts
from smidgen.evaluation.suite.making.instructions import instruction_drafts
from smidgen.evaluation.suite.making.language import language_drafts
from smidgen.evaluation.suite.making.patterns import pattern_drafts
from smidgen.evaluation.suite.text_scorers import holds


def every_draft() -> list[Draft]:
    """All categories; the same ones every time."""
    drafts = [
        *fact_drafts(),
        *language_drafts(),
        *choice_drafts(),
        *arithmetic_drafts(),
        *pattern_drafts(),
        *comparison_drafts(),
        *code_drafts(),
        *format_drafts(),
        *instruction_drafts(),
        *conversation_drafts(),
    ]
    for draft in drafts:
        if draft.scorer == "contains":
            _add_rivals(draft)
    return drafts


def _add_rivals(draft: Draft) -> None:
    """Tell each item the answers to the category's other questions, those that stand in its own question aside.

    A text that names every capital answers no question.
    """
    others = {answer for item in draft.items for answer in item["expect"]["accept"]}
    for item in draft.items:
        asked, own = item["messages"][-1]["content"], item["expect"]["accept"]
        item["expect"]["rivals"] = sorted(
            answer
            for answer in others
            if not holds(asked, answer) and not any(holds(mine, answer) or holds(answer, mine) for mine in own)
        )
