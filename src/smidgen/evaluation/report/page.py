"""The page: one HTML file that needs nothing else and may ask for nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import smidgen
from smidgen.evaluation.report.plot import group_plot, legend
from smidgen.evaluation.report.transcripts import transcripts
from smidgen.evaluation.suite.items import Form
from smidgen.evaluation.suite.results import ModelResult, difference, groups_of
from smidgen.runtime.files import write_text
from smidgen.training.report.formats import count, escape

FORM_TITLES: dict[Form, str] = {"base": "Texts to continue", "chat": "Chats"}


def write_report(results: Sequence[ModelResult], path: str | Path) -> None:
    """Write the page on one model or several, which answered the same questions, to a file."""
    write_text(Path(path), render_report(results))


def render_report(results: Sequence[ModelResult]) -> str:
    """The page as HTML. Only its own script may run, known by its hash; what models wrote is text, whatever it says."""
    style = (resources.files("smidgen.training.report") / "page.css").read_text(encoding="utf-8")
    style += _resource("evaluation.css")
    script = _resource("evaluation.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    names = ", ".join(result.name for result in results)
    parts = [_header(results), _tiles(results), _losses(results)]
    if results[0].answers:
        parts += [_plots(results), _differences(results), _table(results), transcripts(results)]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Evaluation: {escape(names)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<footer>Made by smidgen {escape(smidgen.__version__)} on {datetime.now(UTC).date().isoformat()}. "
        "Intervals hold 95 % of 2,000 resamples of the questions, each category on its own.</footer>\n</main>\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _header(results: Sequence[ModelResult]) -> str:
    first = results[0]
    title = first.name if len(results) == 1 else f"{len(results)} models side by side"
    about = ""
    if first.answers:
        items = sum(len(category.items) for category in first.categories)
        forms = " and ".join("as texts to continue" if form == "base" else "as chats" for form in first.forms)
        about = (
            f'<p class="dim">{items:,} questions in {len(first.categories)} categories, {forms}; greedy answers.</p>'
        )
    return f"<header><h1>Evaluation: {escape(title)}</h1>{about}</header>"


def _tiles(results: Sequence[ModelResult]) -> str:
    tiles = []
    for number, result in enumerate(results):
        figures = [f"<span>{count(result.parameters)} parameters</span>"]
        for form in result.forms:
            share = result.share(form, [category.name for category in result.categories])
            figures.append(
                f'<span class="figure"><b>{100 * share.value:.1f} %</b> {escape(FORM_TITLES[form].lower())} '
                f'<i class="dim">{100 * share.low:.1f} to {100 * share.high:.1f}</i></span>'
            )
        key = f'<i class="dot c{number % 8}"></i>'
        tiles.append(f'<div class="tile model"><strong>{key}{escape(result.name)}</strong>{"".join(figures)}</div>')
    return f'<div class="models">{"".join(tiles)}</div>'


def _losses(results: Sequence[ModelResult]) -> str:
    read = [result for result in results if result.loss is not None]
    if not read:
        return ""
    rows = []
    for result in read:
        loss = result.loss
        assert loss is not None
        low, high = loss["interval"]
        bits = "" if loss["bits_per_byte"] is None else f"{loss['bits_per_byte']:.4f}"
        cells = (
            f"{loss['loss']:.4f}",
            f"{low:.4f} to {high:.4f}",
            f"{loss['perplexity']:.2f}",
            bits,
            f"{loss['tokens']:,}",
        )
        rows.append(f"<tr><th>{escape(result.name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{title}</th>" for title in ("", "loss", "95 %", "perplexity", "bits per byte", "tokens"))
    return (
        f'<h2>Loss</h2><div class="card scroll"><table class="runs"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _plots(results: Sequence[ModelResult]) -> str:
    forms = results[0].forms
    figures = "".join(group_plot(results, form, FORM_TITLES[form]) for form in forms)
    return f'<h2>Right answers by group</h2>{legend(results)}<div class="charts plots{len(forms)}">{figures}</div>'


def _differences(results: Sequence[ModelResult]) -> str:
    first, *others = results
    every = [category.name for category in first.categories]
    lines = []
    for other in others:
        for form in first.forms:
            if form not in other.forms:
                continue
            found = difference(first, other, form, every)
            word = "better" if found.low > 0 else "worse" if found.high < 0 else "no clear difference"
            lines.append(
                f"<li><b>{escape(other.name)}</b> against {escape(first.name)}, {FORM_TITLES[form].lower()}: "
                f"<b>{100 * found.value:+.1f} points</b> "
                f'<span class="dim">({100 * found.low:+.1f} to {100 * found.high:+.1f}): {word}</span></li>'
            )
    if not lines:
        return ""
    return f'<h2>Differences, question by question</h2><ul class="card differences">{"".join(lines)}</ul>'


def _table(results: Sequence[ModelResult]) -> str:
    """Every category: a bar and a number a model and form."""
    columns = [(number, result, form) for number, result in enumerate(results) for form in result.forms]
    heads = "".join(
        f'<th><i class="dot c{number % 8}"></i>{escape(result.name)} <span class="unit">{form}</span></th>'
        for number, result, form in columns
    )
    described = {category.name: category for category in results[0].categories}
    body = ""
    for group, names in groups_of(results[0].categories).items():
        body += f'<tr class="group"><th>{escape(group)}</th>'
        body += "".join(f"<td>{_bar(number, result.share(form, names).value)}</td>" for number, result, form in columns)
        body += "</tr>"
        for name in names:
            title = escape(described[name].title)
            items = f'<span class="unit">{len(described[name].items)}</span>'
            body += f'<tr><th><a href="#{escape(name)}">{title}</a> {items}</th>'
            body += "".join(
                f"<td>{_bar(number, result.share(form, [name]).value)}</td>" for number, result, form in columns
            )
            body += "</tr>"
    return (
        '<h2>Every category</h2><div class="card scroll"><table class="scores"><thead><tr><th>category</th>'
        f"{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _bar(colour: int, share: float) -> str:
    return (
        f'<span class="bar c{colour % 8}"><i style="width:{100 * share:.1f}%"></i></span>'
        f'<span class="share">{100 * share:.0f} %</span>'
    )


def _resource(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
