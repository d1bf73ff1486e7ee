"""What came of asking: shares of right answers by category and group, for one model or several, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from smidgen.evaluation.bootstrap import Estimate, estimate
from smidgen.evaluation.suite.asking import Answer
from smidgen.evaluation.suite.items import FORMS, Category, Form


@dataclass(frozen=True)
class ModelResult:
    """Everything that was found about one model."""

    name: str
    parameters: int
    categories: Sequence[Category] = ()
    answers: Mapping[Form, Sequence[Answer]] = field(default_factory=dict)
    """In the order of the categories' items, for each form that was asked."""
    loss: Mapping[str, Any] | None = None
    """Figures of perplexity, where a text or dataset was read."""

    @cached_property
    def scores(self) -> dict[tuple[Form, str], list[int]]:
        """For each form and category, a 1 for every right answer and a 0 for every other, in the items' order."""
        found: dict[tuple[Form, str], list[int]] = {}
        for form, answers in self.answers.items():
            for answer in answers:
                found.setdefault((form, answer.category), []).append(int(answer.verdict.right))
        return found

    @property
    def forms(self) -> list[Form]:
        return [form for form in FORMS if form in self.answers]

    def share(self, form: Form, names: Sequence[str]) -> Estimate:
        """The mean share of right answers over categories."""
        return estimate([self.scores[form, name] for name in names])


def groups_of(categories: Sequence[Category]) -> dict[str, list[str]]:
    """The names of each group's categories."""
    groups: dict[str, list[str]] = {}
    for category in categories:
        groups.setdefault(category.group, []).append(category.name)
    return groups


def difference(first: ModelResult, other: ModelResult, form: Form, names: Sequence[str]) -> Estimate:
    """How much larger the share of `other` is, item by item: both answered the same questions."""
    pairs = [(first.scores[form, name], other.scores[form, name]) for name in names]
    return estimate([[b - a for a, b in zip(own, theirs, strict=True)] for own, theirs in pairs])


def score_rows(results: Sequence[ModelResult], details: bool = True) -> tuple[list[str], list[list[str]]]:
    """A table's heading and rows: groups, their categories, and all together; a column for each model and form."""
    columns = [(result, form) for result in results for form in result.forms]
    several = len({form for _, form in columns}) > 1
    header = ["category", "items"]
    header += [f"{result.name} ({form})" if several else result.name for result, form in columns]
    categories = results[0].categories
    counts = {category.name: len(category.items) for category in categories}
    rows = []
    for group, names in groups_of(categories).items():
        rows.append([group.upper(), str(sum(counts[name] for name in names)), *_cells(columns, names, True)])
        if details:
            rows += [[f"  {name}", str(counts[name]), *_cells(columns, [name], False)] for name in names]
    every = list(counts)
    rows.append(["ALL", str(sum(counts.values())), *_cells(columns, every, True)])
    return header, rows


def difference_lines(results: Sequence[ModelResult]) -> list[str]:
    """A sentence for each further model: how it differs from the first."""
    lines = []
    first = results[0]
    every = [category.name for category in first.categories]
    for other in results[1:]:
        for form in first.forms:
            if form in other.forms:
                found = difference(first, other, form, every)
                verdict = "more" if found.low > 0 else "less" if found.high < 0 else "no clear difference"
                lines.append(
                    f"{other.name} against {first.name} ({form}): {100 * found.value:+.1f} points "
                    f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}], {verdict}"
                )
    return lines


def as_json(results: Sequence[ModelResult]) -> dict[str, Any]:
    """Every figure as plain data, shares between 0 and 1 with their 95 % intervals."""
    models = []
    for result in results:
        entry: dict[str, Any] = {"model": result.name, "parameters": result.parameters}
        if result.loss is not None:
            entry.update(result.loss)
        if result.answers:
            entry["suite"] = {form: _form_json(result, form) for form in result.forms}
        models.append(entry)
    first, *others = results
    names = [category.name for category in first.categories]
    differences = [
        {"model": other.name, "against": first.name, "form": form, **difference(first, other, form, names).as_json()}
        for other in others
        for form in first.forms
        if form in other.forms
    ]
    return {"models": models, "differences": differences}


def _form_json(result: ModelResult, form: Form) -> dict[str, Any]:
    names = [category.name for category in result.categories]
    return {
        "all": result.share(form, names).as_json(),
        "groups": {group: result.share(form, own).as_json() for group, own in groups_of(result.categories).items()},
        "categories": {
            category.name: {
                "items": len(category.items),
                "scorer": category.scorer,
                **result.share(form, [category.name]).as_json(),
            }
            for category in result.categories
        },
    }


def _cells(columns: Sequence[tuple[ModelResult, Form]], names: Sequence[str], interval: bool) -> list[str]:
    cells = []
    for result, form in columns:
        found = result.share(form, names)
        text = f"{100 * found.value:.1f}"
        cells.append(f"{text} [{100 * found.low:.1f}, {100 * found.high:.1f}]" if interval else text)
    return cells
