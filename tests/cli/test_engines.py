"""One door to every engine, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import smidgen
from smidgen.cli.engines import open_engine
from smidgen.cli.main import main
from smidgen.inference import TorchEngine
from smidgen.runtime import ModelFolderError, SamplingParams, SmidgenError
from smidgen.runtime.generation import generate_texts
from smidgen.tokenization import train_tokenizer


@pytest.fixture(scope="module")
def folder(randomized_decoder: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer("byte_bpe", ["Once upon a time there was a dog."] * 20, 270)
    overrides = {"model.vocab_size": tokenizer.vocab_size, "model.num_layers": 1, "model.max_seq_len": 64}
    path = tmp_path_factory.mktemp("engines") / "model"
    smidgen.save(randomized_decoder("elite-tiny", overrides), path, tokenizer=tokenizer)
    return path


def test_the_torch_engine(folder: Path) -> None:
    engine, tokenizer = open_engine(str(folder), max_batch_size=3, max_seq_len=32)
    assert (engine.info.engine, engine.info.max_batch_size, engine.info.max_seq_len) == ("torch", 3, 32)
    assert engine.info.eos_ids == (tokenizer.eos_id,)
    params = SamplingParams(max_new_tokens=5, temperature=0)
    [answer] = generate_texts(engine, tokenizer, ["Once"], params)
    model = smidgen.load(folder)
    assert answer.text == smidgen.generate(model, tokenizer, "Once", max_new_tokens=5, temperature=0)


def test_the_edge_engine_gets_the_folder_of_a_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "model").symlink_to(folder)
    calls: list[tuple[str, dict[str, Any]]] = []
    engine = SimpleNamespace(info=None)
    fake = ModuleType("smidgen.edge")
    fake.load = lambda path, **options: calls.append((path, options)) or engine  # type: ignore[attr-defined]
    fake.__spec__ = SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "smidgen.edge", fake)
    opened, tokenizer = open_engine(str(tmp_path), "edge", threads=2, cache="int8")
    assert opened is engine
    assert tokenizer.vocab_size == 270
    assert calls == [(str(tmp_path / "best" / "model"), {"threads": 2, "max_batch_size": 8, "cache": "int8"})]
    with pytest.raises(ModelFolderError, match="no such folder"):
        open_engine(str(tmp_path / "nothing"), "edge")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFolderError, match="no model folder"):
        open_engine(str(tmp_path / "empty"), "edge")
    (tmp_path / "empty" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelFolderError, match=r"an adapter, .*: smidgen merge --lora \S+empty --out DIR"):
        open_engine(str(tmp_path / "empty"), "edge")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "edge", "device": "cuda"}, "device = cuda: the edge engine runs on the processor"),
        ({"engine": "edge", "precision": "bf16"}, "precision = bf16: the edge engine computes as the folder is stored"),
        ({"engine": "edge", "speculate": 4}, "speculate = 4: the edge engine makes no drafts"),
        ({"cache": "int8"}, "cache = int8: the torch engine keeps the type it computes in"),
        ({"threads": 0}, "threads = 0"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SmidgenError, match=message):
        open_engine(str(folder), **options)


def test_precision_follows_the_processor(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def opened(precision: Any, is_fast: bool) -> torch.dtype:
        monkeypatch.setattr("smidgen.kernels.bf16.multiplies_bf16_fast", lambda _: is_fast)
        engine, _ = open_engine(str(folder), precision=precision, device="cpu")
        assert isinstance(engine, TorchEngine)
        return engine._model.head_weight.dtype

    assert opened("auto", is_fast=True) == opened("bf16", is_fast=True) == torch.bfloat16
    assert opened("auto", is_fast=False) == opened("fp32", is_fast=True) == torch.float32
    assert not caplog.records
    assert opened("bf16", is_fast=False) == torch.bfloat16
    assert "no instructions for bf16" in caplog.text


def test_drafts_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", str(folder), "Once upon a time", "--temperature", "0", "--max-new-tokens", "30"]
    main(command)
    expected = capsys.readouterr().out
    main([*command, "--speculate", "4"])
    assert capsys.readouterr().out == expected


def test_sliding_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Past the context of 64 tokens."""
    command = ["generate", str(folder), "Once", "--max-new-tokens", "100", "--ignore-eos", "--json"]
    assert main(command) == 1
    capsys.readouterr()
    assert main([*command, "--overflow", "slide"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"][0]["tokens"]) == 100


def test_bias_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", str(folder), "Once", "--temperature", "0", "--max-new-tokens", "2", "--ignore-eos"]
    token = smidgen.load_tokenizer(folder).encode("a")[0]
    assert main([*command, "--logit-bias", f"{token}:100"]) == 0
    assert capsys.readouterr().out == "Onceaa\n"
    assert main([*command, "--logit-bias", "a:1"]) == 1
    assert "logit_bias = a:1: write a token id and a number" in capsys.readouterr().err
