"""C4's rules, languages, and overlap with evaluation sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from smidgen.data.cleaning import Cleaner, c4
from smidgen.data.cleaning.language import language_of
from smidgen.runtime.errors import DataError

CleanerOf = Callable[..., Cleaner]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("This line ends as it should.", None),
        ('She said "this is a fine line"', None),
        ("“This one is fine as well”", None),
        ("", None),
        ("This line has no end", "c4_terminal_punctuation"),
        ("This line trails off into nothing...", "c4_terminal_punctuation"),
        ("Only four words here.", "c4_short_lines"),
        ("Please enable JavaScript to see this page.", "c4_javascript"),
        ("By reading on you accept our Privacy Policy.", "c4_policies"),
    ],
)
def test_c4_lines(line: str, rule: str | None) -> None:
    kept, counts = c4.edit_lines(f"The first line is kept here.\n{line}")
    if rule is None:
        assert (kept, counts) == (f"The first line is kept here.\n{line}", {})
    else:
        assert (kept, counts) == ("The first line is kept here.", {rule: 1})
        assert c4.edit_lines(line, [rule])[0] == line


def test_c4_citations_and_pages() -> None:
    assert c4.edit_lines("It is so.[12] It really is so.[edit]") == ("It is so. It really is so.", {"c4_citations": 2})
    assert list(c4.page_violations("One. Two! Three?")) == []
    assert list(c4.page_violations('One. "Two!" 3.5 and on')) == ["c4_few_sentences"]
    assert list(c4.page_violations("Lorem Ipsum { dolor.")) == [
        "c4_lorem_ipsum",
        "c4_curly_bracket",
        "c4_few_sentences",
    ]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("en", "The old woman climbed the stairs every evening with a lamp in her hand."),
        ("de", "Die alte Frau stieg jeden Abend mit einer Lampe in der Hand die Treppe hinauf."),
        ("fr", "La vieille dame montait chaque soir l'escalier avec une lampe à la main."),
        ("es", "La anciana subía cada noche las escaleras con una lámpara en la mano."),
        ("ru", "Старая женщина каждый вечер поднималась по лестнице с лампой в руке."),
        ("ja", "おばあさんは毎晩ランプを手に階段を上りました。"),
    ],
)
def test_languages_are_told_apart(code: str, text: str, cleaner_of: CleanerOf) -> None:
    found, probability = language_of(text)
    assert found == code
    assert probability > 0.65
    assert cleaner_of(languages=[code])(text).text == text
    assert cleaner_of(languages=["sw"])(text).rule == "language"


def test_overlap_with_evaluation_sets(cleaner_of: CleanerOf, tmp_path: Path, story: str) -> None:
    words = story.split()
    question = " ".join(words[20:33])
    file = tmp_path / "test.jsonl"
    file.write_text(
        json.dumps({"id": 7, "question": question.upper(), "choices": ["one two three four five six seven eight"]})
    )
    cleaner = cleaner_of(decontamination={"files": [str(file)]})
    assert cleaner(story).rule == "evaluation_overlap"
    assert cleaner(" ".join(words[:32])).rule is None  # twelve of its words are no overlap
    assert cleaner("Say: one, two, three, four; five, six, seven, eight!").rule == "evaluation_overlap"
    assert cleaner("Say: one, two, three, four; five, six, seven, nine!").rule is None
    assert cleaner_of(decontamination={"files": [str(file)], "ngram": 12})(" ".join(words[:32])).rule is not None


def test_evaluation_files_of_lines(cleaner_of: CleanerOf, tmp_path: Path, story: str) -> None:
    file = tmp_path / "test.txt"
    file.write_text(f"short\n{story}\n")
    assert cleaner_of(decontamination={"files": [str(file)]})(f"Before. {story} After.").rule == "evaluation_overlap"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"q": "a b"}\n{broken\n', "line 2: no valid JSON"),
        ("a.txt", b"\xff\xfe", "no UTF-8"),
        ("a.txt", b"too short\n", "no item has 8 words"),
    ],
)
def test_evaluation_files_that_cannot_serve(
    name: str, content: bytes, says: str, cleaner_of: CleanerOf, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        cleaner_of(decontamination={"files": [str(tmp_path / name)]})
