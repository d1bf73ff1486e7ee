"""Facts that are certainly true: a table and two sentences each."""

from __future__ import annotations

from smidgen.evaluation.suite.making.drafts import Draft

_TABLES = (
    (
        "capitals",
        "Capitals of countries",
        "The capital of {0} is",
        "What is the capital of {0}?",
        """France=Paris; Japan=Tokyo; Italy=Rome; Spain=Madrid; Germany=Berlin; Egypt=Cairo; Russia=Moscow;
        China=Beijing; Canada=Ottawa; Australia=Canberra; Greece=Athens; Portugal=Lisbon; Norway=Oslo; Sweden=Stockholm;
        Finland=Helsinki; Denmark=Copenhagen; Poland=Warsaw; Austria=Vienna; Hungary=Budapest; Ireland=Dublin;
        Cuba=Havana; Peru=Lima; Kenya=Nairobi; Thailand=Bangkok""",
    ),
    (
        "landmarks",
        "Countries of landmarks",
        "{0} is in the country of",
        "In which country is {0}?",
        """The Eiffel Tower=France; The Colosseum=Italy; The Taj Mahal=India; The Great Sphinx=Egypt;
        The Acropolis=Greece; Machu Picchu=Peru; Mount Fuji=Japan;
        The Statue of Liberty=the United States|United States|USA|US|America; The Sydney Opera House=Australia;
        Angkor Wat=Cambodia; The ancient city of Petra=Jordan; The Brandenburg Gate=Germany; The Alhambra=Spain;
        The Moscow Kremlin=Russia; The city of Istanbul=Turkey|Türkiye; The pyramid of Chichen Itza=Mexico;
        The city of Rio de Janeiro=Brazil; Mount Kilimanjaro=Tanzania; Table Mountain=South Africa;
    The Atomium=Belgium; The city of Toronto=Canada; The Forbidden City=China; The city of Lisbon=Portugal;
    The city of Warsaw=Poland""",
    ),
    (
        "authors",
        "Authors of books",
        "{0} was written by",
        "Who wrote {0}?",
        """Hamlet=Shakespeare; Pride and Prejudice=Jane Austen|Austen; Oliver Twist=Charles Dickens|Dickens;
        War and Peace=Leo Tolstoy|Tolstoy; Don Quixote=Cervantes; The Hobbit=J. R. R. Tolkien|Tolkien;
        Moby-Dick=Herman Melville|Melville; Nineteen Eighty-Four=George Orwell|Orwell;
        Frankenstein=Mary Shelley|Shelley; Dracula=Bram Stoker|Stoker; The Divine Comedy=Dante; Faust=Goethe;
        Les Misérables=Victor Hugo|Hugo; The Metamorphosis=Franz Kafka|Kafka;
        Crime and Punishment=Dostoevsky|Dostoyevsky; Jane Eyre=Charlotte Brontë|Brontë|Bronte; The Odyssey=Homer;
        Treasure Island=Robert Louis Stevenson|Stevenson; The Time Machine=H. G. Wells|Wells;
        Around the World in Eighty Days=Jules Verne|Verne; Alice's Adventures in Wonderland=Lewis Carroll|Carroll;
        The Jungle Book=Rudyard Kipling|Kipling; Gulliver's Travels=Jonathan Swift|Swift; Robinson Crusoe=Daniel
    Defoe|Defoe""",
    ),
    (
        "elements",
        "Symbols of chemical elements",
        "The chemical symbol of {0} is",
        "What is the chemical symbol of {0}?",
        """hydrogen=H; helium=He; lithium=Li; carbon=C; nitrogen=N; oxygen=O; fluorine=F; neon=Ne; sodium=Na;
        magnesium=Mg; aluminium=Al; silicon=Si; phosphorus=P; sulphur=S; chlorine=Cl; argon=Ar; potassium=K;
        calcium=Ca; iron=Fe; copper=Cu; zinc=Zn; silver=Ag; tin=Sn; gold=Au; mercury=Hg; lead=Pb""",
    ),
    (
        "young_animals",
        "Names of young animals",
        "A young {0} is called a",
        "What is a young {0} called?",
        """dog=puppy|pup; cat=kitten; cow=calf; horse=foal|colt|filly; sheep=lamb; pig=piglet; hen=chick; duck=duckling;
        goose=gosling; bear=cub; deer=fawn; goat=kid; swan=cygnet; kangaroo=joey; frog=tadpole; owl=owlet; eagle=eaglet;
        pigeon=squab|squeaker; turkey=poult; hare=leveret; butterfly=caterpillar; hedgehog=hoglet; human=baby|child""",
    ),
    (
        "animal_sounds",
        "Sounds of animals",
        "The sound that a {0} makes is called a",
        "What is the sound that a {0} makes called?",
        """cow=moo; cat=meow|miaow|purr; dog=bark|woof; sheep=baa|bleat; pig=oink|grunt; duck=quack; lion=roar;
        snake=hiss; bee=buzz; wolf=howl; horse=neigh|whinny; rooster=crow; mouse=squeak; frog=croak|ribbit;
        donkey=bray|hee-haw; crow=caw; turkey=gobble; pigeon=coo; hen=cluck; sparrow=chirp|tweet""",
    ),
    (
        "jobs",
        "Names of jobs",
        "A person who {0} is called a",
        "What is a person who {0} called?",
        """bakes bread=baker; teaches children at school=teacher; puts out fires=firefighter|fireman;
        flies an aeroplane=pilot; grows crops and keeps animals=farmer; cuts hair=hairdresser|barber;
        repairs pipes and taps=plumber; cleans and mends teeth=dentist; sells meat=butcher;
        paints pictures=painter|artist; writes books=writer|author; sings songs=singer; catches fish=fisherman|fisher;
        treats sick animals=vet|veterinarian; designs buildings=architect; makes clothes=tailor|dressmaker;
        plays in films=actor|actress; cooks in a restaurant=cook|chef; drives a taxi=driver|cabbie;
        decides cases in a court=judge; works with wood=carpenter|joiner; travels into space=astronaut|cosmonaut;
    dances on a stage=dancer; takes care of books in a library=librarian""",
    ),
)

_COUNTS = """days are in a week=7; months are in a year=12; hours are in a day=24; minutes are in an hour=60;
legs does a spider have=8; legs does an ant have=6; wheels does a bicycle have=2; sides does a triangle have=3;
letters are in the English alphabet=26; cents are in a dollar=100; strings does a violin have=4;
players of one team are on the field in football=11; planets are in the solar system=8; eggs are in a dozen=12;
weeks are in a year=52; sides does a hexagon have=6; legs does a dog have=4; squares are on a chessboard=64;
years are in a century=100; years are in a decade=10; degrees are in a right angle=90; sides does a pentagon have=5;
grams are in a kilogram=1000; keys does a piano usually have=88; fingers are on one hand, with the thumb=5;
wheels does a tricycle have=3; degrees are in a full circle=360; days are in the month of June=30"""


def fact_drafts() -> list[Draft]:
    """Facts of the world."""
    return [*map(_table, _TABLES), _counts(), _calendar()]


def rows_of(table: str) -> list[tuple[str, list[str]]]:
    """`key=answer|another; …` as keys with their answers."""
    pairs = (row.strip().split("=") for row in " ".join(table.split()).split(";"))
    return [(key, answers.split("|")) for key, answers in pairs]


def _table(entry: tuple[str, str, str, str, str]) -> Draft:
    name, title, prompt, question, table = entry
    draft = Draft(name, "facts", title, "contains")
    for key, answers in rows_of(table):
        inside = key.replace("The ", "the ", 1) if name == "landmarks" else key
        draft.add(prompt.format(key), question.format(inside), answers[0], {"accept": answers})
    return draft


def _counts() -> Draft:
    draft = Draft("counts", "facts", "Numbers that everybody knows", "number", max_new_tokens=16)
    for things, (count,) in rows_of(_COUNTS):
        question = f"How many {things}?"
        draft.add(f"Question: {question}\nAnswer:", f"{question} Answer with a number.", count, {"value": count})
    return draft


def _calendar() -> Draft:
    draft = Draft("calendar", "facts", "Days and months", "contains")
    days = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
    months = "January February March April May June July August September October November December".split()
    for kind, names, shift in (("day", days, 1), ("day", days, -1), ("month", months, 1)):
        side = "after" if shift > 0 else "before"
        for index, name in enumerate(names):
            answer = names[(index + shift) % len(names)]
            # "The month after March": March itself may be repeated in the answer, other names not.
            rivals = [other for other in names if other not in (answer, name)]
            draft.add(
                f"The {kind} {side} {name} is",
                f"Which {kind} comes right {side} {name}?",
                answer,
                {"accept": [answer], "reject": rivals},
            )
    return draft
