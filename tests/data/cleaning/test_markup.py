"""Pages become text; text about markup stays."""

from __future__ import annotations

import pytest

from smidgen.data.cleaning.markup import is_html, strip_markup

PAGE = """<!DOCTYPE html>
<html><head><title>Lamps</title><style>p { color: red }</style><script>alert("no")</script></head>
<body>
<nav class="navbar"><ul><li><a href="/">Home</a></li><li><a href="/shop">Shop</a></li></ul></nav>
<main><article><h1>On lamps</h1>
<p>A lamp gives light &amp; some warmth. It stands on the table, where the whole family can see it in the evening.</p>
<p>Nobody should leave a lamp alone, as the old woman at the lighthouse used to say to the children.</p>
</article></main>
<footer class="footer">Copyright 2020 Lamps Inc. All rights reserved.</footer>
</body></html>"""


def test_main_content_leaves_navigation_and_footers_out() -> None:
    text = strip_markup(PAGE, main_content=True)
    assert "A lamp gives light & some warmth." in text
    assert "On lamps" in text
    for unwanted in ("Shop", "Copyright", "alert", "color", "<"):
        assert unwanted not in text


def test_all_text_keeps_navigation_but_no_scripts() -> None:
    text = strip_markup(PAGE, main_content=False)
    assert "Shop" in text
    assert "Copyright" in text
    assert "alert" not in text
    assert text.index("some warmth") < text.index("\n", text.index("some warmth")) < text.index("Nobody")


@pytest.mark.parametrize(
    "text",
    ["Use the <b> tag for bold.", "a < b and b > c", "<3 you", "<|im_start|>user", "<vector>", "plain", "", "<EMAIL>"],
)
def test_text_that_does_not_begin_with_markup_stays(text: str) -> None:
    assert not is_html(text)
    assert strip_markup(text, main_content=True) == text


@pytest.mark.parametrize(
    "text", ["<p>Hello</p>", "\n <DIV class='x'>Hello</DIV>", "<?xml version='1.0'?>\n<html>Hello"]
)
def test_fragments_are_markup_too(text: str) -> None:
    assert strip_markup(text, main_content=False).strip() == "Hello"


def test_pages_too_deep_for_the_search_of_the_article_keep_their_text() -> None:
    deep = "<div>" * 3000 + "Hello" + "</div>" * 3000
    assert "Hello" in strip_markup(deep, main_content=True)


def test_lone_surrogates_in_pages_are_replaced() -> None:
    assert strip_markup("<p>a\ud800b</p>", main_content=False).strip() == "a\ufffdb"
