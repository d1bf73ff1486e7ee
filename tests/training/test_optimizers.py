from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from smidgen.config import AdamW, Lion, Muon, Optimizer, ScheduleFreeAdamW
from smidgen.runtime.errors import TrainingError
from smidgen.training import muon as orthogonal
from smidgen.training.optimizers import (
    average_and_clip,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    set_rates,
)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.linear(self.embedding(ids))))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.arange(5)).square().sum().backward()
    optimizer.step()


def test_matrices_decay_and_vectors_do_not_and_a_tied_weight_is_there_once() -> None:
    model = Tied()
    optimizer = make_optimizer(model, AdamW(weight_decay=0.1))
    set_rates(optimizer, 1e-3, 0.1)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay[id(model.embedding.weight)] == 0.1
    assert decay[id(model.linear.weight)] == 0.1
    assert decay[id(model.linear.bias)] == decay[id(model.norm.weight)] == 0.0
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters())) == 5
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}


def test_the_configured_betas_and_eps_are_used() -> None:
    group = make_optimizer(Tied(), AdamW(betas=(0.8, 0.99), eps=1e-6)).param_groups[0]
    assert (group["betas"], group["eps"]) == ((0.8, 0.99), 1e-6)


@pytest.mark.parametrize("settings", [AdamW(), Lion(), ScheduleFreeAdamW()])
def test_state_round_trips_to_the_bit(settings: Optimizer) -> None:
    torch.manual_seed(0)
    first, second = Tied(), Tied()
    one = make_optimizer(first, settings)
    set_rates(one, 1e-2, 0.1)
    for _ in range(3):
        step(first, one)
    second.load_state_dict(first.state_dict())
    two = make_optimizer(second, settings)
    load_optimizer_tensors(two, second, {name: t.clone() for name, t in optimizer_tensors(one, first).items()})
    set_rates(two, 1e-2, 0.1)
    for _ in range(3):
        step(first, one)
        step(second, two)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_state_of_another_model_is_refused() -> None:
    model = Tied()
    optimizer = make_optimizer(model, AdamW())
    step(model, optimizer)
    tensors = optimizer_tensors(optimizer, model)
    fresh = Tied()
    with pytest.raises(TrainingError, match="no_such"):
        load_optimizer_tensors(make_optimizer(fresh, AdamW()), fresh, {"no_such.exp_avg": torch.zeros(1)})
    wrong = {**tensors, "embedding.weight.exp_avg": torch.zeros(2, 2)}
    with pytest.raises(TrainingError, match=r"embedding\.weight\.exp_avg \[2, 2\]"):
        load_optimizer_tensors(make_optimizer(fresh, AdamW()), fresh, wrong)
    partial = {name: t for name, t in tensors.items() if not name.startswith("norm.bias")}
    with pytest.raises(TrainingError, match=r"norm\.bias: missing"):
        load_optimizer_tensors(make_optimizer(fresh, AdamW()), fresh, partial)


@pytest.mark.parametrize("max_norm", [None, 0.5, 1e6])
def test_average_and_clip_equals_torch_on_the_mean_gradient(max_norm: float | None) -> None:
    torch.manual_seed(1)
    summed = [nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(2))]
    mean = [nn.Parameter(p.detach().clone()) for p in summed]
    for p, q in zip(summed[:2], mean[:2], strict=True):
        p.grad = torch.randn_like(p)
        q.grad = p.grad / 8
    norm = average_and_clip(summed, torch.tensor(8), max_norm)
    expected = torch.nn.utils.clip_grad_norm_(mean, float("inf") if max_norm is None else max_norm)
    torch.testing.assert_close(norm, expected)
    for p, q in zip(summed[:2], mean[:2], strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    assert summed[2].grad is None


def test_a_step_without_any_label_changes_no_gradient_to_nan() -> None:
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.zeros(2)
    average_and_clip([p], torch.tensor(0), 1.0)
    assert torch.equal(p.grad, torch.zeros(2))


def test_muon_takes_the_matrices_of_the_layers_and_adamw_the_rest(randomized_decoder: Any) -> None:
    model = randomized_decoder("elite-tiny", {"model.vocab_size": 65, "model.num_layers": 2})
    optimizer = make_optimizer(model, Muon())
    set_rates(optimizer, 1e-3, 0.1)
    model(torch.zeros(1, 4, dtype=torch.long)).square().mean().backward()
    optimizer.step()
    kept = {name: set(optimizer.state[p]) for name, p in model.named_parameters()}
    assert kept["model.layers.1.mlp.up_proj.weight"] == {"momentum_buffer"}
    assert {"exp_avg", "exp_avg_sq"} <= kept["model.embed_tokens.weight"] & kept["model.norm.weight"]
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert {name for name, p in model.named_parameters() if id(p) not in decayed} == {
        name for name, p in model.named_parameters() if p.dim() == 1
    }


def test_muons_state_survives_saving_and_loading(randomized_decoder: Any) -> None:
    def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        set_rates(optimizer, 1e-3, 0.1)
        for _ in range(steps):
            model(torch.arange(8)[None]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    overrides = {"model.vocab_size": 65, "model.num_layers": 2}
    first, second = (randomized_decoder("elite-tiny", overrides) for _ in range(2))
    one, two = make_optimizer(first, Muon()), make_optimizer(second, Muon())
    train(first, one, 3)
    second.load_state_dict(first.state_dict())
    load_optimizer_tensors(two, second, {name: t.clone() for name, t in optimizer_tensors(one, first).items()})
    train(first, one, 2)
    train(second, two, 2)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


def test_muon_steps_are_orthogonal_and_as_large_as_adamws() -> None:
    """An update is the gradient's nearest orthogonal matrix, scaled to a root mean square of 0.2."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(48, 96))
            self.gain = nn.Parameter(torch.ones(1))

    layer = Layer()
    optimizer = make_optimizer(layer, Muon())
    set_rates(optimizer, 1.0, 0.0)
    gradient = torch.randn(48, 96, generator=torch.Generator().manual_seed(0))
    layer.weight.grad, layer.gain.grad = gradient.clone(), torch.zeros(1)
    optimizer.step()
    update = -layer.weight.detach()
    assert 0.1 < update.square().mean().sqrt() < 0.3
    singular = torch.linalg.svdvals(update)
    assert singular.max() / singular.min() < 2  # five Newton-Schulz steps bring them near each other
    assert (update * gradient).sum() > 0


@pytest.mark.parametrize("shape", [(48, 48), (48, 144), (144, 48), (8, 11)])
def test_muon_in_bfloat16_is_pytorchs_to_the_bit(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smidgen.training.muon.multiplies_bf16_fast", lambda _: True)
    ours, theirs = muon_steps(shape)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(48, 48), (48, 144), (144, 48), (8, 11)])
def test_muon_in_float32_is_pytorchs_to_bfloat16_rounding(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smidgen.training.muon.multiplies_bf16_fast", lambda _: False)
    ours, theirs = muon_steps(shape)
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


def muon_steps(shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight after three steps of our Muon, and of PyTorch's."""
    generator = torch.Generator().manual_seed(3)
    first = torch.randn(shape, generator=generator)
    gradients = [torch.randn(shape, generator=generator) for _ in range(3)]
    one, two = nn.Parameter(first.clone()), nn.Parameter(first.clone())
    ours = orthogonal.Muon([one], momentum=0.9)
    theirs = torch.optim.Muon([two], lr=0.3, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for group in ours.param_groups:
        group.update(lr=0.3, weight_decay=0.1)
    for gradient in gradients:
        one.grad, two.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step()
    return one.detach() - first, two.detach() - first


@pytest.mark.parametrize("shape", [(24, 24), (24, 36), (24, 37), (192, 24), (4, 256), (1, 9)])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_orthogonalising_in_float32_is_the_iteration_in_float64(shape: tuple[int, int], decay: float) -> None:
    """Also for gradients of hardly any rank, of whose small singular values rounding drowns some where squares of them
    are iterated on: entries of about 0.2 are then off by a twentieth of what bfloat16 makes of them."""
    generator = torch.Generator().manual_seed(5)
    rank = min(shape)
    left, _ = torch.linalg.qr(torch.randn(shape[0], rank, generator=generator).double())
    right, _ = torch.linalg.qr(torch.randn(shape[1], rank, generator=generator).double())
    matrix = left * torch.exp(-decay * torch.arange(rank)) @ right.T
    x = matrix / matrix.norm()
    a, b, c = orthogonal.NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    tolerance = 2e-5 if not decay or max(shape) <= 1.5 * rank else 5e-4
    found = orthogonal.orthogonalize(matrix.float(), torch.float32).double()
    torch.testing.assert_close(found, x, atol=tolerance, rtol=0)


def test_a_gradient_of_zero_is_orthogonalised_to_zero() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert not orthogonal.orthogonalize(torch.zeros(3, 9), dtype).any()
