"""`smidgen pretrain`, from a dataset folder to a run folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import smidgen
from smidgen.cli.main import main
from smidgen.cli.progress import LiveProgress, duration, training_progress
from smidgen.config import TokenizerConfig, field_paths, load_config
from smidgen.config.run import Config
from smidgen.data import prepare
from smidgen.folders.run import RunFolder, verify_checkpoint
from smidgen.runtime.errors import TrainingError
from smidgen.training.evaluate import Evaluation
from smidgen.training.observer import Plan, Snapshot

TINY = [
    "--model.hidden_size=32",
    "--model.num_layers=1",
    "--model.max_seq_len=32",
    "--model.attention.head_dim=8",
    "--model.feed_forward.intermediate_size=32",
    "--training.device=cpu",
    "--training.batch_size=4",
    "--training.schedule.warmup_steps=2",
]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain")
    text = "\n\n".join(f"Tom has {n} red cats and {n + 1} blue dogs." for n in range(300))
    (folder / "text.txt").write_text(text)
    tokenizer = TokenizerConfig(kind="byte_bpe", vocab_size=300)
    prepare([folder / "text.txt"], folder / "data", tokenizer, split_documents="blank")
    return folder / "data"


@pytest.fixture
def pretrain(data: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(source: str | Path, *flags: str | Path, with_data: bool = True) -> tuple[int, str, str]:
        named = ["--data.path", str(data)] if with_data else []
        status = main(["pretrain", str(source), *named, *map(str, flags)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_a_dataset_becomes_a_model(pretrain: Run, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    status, out, err = pretrain("elite-tiny", *TINY, "--training.max_steps", "30", "--run", run)
    assert status == 0
    config = load_config(run)
    assert config.model.vocab_size == smidgen.load_tokenizer(run).vocab_size == 300
    assert config.training.seq_len == 32
    assert (config.data.path, config.training.max_steps) == (str(data), 30)
    assert smidgen.load(run).config == config.model
    assert re.search(r"parameters\n.*(bf16|fp32).*\n.*tokens an epoch", err)
    assert re.search(r"step 30/30: loss \d\.\d+, bits/byte .* MFU .* left", err)
    assert re.search(r"Finished 30 steps: 3.84k tokens .*\nBest validation loss \d\.\d+, \d\.\d+ bits/byte", out)
    assert f'smidgen generate {run} "' in out
    assert f"smidgen plot {run}" in out
    assert "\x1b" not in out + err


def test_a_finished_run_says_so_and_goes_on_with_more_steps(pretrain: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = [*TINY, "--run", run]
    assert pretrain("elite-tiny", *flags, "--training.max_steps", "10")[0] == 0
    status, out, _ = pretrain("elite-tiny", *flags, "--training.max_steps", "10")
    assert status == 0
    assert "is finished: 10 steps" in out
    status, out, err = pretrain(run, "--training.max_steps", "12", with_data=False)
    assert status == 0
    assert "Finished 12 steps" in out
    assert "resume  from step 10" in err
    assert "changed training.max_steps (10 → 12)" in err
    assert verify_checkpoint(run / "last").step == 12


def test_an_existing_run_knows_its_data(pretrain: Run, tmp_path: Path) -> None:
    flags = [*TINY, "--run", tmp_path / "run", "--training.max_steps", "5"]
    assert pretrain("elite-tiny", *flags)[0] == 0
    assert pretrain("elite-tiny", *flags, with_data=False)[0] == 0


def test_the_default_run_folder_has_the_configurations_name(
    pretrain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("base: elite-tiny\ntraining:\n  max_steps: 3\n")
    assert pretrain("mine.yaml", *TINY)[0] == 0
    assert verify_checkpoint(tmp_path / "runs" / "mine" / "last").step == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], r"data\.path = null: .*smidgen prepare .*--tokenizer\.kind byte_bpe"),
        (["--data.path", "nowhere"], r"data\.path = nowhere: no such folder"),
        (["--training.max_stepz", "3"], r"training\.max_stepz: no such field; did you mean 'training\.max_steps'"),
        (["--training.lr"], r"--training\.lr: the value is missing"),
        (["--training.device", "tpu"], r"training\.device = tpu"),
    ],
)
def test_mistakes_are_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    if "device" in " ".join(flags):
        flags = [*flags, "--data.path", str(data)]
    assert main(["pretrain", "elite-tiny", "--run", str(tmp_path / "run"), *flags]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_that_the_data_contradicts_is_refused(pretrain: Run, tmp_path: Path) -> None:
    status, _, err = pretrain("elite-tiny", *TINY, "--run", tmp_path / "run", "--model.vocab_size", "5000")
    assert status == 1
    assert re.search(r"model\.vocab_size = 5000: the tokenizer of .* has \d+ ids", err)


def test_ids_of_foreign_data_are_checked_against_the_model(pretrain: Run, tmp_path: Path) -> None:
    ids = np.arange(4000, dtype=np.uint16) % 300
    ids.tofile(tmp_path / "train.bin")
    ids[:500].tofile(tmp_path / "val.bin")
    flags = [*TINY, "--data.path", tmp_path, "--run", tmp_path / "run", "--training.max_steps", "3"]
    status, _, err = pretrain("elite-tiny", *flags, "--model.vocab_size", "299", with_data=False)
    assert status == 1
    assert "299" in err
    status, out, _ = pretrain("elite-tiny", *flags, "--model.vocab_size", "300", with_data=False)
    assert status == 0
    assert "bits/byte" not in out


def test_help_shows_an_example_and_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    shown = capsys.readouterr().out
    assert "Example: smidgen pretrain elite-tiny --data.path data" in shown
    for path, field in field_paths(Config):
        if path != "description":
            assert f"--{path}" in shown
            assert field.description is None or field.description.split()[0] in shown
    assert re.search(r"--training\.precision +auto \| bf16 \| fp32", shown)
    assert re.search(r"--training\.gradient_clip .*?\(default\s+1\.0\)", shown, re.DOTALL)


def _arguments(data: Path, run: Path) -> list[str]:
    flags = ["--training.max_steps=200", "--training.checkpoint_every=25", "--training.eval_tokens=1024"]
    return ["pretrain", "elite-tiny", "--data.path", str(data), "--run", str(run), *TINY, *flags]


def _wait_for(run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / f"step-{step:08d}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_signals_and_kills_lose_nothing(data: Path, tmp_path: Path) -> None:
    def start(run: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "smidgen", *_arguments(data, run)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    run = tmp_path / "run"
    process = start(run)
    _wait_for(run, 25)
    with pytest.raises(TrainingError, match=f"process {process.pid} on .* is training"), RunFolder(run).locked():
        pass
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"Go on with: smidgen pretrain {run}" in out
    assert "SIGTERM: finishing the step" in err
    stopped_at = verify_checkpoint(run / "last").step
    assert 25 <= stopped_at < 200

    process = start(run)
    _wait_for(run, (stopped_at // 25 + 1) * 25)
    process.kill()
    process.communicate()
    assert main(_arguments(data, run)) == main(_arguments(data, tmp_path / "whole")) == 0
    name = "last/model/model.safetensors"
    assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_live_display_shows_every_figure(tmp_path: Path) -> None:
    config = load_config("elite-tiny", {"data.path": "data"})
    plan = Plan(config, tmp_path, 1_311_872, "cpu, 2 threads", None, 300, 4096, 828, None, 0, {})
    console = Console(width=120, record=True, force_terminal=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with LiveProgress(console) as progress:
        progress.started(plan)
        progress.stepped(Snapshot(120, 3.41, 1.52, 1.8e-3, 0.83, 491_520, 41_234.0, None))
        progress.evaluating(120)
        progress.evaluated(120, Evaluation(3.52, 1e4, 1.6))
        progress.saved(120, tmp_path)
        progress.live.refresh()
        progress.stopping(signal.SIGINT)
        progress.live.refresh()
    shown = console.export_text()
    for text in (
        "1,311,872 parameters",
        "unknown peak",
        "step 120/300",
        "loss 3.410",
        "bits/byte 1.520",
        "lr 1.80e-03",
        "grad norm 0.83",
        "tok/s 41,234",
        "MFU unknown",
        "val 3.520",
        "left",
        "validation loss 3.5200, perplexity 33.78, 1.6000 bits/byte",
        "Ctrl-C again quits at once",
    ):
        assert text in shown
    console.file.close()


def test_a_pipe_gets_plain_lines() -> None:
    assert type(training_progress()).__name__ == "PlainProgress"


def test_durations() -> None:
    assert [duration(s) for s in (0, 59.6, 3725, 200_000)] == ["0:00", "1:00", "1:02:05", "2.3 days"]
