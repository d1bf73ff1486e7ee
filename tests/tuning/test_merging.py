"""Merging: the formulas against PEFT's, and against their limits; then whole models through the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import smidgen
from smidgen.cli.main import main
from smidgen.config import Lora
from smidgen.folders.adapter import name_base
from smidgen.model.lora import adapter_tensors, add_lora
from smidgen.tuning.merging import METHODS, Merging, drop, merge_tensors, slerp, trim

WEIGHTS = (0.7, 0.4, 0.9)


def tensors(count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(7, 11, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear", "dare_ties"])
def test_formulas_are_those_of_peft(method: str) -> None:
    theirs = pytest.importorskip("peft.utils.merge_utils")
    base, *models = tensors()
    tasks = [model - base for model in models]
    settings = Merging(method=method, weights=WEIGHTS, density=0.4, scale=0.8)  # type: ignore[arg-type]
    ours = merge_tensors(settings, base, models, torch.Generator().manual_seed(5))
    arguments = [tasks, torch.tensor(WEIGHTS)] + ([] if method == "task_arithmetic" else [0.4])
    # Theirs draws from the global generator, a task vector at a time as ours does.
    torch.manual_seed(5)
    expected = base + 0.8 * getattr(theirs, method)(*arguments)
    torch.testing.assert_close(ours, expected)


def test_trim_keeps_the_largest() -> None:
    theirs = pytest.importorskip("peft.utils.merge_utils")
    task = tensors()[0]
    assert torch.equal(trim(task, 0.3), theirs.magnitude_based_pruning(task, 0.3))
    assert (trim(torch.ones(3), 0.01) != 0).sum() == 1


def test_drop_keeps_the_mean() -> None:
    task = torch.ones(200, 200)
    dropped = drop(task, 0.25, torch.Generator().manual_seed(0))
    assert set(dropped.unique().tolist()) == {0.0, 4.0}
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)


def test_slerp_walks_along_the_arc() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    angle = torch.tensor(torch.pi / 6)
    torch.testing.assert_close(slerp(a, b, 1 / 3), torch.stack([angle.cos(), angle.sin()]))
    torch.testing.assert_close(slerp(a, 2 * a, 0.25), 1.25 * a)
    first, second, *_ = tensors()
    torch.testing.assert_close(slerp(first, second, 0.0), first)
    torch.testing.assert_close(slerp(first, second, 1.0), second)
    torch.testing.assert_close(slerp(torch.zeros(2), b, 0.5), b / 2)


@pytest.fixture
def models(randomized_decoder: Callable[..., Any], tmp_path: Path) -> list[str]:
    """A base and two others."""
    from smidgen.tokenization import train_tokenizer

    tokenizer = train_tokenizer("byte_bpe", ["Once upon a time there was a dog."] * 20, 280)
    fields = {"model.vocab_size": tokenizer.vocab_size, "model.num_layers": 3}
    return [
        str(smidgen.save(randomized_decoder("elite-tiny", fields, seed), tmp_path / f"model-{seed}", tokenizer))
        for seed in range(3)
    ]


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return dict(smidgen.load(folder).named_parameters())


@pytest.mark.parametrize("method", [method for method in METHODS if method != "passthrough"])
def test_every_method_makes_a_model(
    method: str, models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, *others = models
    flags = [] if method in ("linear", "slerp") else ["--base", base]
    assert main(["merge", *others, "--method", method, *flags, "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == method
    merged, of_base, first, second = (weights(f) for f in (tmp_path / "out", base, *others))
    for name, weight in merged.items():
        if method == "linear":
            torch.testing.assert_close(weight, (first[name] + second[name]) / 2)
        if method == "task_arithmetic":
            torch.testing.assert_close(weight, first[name] + second[name] - of_base[name])
    assert smidgen.load_tokenizer(tmp_path / "out").fingerprint == smidgen.load_tokenizer(base).fingerprint


def test_passthrough_stacks_layers(models: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    slices = [f"{models[0]}:0-2", f"{models[1]}:1-3"]
    assert main(["merge", "--method", "passthrough", "--slices", *slices, "--out", str(out)]) == 0
    stacked, first, second = weights(out), weights(models[0]), weights(models[1])
    assert smidgen.load(out).config.num_layers == 4
    name = "self_attn.q_proj.weight"
    assert torch.equal(stacked[f"model.layers.1.{name}"], first[f"model.layers.1.{name}"])
    assert torch.equal(stacked[f"model.layers.3.{name}"], second[f"model.layers.2.{name}"])
    assert torch.equal(stacked["model.norm.weight"], first["model.norm.weight"])


def test_an_adapter_is_merged_and_taken_out_again(models: list[str], tmp_path: Path) -> None:
    adapted = name_base(add_lora(smidgen.load(models[0]), Lora(rank=2)), Path(models[0]))
    with torch.no_grad():
        for weight in adapter_tensors(adapted).values():
            weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    smidgen.save(adapted, tmp_path / "adapter")
    adapter, tuned, back = (str(tmp_path / name) for name in ("adapter", "tuned", "back"))
    assert main(["merge", "--lora", adapter, "--out", tuned]) == 0
    ids = torch.arange(20)[None]
    torch.testing.assert_close(smidgen.load(tuned)(ids), adapted(ids), atol=1e-5, rtol=1e-5)
    assert main(["merge", "--lora", adapter, "--unmerge", tuned, "--out", back]) == 0
    for name, weight in weights(back).items():
        torch.testing.assert_close(weight, weights(models[0])[name], atol=1e-6, rtol=1e-6)


def test_an_adapter_on_integers_becomes_floats(models: list[str], tmp_path: Path) -> None:
    from smidgen.config import Quantization
    from smidgen.quantization import quantize

    base = tmp_path / "int8"
    smidgen.save(quantize(smidgen.load(models[0]), Quantization(scheme="int8", embedding="int8", head="int8")), base)
    adapted = name_base(add_lora(smidgen.load(base), Lora(rank=2)), base)
    with torch.no_grad():
        for weight in adapter_tensors(adapted).values():
            weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    smidgen.save(adapted, tmp_path / "adapter")
    assert main(["merge", "--lora", str(tmp_path / "adapter"), "--out", str(tmp_path / "tuned")]) == 0
    tuned, ids = smidgen.load(tmp_path / "tuned"), torch.arange(20)[None]
    assert tuned.config.quantization is None
    torch.testing.assert_close(tuned(ids), adapted(ids), atol=1e-4, rtol=1e-4)


def test_mistakes_are_one_line(
    models: list[str], randomized_decoder: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = str(smidgen.save(randomized_decoder("elite-tiny", {"model.num_layers": 1}), tmp_path / "other"))
    out = ["--out", str(tmp_path / "out")]
    cases = {
        "--base MODEL": [*models, "--method", "ties"],
        "has no use for it": [*models, "--base", models[0]],
        "name two": [*models, "--method", "slerp"],
        "2 numbers for 3 models": [*models, "--weights", "1", "2"],
        "use a share above 0": [*models, "--method", "ties", "--base", models[0], "--density", "0"],
        "--t: belongs to --method slerp": [*models, "--t", "0.3"],
        "merge models of one architecture": [models[0], wide],
        "write MODEL:FIRST-LAST": ["--method", "passthrough", "--slices", "x"],
        "holds no adapter": ["--lora", models[0]],
        "goes with --lora": [*models, "--round"],
    }
    for message, arguments in cases.items():
        assert main(["merge", *arguments, *out]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
