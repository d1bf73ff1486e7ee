"""A small corpus, tokenizers trained on it, and texts that are hard on tokenizers."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from smidgen.tokenization import BaseTokenizer, load_tokenizer, train_tokenizer

WORDS = re.findall(
    r"\S+",
    "the king and his three daughters went home before it rained because there were 17 sheep, 240 geese and one "
    "donkey in the old barn; don't you know? They'll say: \"we've seen it!\" naïve café Größe 日本語 привет мир 😀 x=1 "
    "<|endoftext|> <s> ▁ 3.14 hello hello hello ha haha hahaha",
)

FRAGMENTS = (
    *WORDS,
    " ",
    "  ",
    "        ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\x00",
    "\u00a0",
    "\u3000",
    "\ufeff",
    "\ufffd",
    "\u2028",
    "▁▁",
    "aaaa",
    "'s",
    "'S",
    "</s>",
    "<unk>",
    "<pad>",
    "<|im_start|>",
    "<|im_end|>",
    "<0x0A>",
    "e\u0301",
    "👨‍👩‍👧",
    "٣",
    "Ⅷ",
    "\U0010ffff",
)


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    """About 80 kB of text with many repetitions."""
    rng = random.Random(0)
    syllables = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
    words = [*WORDS, *("".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(150))]
    return [" ".join(rng.choices(words, k=rng.randint(3, 40))) + "\n    indented\n" for _ in range(500)]


@pytest.fixture(scope="session")
def trained(corpus: list[str]) -> Callable[[str], BaseTokenizer]:
    """`trained(kind)`: a tokenizer of 600 ids (characters: as many as there are)."""
    made: dict[str, BaseTokenizer] = {}

    def train(kind: str) -> BaseTokenizer:
        if kind not in made:
            made[kind] = train_tokenizer(kind, corpus, None if kind == "characters" else 600)
        return made[kind]

    return train


@pytest.fixture(scope="session")
def gpt2(corpora: Path) -> BaseTokenizer:
    return load_tokenizer(corpora / "gpt2")


@pytest.fixture(scope="session")
def llama2(corpora: Path) -> BaseTokenizer:
    return load_tokenizer(corpora / "llama2")


@pytest.fixture(scope="session")
def texts() -> st.SearchStrategy[str]:
    """Any valid Unicode, mixed with spellings of special tokens, whitespace and repetitions."""
    return st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=8), max_size=12).map("".join)


@pytest.fixture(scope="session")
def auto_tokenizer() -> Callable[[BaseTokenizer, Path], Any]:
    """`auto_tokenizer(tokenizer, folder)`: what transformers makes of the saved folder."""
    transformers = pytest.importorskip("transformers")

    def load(tokenizer: BaseTokenizer, folder: Path) -> Any:
        tokenizer.save(folder)
        return transformers.AutoTokenizer.from_pretrained(folder)

    return load
