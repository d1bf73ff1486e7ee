from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from smidgen.config import Config
from smidgen.model import Decoder
from smidgen.training.evaluate import Evaluation, bits_per_byte, evaluate
from smidgen.training.objectives import LanguageModeling, to_device
from smidgen.training.task import Task

CPU = torch.device("cpu")
MakeConfig = Callable[..., Config]
MakeTask = Callable[..., Task]


@pytest.fixture
def model(make_config: MakeConfig) -> Decoder:
    model = Decoder(make_config().model).initialize(0)
    model.set_dropout(0.5)
    return model.train()


def test_the_loss_is_the_mean_over_all_labels(model: Decoder, make_config: MakeConfig, make_task: MakeTask) -> None:
    data = make_task(make_config()).data.validation
    evaluation = evaluate(model, LanguageModeling(), data, 4, CPU, bytes_per_token=3.0)
    batch = data.batch(0, data.per_epoch)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(batch.input_ids))
    labels = torch.from_numpy(batch.labels)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100).item()
    assert evaluation.loss == pytest.approx(expected, rel=1e-6)
    assert evaluation.weight == (labels != -100).sum()
    assert evaluation.perplexity == pytest.approx(math.exp(expected), rel=1e-5)
    assert evaluation.bits_per_byte == pytest.approx(expected / math.log(2) / 3)


def test_it_neither_depends_on_batches_nor_disturbs_the_training(
    model: Decoder, make_config: MakeConfig, make_task: MakeTask
) -> None:
    data = make_task(make_config()).data.validation
    state = torch.get_rng_state()
    losses = [evaluate(model, LanguageModeling(), data, size, CPU).loss for size in (1, 4, 6, 100)]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_a_cancelled_evaluation_has_no_result(model: Decoder, make_config: MakeConfig, make_task: MakeTask) -> None:
    answers = iter([False, True, True])
    data = make_task(make_config()).data.validation
    assert evaluate(model, LanguageModeling(), data, 2, CPU, cancelled=lambda: next(answers)) is None
    assert model.training


def test_bits_per_byte() -> None:
    assert bits_per_byte(math.log(2), 4.0) == pytest.approx(0.25)
    assert bits_per_byte(1.0, None) is None
    assert bits_per_byte(None, 4.0) is None
    assert Evaluation(1000.0, 1.0, None).perplexity == math.inf


def test_language_modelling_reads_positions_and_documents(
    model: Decoder, make_config: MakeConfig, make_task: MakeTask
) -> None:
    batch = to_device(make_task(make_config()).data.train.batch(0, 2), CPU)
    model.eval()
    with torch.no_grad():
        plain, weight, figures = LanguageModeling().loss(model, batch)
        half = torch.arange(24).expand(2, -1) // 12
        split = type(batch)(batch.input_ids, batch.labels, half, torch.arange(24).expand(2, -1) % 12)
        documents, _, _ = LanguageModeling().loss(model, split)
        logits = model(batch.input_ids)
    expected = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=-100, reduction="sum")
    torch.testing.assert_close(plain, expected)
    assert weight == (batch.labels != -100).sum()
    assert figures == {}
    assert plain != documents
