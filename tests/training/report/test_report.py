"""The page on runs: complete, self-contained, safe whatever a run says."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smidgen.runtime.errors import TrainingError
from smidgen.training.report import write_report
from smidgen.training.report.chart import Chart, Series, thinned, ticks
from smidgen.training.report.formats import count, duration, figure, rate

EVIL = '</script><script>alert(1)</script><img src=x onerror="alert(2)">&\'"'

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(name: str = "demo", steps: int = 20, text: str = "Tom", records: bool = True, **config: Any) -> Path:
        run = tmp_path / name
        run.mkdir()
        lines: list[dict[str, Any]] = []
        for step in range(1, steps + 1):
            lines.append({"kind": "train", "step": step, "loss": 2 + 5 / step, "lr": 1e-3 / step, "grad_norm": 1.5})
            lines[-1] |= {"tokens": step * 64, "tokens_per_second": 9000.0, "mfu": None, "seconds": 65.0 * step / steps}
            if step % 5 == 0:
                lines.append({"kind": "validation", "step": step, "loss": 2.1 + 5 / step, "bits_per_byte": 1.2345})
        (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "tra')
        (run / "config.yaml").write_text(json.dumps({"description": text, "model": {"num_layers": 2}, **config}))
        if not records:
            return run
        start = {"kind": "start", "step": 0, "time": "2026-01-02T03:04:05+00:00", "parameters": 264_672}
        start |= {"device": text, "peak_flops": None, "total_steps": steps, "tokens_per_step": 64}
        events = [start, {"kind": "resume", "step": 5, **start, "changes": {"training.lr": [text, "2"]}}]
        events[1] |= {"kind": "resume", "step": 5}
        events += [{"kind": "skip", "step": 7, "message": text}, {"kind": "end", "step": steps, "signal": None}]
        (run / "events.jsonl").write_text("\n".join(map(json.dumps, events)) + "\n")
        sample = {"kind": "sample", "step": 10, "samples": [{"prompt": text, "text": f" said {text}"}]}
        (run / "samples.jsonl").write_text(json.dumps(sample) + "\n")
        environment = {"step": 0, "time": text, "smidgen": "0.1", "python": "3.11", "packages": {"torch": text}}
        environment |= {"processor": text, "cores": 2, "memory_bytes": 2**34, "command": ["smidgen", text]}
        environment |= {"git": {"commit": text, "changed": True}, "variables": {"A": text}, "accelerators": [text]}
        counts = {"tokens": 1000, "documents": 10, "bytes": 4096}
        environment["data"] = {"splits": {text: counts}, "sources": [text], "vocab_size": 300, "tokenizer_kind": text}
        (run / "environment.json").write_text(json.dumps([{**environment, "python": "3.10"}, environment]))
        return run

    return make


class Page(html.parser.HTMLParser):
    """The elements of a page, with its text, and a check that every element is closed where it was opened."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.stack: list[str] = []
        self.feed(page)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID and not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(*runs: Path) -> Page:
    out = runs[0] / "report.html"
    write_report(runs, out)
    return Page(out.read_text(encoding="utf-8"))


def test_one_run_is_told_whole(make_run: MakeRun) -> None:
    page = page_of(make_run())
    for part in (
        "demo",
        "Finished after 20 steps.",
        "2.3500best validation loss",
        "1.2345bits per byte",
        "265kparameters",
        "20 / 20steps",
        "1:05time",
        "unknownMFU, median",
        "Loss",
        "Learning rate",
        "Gradient norm",
        "Throughput",
        "after step 10",
        "Tom said Tom",
        "model.num_layers",
        "1,000 tokens, 10 documents, 4 KiB",
        "Tom, 2 cores",
        "16 GiB",
        "smidgen 0.1, python 3.11, torch Tom",
        "with changes that are not committed",
        "process 1, from step 0",
        "python 3.10",
        "skip",
        "training.lr: Tom → 2",
    ):
        assert part in page.text
    captions = page.text.count("over steps"), sum(tag == "figure" for tag, _ in page.elements)
    assert captions == (0, 4)  # MFU is unknown at every step: no chart of nothing
    assert sum(attributes.get("class") == "mark" for _, attributes in page.elements) == 4


def test_the_page_asks_for_nothing_from_elsewhere(make_run: MakeRun) -> None:
    run = make_run()
    page = page_of(run)
    assert not [a for _, a in page.elements if {"src", "href", "srcset", "action", "style"} & a.keys() - {"style"}]
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    source = (run / "report.html").read_text()
    assert not re.search(r"https?://|@import|url\(", source)
    policies = [a["content"] or "" for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0].startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "prefers-color-scheme: dark" in source
    assert 'name="viewport"' in source


def test_what_a_run_says_stays_text(make_run: MakeRun) -> None:
    """Every string of a run's files carries markup; none of it becomes an element."""
    plain = page_of(make_run("plain"), make_run("also"))
    evil = page_of(make_run("evil", text=EVIL, odd=EVIL), make_run("<b>worse", text=EVIL))
    assert {tag for tag, _ in evil.elements} <= {tag for tag, _ in plain.elements}
    assert sum(tag == "script" for tag, _ in evil.elements) == 1
    assert not [name for _, attributes in evil.elements for name in attributes if name.startswith("on")]
    assert evil.text.count(EVIL) > 10
    assert "<b>worse" in evil.text


def test_several_runs_lie_over_each_other(make_run: MakeRun) -> None:
    one = make_run("one", training={"lr": 0.001, "seed": 1})
    two = make_run("two", steps=100, training={"lr": 0.002, "seed": 1, "extra": None})
    page = page_of(one, two)
    assert "2 runs" in page.text
    charts = [
        json.loads(attributes["data-chart"] or "") for _, attributes in page.elements if "data-chart" in attributes
    ]
    assert [series["label"] for series in charts[0]["series"]] == [
        "one, training",
        "one, validation",
        "two, training",
        "two, validation",
    ]
    assert charts[0]["x"][1] >= 100
    differences = page.text[page.text.index("Differences") : page.text.index("Samples")]
    assert "training.lr" in differences
    assert "0.002" in differences
    assert "training.extra" in differences
    assert "training.seed" not in differences


def test_runs_of_one_name_are_told_apart(make_run: MakeRun, tmp_path: Path) -> None:
    one = make_run()
    (tmp_path / "other").mkdir()
    two = one.rename(tmp_path / "other" / "demo")
    assert str(two) in page_of(two, make_run()).text


@pytest.mark.parametrize("damage", ["config.yaml", "events.jsonl", "samples.jsonl", "environment.json"])
def test_a_damaged_or_older_folder_still_gives_a_page(make_run: MakeRun, damage: str) -> None:
    run = make_run()
    (run / damage).write_text('{"kind": "start", "step"')
    assert "best validation loss" in page_of(run).text
    (run / damage).unlink()
    assert "best validation loss" in page_of(run).text


def test_a_run_that_kept_no_records_has_its_curves(make_run: MakeRun) -> None:
    page = page_of(make_run(records=False, steps=1))
    assert "Step 1." in page.text
    assert "unknownparameters" in page.text
    assert sum(tag == "figure" for tag, _ in page.elements) == 4


def test_a_folder_without_metrics_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no metrics to report"):
        write_report([tmp_path], tmp_path / "report.html")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 5, 10]),
        (0, 100, [0, 50, 100]),
        (1.9, 4.2, [2, 3, 4]),
        (-0.3, 0.3, [-0.2, 0, 0.2]),
        (0, 0, [0]),
        (1e-5, 1e-3, [2e-4, 4e-4, 6e-4, 8e-4, 1e-3]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    about = 5 if high == 1e-3 else 3
    assert ticks(low, high, about) == pytest.approx(expected)


def test_thinning_keeps_the_ends_and_every_extreme() -> None:
    points = [(float(x), 1.0) for x in range(100_000)]
    points[777] = (777.0, 9.0)
    points[5_432] = (5_432.0, -9.0)
    kept = thinned(points)
    assert len(kept) <= 501
    assert kept == sorted(kept)
    assert {points[777], points[5_432], points[-1]} <= set(kept)
    assert thinned(points[:500]) == points[:500]


def test_a_chart_of_one_point_and_of_none() -> None:
    lone = Chart("Loss", "nats", [Series("a", [(3.0, 2.0)], 0)], figure).html()
    assert "h0" in lone
    assert "nan" not in lone
    assert Chart("Loss", "nats", [Series("a", [], 0)], figure).html() == ""


def test_numbers_read_well() -> None:
    assert [count(n) for n in (7, 1234567, 20_000)] == ["7", "1.23M", "20k"]
    assert [rate(n) for n in (0, 1e-3, 2.5e-4)] == ["0", "1e-3", "2.5e-4"]
    assert [duration(n) for n in (65, 3725, 200_000)] == ["1:05", "1:02:05", "2.3 days"]
