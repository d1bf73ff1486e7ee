"""`smidgen report` and `smidgen track`, on runs that `pretrain` made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smidgen.cli.main import main
from smidgen.config import TokenizerConfig
from smidgen.data import prepare
from smidgen.training.metrics import read_metrics

TINY = [
    "--model.hidden_size=32",
    "--model.num_layers=1",
    "--model.max_seq_len=32",
    "--model.attention.head_dim=8",
    "--model.feed_forward.intermediate_size=32",
    "--training.device=cpu",
    "--training.batch_size=4",
    "--training.schedule.warmup_steps=2",
    "--training.log_every=1",
    "--training.checkpoint_every=4",
    "--training.dropout=0.1",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "text.txt").write_text("\n\n".join(f"Tom has {n} red cats." for n in range(300)))
    prepare(
        [folder / "text.txt"],
        folder / "data",
        TokenizerConfig(kind="byte_bpe", vocab_size=300),
        split_documents="blank",
    )
    return folder / "data"


def pretrain(data: Path, run: Path, *flags: str) -> None:
    assert main(["pretrain", "elite-tiny", "--data.path", str(data), "--run", str(run), *TINY, *flags]) == 0


def test_a_run_records_itself_and_becomes_a_page(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    samples = ["--tracking.sample_every=3", "--tracking.sample_prompts", '["Tom has", "A <b>"]']
    pretrain(data, run, *samples, "--training.max_steps=8")
    pretrain(data, run, *samples, "--training.max_steps=12")
    kinds = [(event["kind"], event["step"]) for event in read_metrics(run / "events.jsonl")]
    assert kinds == [
        ("start", 0),
        ("save", 4),
        ("save", 8),
        ("end", 8),
        ("resume", 8),
        ("save", 12),
        ("end", 12),
    ]
    taken = list(read_metrics(run / "samples.jsonl"))
    assert [record["step"] for record in taken] == [3, 6, 9, 12]
    assert [sample["prompt"] for sample in taken[0]["samples"]] == ["Tom has", "A <b>"]
    environments = json.loads((run / "environment.json").read_text())
    assert [environment["step"] for environment in environments] == [0, 8]
    assert environments[0]["packages"]["torch"]
    assert environments[0]["data"]["splits"]["train"]["documents"] > 200

    capsys.readouterr()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    page = (run / "report.html").read_text()
    assert "after step 12" in page
    assert "A &lt;b&gt;" in page
    assert main(["report", str(run), str(run), "--out", str(tmp_path / "both.html")]) == 0
    assert "2 runs" in (tmp_path / "both.html").read_text()
    assert main(["report", str(run), "--out", "nowhere/page.html"]) == 1
    assert capsys.readouterr().err == "smidgen: nowhere/page.html: No such file or directory\n"


def test_samples_change_nothing_in_the_training(data: Path, tmp_path: Path) -> None:
    pretrain(data, tmp_path / "plain", "--training.max_steps=6")
    pretrain(data, tmp_path / "sampled", "--training.max_steps=6", "--tracking.sample_every=1")
    name = "last/model/model.safetensors"
    assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "sampled" / name).read_bytes()
    assert len(list(read_metrics(tmp_path / "sampled" / "samples.jsonl"))) == 6


def test_a_tracked_run_goes_on_as_the_same_run(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    pretrain(data, run, "--training.max_steps=4", "--tracking.trackers", "[tensorboard]")
    first = json.loads((run / "tracking" / "tensorboard.json").read_text())
    assert first["sent"]["train"] == 4
    assert first["id"] in (run / "last" / "state" / "trainer.json").read_text()
    (run / "tracking" / "tensorboard.json").unlink()
    pretrain(data, run, "--training.max_steps=8", "--tracking.trackers", "[tensorboard]")
    second = json.loads((run / "tracking" / "tensorboard.json").read_text())
    assert (second["id"], second["sent"]["train"]) == (first["id"], 8)


def test_a_run_can_be_sent_to_a_tracker_afterwards(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    pretrain(data, run, "--training.max_steps=4")
    assert not (run / "tracking").exists()
    capsys.readouterr()
    assert main(["track", str(run)]) == 1
    assert "tracking.trackers = []: nobody to send to" in capsys.readouterr().err
    assert main(["track", str(run), "--tracking.trackers", "[tensorboard]"]) == 0
    assert capsys.readouterr().out == "tensorboard: 5 lines sent\n"
    assert main(["track", str(run), "--tracking.trackers", "[tensorboard]"]) == 0
    assert capsys.readouterr().out == "tensorboard: has everything\n"
    assert list((run / "tracking" / "tensorboard").glob("events.*"))
    assert main(["track", str(tmp_path)]) == 1
    assert "is no run folder" in capsys.readouterr().err
