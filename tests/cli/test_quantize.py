"""`smidgen quantize`: a folder that the other commands take, a report, and refusals in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import smidgen
from smidgen.cli.main import main
from smidgen.tokenization import train_tokenizer

TEXT = "Once upon a time there was a small fox. It liked to run, and it ran to the river every day. " * 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer("byte_bpe", [TEXT], 300)
    decoder = smidgen.build("elite-tiny", {"model.num_layers": 2, "model.vocab_size": tokenizer.vocab_size})
    smidgen.save(decoder, folder / "model", tokenizer)
    (folder / "story.txt").write_text(TEXT)
    (folder / "model" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return folder / "model"


def quantize(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    assert main(["quantize", *map(str, arguments), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert isinstance(figures, dict)
    return figures


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
def test_a_report_of_size_loss_and_speed(
    method: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = model.parent / "story.txt"
    calibration = [] if method == "rtn" else ["--calibration", story]
    out = tmp_path / "int4"
    options = ["--scheme", "int4", "--method", method, "--out", out, "--text", story, *calibration]
    figures = quantize(capsys, model, *options, "--embedding", "int8")
    loaded = smidgen.load(out)
    assert loaded.config.quantization is not None
    assert (loaded.config.quantization.head, figures["head"]) == ("int8", "int8")  # tied: one matrix
    assert figures["projection_bits"] == pytest.approx(4.5, abs=0.03)
    assert abs(figures["perplexity_change"]) < 0.05
    assert 0.5 < figures["greedy_agreement"] <= 1
    assert figures["tokens_per_second"] > 0
    # The header of a safetensors file is all that comes on top.
    assert 0 < (out / "model.safetensors").stat().st_size - figures["bytes"] < 20_000
    assert (out / "chat_template.jinja").read_text() == "{{ messages[0].content }}"
    assert main(["generate", str(out), "Once", "--max-new-tokens", "3"]) == 0


def test_overrides_are_stored_and_reported(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--scheme", "int4", "--override", "down_proj=int8", "--override", "layers.0.*=bf16"]
    figures = quantize(capsys, model, *options, "--out", tmp_path / "mixed")
    assert figures["overrides"] == {"down_proj": "int8", "layers.0.*": "bf16"}
    assert sum(part["bytes"] for part in figures["parts"]) == figures["bytes"]
    loaded = smidgen.load(tmp_path / "mixed")
    assert loaded.config.quantization is not None
    assert loaded.config.quantization.storage("model.layers.0.mlp.down_proj").scheme == "int8"
    assert loaded.config.quantization.storage("model.layers.0.mlp.up_proj").scheme == "bf16"
    assert main(["quantize", str(model), *options, "--out", str(tmp_path / "again")]) == 0
    shown = capsys.readouterr().out
    assert "projections  int4/32" in shown
    assert "int4, down_proj=int8, layers.0.*=bf16" in shown


def test_sensitivities_name_overrides(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--scheme", "int4", "--sensitivity", "--text", str(model.parent / "story.txt")]
    assert main(["quantize", str(model), *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    kinds = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {one["pattern"] for one in found} == {*kinds, "layers.0.*", "layers.1.*"}
    changes = [one["perplexity_change"] for one in found]
    assert changes == sorted(changes, reverse=True)
    assert main(["quantize", str(model), *options, "--tokens", "64"]) == 0
    assert "--override '" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], "either --out DIR"),
        (["--out", "x", "--sensitivity"], "either --out DIR"),
        (["--sensitivity"], "--data or --text"),
        (["--sensitivity", "--text", "x", "--override", "q_proj=int8"], "--override has no place"),
    ],
)
def test_wrong_usage(options: list[str], named: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["quantize", str(model), "--scheme", "int4", *options])
    assert error.value.code == 2
    assert named in capsys.readouterr().err


def test_a_table_for_people(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(model), "--scheme", "int8", "--out", str(tmp_path / "int8")]) == 0
    shown = capsys.readouterr().out
    assert "bits a weight of projections" in shown
    assert " 32.00 " in shown
    assert "--text FILE measures" in shown


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--scheme", "ternary"], ["ternary", "dense"]),
        (["--scheme", "int4", "--method", "gptq"], ["gptq", "--calibration"]),
        (["--scheme", "int8", "--head", "int8", "--embedding", "int4"], ["head", "tied"]),
        (["--scheme", "int8", "--calibration", "x"], ["--calibration", "nearest"]),
        (["--scheme", "int4", "--override", "down=int8"], ["down = int8", "matches no projection", "mlp.down_proj"]),
        (["--scheme", "int4", "--override", "down_proj=int3"], ["down_proj = int3", "'int4/64'"]),
        (["--scheme", "int4", "--override", "down_proj"], ["--override down_proj", "PATTERN=SCHEME"]),
        (
            ["--scheme", "int4", "--override", "q_proj=int8", "--override", "q_proj=bf16"],
            ["q_proj=bf16", "q_proj=int8"],
        ),
        (["--scheme", "fp8_block", "--method", "awq", "--calibration", "STORY"], ["awq", "fp8_block"]),
        (["--scheme", "int8", "--data", "nowhere"], ["nowhere"]),
        (["--scheme", "int8", "--text", "nowhere"], ["nowhere"]),
    ],
)
def test_refusals_in_one_line(
    options: list[str], named: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [str(model.parent / "story.txt") if option == "STORY" else option for option in options]
    assert main(["quantize", str(model), *options, "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(part in message for part in named), message
    assert not (tmp_path / "out").exists()


def test_a_quantised_model_is_not_quantised_again(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quantize(capsys, model, "--scheme", "int8", "--out", tmp_path / "int8")
    assert main(["quantize", str(tmp_path / "int8"), "--scheme", "int4", "--out", str(tmp_path / "int4")]) == 1
    assert "quantised already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--scheme", "int8", "--asymmetric"], "--asymmetric is of int4"),
        (["--scheme", "fp8_tensor", "--group-size", "64"], "--group-size is of int4"),
        (["--scheme", "int8", "--calibration-tokens", "64"], "--calibration-tokens needs --calibration"),
        (["--scheme", "int8", "--tokens", "64"], "--tokens needs --data or --text"),
    ],
)
def test_flags_without_effect_are_wrong_usage(
    options: list[str], named: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["quantize", str(model), *options, "--out", str(tmp_path / "out")])
    assert exit.value.code == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_groups_of_an_int4_head_are_chosen_too(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--scheme", "int8", "--head", "int4", "--group-size", "64", "--asymmetric"]
    figures = quantize(capsys, model, *options, "--out", tmp_path / "out")
    assert (figures["group_size"], figures["symmetric"]) == (64, False)


def test_a_text_is_measured_as_far_as_was_asked_for(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "long.txt").write_text(TEXT + "!" * 5000)
    options = ["--scheme", "int8", "--out", tmp_path / "out", "--tokens", "100"]
    long = quantize(capsys, model, *options, "--text", tmp_path / "long.txt")
    count = len(smidgen.load_tokenizer(model).encode(TEXT + "!" * 5000))
    (tmp_path / "short.txt").write_text(TEXT[: (len(TEXT) + 5000) * 100 // count])
    short = quantize(capsys, model, *options, "--text", tmp_path / "short.txt")
    for name in ("perplexity", "bits_per_byte"):
        assert long[name] == short[name], name
