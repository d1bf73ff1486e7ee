"""The suite's questions: data files of items, each a text to continue and a chat, with a reference answer.

`data/categories.yaml` describes the categories; `data/NAME.jsonl` holds a category's items, one a line. Both are
written by `smidgen.evaluation.suite.making`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

from smidgen.runtime.errors import SmidgenError

Form = Literal["base", "chat"]
"""How an item is put: as a text to continue, or as a conversation through the chat template."""
FORMS: tuple[Form, ...] = ("base", "chat")


class EvaluationError(SmidgenError):
    """A question, a category or a file of an evaluation is not what it should be."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question."""

    id: str
    prompt: str
    """The base form: a text whose continuation is the answer. It ends without a space."""
    messages: tuple[Mapping[str, str], ...]
    """The chat form: turns (`role`, `content`), the last one the user's."""
    reference: str
    """A right answer, without the space in front of it."""
    chat_reference: str
    """A right answer in the chat form: where the base form's prompt has opened the answer, all of it."""
    expect: Mapping[str, Any] = field(default_factory=dict)
    """What the category's scorer asks of an answer."""


@dataclass(frozen=True, slots=True)
class Category:
    """Items of one kind, all judged by one scorer."""

    name: str
    group: str
    title: str
    scorer: str
    """Name of the scorer, see `scorers.SCORERS`."""
    items: tuple[Item, ...]
    stop: tuple[str, ...] = ("\n",)
    """Strings that end an answer in the base form."""
    max_new_tokens: int = 32
    """Room for an answer, in tokens of a vocabulary of a thousand ids or more."""
    lead: str = " "
    """What stands between a prompt and its answer in the base form."""

    def reference(self, item: Item, form: Form) -> str:
        """The item's right answer as a model would write it behind the prompt."""
        return self.lead + item.reference if form == "base" else item.chat_reference


@lru_cache(maxsize=1)
def load_suite() -> tuple[Category, ...]:
    """Every category of the built-in suite, in the order of its description."""
    import yaml

    folder = resources.files(__package__) / "data"
    described = yaml.safe_load((folder / "categories.yaml").read_text(encoding="utf-8"))
    return tuple(
        Category(
            name=name,
            group=entry["group"],
            title=entry["title"],
            scorer=entry["scorer"],
            items=_items((folder / f"{name}.jsonl").read_text(encoding="utf-8")),
            stop=tuple(entry["stop"]),
            max_new_tokens=entry["max_new_tokens"],
            lead=entry["lead"],
        )
        for name, entry in described.items()
    )


def select(names: Sequence[str], items: int | None = None) -> tuple[Category, ...]:
    """The categories (or whole groups) of these names, all when there are none; the first `items` items of each.

    Raises EvaluationError for a name that the suite does not have, with the nearest one.
    """
    import difflib
    from dataclasses import replace

    suite = load_suite()
    known = {category.name for category in suite} | {category.group for category in suite}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "'smidgen evaluate --list' names them"
            raise EvaluationError(f"category '{name}': not in the suite; {hint}")
    chosen = [category for category in suite if not names or category.name in names or category.group in names]
    return tuple(replace(category, items=category.items[:items]) for category in chosen)


def _items(lines: str) -> tuple[Item, ...]:
    records = [json.loads(line) for line in lines.splitlines()]
    return tuple(
        Item(
            id=record["id"],
            prompt=record["prompt"],
            messages=tuple(record["messages"]),
            reference=record["reference"],
            chat_reference=record.get("chat_reference", record["reference"]),
            expect=record["expect"],
        )
        for record in records
    )
