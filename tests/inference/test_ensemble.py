"""Ensembles against the mean of whole distributions, and the one-member ensemble against the model itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import smidgen
from smidgen.cli.main import main
from smidgen.inference.ensemble import EnsembleEngine
from smidgen.model import Decoder
from smidgen.runtime.errors import ContextLengthError, ModelFolderError
from smidgen.runtime.protocols import Event
from smidgen.runtime.sampling import SamplingParams

PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11]]


def answers(engine: EnsembleEngine, params: SamplingParams) -> dict[int, list[Event]]:
    numbers = [engine.submit(prompt, params) for prompt in PROMPTS]
    found: dict[int, list[Event]] = {number: [] for number in numbers}
    while any(not events or events[-1].finish_reason is None for events in found.values()):
        for event in engine.step():
            found[event.request].append(event)
    return found


@pytest.fixture
def members(randomized_decoder: Callable[..., Any]) -> list[Decoder]:
    fields = {"model.vocab_size": 60, "model.num_layers": 2, "model.max_seq_len": 40}
    return [randomized_decoder("elite-tiny", fields, 0), randomized_decoder("tilda-tiny", fields, 1)]


def test_tokens_are_those_of_the_mean(members: list[Decoder]) -> None:
    # Two rows for three prompts: the third waits for a slot.
    found = answers(EnsembleEngine(members, max_batch_size=2), SamplingParams(6, temperature=0, logprobs=0))
    for prompt, events in zip(PROMPTS, found.values(), strict=True):
        context = list(prompt)
        for event in events:
            with torch.no_grad():
                mean = torch.stack([model(torch.tensor([context]))[0, -1].softmax(-1) for model in members]).mean(0)
            assert event.token == int(mean.argmax())
            assert event.logprob == pytest.approx(float(mean.max().log()), abs=1e-4)
            assert event.token is not None
            context.append(event.token)
        assert events[-1].finish_reason == "length"


def test_limits(members: list[Decoder], randomized_decoder: Callable[..., Any]) -> None:
    engine = EnsembleEngine(members)
    with pytest.raises(ContextLengthError, match="exceed the ensemble's context of 40 tokens"):
        engine.submit([1] * 35, SamplingParams(6))
    with pytest.raises(ModelFolderError, match="vocab_size 61 beside 60"):
        EnsembleEngine([members[0], randomized_decoder("elite-tiny", {"model.vocab_size": 61})])
    number = engine.submit([1], SamplingParams(30))
    engine.step()
    engine.cancel(number)
    assert [event.finish_reason for event in engine.step()] == ["cancelled"]


def test_the_command(
    randomized_decoder: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from smidgen.tokenization import train_tokenizer

    tokenizer = train_tokenizer("byte_bpe", ["Once upon a time there was a dog."] * 9, 270)
    fields = {"model.vocab_size": tokenizer.vocab_size, "model.num_layers": 1}
    one, two = (
        str(smidgen.save(randomized_decoder("elite-tiny", fields, seed), tmp_path / str(seed), tokenizer))
        for seed in (0, 1)
    )
    flags = ["--temperature", "0", "--max-new-tokens", "5", "--json", "--device", "cpu"]

    def tokens(*arguments: str) -> list[int]:
        assert main(["generate", *arguments, *flags]) == 0
        return json.loads(capsys.readouterr().out)["results"][0]["tokens"]  # type: ignore[no-any-return]

    alone = tokens(one, "Once")
    assert tokens(one, "Once", "--ensemble", one) == alone
    assert len(tokens(one, "Once", "--ensemble", two)) == 5
    for flag in (["--speculate", "4"], ["--cache", "int8"]):
        assert main(["generate", one, "Once", "--ensemble", two, *flag]) == 1
        assert f"{' '.join(flag)}: an ensemble takes none" in capsys.readouterr().err
    smidgen.save(smidgen.load(two), two, train_tokenizer("byte_bpe", ["another text"] * 9, 260))
    assert main(["generate", one, "Once", "--ensemble", two]) == 1
    assert "has another tokenizer" in capsys.readouterr().err
