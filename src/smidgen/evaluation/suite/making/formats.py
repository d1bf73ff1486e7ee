"""Markdown, JSON, dates: the form is asked for with content that differs from item to item."""

from __future__ import annotations

import json

from smidgen.data.storyworld.dice import Dice
from smidgen.evaluation.suite.making.drafts import Draft

_ITEMS = 22
THINGS = """apple bread chair drum egg flag glove hammer ink jar kite lamp mug nut orange pencil quilt rope spoon
towel umbrella vase whistle yarn""".split()
_NAMES = "Mia Tom Lena Ben Nora Max Ida Paul Ella Jan Zoe Luke".split()
_TITLES = """Summer Plans;My Garden;A Short History;Bread and Butter;The Old Mill;First Steps;How It Works;
Open Questions; Green Tea;Winter Birds;Two Rivers;Night Train;Simple Soups;Paper Boats;Far Islands;Home Again;
City Walks;Small Engines; Clear Water;Long Roads;Quiet Hours;New Friends"""
_MONTHS = "January February March April May June July August September October November December".split()


def format_drafts() -> list[Draft]:
    """Lists, tables, headings, JSON and dates."""
    return [
        _lists("bullet_lists", "Bullet lists in Markdown", "a bullet list", "bullet"),
        _lists("numbered_lists", "Numbered lists in Markdown", "a numbered list", "numbered"),
        _lists(
            "bold_lists", "Bullet lists of bold entries", "a bullet list with every entry in bold", "bullet", bold=True
        ),
        _tables(),
        _headings(),
        _json_objects(),
        _dates(),
    ]


def things(name: str, index: int, count: int) -> list[str]:
    """Different things for an item of a category."""
    return Dice("suite", name, index).sample(THINGS, count)


def enumerated(items: list[str]) -> str:
    """`a, b and c`."""
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _lists(name: str, title: str, asked: str, kind: str, bold: bool = False) -> Draft:
    draft = Draft(name, "formats", title, "markdown_list", ("\n\n",), 64)
    for index in range(_ITEMS):
        items = things(name, index, 3 + index % 2)
        entries = [f"**{item}**" if bold else item for item in items]
        marks = [f"{number}." if kind == "numbered" else "-" for number in range(1, len(items) + 1)]
        lines = [f"{mark} {entry}" for mark, entry in zip(marks, entries, strict=True)]
        opened = marks[0]
        text = "\n".join(lines)
        described = {"a bullet list": "list"}.get(asked, asked.removeprefix("a "))
        base = f"Write a {described} of {enumerated(items)}.\n\n{opened}"
        expect = {"kind": kind, "items": items, "opened": opened, **({"bold": True} if bold else {})}
        draft.add(
            base,
            f"Write {asked} in Markdown of {enumerated(items)}, nothing else.",
            text.removeprefix(f"{opened} "),
            expect,
            text,
        )
    return draft


def _tables() -> Draft:
    draft = Draft("markdown_tables", "formats", "Tables in Markdown", "markdown_table", ("\n\n",), 80, "\n")
    for index in range(_ITEMS):
        owned = things(draft.name, index, 2 + index % 2)
        people = [_NAMES[(index + 5 * number) % 12] for number in range(len(owned))]
        rows = [[person, thing] for person, thing in zip(people, owned, strict=True)]
        opened = "| name | thing |\n| --- | --- |"
        told = enumerated([f"{person} has the {thing}" for person, thing in rows])
        body = "\n".join(f"| {person} | {thing} |" for person, thing in rows)
        draft.add(
            f"Write a table: {told}.\n\n{opened}",
            f"Write a Markdown table with the columns name and thing, nothing else: {told}.",
            body,
            {"header": ["name", "thing"], "rows": rows, "opened": opened},
            f"{opened}\n{body}",
        )
    return draft


def _headings() -> Draft:
    draft = Draft("headings", "formats", "Headings in Markdown", "regex")
    for index, title in enumerate(" ".join(_TITLES.split("\n")).split(";")):
        title, level = title.strip(), 1 + index % 4
        heading = f"{'#' * level} {title}"
        draft.add(
            f"Markdown heading of level 1, My Day: # My Day\nMarkdown heading of level {level}, {title}:",
            f"Write the title {title} as a Markdown heading of level {level}, nothing else.",
            heading,
            {"pattern": rf"{'#' * level} +{title}(?: +#+)?", "form": heading},
        )
    return draft


def _json_objects() -> Draft:
    draft = Draft("json_objects", "formats", "JSON objects", "json", ("\n",), 48)
    for index in range(_ITEMS):
        dice = Dice("suite", draft.name, index)
        fields: dict[str, object] = {"name": _NAMES[index % 12], "age": dice.between(5, 80)}
        if index % 2:
            fields["pets"] = dice.sample(["cat", "dog", "bird", "fish", "pony"], 2)
        told = ", ".join(
            f"{key} {' and '.join(value) if isinstance(value, list) else value}" for key, value in fields.items()
        )
        keys = enumerated(list(fields))
        draft.add(
            f'name Ann, age 90 as JSON: {{"name": "Ann", "age": 90}}\n{told} as JSON:',
            f"Write a JSON object with the keys {keys}, nothing else: {told}."
            + (" The pets are an array of strings." if index % 2 else "")
            + " The age is a number.",
            json.dumps(fields),
            {"value": fields},
        )
    return draft


def _dates() -> Draft:
    draft = Draft("dates", "formats", "Dates as year-month-day", "exact")
    for index in range(_ITEMS):
        dice = Dice("suite", draft.name, index)
        day, month, year = dice.between(1, 28), dice.below(12), dice.between(1950, 2030)
        written = f"{day} {_MONTHS[month]} {year}"
        answer = f"{year}-{month + 1:02d}-{day:02d}"
        draft.add(
            f"3 February 2001 is 2001-02-03. 27 November 1999 is 1999-11-27. {written} is",
            f"Write the date {written} in the form YYYY-MM-DD, nothing else.",
            answer,
            {"accept": [answer]},
        )
    return draft
