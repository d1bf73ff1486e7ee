"""A whole cleaner: its result is its own fixed point, it never raises, it counts, and time stays linear."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smidgen.config import CleaningConfig, dump_config, validate
from smidgen.config.loading import parse_yaml
from smidgen.data.cleaning import Cleaner, Keys
from smidgen.runtime.errors import ConfigError, DataError, SmidgenError

CleanerOf = Callable[..., Cleaner]
EVERYTHING = {
    "level": "web",
    "normalization": "NFKC",
    "c4": True,
    "languages": ["en"],
    "duplicates": {"paragraphs": True},
}
EDITS = {**EVERYTHING, "languages": [], "gopher_quality": False, "gopher_repetition": False, "c4": False}


@pytest.mark.parametrize("fields", [EVERYTHING, EDITS, {**EDITS, "html": "text", "normalization": "NFC", "c4": True}])
def test_cleaning_is_idempotent_and_never_raises(
    fields: dict[str, object], cleaner_of: CleanerOf, any_text: st.SearchStrategy[str]
) -> None:
    cleaner = cleaner_of(**fields)

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(any_text)
    def check(text: str) -> None:
        cleaned = cleaner(text)
        assert (cleaned.text is None) == (cleaned.rule is not None)
        cleaner.keys(text)
        if cleaned.text is not None:
            again = cleaner(cleaned.text)
            assert again.text == cleaned.text
            assert not again.edits

    check()


def test_without_steps_only_empty_text_is_dropped(cleaner_of: CleanerOf) -> None:
    cleaner = cleaner_of()
    assert not cleaner.active
    messy = " <p>\x00 a@b.co \r\n\n\n\n"
    assert cleaner(messy).text == messy
    assert cleaner(" \n").rule == "empty"
    assert cleaner.keys("text") is None


def test_a_good_story_passes_everything_unchanged(cleaner_of: CleanerOf, story: str) -> None:
    cleaned = cleaner_of(**EVERYTHING)(story)
    assert (cleaned.text, cleaned.rule, dict(cleaned.edits)) == (story, None, {})


def test_edits_are_counted_by_name(cleaner_of: CleanerOf) -> None:
    cleaner = cleaner_of(**EDITS)
    page = "<html><body><main><p>Write to me@example.com or you@example.org,  schÃ¶n.\x07</p></main></body></html>"
    cleaned = cleaner(page)
    assert cleaned.text == "Write to [EMAIL_ADDRESS] or [EMAIL_ADDRESS], schön."
    assert cleaned.edits["email"] == 2
    assert {"html", "encoding", "control_characters"} <= set(cleaned.edits)


def test_what_one_edit_uncovers_the_next_round_removes(cleaner_of: CleanerOf) -> None:
    hidden = "me\u200b@example.com and &lt;b&gt;bold&lt;/b&gt;"
    cleaned = cleaner_of(control_characters=True, scrub=["email"])(hidden)
    assert cleaned.text == "[EMAIL_ADDRESS] and &lt;b&gt;bold&lt;/b&gt;"
    assert cleaner_of(html="text")("<p>&lt;p&gt;twice&lt;/p&gt;</p>").text == "twice"


@pytest.mark.parametrize(
    ("fields", "text", "rule"),
    [
        ({"min_characters": 5}, "four", "min_characters"),
        ({"max_characters": 3}, "four", "max_characters"),
        ({"min_words": 3}, "two words", "min_words"),
        ({"max_words": 1}, "two words", "max_words"),
        ({"languages": ["de"]}, "This is quite clearly an English sentence, and here is another one.", "language"),
        ({"c4": True}, "This line asks for nothing but {braces} and has a full stop.", "c4_curly_bracket"),
        ({"gopher_quality": True}, "Too short.", "gopher_word_count"),
    ],
)
def test_each_filter_is_named_and_can_be_skipped(
    fields: dict[str, object], text: str, rule: str, cleaner_of: CleanerOf
) -> None:
    assert cleaner_of(**fields)(text).rule == rule
    assert cleaner_of(**fields, skip_rules=[rule])(text).rule != rule


def test_a_cleaner_travels_to_another_process(cleaner_of: CleanerOf, story: str) -> None:
    cleaner = cleaner_of(**EVERYTHING)
    copy = pickle.loads(pickle.dumps(cleaner))
    text = f"<p>{story}</p>"
    assert copy(text) == cleaner(text)
    keys, same = cleaner.keys(text), copy.keys(text)
    assert keys is not None
    assert same is not None
    assert keys.to_bytes() == same.to_bytes()
    assert Keys.from_bytes(keys.to_bytes()).to_bytes() == keys.to_bytes()


def test_the_fingerprint_names_what_decides_the_result(cleaner_of: CleanerOf, tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("a b c d e f g h i j")
    two.write_text("a b c d e f g h i j")
    base = cleaner_of(decontamination={"files": [str(one)]}).fingerprint
    assert cleaner_of(decontamination={"files": [str(two)]}).fingerprint == base
    two.write_text("k b c d e f g h i j")
    assert cleaner_of(decontamination={"files": [str(two)]}).fingerprint != base
    assert cleaner_of(min_words=2).fingerprint != cleaner_of(min_words=3).fingerprint


def test_a_level_sets_fields_and_a_given_field_wins() -> None:
    web = validate(CleaningConfig, {"level": "web", "gopher_quality": False, "duplicates": {"documents": False}})
    assert (web.html, web.gopher_quality, web.gopher_repetition) == ("main", False, True)
    assert (web.duplicates.documents, web.duplicates.near) == (False, True)
    assert validate(CleaningConfig, parse_yaml(dump_config(web), "dump")) == web
    off = CleaningConfig()
    assert off == validate(CleaningConfig, {"level": "none"})


@pytest.mark.parametrize(
    ("fields", "says", "kind"),
    [
        ({"level": "strong"}, "level", ConfigError),
        ({"min_words": 5, "max_words": 4}, "min_words = 5", ConfigError),
        ({"skip_rules": ["gopher_stop_word"]}, "gopher_stop_words", ConfigError),
        ({"languages": ["english"]}, "cleaning.languages = english", ConfigError),
        ({"decontamination": {"files": ["nowhere.jsonl"]}}, "nowhere.jsonl", DataError),
        ({"near_threshold": 0.5}, "duplicates.near_threshold", ConfigError),
    ],
)
def test_mistakes_are_named(
    fields: dict[str, object], says: str, kind: type[SmidgenError], cleaner_of: CleanerOf
) -> None:
    with pytest.raises(kind) as caught:
        cleaner_of(**fields)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


LONG = 100_000
HOSTILE = {
    "one word": "a" * LONG,
    "at signs": "a@" * LONG,
    "dots": "a." * LONG,
    "addresses without end": "a@a." * LONG,
    "spaces": "x" + " " * LONG + "x",
    "indented blank lines": "\n " * LONG,
    "digits": "1." * LONG,
    "colons": "a:" * LONG,
    "tokens begun": "eyJ" * LONG,
    "keys begun": "-----BEGIN PRIVATE KEY-----" * (LONG // 10),
    "brackets": "[1" * LONG,
    "open elements": "<div>" * LONG,
    "open options": "<div>" + "<option>" * LONG,
    "open attribute": '<p a="' * LONG,
    "entities": "<p>" + "&amp" * LONG,
    "mojibake": "â€" * LONG,
    "marks": "!" * LONG,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_takes_linear_time(name: str, cleaner_of: CleanerOf) -> None:
    # Quadratic time over these lengths would be minutes; the limit is far above what a loaded machine needs.
    cleaner = cleaner_of(**{**EDITS, "gopher_quality": True, "gopher_repetition": True, "c4": True})
    start = time.process_time()
    cleaner(HOSTILE[name])
    cleaner.keys(HOSTILE[name])
    assert time.process_time() - start < 20


@pytest.mark.torture
def test_idempotence_on_many_texts(cleaner_of: CleanerOf, any_text: st.SearchStrategy[str]) -> None:
    cleaner = cleaner_of(**EDITS)

    @settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(any_text)
    def check(text: str) -> None:
        cleaned = cleaner(text)
        if cleaned.text is not None:
            assert cleaner(cleaned.text).text == cleaned.text

    check()
