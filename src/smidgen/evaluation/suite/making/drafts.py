"""A category on its way to its file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Chat = str | Sequence[tuple[str, str]]
"""The chat form: the user's only turn, or turns as (role, content)."""


@dataclass
class Draft:
    """A category's description and its items."""

    name: str
    group: str
    title: str
    scorer: str
    stop: tuple[str, ...] = ("\n",)
    max_new_tokens: int = 24
    lead: str = " "
    items: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        prompt: str,
        chat: Chat,
        reference: str,
        expect: Mapping[str, Any],
        chat_reference: str | None = None,
    ) -> None:
        """One more item."""
        assert prompt == prompt.rstrip(" "), prompt
        turns = [("user", chat)] if isinstance(chat, str) else chat
        item = {
            "id": f"{self.name}-{len(self.items) + 1:02d}",
            "prompt": prompt,
            "messages": [{"role": role, "content": content} for role, content in turns],
            "reference": reference,
        }
        if chat_reference is not None:
            item["chat_reference"] = chat_reference
        self.items.append({**item, "expect": dict(expect)})


def write_suite(drafts: Sequence[Draft], folder: Path) -> None:
    """`categories.yaml` and a JSONL file a category; files of categories that are no more are removed."""
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    described = {}
    for draft in drafts:
        described[draft.name] = {
            "group": draft.group,
            "title": draft.title,
            "scorer": draft.scorer,
            "stop": list(draft.stop),
            "max_new_tokens": draft.max_new_tokens,
            "lead": draft.lead,
        }
        lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in draft.items)
        (folder / f"{draft.name}.jsonl").write_text("".join(lines), encoding="utf-8")
    for path in folder.glob("*.jsonl"):
        if path.stem not in described:
            path.unlink()
    text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=120)
    (folder / "categories.yaml").write_text(text, encoding="utf-8")
