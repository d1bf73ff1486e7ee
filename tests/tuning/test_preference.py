"""DPO's loss against its formula, written with transformers' usual log-softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from smidgen.config import Dpo
from smidgen.model import Decoder
from smidgen.training.objectives import Batch
from smidgen.tuning.preference import DirectPreference


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_gradient_are_those_of_the_paper(randomized_decoder: Callable[..., Any], smoothing: float) -> None:
    overrides = {"model.num_layers": 2, "model.hidden_size": 32, "model.vocab_size": 61, "model.attention.head_dim": 8}
    model: Decoder = randomized_decoder("elite-tiny", overrides)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 61, (6, 13), generator=generator)
    labels = ids[:, 1:].clone()
    labels[:, :5] = -100
    labels[4, 8:] = -100
    reference = torch.randn(6, generator=generator) - 20
    batch = Batch(ids[:, :-1], labels, reference=reference)
    beta = 0.3
    total, weight, figures = DirectPreference(Dpo(beta=beta, label_smoothing=smoothing)).loss(model, batch)
    total.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    log_probabilities = model(ids[:, :-1]).log_softmax(-1)
    chosen = log_probabilities.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    summed = (chosen * (labels != -100)).sum(-1)
    ratio = summed - reference
    logits = beta * (ratio[0::2] - ratio[1::2])
    sigmoid = torch.sigmoid(logits)
    expected = (-(1 - smoothing) * sigmoid.log() - smoothing * (1 - sigmoid).log()).sum()
    expected.backward()

    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)
    assert weight == 3
    assert figures["accuracy"] == (logits > 0).sum()
    torch.testing.assert_close(figures["margin"], logits.detach().sum(), rtol=1e-4, atol=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-4)


def test_rows_without_labels_count_for_nothing(randomized_decoder: Callable[..., Any]) -> None:
    model = randomized_decoder("elite-tiny", {"model.num_layers": 1, "model.vocab_size": 61})
    ids = torch.ones(2, 5, dtype=torch.int64)
    batch = Batch(ids, torch.full_like(ids, -100), reference=torch.tensor([-3.0, -1.0]))
    total, weight, figures = DirectPreference(Dpo()).loss(model, batch)
    assert total == 0
    assert weight == 0
    assert all(value == 0 for value in figures.values())
