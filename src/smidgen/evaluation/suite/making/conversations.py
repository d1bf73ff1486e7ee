"""Several turns, and how an answer ends and flows."""

from __future__ import annotations

from typing import Any

from smidgen.data.storyworld.dice import Dice
from smidgen.evaluation.suite.making.drafts import Draft
from smidgen.evaluation.suite.making.formats import THINGS, enumerated

_NAMES = """Mia Tom Lena Ben Nora Max Ida Paul Ella Jan Zoe Luke Anna Otto Rosa Finn Vera Hugo Jane Emil Lily
Adam""".split()
_PLACES = """kitchen garden cellar attic garage hall library barn tent cupboard shed boat""".split()
_FOODS = """rice soup cake honey cheese pears nuts bread plums beans grapes fish eggs melon carrots butter cherries
noodles pizza salad apples jam""".split()
_ANIMALS = """fox bear cat dog horse owl mouse wolf rabbit lion duck goat""".split()

_STORY = (
    "a great storm came over the hills. {name} hid below an old oak and waited. When the rain was gone, the {animal} "
    "found a small bird with a hurt wing, took it home, and cared for it until spring."
)


def conversation_drafts() -> list[Draft]:
    """Recall over turns, lists that grow, stopping, and texts without repetition."""
    return [_names(), _places(), _likes(), _growing_lists(), _counting(), _stories()]


def _talk(
    draft: Draft, turns: list[tuple[str, str]], answer: str, expect: dict[str, Any], chat_answer: str | None = None
) -> None:
    """An item whose base form writes the turns down as a dialogue."""
    spoken = "\n".join(f"{'User' if role == 'user' else 'Assistant'}: {content}" for role, content in turns)
    draft.add(f"{spoken}\nAssistant:", turns, answer, expect, chat_answer)


def _names() -> Draft:
    draft = Draft("recall_names", "conversation", "Remembering a name", "recall", ("\n",), 24)
    for index in range(22):
        name, other = _NAMES[index], _NAMES[(index + 9) % 22]
        own = index % 2 == 0
        question, answer = (
            ("What is my name?", f"Your name is {name}.")
            if own
            else (
                "What is my friend's name?",
                f"Your friend's name is {other}.",
            )
        )
        wanted, rival = (name, other) if own else (other, name)
        turns = [
            ("user", f"Hello! I am {name} and my friend is {other}."),
            ("assistant", "Nice to meet you both!"),
            ("user", question),
        ]
        _talk(draft, turns, answer, {"accept": [wanted], "reject": [rival]})
    return draft


def _places() -> Draft:
    draft = Draft("recall_places", "conversation", "Remembering where things are", "recall", ("\n",), 24)
    for index in range(22):
        dice = Dice("suite", draft.name, index)
        things, places = dice.sample(THINGS, 2), [_PLACES[index % 12], _PLACES[(index + 1 + index % 7) % 12]]
        wanted = index % 2
        turns = [
            ("user", f"I put the {things[0]} in the {places[0]} and the {things[1]} in the {places[1]}."),
            ("assistant", "I will remember that."),
            ("user", f"Where is the {things[wanted]}?"),
        ]
        answer = f"The {things[wanted]} is in the {places[wanted]}."
        _talk(draft, turns, answer, {"accept": [places[wanted]], "reject": [places[1 - wanted]]})
    return draft


def _likes() -> Draft:
    draft = Draft("recall_likes", "conversation", "Remembering over a turn about something else", "recall", ("\n",), 24)
    for index in range(22):
        people = (_NAMES[index], _NAMES[(index + 5) % 22])
        foods = (_FOODS[index], _FOODS[(index + 3) % 22])
        wanted = index % 2
        turns = [
            ("user", f"{people[0]} likes {foods[0]} and {people[1]} likes {foods[1]}."),
            ("assistant", "Thank you for telling me."),
            ("user", "How are you?"),
            ("assistant", "I am fine, thank you."),
            ("user", f"What does {people[wanted]} like?"),
        ]
        answer = f"{people[wanted]} likes {foods[wanted]}."
        _talk(draft, turns, answer, {"accept": [foods[wanted]], "reject": [foods[1 - wanted]]})
    return draft


def _growing_lists() -> Draft:
    draft = Draft(
        "list_updates", "conversation", "Adding to a list of an earlier turn", "markdown_list", ("\n\n", "\nUser"), 64
    )
    for index in range(22):
        *items, added = Dice("suite", draft.name, index).sample(THINGS, 3 + index % 2)
        before = "\n".join(f"- {item}" for item in items)
        turns = [
            ("user", f"Write a list of {enumerated(items)}."),
            ("assistant", before),
            ("user", f"Add the {added}."),
        ]
        _talk(draft, turns, f"{before}\n- {added}", {"kind": "bullet", "items": [*items, added]})
    return draft


def _counting() -> Draft:
    draft = Draft("stopping", "conversation", "Counting so far and no further", "stopping", ("\n",), 40)
    for index in range(22):
        first, length = 1 + index, 3 + index % 4
        words = [str(number) for number in range(first, first + length)]
        task = f"Count from {words[0]} to {words[-1]}"
        draft.add(
            f"Count from 1 to 3: 1 2 3\n{task}:",
            f"{task}. Write the numbers with spaces between them, then stop.",
            " ".join(words),
            {"sequence": words},
        )
    return draft


def _stories() -> Draft:
    draft = Draft("repetition", "conversation", "Telling on without repeating oneself", "repetition", ("\n\n",), 80)
    for index, name in enumerate(_NAMES):
        animal = _ANIMALS[index % 12]
        told = _STORY.format(name=name, animal=animal)
        draft.add(
            f"This is a story about the {animal} {name}, told in one paragraph.\n\nOne day in autumn,",
            f"Tell a short story about the {animal} {name} in one paragraph of at least thirty words.",
            told,
            {"about": name, "words": 25, "ngram": 5},
            f"One day in autumn, {told}",
        )
    return draft
