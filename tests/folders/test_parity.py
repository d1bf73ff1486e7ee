"""Every architecture against transformers: logits, gradients, and the course of a training."""

from __future__ import annotations

from pathlib import Path

import parity
import pytest
import torch
import torch.nn.functional as F
from parity import CASES, FULL_SIZE, Case

from smidgen.folders.architectures import ARCHITECTURES, architecture_of
from smidgen.model import cross_entropy

BACKWARD = [case for case in CASES if case.backward]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logits_equal_transformers(case: Case, tmp_path: Path) -> None:
    assert parity.forward_difference(case, tmp_path / "model").relative <= case.bar


@pytest.mark.slow
@pytest.mark.parametrize("case", FULL_SIZE, ids=lambda case: case.name)
def test_logits_of_whole_presets_equal_transformers(case: Case, tmp_path: Path) -> None:
    assert parity.forward_difference(case, tmp_path / "model").relative <= case.bar


def test_the_cases_reach_every_class() -> None:
    reached = {architecture_of(case.config).class_name for case in CASES}
    assert reached == {architecture.class_name for architecture in ARCHITECTURES}


@pytest.mark.parametrize("case", [c for c in BACKWARD if c.dtype == torch.float32], ids=lambda case: case.name)
def test_gradients_equal_transformers_in_float32(case: Case, tmp_path: Path) -> None:
    difference = parity.backward_difference(case, tmp_path / "model", torch.float32)
    assert difference.relative <= 1e-4, difference.where


@pytest.mark.parametrize("case", BACKWARD, ids=lambda case: case.name)
def test_gradients_equal_transformers_in_float64(case: Case, tmp_path: Path) -> None:
    # transformers' Gemma computes norms and keeps √width in float32 whatever the model's type.
    bar = 1e-5 if case.config.scale_embeddings else 1e-9
    difference = parity.backward_difference(case, tmp_path / "model", torch.float64)
    assert difference.relative <= bar, difference.where


def test_fifty_steps_follow_transformers(tmp_path: Path) -> None:
    case = Case("elite-112m", "proportions", parity.proportions("elite-112m", 8, num_layers=2))
    ours = parity.randomized(case.config)
    theirs = parity.oracle(ours, tmp_path / "model")
    generator = torch.Generator().manual_seed(2)
    # A text of few words: there is something to learn, so the curve falls.
    words = torch.randint(0, case.config.vocab_size, (8, 12), generator=generator)
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1) for model in (ours, theirs)
    ]
    curves: tuple[list[float], list[float]] = ([], [])
    for _ in range(50):
        ids = words[torch.randint(0, 8, (4, 4), generator=generator)].flatten(1)
        inputs, labels = ids[:, :-1], ids[:, 1:].flatten()
        total, count = cross_entropy(ours.hidden(inputs).flatten(0, 1), ours.head_weight, labels)
        losses = (total / count, F.cross_entropy(theirs(inputs).logits.flatten(0, 1), labels))
        for loss, optimizer, curve in zip(losses, optimizers, curves, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
    assert curves[1][-1] < 0.5 * curves[1][0]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)
