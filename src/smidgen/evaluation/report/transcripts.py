"""What each model answered to each question, a category folded into one line."""

from __future__ import annotations

from collections.abc import Sequence

from smidgen.evaluation.suite.asking import Answer
from smidgen.evaluation.suite.items import Category, Form
from smidgen.evaluation.suite.results import ModelResult
from smidgen.training.report.formats import escape


def transcripts(results: Sequence[ModelResult]) -> str:
    """Every category with its questions, answers and verdicts."""
    found = {
        (number, form, answer.item): answer
        for number, result in enumerate(results)
        for form in result.forms
        for answer in result.answers[form]
    }
    folded = "".join(_category(results, category, found) for category in results[0].categories)
    return (
        "<h2>Transcripts</h2>"
        '<p class="filter"><label><input type="radio" name="show" value="all" checked> all answers</label> '
        '<label><input type="radio" name="show" value="right"> with a right one</label> '
        '<label><input type="radio" name="show" value="wrong"> with a wrong one</label></p>'
        f'<div id="transcripts">{folded}</div>'
    )


def _category(results: Sequence[ModelResult], category: Category, found: dict[tuple[int, Form, str], Answer]) -> str:
    shares = []
    for number, result in enumerate(results):
        for form in result.forms:
            scores = result.scores[form, category.name]
            shares.append(f'<span class="c{number % 8}">{sum(scores)}/{len(scores)} <small>{form}</small></span>')
    blocks = "".join(_item(results, form, item.id, found) for item in category.items for form in results[0].forms)
    return (
        f'<details id="{escape(category.name)}"><summary>{escape(category.title)} '
        f'<span class="counts">{"".join(shares)}</span></summary>'
        f'<div class="inside"><p class="dim">Scorer: {escape(category.scorer)}</p>{blocks}</div></details>'
    )


def _item(results: Sequence[ModelResult], form: Form, item: str, found: dict[tuple[int, Form, str], Answer]) -> str:
    answers = [(number, found[number, form, item]) for number in range(len(results)) if (number, form, item) in found]
    first = answers[0][1]
    rows = ""
    for number, answer in answers:
        mark = '<b class="yes">✓</b>' if answer.verdict.right else '<b class="no">✗</b>'
        reason = "" if answer.verdict.right else f' <span class="dim">{escape(answer.verdict.reason)}</span>'
        text = escape(answer.text.strip("\n")) or '<span class="dim">(nothing)</span>'
        rows += (
            f'<div class="answer"><span>{mark}<i class="dot c{number % 8}"></i>{escape(results[number].name)}{reason}'
            f"</span><pre>{text}</pre></div>"
        )
    rights = [answer.verdict.right for _, answer in answers]
    kinds = f"{'has-right ' if any(rights) else ''}{'' if all(rights) else 'has-wrong'}".strip()
    return (
        f'<div class="item {kinds}"><pre class="prompt">{escape(first.prompt)}</pre>{rows}'
        f'<p class="dim reference">A right answer ({form}): <code>{escape(first.reference.strip())}</code></p></div>'
    )
