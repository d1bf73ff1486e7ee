"""The small world: its people, things, places and foods, and which of them belong to a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from smidgen.data.storyworld.dice import Dice
from smidgen.data.storyworld.splits import Split, split_of, split_of_numbers

HER_NAMES = (
    "Mia Ella Nora Lily Rosa Ida Emma Lena Ruby Tess Anna Clara Jane Lucy Vera Zoe Maya Nina Olga Polly"
).split()
HIS_NAMES = (
    "Tom Ben Leo Max Sam Otto Finn Paul Hugo Noah Emil Karl Jack Theo Adam Oscar Ivan Luke Peter Simon"
).split()
FAMILY_NAMES = (
    "Brook Hill Wood Field Stone Frost Reed Fox Finch Wolf Moss Lake Snow Berry Moon Marsh Ash Birch Hawk Swan "
    "Lamb Winter Summer Sparrow Thorn Clay Flint Rivers Crane Hazel Heath Penny Rowan Bear Dale Ford Cook Page Dove "
    "Vale"
).split()

THING_ADJECTIVES = (
    "red blue green yellow white black pink purple brown grey golden silver wooden tin paper glass tiny big round soft "
    "shiny striped painted old new heavy smooth bright dark square flat long thick thin rusty clean lucky spotted "
    "folded pretty"
).split()
THING_NOUNS = (
    "kite drum cup bell map lamp ball boat book net key hat apron flute spoon basket ring clock doll horn saw rope "
    "mirror ladder kettle pillow lantern whistle puzzle bucket blanket chair bottle coat bag hammer comb pencil violin "
    "trumpet jar plate fork pan broom shovel wagon sled tent belt boot shirt crown flag mask robot puppet globe vase "
    "stool table desk trunk wheel"
).split()

PLACE_ADJECTIVES = (
    "mossy quiet sunny windy misty dusty hidden narrow leafy stony sleepy snowy sandy empty crooked lonely muddy "
    "steep shady frozen"
).split()
PLACE_NOUNS = {
    "in": "barn garden cave forest tower mill kitchen attic cellar meadow valley library school castle market".split(),
    "by": "pond river lake well gate fountain stream fence".split(),
    "on": "hill bridge island roof path beach".split(),
}

FOOD_ADJECTIVES = "warm sweet salty fresh sour spicy cold creamy crispy plain hot baked".split()
FOOD_NOUNS = ("soup bread cake rice pie salad porridge cheese pudding noodles jam corn fish beans toast stew").split()

JOBS = (
    "baker farmer painter singer teacher sailor doctor miller weaver gardener tailor potter dancer driver writer judge"
).split()

COUNTABLES = (
    "apples shells stones beads stamps marbles acorns feathers eggs candles ribbons cards plums buttons nuts seeds"
).split()


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody of the world. The first name tells which pronoun belongs to it."""

    name: str
    is_she: bool

    @property
    def they(self) -> str:
        return "she" if self.is_she else "he"

    @property
    def their(self) -> str:
        return "her" if self.is_she else "his"

    @property
    def them(self) -> str:
        return "her" if self.is_she else "him"


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere in the world, with the preposition that its noun takes."""

    name: str
    preposition: str

    def __str__(self) -> str:
        return f"{self.preposition} the {self.name}"


@dataclass(frozen=True)
class World:
    """The entities of one split."""

    split: Split
    names: tuple[Person, ...]
    things: tuple[str, ...]
    places: tuple[Place, ...]
    foods: tuple[str, ...]

    def people(self, dice: Dice, count: int) -> list[Person]:
        """People of whom no two share a first name or a family name."""
        people: list[Person] = []
        while len(people) < count:
            person = dice.choice(self.names)
            if all(set(person.name.split()).isdisjoint(other.name.split()) for other in people):
                people.append(person)
        return people

    def things_of(self, dice: Dice, count: int) -> list[str]:
        """Things of which no two share a word."""
        return _apart(dice, self.things, count)

    def foods_of(self, dice: Dice, count: int) -> list[str]:
        """Foods of which no two share a word."""
        return _apart(dice, self.foods, count)

    def places_of(self, dice: Dice, count: int) -> list[Place]:
        """Places of which no two share an adjective or a noun."""
        places: list[Place] = []
        while len(places) < count:
            place = dice.choice(self.places)
            if all(set(place.name.split()).isdisjoint(other.name.split()) for other in places):
                places.append(place)
        return places

    def operands(self, dice: Dice, draw: Callable[[Dice], tuple[int, ...]]) -> tuple[int, ...]:
        """The first draw whose numbers, taken in pairs, all belong to this split."""
        while True:
            numbers = draw(dice)
            if self.owns_pairs(numbers):
                return numbers

    def owns_pairs(self, numbers: tuple[int, ...]) -> bool:
        """Whether each pair of these numbers belongs to this split."""
        return all(
            split_of_numbers(first, second) == self.split
            for index, first in enumerate(numbers)
            for second in numbers[index + 1 :]
        )


@cache
def world_of(split: Split) -> World:
    """The people, things, places and foods of a split."""
    names = [
        Person(f"{first} {family}", first in HER_NAMES)
        for first in HER_NAMES + HIS_NAMES
        for family in FAMILY_NAMES
        if split_of("name", first, family) == split
    ]
    places = [
        Place(f"{adjective} {noun}", preposition)
        for preposition, nouns in PLACE_NOUNS.items()
        for noun in nouns
        for adjective in PLACE_ADJECTIVES
        if split_of("place", adjective, noun) == split
    ]
    return World(
        split,
        tuple(names),
        _combinations("thing", THING_ADJECTIVES, THING_NOUNS, split),
        tuple(places),
        _combinations("food", FOOD_ADJECTIVES, FOOD_NOUNS, split),
    )


def _combinations(kind: str, adjectives: list[str], nouns: list[str], split: Split) -> tuple[str, ...]:
    return tuple(
        f"{adjective} {noun}" for adjective in adjectives for noun in nouns if split_of(kind, adjective, noun) == split
    )


def _apart(dice: Dice, phrases: tuple[str, ...], count: int) -> list[str]:
    apart: list[str] = []
    while len(apart) < count:
        phrase = dice.choice(phrases)
        if all(set(phrase.split()).isdisjoint(other.split()) for other in apart):
            apart.append(phrase)
    return apart


def with_article(noun_phrase: str) -> str:
    """The phrase after a or an."""
    return f"{'an' if noun_phrase[0] in 'aeiou' else 'a'} {noun_phrase}"


def enumeration(parts: list[str]) -> str:
    """The parts as English lists them: a, b and c."""
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def sentence(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[0].upper() + text[1:]
