"""Words: opposites, forms, analogies, spelling."""

from __future__ import annotations

from smidgen.evaluation.suite.making.drafts import Draft
from smidgen.evaluation.suite.making.facts import rows_of

_TABLES = (
    (
        "opposites",
        "Opposites",
        "The opposite of {0} is",
        "What is the opposite of {0}? Answer with one word.",
        """hot=cold|cool; big=small|little; up=down; day=night; wet=dry; happy=sad|unhappy; open=closed|shut|close;
        fast=slow; old=young|new; light=dark|heavy; full=empty; left=right; early=late; hard=soft|easy; rich=poor;
        strong=weak; long=short; clean=dirty; near=far; true=false; first=last; inside=outside; loud=quiet|silent;
        push=pull; summer=winter; north=south""",
    ),
    (
        "plurals",
        "Irregular plurals",
        "One {0}, two",
        "What is the plural of {0}? Answer with one word.",
        """child=children; foot=feet; tooth=teeth; mouse=mice; goose=geese; man=men; woman=women; ox=oxen; leaf=leaves;
        knife=knives; wolf=wolves; loaf=loaves; half=halves; wife=wives; shelf=shelves; thief=thieves; life=lives;
        calf=calves; city=cities; berry=berries; box=boxes; fox=foxes; church=churches; potato=potatoes""",
    ),
    (
        "past_tense",
        "Irregular past tenses",
        "Today I {0}. Yesterday I",
        "What is the past tense of '{0}'? Answer with one word.",
        """go=went; see=saw; eat=ate; run=ran; come=came; give=gave; take=took; write=wrote; sing=sang; swim=swam;
        drink=drank; drive=drove; speak=spoke; sleep=slept; think=thought; buy=bought; bring=brought; catch=caught;
        teach=taught; find=found; sit=sat; stand=stood; begin=began; fly=flew""",
    ),
    (
        "comparatives",
        "Comparatives",
        "The first one is {0}, but the second one is even",
        "What is the comparative of '{0}'? Answer with one word or two.",
        """good=better; bad=worse; big=bigger; small=smaller; tall=taller; happy=happier; easy=easier; heavy=heavier;
        thin=thinner; hot=hotter; late=later; fine=finer; strong=stronger; busy=busier; wide=wider; sad=sadder;
        beautiful=more beautiful; careful=more careful; cheap=cheaper; funny=funnier; dry=drier|dryer; wet=wetter""",
    ),
)

_ANALOGIES = """dog puppy cat=kitten; day night hot=cold; bird nest bee=hive; hand glove foot=sock|shoe;
king queen prince=princess; brother sister father=mother; ear hear eye=see; fish water bird=air|sky;
Paris France Rome=Italy; tree forest flower=garden|meadow; author book painter=picture|painting;
car road train=track|rails|railway; teacher school doctor=hospital|clinic; one two three=four; cow milk hen=egg|eggs;
winter cold summer=hot|warm; boy girl uncle=aunt; sheep lamb horse=foal; knife cut pen=write;
captain ship pilot=plane|aeroplane|airplane|aircraft; big bigger fast=faster; go went see=saw"""

_ODD = """apple banana pear|hammer; dog cat horse|table; red blue green|Monday; car bus train|carrot;
chair table bed|tiger; Monday Tuesday Friday|orange; piano violin flute|spoon; rose tulip daisy|bread;
five eight nine|lamp; shirt trousers coat|river; milk water juice|stone; nose ear mouth|window;
Spain Italy France|kitten; hammer saw drill|cheese; eagle sparrow owl|shoe; gold silver iron|music;
square circle triangle|butter; brother sister uncle|pencil; knife fork spoon|cloud; snow rain hail|sofa;
football tennis hockey|candle; oak pine birch|pocket"""

_WORDS = """cat tree house garden morning elephant chocolate go dog lamp river window blanket mountain butterfly
strawberry ox sun bird spoon carpet orchard sandwich crocodile"""


def language_drafts() -> list[Draft]:
    """Words and their forms."""
    return [*map(_table, _TABLES), _analogies(), _odd_one_out(), _spelling(), _word_length()]


def _table(entry: tuple[str, str, str, str, str]) -> Draft:
    name, title, prompt, question, table = entry
    draft = Draft(name, "language", title, "contains")
    for key, answers in rows_of(table):
        draft.add(prompt.format(key), question.format(key), answers[0], {"accept": answers})
    return draft


def _analogies() -> Draft:
    draft = Draft("analogies", "language", "Analogies", "contains")
    for words, answers in rows_of(_ANALOGIES):
        first, second, third = words.split()
        stem = f"{first} is to {second} as {third} is to"
        draft.add(stem, f"Complete with one word: {stem} …", answers[0], {"accept": answers})
    return draft


def _odd_one_out() -> Draft:
    draft = Draft("odd_one_out", "language", "The word that does not belong", "contains")
    for index, row in enumerate(" ".join(_ODD.split()).split(";")):
        alike, odd = row.strip().split("|")
        words = alike.split()
        rivals = list(words)
        words.insert(index % 4, odd)
        listed = ", ".join(words)
        draft.add(
            f"Which word does not belong: {listed}?\nAnswer:",
            f"Which word does not belong: {listed}? Answer with that word only.",
            odd,
            {"accept": [odd], "reject": rivals},
        )
    return draft


def _spelling() -> Draft:
    draft = Draft("spelling", "language", "Spelling letter by letter", "sequence", max_new_tokens=40)
    for word in _WORDS.split():
        draft.add(
            f"dog is spelled d-o-g. pan is spelled p-a-n. {word} is spelled",
            f"Spell the word {word} with a hyphen between the letters.",
            "-".join(word),
            {"sequence": list(word)},
        )
    return draft


def _word_length() -> Draft:
    draft = Draft("word_length", "language", "Number of letters in a word", "number", max_new_tokens=16)
    for word in _WORDS.split():
        draft.add(
            f"The number of letters in the word {word} is",
            f"How many letters does the word {word} have? Answer with a number.",
            str(len(word)),
            {"value": len(word)},
        )
    return draft
