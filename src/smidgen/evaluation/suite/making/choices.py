"""Questions with five answers to choose from, judged by which one the model finds most probable.

The right one has each place equally often.
"""

from __future__ import annotations

from smidgen.evaluation.suite.making.drafts import Draft

_SCIENCE = """Which planet is closest to the Sun?|Mercury|Venus|Earth|Mars|Jupiter
Which gas do plants take in from the air?|carbon dioxide|helium|neon|argon|hydrogen
What is frozen water called?|ice|steam|sand|salt|glass
Which organ pumps blood through the body?|the heart|the liver|the skin|the stomach|the brain
What pulls things down to the ground?|gravity|music|colour|heat|sound
Which of these is a mammal?|a whale|a shark|a trout|a frog|a crow
What do bees make?|honey|olive oil|wool|silk|paper
Which star is nearest to the Earth?|the Sun|Sirius|Vega|Polaris|Rigel
What does a thermometer measure?|temperature|weight|length|speed|the time of day
What is the hardest of these?|diamond|soft butter|chalk|wax|paper
Which of these gives light of its own?|the Sun|the Moon|a mirror|a stone|a cloud
What do we breathe in to live?|oxygen|gold|water|smoke|sand
Which part of a plant takes up water?|the root|the flower|the fruit|the seed|the thorn
Which animal lays eggs?|a hen|a cow|a horse|a dog|a cat
How long does the Earth take to go round the Sun?|one year|one day|one week|one hour|one minute
What is at the centre of the solar system?|the Sun|the Earth|the Moon|Mars|Saturn
Which of these does a magnet attract?|iron|wood|glass|rubber|paper
What does water become when it boils?|steam|ice|snow|oil|sand
Which sense do the eyes give us?|sight|smell|taste|touch|hearing
Which of these is a reptile?|a snake|a dog|a sparrow|a bee|a salmon"""

_EVERYDAY = """To cut paper, you use|scissors|a pillow|a spoon|a towel|a lamp
When it rains, people carry|an umbrella|a ladder|a piano|a candle|a broom
To see in a dark room, you switch on|a light|a fan|a tap|a radio|an oven
To wash your hands, you need water and|soap|bread|sand|ink|glue
A letter that you want to send needs|a stamp|a wheel|a button|a spoon|a nail
You keep milk cold in|a refrigerator|an oven|a wardrobe|a bucket of sand|a drawer
To open a locked door, you need|a key|a cup|a sock|a leaf|a coin
To tell the time, people look at|a clock|a chair|a shoe|a plate|a brick
When you are thirsty, you|drink water|comb your hair|read a map|close a window|sing a song
When you are tired at night, you|go to sleep|plant a tree|buy a car|paint a wall|climb a hill
To dry yourself after a bath, you use|a towel|a fork|a hammer|a book|a bottle
To put a nail into wood, you use|a hammer|a feather|a sponge|a scarf|a cushion
Soup is eaten with|a spoon|a pencil|a comb|a rope|a brush
Before crossing a street, you should|look both ways|close your eyes|take off your shoes|write a letter|count your coins
If a glass falls on a stone floor, it will probably|break|sing|grow|melt|fly
To buy bread, you go to|a bakery|a library|a cinema|a harbour|a museum
In winter, to keep your hands warm, you wear|gloves|sandals|a belt|glasses|a necklace
To borrow books, you go to|a library|a bakery|a garage|a stable|a swimming pool
A plant that gets no water will|dry out|run away|turn to gold|start to bark|become heavy
To brush your teeth, you use|a toothbrush|a saw|a shovel|a pan|a kite"""

_REFLEXIVE = (
    ("herself", ("Anna hurt", "My mother cooked a meal for", "The queen looked at")),
    ("himself", ("My brother blamed", "The king praised", "The boy washed")),
    ("themselves", ("The children dressed", "Our neighbours bought a house for", "The players prepared")),
    ("myself", ("I saw", "I bought a coat for", "I taught")),
    ("ourselves", ("We enjoyed", "We asked", "We made a cake for")),
    ("itself", ("The cat licked", "The machine switches off by", "The dog scratched")),
    ("yourself", ("You, my friend, should look after", "You, Mia, can help", "You, Tom, hurt")),
)


def choice_drafts() -> list[Draft]:
    """Three categories by log-likelihood."""
    return [
        _choices("science_choice", "Science, five choices", _SCIENCE, "Question: {0}\nAnswer:", "{0}"),
        _choices(
            "everyday_choice", "Everyday knowledge, five choices", _EVERYDAY, "{0}", "Complete the sentence: {0} …"
        ),
        _reflexives(),
    ]


def _choices(name: str, title: str, table: str, prompt: str, question: str) -> Draft:
    draft = Draft(name, "choices", title, "choice")
    for index, row in enumerate(table.splitlines()):
        asked, right, *others = row.split("|")
        _add(draft, index, prompt.format(asked), question.format(asked), right, others)
    return draft


def _reflexives() -> Draft:
    draft = Draft("pronoun_choice", "choices", "The fitting pronoun, five choices", "choice")
    pronouns = [pronoun for pronoun, _ in _REFLEXIVE]
    for place, (right, stems) in enumerate(_REFLEXIVE):
        for number, stem in enumerate(stems):
            others = [pronouns[(place + step) % len(pronouns)] for step in range(1, 6)]
            del others[number]
            _add(draft, len(draft.items), stem, f"Complete the sentence with one word: {stem} …", right, others)
    return draft


def _add(draft: Draft, index: int, prompt: str, question: str, right: str, others: list[str]) -> None:
    choices = list(others)
    choices.insert(index % 5, right)
    draft.add(prompt, question, right, {"choices": choices, "accept": [right]})
