"""Cleaning inside `prepare`: what is kept, counted and sampled."""

from __future__ import annotations

import json
from pathlib import Path

from smidgen.config import CleaningConfig, TokenizerConfig, validate
from smidgen.data import prepare

CLEANING = {
    "level": "web",
    "gopher_quality": False,
    "gopher_repetition": False,
    "min_words": 3,
    "duplicates": {"paragraphs": True, "min_paragraph_words": 4},
}


def write_sources(folder: Path, story: str) -> list[str]:
    words = story.split()
    near = " ".join([*words[:50], "suddenly", *words[51:]])
    first = [story, f"<html><body><p>{story}</p></body></html>", near, "Too short."]
    other = " ".join(f"word{i}" for i in range(40))
    shared = "This very paragraph stands in two documents."
    second = [f"{other}\n\n{shared}", f"{shared}\n\nMail me@example.com about it.", f"{story}  \r\n"]
    names = []
    for name, texts in (("one", first), ("two", second)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        names.append(str(path))
    return names


def test_prepare_keeps_counts_and_samples(tmp_path: Path, story: str) -> None:
    sources = write_sources(tmp_path, story)
    config = validate(CleaningConfig, CLEANING)
    prepared = prepare(sources, tmp_path / "a", TokenizerConfig(vocab_size=300), cleaning=config, workers=1)
    dataset, cleaning = prepared.dataset, prepared.manifest.cleaning
    tokenizer = dataset.tokenizer()
    assert tokenizer is not None
    kept = ""
    for split in (dataset.train, dataset.val):
        kept += tokenizer.decode(split.tokens[0 : split.num_tokens].tolist(), skip_special=True)
    assert kept.count("small lighthouse") == 1
    assert kept.count("This very paragraph") == 1
    assert "Mail [EMAIL_ADDRESS] about it." in kept
    assert "me@example.com" not in kept
    assert {rule: drops["documents"] for rule, drops in cleaning["drops"].items()} == {
        "duplicate_document": 2,
        "min_words": 1,
        "near_duplicate": 1,
    }
    assert cleaning["drops"]["min_words"]["samples"][0]["text"] == "Too short."
    assert cleaning["edits"]["email"] == 1
    assert cleaning["edits"]["html"] == 1
