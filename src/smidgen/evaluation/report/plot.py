"""A dot for each model and group, with its interval: HTML and inline SVG that fits any width."""

from __future__ import annotations

from collections.abc import Sequence

from smidgen.evaluation.suite.items import Form
from smidgen.evaluation.suite.results import ModelResult, groups_of
from smidgen.training.report.formats import escape

_ROW, _STEP = 14, 13


def legend(results: Sequence[ModelResult]) -> str:
    """Which colour is which model."""
    keys = "".join(
        f'<span><i class="dot c{number % 8}"></i>{escape(result.name)}</span>' for number, result in enumerate(results)
    )
    return f'<div class="legend">{keys}</div>'


def group_plot(results: Sequence[ModelResult], form: Form, title: str) -> str:
    """A row a group, the share of right answers from left to right, a dot with its 95 % interval a model."""
    groups = groups_of(results[0].categories)
    shown = [(number, result) for number, result in enumerate(results) if form in result.forms]
    groups = {**groups, "all": [name for names in groups.values() for name in names]}
    height = _ROW + _STEP * len(shown)
    # Where all scores are low, a part of the scale shows them apart.
    highest = 100 * max(result.share(form, names).high for _, result in shown for names in groups.values())
    limit = next(value for value in (20, 40, 60, 100) if highest <= value)
    rows = "".join(_row(name, names, shown, form, height, limit) for name, names in groups.items())
    scale = "".join(f'<span style="left:{25 * part}%">{limit * part // 4} %</span>' for part in range(5))
    return (
        f'<figure class="chart dots-chart"><figcaption>{escape(title)} <span class="unit">right answers, 95 % interval'
        f'</span></figcaption><div class="rows">{rows}<div class="row axis"><b></b><div class="scale">{scale}</div>'
        "</div></div></figure>"
    )


def _row(
    name: str, names: Sequence[str], shown: Sequence[tuple[int, ModelResult]], form: Form, height: int, limit: int
) -> str:
    lines = "".join(f'<line class="tick" x1="{x}%" x2="{x}%" y1="0" y2="{height}"/>' for x in (0, 25, 50, 75, 100))
    scale = 100 * 100 / limit
    for place, (number, result) in enumerate(shown):
        found = result.share(form, names)
        y = _ROW / 2 + _STEP * (place + 0.5)
        text = f"{result.name}: {100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"
        lines += (
            f'<g class="c{number % 8}"><title>{escape(text)}</title>'
            f'<line class="interval" x1="{scale * found.low:.2f}%" x2="{scale * found.high:.2f}%" y1="{y}" y2="{y}"/>'
            f'<circle cx="{scale * found.value:.2f}%" cy="{y}" r="5"/></g>'
        )
    total = " total" if name == "all" else ""
    return f'<div class="row{total}"><b>{escape(name)}</b><svg height="{height}" role="img">{lines}</svg></div>'
