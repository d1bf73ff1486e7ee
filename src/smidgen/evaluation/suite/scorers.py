"""Every kind of scorer by its name."""

from __future__ import annotations

from collections.abc import Mapping

from smidgen.evaluation.suite import behaviour_scorers, code_scorers, format_scorers, gsm8k_scorers, text_scorers
from smidgen.evaluation.suite.items import Category, Item
from smidgen.evaluation.suite.verdict import Reply, Scorer, Verdict

CHOICE = "choice"
"""Judged by log-likelihood: the most probable of an item's choices is the answer, nothing is generated."""

SCORERS: Mapping[str, Scorer] = {
    "exact": text_scorers.exact,
    "contains": text_scorers.contains,
    "regex": text_scorers.regex,
    "number": text_scorers.number,
    "sequence": text_scorers.sequence,
    CHOICE: text_scorers.exact,
    "markdown_list": format_scorers.markdown_list,
    "markdown_table": format_scorers.markdown_table,
    "json": format_scorers.json_object,
    "constraints": format_scorers.constraints,
    "python": code_scorers.python,
    "gsm8k_form": gsm8k_scorers.gsm8k_form,
    "gsm8k_answer": gsm8k_scorers.gsm8k_answer,
    "recall": behaviour_scorers.recall,
    "stopping": behaviour_scorers.stopping,
    "repetition": behaviour_scorers.repetition,
}


def judge(category: Category, item: Item, reply: Reply) -> Verdict:
    """The verdict of the category's scorer on an answer to the item."""
    return SCORERS[category.scorer](reply, item.expect)
