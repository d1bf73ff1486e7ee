from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from smidgen.runtime.errors import TrainingError
from smidgen.training.averaging import Averaging, restore_averaging


def moved(model: nn.Linear, averaging: Averaging, count: int, seed: int = 0) -> list[Tensor]:
    """Move the weights at random, `count` times; returns what they were after each move."""
    generator = torch.Generator().manual_seed(seed)
    weights = []
    for _ in range(count):
        with torch.no_grad():
            model.weight.add_(torch.randn(model.weight.shape, generator=generator))
        averaging.update()
        weights.append(model.weight.detach().clone())
    return weights


def test_the_average_is_the_exponentially_weighted_mean_of_trained_weights_only() -> None:
    model = nn.Linear(3, 2)
    averaging = Averaging(model, 0.7)
    weights = torch.stack(moved(model, averaging, 6)).double()
    powers = 0.7 ** torch.arange(5, -1, -1, dtype=torch.float64)
    expected = (weights * powers[:, None, None]).sum(0) / powers.sum()
    with averaging.swapped():
        torch.testing.assert_close(model.weight.detach().double(), expected, rtol=0, atol=1e-6)


def test_swapping_restores_weights_and_average_to_the_bit_even_after_an_error() -> None:
    model = nn.Linear(3, 2)
    averaging = Averaging(model, 0.9)
    moved(model, averaging, 3)
    before = model.weight.detach().clone()
    seen = []

    def save() -> None:
        with averaging.swapped():
            seen.append(model.weight.detach().clone())
            raise OSError("disk full")

    for _ in range(2):
        with pytest.raises(OSError, match="disk"):
            save()
        assert torch.equal(model.weight, before)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], before)


def test_before_any_update_the_average_is_the_model() -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    with Averaging(model, 0.9).swapped():
        assert torch.equal(model.weight, before)


def test_a_checkpoint_of_the_average_goes_on_to_the_bit() -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    one = Averaging(first, 0.9)
    moved(first, one, 4)
    with one.swapped():
        saved = {name: tensor.clone() for name, tensor in first.state_dict().items()}
        tensors = {name: tensor.clone() for name, tensor in one.tensors().items()}
    second.load_state_dict(saved)
    two = Averaging(second, 0.9)
    restore_averaging(second, two, tensors)
    assert torch.equal(first.weight, second.weight)
    moved(first, one, 3, seed=1)
    moved(second, two, 3, seed=1)
    with one.swapped(), two.swapped():
        assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.weight, second.weight)


def test_a_run_that_no_longer_averages_gets_its_training_weights_back() -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    averaging = Averaging(first, 0.9)
    moved(first, averaging, 4)
    with averaging.swapped():
        tensors = averaging.tensors()
        restore_averaging(second, None, {name: tensor.clone() for name, tensor in tensors.items()})
    assert torch.equal(first.weight, second.weight)


def test_frozen_weights_are_not_averaged_and_tied_ones_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    model[2].requires_grad_(False)
    averaging = Averaging(model, 0.9)
    with averaging.swapped():
        assert set(averaging.tensors()) == {"0.weight", "updates"}


def test_the_average_of_another_model_is_refused() -> None:
    averaging = Averaging(nn.Linear(3, 2), 0.9)
    for tensors in ({}, {"weight": torch.zeros(2, 3)}, {"weight": torch.zeros(9, 9), "bias": torch.zeros(2)}):
        with pytest.raises(TrainingError, match="another model"):
            averaging.load({**tensors, "updates": torch.tensor(3)})
