"""The endless stream of documents, and the questions about held-out members of the world."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, count

from smidgen.data.storyworld.arithmetic import arithmetic
from smidgen.data.storyworld.chats import chats
from smidgen.data.storyworld.comparisons import comparisons
from smidgen.data.storyworld.dice import Dice
from smidgen.data.storyworld.exercise import Exercise, Message
from smidgen.data.storyworld.facts import facts
from smidgen.data.storyworld.functions import functions
from smidgen.data.storyworld.lists import lists
from smidgen.data.storyworld.patterns import patterns
from smidgen.data.storyworld.splits import Split
from smidgen.data.storyworld.stories import stories
from smidgen.data.storyworld.world import World, world_of
from smidgen.runtime.chat_template import DEFAULT_CHAT_TEMPLATE, render_chat
from smidgen.runtime.errors import DataError

_EXERCISES: Mapping[str, Callable[[Dice, World], Exercise]] = {
    "stories": stories,
    "facts": facts,
    "arithmetic": arithmetic,
    "patterns": patterns,
    "comparisons": comparisons,
    "functions": functions,
    "lists": lists,
    "chats": chats,
}

KINDS = tuple(_EXERCISES)
"""Every kind of text."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "facts": ("facts",),
    "patterns": ("patterns",),
    "formats": ("lists",),
    "reasoning": ("arithmetic", "comparisons"),
    "language": ("stories", "chats"),
    "code": ("functions",),
}
"""The kinds by what they ask for."""

DEFAULT_WEIGHTS: Mapping[str, float] = {
    "stories": 0.75,
    "facts": 3.0,
    "arithmetic": 0.5,
    "patterns": 2.0,
    "comparisons": 0.5,
    "functions": 0.5,
    "lists": 2.0,
    "chats": 0.75,
}
"""Relative numbers of documents of each kind in the corpus: more of what takes a small model longer to learn."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text of the corpus."""

    kind: str
    text: str
    """For a chat, what the default chat template makes of `messages`: encode it with `special=True`."""
    messages: tuple[Message, ...] | None = None
    """The turns of a chat; None for plain text."""


@dataclass(frozen=True, slots=True)
class Question:
    """The beginning of a document, to be continued with exactly one right answer."""

    kind: str
    prompt: str
    """For a chat, the rendered turns and the opening of the assistant's: encode it with `special=True`."""
    answer: str
    """The right continuation, without the spaces or line breaks around it."""
    stop: str | None
    """What follows the answer in a document; None where the document (the assistant's turn) ends with it."""
    messages: tuple[Message, ...] | None = None
    """The turns before the answer, where the question is a chat."""


def generate(
    seed: int, split: Split = "train", kinds: Mapping[str, float] | Sequence[str] | None = None
) -> Iterator[Document]:
    """Documents of a split without end; each is decided by seed, split and its number alone.

    `kinds`: relative numbers of documents by kind, or kinds in equal numbers; None takes DEFAULT_WEIGHTS. Raises
    DataError at once for an unknown kind or a weight that is not positive.
    """
    weights = _weights(kinds)
    return _documents(seed, split, tuple(weights), list(accumulate(weights.values())))


def questions(name: str, split: Split = "test", count: int = 100, seed: int = 0) -> list[Question]:
    """`count` different questions of a kind or, in equal parts, of a group's kinds.

    Raises DataError for an unknown name.
    """
    kinds = _kinds_of(name)
    shares = [count // len(kinds) + (index < count % len(kinds)) for index in range(len(kinds))]
    return [
        question for kind, share in zip(kinds, shares, strict=True) for question in _asked(kind, split, share, seed)
    ]


def _documents(seed: int, split: Split, kinds: tuple[str, ...], cumulative: list[float]) -> Iterator[Document]:
    world = world_of(split)
    for number in count():
        dice = Dice("document", seed, split, number)
        kind = kinds[bisect_right(cumulative, dice.fraction() * cumulative[-1])]
        exercise = _EXERCISES[kind](dice, world)
        if exercise.messages is None:
            yield Document(kind, exercise.prompt + exercise.answer + exercise.rest)
        else:
            messages = (*exercise.messages, {"role": "assistant", "content": exercise.answer})
            yield Document(kind, render_chat(DEFAULT_CHAT_TEMPLATE, messages), messages)


def _asked(kind: str, split: Split, number: int, seed: int) -> Iterator[Question]:
    world = world_of(split)
    prompts: set[str] = set()
    for attempt in count():
        if len(prompts) == number:
            return
        exercise = _EXERCISES[kind](Dice("question", kind, seed, split, attempt), world)
        prompt = exercise.prompt
        if exercise.messages is not None:
            prompt = render_chat(DEFAULT_CHAT_TEMPLATE, exercise.messages, add_generation_prompt=True)
        if prompt not in prompts:
            prompts.add(prompt)
            yield Question(kind, prompt, exercise.answer.strip(), exercise.stop, exercise.messages)


def _weights(kinds: Mapping[str, float] | Sequence[str] | None) -> Mapping[str, float]:
    if kinds is None:
        return DEFAULT_WEIGHTS
    weights = kinds if isinstance(kinds, Mapping) else dict.fromkeys(kinds, 1.0)
    for kind, weight in weights.items():
        if kind not in _EXERCISES:
            raise DataError(f"storyworld kind '{kind}' is unknown; there are {', '.join(KINDS)}")
        if not weight > 0:
            raise DataError(f"storyworld weight of '{kind}' is {weight}; use a positive number, or leave the kind out")
    if not weights:
        raise DataError(f"no storyworld kinds; name some of {', '.join(KINDS)}")
    return weights


def _kinds_of(name: str) -> tuple[str, ...]:
    """A name of both a kind and a group means the group, which holds the kind alone."""
    if name in GROUPS:
        return GROUPS[name]
    if name in _EXERCISES:
        return (name,)
    names = dict.fromkeys((*KINDS, *GROUPS))
    raise DataError(f"storyworld kind or group '{name}' is unknown; there are {', '.join(names)}")
