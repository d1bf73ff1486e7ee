"""`smidgen evaluate` as a user types it."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.cli.main import main
from smidgen.data import storyworld
from smidgen.folders import save
from smidgen.tokenization import train_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, randomized_decoder: Callable[..., Any]) -> tuple[str, str]:
    """Two folders, one tokenizer."""
    tokenizer = train_tokenizer("byte_bpe", [d.text for d in islice(storyworld.generate(0), 100)], 400)
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("first", "second")):
        sizes = {"model.vocab_size": tokenizer.vocab_size, "model.max_seq_len": 192, "model.num_layers": 1}
        save(randomized_decoder("elite-tiny", sizes, seed), folder / name, tokenizer)
    return str(folder / "first"), str(folder / "second")


SOME = ["--category", "capitals", "--category", "choices", "--category", "repetition", "--items", "2"]


class Fetched(HTMLParser):
    """What a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("src", "srcset", "data", "poster") or (name == "href" and tag != "a"):
                self.addresses.append(str(value))


def test_models_side_by_side(models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, answers, text = tmp_path / "page.html", tmp_path / "answers.jsonl", tmp_path / "text.txt"
    text.write_text("One day the fox met the bear. " * 8, encoding="utf-8")
    arguments = ["evaluate", *models, "--suite", *SOME, "--text", str(text), "--stride", "32"]
    assert main([*arguments, "--json", "--html", str(page), "--answers", str(answers)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [entry["model"] for entry in report["models"]] == ["first", "second"]
    lines = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    for entry in report["models"]:
        assert entry["perplexity"] > 1
        assert entry["interval"][0] <= entry["loss"] <= entry["interval"][1]
        for form in ("base", "chat"):
            own = [line for line in lines if line["model"] == entry["model"] and line["form"] == form]
            assert len(own) == 10
            for name, share in entry["suite"][form]["categories"].items():
                right = [line["right"] for line in own if line["category"] == name]
                assert share["value"] == pytest.approx(sum(right) / len(right))
                assert share["low"] <= share["value"] <= share["high"]
    for difference in report["differences"]:
        first, second = (entry["suite"][difference["form"]]["all"]["value"] for entry in report["models"])
        assert difference["value"] == pytest.approx(second - first)
    html = page.read_text(encoding="utf-8")
    fetched = Fetched()
    fetched.feed(html)
    assert not fetched.addresses
    assert not re.search(r"url\(|@import", html)
    assert html.count('class="answer"') == len(lines)
    assert html.count("<circle") == 2 * 2 * 4  # models, forms, three groups and all together


def test_a_model_without_a_tokenizer_is_measured_on_ids(
    randomized_decoder: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(randomized_decoder("elite-tiny", {"model.vocab_size": 64, "model.num_layers": 1}), tmp_path / "bare")
    for name in ("train", "val"):
        (np.arange(200, dtype=np.uint16) % 64).tofile(tmp_path / f"{name}.bin")
    assert main(["evaluate", str(tmp_path / "bare"), "--data", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 199


def test_a_page_shows_what_models_write_as_text(tmp_path: Path) -> None:
    from smidgen.evaluation.report import render_report
    from smidgen.evaluation.suite.asking import Answer
    from smidgen.evaluation.suite.items import select
    from smidgen.evaluation.suite.results import ModelResult
    from smidgen.evaluation.suite.verdict import RIGHT

    (category,) = select(["capitals"], 1)
    evil = "<script>alert(1)</script>"
    answer = Answer("capitals", category.items[0].id, "base", evil, evil, evil, RIGHT)
    page = render_report([ModelResult(evil, 1, (category,), {"base": [answer]})])
    assert evil not in page
    assert page.count("<script>") == 1


def test_a_table_and_the_modes(models: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", models[0], *SOME]) == 0
    out = capsys.readouterr().out
    assert "first (base)" in out
    assert "first (chat)" in out
    assert re.search(r"^ALL +10 ", out, re.MULTILINE)
    assert "Right answers in %, with 95 % intervals" in out
    assert main(["evaluate", models[0], *SOME, "--mode", "chat"]) == 0
    assert "(base)" not in capsys.readouterr().out
    assert main(["evaluate", models[0], "--mode", "single", "--category", "capitals", "--items", "2"]) == 0
    out = capsys.readouterr().out
    assert "What is the capital of France?" in out
    assert "Capitals of countries: " in out


def test_one_question_and_questions_from_the_terminal(
    models: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["evaluate", models[0], "--mode", "single", "--question", "What is 2 + 2?"]) == 0
    once = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 2 + 2?\n\nWhat is 2 + 2?\n"))
    assert main(["evaluate", models[0], "--mode", "single"]) == 0
    assert capsys.readouterr().out == once * 2


def test_gsm8k_from_its_file(models: tuple[str, str], corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = corpora / "gsm8k-test.jsonl"
    assert (
        main(["evaluate", models[0], "--gsm8k", str(file), "--items", "2", "--mode", "chat", "--category", "code"]) == 0
    )
    out = capsys.readouterr().out
    assert "gsm8k_file_form" in out
    assert "gsm8k_file_answer" in out


def test_solutions_of_gsm8k_itself_are_right(corpora: Path) -> None:
    """Answers always; the form but for the 28 of 1,319 that annotate nothing or something that is no calculation."""
    from smidgen.evaluation.gsm8k import gsm8k_categories
    from smidgen.evaluation.suite.scorers import judge
    from smidgen.evaluation.suite.verdict import Reply

    form, answer = gsm8k_categories(corpora / "gsm8k-test.jsonl")
    wrong = [sum(not judge(c, item, Reply(item.reference)).right for item in c.items) for c in (form, answer)]
    assert len(form.items) == len(answer.items) == 1319
    assert wrong == [28, 0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--category", "capitols"], "did you mean 'capitals'"),
        (["--gsm8k", "nowhere.jsonl"], "no such file"),
        (["--items", "0"], "--items = 0: use 1 or more"),
        (["--text", "TEXT", "--stride", "500"], "--stride = 500: use 1 to 191"),
        (["--text", "TEXT", "--seq-len", "500"], "exceeds the model's context of 192"),
    ],
)
def test_mistakes_are_one_line(
    models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("One day.", encoding="utf-8")
    assert main(["evaluate", models[0], *(str(text) if a == "TEXT" else a for a in arguments)]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("engine", ["torch", "edge"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere: n"),
        (["BARE"], "tokenizer"),
        (["PLAIN", "--mode", "chat"], "has no chat template"),
        (["--html", "nowhere/page.html"], "--html = nowhere/page.html: there is no folder nowhere"),
        (["--answers", "nowhere/answers.jsonl"], "--answers = nowhere/answers.jsonl: there is no folder nowhere"),
    ],
)
def test_what_would_fail_in_the_end_fails_before_anything_is_measured(
    models: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    arguments: list[str],
    words: str,
) -> None:
    for name, dropped in (("BARE", "tokenizer*"), ("PLAIN", "chat_template.jinja")):
        shutil.copytree(models[1], tmp_path / name, ignore=shutil.ignore_patterns(dropped))
    settings = tmp_path / "PLAIN" / "tokenizer_config.json"
    settings.write_text(json.dumps({k: v for k, v in json.loads(settings.read_text()).items() if k != "chat_template"}))
    monkeypatch.setattr("smidgen.cli.evaluating.measure", lambda *_: pytest.fail("measured"))
    arguments = [str(tmp_path / word) if word.isupper() else word for word in arguments]
    assert main(["evaluate", models[0], *arguments, "--engine", engine]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--stride", "8"],
        ["--question", "Why?"],
        ["--mode", "single", "--json"],
        ["--mode", "single", "--question", "Why?", "--category", "capitals"],
        ["--tokens", "9"],
        ["--split", "train"],
        ["--text", "story.txt", "--split", "val"],
        ["--text", "story.txt", "--items", "3"],
        ["--data", "data", "--run-code"],
    ],
)
def test_options_without_effect_are_refused(models: tuple[str, str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["evaluate", models[0], *arguments])
    assert error.value.code == 2


def test_categories_are_listed_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 36
